//! What a policy says is done, and what it leaves out is done as its default says.

use libtest_mimic::Trial;

use crate::support::raw::Peer;
use crate::support::test;
use crate::world::{DEVICE, Does, SCAN, Said, Server, World, get, timeouts};

pub fn tests() -> Vec<Trial> {
    vec![
        test("says::how_long_a_device_has_to_answer", try_timeout),
        test("says::when_a_route_goes_back_to_the_host", misses),
        test("says::how_much_is_spent_on_finding_out", exploration),
        test("says::by_how_much_the_other_side_has_to_be_better", margin),
        test("says::what_places_are_like", places),
    ]
}

const DATASET: &str = "dataset: {name: orders, version: '7', bytes: 1000000}";

/// A world with this policy, after so many requests one after another.
fn after(count: usize, (host, device): (Does, Does), policy: &str) -> (World, Server, Server) {
    after_with(count, (host, device), &Said { policy: &format!("{DATASET}, {policy}"), ..SCAN })
}

fn after_with(count: usize, (host, device): (Does, Does), said: &Said<'_>) -> (World, Server, Server) {
    let (host, device) = (Server::start("host", host), Server::start("device", device));
    let world = World::start(host.address(), device.address(), said);
    let mut client = Peer::connect(world.at);
    for _ in 0..count {
        assert_eq!(client.exchange(get("/scan")).0.status(), 200);
    }
    world.rest();
    (world, host, device)
}

fn try_timeout() {
    let late = |policy: &str| {
        let (world, ..) = after(30, (Does::After(0), Does::After(400)), policy);
        (world.ended(DEVICE, "timed_out"), world.ended(DEVICE, "answered"))
    };
    // By default within what the objective says: 100 ms, where nothing is said of that either.
    let (timed_out, answered) = late("objective: bytes");
    assert!(timed_out >= 1.0 && answered == 0.0, "{timed_out} {answered}");
    let (timed_out, answered) = late("objective: bytes, tryTimeout: 10s");
    assert!(timed_out == 0.0 && answered >= 1.0, "{timed_out} {answered}");
    let (timed_out, answered) = late("objective: bytes, slo: {latency: 10s}");
    assert!(timed_out == 0.0 && answered >= 1.0, "{timed_out} {answered}");

    let policy = |more: &str| format!("objective: bytes, slo: {{latency: 10s}}{more}");
    let waited = |more: &str| {
        let (world, ..) = after(30, (Does::After(0), Does::After(0)), &policy(more));
        timeouts(&world)
    };
    // A quarter of it is the host's, which answers at once; what is written holds as it is written.
    for (more, expected) in [("", 7.5), (", tryTimeout: 2345ms", 2.345)] {
        let waited = waited(more);
        let is_so = waited.iter().all(|seconds| (seconds - expected).abs() < 1e-6);
        assert!(is_so && !waited.is_empty(), "{waited:?}, not {expected}");
    }
}

fn misses() {
    let closed = |slo: &str| {
        let policy = format!("objective: bytes, tryTimeout: 5s, explorePercent: 50, slo: {{{slo}}}");
        // Mostly it is quick, so that it is asked.
        let (world, ..) = after(60, (Does::After(0), Does::Each(4, 150)), &policy);
        world.decided(&[("reason", "guard_closed")])
    };
    assert!(closed("latency: 50ms") >= 1.0);
    assert_eq!(closed("latency: 50ms, missPercent: 100"), 0.0);
    assert_eq!(closed("latency: 5s"), 0.0);
}

fn exploration() {
    let explored = |policy: &str| {
        let policy = format!("slo: {{latency: 10s}}{policy}");
        let (world, ..) = after(150, (Does::After(0), Does::After(20)), &policy);
        world.decided(&[("reason", "explored")])
    };
    let (none, usual) = (explored(", explorePercent: 0"), explored(""));
    assert_eq!(none, 0.0);
    assert!(usual >= 1.0);
}

fn margin() {
    let kept = |policy: &str| {
        let policy = format!("slo: {{latency: 10s}}, explorePercent: 25{policy}");
        let (world, ..) = after(100, (Does::After(40), Does::After(5)), &policy);
        (world.decided(&[("reason", "kept")]), world.decided(&[("place", DEVICE)]))
    };
    let (_, on_device) = kept("");
    assert!(on_device >= 50.0, "{on_device}");
    // Nothing is better by all there is.
    let (kept, on_device) = kept(", marginPercent: 100");
    assert!(kept >= 50.0 && on_device <= 20.0, "{kept} {on_device}");
}

/// With nothing learned yet, the first request goes by what is said.
fn places() {
    let first = |function: &str, device: &str, policy: &str| {
        let said = Said {
            function: &format!("state: readOnly, {function}"),
            device: &format!("datasets: [{{name: orders, version: '7'}}], {device}"),
            policy: &format!("{DATASET}, slo: {{latency: 10s}}, explorePercent: 0{policy}"),
        };
        let (world, ..) = after_with(1, (Does::After(0), Does::After(0)), &said);
        let line = crate::support::metrics::get(world.sidecar.admin, "/decisions").1;
        let logged: serde_json::Value = serde_json::from_str(&line).unwrap();
        let inputs = &logged["record"]["inputs"];
        let of = |at: usize, field: &str| inputs["candidates"][at][field].as_f64().unwrap();
        [
            of(1, "compute_seconds"),
            of(1, "scan_seconds"),
            of(1, "output_seconds"),
            of(1, "busy_watts"),
            of(1, "joules_per_byte"),
            of(0, "scan_seconds"),
            of(0, "moved_bytes"),
        ]
    };
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-3 * b.abs();
    let check = |found: [f64; 7], expected: [f64; 7]| {
        let all = found.iter().zip(expected).all(|(found, expected)| close(*found, expected));
        assert!(all, "{found:?} {expected:?}");
    };
    // 1 ms on the reference host, four times as long here; 1 MB at 3 GB/s; 1 % of it at 1.25 GB/s.
    check(first("", "", ""), [4e-3, 1e6 / 3e9, 1e4 / 1.25e9, 5.0, 1e-8, 1e6 / 1.25e9, 1e6 + 1e4]);
    let device = "computeFactor: 2, dataBytesPerSecond: 1000000000, linkBytesPerSecond: 1000000, busyWatts: 3, \
                  joulesPerByte: 2e-8";
    let function = "time: 3ms, bytesPerSecond: 1000000000, resultPercent: 10";
    check(first(function, device, ""), [8e-3, 1e-3, 0.1, 3.0, 2e-8, 1e6 / 1.25e9, 1.1e6]);
}
