//! What the store keeps of a migration, and the one transaction by which it changes.

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Incarnation, PlaceId};

/// Whom the state of a service belongs to. It changes as a whole, by [`Cell::apply`], and whoever serves was told so by a
/// command that follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// The migration that it is about.
    pub migration: u64,
    /// The control plane that may change it.
    pub term: u64,
    /// The epoch that is served, or is to be.
    pub epoch: Epoch,
    /// By whom.
    pub owner: Owner,
    /// What the owner begins the epoch with.
    pub source: Source,
    /// What was decided.
    pub decision: Decision,
    /// How many times acknowledged state was lost, or may have been.
    pub losses: u32,
}

/// One life of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Which place.
    pub place: PlaceId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

/// What a place begins an epoch with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// What it has, frozen or not.
    Kept,
    /// What was copied to it, if that has this digest.
    Restored(Digest),
    /// What the journal has.
    Journal,
    /// Nothing.
    Nothing,
}

/// What names the content of a state: of SHA-256 in production.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// What was decided of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// Nothing yet: the old place may be told to serve on, and nobody else.
    Open,
    /// The new place serves.
    Fenced,
    /// The old place serves.
    Aborted,
    /// It was fenced, and the old place serves after all.
    Returned,
}

/// Asks the store to change a [`Cell`], if it is as it was thought to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// As it was when this was asked for.
    pub from: Cell,
    /// As it is to be.
    pub to: Cell,
}

impl Cell {
    /// As it is when a migration begins: `owner` serves `epoch`.
    pub fn new(migration: u64, epoch: Epoch, owner: Owner) -> Cell {
        let (source, decision) = (Source::Kept, Decision::Open);
        Cell { migration, term: 0, epoch, owner, source, decision, losses: 0 }
    }

    /// A control plane begins. Returns whether it may: nobody with its term or a later one was here.
    pub fn take_over(&mut self, term: u64) -> bool {
        let may = term > self.term;
        if may {
            self.term = term;
        }
        may
    }

    /// Changes it if nobody has in between. To be made durable together with what else the transaction is about, before anybody
    /// hears of it. Returns whether it was; what the asker is to be told is the cell as it is then.
    pub fn apply(&mut self, transaction: &Transaction) -> bool {
        let is_same = *self == transaction.from;
        if is_same {
            *self = transaction.to;
        }
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_who_decide_one_does() {
        let owner = Owner { place: PlaceId(1), incarnation: Incarnation(1) };
        let mut cell = Cell::new(1, Epoch(4), owner);
        assert!(cell.take_over(2));
        assert!(!cell.take_over(2) && !cell.take_over(1));
        let from = cell;
        let new = Owner { place: PlaceId(2), incarnation: Incarnation(1) };
        let fence = Cell { epoch: Epoch(5), owner: new, decision: Decision::Fenced, ..from };
        let abort = Cell { decision: Decision::Aborted, ..from };
        for (first, second) in [(fence, abort), (abort, fence)] {
            let mut cell = from;
            assert!(cell.apply(&Transaction { from, to: first }));
            // However often it is asked for.
            assert!(!cell.apply(&Transaction { from, to: second }));
            assert!(!cell.apply(&Transaction { from, to: first }));
            assert_eq!(cell, first);
        }
        // Nor can whoever was here before.
        let mut cell = from;
        assert!(cell.take_over(3));
        assert!(!cell.apply(&Transaction { from, to: fence }));
    }
}
