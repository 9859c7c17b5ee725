//! What the control plane and places say to each other. It may come late, twice, in another order, or never.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::cell::{Digest, Source};
use crate::id::{Epoch, Incarnation, PlaceId, Stamp};

/// A command to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Command {
    /// By which it is told from others.
    pub stamp: Stamp,
    /// The life of the place that it is for. None: it only asks.
    pub incarnation: Option<Incarnation>,
    /// What is to be done.
    pub order: Order,
}

/// What a place is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Say how you are.
    Ask,
    /// Reserve what the service needs.
    Prepare {
        /// Which one it has where it is now: what a place knows of an earlier one is not where it is.
        epoch: Epoch,
    },
    /// Become healthy, and ready to be called.
    Warm,
    /// Keep a copy of the state as it is, for the new place to fetch.
    Snapshot {
        /// Which one, from 1.
        round: u32,
    },
    /// Fetch a copy.
    Restore(Copy),
    /// Park new requests, let running ones end, and freeze.
    Quiesce {
        /// How long they may take.
        patience: Duration,
        /// Whether streams that take longer are cut.
        cut_streams: bool,
    },
    /// The epoch is yours: serve it.
    Serve {
        /// Which one.
        epoch: Epoch,
        /// What it begins with.
        from: Source,
    },
    /// The service is elsewhere: send on whoever comes.
    Move {
        /// Where.
        to: PlaceId,
        /// Its epoch there.
        epoch: Epoch,
    },
    /// Let end what still is here.
    Drain {
        /// Where whoever comes is to go.
        to: PlaceId,
        /// Its epoch there.
        epoch: Epoch,
        /// Cut it.
        force: bool,
    },
    /// What you have of the migration is not needed.
    Discard,
}

/// A copy of a state, or of what has changed since the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Copy {
    /// Which one, from 1; the last has the greatest number.
    pub round: u32,
    /// The one that it builds on. 0: none.
    pub base: u32,
    /// How long it is.
    pub bytes: u64,
    /// Of the whole state that comes of it.
    pub digest: Digest,
    /// Whether the old place has frozen it.
    pub last: bool,
}

/// What a place says of itself. Later ones say everything that earlier ones did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Report {
    /// Which life of the place says it.
    pub incarnation: Incarnation,
    /// The how manieth of its reports that say something else.
    pub revision: u64,
    /// The last command that it took.
    pub heard: Stamp,
    /// What it is.
    pub stand: Stand,
    /// The last copy that can be fetched from it.
    pub copy: Option<Copy>,
    /// For which migration it does not freeze any more, or give a copy.
    pub declined: Option<Declined>,
}

/// A place does not freeze, or gives no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Declined {
    /// For which migration.
    pub migration: u64,
    /// Why.
    pub why: Unfrozen,
}

/// Why a place does not freeze, or gives no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unfrozen {
    /// Requests or streams did not end in time.
    Busy,
    /// The application did not give its state, or not in time.
    Withheld,
    /// It does not say: it is of an older version.
    Unsaid,
}

/// What a place is to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stand {
    /// Nothing: it has just begun, or has discarded what it had.
    Empty,
    /// What the service needs is reserved.
    Reserved,
    /// It is healthy. Of a stateless service: and serves.
    Warm,
    /// It has the copy of this round.
    Copied {
        /// Which one.
        round: u32,
    },
    /// It has the last copy.
    Ready {
        /// Of the state.
        digest: Digest,
    },
    /// It is about to serve.
    Opening {
        /// Which epoch.
        epoch: Epoch,
    },
    /// It serves.
    Serving {
        /// Which epoch.
        epoch: Epoch,
    },
    /// It parks new requests, and waits for running ones.
    Parking {
        /// The epoch that it served.
        epoch: Epoch,
    },
    /// Nothing runs, and nothing will until somebody has decided.
    Frozen {
        /// The epoch that it served.
        epoch: Epoch,
    },
    /// It sends on whoever comes.
    Moved,
    /// And nothing is left of what it had.
    Drained {
        /// How many requests were cut.
        cut: u64,
    },
    /// It cannot take the service, and never served it.
    Void {
        /// Why.
        why: Why,
    },
}

/// Why a place cannot take a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// There is no room.
    NoRoom,
    /// It does not become healthy.
    Unhealthy,
    /// What was copied is not what was frozen.
    Digest,
    /// The service does not take what was copied.
    Activation,
}

impl Stand {
    /// The epoch that it serves.
    pub const fn serves(self) -> Option<Epoch> {
        match self {
            Stand::Serving { epoch } => Some(epoch),
            _ => None,
        }
    }

    /// The epoch whose state it has, as whoever serves it, or did and may again.
    pub const fn holds(self) -> Option<Epoch> {
        match self {
            Stand::Serving { epoch }
            | Stand::Opening { epoch }
            | Stand::Parking { epoch }
            | Stand::Frozen { epoch } => Some(epoch),
            _ => None,
        }
    }

    /// Whether it had the state, and sends on.
    pub const fn has_left(self) -> bool {
        matches!(self, Stand::Moved | Stand::Drained { .. })
    }
}
