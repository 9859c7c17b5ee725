//! Much of everything in virtual time: more requests than the model check has, and everything that goes wrong at once, drawn
//! by chance.

use std::time::Duration;

use proptest::prelude::*;

use super::parts::{Sidecar, Step};
use super::world::{Bounds, World};
use super::{BASE, EVERYBODY};
use crate::*;

const SCRIPTS: &[&[Op]] = &[
    &[Op::Write(1), Op::Read, Op::Write(2), Op::Read, Op::Write(3), Op::Read],
    &[Op::Read, Op::Write(11), Op::Read, Op::Write(12), Op::Read],
    &[Op::Write(21), Op::Write(22), Op::Read, Op::Read],
];

/// What may go wrong, of a hundred.
#[derive(Clone, Copy, Debug)]
struct Chances {
    off: u8,
    /// A message is lost.
    loss: u8,
    /// Time passes up to the next timeout rather than something else happening.
    time: u8,
}

/// Lets things happen by chance, and then in order until nothing does.
fn live(bounds: &Bounds, chances: Chances, seed: u64) -> Result<World, String> {
    go(World::new(bounds), bounds, chances, seed)
}

fn go(mut world: World, bounds: &Bounds, chances: Chances, seed: u64) -> Result<World, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..600 {
        world.now += Duration::from_millis(random.u64(0..20));
        world.fire()?;
        let (on, off) = world.steps(bounds);
        let chance = |random: &mut fastrand::Rng, of: u8| random.u8(0..100) < of;
        if chance(&mut random, chances.time)
            && let Some(next) = world.next_timeout()
        {
            world.now = world.now.max(next);
            world.fire()?;
            continue;
        }
        let from = if chance(&mut random, chances.off) && !off.is_empty() { off } else { on };
        let Some(step) = random.choice(from) else { continue };
        if let Step::Net(at) = step
            && chance(&mut random, chances.loss)
        {
            world.lose(at);
            continue;
        }
        // The control plane may die in the middle of what it does.
        let has_control = world.control.is_some() && bounds.deaths > 0;
        world.tear = (has_control && chance(&mut random, 1)).then(|| random.usize(0..4));
        world.take(step, bounds)?;
    }
    // Whoever comes back says how it is.
    for at in 0..2 {
        world.ask(at);
    }
    let calm = Bounds { deaths: 0, breaks: 0, timeouts: 0, ..bounds.clone() };
    for _ in 0..3_000 {
        let before = world.fingerprint();
        let (on, _) = world.steps(&calm);
        for step in on {
            world.take(step, &calm)?;
            if world.fingerprint() != before {
                break;
            }
        }
        if world.fingerprint() != before {
            continue;
        }
        let Some(next) = world.next_timeout() else { break };
        world.now = world.now.max(next);
        world.fire()?;
    }
    world.check_rest(&calm)?;
    Ok(world)
}

impl World {
    /// A message is lost.
    fn lose(&mut self, at: usize) {
        if let Some(message) = self.net.iter().nth(at).copied() {
            self.net.remove(&message);
        }
    }

    fn next_timeout(&self) -> Option<Duration> {
        let places = self.places.iter().flatten().filter_map(|body| body.place.timeout());
        let control = self.control.as_ref().and_then(Coordinator::timeout);
        let sidecar = self.sidecar.as_ref().and_then(Sidecar::timeout);
        places.chain(control).chain(sidecar).min()
    }

    /// Does what is due.
    fn fire(&mut self) -> Result<(), String> {
        self.control(|control, now, out| control.on_timeout(now, out));
        for at in 0..2 {
            self.place(at, |place, now, out| place.on_timeout(now, out));
        }
        self.sidecar_late(self.now)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if super::is_full() { 20_000 } else { 500 }, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_goes_wrong_it_ends_and_nothing_is_lost_unsaid(
        rounds in 0u32..3,
        holds: bool,
        keeps: bool,
        aborts: bool,
        leases: bool,
        fails in 0u8..3,
        deaths in 0u8..4,
        breaks in 0u8..4,
        seed: u64,
    ) {
        let bounds = Bounds {
            scripts: SCRIPTS, keeps, rounds, holds, aborts, leases, fails, deaths, breaks,
            mortal: EVERYBODY, said: 1000, ..BASE
        };
        let chances = Chances { off: 4, loss: 10, time: 5 };
        if let Err(wrong) = live(&bounds, chances, seed) {
            prop_assert!(false, "{}", wrong);
        }
    }

    #[test]
    fn where_nothing_goes_wrong_it_is_done_soon_and_nothing_fails(rounds in 0u32..4, holds: bool, seed: u64) {
        let bounds = Bounds { scripts: &SCRIPTS[..1], rounds, holds, said: 1000, ..BASE };
        let chances = Chances { off: 0, loss: 0, time: 0 };
        match live(&bounds, chances, seed) {
            Ok(world) => {
                prop_assert_eq!(world.control.map(|control| control.phase()), Some(Phase::Done));
                let client = &world.clients[0];
                prop_assert_eq!((client.done as usize, client.failed, client.unknown), (SCRIPTS[0].len(), 0, 0));
                // 600 steps of 10 ms each, and no deadline of any phase.
                prop_assert!(world.now < Duration::from_secs(15), "{:?}", world.now);
            }
            Err(wrong) => prop_assert!(false, "{}", wrong),
        }
    }
}

#[test]
fn twenty_migrations_back_and_forth_lose_nothing() {
    for seed in 0..5 {
        let bounds = Bounds { scripts: &SCRIPTS[..1], rounds: 2, holds: true, said: 1000, ..BASE };
        let chances = Chances { off: 0, loss: 0, time: 0 };
        let mut world = World::new(&bounds);
        for leg in 0..20 {
            world =
                go(world, &bounds, chances, seed * 20 + leg).unwrap_or_else(|wrong| panic!("{leg}: {wrong}"));
            assert_eq!(world.control.as_ref().map(Coordinator::phase), Some(Phase::Done), "{leg}");
            assert_eq!((world.clients[0].failed, world.clients[0].unknown), (0, 0), "{leg}");
            // What it is asked for next begins with what it held.
            world = world.back(&bounds);
        }
        assert_eq!(world.store.cell.migration, 21);
    }
}
