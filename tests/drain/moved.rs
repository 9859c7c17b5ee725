//! Requests that come to where the state of a service was go back to their caller's sidecar, as far as that keeps them.

use libtest_mimic::Trial;

use crate::callers::Callers;
use crate::migrate::PATIENT;
use crate::partition::{Relay, Way};
use crate::places::{Place, alone, begin_with, is_whole, losses, shop};
use crate::registers::{App, INSTANCE, NUMBER};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer};
use crate::support::{http2, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![alone("moved::a_caller_that_hears_of_no_move_is_answered_from_where_the_state_went", unheard)]
}

/// The caller's sidecar is cut off from the control plane, so that it neither holds requests nor hears where the service went.
fn unheard() {
    let world = World::new();
    world.apply(&shop(", timeout: 60s, park: {wait: 180s}"));
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    let [from, to] = &places;
    let relay = Relay::to(world.address);
    world.token("web", "web");
    let door = free_address();
    let own =
        format!("drainDeadline: 5s\nlisteners: [{{listen: '{door}', service: shop, port: 80}}]\n{PATIENT}");
    let web = world.start_by(relay.address, "web", &own).ready();
    wait_until("the one that serves is known", || web.endpoints() == 1);
    wait_until("the caller's sidecar is heard", || web.metrics().sum("lighter_registry_known", &[]) == 1.0);
    let mut sum = 0;
    let mut adds = |length: usize, by: &Place| {
        sum += 1;
        let body = "a".repeat(length);
        let number = OWN + sum;
        let head = format!(
            "POST /r/own/add HTTP/1.1\r\nHost: shop\r\n{NUMBER}: {number}\r\nContent-Length: {length}\r\n"
        );
        let (head, said) = Peer::connect(door).exchange(format!("{head}Connection: close\r\n\r\n{body}"));
        assert_eq!((head.status(), head.get(INSTANCE)), (200, Some(&*by.app.name)), "{head:?}");
        assert_eq!(said, Body::Whole(sum.to_string().into_bytes()), "each is done once");
    };
    adds(10 << 10, from);
    relay.set(Some(Way::Ends));
    wait_until("it is cut off", || web.metrics().sum("lighter_registry_known", &[]) == 0.0);
    let times = "prepareTimeout: 60s, quiesceTimeout: 60s, switchTimeout: 1s, drainTimeout: 60s";
    let callers = Callers::start(door);
    callers.more(100);
    begin_with(&world, "move", from, to, times);
    wait_until("the state has moved", || to.serves() && !from.serves());
    callers.more_of(&to.app.name, 100);
    is_whole(&callers.end(), &places);

    // Of the old place, how many it gave back, and how many it sent on: of those that were given back, too.
    let counts = || {
        let (old, web) = (from.sidecar.metrics(), web.metrics());
        [
            old.sum("lighter_state_returned_total", &[]),
            old.sum("lighter_state_forwarded_total", &[]),
            web.sum("lighter_moved_requests_total", &[("outcome", "unheard")]),
            web.sum("lighter_moved_requests_total", &[]),
        ]
    };
    let before = counts();
    assert!(before[0] >= 50.0, "{before:?}");
    for length in [0, 10 << 10, 64 << 10, 1 << 20] {
        adds(length, to);
    }
    let body = http2::run(async {
        let client = http2::connect(door).await;
        http2::get(&client, "/r/own").await.expect("an answer").body
    });
    assert_eq!(body, b"5");
    let now = counts();
    assert_eq!([0, 1, 2, 3].map(|at| now[at] - before[at]), [4.0, 5.0, 4.0, 4.0]);
    // None of that is another try, or a failure.
    let metrics = web.metrics();
    assert_eq!(metrics.sum("lighter_retries_total", &[]), 0.0);
    assert_eq!(metrics.sum("lighter_endpoint_ejections_total", &[]), 0.0);
    assert_eq!(from.sidecar.metrics().sum("lighter_state_refused_total", &[]), 0.0);

    relay.set(None);
    wait_until("it is heard, and goes there directly", || {
        let before = counts();
        adds(0, to);
        counts() == before
    });
    assert_eq!(losses(&world), 0.0);
}

/// Beyond the numbers of [`Callers`].
const OWN: u64 = 1 << 32;
