//! Devices that run out of memory, or of what they may take, under load; and how many answers are late for all that.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::device::{Data, Device};
use crate::support::quota::MemoryLimit;
use crate::support::raw::Peer;
use crate::support::{full, test, test_where, wait_until};
use crate::world::{DEVICE, Does, SCAN, Said, Server, World, get, said, timeouts};

pub fn tests() -> Vec<Trial> {
    vec![
        test("shortage::what_a_run_has_no_memory_for_the_host_answers", no_memory),
        test_where("shortage::a_device_that_is_killed_for_its_memory_costs_no_request", killed),
        test("shortage::what_a_device_has_no_power_for_the_host_answers", no_power),
        test("shortage::hardly_more_answers_are_late_than_from_the_host_alone", misses),
    ]
}

const ROWS: &str = "id\n1\n";
const SMALL: &str = "/scan/orders@7?select=id";
/// One record, which is larger than what a run, or the whole device, may hold.
const LARGE: &str = "/scan/large";
const LARGE_BYTES: usize = 96 << 20;
const LATER: &str =
    "dataset: {name: orders, version: '7', bytes: 1000000}, slo: {latency: 10s}, explorePercent: 25";

fn large(bytes: usize) -> String {
    format!("id\n{}\n", "1".repeat(bytes))
}

/// A device that is preferred to the host, which answers the same but later.
fn preferred(large_bytes: usize, more: &str, policy: &str) -> (Device, Server, World) {
    let data = Data::new().with_text("orders.csv", ROWS).with_text("large.csv", large(large_bytes));
    let device = data.start(more, "");
    let host = Server::start(ROWS, Does::After(60));
    let world = World::start(host.address(), device.at, &Said { policy, ..SCAN });
    let mut client = Peer::connect(world.at);
    wait_until("the device is preferred", || {
        (0..20).for_each(|_| assert_eq!(said(client.exchange(get(SMALL))), ROWS));
        world.ended(DEVICE, "answered") >= 40.0
    });
    (device, host, world)
}

/// Four clients, who ask for this so often each, beside what `meanwhile` does. Every answer is the host's.
fn under_load(at: SocketAddr, target: &str, count: usize, meanwhile: impl FnOnce()) {
    std::thread::scope(|scope| {
        let client = || {
            let mut client = Peer::connect(at);
            (0..count).for_each(|_| assert_eq!(said(client.exchange(get(target))), ROWS));
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        meanwhile();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

fn failed(world: &World) -> f64 {
    world.sidecar.metrics().sum("lighter_requests_total", &[("code_class", "5xx")])
}

fn no_memory() {
    let (device, _host, world) = preferred(2 << 20, ", limits: {memoryBytes: 1048576}", LATER);
    under_load(world.at, LARGE, 25, || ());
    let short = device.counted("lighter_device_runs_total", &[("status", "CS_NOT_ENOUGH_MEMORY")]);
    assert!(short >= 1.0);
    assert_eq!(world.rest().ended(DEVICE, "error"), short, "each went to the host");
    // It is left alone for a while: few of a hundred find that out.
    assert!(short <= 40.0, "{short}");
    assert_eq!(failed(&world), 0.0);
}

fn killed() -> Result<(), String> {
    let (mut device, _host, world) = preferred(LARGE_BYTES, ", limits: {memoryBytes: 1073741824}", LATER);
    let pid = device.sidecar.program.pid();
    let room = (device.sidecar.program.resident() << 10) + (24 << 20);
    let limit = MemoryLimit::of(pid, room)?;
    let before = world.rest().ended("host", "answered");
    under_load(world.at, SMALL, 50, || {
        let mut client = Peer::connect(world.at);
        wait_until("the device is killed", || {
            assert_eq!(said(client.exchange(get(LARGE))), ROWS, "the host answers");
            limit.killed() >= 1
        });
    });
    assert!(!device.sidecar.program.wait().success());
    under_load(world.at, SMALL, 10, || ());
    assert!(world.rest().ended(DEVICE, "lost") >= 1.0);
    assert!(world.ended("host", "answered") - before >= 40.0);
    assert_eq!(failed(&world), 0.0);
    Ok(())
}

fn no_power() {
    // A run pays for what it did at a thousandth of a processor.
    let power = ", power: {capWatts: 2.005, busyWatts: 5, idleWatts: 2}";
    let policy = format!("{LATER}, objective: bytes, tryTimeout: 2s");
    let data = Data::new().with_text("orders.csv", ROWS).with_text("large.csv", large(8 << 20));
    let device = data.start(power, "");
    let host = Server::start(ROWS, Does::After(5));
    let world = World::start(host.address(), device.at, &Said { policy: &policy, ..SCAN });
    let refused = || device.counted("lighter_device_refusals_total", &[("cause", "power_cap")]);
    // Somebody keeps it busy who comes past the mesh.
    let mut other = Peer::connect(device.at);
    other.send(get("/checksum/large"));
    wait_until("the host answers what it refuses", || {
        under_load(world.at, SMALL, 5, || ());
        refused() >= 3.0
    });
    assert!(world.rest().ended(DEVICE, "refused") >= 3.0);
    assert_eq!((world.ended(DEVICE, "error"), failed(&world)), (0.0, 0.0));
}

/// How many answers to requests that come at a steady rate take longer than `limit`, and how many there are.
fn late(at: SocketAddr, seconds: u32, limit: Duration) -> (usize, u32) {
    const RATE: u32 = 100;
    const CLIENTS: u32 = 16;
    let (began, late) = (Instant::now(), AtomicUsize::new(0));
    let all = RATE * seconds / CLIENTS;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let late = &late;
            scope.spawn(move || {
                let mut client = Peer::connect(at);
                for request in 0..all {
                    let due = began + Duration::from_secs(1) * (request * CLIENTS + number) / RATE;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    said(client.exchange(get("/scan")));
                    late.fetch_add(usize::from(due.elapsed() > limit), Relaxed);
                }
            });
        }
    });
    (late.into_inner(), all * CLIENTS)
}

/// A device that stalls, becomes slow or fails while requests come at a steady rate, beside a host that has the same rate to
/// itself. The policy says nothing of how long a device is waited for: the host is left time to answer.
fn misses() {
    let seconds = if full() { 30 } else { 6 };
    let limit = Duration::from_millis(200);
    for does in [Does::Nothing, Does::After(2000), Does::Status(507), Does::Cut] {
        let (host, device) =
            (Server::start("host", Does::After(20)), Server::start("device", Does::After(0)));
        let policy = "dataset: {name: orders, version: '7', bytes: 1000000}, slo: {latency: 200ms}";
        let world = World::start(host.address(), device.address(), &Said { policy, ..SCAN });
        world.until("device", 20);
        let waited = timeouts(&world);
        assert!(waited.iter().all(|seconds| (0.049..0.201).contains(seconds)), "{waited:?}");
        assert!(
            waited.iter().any(|seconds| *seconds < 0.151),
            "the host is left a quarter of it: {waited:?}"
        );
        let elsewhere = Said { device: "datasets: [{name: orders, version: '6'}]", policy, ..SCAN };
        let alone = World::start(host.address(), device.address(), &elsewhere);
        let ((with, all), (without, _)) = std::thread::scope(|scope| {
            let with = scope.spawn(|| late(world.at, seconds, limit));
            let without = scope.spawn(|| late(alone.at, seconds, limit));
            std::thread::sleep(Duration::from_secs(u64::from(seconds) / 3));
            device.set(does);
            (with.join().unwrap(), without.join().unwrap())
        });
        let percent = |late: usize| late as f64 * 100.0 / f64::from(all);
        let more = percent(with) - percent(without);
        println!(
            "{does:?}: {:.3} % late, {:.3} % from the host alone: {more:.3} points more of {all} requests",
            percent(with),
            percent(without)
        );
        // Where all is slow the host is taken more often: then it is shown by few.
        let least = if full() { 50.0 } else { 21.0 };
        assert!(world.rest().ended(DEVICE, "answered") >= least, "or there was no setback");
        assert!(world.ended("host", "answered") >= 50.0);
        assert_eq!(failed(&world), 0.0);
        assert!(!full() || more <= 0.1, "{does:?}: {more} points");
    }
}
