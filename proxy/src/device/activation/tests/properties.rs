//! Whatever happens, in whatever order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Enter(Number),
    End(Number),
    Leave(usize),
    Done(usize, bool),
    Pass(u64),
    Connect,
    Lose,
    Plan(Vec<Number>),
    Ask(Number),
    Dismiss(Number),
    LoseOne(Number),
}

const FUNCTIONS: usize = 5;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..FUNCTIONS).prop_map(Event::Enter),
        4 => (0..FUNCTIONS).prop_map(Event::End),
        1 => (0usize..8).prop_map(Event::Leave),
        6 => (0usize..4, prop::bool::weighted(0.9)).prop_map(|(at, is_well)| Event::Done(at, is_well)),
        3 => (0u64..3000).prop_map(Event::Pass),
        1 => Just(Event::Connect),
        1 => Just(Event::Lose),
        2 => prop::collection::vec(0..FUNCTIONS, 0..FUNCTIONS).prop_map(Event::Plan),
        1 => (0..FUNCTIONS).prop_map(Event::Ask),
        1 => (0..FUNCTIONS).prop_map(Event::Dismiss),
        1 => (0..FUNCTIONS).prop_map(Event::LoseOne),
    ]
}

fn happens(world: &mut World, event: Event) {
    match event {
        Event::Enter(number) => drop(world.enter(number)),
        Event::End(number) => world.end(number),
        Event::Leave(at) => {
            if let Some(ticket) = world.waiting.keys().nth(at).copied() {
                world.leave(ticket);
            }
        }
        Event::Done(at, is_well) => world.done(at, is_well),
        Event::Pass(millis) => world.pass(Duration::from_millis(millis)),
        Event::Connect => world.connect(),
        Event::Lose => {
            world.activation.disconnected();
            world.settle(Vec::new());
        }
        Event::Plan(plan) => {
            if *world.activation.planner() != Planner::Absent {
                world.plan(&plan);
            }
        }
        Event::Ask(number) => {
            world.activation.ask(number, world.now);
            world.settle(Vec::new());
        }
        Event::LoseOne(number) => drop(world.lose(number)),
        Event::Dismiss(number) => {
            world.activation.dismiss(number);
            world.settle(Vec::new());
        }
    }
}

/// Whatever was under way ends.
fn rest(world: &mut World) {
    loop {
        world.all_done();
        let running = world.runs.iter().find(|(_, runs)| **runs > 0).map(|(number, _)| *number);
        match running {
            Some(number) => world.end(number),
            None if world.works.is_empty() => return,
            None => {}
        }
    }
}

proptest! {
    /// Whatever happens: what is active fits, nothing runs that is not, no run is cut (all of that is looked at after each
    /// event), every request that waited comes to one end, and what is wanted gets the room of what is idle.
    #[test]
    fn it_fits_and_every_wait_ends(
        memory in prop::collection::vec(1u64..=20, FUNCTIONS),
        more in 0u64..40,
        most_waiting in 1usize..8,
        slots in 1usize..6,
        events in prop::collection::vec(event(), 0..80),
    ) {
        let budget = memory.iter().max().unwrap() + more;
        let mut world = World { slots, ..World::with(&memory, budget, most_waiting) };
        for event in events {
            happens(&mut world, event);
        }
        let tickets = world.activation.last_ticket;
        // With nobody who plans, and once what runs ends by itself, nobody waits in vain.
        world.activation.disconnected();
        world.settle(Vec::new());
        rest(&mut world);
        // What did not go at first, and was lost, has two such times before it.
        for _ in 0..2 {
            world.pass(LAST_RETRY);
            rest(&mut world);
        }
        prop_assert!(world.waiting.is_empty());
        prop_assert_eq!(world.ended.len() as u64, tickets);
        for number in 0..FUNCTIONS {
            match world.enter(number) {
                Entry::Runs => {}
                Entry::Waits(ticket) => {
                    world.all_done();
                    prop_assert_eq!(world.ended.get(&ticket), Some(&"run"), "idle ones make room at once");
                }
                Entry::Busy | Entry::Full | Entry::Fails => prop_assert!(false, "nobody waits, and all is well"),
            }
            world.end(number);
        }
    }

    /// A plan that does not change comes true, whatever happened before.
    #[test]
    fn a_plan_comes_true(
        memory in prop::collection::vec(1u64..=20, FUNCTIONS),
        more in 0u64..40,
        events in prop::collection::vec(event(), 0..60),
        plan in prop::collection::vec(0..FUNCTIONS, 0..FUNCTIONS),
    ) {
        let budget = memory.iter().max().unwrap() + more;
        let mut world = World::new(&memory, budget);
        for event in events {
            happens(&mut world, event);
        }
        world.connect();
        world.plan(&plan);
        rest(&mut world);
        // Who waits for what is not in it gets it, or is late.
        world.pass(LAST_RETRY);
        rest(&mut world);
        world.plan(&plan);
        rest(&mut world);
        for _ in 0..2 {
            world.pass(LAST_RETRY);
            rest(&mut world);
        }
        let (mut left, mut expected) = (budget, Vec::new());
        for number in plan {
            if !expected.contains(&number) && memory[number] <= left {
                left -= memory[number];
                expected.push(number);
            }
        }
        expected.sort_unstable();
        prop_assert_eq!(world.active(), expected);
        prop_assert!(world.waiting.is_empty());
    }
}
