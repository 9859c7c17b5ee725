//! A native service with state moves by itself to where it is served better, where that pays.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::callers::Callers;
use crate::migrate::{is_done, stories, story};
use crate::places::{Place, SLOW, alone, begin, caller, is_whole, losses, shop};
use crate::registers::App;
use crate::support::{full, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![alone("planned::a_native_service_moves_by_itself_where_that_pays_and_not_before", gains)]
}

/// Of two instances that are no devices nobody knows which is the faster one until the state has been at both.
fn gains() {
    let world = World::with("planner: {interval: 200ms}");
    let keeps = |moves: &str| world.apply(&shop(&format!("{SLOW}, move: {{when: gain, settle: 1s{moves}}}")));
    let counted = |what: &str, labels: &[(&str, &str)]| {
        world.counts().sum(&format!("lighter_control_planned_migrations{what}_total"), labels)
    };
    let not_paid = || counted("_refused", &[("reason", "not_paid")]);
    keeps(", horizon: 1s");
    let places = Place::both(&world, App::start(&world.path(""), "b"));
    let [a, b] = &places;
    a.app.tell("slow/50");
    b.app.tell("slow/400");
    let (_web, listen) = caller(&world);
    let callers = Callers::start_requests(listen);
    wait_until("they are alike, as far as anybody knows", || not_paid() > 0.0);
    assert!(a.serves() && stories(&world).is_empty());

    // So long nobody serves while it moves, as is known from then on.
    a.app.tell("hold/snapshot");
    begin(&world, "taught", a, b);
    wait_until("it is asked for its state", || a.app.count("snapshot.waits") > 0);
    std::thread::sleep(Duration::from_millis(500));
    a.app.tell("go/snapshot");
    is_done(&world, "taught");
    // It is judged once requests were measured here, and then it is known what they took at both.
    let before = not_paid();
    wait_until("what is saved in a second is less than that", || not_paid() > before + 1.0);
    assert!(b.serves() && stories(&world).len() == 1);
    assert_eq!(counted("", &[]), 0.0);

    keeps("");
    wait_until("it is worth it in ten minutes", || a.serves());
    callers.more_of("a", 50);
    wait_until("it is over", || {
        stories(&world).iter().filter(|story| story["outcome"] == "done").count() == 2
    });
    // A first try may have been given up where the machine has much to do.
    let stories = stories(&world);
    let gained = stories.iter().find(|story| story["reason"] == "gain" && story["outcome"] == "done");
    let gained = gained.expect("it has moved by itself");
    assert!(gained["name"].as_str().unwrap().starts_with("shop-gain-"), "{gained}");
    assert_eq!((&gained["from"], &gained["to"]), (&b.instance.as_str().into(), &a.instance.as_str().into()));
    let foreseen = |what: &str| gained["foreseen"][what].as_f64().unwrap();
    assert!(foreseen("gainSeconds") > 1.5 * foreseen("costSeconds"), "{gained}");
    assert_eq!(story(&world, "taught")["reason"], "asked");
    let said = world.operator(&["get", "migrations", "-o", "wide"]);
    let reasons = |of: &str| said.lines().filter(|line| line.contains(of)).count();
    assert!(reasons(" gain:") >= 1 && reasons(" asked ") == 1, "{said}");
    wait_until("it is counted", || counted("", &[("outcome", "done")]) == 1.0);
    if full() {
        wait_until("it has paid", || counted("_judged", &[("verdict", "paid")]) == 1.0);
    }
    is_whole(&callers.end(), &places);
    assert_eq!(losses(&world), 0.0);
}
