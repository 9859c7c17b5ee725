//! How far a migration is.

use serde::{Deserialize, Serialize};

/// How far a migration is, in the order in which it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// It is looked at where everything is.
    Plan,
    /// The new place reserves what it needs.
    Prepare,
    /// It becomes healthy, and its links are made.
    Warm,
    /// What has changed is copied in so many rounds, while the old place serves.
    Precopy(u32),
    /// Clients' sidecars are to hold new requests: they are told as the old place is, and not waited for.
    Hold,
    /// The old place parks new requests, and lets the running ones end.
    Quiesce,
    /// What it has frozen is copied.
    Finalcopy,
    /// The store is asked: from its answer on there is no way back but another fence.
    Fence,
    /// The new place is told to serve.
    Activate,
    /// It serves, and callers are told.
    Switch,
    /// The old place sends on whoever comes there.
    Forward,
    /// What still is at the old place ends.
    DrainOld,
    /// The new place serves.
    Done,
    /// The old place serves, as if nothing had been.
    Aborted,
    /// The old place serves, by a further fence.
    RolledBack,
}

impl Phase {
    /// In a word, as a label.
    pub const fn label(self) -> &'static str {
        match self {
            Phase::Plan => "plan",
            Phase::Prepare => "prepare",
            Phase::Warm => "warm",
            Phase::Precopy(_) => "precopy",
            Phase::Hold => "hold",
            Phase::Quiesce => "quiesce",
            Phase::Finalcopy => "finalcopy",
            Phase::Fence => "fence",
            Phase::Activate => "activate",
            Phase::Switch => "switch",
            Phase::Forward => "forward",
            Phase::DrainOld => "drain_old",
            Phase::Done => "done",
            Phase::Aborted => "aborted",
            Phase::RolledBack => "rolled_back",
        }
    }

    /// Whether it stays so for ever.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Phase::Done | Phase::Aborted | Phase::RolledBack)
    }

    /// Whether the service is the new place's.
    pub const fn is_fenced(self) -> bool {
        matches!(self, Phase::Activate | Phase::Switch | Phase::Forward | Phase::DrainOld | Phase::Done)
    }
}
