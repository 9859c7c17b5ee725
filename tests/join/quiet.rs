//! Who is told of what: nobody of nothing, and of a change whoever holds it.

use std::net::SocketAddr;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::Upstream;
use crate::support::sidecar::service;
use crate::support::{at_rest, full, test, wait_until};
use crate::world::{Sidecar, World, get};

pub fn tests() -> Vec<Trial> {
    vec![
        test("quiet::nothing_is_said_while_nothing_changes", nothing_changes),
        test("quiet::a_change_is_told_to_those_who_hold_it", one_change),
        test("quiet::memory_does_not_grow_with_the_mesh", memory),
    ]
}

/// How long nothing changes.
fn a_while() -> Duration {
    Duration::from_secs(if full() { 600 } else { 30 })
}

fn nothing_changes() {
    let apps = [Upstream::answering("one"), Upstream::answering("two")];
    let world = World::new();
    let sidecars = [world.reviews("reviews", apps[0].address), world.reviews("second", apps[1].address)];
    let (web, listen) = world.web();
    wait_until("both are known", || web.endpoints() == 2);
    assert_eq!(get(listen).0, 200);
    let all = || {
        let [one, two] = &sidecars;
        (said(&world), [one, two, &web].map(heard))
    };
    let before = at_rest(Duration::from_secs(2), all);
    std::thread::sleep(a_while());
    assert_eq!(all(), before);
    // Counted at all: both ends count a change.
    world.apply(&service("more", "http", &[]));
    world.apply(&service("reviews-v2", "http", &[free_address()]));
    let (more, listen) = world.caller("web-2", "reviews-v2");
    assert!(said(&world) != before.0 && heard(&more) > [0.0; 4] && get(listen).0 == 503);
}

fn one_change() {
    let world = World::new();
    let of = |name: &str| service(name, "http", &[free_address()]);
    world.apply(&[of("ratings"), of("orders")].join("---\n"));
    // Two callers of the one, and one of the other.
    let callers = [("web", "ratings"), ("web-2", "ratings"), ("web-3", "orders")];
    let callers = callers.map(|(name, service)| world.caller(name, service).0);
    let each = || callers.each_ref().map(heard);
    let before = at_rest(Duration::from_secs(1), || (pushes(&world), each()));
    world.apply(&of("ratings"));
    let told = |sidecar: &Sidecar, before: [f64; 4]| heard(sidecar)[1] - before[1];
    wait_until("both have heard", || (0..2).all(|at| told(&callers[at], before.1[at]) == 1.0));
    let after = at_rest(Duration::from_secs(1), || (pushes(&world), each()));
    // One answer to each of the two, with one resource in it, and not a word to the third.
    assert_eq!((after.0[0] - before.0[0], after.0[1] - before.0[1]), (2.0, 2.0));
    assert_eq!(after.1[2], before.1[2]);
    assert_eq!([0, 1].map(|at| after.1[at][1] - before.1[at][1]), [1.0, 1.0]);
}

/// Services in the small mesh.
const FEW: usize = 10;

/// Services in the big one. A build for tests takes its time to read them.
fn many() -> usize {
    if full() { 5000 } else { 1000 }
}

fn memory() {
    let resident = |services: usize| {
        let world = World::new();
        let of = |number: usize| service(&format!("service-{number}"), "http", &[address(number)]);
        let all: Vec<_> = (0..services).map(of).collect();
        all.chunks(500).for_each(|some| world.apply(&some.join("---\n")));
        let served = || world.counts().sum("lighter_control_services", &[]);
        wait_until("all are served", || served() as usize == services + 1);
        world.token("web", "web");
        let listener =
            |number: usize| format!("{{listen: '{}', service: service-{number}, port: 80}}", free_address());
        let listeners: Vec<_> = (0..FEW).map(listener).collect();
        let web = world.start("web", &format!("listeners: [{}]", listeners.join(", "))).ready();
        wait_until("those that it calls are known", || web.services() == FEW);
        at_rest(Duration::from_secs(2), || web.program.held())
    };
    let (few, many) = (resident(FEW), resident(self::many()));
    assert!(few.abs_diff(many) <= 1024, "{few} KiB with {FEW} services in the mesh, {many} KiB with many");
}

/// Where the endpoint of a service is, which nobody calls.
fn address(number: usize) -> SocketAddr {
    let [.., high, low] = (number as u32).to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 80))
}

/// What the control plane sends and takes.
fn said(world: &World) -> [f64; 6] {
    let counts = world.counts();
    ["pushes", "acks", "nacks", "snapshots", "registrations", "refused_registrations"]
        .map(|what| counts.sum(&format!("lighter_control_{what}_total"), &[]))
}

/// Answers that the control plane sent, and resources in them.
fn pushes(world: &World) -> [f64; 2] {
    let counts = world.counts();
    ["pushes", "pushed_resources"].map(|what| counts.sum(&format!("lighter_control_{what}_total"), &[]))
}

/// What a sidecar says and hears.
fn heard(sidecar: &Sidecar) -> [f64; 4] {
    let metrics = sidecar.metrics();
    let of = |name: &str| metrics.sum(name, &[]);
    [
        of("lighter_xds_requests_total"),
        of("lighter_xds_answers_total"),
        of("lighter_registry_streams_total"),
        of("lighter_xds_streams_total"),
    ]
}
