//! Which answers wait for which round of the journal, and what whoever keeps it has. Without I/O.
//!
//! A round begins with what the application gives of what has changed, and ends when whoever keeps the journal has it. One is
//! under way at a time to each of them; an answer waits for one that began when it was there already, so that what it acknowledges
//! is in what the application gave. Tickets stand for answers, in their order.

use crate::planted::{Plan as Faults, Planted};

/// The rounds of an instance that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rounds {
    /// The last ticket that was given.
    asked: u64,
    /// What these and all before them acknowledge, those have who have to.
    covered: u64,
    /// Of these and all before them nobody will ever know, unless it was told already.
    lost: u64,
    seats: [Seat; 2],
    /// Which of the seats is the heir's. The other one is for whoever follows it.
    heir: usize,
    pub(crate) faults: Faults,
}

/// What is known of somebody who keeps the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seat {
    /// In which view that is. None: there is nobody.
    view: Option<u64>,
    /// It has all that it was given so far, and what has changed since can follow.
    is_whole: bool,
    /// It has had all of it: nothing is acknowledged any more that it does not have.
    is_needed: bool,
    /// What these and all before them acknowledge it has.
    covered: u64,
    /// The number of the next round in this view.
    next: u64,
    under_way: Option<Round>,
    size: Size,
}

/// A round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round {
    /// Of which view.
    pub view: u64,
    /// The how manieth there.
    pub number: u64,
    /// The last ticket that it covers.
    covers: u64,
    /// All of the state is to be given.
    pub is_whole: bool,
}

/// How long what somebody has is, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Size {
    whole: u64,
    changes: u64,
    rounds: u32,
}

impl Rounds {
    /// An answer is there, and may acknowledge something.
    pub fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// Whether what it acknowledges is where it has to be. None: that is not known yet.
    pub fn is_journaled(&self, ticket: u64) -> Option<bool> {
        match () {
            // Whoever serves by now may know nothing of it, whatever was covered later.
            () if ticket <= self.lost => Some(false),
            () if ticket <= self.covered => Some(true),
            () => None,
        }
    }

    /// In these views somebody is the heir, and somebody is to follow that one. Whoever was there before in the same view has what
    /// it has; anybody else has nothing.
    pub fn name(&mut self, heir: Option<u64>, next: Option<u64>) {
        if heir.is_some() && self.seats[self.other()].view == heir {
            self.heir = self.other();
        }
        for (at, view) in [(self.heir, heir), (self.other(), next)] {
            if view.is_none() || self.seats[at].view != view {
                self.seats[at] = Seat { view, ..Seat::default() };
            }
        }
        if !self.faults.has(Planted::WaitOn) {
            self.settle();
        }
    }

    /// Nobody keeps the journal any more. What waits waits on.
    pub fn part(&mut self) {
        self.seats = Default::default();
    }

    /// What waits is not journaled, and will not be.
    pub fn lose(&mut self) {
        self.lost = self.asked;
    }

    /// What waits goes on although nobody keeps a journal. Whoever is to keep it has to have that as well.
    pub fn pass(&mut self) {
        self.covered = self.asked;
    }

    /// Begins a round to whoever has this seat, if one is needed and none is under way.
    pub fn begin(&mut self, at: usize) -> Option<Round> {
        let seat = self.seats.get_mut(at)?;
        let view = seat.view.filter(|_| seat.under_way.is_none())?;
        if seat.is_whole && self.asked <= seat.covered.max(self.lost) {
            return None;
        }
        let is_whole = !seat.is_whole || seat.size.is_long();
        seat.under_way = Some(Round { view, number: seat.next, covers: self.asked, is_whole });
        seat.under_way
    }

    /// Whether it is still wanted.
    pub fn is_under_way(&self, round: Round) -> bool {
        self.seats.iter().any(|seat| seat.under_way == Some(round))
    }

    /// Whether it goes to the heir, and is still wanted.
    pub fn is_for_heir(&self, round: Round) -> bool {
        self.seats[self.heir].under_way == Some(round)
    }

    /// Whoever it went to has what was given: all of the state, or what has changed.
    pub fn took(&mut self, round: Round, is_whole: bool, bytes: u64) {
        let Some(seat) = self.end(round) else { return };
        seat.next += 1;
        seat.covered = seat.covered.max(round.covers);
        (seat.is_whole, seat.is_needed) = (true, true);
        match is_whole {
            true => seat.size = Size { whole: bytes, ..Size::default() },
            // What is empty is not kept.
            false => {
                seat.size.changes = seat.size.changes.saturating_add(bytes);
                seat.size.rounds += u32::from(bytes > 0);
            }
        }
        self.settle();
    }

    /// Whoever it went to lacks what it builds on.
    pub fn lacks(&mut self, round: Round) {
        if let Some(seat) = self.end(round) {
            seat.next += 1;
            seat.is_whole = false;
        }
    }

    /// The application did not give anything, and nobody was told anything.
    pub fn fail(&mut self, round: Round) {
        self.end(round);
    }

    /// In which view somebody who is not the heir has all that was acknowledged, and all that will be.
    pub fn confirmed(&self) -> Option<u64> {
        let next = &self.seats[self.other()];
        let has_all = next.covered.max(self.lost) >= self.covered || self.faults.has(Planted::ConfirmEarly);
        next.view.filter(|_| next.is_whole && has_all)
    }

    /// Which seat is the heir's.
    pub fn heir(&self) -> usize {
        self.heir
    }

    /// Whether nothing is acknowledged that whoever has this seat does not have. While there is no heir nothing is before that one is.
    pub fn needs(&self, at: usize) -> bool {
        let has_heir = self.seats[self.heir].view.is_some();
        at == self.heir || self.seats.get(at).is_some_and(|seat| seat.is_needed || !has_heir)
    }

    /// Whoever is to follow the heir has had everything.
    pub fn is_followed(&self) -> bool {
        self.seats[self.other()].is_needed
    }

    fn other(&self) -> usize {
        1 - self.heir
    }

    fn end(&mut self, round: Round) -> Option<&mut Seat> {
        let seat = self.seats.iter_mut().find(|seat| seat.under_way == Some(round))?;
        seat.under_way = None;
        Some(seat)
    }

    /// What those have who have to is covered.
    fn settle(&mut self) {
        let [heir, next] = [&self.seats[self.heir], &self.seats[self.other()]];
        if heir.view.is_none() {
            return;
        }
        let are_both = next.is_needed && !self.faults.has(Planted::HeirAlone);
        let covered = if are_both { heir.covered.min(next.covered) } else { heir.covered };
        self.covered = self.covered.max(covered);
    }
}

impl Default for Seat {
    fn default() -> Self {
        Seat {
            view: None,
            is_whole: false,
            is_needed: false,
            covered: 0,
            next: 1,
            under_way: None,
            size: Size::default(),
        }
    }
}

impl Size {
    /// Whether all of the state is to take the place of what has changed: the standby keeps both, and its application would take
    /// one after the other.
    fn is_long(&self) -> bool {
        match self.rounds {
            ..FEW_ROUNDS => false,
            FEW_ROUNDS..MANY_ROUNDS => self.changes > self.whole.max(SMALL),
            MANY_ROUNDS..MOST_ROUNDS => self.changes > self.whole / 4,
            MOST_ROUNDS.. => true,
        }
    }
}

const FEW_ROUNDS: u32 = 64;
/// So many take an application longer than all of a state that is not much longer.
const MANY_ROUNDS: u32 = 1024;
const MOST_ROUNDS: u32 = 8 * MANY_ROUNDS;
const SMALL: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_covers_what_was_there_when_it_began_and_what_comes_then_goes_with_the_next() {
        let mut rounds = Rounds::default();
        let early = rounds.ask();
        assert_eq!((rounds.begin(0), rounds.is_journaled(early)), (None, None), "there is nobody");
        rounds.name(Some(1), None);
        let first = rounds.begin(0).unwrap();
        assert!(first.is_whole && rounds.begin(0).is_none());
        let late = rounds.ask();
        rounds.took(first, true, 100);
        assert_eq!([early, late].map(|ticket| rounds.is_journaled(ticket)), [Some(true), None]);
        let second = rounds.begin(0).unwrap();
        assert!(!second.is_whole);
        rounds.took(first, true, 100);
        assert_eq!(rounds.is_journaled(late), None, "that is over");
        rounds.took(second, false, 10);
        assert_eq!((rounds.is_journaled(late), rounds.begin(0)), (Some(true), None), "nobody waits");
    }

    #[test]
    fn what_is_lost_stays_lost_whatever_is_journaled_later() {
        let mut rounds = Rounds::default();
        rounds.name(Some(1), None);
        let gone = rounds.ask();
        rounds.lose();
        let next = rounds.ask();
        let round = rounds.begin(0).unwrap();
        rounds.took(round, true, 1);
        assert_eq!([gone, next].map(|ticket| rounds.is_journaled(ticket)), [Some(false), Some(true)]);
    }

    #[test]
    fn all_of_the_state_goes_again_once_what_has_changed_is_longer() {
        let mut rounds = Rounds::default();
        rounds.name(Some(1), None);
        for number in 0..=u64::from(FEW_ROUNDS) + 1 {
            rounds.ask();
            let round = rounds.begin(0).unwrap();
            assert_eq!(round.is_whole, number == 0 || number == u64::from(FEW_ROUNDS) + 1, "{number}");
            rounds.took(round, round.is_whole, 1 << 20);
        }
        rounds.ask();
        assert!(!rounds.begin(0).unwrap().is_whole, "it begins anew");
    }

    /// After how many rounds of so many bytes all of a state of 1 MiB goes again.
    fn rounds_of(bytes: u64, most: u32) -> Option<u32> {
        let mut rounds = Rounds::default();
        rounds.name(Some(1), None);
        (0..=most).find(|number| {
            rounds.ask();
            let round = rounds.begin(0).unwrap();
            rounds.took(round, round.is_whole, if round.is_whole { 1 << 20 } else { bytes });
            round.is_whole && *number > 0
        })
    }

    #[test]
    fn nobody_who_only_reads_has_all_of_the_state_go_again_and_few_who_change_a_little() {
        assert_eq!(rounds_of(0, 3 * MOST_ROUNDS), None);
        assert_eq!(rounds_of(8, 3 * MOST_ROUNDS), Some(MOST_ROUNDS + 1));
        assert_eq!(rounds_of(1 << 10, 3 * MOST_ROUNDS), Some(MANY_ROUNDS + 1));
    }
}
