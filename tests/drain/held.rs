//! Requests to a service that moves with its state wait at the sidecars of their callers.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use http::Request;
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
        alone("held::no_more_waits_than_may_and_all_else_is_told_so", || bounded(&BY_COUNT)),
        alone("held::what_waits_takes_no_more_bytes_than_it_may_and_all_else_is_told_so", || {
            bounded(&BY_BYTES)
        }),
    ]
}

/// More requests at once than the caller's sidecar and the old place have room for. What waits may be bounded by how many there are, or
/// by what they take.
fn bounded(room: &Room) {
    let world = World::new();
    world.apply(&shop(&format!(", timeout: 60s, park: {{{}, wait: 180s}}", room.says)));
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    let (web, listen) = caller(&world);
    wait_until("the caller's sidecar is heard", || web.metrics().sum("lighter_registry_known", &[]) == 1.0);
    // Requests wait at their caller for five seconds, in which a busy machine may not get on.
    for turn in 0..10 {
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        overfill(&world, (&web, listen), turn, [from, to], room);
        if peaks(&web, "hold")[0] > 0.0 {
            break;
        }
    }
    let [held, parked] = [peaks(&web, "hold"), peaks(&places[0].sidecar, "state")];
    println!("{}: at most {held:?} waited at the caller, and {parked:?} at the old place", room.says);
    for [count, bytes] in [held, parked] {
        assert!(count > 0.0 && count <= room.requests as f64, "{count} of {}", room.requests);
        assert!(bytes >= count * room.filler as f64, "{bytes} for {count}");
        assert!(bytes > 0.0 && bytes <= room.bytes, "{bytes} of {}", room.bytes);
    }
    assert_eq!(parked[0], room.requests as f64, "what has room is not refused");
    assert_eq!(losses(&world), 0.0);
}

/// A move during which more comes than has room.
fn overfill(
    world: &World,
    (web, listen): (&Sidecar, SocketAddr),
    turn: usize,
    [from, to]: [&Place; 2],
    room: &Room,
) {
    let name = format!("narrow-{turn}");
    let told = || web.metrics().sum("lighter_hold_orders_total", &[("outcome", "held")]);
    let refusals = || from.sidecar.metrics().sum("lighter_state_refused_total", &[("cause", "full")]);
    let before = (told(), refusals());
    from.app.tell("hold/snapshot");
    begin(world, &name, from, to);
    wait_until("it is asked for its state", || from.app.count("snapshot.waits") > 0);
    wait_until("the caller's sidecar is told", || told() > before.0);
    let waiting = || {
        // In this order nothing that goes there meanwhile counts twice.
        let parked = from.sidecar.metrics().sum("lighter_state_waiting", &[]);
        let held = web.metrics().sum("lighter_hold_waiting", &[]);
        let room = room.requests as f64;
        assert!(held <= room && parked <= room, "{held} and {parked} of {room}");
        (held + parked) as usize
    };
    let asked: Vec<_> = (0..5 * room.requests).map(|at| ask(listen, at % 2 == 1, room.filler)).collect();
    // What waits at its caller for too long goes to the old place, and finds no room there.
    wait_until("nobody else comes", || {
        asked.iter().filter(|asked| asked.is_finished()).count() + waiting() >= asked.len()
    });
    from.app.tell("go/snapshot");
    is_done(world, &name);
    let (served, refused): (Vec<_>, Vec<_>) =
        asked.into_iter().map(|asked| asked.join().unwrap()).partition(|(status, _)| *status == 200);
    assert!((room.requests..=2 * room.requests).contains(&served.len()), "{served:?}");
    assert!(served.iter().all(|(_, by)| by.as_deref() == Some(&*to.app.name)), "{served:?}");
    let is_full =
        |(status, why): &(u16, Option<String>)| *status == 503 && why.as_deref() == Some("park_overflow");
    assert!(refused.iter().all(is_full), "{refused:?}");
    assert_eq!(refusals() - before.1, refused.len() as f64);
}

/// How many waited at once at most at one side of a sidecar, and how many bytes they took.
fn peaks(of: &Sidecar, side: &str) -> [f64; 2] {
    let metrics = of.metrics();
    ["", "_bytes"].map(|what| metrics.sum(&format!("lighter_{side}_waiting_peak{what}"), &[]))
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
    let first = ask(listen, is_http2, 0);
    wait_until("it waits", || first.is_finished() || counts(web)[1] > came || parked() > before.0);
    let second = ask(listen, !is_http2, 0);
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

/// Asks once, by a head with so much in it beside the usual. Gives the status, and which instance has answered, or why none has.
fn ask(door: SocketAddr, is_http2: bool, filler: usize) -> JoinHandle<(u16, Option<String>)> {
    let filler = "x".repeat(filler);
    std::thread::spawn(move || {
        if is_http2 {
            return http2::run(async {
                let client = http2::connect(door).await;
                let request = Request::get("http://shop/r/r0").header("x-filler", filler);
                let answer = http2::exchange(&client, request.body(Vec::new()).unwrap()).await;
                let answer = answer.expect("an answer");
                let said = |name| answer.head.headers.get(name).and_then(|value| value.to_str().ok());
                let by = said(INSTANCE).or_else(|| said("x-lighter-error"));
                (answer.head.status.as_u16(), by.map(str::to_owned))
            });
        }
        let mut peer = Peer::connect(door);
        let request =
            format!("GET /r/r0 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nX-Filler: {filler}\r\n\r\n");
        let (head, body) = peer.exchange(request);
        assert!(matches!(body, Body::Whole(_)), "{body:?}");
        (head.status(), head.get(INSTANCE).or_else(|| head.cause()).map(str::to_owned))
    })
}

/// How much has room at a sidecar, and what comes.
struct Room {
    /// As the Service says it.
    says: &'static str,
    /// So many requests, of those that come.
    requests: usize,
    /// They take no more than that: what a place counts of a request that waits is its head, as it has read no more.
    bytes: f64,
    /// So long is what each has in its head beside the usual.
    filler: usize,
}

const BY_COUNT: Room = Room { says: "requests: 4", requests: 4, bytes: (16 << 20) as f64, filler: 0 };
const BY_BYTES: Room = Room { says: "bytes: 65536", requests: 3, bytes: 65536.0, filler: 20_000 };
