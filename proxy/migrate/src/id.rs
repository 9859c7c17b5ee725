//! What names what: places, requests, commands.

use serde::{Deserialize, Serialize};

/// An instance of a service, by the number that the control plane gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlaceId(pub u64);

/// A client's sidecar, by the number that the control plane gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HolderId(pub u64);

/// A request, by a number that its sidecar gave it. Where it is tried again it has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Where a request comes from, as far as fairness goes: a connection, or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u64);

/// One life of the state of a service. Whoever serves it serves it alone, and from the first request to the last one without
/// losing anything: a place that has lost its memory is given another epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after this.
    pub const fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

/// One life of a place: it grows whenever what the place had in memory is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// What a command carries so that late ones and doubled ones are told from new ones. Migrations of one service have growing
/// numbers; whenever a control plane begins, its term is greater than all before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Which migration.
    pub migration: u64,
    /// Of which control plane.
    pub term: u64,
    /// The how manieth of its commands.
    pub sequence: u64,
}

/// One of the two places of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Where the service is.
    Old,
    /// Where it goes.
    New,
}

impl Role {
    /// Both.
    pub const BOTH: [Role; 2] = [Role::Old, Role::New];
}
