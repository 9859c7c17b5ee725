//! How far what `lighter simulate` says is from what the testbed does: it is fitted by what single requests take, and judged by what
//! they take once they come by chance and wait for each other.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::bed::{Bed, Rows};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::{LIGHTER, Sidecar};
use crate::support::{full, test_where};
use crate::testbed::{ask, target};
use crate::world::{Said, World, get, resources};

pub fn tests() -> Vec<Trial> {
    vec![test_where("testbed::the_simulator_foresees_what_load_does", foreseen)]
}

/// What single requests took, one after the other.
struct Fitted {
    /// Seconds to read all of the data over the link, and the spread of that.
    fetch: f64,
    /// Seconds on the host and on the device, and how much these differ from time to time: σ of the logarithm.
    host: f64,
    device: f64,
    sigma: f64,
    data: u64,
}

const LINK_MBIT: u32 = 50;

/// What part of the time the slower of both places is busy in the run that judges.
const BUSY: f64 = 0.6;

fn foreseen() -> Result<(), String> {
    let mut bed = Bed::new(&Rows(25_000))?;
    bed.shape(LINK_MBIT);
    // So slow that it matters which place it is.
    bed.slow_down(if full() { 0.5 } else { 0.8 })?;
    let target = target(10);
    let (singles, count) = if full() { (30, 150) } else { (8, 25) };
    let fitted = fit(&bed, &target, singles);
    let rate = BUSY / fitted.host.max(fitted.device);
    let scenario = bed.folder.path().join("fitted.yaml");
    std::fs::write(&scenario, fitted.scenario(rate)).unwrap();
    let said = simulated(&scenario);
    println!(
        "fitted by {singles} single requests each: {:.1} ms to read {} bytes over the link, {:.1} ms on the host, {:.1} on the device, \
         σ {:.2}; judged at {rate:.1} requests a second, {count} of them",
        fitted.fetch * 1e3,
        fitted.data,
        fitted.host * 1e3,
        fitted.device * 1e3,
        fitted.sigma
    );
    println!("policy | mean ms foreseen | measured | by | median ms foreseen | measured | by");
    let here = fitted.said();
    let runs = [
        ("host-only", "6", "objective: latency"),
        ("always-device", "7", "objective: bytes, explorePercent: 0"),
        // The same numbers as the simulator has.
        ("lighter", "7", "objective: latency"),
    ];
    let mut means = Vec::new();
    for (name, version, policy) in runs {
        let world = here.world(&bed, version, policy);
        let mut client = Peer::connect(world.at);
        (0..10).for_each(|_| drop(ask(&mut client, &target)));
        let took = by_chance(&world, &target, rate, count);
        let measured = (mean(&took), median(&took));
        let foreseen = &said.iter().find(|(said, _)| said == name).expect("a policy of the simulator").1;
        let by = |measured: f64, foreseen: f64| format!("{:+.0} %", (foreseen / measured - 1.0) * 100.0);
        println!(
            "{name} | {:.1} | {:.1} | {} | {:.1} | {:.1} | {}",
            foreseen.0 * 1e3,
            measured.0 * 1e3,
            by(measured.0, foreseen.0),
            foreseen.1 * 1e3,
            measured.1 * 1e3,
            by(measured.1, foreseen.1)
        );
        means.push((measured.0, foreseen.0));
    }
    for (measured, foreseen) in &means {
        // What else this machine does is in the one and not in the other.
        let most = if full() { 2.0 } else { 5.0 };
        assert!(foreseen / measured < most && measured / foreseen < most, "{measured} {foreseen}");
    }
    let [host, device, _] = means[..] else { unreachable!() };
    let is_clear = |a: f64, b: f64| a.max(b) > 2.0 * a.min(b);
    if is_clear(host.1, device.1) && is_clear(host.0, device.0) {
        assert_eq!(host.1 < device.1, host.0 < device.0, "the simulator takes the other place: {means:?}");
    }
    Ok(())
}

/// What the simulator and the sidecar are told of the places, from what was measured.
struct Places {
    link_bytes_per_second: f64,
    /// On the host, once the data is there.
    bytes_per_second: f64,
    compute_factor: f64,
}

impl Places {
    /// The caller's sidecar. The device holds the data at this version.
    fn world(&self, bed: &Bed, version: &str, policy: &str) -> World {
        let at = free_address();
        let (link, factor) = (self.link_bytes_per_second as u64, self.compute_factor);
        let function = format!(
            "state: readOnly, time: 0s, bytesPerSecond: {}, resultPercent: 1",
            self.bytes_per_second as u64
        );
        let device = format!(
            "datasets: [{{name: orders, version: '{version}'}}], slots: 1, computeFactor: {factor:.3}, linkBytesPerSecond: {link}, \
             dataBytesPerSecond: 100000000000"
        );
        let policy = format!(
            "dataset: {{name: orders, version: '7', bytes: {}}}, slo: {{latency: 60s}}, host: near, {policy}",
            bed.bytes()
        );
        let host = format!(
            "---\napiVersion: mesh.lighter.dev/v1\nkind: Device\nmetadata: {{name: near}}\nspec: {{class: host, slots: 1, \
             linkBytesPerSecond: {link}, dataBytesPerSecond: {link}}}\n"
        );
        let said = Said { function: &function, device: &device, policy: &policy };
        let own = format!("listeners: [{{listen: '{at}', service: orders, port: 80}}]\nworkers: 1\n");
        let resources = resources("http", bed.host, bed.device, &said) + &host;
        World { sidecar: Sidecar::start(&resources, &own), at }
    }
}

/// What each place takes for one request at a time.
fn fit(bed: &Bed, target: &str, count: usize) -> Fitted {
    let of = |at: SocketAddr, target: &str| -> Vec<f64> {
        let mut client = Peer::connect(at);
        ask(&mut client, target);
        let one = |_| {
            let began = Instant::now();
            ask(&mut client, target);
            began.elapsed().as_secs_f64()
        };
        (0..count).map(one).collect()
    };
    let (host, device) = (of(bed.host, target), of(bed.device, target));
    let fetch: Vec<f64> = (0..count).map(|_| fetched(bed.storage)).collect();
    let sigma = |took: &[f64]| {
        let logs: Vec<f64> = took.iter().map(|took| took.ln()).collect();
        let around = mean(&logs);
        mean(&logs.iter().map(|log| (log - around).powi(2)).collect::<Vec<_>>()).sqrt()
    };
    Fitted {
        fetch: mean(&fetch),
        host: mean(&host),
        device: mean(&device),
        sigma: sigma(&host).max(sigma(&device)),
        data: bed.bytes(),
    }
}

/// How long it takes to read all of the data from where it is kept.
fn fetched(storage: SocketAddr) -> f64 {
    let began = Instant::now();
    // The storage of the testbed says HTTP/1.0, one answer for each connection.
    let mut client = Peer::connect(storage);
    let (head, body) =
        client.exchange("GET /orders.csv HTTP/1.1\r\nHost: storage\r\nConnection: close\r\n\r\n");
    assert!(head.status() == 200 && matches!(body, Body::Whole(_)));
    began.elapsed().as_secs_f64()
}

impl Fitted {
    fn said(&self) -> Places {
        // What is left once the data is there.
        let on_host = (self.host - self.fetch).max(0.001);
        Places {
            link_bytes_per_second: self.data as f64 / self.fetch,
            bytes_per_second: self.data as f64 / on_host,
            compute_factor: self.device / on_host,
        }
    }

    /// One host, one device, one function and one data set, as they were measured; nothing else is known of them.
    fn scenario(&self, rate: f64) -> String {
        let said = self.said();
        let link = said.link_bytes_per_second / 1e6;
        let kibibytes = self.data as f64 / 1024.0;
        format!(
            "requests: 20000
requestsPerSecond: {rate}
devices: 1
slo: 60s
tryTimeout: 60s
hosts: {{count: 1, slots: 1, linkMegabytesPerSecond: {link}}}
deviceClasses:
- {{name: measured, share: 1, slots: 1, computeFactor: {}, linkMegabytesPerSecond: {link}, mediaMegabytesPerSecond: 100000,
   spreadSigma: 0, maxQueue: 60s}}
workload:
  routes: 1
  replicas: 1
  shardsPerDevice: 1
  stalePercent: 0
  statefulPercent: 0
  scanKibibytes: {{median: {kibibytes}, sigma: 0}}
  selectivityPercent: {{median: 1, sigma: 0}}
  computeMicroseconds: {{median: 20, sigma: 0}}
  computeNanosecondsPerKibibyte: {{median: {}, sigma: 0}}
  noiseSigma: {}
  fanOut: {{shape: 50, most: 1}}
",
            said.compute_factor,
            1e9 * 1024.0 / said.bytes_per_second,
            self.sigma.min(1.0),
        )
    }
}

/// By policy, what the simulator says of the mean and the median, in seconds.
fn simulated(scenario: &std::path::Path) -> Vec<(String, (f64, f64))> {
    let mut command = Command::new(LIGHTER);
    let out = command.args(["simulate", "--json", "--scenario"]).arg(scenario).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let of = |policy: &serde_json::Value| {
        let latency = |what: &str| policy["latency_seconds"][what].as_f64().unwrap();
        (policy["name"].as_str().unwrap().to_owned(), (latency("mean"), latency("p50")))
    };
    said["policies"].as_array().unwrap().iter().map(of).collect()
}

/// Requests that come by chance, so many in a second, whether others are answered or not. What each took from when it was due.
fn by_chance(world: &World, target: &str, rate: f64, count: usize) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut due = 0.0;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let one = |_| {
            due -= (1.0 - random.f64()).ln() / rate;
            let due = began + Duration::from_secs_f64(due);
            scope.spawn(move || {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let (head, body) = Peer::connect(world.at).exchange(get(target));
                assert!(head.status() == 200 && matches!(body, Body::Whole(_)));
                due.elapsed().as_secs_f64()
            })
        };
        let asked: Vec<_> = (0..count).map(one).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

fn median(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
