//! What one instance is to the journal. Without I/O.

use super::rounds::{Round, Rounds};
use super::shadow::{Measured, Shadow, Taken};
use crate::id::Epoch;
use crate::planted::{Plan as Faults, Planted};

/// What one instance is to the journal of its service: by what the control plane told it, and by what came of it.
///
/// `A`: where somebody who keeps the journal is reached. `S`: what a round gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger<A, S> {
    epoch: Epoch,
    /// What was told last.
    view: u64,
    part: Part,
    /// It was told in this epoch that nobody keeps the journal, and of no heir since.
    is_alone: bool,
    /// The rounds of one that serves.
    pub rounds: Rounds,
    /// Where whoever has a view is reached.
    at: [Option<(u64, A)>; 2],
    /// What is kept, and in which view.
    shadow: (u64, Shadow<S>),
    /// All that was kept in an earlier view, until there is all of it in this one.
    before: Option<(u64, Shadow<S>)>,
    pub(crate) faults: Faults,
}

/// What an instance is to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Nothing was told since its application began.
    Unknown,
    /// It serves, and nobody keeps the journal. Or it has nothing to do with it.
    Alone,
    /// It serves, and somebody keeps the journal.
    Beside,
    /// It keeps the journal.
    Keeps,
    /// It served, and whoever kept the journal does now.
    Deposed,
}

/// What the control plane says of that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told<A> {
    /// It serves, and nobody keeps the journal. Or it has nothing to do with it any more.
    Alone,
    /// It serves, and somebody keeps the journal.
    Beside {
        /// In which view the heir does, and where. None: nothing is acknowledged before there is one. Where it says no place, it is
        /// where it was.
        heir: Option<(u64, Option<A>)>,
        /// And whoever is to follow it.
        next: Option<(u64, A)>,
    },
    /// It keeps the journal, from the beginning.
    Keeps,
}

/// Why nothing is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// It is not known here that this is kept.
    Unknown,
    /// Whoever gives it does not serve any more.
    Closed,
}

impl<A, S> Default for Ledger<A, S> {
    fn default() -> Self {
        Ledger {
            epoch: Epoch::default(),
            view: 0,
            part: Part::Unknown,
            is_alone: false,
            rounds: Rounds::default(),
            at: [None, None],
            shadow: (0, Shadow::default()),
            before: None,
            faults: Faults::default(),
        }
    }
}

impl<A: Clone, S: Measured> Ledger<A, S> {
    /// What was told last is of this epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number of what was told last.
    pub fn view(&self) -> u64 {
        self.view
    }

    /// What it is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Whether nobody keeps the journal, as it was told in this epoch, and whoever is to has not had everything yet.
    pub fn is_alone(&self) -> bool {
        self.part == Part::Alone || self.part == Part::Beside && self.is_alone && !self.rounds.is_followed()
    }

    /// The control plane says what this instance is. `serves_alone`: answers go on where nobody keeps the journal. Returns whether that
    /// is new: what is older than what it said last is nothing.
    pub fn told(&mut self, epoch: Epoch, view: u64, told: Told<A>, serves_alone: bool) -> bool {
        if view <= self.view {
            return false;
        }
        let was_alone = self.is_alone && self.epoch == epoch;
        (self.epoch, self.view) = (epoch, view);
        match told {
            Told::Beside { heir, next } => {
                self.part = Part::Beside;
                self.is_alone = was_alone && heir.is_none();
                if heir.is_some() {
                    // From here on somebody else has what is acknowledged.
                    self.forget();
                }
                let kept = std::mem::take(&mut self.at);
                let known =
                    |view: u64| kept.iter().flatten().find(|(of, _)| *of == view).map(|(_, at)| at.clone());
                let heir = heir.and_then(|(view, at)| Some((view, at.or_else(|| known(view))?)));
                self.rounds.name(heir.as_ref().map(|heir| heir.0), next.as_ref().map(|next| next.0));
                self.at = [heir, next];
            }
            Told::Keeps => {
                self.part = Part::Keeps;
                self.part_from_all();
                self.rounds.lose();
                if self.shadow.1.is_whole() {
                    self.shadow.1.close();
                    self.before = Some(std::mem::replace(&mut self.shadow, (view, Shadow::default())));
                }
                self.shadow = (view, Shadow::default());
            }
            Told::Alone => {
                self.part = Part::Alone;
                self.forget();
                self.part_from_all();
                self.is_alone = true;
                if serves_alone {
                    self.rounds.pass();
                } else {
                    self.rounds.lose();
                }
            }
        }
        true
    }

    /// The application begins to serve. What was told before was of another epoch. What is kept is so until somebody else has what
    /// is acknowledged.
    pub fn begins(&mut self) {
        self.part = Part::Unknown;
        self.part_from_all();
        self.rounds.lose();
    }

    /// What the application had in its memory is gone. What it has answered is not acknowledged any more.
    pub fn lose(&mut self) {
        if self.part != Part::Keeps {
            self.part = Part::Unknown;
        }
        self.part_from_all();
        self.rounds.lose();
    }

    /// There is no state any more. Whatever still comes is for whoever is the next here.
    pub fn retire(&mut self) {
        (self.part, self.view) = (Part::Unknown, 0);
        self.forget();
        self.part_from_all();
        self.rounds.lose();
    }

    /// The next round to whoever has this seat, and where that is.
    pub fn begin(&mut self, seat: usize) -> Option<(Round, A)> {
        if self.part != Part::Beside {
            return None;
        }
        let round = self.rounds.begin(seat)?;
        match self.at.iter().flatten().find(|(view, _)| *view == round.view) {
            Some((_, at)) => Some((round, at.clone())),
            None => {
                self.rounds.fail(round);
                None
            }
        }
    }

    /// Whoever this round went to says that it serves itself, or keeps another's. Returns whether nothing is acknowledged here any
    /// more: whoever is to follow the heir may not know it yet.
    pub fn shut(&mut self, round: Round) -> bool {
        if !self.rounds.is_for_heir(round) {
            return false;
        }
        self.part = Part::Deposed;
        self.part_from_all();
        self.rounds.lose();
        true
    }

    /// Whether what somebody who serves gives may be taken.
    pub fn knows(&self, epoch: Epoch, view: u64) -> Result<(), Shut> {
        match () {
            () if view > self.view => Err(Shut::Unknown),
            // Who was told of another view by now, or serves itself, has whoever served before acknowledge nothing.
            () if view < self.view => Err(Shut::Closed),
            () if epoch != self.epoch => Err(Shut::Unknown),
            () if self.part != Part::Keeps => Err(Shut::Closed),
            () => Ok(()),
        }
    }

    /// Takes what a round of this epoch and view gives. `most`: how long a state may be, in bytes.
    pub fn take(
        &mut self,
        (epoch, view): (Epoch, u64),
        number: u64,
        is_whole: bool,
        state: S,
        most: u64,
    ) -> Result<Taken, Shut> {
        self.knows(epoch, view)?;
        let taken = self.shadow.1.take(number, is_whole, state, most);
        if self.shadow.1.is_whole() {
            self.before = None;
        }
        Ok(taken)
    }

    /// In which view it has all that was acknowledged. None: it does not.
    pub fn whole(&self) -> Option<u64> {
        let all = [Some(&self.shadow), self.before.as_ref()];
        all.into_iter().flatten().find(|(_, shadow)| shadow.is_whole()).map(|(view, _)| *view)
    }

    /// All that is kept, as it is to be served here: a state, and what has changed since. Nothing more is taken from then on. None: not
    /// all of it is there.
    pub fn inherit(&mut self) -> Option<(&S, &[S])> {
        if !self.faults.has(Planted::InheritOpen) {
            self.shadow.1.close();
        }
        let now = self.shadow.1.parts();
        now.or_else(|| self.before.as_ref()?.1.parts())
    }

    fn forget(&mut self) {
        (self.shadow, self.before) = ((0, Shadow::default()), None);
    }

    fn part_from_all(&mut self) {
        self.is_alone = false;
        self.rounds.part();
        self.at = [None, None];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Measured for u64 {
        fn bytes(&self) -> u64 {
            *self
        }
    }

    fn beside(heir: Option<u64>, next: Option<u64>) -> Told<()> {
        Told::Beside { heir: heir.map(|view| (view, None)), next: next.map(|view| (view, ())) }
    }

    #[test]
    fn nobody_keeps_the_journal_until_whoever_is_to_has_everything() {
        let mut ledger: Ledger<(), u64> = Ledger::default();
        ledger.begins();
        ledger.told(Epoch(3), 1, beside(None, Some(1)), true);
        assert!(!ledger.is_alone(), "somebody may have what was acknowledged before");
        ledger.told(Epoch(3), 2, Told::Alone, true);
        ledger.told(Epoch(3), 3, beside(None, Some(3)), true);
        assert!(ledger.is_alone() && ledger.part() == Part::Beside);
        // What goes on meanwhile whoever is to keep the journal has before it is said to have everything.
        let first = ledger.begin(1).unwrap().0;
        ledger.rounds.ask();
        ledger.rounds.pass();
        ledger.rounds.took(first, true, 1);
        assert_eq!((ledger.is_alone(), ledger.rounds.confirmed()), (false, None));
        let second = ledger.begin(1).unwrap().0;
        ledger.rounds.took(second, false, 1);
        assert_eq!(ledger.rounds.confirmed(), Some(3));
        ledger.told(Epoch(3), 4, beside(Some(3), None), true);
        assert!(!ledger.is_alone());
        // It is not so in the next epoch because it was in the one before.
        ledger.told(Epoch(3), 5, Told::Alone, true);
        ledger.begins();
        ledger.told(Epoch(4), 6, beside(None, Some(6)), true);
        assert!(!ledger.is_alone());
    }

    #[test]
    fn where_there_is_no_heir_nothing_goes_on_without_whoever_is_to_be_it() {
        let mut rounds = Rounds::default();
        rounds.name(None, Some(1));
        assert_eq!([0, 1].map(|seat| rounds.needs(seat)), [true; 2]);
        rounds.name(Some(1), Some(2));
        let heir = rounds.heir();
        assert!(rounds.needs(heir) && !rounds.needs(1 - heir));
    }
}
