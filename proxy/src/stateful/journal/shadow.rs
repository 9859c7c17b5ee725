//! What whoever keeps the journal has: a state, and what has changed since, in its order. Without I/O.

use crate::stateful::copies::State;

/// The state of whoever serves, as far as it was given.
#[derive(Debug)]
pub(super) struct Shadow {
    /// The number of the next round. What comes again is there.
    next: u64,
    base: Option<State>,
    changes: Vec<State>,
    bytes: u64,
    /// It is being served from here: nothing is taken any more.
    is_closed: bool,
}

/// What became of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is there.
    All,
    /// What it builds on is not there, or there is no room behind it: all of the state is to come.
    Lacks,
    /// Whoever gives it does not serve any more.
    Closed,
}

impl Default for Shadow {
    fn default() -> Self {
        Shadow { next: 1, base: None, changes: Vec::new(), bytes: 0, is_closed: false }
    }
}

impl Shadow {
    /// Takes what a round has given: all of the state, or what has changed. `most`: how long a state may be, in bytes.
    pub(super) fn take(&mut self, number: u64, is_whole: bool, state: State, most: u64) -> Taken {
        match () {
            () if self.is_closed => Taken::Closed,
            () if number < self.next => Taken::All,
            () if is_whole => {
                self.bytes = state.bytes();
                (self.base, self.next) = (Some(state), number + 1);
                self.changes.clear();
                Taken::All
            }
            () if number > self.next || self.base.is_none() => Taken::Lacks,
            // What is there stays until all of it has come.
            () if self.bytes.saturating_add(state.bytes()) > most.saturating_mul(2) => Taken::Lacks,
            () => {
                self.next += 1;
                self.bytes += state.bytes();
                // What is empty says that nothing has changed.
                if state.bytes() > 0 {
                    self.changes.push(state);
                }
                Taken::All
            }
        }
    }

    /// Whether all of the state is there.
    pub(super) fn is_whole(&self) -> bool {
        self.base.is_some()
    }

    /// A state, and what follows it.
    pub(super) fn parts(&self) -> Option<(&State, &[State])> {
        Some((self.base.as_ref()?, &self.changes))
    }

    /// From now on nothing is taken any more.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stateful::copies::Gathering;

    fn state(bytes: usize) -> State {
        let mut gathering = Gathering::new(bytes as u64);
        gathering.push(&vec![7; bytes]).unwrap();
        gathering.finish()
    }

    fn lengths(shadow: &Shadow) -> Option<(u64, Vec<u64>)> {
        let (base, changes) = shadow.parts()?;
        Some((base.bytes(), changes.iter().map(State::bytes).collect()))
    }

    #[test]
    fn what_follows_is_kept_in_order_and_once() {
        let mut shadow = Shadow::default();
        assert_eq!(shadow.take(1, false, state(1), 100), Taken::Lacks);
        assert_eq!((shadow.take(1, true, state(10), 100), shadow.is_whole()), (Taken::All, true));
        assert_eq!(shadow.take(3, false, state(3), 100), Taken::Lacks, "the second is missing");
        for _ in 0..2 {
            assert_eq!(shadow.take(2, false, state(2), 100), Taken::All);
        }
        assert_eq!(shadow.take(3, false, state(0), 100), Taken::All);
        assert_eq!(shadow.take(1, true, state(50), 100), Taken::All, "it was there before");
        assert_eq!(lengths(&shadow), Some((10, vec![2])));
        assert_eq!(shadow.take(4, false, state(190), 100), Taken::Lacks, "there is no room");
        assert_eq!(lengths(&shadow), Some((10, vec![2])), "what is there stays");
        assert_eq!(shadow.take(5, true, state(90), 100), Taken::All);
        assert_eq!(lengths(&shadow), Some((90, vec![])));
    }

    #[test]
    fn who_has_taken_over_takes_nothing_more() {
        let mut shadow = Shadow::default();
        shadow.take(1, true, state(10), 100);
        shadow.close();
        assert_eq!(shadow.take(2, false, state(1), 100), Taken::Closed);
        assert_eq!(shadow.take(2, true, state(1), 100), Taken::Closed);
        assert_eq!(lengths(&shadow), Some((10, vec![])));
    }
}
