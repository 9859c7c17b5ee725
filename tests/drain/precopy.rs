//! A service whose state is copied while it is used, and what has changed meanwhile behind it.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::callers::Callers;
use crate::migrate::{is_done, phases, story};
use crate::places::{Place, SLOW, alone, begin, caller, is_whole, losses, shop};
use crate::registers::App;
use crate::stateful::{FILLER, stays_at};
use crate::support::full;
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![
        alone("precopy::what_has_changed_follows_what_was_copied_and_no_request_fails", moves),
        alone("precopy::an_application_that_does_not_know_what_has_changed_gives_all_of_it", gone),
        alone(
            "precopy::an_application_that_does_not_take_what_has_changed_leaves_the_service_where_it_is",
            fails,
        ),
    ]
}

fn moves() {
    let moves = if full() { 30 } else { 2 };
    let (world, places) = begins();
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);
    for turn in 0..moves {
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        let name = format!("turn-{turn}");
        begin(&world, &name, from, to);
        is_done(&world, &name);
        callers.more_of(&to.app.name, 50);
        assert!(to.serves() && !from.serves());
        let told = story(&world, &name);
        let rounds = copies(&told).len();
        assert_eq!(phases(&told).iter().filter(|phase| *phase == "precopy").count() + 1, rounds, "{told}");
        // All of it first, and then what has changed, at last of what is frozen.
        assert!(rounds >= 3, "{told}");
        for (at, copy) in copies(&told).iter().enumerate() {
            assert_eq!(
                (&copy["changes"], &copy["frozen"]),
                (&(at > 0).into(), &(at + 1 == rounds).into()),
                "{told}"
            );
            let is_long = copy["bytes"].as_u64().unwrap() >= FILLER as u64;
            assert_eq!(is_long, at == 0, "what is long went once: {told}");
        }
    }
    is_whole(&callers.end(), &places);
    let all = |hook: &str| places.iter().map(|place| place.app.count(hook)).sum::<u64>();
    let counted = |hook: &str| {
        let done = [("hook", hook), ("outcome", "done")];
        places
            .iter()
            .map(|place| place.sidecar.metrics().sum("lighter_state_hooks_total", &done))
            .sum::<f64>()
    };
    for (hook, is_once) in [("snapshot", true), ("restore", true), ("changes", false), ("patch", false)] {
        assert_eq!(counted(hook), all(hook) as f64, "{hook}");
        assert!(if is_once { all(hook) == moves as u64 } else { all(hook) >= 2 * moves as u64 }, "{hook}");
    }
    assert_eq!(losses(&world), 0.0);
    let said = world.operator(&["get", "migrations", "turn-0", "-o", "wide"]);
    assert!(said.contains("precopy+") && said.contains("MiB,+"), "{said}");
}

fn gone() {
    let (world, places) = begins();
    let [a, b] = &places;
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);
    a.app.tell("fail/changes");
    begin(&world, "whole", a, b);
    is_done(&world, "whole");
    callers.more_of("b", 50);
    let told = story(&world, "whole");
    // In as many rounds as there may be, as none is short.
    assert_eq!(copies(&told).len(), 5, "{told}");
    assert!(copies(&told).iter().all(|copy| copy["changes"] == false), "{told}");
    let gone = [("hook", "changes"), ("outcome", "gone")];
    assert_eq!(a.sidecar.metrics().sum("lighter_state_hooks_total", &gone), 4.0);
    assert_eq!((b.app.count("patch"), b.app.count("restore")), (0, 5));
    is_whole(&callers.end(), &places);
    assert_eq!(losses(&world), 0.0);
}

fn fails() {
    let (world, places) = begins();
    let [a, b] = &places;
    let (_web, listen) = caller(&world);
    let callers = Callers::start(listen);
    callers.more(200);
    b.app.tell("fail/patch");
    let because = stays_at(&world, &callers, ("patch", "30s"), a, b);
    println!("a patch that fails: {because}");
    assert_eq!(b.app.count("patch"), 1, "who knows what came of the first one");
    assert_eq!(a.app.count("freeze"), 0, "nobody has noticed anything");
    b.app.tell("mend/patch");
    a.app.tell("fail/snapshot");
    let because = stays_at(&world, &callers, ("snapshot", "30s"), a, b);
    println!("a round that fails: {because}");
    a.app.tell("mend/snapshot");
    begin(&world, "well", a, b);
    is_done(&world, "well");
    callers.more_of("b", 50);
    is_whole(&callers.end(), &places);
    assert_eq!(losses(&world), 0.0);
}

/// The Service, with two instances, the first of which has much.
fn begins() -> (World, [Place; 2]) {
    let world = World::new();
    world.apply(&shop(&format!(", changes: /changes{SLOW}")));
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    places[0].app.tell(&format!("filler/{FILLER}"));
    (world, places)
}

fn copies(story: &Value) -> Vec<Value> {
    story["copies"].as_array().cloned().unwrap_or_default()
}
