//! A service whose state is journaled, under load, while whoever serves is killed (SIGKILL), and whoever keeps the journal leaves:
//! another instance goes on with all that was acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::callers::{Beside, Callers};
use crate::migrate::is_done;
use crate::partition::{Relay, Way};
use crate::places::{Place, alone, begin, caller, losses};
use crate::stage::ask;
use crate::support::{full, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![
        alone("journaled::nothing_acknowledged_is_lost_where_whoever_serves_is_killed", kills),
        alone("journaled::a_standby_that_leaves_is_followed_and_nothing_is_lost_whoever_dies", leaves),
        alone("journaled::what_nobody_journals_is_lost_and_that_is_found", unjournaled),
        alone("journaled::an_instance_that_is_cut_off_acknowledges_nothing_that_the_next_one_lacks", cut_off),
    ]
}

fn kills() {
    let kills = if full() { 50 } else { 2 };
    let world = World::with(LEASE);
    world.apply(&shop(""));
    let mut places = vec![Place::another(&world, "i0")];
    wait_until("the first one serves", || places[0].serves());
    let (_web, listen) = caller(&world);
    let request = "GET /r/alone HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    let refused = Some((503, Some("no_standby".to_owned())));
    wait_until("nothing runs while nobody keeps the journal", || ask(listen, request) == refused);
    places.extend(["i1", "i2"].map(|name| Place::another(&world, name)));
    wait_until("one keeps the journal", || keeper(&places).is_some());
    let callers = Callers::start_requests(listen);
    callers.more_of("i0", 100);
    for turn in 0..kills {
        std::thread::sleep(Duration::from_millis(fastrand::u64(..300)));
        wait_until("one keeps the journal", || keeper(&places).is_some());
        let mut dead = places.remove(server(&places));
        println!("{} dies", dead.app.name);
        match turn % 3 {
            // Its application runs on, and nobody reaches it.
            0 => dead.kill_sidecar(),
            // Its sidecar notices, and says so.
            1 => dead.app.kill(),
            _ => dead.kill(),
        }
        let heir = places[server(&places)].app.name.clone();
        callers.more_of(&heir, 50);
        drop(dead);
        callers.record.settled();
        places.push(Place::another(&world, &format!("i{}", turn + 3)));
        wait_until("another one keeps the journal", || keeper(&places).is_some());
        callers.more_of(&heir, 50);
    }
    // It moves as well.
    let from = server(&places);
    let to = (from + 1) % places.len();
    begin(&world, "move", &places[from], &places[to]);
    is_done(&world, "move");
    callers.more_of(&places[to].app.name, 50);
    wait_until("somebody keeps the journal of that", || {
        keeper(&places).is_some_and(|keeper| keeper != to && server(&places) == to)
    });
    let told = world.operator(&["get", "migrations", "-o", "wide"]);
    assert!(told.contains("journaled"), "{told}");
    let record = callers.end();
    let failures = record.failures();
    println!("{} requests failed", failures.len());
    assert_eq!((record.unanswered(), record.unnamed()), (0, 0), "{failures:#?}");
    record.check().unwrap();
    record.check_distinct().unwrap();
    assert_eq!(losses(&world), 0.0);
    assert!(world.counts().sum("lighter_control_state_takeovers_total", &[]) >= f64::from(kills));
}

fn leaves() {
    let turns = if full() { 20 } else { 2 };
    let world = World::with(LEASE);
    world.apply(&shop(""));
    let mut places = vec![Place::another(&world, "i0")];
    wait_until("the first one serves", || places[0].serves());
    let (_web, listen) = caller(&world);
    places.extend(["i1", "i2"].map(|name| Place::another(&world, name)));
    wait_until("one keeps the journal", || keeper(&places).is_some());
    wait_until("all can", || places.iter().all(is_ready));
    let callers = Callers::start_requests(listen);
    callers.more_of("i0", 100);
    for turn in 0..turns {
        let mut keeps = None;
        wait_until("one keeps the journal", || {
            keeps = keeper(&places);
            keeps.is_some()
        });
        let mut leaves = places.remove(keeps.expect("somebody keeps it"));
        println!("{} is to leave", leaves.app.name);
        leaves.sidecar.program.signal(Signal::TERM);
        if turn % 2 == 0 {
            // It waits until another one has everything.
            assert!(leaves.sidecar.program.wait().success());
            let said = leaves.sidecar.program.said();
            assert!(said.contains("the journal that is kept here is to move before the drain"), "{said}");
            assert!(said.contains("the drain begins") && !said.contains("nobody else keeps"), "{said}");
            wait_until("another one keeps the journal", || keeper(&places).is_some());
            callers.more_of(&places[server(&places)].app.name, 50);
        } else {
            // Whoever has everything by now goes on with it.
            std::thread::sleep(Duration::from_millis(fastrand::u64(..100)));
            let mut dead = places.remove(server(&places));
            println!("{} dies", dead.app.name);
            dead.kill();
            // Where that is the one that leaves, it moves on from there.
            wait_until("another one serves", || places.iter().any(Place::serves));
            assert!(leaves.sidecar.program.wait().success());
            let said = leaves.sidecar.program.said();
            assert!(!said.contains("is served here is lost"), "{said}");
            callers.record.settled();
        }
        while places.len() < 3 {
            places.push(Place::another(&world, &format!("i{}", 3 * turn + 3 + places.len())));
        }
        wait_until("one keeps the journal", || keeper(&places).is_some());
        wait_until("all can", || places.iter().all(is_ready));
        callers.more_of(&places[server(&places)].app.name, 50);
    }
    let record = callers.end();
    let failures = record.failures();
    println!("{} requests failed", failures.len());
    assert_eq!((record.unanswered(), record.unnamed()), (0, 0), "{failures:#?}");
    record.check().unwrap();
    record.check_distinct().unwrap();
    assert_eq!(losses(&world), 0.0);
}

fn unjournaled() {
    let world = World::with(LEASE);
    world.apply(&shop(", whenAlone: serve"));
    let mut alone = Place::another(&world, "i0");
    wait_until("it serves", || alone.serves());
    let (_web, listen) = caller(&world);
    let callers = Callers::start_requests(listen);
    callers.more_of("i0", 100);
    let unjournaled = [("outcome", "unjournaled")];
    let answers = alone.sidecar.metrics().sum("lighter_state_journal_answers_total", &unjournaled);
    assert!(answers >= 100.0, "{answers}");
    alone.kill();
    let _other = Place::another(&world, "i1");
    callers.more_of("i1", 100);
    let record = callers.end();
    assert_eq!((record.unanswered(), record.unnamed()), (0, 0), "{:#?}", record.failures());
    let found = record.check().unwrap_err();
    println!("{found}");
    assert!(found.contains("not linearizable"), "{found}");
    assert_eq!(losses(&world), 1.0);
}

/// The one that serves is not heard for longer than its lease, and is reached by callers and by its standby.
fn cut_off() {
    let world = World::with("leaseSeconds: 2");
    world.apply(&shop(", park: {wait: 4s}"));
    let relay = Relay::to(world.address);
    let old = Place::another_by(&world, "i0", relay.address);
    wait_until("the first one serves", || old.serves());
    let (_web, listen) = caller(&world);
    let others = ["i1", "i2"].map(|name| Place::another(&world, name));
    wait_until("one keeps the journal", || keeper(&others).is_some());
    let callers = Callers::start_requests(listen);
    callers.more_of("i0", 100);
    let beside = Beside::start(old.door(), &callers.record);
    wait_until("it is reached by its door", || beside.answered("i0") > 10);
    relay.set(Some(Way::Ends));
    wait_until("another one takes over", || others.iter().any(Place::serves));
    let heir = &others[server(&others)];
    callers.record.settled();
    let asked = beside.asked();
    wait_until("it is asked on", || beside.asked() > asked + 10);
    let has = heir.app.register("beside");
    let said = beside.said();
    // One was under way when the next one began.
    let (before, behind) = said.split_at(asked + 1);
    let acknowledged = before.iter().map(|said| said.value).max();
    println!("it has acknowledged {acknowledged:?}, and the next one has {has}");
    assert!(acknowledged <= Some(has));
    assert!(behind.iter().all(|said| said.by.is_none()), "it answers in an epoch that is over: {behind:?}");
    callers.more_of(&heir.app.name, 50);
    relay.set(None);
    wait_until("it hears that it has moved", || !old.serves());
    wait_until("what comes to it is sent on", || beside.answered(&heir.app.name) > 10);
    callers.more_of(&heir.app.name, 50);
    let mut sums = BTreeSet::new();
    let said = beside.end();
    let mut adds = said.iter().filter(|said| said.by.is_some() && said.adds);
    assert!(adds.all(|said| sums.insert(said.value)), "one was lost behind its answer: {said:?}");
    let record = callers.end();
    let failures = record.failures();
    println!("{} requests failed", failures.len());
    assert_eq!((record.unanswered(), record.unnamed()), (0, 0), "{failures:#?}");
    record.check().unwrap();
    record.check_distinct().unwrap();
    assert_eq!(losses(&world), 0.0);
    assert_eq!(world.counts().sum("lighter_control_state_takeovers_total", &[]), 1.0);
}

/// Who is not heard for a moment on a busy machine is not taken for dead.
pub const LEASE: &str = "leaseSeconds: 5";

pub fn shop(more: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{port: 80, targetPort: 8080, appProtocol: http}}]\n  \
         state: {{class: journaled, snapshot: /state, restore: /state, changes: /changes, freeze: /freeze, thaw: /thaw{more}}}\n"
    )
}

/// Whether it may be chosen.
pub fn is_ready(place: &Place) -> bool {
    place.sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0
}

/// Which of them serves.
fn server(places: &[Place]) -> usize {
    let serves = || places.iter().position(Place::serves);
    wait_until("one serves", || serves().is_some());
    serves().expect("one serves")
}

/// Which of them keeps the journal, and has all of it.
fn keeper(places: &[Place]) -> Option<usize> {
    places.iter().position(keeps)
}

/// Whether it keeps the journal, and has all of it.
pub fn keeps(place: &Place) -> bool {
    let metrics = place.sidecar.metrics();
    let is = |name| metrics.sum(name, &[]) == 1.0;
    is("lighter_state_standby") && !is("lighter_state_serving")
}
