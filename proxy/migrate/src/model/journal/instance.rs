//! One instance: what it is to the journal, and what its application has.

use super::{Given, Message, faults};
use crate::id::Epoch;
use crate::journal::keepers::Said;
use crate::journal::{Ledger, Round};
use crate::planted::Planted;

#[derive(Clone, Debug, Hash)]
pub(super) struct Instance {
    pub(super) ledger: Ledger<u8, Given>,
    /// What its application has.
    pub(super) has: u8,
    pub(super) serves: Option<Epoch>,
    /// What was given last by each seat, in which view.
    pub(super) given: [Option<(u64, u8)>; 2],
    pub(super) sending: [Option<(Round, u8, Given)>; 2],
    /// Answers that wait: their tickets, and what they show.
    pub(super) waiting: Vec<(u64, u8)>,
    /// What its application is taking of the journal.
    pub(super) takes: Option<u8>,
    pub(super) is_leaving: bool,
    pub(super) lost: [bool; 2],
}

impl Instance {
    pub(super) fn new(planted: Option<Planted>) -> Self {
        let mut ledger = Ledger::default();
        (ledger.faults, ledger.rounds.faults) = (faults(planted), faults(planted));
        Instance {
            ledger,
            has: 0,
            serves: None,
            given: [None; 2],
            sending: [None; 2],
            waiting: Vec::new(),
            takes: None,
            is_leaving: false,
            lost: [false; 2],
        }
    }

    /// A round begins, or is sent once more.
    pub(super) fn send(&mut self, seat: usize) -> Option<(Round, u8, Given)> {
        if let Some(sending) = self.sending[seat].filter(|sending| self.ledger.rounds.is_under_way(sending.0))
        {
            return Some(sending);
        }
        let (round, to) = self.ledger.begin(seat)?;
        let since = self.given[seat].filter(|(view, _)| *view == round.view && !round.is_whole);
        let since = since.map_or(0, |(_, since)| since);
        self.sending[seat] = Some((round, to, Given { since, to: self.has }));
        self.sending[seat]
    }

    pub(super) fn give(&self, from: u8, round: Round, to: u8, given: Given) -> Message {
        Message::Give { from, to, epoch: self.ledger.epoch(), round, given }
    }

    pub(super) fn says(&self) -> Option<Said> {
        if self.ledger.view() == 0 && self.serves.is_none() {
            return None;
        }
        Some(Said {
            epoch: self.ledger.epoch(),
            view: self.ledger.view(),
            whole: self.ledger.whole().unwrap_or_default(),
            is_lost: self.lost[self.ledger.rounds.heir()],
            is_next_lost: self.lost[1 - self.ledger.rounds.heir()],
            confirmed: self.ledger.rounds.confirmed().unwrap_or_default(),
            hands_over: true,
        })
    }
}
