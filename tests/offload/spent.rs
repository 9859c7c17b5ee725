//! What answers took at each place: time, processor time and energy, counted side by side.

use libtest_mimic::Trial;

use crate::device::Data;
use crate::support::raw::Peer;
use crate::support::test;
use crate::world::{DEVICE, Does, SCAN, Said, Server, World, get, said};

pub fn tests() -> Vec<Trial> {
    vec![
        test("spent::energy_is_what_the_model_says_of_the_time_and_the_bytes_of_answers", energy),
        test("spent::what_a_device_says_of_its_processor_is_counted_as_said", reported),
        test("spent::what_is_not_answered_is_not_counted", unanswered),
    ]
}

const SECONDS: &str = "lighter_offload_answer_seconds_total";
const PROCESSOR: &str = "lighter_offload_processor_seconds_total";
const JOULES: &str = "lighter_offload_joules_total";
const MOVED: &str = "lighter_offload_moved_bytes_total";

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-6 * one.abs().max(other.abs()) + 1e-6
}

/// A function that only computes: an answer's time is all work, and all of a processor. Both places have room for many more than one
/// request, so that none is expected to wait.
const COMPUTES: Said<'static> = Said {
    function: "state: stateless, time: 20ms",
    device: "slots: 64, busyWatts: 3, joulesPerByte: 0.001",
    policy: "slo: {latency: 10s}, explorePercent: 50",
};

fn energy() {
    let (host, device) = (Server::start("host", Does::After(20)), Server::start("device", Does::After(30)));
    let world = World::start(host.address(), device.address(), &COMPUTES);
    let mut client = Peer::connect(world.at);
    for _ in 0..60 {
        said(client.exchange(get("/scan")));
    }
    world.rest();
    let metrics = world.sidecar.metrics();
    // The host is what it is by default.
    for (place, watts, per_byte, least) in [("host", 10.0, 1e-8, 0.020), (DEVICE, 3.0, 0.001, 0.030)] {
        let of = |name: &str, more: &[(&str, &str)]| metrics.sum(name, &[&[("place", place)], more].concat());
        let (answered, moved) = (world.ended(place, "answered"), of(MOVED, &[]));
        assert!(answered >= 1.0, "{place}");
        let seconds = of(SECONDS, &[]);
        assert!(seconds >= answered * least, "{place}: {seconds} s of {answered}");
        let processor = of(PROCESSOR, &[("source", "modelled")]);
        assert!(close(processor, seconds), "{place}: {processor} of {seconds} s");
        let (joules, expected) = (of(JOULES, &[]), watts * seconds + per_byte * moved);
        assert!(moved > 0.0 && close(joules, expected), "{place}: {joules} J, not {expected}");
        assert_eq!(of(JOULES, &[("energy_source", "modelled")]), joules, "nothing else is known of it");
        assert!(!metrics.has(PROCESSOR, &[("place", place), ("source", "reported")]));
    }
}

fn reported() {
    let text: String = (0..2000).map(|id| format!("{id},{}\n", id % 100)).collect();
    let device = Data::new().with_text("orders.csv", format!("id,amount\n{text}")).start("", "");
    let host = Server::start("none", Does::After(60));
    let world = World::start(host.address(), device.at, &SCAN);
    let mut client = Peer::connect(world.at);
    for _ in 0..40 {
        said(client.exchange(get("/aggregate/orders?compute=sum(amount)")));
        said(client.exchange(get("/scan/orders@7?where=amount%20%3E%2098")));
    }
    world.rest();
    let metrics = world.sidecar.metrics();
    let of = |source: &str| metrics.sum(PROCESSOR, &[("place", DEVICE), ("source", source)]);
    let answered = world.ended(DEVICE, "answered");
    assert!(answered >= 20.0, "{answered}");
    let (said, counted) = (of("reported"), device.counted("lighter_device_busy_seconds_total", &[]));
    assert!(said > 0.0 && (said - counted).abs() <= 1e-6, "{said} s, and there {counted}");
    assert_eq!(of("modelled"), 0.0, "it was said of each answer");
    // Nobody says it of the host.
    let host = metrics.sum(PROCESSOR, &[("place", "host")]);
    assert!(host > 0.0 && host == metrics.sum(PROCESSOR, &[("place", "host"), ("source", "modelled")]));
}

fn unanswered() {
    let (host, device) = (Server::start("host", Does::After(5)), Server::start("device", Does::Status(500)));
    let world = World::start(host.address(), device.address(), &COMPUTES);
    let mut client = Peer::connect(world.at);
    crate::support::wait_until("the device has failed one", || {
        said(client.exchange(get("/scan")));
        world.ended(DEVICE, "error") >= 1.0
    });
    world.rest();
    let metrics = world.sidecar.metrics();
    for name in [SECONDS, PROCESSOR, JOULES] {
        assert!(!metrics.has(name, &[("place", DEVICE)]), "{name}");
        assert!(metrics.sum(name, &[("place", "host")]) > 0.0, "{name}");
    }
}
