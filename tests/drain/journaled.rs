//! A service whose state is journaled, under load, while whoever serves is killed (SIGKILL), and whoever keeps the journal leaves:
//! another instance goes on with all that was acknowledged.

use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::callers::Callers;
use crate::migrate::is_done;
use crate::places::{Place, alone, begin, caller, losses};
use crate::stage::ask;
use crate::support::{full, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![
        alone("journaled::nothing_acknowledged_is_lost_where_whoever_serves_is_killed", kills),
        alone("journaled::a_standby_that_leaves_is_followed_and_nothing_is_lost_whoever_dies", leaves),
        alone("journaled::what_nobody_journals_is_lost_and_that_is_found", unjournaled),
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
        let mut leaves = places.remove(keeper(&places).expect("somebody keeps it"));
        println!("{} is to leave", leaves.app.name);
        leaves.sidecar.program.signal(Signal::TERM);
        if turn % 2 == 0 {
            // It waits until another one has everything.
            assert!(leaves.sidecar.program.wait().success());
            let said = leaves.sidecar.program.said();
            assert!(said.contains("the journal that is kept here is to move before the drain"), "{said}");
            assert!(said.contains("the drain begins") && !said.contains("nobody else keeps"), "{said}");
            assert!(keeper(&places).is_some());
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

/// Who is not heard for a moment on a busy machine is not taken for dead.
const LEASE: &str = "leaseSeconds: 5";

fn shop(more: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{port: 80, targetPort: 8080, appProtocol: http}}]\n  \
         state: {{class: journaled, snapshot: /state, restore: /state, changes: /changes, freeze: /freeze, thaw: /thaw{more}}}\n"
    )
}

/// Whether it may be chosen.
fn is_ready(place: &Place) -> bool {
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
    let keeps = |place: &Place| {
        let metrics = place.sidecar.metrics();
        let is = |name| metrics.sum(name, &[]) == 1.0;
        is("lighter_state_standby") && !is("lighter_state_serving")
    };
    places.iter().position(keeps)
}
