//! Requests to a service that moves with its state wait at the sidecars of their callers.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use libtest_mimic::Trial;

use crate::migrate::{is_done, story};
use crate::places::{Place, alone, begin, caller, losses, shop};
use crate::registers::{App, INSTANCE};
use crate::support::raw::{Body, Peer};
use crate::support::{full, http2, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        alone("held::what_waits_at_its_caller_goes_straight_to_where_the_state_went", held),
        alone("held::no_more_waits_than_may_and_all_else_is_told_so", bounded),
    ]
}

/// More requests at once than the caller's sidecar and the old place have room for.
fn bounded() {
    let world = World::new();
    world.apply(&shop(&format!(", timeout: 60s, park: {{requests: {ROOM}, wait: 180s}}")));
    let [a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (web, listen) = caller(&world);
    wait_until("the caller's sidecar is heard", || web.metrics().sum("lighter_registry_known", &[]) == 1.0);
    a.app.tell("hold/snapshot");
    begin(&world, "narrow", &a, &b);
    wait_until("it is asked for its state", || a.app.count("snapshot.waits") > 0);
    wait_until("the caller's sidecar is told", || {
        web.metrics().sum("lighter_hold_orders_total", &[("outcome", "held")]) >= 1.0
    });
    let waiting = || {
        // In this order nothing that goes there meanwhile counts twice.
        let parked = a.sidecar.metrics().sum("lighter_state_waiting", &[]);
        let held = web.metrics().sum("lighter_hold_waiting", &[]);
        assert!(held <= ROOM as f64 && parked <= ROOM as f64, "{held} and {parked} of {ROOM}");
        (held + parked) as usize
    };
    let asked: Vec<_> = (0..5 * ROOM).map(|at| ask(listen, at % 2 == 1)).collect();
    // What waits at its caller for too long goes to the old place, and finds no room there.
    wait_until("nobody else comes", || {
        asked.iter().filter(|asked| asked.is_finished()).count() + waiting() >= asked.len()
    });
    a.app.tell("go/snapshot");
    is_done(&world, "narrow");
    let (served, refused): (Vec<_>, Vec<_>) =
        asked.into_iter().map(|asked| asked.join().unwrap()).partition(|(status, _)| *status == 200);
    assert!((ROOM..=2 * ROOM).contains(&served.len()), "{served:?}");
    assert!(served.iter().all(|(_, by)| by.as_deref() == Some("b")), "{served:?}");
    let is_full =
        |(status, why): &(u16, Option<String>)| *status == 503 && why.as_deref() == Some("park_overflow");
    assert!(refused.iter().all(is_full), "{refused:?}");
    let full = a.sidecar.metrics().sum("lighter_state_refused_total", &[("cause", "full")]);
    assert_eq!(full, refused.len() as f64);
    let peaks = [(&web, "hold"), (&a.sidecar, "state")]
        .map(|(of, side)| of.metrics().sum(&format!("lighter_{side}_waiting_peak"), &[]));
    assert!(peaks[0] <= ROOM as f64 && peaks[1] == ROOM as f64, "{peaks:?}");
    assert_eq!(losses(&world), 0.0);
}

/// One request has room at the caller's sidecar, and another has not and waits at the old place.
fn held() {
    let world = World::new();
    world.apply(&shop(", timeout: 60s, park: {requests: 1, wait: 180s}"));
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    let (web, listen) = caller(&world);
    wait_until("the caller's sidecar is heard", || web.metrics().sum("lighter_registry_known", &[]) == 1.0);
    let wanted = if full() { 20 } else { 1 };
    // Over HTTP/1.1, and over HTTP/2. Requests wait at their caller for five seconds, in which a busy machine may not get on.
    let mut held = [0, 0];
    for turn in 0..wanted * 10 {
        let is_http2 = held[0] >= wanted;
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        held[usize::from(is_http2)] +=
            usize::from(is_held(&world, (&web, listen), turn, [from, to], is_http2));
        if held[1] >= wanted {
            break;
        }
    }
    assert_eq!(held, [wanted; 2], "{:?}", counts(&web));
    // What had no room waited at the old place, and came back from there.
    assert!(web.metrics().sum("lighter_moved_requests_total", &[]) >= 2.0 * wanted as f64);
    assert_eq!(web.metrics().sum("lighter_hold_waiting", &[]), 0.0);
    assert_eq!(losses(&world), 0.0);
}

/// A move, and what becomes of two requests meanwhile. Returns whether there was time for all that is to be seen.
fn is_held(
    world: &World,
    (web, listen): (&Sidecar, SocketAddr),
    turn: usize,
    [from, to]: [&Place; 2],
    is_http2: bool,
) -> bool {
    let name = format!("turn-{turn}");
    let [orders, came, moved, no_room, others] = counts(web);
    let parked = || from.sidecar.metrics().sum("lighter_state_parked_total", &[]);
    let before = (parked(), from.app.count("requests"));
    let told = || web.metrics().sum("lighter_hold_orders_total", &[]);
    let told_before = told();
    from.app.tell("hold/snapshot");
    begin(world, &name, from, to);
    // Until then the old place serves what has no room; and callers are told at the same time.
    wait_until("it is asked for its state", || from.app.count("snapshot.waits") > 0);
    wait_until("the caller's sidecar is told", || told() > told_before);
    let first = ask(listen, is_http2);
    wait_until("it waits", || first.is_finished() || counts(web)[1] > came || parked() > before.0);
    let second = ask(listen, !is_http2);
    wait_until("so does the other one", || second.is_finished() || parked() > before.0);
    from.app.tell("go/snapshot");
    is_done(world, &name);
    let answers = [first, second].map(|asked| asked.join().unwrap());
    let now = counts(web);
    let has_parked = parked() == before.0 + 1.0;
    let is_seen = has_parked && now == [orders + 1.0, came + 2.0, moved + 1.0, no_room + 1.0, others];
    if is_seen {
        for answer in answers {
            assert_eq!(answer, (200, Some(to.app.name.clone())));
        }
        assert_eq!(from.app.count("requests"), before.1);
        let story = story(world, &name);
        let phases = story["phases"].as_array().unwrap();
        assert!(phases.iter().any(|entered| entered["phase"] == "hold"), "{story}");
    }
    is_seen
}

/// What the caller's sidecar counted: orders, requests that were to wait, and of those that went where the state is, those that had no
/// room, and all others that do not wait any more.
fn counts(web: &Sidecar) -> [f64; 5] {
    let metrics = web.metrics();
    let released = |cause| metrics.sum("lighter_hold_released_total", &[("cause", cause)]);
    let (moved, no_room) = (released("moved"), released("full"));
    let orders = metrics.sum("lighter_hold_orders_total", &[("outcome", "held")]);
    let all = metrics.sum("lighter_hold_released_total", &[]);
    [orders, metrics.sum("lighter_hold_requests_total", &[]), moved, no_room, all - moved - no_room]
}

/// Asks once. Gives the status, and which instance has answered, or why none has.
fn ask(door: SocketAddr, is_http2: bool) -> JoinHandle<(u16, Option<String>)> {
    std::thread::spawn(move || {
        if is_http2 {
            return http2::run(async {
                let client = http2::connect(door).await;
                let answer = http2::get(&client, "/r/r0").await.expect("an answer");
                let said = |name| answer.head.headers.get(name).and_then(|value| value.to_str().ok());
                let by = said(INSTANCE).or_else(|| said("x-lighter-error"));
                (answer.head.status.as_u16(), by.map(str::to_owned))
            });
        }
        let mut peer = Peer::connect(door);
        let (head, body) = peer.exchange("GET /r/r0 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
        assert!(matches!(body, Body::Whole(_)), "{body:?}");
        (head.status(), head.get(INSTANCE).or_else(|| head.cause()).map(str::to_owned))
    })
}

/// So many requests have room at a sidecar.
const ROOM: usize = 4;
