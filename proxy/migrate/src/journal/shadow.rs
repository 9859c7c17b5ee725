//! What whoever keeps the journal has: a state, and what has changed since, in its order. Without I/O.

/// All of a state, or what has changed since another one.
pub trait Measured {
    /// How long it is.
    fn bytes(&self) -> u64;
}

/// The state of whoever serves, as far as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shadow<S> {
    /// The number of the next round. What comes again is there.
    next: u64,
    base: Option<S>,
    changes: Vec<S>,
    bytes: u64,
    /// It is being served from here: nothing is taken any more.
    is_closed: bool,
}

/// What became of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Taken {
    /// It is there.
    All,
    /// What it builds on is not there, or there is no room behind it: all of the state is to come.
    Lacks,
    /// Whoever gives it does not serve any more.
    Closed,
}

impl<S> Default for Shadow<S> {
    fn default() -> Self {
        Shadow { next: 1, base: None, changes: Vec::new(), bytes: 0, is_closed: false }
    }
}

impl<S: Measured> Shadow<S> {
    /// Takes what a round has given: all of the state, or what has changed. `most`: how long a state may be, in bytes.
    pub fn take(&mut self, number: u64, is_whole: bool, state: S, most: u64) -> Taken {
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
    pub fn is_whole(&self) -> bool {
        self.base.is_some()
    }

    /// A state, and what follows it.
    pub fn parts(&self) -> Option<(&S, &[S])> {
        Some((self.base.as_ref()?, &self.changes))
    }

    /// From now on nothing is taken any more.
    pub fn close(&mut self) {
        self.is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many bytes.
    struct State(u64);

    impl Measured for State {
        fn bytes(&self) -> u64 {
            self.0
        }
    }

    fn state(bytes: u64) -> State {
        State(bytes)
    }

    fn lengths(shadow: &Shadow<State>) -> Option<(u64, Vec<u64>)> {
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
