//! A service that keeps state in its memory moves from one instance to another while it is used, and whoever dies meanwhile.

use std::net::SocketAddr;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::callers::{Callers, UNKNOWN};
use crate::migrate::{Stream, is_done, is_in, named, phases, stories, story};
use crate::places::{
    PHASES, Place, SLOW, alone, begin, begin_with, begin_within, caller, is_lost_once, is_well, is_whole,
    losses, most_waited, shop,
};
use crate::registers::{App, INSTANCE};
use crate::support::http2;
use crate::support::raw::{Body, Peer};
use crate::support::{full, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        alone("stateful::a_service_with_state_moves_and_no_request_fails", moves),
        alone("stateful::a_write_that_a_move_loses_is_found", lost_write),
        alone("stateful::whoever_stands_by_serves_nothing_until_the_owner_is_gone", owner_killed),
        alone("stateful::an_application_that_begins_again_has_lost_its_state", begins_again),
        alone("stateful::a_control_plane_killed_while_state_moves_goes_on", plane_killed),
        alone("stateful::a_hook_that_fails_and_a_stream_that_stays_change_nothing", fails),
        alone("stateful::a_new_place_that_dies_before_the_decision_changes_nothing", new_killed),
        alone("stateful::an_old_place_that_dies_once_it_has_given_everything_loses_nothing", old_killed),
        alone("stateful::an_abort_while_a_hook_is_slow_changes_nothing", aborted),
    ]
}

/// In half of them all of the state is copied while nobody serves: beside the others, in the same run.
fn moves() {
    let moves = if full() { 100 } else { 8 };
    let world = World::new();
    world.apply(&shop(&format!(", changes: /changes, timeout: 60s, park: {{requests: {ROOM}, wait: 180s}}")));
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    let (web, listen) = caller(&world);
    places[0].app.tell(&format!("filler/{FILLER}"));
    let callers = Callers::start(listen);
    callers.more(300);
    let mut spans = Vec::new();
    for turn in 0..moves {
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        let (began, before) = (callers.record.now(), answered(&web));
        let name = format!("turn-{turn}");
        let rounds = if stops(turn) { ", precopyRounds: 0" } else { "" };
        begin_with(&world, &name, from, to, &format!("{PATIENT}{rounds}"));
        is_done(&world, &name);
        callers.more_of(&to.app.name, 50);
        spans.push((began, callers.record.now()));
        assert!(to.serves() && !from.serves());
        assert_eq!(web.endpoints(), 1, "whoever has the state is known, and nobody else");
        callers.more(200);
        wait_until("each protocol is answered", || {
            answered(&web).iter().zip(before).all(|(now, before)| *now > before)
        });
        assert_eq!(to.app.count("thawing"), 0);
    }
    let record = callers.end();
    is_whole(&record, &places);
    agree(&world, &places, moves);
    let waited = most_waited(&web, places.each_ref().map(|place| &place.sidecar), ROOM);
    assert!(waited > 0.0, "somebody has waited");
    let [there, gone] = [&places[moves % 2], &places[(moves + 1) % 2]];
    is_sent_on(gone, there);
    // And as an operator asks for it, within the times that a migration has by default.
    let said = world.operator(&["migrate", "shop", "--from", &there.instance, "--to", &gone.instance]);
    assert!(said.contains(&format!("default/shop is at {}", gone.instance)), "{said}");
    let mut entered = named(&said);
    entered.retain(|phase| *phase != "hold");
    entered.dedup();
    assert_eq!(entered, [&PHASES[..3], &["precopy"], &PHASES[3..]].concat(), "{said}");
    assert!(gone.serves() && !there.serves());

    let names = |turn: usize| (&*places[turn % 2].app.name, &*places[(turn + 1) % 2].app.name);
    let mut blackouts = [Vec::new(), Vec::new()];
    for (turn, span) in spans.iter().enumerate() {
        let (from, to) = names(turn);
        let blackout = record.blackout(from, to, *span).expect("both have answered");
        blackouts[usize::from(stops(turn))].push(blackout);
    }
    for (how, mut blackouts) in ["with pre-copy", "stop-and-copy"].into_iter().zip(blackouts) {
        blackouts.sort();
        println!(
            "{} moves of {FILLER} bytes and more, {how}: nobody was answered for {:?} at the median, {:?} at most",
            blackouts.len(),
            blackouts[blackouts.len() / 2],
            blackouts[blackouts.len() - 1]
        );
    }
    let ([within, others], [http1, http2, grpc]) = (record.latencies(&spans), answered(&web));
    println!(
        "{} requests ({http1} by HTTP/1.1, {http2} by HTTP/2, {grpc} streams of gRPC): half of them took {:?} and 99 % {:?} during \
         moves, {:?} and {:?} otherwise; at once waited {waited} of {ROOM} at most",
        record.answered(),
        within.0,
        within.1,
        others.0,
        others.1
    );
}

/// Whether in this turn nothing is copied before: at both places, from time to time.
fn stops(turn: usize) -> bool {
    turn % 4 >= 2
}

/// What callers were answered here, by protocol.
fn answered(web: &Sidecar) -> [f64; 3] {
    let metrics = web.metrics();
    ["http1", "http2", "grpc"].map(|protocol| {
        let well = [("direction", "outbound"), ("protocol", protocol), ("code_class", "2xx"), ("cause", "")];
        metrics.sum("lighter_requests_total", &well)
    })
}

/// Whoever goes to where the state was is answered from where it is, however it asks.
fn is_sent_on(gone: &Place, there: &Place) {
    let door = gone.door();
    let before = gone.app.count("requests");
    let sent = || gone.sidecar.metrics().sum("lighter_state_forwarded_total", &[]);
    let sent_before = sent();
    let mut peer = Peer::connect(door);
    let (head, _) = peer.exchange("PUT /r/direct HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\n\r\n7");
    assert_eq!((head.status(), head.get(INSTANCE)), (200, Some(&*there.app.name)), "{head:?}");
    let (head, body) = peer.exchange("GET /r/direct HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!((head.status(), body), (200, Body::Whole(b"7".to_vec())), "{head:?}");
    let body = http2::run(async {
        let client = http2::connect(door).await;
        http2::get(&client, "/r/direct").await.unwrap().body
    });
    assert_eq!(body, b"7");
    Stream::open(door).end();
    assert_eq!(sent() - sent_before, 4.0);
    assert_eq!(gone.app.count("requests"), before, "nothing runs there any more");
}

/// What both sidecars, both applications and the control plane counted of so many moves that are done, which began at the first.
fn agree(world: &World, places: &[Place; 2], moves: usize) {
    let counts = world.counts();
    assert_eq!(counts.sum("lighter_control_migrations_total", &[("outcome", "done")]), moves as f64);
    assert_eq!(losses(world), 0.0);
    let all = stories(world);
    assert_eq!(all.len(), moves);
    for story in &all {
        assert_eq!(story["outcome"], "done", "{story}");
        let phases = phases(story);
        let (before, phases): (Vec<_>, Vec<_>) = phases.into_iter().partition(|phase| phase == "precopy");
        assert_eq!(phases, PHASES, "{story}");
        let turn = story["name"].as_str().and_then(|name| name.strip_prefix("turn-")?.parse().ok()).unwrap();
        assert_eq!(before.is_empty(), stops(turn), "{story}");
    }
    let [a, b] = places;
    for (at, (place, gave, took)) in
        [(a, moves.div_ceil(2), moves / 2), (b, moves / 2, moves.div_ceil(2))].into_iter().enumerate()
    {
        let metrics = place.sidecar.metrics();
        let done =
            |hook| metrics.sum("lighter_state_hooks_total", &[("hook", hook), ("outcome", "done")]) as u64;
        for (hook, times) in [("freeze", gave), ("snapshot", gave), ("restore", took)] {
            assert_eq!(
                [place.app.count(hook), done(hook)],
                [times as u64; 2],
                "{hook} of {}",
                place.app.name
            );
        }
        let more = ["thaw", "changes", "patch"].map(|hook| {
            assert_eq!(place.app.count(hook), done(hook), "{hook} of {}", place.app.name);
            done(hook)
        });
        let hooks = metrics.sum("lighter_state_hooks_total", &[]) as u64;
        assert_eq!(hooks, (2 * gave + took) as u64 + more.iter().sum::<u64>(), "nothing else was asked for");
        // What was given before was not frozen, and nothing else was not.
        let ahead = (0..moves).filter(|turn| turn % 2 == at && !stops(*turn)).count();
        assert_eq!(place.app.count("loose"), ahead as u64);
        assert_eq!(metrics.sum("lighter_state_refused_total", &[]), 0.0);
        assert_eq!(metrics.sum("lighter_state_waiting", &[]), 0.0);
        let bytes = |direction| metrics.sum("lighter_state_copy_bytes_total", &[("direction", direction)]);
        assert!(bytes("sent") >= (gave * FILLER) as f64 && bytes("received") >= (took * FILLER) as f64);
        println!(
            "{}: {} requests waited, {} were sent on",
            place.app.name,
            metrics.sum("lighter_state_parked_total", &[]),
            metrics.sum("lighter_state_forwarded_total", &[])
        );
    }
    let bytes = |place: &Place, direction| {
        place.sidecar.metrics().sum("lighter_state_copy_bytes_total", &[("direction", direction)])
    };
    assert_eq!(bytes(a, "sent"), bytes(b, "received"));
    assert_eq!(bytes(b, "sent"), bytes(a, "received"));
}

/// The same with an application that does not take over all that it is given, so that what finds nothing above is known to find
/// something.
fn lost_write() {
    let world = World::new();
    world.apply(&shop(SLOW));
    let places = Place::both(&world, App::forgetful(&world.path(""), "b", "r0"));
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(300);
    // A write would hide what was there before.
    callers.only_read();
    callers.more(100);
    begin(&world, "away", &places[0], &places[1]);
    is_done(&world, "away");
    callers.more_of("b", 100);
    let record = callers.end();
    assert!(record.failures().is_empty(), "{:#?}", record.failures());
    let found = record.check().unwrap_err();
    assert!(found.starts_with("register r0") && found.contains("not linearizable"), "{found}");
}

fn owner_killed() {
    let world = World::with("leaseSeconds: 2");
    world.apply(&shop(SLOW));
    let [mut a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(300);
    assert_eq!((b.requests(), b.app.count("requests")), (0.0, 0));
    let (head, _) = Peer::connect(b.door()).exchange("GET /r/r0 HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!((head.status(), head.cause()), (503, Some("not_serving")), "{head:?}");
    assert_eq!(b.app.count("requests"), 0);
    assert!(a.serves() && !b.serves());
    assert_eq!(web.endpoints(), 1);

    a.app.tell("hold/stay");
    let stays = [by_http1, by_http2].map(|ask| std::thread::spawn(move || ask(listen)));
    wait_until("both are under way", || a.app.count("stay.waits") == 2);
    a.kill();
    callers.record.lost();
    for stay in stays {
        assert_eq!(stay.join().unwrap(), (503, Some(UNKNOWN.to_owned())));
    }
    callers.more_of("b", 100);
    assert!(b.serves());
    let record = callers.end();
    record.check().unwrap();
    record.check_once(&b.app.numbers()).unwrap();
    assert_eq!(record.unanswered(), 0, "{:#?}", record.failures());
    let (failed, unknown) = (record.failures().len(), record.unknown());
    println!(
        "{failed} requests failed until another one had the service, {unknown} of them as what may be done"
    );
    is_lost_once(&world);
}

/// The same sidecar serves on, with nothing.
fn begins_again() {
    let world = World::new();
    world.apply(&shop(SLOW));
    let [mut a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);
    let epoch = a.epoch();
    a.app.kill();
    callers.record.lost();
    // At once: nobody need have seen that it was gone.
    a.app.start_again(&world.path(""));
    wait_until("it is seen that it is another process", || a.epoch() > epoch && a.serves());
    let before = callers.record.answered();
    wait_until("it is answered again", || callers.record.answered() > before + 50);
    assert!(a.serves() && !b.serves());
    assert!(a.epoch() > epoch);
    assert_eq!(b.app.count("requests"), 0);
    let record = callers.end();
    record.check().unwrap();
    record.check_once(&a.app.numbers()).unwrap();
    is_lost_once(&world);
}

/// In Quiesce and Finalcopy, while a hook takes its time, and in Switch, while a caller does not answer.
fn plane_killed() {
    let mut world = World::new();
    world.apply(&shop(SLOW));
    let [a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (_web, listen) = caller(&world);
    let (deaf, _) = world.caller("deaf", "shop");
    wait_until("it is known", || deaf.endpoints() == 1);
    let callers = Callers::start(listen);
    callers.more(200);

    a.app.tell("hold/snapshot");
    begin(&world, "quiesce", &a, &b);
    is_in(&world, "quiesce");
    wait_until("it is asked for its state", || a.app.count("snapshot.waits") > 0);
    world.kill_plane();
    world.start_plane();
    is_in(&world, "quiesce");
    a.app.tell("go/snapshot");
    is_done(&world, "quiesce");
    callers.more_of("b", 50);

    a.app.tell("hold/restore");
    begin(&world, "copy", &b, &a);
    is_in(&world, "finalcopy");
    wait_until("it is given the state", || a.app.count("restore.waits") > 0);
    world.kill_plane();
    world.start_plane();
    is_in(&world, "finalcopy");
    a.app.tell("go/restore");
    is_done(&world, "copy");
    callers.more_of("a", 50);

    deaf.program.signal(Signal::STOP);
    begin(&world, "switch", &a, &b);
    is_in(&world, "switch");
    world.kill_plane();
    callers.more_of("b", 50);
    world.start_plane();
    callers.more(50);
    // It may have to enter that again, which nobody had to wait to be written.
    is_in(&world, "switch");
    deaf.program.signal(Signal::CONT);
    is_done(&world, "switch");
    callers.more(50);

    let record = callers.end();
    is_whole(&record, &[a, b]);
    for name in ["quiesce", "copy", "switch"] {
        let story = story(&world, name);
        assert_eq!(phases(&story), PHASES, "{story}");
    }
    assert_eq!(losses(&world), 0.0);
}

fn fails() {
    let world = World::new();
    world.apply(&shop(SLOW));
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    let [a, b] = &places;
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);

    a.app.tell("fail/snapshot");
    let because = stays_at(&world, &callers, ("snapshot", "30s"), a, b);
    println!("a snapshot that fails: {because}");
    assert!(a.app.count("thaw") > 0, "it goes on as before");
    a.app.tell("mend/snapshot");

    b.app.tell("fail/restore");
    let because = stays_at(&world, &callers, ("restore", "30s"), a, b);
    println!("a restore that fails: {because}");
    assert!(b.app.count("restore") > 0);
    b.app.tell("mend/restore");

    let stream = Stream::open(listen);
    let because = stays_at(&world, &callers, ("stream", "2s"), a, b);
    println!("a stream that stays: {because}");
    stream.end();

    begin(&world, "well", a, b);
    is_done(&world, "well");
    callers.more_of("b", 50);
    is_whole(&callers.end(), &places);
    assert_eq!(losses(&world), 0.0);
}

/// A migration that does not come about, and how long what runs may take. Gives the reason.
pub fn stays_at(
    world: &World,
    callers: &Callers,
    (name, quiesce): (&str, &str),
    at: &Place,
    other: &Place,
) -> String {
    let before = other.app.count("requests");
    begin_within(world, name, at, other, quiesce);
    wait_until("it is over", || !story(world, name)["outcome"].is_null());
    let story = story(world, name);
    assert_eq!(story["outcome"], "aborted", "{story}");
    callers.more_of(&at.app.name, 50);
    assert!(at.serves() && !other.serves());
    assert_eq!(other.app.count("requests"), before, "nobody was sent there");
    story["because"].as_str().expect("a reason").to_owned()
}

/// It has the state, and was not told to serve. Who waits does not wait for it for longer than the Service allows.
fn new_killed() {
    let world = World::new();
    world.apply(&shop(", park: {wait: 25s}"));
    let [a, mut b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);
    b.app.tell("hold/restore");
    // So it has five seconds for the copy, and who waits has more than that.
    begin_within(&world, "dies", &a, &b, "10s");
    wait_until("it is given the state", || b.app.count("restore.waits") > 0);
    b.kill();
    wait_until("it is aborted", || story(&world, "dies")["outcome"] == "aborted");
    println!("a new place that dies: {}", story(&world, "dies")["because"]);
    callers.more_of("a", 100);
    assert!(a.serves());
    let record = callers.end();
    is_well(&record);
    let numbers = a.app.numbers();
    record.check_once(&numbers).unwrap();
    record.check_done(&numbers).unwrap();
    assert_eq!(losses(&world), 0.0);
}

/// What waits there is answered with why it was not done.
fn old_killed() {
    let world = World::new();
    world.apply(&shop(SLOW));
    let [mut a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);
    b.app.tell("hold/restore");
    begin(&world, "dies", &a, &b);
    wait_until("it is given the state", || b.app.count("restore.waits") > 0);
    // From its freeze on it does nothing.
    let mut numbers = a.app.numbers();
    a.kill();
    b.app.tell("go/restore");
    callers.more_of("b", 100);
    assert!(b.serves());
    let record = callers.end();
    record.check().unwrap();
    numbers.extend(b.app.numbers());
    record.check_once(&numbers).unwrap();
    record.check_done(&numbers).unwrap();
    assert_eq!(record.unanswered(), 0, "{:#?}", record.failures());
    println!("{} requests failed as the old place died", record.failures().len());
    assert_eq!(losses(&world), 0.0);
}

fn aborted() {
    let world = World::new();
    world.apply(&shop(SLOW));
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    let [a, b] = &places;
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);
    for (name, hook, of) in [("snapshot", "snapshot", a), ("restore", "restore", b)] {
        of.app.tell(&format!("hold/{hook}"));
        begin(&world, name, a, b);
        wait_until("it is asked", || of.app.count(&format!("{hook}.waits")) > 0);
        world.operator(&["migrate", "--abort", name]);
        wait_until("it is aborted", || story(&world, name)["outcome"] == "aborted");
        assert_eq!(story(&world, name)["because"], "somebody asked for it");
        callers.more_of("a", 100);
        of.app.tell(&format!("go/{hook}"));
        assert!(a.serves() && !b.serves());
        assert_eq!(b.app.count("requests"), 0);
    }
    begin(&world, "well", a, b);
    is_done(&world, "well");
    callers.more_of("b", 50);
    is_whole(&callers.end(), &places);
    assert_eq!(losses(&world), 0.0);
}

/// What a request that the application keeps is answered, and the cause that a sidecar names.
fn by_http1(door: SocketAddr) -> (u16, Option<String>) {
    let mut peer = Peer::connect(door);
    let (head, body) = peer.exchange("GET /stay HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    assert!(matches!(body, Body::Whole(_)), "{body:?}");
    assert!(peer.rest().is_empty(), "one answer");
    (head.status(), head.cause().map(str::to_owned))
}

fn by_http2(door: SocketAddr) -> (u16, Option<String>) {
    http2::run(async {
        let client = http2::connect(door).await;
        let answer = http2::get(&client, "/stay").await.expect("an answer");
        assert!(answer.cut.is_none(), "{answer:?}");
        let cause = answer.head.headers.get("x-lighter-error").and_then(|cause| cause.to_str().ok());
        (answer.head.status.as_u16(), cause.map(str::to_owned))
    })
}

/// So much the state is long, beside the registers.
pub const FILLER: usize = 1_500_000;

/// So many requests have room at a sidecar: one more than callers have under way.
const ROOM: usize = 16;

/// The times of a migration that may take its time.
const PATIENT: &str = "prepareTimeout: 60s, quiesceTimeout: 60s, switchTimeout: 60s, drainTimeout: 60s";
