//! Sidecars that know of each other by the control plane alone.

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::support::process::free_address;
use crate::support::raw::Upstream;
use crate::support::{test, wait_until};
use crate::world::{WEB, World, get};

pub fn tests() -> Vec<Trial> {
    vec![
        test("join::two_sidecars_find_each_other_and_prove_who_they_are", find_each_other),
        test("join::a_restart_of_the_control_plane_is_not_noticed", restart_of_the_control_plane),
        test("join::a_sidecar_starts_again_while_the_control_plane_is_away", starts_again),
        test("join::who_leaves_is_called_no_more", who_leaves),
        test("join::who_stands_by_takes_over_from_who_dies", stands_by),
        test("join::sidecars_that_joined_use_links_and_lose_nothing_on_them", by_links),
        test("join::who_has_no_memory_to_share_is_not_asked_for_it", by_wires),
    ]
}

fn find_each_other() {
    let app = Upstream::answering("five stars");
    let world = World::new();
    let reviews = world.reviews("reviews", app.address);
    let (web, listen) = world.web();
    wait_until("the instance is found", || get(listen) == (200, "five stars".into()));
    assert!(
        app.received().contains(&format!("x-forwarded-client-cert: URI={WEB}\r\n")),
        "{}",
        app.received()
    );
    let served = |security| {
        let labels = [("security", security), ("outcome", "served")];
        reviews.metrics().sum("lighter_inbound_connections_total", &labels)
    };
    assert!(served("mtls") >= 1.0);
    assert_eq!(served("plaintext"), 0.0);
    assert_eq!((reviews.asked("join", "received"), web.asked("join", "received")), (1.0, 1.0));
    let metrics = reviews.metrics();
    for known in ["connected", "known", "ready"] {
        assert_eq!(metrics.sum(&format!("lighter_registry_{known}"), &[]), 1.0, "{known}");
    }
    assert_eq!(metrics.sum("lighter_registry_lease_seconds", &[]), 30.0);
    let of_caller = |fact: &str| web.metrics().sum(&format!("lighter_registry_{fact}"), &[]);
    wait_until("the caller reports too", || of_caller("known") == 1.0);
    assert_eq!(of_caller("ready"), 0.0, "a pure caller is nobody's instance");
}

fn restart_of_the_control_plane() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let mut world = World::new();
    let first = world.reviews("reviews", one.address);
    let (web, listen) = world.web();
    wait_until("the instance is found", || get(listen).0 == 200);
    world.stop_plane();
    for _ in 0..20 {
        assert_eq!(get(listen), (200, "one".into()));
    }
    world.start_plane();
    // Both sidecars have come back: the one is told of what the other side is told.
    let _second = world.reviews("second", two.address);
    wait_until("the new instance is found", || {
        let (status, body) = get(listen);
        assert_eq!(status, 200, "{body}");
        body == "two"
    });
    assert_eq!(web.endpoints(), 2, "the one that was there before has come back");
    let registered = || first.metrics().sum("lighter_registry_known", &[]) == 1.0;
    wait_until("it has said so itself", registered);
}

fn starts_again() {
    let app = Upstream::answering("five stars");
    let mut world = World::new();
    let _reviews = world.reviews("reviews", app.address);
    let (web, listen) = world.web();
    wait_until("the instance is found", || get(listen).0 == 200);
    wait_until("that is kept", || {
        web.metrics().sum("lighter_xds_state_writes_total", &[("outcome", "written")]) >= 1.0
    });
    let told = std::fs::read(world.path("web-state/discovery")).unwrap();
    assert!(!told.is_empty());
    wait_until("the instance is kept", || {
        let kept = std::fs::read(world.path("web-state/discovery")).unwrap();
        kept.windows(9).any(|bytes| bytes == b"127.0.0.1")
    });
    world.stop_plane();
    drop(web);
    std::fs::remove_file(world.path("web.token")).unwrap();
    let (web, listen) = world.web_again();
    for _ in 0..10 {
        assert_eq!(get(listen), (200, "five stars".into()));
    }
    assert_eq!(web.metrics().sum("lighter_xds_connected", &[]), 0.0);
    assert_eq!(web.asked("join", "received"), 0.0);
    let caller = format!("x-forwarded-client-cert: URI={WEB}\r\n");
    assert!(app.received().contains(&caller));
}

fn who_leaves() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let world = World::new();
    let mut first = world.reviews("reviews", one.address);
    let _second = world.reviews("second", two.address);
    let (web, listen) = world.web();
    wait_until("both are found", || web.endpoints() == 2);
    first.program.signal(Signal::TERM);
    let mut ended = false;
    while !ended {
        ended = first.program.has_ended();
        assert_eq!(get(listen).0, 200);
    }
    for _ in 0..20 {
        assert_eq!(get(listen), (200, "two".into()));
    }
    assert_eq!(web.endpoints(), 1);
}

fn stands_by() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let world = World::new();
    let _standby = world.reviews_with("standby", two.address, "priority: 1").ready();
    let mut first = world.reviews("reviews", one.address);
    let (web, listen) = world.web();
    wait_until("both are found", || web.endpoints() == 2);
    for _ in 0..20 {
        assert_eq!(get(listen), (200, "one".into()));
    }
    let failovers = || web.metrics().sum("lighter_balancer_failovers_total", &[]);
    assert_eq!(failovers(), 0.0);
    // It says nothing: for as long as its lease runs, it is listed.
    first.program.signal(Signal::KILL);
    first.program.wait();
    for _ in 0..20 {
        assert_eq!(get(listen), (200, "two".into()));
    }
    assert!(failovers() >= 20.0, "{}", failovers());
    assert_eq!(web.endpoints(), 2);
}

fn by_links() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let world = World::new();
    let linked = |name, app| {
        let mut sidecar = world.reviews_with(name, app, &format!("link: '{}'", free_address()));
        sidecar.wait_until_ready();
        sidecar
    };
    let mut first = linked("reviews", one.address);
    let second = linked("second", two.address);
    let (web, listen) = world.web();
    wait_until("both are found", || web.endpoints() == 2);
    let served = || assert_eq!(get(listen).0, 200);
    let mut renewed = 0.0;
    for step in [&["rotate"][..], &["rotate", "--hurry"], &["rotate", "--hurry"]] {
        world.ca(step);
        renewed += 1.0;
        wait_until("all have new certificates", || {
            served();
            [&web, &first, &second].iter().all(|sidecar| sidecar.asked("renew", "received") >= renewed)
        });
    }
    first.program.signal(Signal::TERM);
    while !first.program.has_ended() {
        served();
    }
    for _ in 0..20 {
        assert_eq!(get(listen), (200, "two".into()));
    }
    let metrics = web.metrics();
    let streams = metrics.sum("lighter_link_streams_total", &[("side", "opener")]);
    let labels = [("direction", "outbound"), ("code_class", "2xx")];
    // All of it went over links, each of them left in good order.
    assert!(streams >= metrics.sum("lighter_requests_total", &labels) && streams > 20.0);
    assert_eq!(metrics.sum("lighter_link_resets_total", &[("code", "lost")]), 0.0);
    assert!(metrics.sum("lighter_link_left_total", &[("side", "opener")]) >= 2.0);
    assert!(second.metrics().sum("lighter_link_streams_total", &[("side", "acceptor")]) >= 20.0);
}

fn by_wires() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let world = World::new();
    world.apply(
        "apiVersion: mesh.lighter.dev/v1\nkind: LinkPolicy\nmetadata: {name: links}\nspec: {wires: {shm: should}}\n",
    );
    let linked = |name, app, more: &str| {
        world.reviews_with(name, app, &format!("link: '{}'\n{more}", free_address())).ready()
    };
    let first = linked("reviews", one.address, "maxRingBytes: 0");
    let (web, listen) = world.web();
    wait_until("the instance is found", || get(listen).0 == 200);
    for _ in 0..20 {
        assert_eq!(get(listen), (200, "one".into()));
    }
    let count = |name: &str, labels: &[_]| web.metrics().sum(name, labels);
    assert!(count("lighter_link_streams_total", &[("side", "opener")]) > 20.0);
    assert_eq!(count("lighter_link_offers_total", &[("by", "this")]), 0.0);
    let _second = linked("second", two.address, "");
    wait_until("the other instance is found", || get(listen) == (200, "two".into()));
    first.program.signal(Signal::TERM);
    wait_until("the one that has it shares it", || {
        assert_eq!(get(listen).0, 200);
        count("lighter_link_wire", &[("wire", "shm")]) == 1.0
    });
    assert_eq!(count("lighter_link_declines_total", &[]), 0.0);
}
