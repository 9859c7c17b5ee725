//! What a function remembers moves by itself to the device that serves it better, where that pays.

use libtest_mimic::Trial;

use super::{Load, Place, SLOW, caller, held, put, shop, with_runtime};
use crate::migrate::stories;
use crate::places::one_at_a_time;
use crate::support::raw::Peer;
use crate::support::{test_where, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![test_where(
        "functions::planned::a_state_moves_by_itself_to_the_faster_device_where_that_pays",
        || with_runtime(|| one_at_a_time(gains)),
    )]
}

fn gains() {
    let world = World::with("planner: {interval: 200ms}");
    let keeps = |moves: &str| world.apply(&shop("registers", &format!("{SLOW}{moves}")));
    let counted = |labels: &[(&str, &str)]| {
        world.counts().sum("lighter_control_planned_migrations_refused_total", labels)
    };
    let refused = |reason| counted(&[("reason", reason)]);
    keeps("");
    world.apply(&format!("{}---\n{}", device("slow", "csd", 8.0), device("fast", "gpu", 0.5)));
    // Each read takes 20 ms there, one after the other.
    let slow =
        Place::start(&world, "slow", "csd", "mediaBytesPerSecond: 200, LIMITS", "memoryBytes: 4194304");
    let (_web, door) = caller(&world);
    let mut peer = Peer::connect(door);
    put(&mut peer, "x", 7);
    let load = Load::start(door);
    load.more_of("slow", 20);
    assert_eq!(counted(&[]), 0.0, "nobody said that it may move by itself");

    keeps(", move: {when: gain, horizon: 1s, settle: 1s}");
    wait_until("there is no other place", || refused("no_candidate") > 0.0);
    let fast = Place::start(&world, "fast", "gpu", "LIMITS", "memoryBytes: 4194304");
    let before = refused("not_paid");
    wait_until("a second is not worth it", || refused("not_paid") > before + 5.0);
    load.more_of("slow", 20);
    assert!(slow.serves() && stories(&world).is_empty());

    keeps(", move: {when: gain, settle: 1s}");
    wait_until("it is worth it in ten minutes", || fast.serves());
    load.more_of("fast", 100);
    wait_until("it is over", || stories(&world).iter().any(|story| story["outcome"] == "done"));
    // A first try may have been given up where the machine has much to do.
    let stories = stories(&world);
    let story = stories.iter().find(|story| story["outcome"] == "done").expect("it has moved");
    assert!(story["name"].as_str().unwrap().starts_with("shop-gain-"), "{story}");
    assert_eq!((&story["reason"], &story["to"]), (&"gain".into(), &fast.instance.as_str().into()));
    let foreseen = |what: &str| story["foreseen"][what].as_f64().unwrap();
    assert!(foreseen("gainSeconds") > 1.5 * foreseen("costSeconds"), "{story}");
    assert!(world.operator(&["get", "migrations", "-o", "wide"]).contains(" gain:"));
    let judged = || world.counts().sum("lighter_control_planned_migrations_judged_total", &[]);
    wait_until("it is judged", || judged() == 1.0);
    load.end().check();
    assert_eq!(held(&mut peer, "x"), 7);
    let outcomes = |labels| world.counts().sum("lighter_control_planned_migrations_total", labels);
    wait_until("it is counted", || outcomes(&[("outcome", "done")]) > 0.0);
    assert!(outcomes(&[]) >= 1.0);
    assert_eq!(world.counts().sum("lighter_control_state_losses_total", &[]), 0.0);
}

/// What instances of this class are said to be like.
fn device(name: &str, class: &str, factor: f64) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Device\nmetadata: {{name: {name}}}\nspec: {{class: {class}, service: {{name: shop}}, \
         computeFactor: {factor}}}\n"
    )
}
