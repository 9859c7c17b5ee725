//! An instance that has a service's state is taken down.

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::callers::Callers;
use crate::migrate::{instances, stories};
use crate::places::{Place, SLOW, alone, caller, is_whole, losses, shop};
use crate::registers::App;
use crate::support::raw::{Body, Peer};
use crate::support::wait_until;
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![
        alone("leave::state_moves_before_its_instance_drains", moves),
        alone("leave::what_is_to_stay_does_not_move", stays),
        alone("leave::nobody_waits_where_there_is_nowhere_to_go", nowhere),
    ]
}

fn moves() {
    let world = World::new();
    world.apply(&shop(SLOW));
    let [mut a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(300);
    a.sidecar.program.signal(Signal::TERM);
    callers.more_of("b", 100);
    assert!(a.sidecar.program.wait().success());
    let said = a.sidecar.program.said();
    assert!(said.contains("the state is served elsewhere: the drain begins"), "{said}");
    assert!(said.contains("drained, nothing was cut"), "{said}");
    callers.more(100);
    let record = callers.end();
    is_whole(&record, &[a, b]);
    let all = stories(&world);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["outcome"], "done", "{}", all[0]);
    assert_eq!(count(&world, "leaves"), 1.0);
    assert_eq!((count(&world, "releases"), losses(&world)), (0.0, 0.0));
}

fn stays() {
    let world = World::with("leaseSeconds: 2");
    world.apply(&shop(", onDrain: stay"));
    let [mut a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    put(&a);
    a.sidecar.program.signal(Signal::TERM);
    assert!(a.sidecar.program.wait().success());
    let said = a.sidecar.program.said();
    assert!(said.contains("the state that is served here is lost outcome=\"released\""), "{said}");
    wait_until("the other one begins anew", || b.serves());
    wait_until("that is counted", || losses(&world) == 1.0);
    assert_eq!((count(&world, "leaves"), count(&world, "releases")), (0.0, 1.0));
    assert!(stories(&world).is_empty());
    assert_ne!(get(&b), (200, Body::Whole(b"7".to_vec())), "it never had it");
}

fn nowhere() {
    let world = World::new();
    world.apply(&shop(""));
    let [mut a, mut b] = Place::both(&world, App::start(&world.path(""), "b"));
    put(&a);
    b.kill();
    wait_until("that is seen", || !instances(&world).contains(&b.instance));
    a.sidecar.program.signal(Signal::TERM);
    assert!(a.sidecar.program.wait().success());
    let said = a.sidecar.program.said();
    assert!(said.contains("outcome=\"released\""), "{said}");
    assert_eq!((count(&world, "leaves"), count(&world, "releases")), (0.0, 1.0));
}

fn count(world: &World, what: &str) -> f64 {
    world.counts().sum(&format!("lighter_control_state_{what}_total"), &[])
}

fn put(place: &Place) {
    let mut peer = Peer::connect(place.door());
    let (head, _) = peer.exchange("PUT /r/kept HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\n\r\n7");
    assert_eq!(head.status(), 200, "{head:?}");
    assert_eq!(get(place), (200, Body::Whole(b"7".to_vec())));
}

fn get(place: &Place) -> (u16, Body) {
    let (head, body) = Peer::connect(place.door()).exchange("GET /r/kept HTTP/1.1\r\nHost: shop\r\n\r\n");
    (head.status(), body)
}
