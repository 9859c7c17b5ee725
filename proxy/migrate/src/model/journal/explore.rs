//! Looks at what may become of the journal.

use std::collections::{HashSet, VecDeque};

use super::steps::Step;
use super::{Limits, World};
use crate::model::is_full;
use crate::planted::Planted;

/// Looks at every state within `limits`. Returns how many there are.
fn explore(limits: &Limits, most: usize) -> Result<usize, String> {
    let mut first = World::new(limits);
    if !limits.is_first {
        first = journaled(first, limits)?;
    }
    if limits.is_moved {
        first = moved(first, limits)?;
    }
    let mut seen = HashSet::from([first.fingerprint()]);
    let mut paths: Vec<(usize, String)> = vec![(0, String::new())];
    let mut next = VecDeque::from([(first, 0)]);
    while let Some((world, at)) = next.pop_front() {
        let wrong = |paths: &[(usize, String)], what: String| {
            let (mut at, mut steps) = (at, Vec::new());
            while at != 0 {
                steps.push(paths[at].1.as_str());
                at = paths[at].0;
            }
            steps.reverse();
            format!("{what}, after\n{}", steps.join("\n"))
        };
        if seen.len() > most {
            return Err(wrong(&paths, format!("more than {most} states")));
        }
        let mut gets_on = false;
        for (step, is_on) in world.steps(limits) {
            let mut then = world.clone();
            then.take(step, limits).map_err(|what| wrong(&paths, format!("{what}: {step:?}")))?;
            then.rest();
            let fingerprint = then.fingerprint();
            gets_on |= is_on && fingerprint != world.fingerprint();
            if seen.insert(fingerprint) {
                paths.push((at, format!("{step:?}")));
                next.push_back((then, paths.len() - 1));
            }
        }
        if !gets_on {
            world.check_rest().map_err(|what| wrong(&paths, what))?;
        }
    }
    Ok(seen.len())
}

/// The same where somebody keeps the journal by now, and has everything.
fn journaled(mut world: World, limits: &Limits) -> Result<World, String> {
    loop {
        let mut next = None;
        for (step, _) in world.steps(limits).into_iter().rev().filter(|(_, is_on)| *is_on) {
            let mut then = world.clone();
            then.take(step, limits)?;
            then.rest();
            if then.fingerprint() != world.fingerprint() {
                next = Some(then);
                break;
            }
        }
        match next {
            Some(next) => world = next,
            None => return Ok(world),
        }
    }
}

/// The same where something was acknowledged, the service has moved since, and whoever had it is gone or not reached.
fn moved(mut world: World, limits: &Limits) -> Result<World, String> {
    let from = world.owner;
    world.take(Step::Write(from), limits)?;
    let mut world = journaled(world, limits)?;
    let standby = world.standby.as_ref().and_then(|standby| standby.instance);
    let to =
        (0..limits.instances).find(|at| *at != from && Some(*at) != standby).ok_or("there are too few")?;
    world.take(Step::Move(to), limits)?;
    if limits.unreached != Some(from) {
        world.take(Step::Die(from), limits)?;
    }
    world.rest();
    world.spent = Default::default();
    Ok(world)
}

const BASE: Limits = Limits {
    instances: 3,
    writes: 1,
    deaths: 0,
    cuts: 0,
    leaves: 0,
    moves: 0,
    doubles: 0,
    losses: 0,
    restarts: 0,
    is_first: false,
    is_moved: false,
    unreached: None,
    planted: None,
};

fn show(what: &str, limits: &Limits) {
    let began = std::time::Instant::now();
    match explore(limits, if is_full() { 20_000_000 } else { 400_000 }) {
        Ok(states) => println!("journal, {what}: {states} states, {:?}", began.elapsed()),
        Err(wrong) => panic!("journal, {what}: {wrong}"),
    }
}

#[test]
fn nothing_acknowledged_is_lost_while_not_both_are_dead() {
    show("nobody keeps it yet, and one dies", &Limits { is_first: true, deaths: 1, ..BASE });
    show("two, and one dies", &Limits { instances: 2, writes: 2, deaths: 1, ..BASE });
    show("three, and one dies", &Limits { deaths: 1, ..BASE });
    show("one is not heard", &Limits { cuts: 1, ..BASE });
    show("one leaves", &Limits { leaves: 1, ..BASE });
    show("and one dies", &Limits { leaves: 1, deaths: 1, ..BASE });
    show("it moves", &Limits { moves: 1, ..BASE });
    show("one is not reached", &Limits { losses: 1, ..BASE });
    show("something comes twice", &Limits { doubles: 1, deaths: 1, ..BASE });
    let moved = Limits { is_moved: true, deaths: 1, ..BASE };
    show("it has moved, one is not reached, and one dies", &Limits { losses: 1, ..moved });
    show("it has moved, one leaves, and one dies", &Limits { leaves: 1, ..moved });
    show("it has moved, an application begins again, and one dies", &Limits { restarts: 1, ..moved });
    show(
        "it has moved, and one is never reached",
        &Limits { unreached: Some(0), deaths: 0, writes: 2, ..moved },
    );
    if is_full() {
        show("nobody keeps it yet, and one is not heard", &Limits { is_first: true, cuts: 1, ..BASE });
        show("one leaves, and one is not heard", &Limits { leaves: 1, cuts: 1, ..BASE });
        show("it moves, and one dies", &Limits { moves: 1, deaths: 1, ..BASE });
        show("one is not reached, and one dies", &Limits { losses: 1, deaths: 1, ..BASE });
        show("one leaves, and more is written", &Limits { leaves: 1, deaths: 1, writes: 2, ..BASE });
    }
}

#[test]
fn whatever_goes_wrong_at_once_nothing_acknowledged_is_lost() {
    let seeds = if is_full() { 50_000 } else { 1_000 };
    for seed in 0..seeds {
        let mut random = fastrand::Rng::with_seed(seed);
        let some = |random: &mut fastrand::Rng| random.u8(0..3);
        let limits = Limits {
            instances: random.u8(2..5),
            writes: 7,
            deaths: random.u8(0..2),
            cuts: random.u8(0..2),
            leaves: some(&mut random),
            moves: some(&mut random),
            doubles: 20,
            losses: some(&mut random),
            restarts: some(&mut random),
            is_first: true,
            is_moved: false,
            unreached: None,
            planted: None,
        };
        live(&limits, &mut random).unwrap_or_else(|wrong| panic!("seed {seed}, {limits:?}: {wrong}"));
    }
}

/// Lets things happen by chance, and then in order until nothing does.
fn live(limits: &Limits, random: &mut fastrand::Rng) -> Result<(), String> {
    let mut world = World::new(limits);
    for turn in 0..700 {
        let steps = world.steps(limits).into_iter();
        let steps: Vec<Step> = steps
            .filter(|(_, is_on)| *is_on || turn < 300 && random.u8(0..10) == 0)
            .map(|(step, _)| step)
            .collect();
        let Some(step) = random.choice(steps) else { break };
        world.take(step, limits).map_err(|what| format!("{what}: {step:?}"))?;
        world.rest();
    }
    let gets_on = world.steps(limits).iter().any(|(_, is_on)| *is_on);
    if gets_on { Ok(()) } else { world.check_rest() }
}

#[test]
fn every_fault_planted_in_the_journal_is_found() {
    let leaves = Limits { leaves: 1, ..BASE };
    let dies = Limits { deaths: 1, ..leaves };
    let moved = Limits { is_moved: true, deaths: 1, ..BASE };
    let faults = [
        (Planted::ConfirmEarly, dies, "1 was acknowledged, and it begins with 0"),
        (Planted::HeirAlone, dies, "1 was acknowledged, and it begins with 0"),
        (
            Planted::InheritOpen,
            Limits { instances: 2, cuts: 1, ..BASE },
            "1 was acknowledged, and whoever serves has 0",
        ),
        (Planted::NameAtOnce, dies, "a loss though whoever keeps the journal is there"),
        (Planted::PromoteEarly, dies, "1 was acknowledged, and it begins with 0"),
        (Planted::LetGoFirst, leaves, "whoever serves is told that it does not"),
        (Planted::WaitOn, leaves, "an answer waits for ever"),
        (
            Planted::ExactView,
            Limits { losses: 1, ..moved },
            "a loss though whoever keeps the journal is there",
        ),
        (
            Planted::ExactView,
            Limits { leaves: 1, ..moved },
            "a loss though whoever keeps the journal is there",
        ),
        (
            Planted::ExactView,
            Limits { restarts: 1, ..moved },
            "a loss though whoever keeps the journal is there",
        ),
    ];
    for (planted, limits, breaks) in faults {
        match explore(&Limits { planted: Some(planted), ..limits }, 400_000) {
            Ok(states) => panic!("{planted:?} is not found in {states} states"),
            Err(wrong) => {
                println!("{planted:?}: {}", wrong.split(", after").next().unwrap_or_default());
                assert!(wrong.starts_with(breaks), "{planted:?} breaks something else: {wrong}");
            }
        }
    }
}
