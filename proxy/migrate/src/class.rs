//! What becomes of a service's state, and of requests, when somebody dies.

use serde::{Deserialize, Serialize};

use crate::phase::Phase;

/// What a service keeps between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing: two places may serve at once.
    Stateless,
    /// What is in memory: it dies with its place, and that is said. Where what it acknowledges is in a [journal](crate::journal)
    /// elsewhere before that, a migration is none the wiser: whoever has the journal is seen to beside.
    Volatile,
}

impl Class {
    /// In a word, as a label.
    pub const fn label(self) -> &'static str {
        match self {
            Class::Stateless => "stateless",
            Class::Volatile => "volatile",
        }
    }
}

/// Who takes part in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The control plane.
    Control,
    /// The old place.
    Old,
    /// The new place.
    New,
    /// The sidecar of a caller.
    Caller,
}

/// What becomes of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Everything is there.
    Kept,
    /// It is gone, and reported as lost.
    Lost,
    /// The new place may have served, unheard, and what it acknowledged then is gone: reported as lost. What the old place has
    /// frozen is there.
    MayBeLost,
}

/// What becomes of the requests that were at the one who died, or on their way to it or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InFlight {
    /// There are none.
    None,
    /// Each is answered once: as `outcome_unknown` where it may have run and is not declared repeatable.
    Unknown,
    /// Nobody is left to answer to: the caller's connection ends.
    Unanswered,
}

/// How the migration ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// As if nothing had been.
    GoesOn,
    /// The old place serves.
    Aborts,
    /// The old place serves again, by a further fence.
    Returns,
}

/// What it costs when somebody dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Toll {
    /// Of requests.
    pub in_flight: InFlight,
    /// Of the state.
    pub state: State,
    /// Of the migration.
    pub ending: Ending,
}

impl Toll {
    /// What it costs when `actor` dies in `phase`, and begins again with nothing in its memory. In Fence the transaction is on
    /// its way to the store, and the new place has everything.
    pub fn of(class: Class, actor: Actor, phase: Phase) -> Toll {
        let fenced = phase.is_fenced();
        let active = fenced && phase > Phase::Activate;
        let lost = match class {
            Class::Stateless => State::Kept,
            Class::Volatile => State::Lost,
        };
        match actor {
            Actor::Control => Toll::NOTHING,
            Actor::Caller => Toll { in_flight: InFlight::Unanswered, ..Toll::NOTHING },
            Actor::Old if phase.is_terminal() && phase != Phase::Done => {
                Toll { in_flight: InFlight::Unknown, state: lost, ending: Ending::GoesOn }
            }
            // The destination is all that it takes.
            Actor::Old if class == Class::Stateless || phase >= Phase::Fence => {
                Toll { in_flight: InFlight::Unknown, ..Toll::NOTHING }
            }
            Actor::Old => Toll { in_flight: InFlight::Unknown, state: lost, ending: Ending::Aborts },
            Actor::New if active => {
                Toll { in_flight: InFlight::Unknown, state: lost, ending: Ending::GoesOn }
            }
            // That it did not serve is not known, as it was told to, or is about to be.
            Actor::New if matches!(phase, Phase::Fence | Phase::Activate) => {
                Toll { in_flight: InFlight::Unknown, state: State::MayBeLost, ending: Ending::Returns }
            }
            // It has not begun yet, and is asked once more.
            Actor::New if phase.is_terminal() || phase <= Phase::Prepare => Toll::NOTHING,
            Actor::New => Toll { ending: Ending::Aborts, ..Toll::NOTHING },
        }
    }

    const NOTHING: Toll = Toll { in_flight: InFlight::None, state: State::Kept, ending: Ending::GoesOn };
}
