//! What it costs when somebody dies, in each phase: as [`Toll`] says, and no more.

use super::parts::{Net, Sidecar, Step};
use super::world::{Bounds, OLD, World};
use super::{BASE, EVERYBODY, ONE};
use crate::planted::Planted;
use crate::*;

const WRITES: &[&[Op]] = &[&[Op::Write(1), Op::Write(2)]];

const PHASES: [Phase; 11] = [
    Phase::Plan,
    Phase::Prepare,
    Phase::Warm,
    Phase::Precopy(1),
    Phase::Quiesce,
    Phase::Finalcopy,
    Phase::Fence,
    Phase::Activate,
    Phase::Switch,
    Phase::Forward,
    Phase::DrainOld,
];

impl World {
    fn control_phase(&self) -> Option<Phase> {
        self.control.as_ref().map(Coordinator::phase)
    }

    /// What would happen anyway, until nothing does.
    fn go_on(&mut self, bounds: &Bounds) -> Result<(), String> {
        for _ in 0..1000 {
            let before = self.fingerprint();
            let (on, _) = self.steps(bounds);
            for step in on {
                self.take(step, bounds)?;
                if self.fingerprint() != before {
                    break;
                }
            }
            if self.fingerprint() == before {
                self.pass(bounds)?;
                if self.fingerprint() == before {
                    return Ok(());
                }
            }
        }
        Err("it does not come to rest".into())
    }
}

/// What became of it, and whether a request was at the old place, or on its way there, when that died.
fn dies(class: Class, actor: Actor, phase: Phase, bounds: &Bounds) -> Result<(World, bool), String> {
    let mut world = World::new(bounds);
    if class != Class::Stateless {
        // Something is acknowledged before all that.
        for step in [Step::Call(0), Step::Up(0), Step::Run(0, 0)] {
            world.take(step, bounds)?;
        }
        world.take(Step::Down(0), bounds)?;
    }
    world.get_to(&Bounds { from: phase, ..bounds.clone() })?;
    assert_eq!(world.control_phase(), Some(phase), "{class:?}");
    // Something is under way there, unless it is held.
    let mut at_old = false;
    if class != Class::Stateless {
        world.take(Step::Call(0), bounds)?;
        let sidecar = world.sidecar.as_ref();
        let goes_there = |sidecar: &Sidecar| sidecar.holder.held().is_empty() && sidecar.route.0 == OLD;
        at_old = actor == Actor::Old && sidecar.is_some_and(goes_there);
        if at_old {
            world.take(Step::Up(0), bounds)?;
        }
    }
    world.take(Step::Die(actor), bounds)?;
    world.go_on(bounds)?;
    world.check_rest(bounds)?;
    Ok((world, at_old))
}

#[test]
fn a_death_costs_what_is_said_of_it_in_every_phase() {
    let mut told = 0;
    for class in [Class::Volatile, Class::Stateless] {
        for phase in PHASES {
            let skipped = matches!(
                phase,
                Phase::Precopy(_)
                    | Phase::Quiesce
                    | Phase::Finalcopy
                    | Phase::Fence
                    | Phase::Activate
                    | Phase::Forward
            );
            if class == Class::Stateless && skipped {
                continue;
            }
            for actor in EVERYBODY {
                let scripts = if class == Class::Stateless { &[] } else { WRITES };
                let bounds =
                    Bounds { class, scripts, rounds: 1, holds: true, mortal: EVERYBODY, deaths: 1, ..BASE };
                let toll = Toll::of(class, *actor, phase);
                let case = format!("{actor:?} of {class:?} dies in {phase:?}: {toll:?}");
                let (world, at_old) =
                    dies(class, *actor, phase, &bounds).unwrap_or_else(|wrong| panic!("{case}: {wrong}"));
                let ending = match toll.ending {
                    Ending::GoesOn => Phase::Done,
                    Ending::Aborts => Phase::Aborted,
                    Ending::Returns => Phase::RolledBack,
                };
                assert_eq!(world.control_phase(), Some(ending), "{case}");
                let losses = u32::from(matches!(toll.state, State::Lost | State::MayBeLost));
                assert_eq!(world.store.cell.losses, losses, "{case}");
                if let ([client], false) = (&*world.clients, class == Class::Stateless) {
                    assert_eq!(client.unknown, u8::from(at_old), "{case}");
                    assert!(!at_old || toll.in_flight == InFlight::Unknown, "{case}");
                    let answered = client.done + client.failed + client.unknown;
                    let unanswered = u8::from(toll.in_flight == InFlight::Unanswered);
                    assert_eq!(answered + unanswered, 2, "{case}");
                }
                told += 1;
            }
        }
    }
    println!("{told} deaths");
}

/// The new place serves and acknowledges before anybody has heard that it does; then it dies, and so does the control plane.
fn unheard(planted: Option<Planted>) -> Result<World, String> {
    let bounds = Bounds {
        astray: true,
        scripts: ONE,
        mortal: EVERYBODY,
        deaths: 2,
        from: Phase::Activate,
        planted,
        ..BASE
    };
    let mut world = World::new(&bounds);
    world.get_to(&bounds)?;
    let told = world.net.iter().position(|message| {
        matches!(message, Net::ToPlace(Role::New, Command { order: Order::Serve { .. }, .. }))
    });
    let told = Step::Net(told.ok_or("the new place was not told")?);
    let steps = [told, Step::Hook(1, true), Step::Call(0), Step::Up(1), Step::Run(1, 0), Step::Down(1)];
    for step in steps.into_iter().chain([Step::Die(Actor::Control), Step::Die(Actor::New)]) {
        world.take(step, &bounds)?;
    }
    world.go_on(&bounds)?;
    world.check_rest(&bounds)?;
    Ok(world)
}

#[test]
fn what_was_served_unheard_is_not_lost_unsaid() {
    let world = unheard(None).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!((world.control_phase(), world.store.cell.losses), (Some(Phase::RolledBack), 1));
    let wrong = unheard(Some(Planted::NoJournal)).err().expect("it was found");
    println!("{:?}: {wrong}", Planted::NoJournal);
    assert!(wrong.contains("not linearizable"), "{wrong}");
}
