//! What a coordinator writes down before it does it, and how one that begins again goes on.

use serde::{Deserialize, Serialize};

use crate::cell::Digest;
use crate::id::Role;
use crate::message::{Unfrozen, Why};
use crate::phase::Phase;

/// What is written down of a migration, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Record {
    /// A phase begins.
    Entered(Phase),
    /// The old place has frozen, and what it has has this digest.
    Frozen(Digest),
    /// It is to be aborted.
    Aborting(Cause),
    /// An operator says that this place is dead, and will not come back with what it had.
    Vouched(Role),
    /// At the deadline so many requests were cut at the old place.
    Cut(u64),
}

impl Record {
    /// Whether it has to be durable before anybody is told of what follows from it. What does not bind is found again from what the
    /// places say: it may be written a little later, together with what comes next, and be lost where the control plane dies
    /// before that.
    pub const fn binds(&self) -> bool {
        !matches!(self, Record::Frozen(_) | Record::Entered(Phase::Finalcopy | Phase::Fence | Phase::Switch))
    }
}

/// Why a migration is aborted, or has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// The new place cannot take the service.
    Refused(Why),
    /// The old place lost what it had.
    OldLost,
    /// The old place has not been heard for so long that it does not count as being there.
    OldGone,
    /// The new place lost what it had.
    NewLost,
    /// Requests or streams at the old place did not end in time.
    Busy,
    /// The application there did not give its state, or not in time.
    Withheld,
    /// One of the two: the old place is of a version that does not say.
    Unfrozen,
    /// A phase took too long: somebody does not answer.
    Late(Phase),
}

impl From<Unfrozen> for Cause {
    fn from(why: Unfrozen) -> Cause {
        match why {
            Unfrozen::Busy => Cause::Busy,
            Unfrozen::Withheld => Cause::Withheld,
            Unfrozen::Unsaid => Cause::Unfrozen,
        }
    }
}

impl Cause {
    /// In a word, as a label.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Asked => "asked",
            Cause::Refused(Why::NoRoom) => "no_room",
            Cause::Refused(Why::Unhealthy) => "unhealthy",
            Cause::Refused(Why::Digest) => "digest",
            Cause::Refused(Why::Activation) => "activation",
            Cause::OldLost => "old_lost",
            Cause::OldGone => "old_gone",
            Cause::NewLost => "new_lost",
            Cause::Busy => "busy",
            Cause::Withheld => "withheld",
            Cause::Unfrozen => "unfrozen",
            Cause::Late(_) => "late",
        }
    }
}
