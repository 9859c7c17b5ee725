//! Services whose state may move for gain: where each is, where else it could be, and Migrations that are asked for as another
//! instance would serve better. Which one that is, the planner decides.

use std::sync::Arc;
use std::time::Duration;

use lighter_config::manifest::Key as ResourceKey;
use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Migration, MoveWhen, Moves, Stateful};

use super::leave::can_take;
use super::owner::{self, Seen};
use super::story::{Outcome, Reason, Story};
use super::{All, Migrations, function, name_of};
use crate::registry::sidecars::Id;
use crate::state::State;

/// A Service whose state may move for gain.
pub struct Seats {
    /// Which.
    pub service: ServiceName,
    /// When it moves.
    pub moves: Moves,
    /// The instance that serves it, first, and those that could.
    pub places: Vec<(Arc<str>, Id)>,
    /// How long nobody is foreseen to serve while it moves, without what the copy takes.
    pub blackout: Duration,
    /// How much there is to copy, in bytes.
    pub state_bytes: u64,
    /// So much was copied once: it is no guess.
    pub is_size_seen: bool,
    /// All of that is copied while nobody serves, and nobody has seen how long that takes.
    pub copies_held: bool,
    /// It moves, or somebody has asked for it.
    pub is_moving: bool,
}

/// What comes of asking for a Migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is asked for, by this name.
    Asked(Arc<str>),
    /// Somebody asked for one meanwhile.
    Moving,
    /// It cannot be asked for.
    Failed,
}

/// What has become of a Migration that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits, or is under way.
    Ahead,
    /// It ended so.
    Over(Outcome),
    /// Somebody took it back before it began.
    Gone,
}

impl Migrations {
    /// All Services whose state may move for gain, and is somewhere. `wanted`: the Migrations that there are.
    pub fn seats(&self, wanted: &[(ResourceKey, Migration)], state: &State) -> Vec<Seats> {
        let snapshot = state.store.snapshot();
        let mut seats = Vec::new();
        for (service, has) in snapshot.services.iter() {
            let Some(keeps) = has.state.as_ref().filter(|keeps| keeps.moves.when == MoveWhen::Gain) else {
                continue;
            };
            let seen = owner::seen(service, state);
            let of = self.lock().seats(service, keeps, wanted);
            let Some((at, of)) = of else { continue };
            let Some(here) = seen.get(&at).filter(|here| here.presence.is_heard && !here.presence.leaving)
            else {
                continue;
            };
            let may = |(name, there): &(&Arc<str>, &Seen)| {
                **name != at
                    && can_take(there, here)
                    && has_room(
                        keeps,
                        (&at, here),
                        (*name, *there),
                        of.is_size_seen.then_some(of.state_bytes),
                    )
            };
            let with_id = |(name, there): (&Arc<str>, &Seen)| Some((name.clone(), there.presence.id(name)?));
            // Who serves it is the first of them, or nothing is known of it.
            let Some(owner) = with_id((&at, here)) else { continue };
            let others = seen.iter().filter(may).filter_map(with_id);
            let places = [owner].into_iter().chain(others).collect();
            seats.push(Seats { places, ..of });
        }
        seats
    }

    /// Whether the state of any Service moves that may move for gain, or somebody has asked for it. `wanted`: the same.
    pub fn is_any_moving(&self, wanted: &[(ResourceKey, Migration)], state: &State) -> bool {
        let snapshot = state.store.snapshot();
        let gains = |has: &lighter_config::snapshot::Service| {
            has.state.as_ref().is_some_and(|keeps| keeps.moves.when == MoveWhen::Gain)
        };
        let mut gaining = snapshot.services.iter().filter(|(_, has)| gains(has));
        let all = self.lock();
        gaining.any(|(service, _)| all.is_moving(service, wanted))
    }

    /// Asks for a Migration.
    pub fn ask_for_gain(
        &self,
        service: &ServiceName,
        (from, to): (&Arc<str>, &Arc<str>),
        (gain_seconds, cost_seconds): (f64, f64),
        state: &State,
    ) -> Answer {
        let mut all = self.lock();
        if all.is_moving(service, &state.store.migrations()) {
            return Answer::Moving;
        }
        let name = all.ask(service, Reason::Gain { gain_seconds, cost_seconds }, (from, to), state);
        drop(all);
        self.wake();
        name.map_or(Answer::Failed, Answer::Asked)
    }

    /// What has become of the Migration of this name. `wanted`: the Migrations that there are.
    pub fn fate(&self, name: &str, wanted: &[(ResourceKey, Migration)]) -> Fate {
        let all = self.lock();
        if let Some(outcome) = all.over.get(name).and_then(|story| story.outcome) {
            return Fate::Over(outcome);
        }
        let is_under_way = all.under_way.values().any(|driver| &*driver.story.name == name);
        let is_wanted = || wanted.iter().any(|(key, _)| name_of(key) == name);
        if is_under_way || is_wanted() { Fate::Ahead } else { Fate::Gone }
    }
}

impl All {
    /// Whose a Service is, and how its last moves were. None: nobody serves it now.
    fn seats(
        &self,
        service: &ServiceName,
        keeps: &Stateful,
        wanted: &[(ResourceKey, Migration)],
    ) -> Option<(Arc<str>, Seats)> {
        let moved = self.moved.get(service)?;
        let owner = moved.owner.as_ref().filter(|owner| moved.listed.as_ref() == Some(&owner.instance))?;
        let full = service.to_string();
        let mut done: Vec<&Story> = self
            .over
            .values()
            .filter(|story| *story.service == full && story.outcome == Some(Outcome::Done))
            .collect();
        done.sort_by_key(|story| std::cmp::Reverse(story.began));
        let blackout = done.iter().take(LAST).filter_map(|story| story.blackout()).max();
        let copied = done.iter().find_map(|story| story.bytes());
        let seats = Seats {
            service: service.clone(),
            moves: keeps.moves,
            places: Vec::new(),
            blackout: blackout.unwrap_or(UNSEEN_BLACKOUT),
            is_size_seen: copied.is_some(),
            state_bytes: copied.unwrap_or(UNSEEN_BYTES.min(keeps.max_bytes)),
            copies_held: blackout.is_none() && !keeps.access.gives_changes(),
            is_moving: self.is_moving(service, wanted),
        };
        Some((owner.instance.clone(), seats))
    }

    /// Whether it moves, or somebody has asked for that.
    fn is_moving(&self, service: &ServiceName, wanted: &[(ResourceKey, Migration)]) -> bool {
        let over = |name: &str| self.over.get(name).is_some_and(|story| !story.is_gone);
        let mut asked = wanted.iter().filter(|(_, asked)| asked.service == *service);
        self.under_way.contains_key(service) || asked.any(|(key, _)| !over(&name_of(key)))
    }
}

/// Whether what there is fits at this place, as far as it is known how much that is, and is of the same program.
fn has_room(
    keeps: &Stateful,
    (from, here): (&Arc<str>, &Seen),
    (to, there): (&Arc<str>, &Seen),
    state_bytes: Option<u64>,
) -> bool {
    let Some(function) = keeps.function() else { return true };
    let places = [(&**from, &here.presence), (&**to, &there.presence)];
    let most = there.presence.remembering.as_ref().map_or(0, |has| has.most_bytes);
    function::why_not(function, places).is_none()
        && (most == 0 || state_bytes.is_none_or(|bytes| bytes <= most))
}

/// So many of the last moves say how long the next one takes.
const LAST: usize = 3;
/// Of what never moved: so long nobody serves, and so much there is to copy. More than most.
const UNSEEN_BLACKOUT: Duration = Duration::from_millis(500);
const UNSEEN_BYTES: u64 = 16 << 20;
