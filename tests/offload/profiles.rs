//! The profiles in `examples/devices`, emulated: a process with a part of a processor, a bucket for its medium, and a link.

use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::bed::{Bed, Emulated, Rows};
use crate::support::raw::Peer;
use crate::support::{full, test_where};
use crate::testbed::{ask, target, world};
use crate::world::DEVICE;

pub fn tests() -> Vec<Trial> {
    vec![test_where("profiles::each_gives_the_same_bytes_at_its_own_speed", each)]
}

/// By so many times all bandwidths are below those of the profile, as this machine cannot move so much: that of the host, 10 Gbit/s
/// in the example, becomes 50 Mbit/s. Processors are not scaled: one of this machine is the reference host's.
const SCALE: f64 = 200.0;

const HOST_BYTES_PER_SECOND: f64 = 1.25e9;

fn each() -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/devices");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4);
    let (target, count) = (target(10), if full() { 20 } else { 4 });
    let mut sums = Vec::new();
    println!(
        "profile | MB/s of the medium | part of a processor | of which it took | runs at once | ms on the host | on the device | read by it"
    );
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let spec = &documents.iter().find(|document| document["kind"] == "Device").expect("a Device")["spec"];
        let number =
            |name: &str| spec[name].as_f64().unwrap_or_else(|| panic!("{name} in {}", file.display()));
        let emulated = Emulated {
            class: spec["class"].as_str().unwrap(),
            media_bytes_per_second: Some((number("dataBytesPerSecond") / SCALE) as u64),
            runs: number("slots") as u32,
        };
        let mut bed = Bed::emulating(&Rows(12_000), &emulated)?;
        let part = (1.0 / number("computeFactor")).min(1.0);
        bed.slow_down(part)?;
        let megabits = |bytes_per_second: f64| (bytes_per_second / SCALE * 8.0 / 1e6).round() as u32;
        let on_host = {
            // To the host the data comes over its own link.
            bed.shape(megabits(HOST_BYTES_PER_SECOND));
            let mut client = Peer::connect(bed.host);
            let answer = ask(&mut client, &target);
            let took = mean(count, || assert_eq!(ask(&mut client, &target), answer));
            (answer, took)
        };
        bed.shape(megabits(number("linkBytesPerSecond")));
        let world = world(
            &bed,
            "datasets: [{name: orders, version: '7'}]",
            "slo: {latency: 60s}, objective: bytes, explorePercent: 0",
        );
        let mut client = Peer::connect(world.at);
        let before = bed.counted("lighter_device_read_bytes_total", &[]);
        let answer = ask(&mut client, &target);
        let (cpu, began) = (bed.device_cpu(), Instant::now());
        let took = mean(count, || assert_eq!(ask(&mut client, &target), answer));
        let busy = (bed.device_cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        assert_eq!(answer, on_host.0, "host and {} say the same", emulated.class);
        let told = || crate::support::metrics::get(world.sidecar.admin, "/decisions?last=60").1;
        assert_eq!(world.rest().ended(DEVICE, "answered"), f64::from(count + 1), "all ran there: {}", told());
        let read = bed.counted("lighter_device_read_bytes_total", &[]) - before;
        assert_eq!(read, bed.bytes() as f64 * f64::from(count + 1), "each run read all of the data");
        let media = emulated.media_bytes_per_second.unwrap_or_default() as f64 / 1e6;
        println!(
            "{} | {media:.0} | {part:.2} | {busy:.2} | {} | {:.0} | {:.0} | {read}",
            emulated.class,
            emulated.runs,
            on_host.1.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e3
        );
        // Each of them is held to what it is said to have.
        let fastest = (bed.bytes() as f64 - BURST_BYTES) / (HOST_BYTES_PER_SECOND / SCALE);
        assert!(on_host.1.as_secs_f64() >= fastest, "{:?} for the host, over its link", on_host.1);
        assert!(busy <= part * 1.3 + 0.05, "{} had {busy} of a processor, not {part}", emulated.class);
        sums.push(answer);
    }
    assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "all profiles say the same");
    Ok(())
}

/// What may go over the link at once after a pause.
const BURST_BYTES: f64 = 131_072.0;

fn mean(count: u32, mut what: impl FnMut()) -> Duration {
    let began = Instant::now();
    (0..count).for_each(|_| what());
    began.elapsed() / count
}
