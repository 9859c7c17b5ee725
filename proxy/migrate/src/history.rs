//! Whether what callers saw of a register can be explained by one register: linearizability, checked while it happens.
//!
//! For each prefix of a history all ways to order it are kept that agree with what was answered: what the register holds then,
//! and which of the operations that are under way have taken effect. Where none is left, the history is not linearizable. It
//! is exact, and quick as long as few operations are under way at once (Lowe, Testing for linearizability, 2017).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a caller asks of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// What does it hold?
    Read,
    /// It is to hold this.
    Write(u64),
}

/// What was seen of a register so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// Under way, or with an outcome that nobody knows.
    open: BTreeMap<u64, Op>,
    /// Of these, those with an outcome that nobody knows.
    unknown: BTreeSet<u64>,
    ways: BTreeSet<Way>,
}

/// One way in which it may have been.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Way {
    holds: u64,
    /// Of the operations under way, those that have taken effect, and what they read.
    done: BTreeMap<u64, Option<u64>>,
}

/// What was answered cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

impl History {
    /// The register holds `value`, and nothing is under way.
    pub fn new(value: u64) -> History {
        let way = Way { holds: value, done: BTreeMap::new() };
        History { open: BTreeMap::new(), unknown: BTreeSet::new(), ways: BTreeSet::from([way]) }
    }

    /// An operation begins. No two have one number.
    pub fn begin(&mut self, id: u64, op: Op) {
        self.open.insert(id, op);
    }

    /// It was done; `read` is what a read said.
    ///
    /// Fails where that cannot be.
    pub fn done(&mut self, id: u64, read: Option<u64>) -> Result<(), Violation> {
        let Some(op) = self.open.get(&id).copied() else {
            return Err(Violation(format!("operation {id} was answered, and is not under way")));
        };
        let mut ways = BTreeSet::new();
        for way in self.reachable() {
            let Some(said) = way.done.get(&id).copied() else { continue };
            if op == Op::Read && said != read {
                continue;
            }
            let mut way = way;
            way.done.remove(&id);
            ways.insert(way);
        }
        self.open.remove(&id);
        self.take(ways, || format!("operation {id}, {op:?}, was answered with {read:?}"))
    }

    /// It was not done, and will not be.
    ///
    /// Fails where that cannot be.
    pub fn not_done(&mut self, id: u64) -> Result<(), Violation> {
        let op = self.open.remove(&id);
        let ways = self.ways.iter().filter(|way| !way.done.contains_key(&id)).cloned().collect();
        self.take(ways, || format!("operation {id}, {op:?}, was said not to have been done"))
    }

    /// Nobody will ever hear what became of it: it may be done at any time, or never.
    pub fn unknown(&mut self, id: u64) {
        // What nobody hears of a read says nothing.
        if self.open.get(&id) != Some(&Op::Read) {
            self.unknown.insert(id);
        } else {
            self.open.remove(&id);
            self.ways = std::mem::take(&mut self.ways)
                .into_iter()
                .map(|mut way| {
                    way.done.remove(&id);
                    way
                })
                .collect();
        }
    }

    /// Whoever may have done what nobody knows the outcome of is gone: what was not done by now never is.
    pub fn settle(&mut self) {
        let ways = self.reachable();
        for id in &self.unknown {
            self.open.remove(id);
        }
        let unknown = std::mem::take(&mut self.unknown);
        let settled = ways.into_iter().map(|mut way| {
            way.done.retain(|id, _| !unknown.contains(id));
            way
        });
        self.ways = settled.collect();
    }

    /// What was acknowledged may be lost: from now on the register holds `value`, and what is under way may still be done.
    pub fn lose(&mut self, value: u64) {
        let ways = self.reachable();
        self.ways = ways.into_iter().map(|way| Way { holds: value, ..way }).collect();
    }

    /// Every way from here in which any of the operations under way takes effect now, one after the other.
    fn reachable(&self) -> BTreeSet<Way> {
        let mut all = self.ways.clone();
        let mut next: Vec<Way> = all.iter().cloned().collect();
        while let Some(way) = next.pop() {
            for (id, op) in &self.open {
                if way.done.contains_key(id) {
                    continue;
                }
                let mut then = way.clone();
                match op {
                    Op::Read => then.done.insert(*id, Some(way.holds)),
                    Op::Write(value) => {
                        then.holds = *value;
                        then.done.insert(*id, None)
                    }
                };
                if all.insert(then.clone()) {
                    next.push(then);
                }
            }
        }
        all
    }

    fn take(&mut self, ways: BTreeSet<Way>, what: impl FnOnce() -> String) -> Result<(), Violation> {
        self.ways = ways;
        if self.ways.is_empty() { Err(Violation(format!("{}: not linearizable", what()))) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_write_is_found() {
        let mut history = History::new(0);
        history.begin(1, Op::Write(1));
        history.done(1, None).unwrap();
        history.begin(2, Op::Read);
        assert!(history.clone().done(2, Some(1)).is_ok());
        assert!(history.done(2, Some(0)).is_err());
    }

    #[test]
    fn a_write_that_was_refused_is_not_there() {
        let mut history = History::new(0);
        history.begin(1, Op::Write(1));
        history.begin(2, Op::Read);
        let seen = &mut history.clone();
        seen.done(2, Some(1)).unwrap();
        assert!(seen.not_done(1).is_err());
        history.not_done(1).unwrap();
        assert!(history.done(2, Some(1)).is_err());
    }

    #[test]
    fn an_unknown_outcome_may_be_either_and_late() {
        let mut history = History::new(0);
        history.begin(1, Op::Write(1));
        history.unknown(1);
        history.begin(7, Op::Read);
        history.unknown(7);
        for (id, value) in [(2, 0), (3, 0), (4, 1), (5, 1)] {
            history.begin(id, Op::Read);
            history.done(id, Some(value)).unwrap();
        }
        history.begin(6, Op::Read);
        assert!(history.done(6, Some(0)).is_err());
    }

    #[test]
    fn what_was_not_done_before_it_was_settled_never_is() {
        let mut history = History::new(0);
        history.begin(1, Op::Write(1));
        history.unknown(1);
        history.settle();
        history.begin(2, Op::Read);
        history.begin(3, Op::Read);
        let mut done = history.clone();
        done.done(2, Some(1)).unwrap();
        assert!(done.done(3, Some(0)).is_err(), "it was done");
        history.done(2, Some(0)).unwrap();
        assert!(history.done(3, Some(1)).is_err(), "it was not");
    }

    #[test]
    fn what_is_read_does_not_go_back() {
        let mut history = History::new(0);
        history.begin(1, Op::Write(1));
        history.begin(2, Op::Read);
        history.begin(3, Op::Read);
        history.done(2, Some(1)).unwrap();
        assert!(history.clone().done(3, Some(0)).is_ok(), "both reads were under way at once");
        history.begin(4, Op::Read);
        assert!(history.done(4, Some(0)).is_err());
    }

    #[test]
    fn what_is_said_to_be_lost_may_be() {
        let mut history = History::new(0);
        history.begin(1, Op::Write(1));
        history.done(1, None).unwrap();
        history.lose(0);
        history.begin(2, Op::Read);
        assert!(history.done(2, Some(0)).is_ok());
    }

    /// An operation of a whole history, with its moments.
    #[derive(Clone, Copy, Debug)]
    struct Whole {
        op: Op,
        begin: usize,
        end: usize,
        read: Option<u64>,
    }

    /// Whether there is an order, by trying all of them.
    fn has_order(left: &[Whole], holds: u64) -> bool {
        left.is_empty()
            || (0..left.len()).any(|at| {
                let first = left[at];
                let is_first = left.iter().all(|other| other.end > first.begin);
                let (fits, then) = match first.op {
                    Op::Read => (first.read == Some(holds), holds),
                    Op::Write(value) => (true, value),
                };
                let rest: Vec<Whole> =
                    left.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, op)| *op).collect();
                is_first && fits && has_order(&rest, then)
            })
    }

    #[test]
    fn it_agrees_with_trying_every_order() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..3000 {
            let count = random.usize(1..6);
            // Two moments for each, in any order.
            let mut moments: Vec<usize> = (0..2 * count).collect();
            random.shuffle(&mut moments);
            let whole: Vec<Whole> = (0..count)
                .map(|at| {
                    let (one, other) = (moments[2 * at], moments[2 * at + 1]);
                    let write = random.bool();
                    let op = if write { Op::Write(random.u64(1..3)) } else { Op::Read };
                    let read = (!write).then(|| random.u64(0..3));
                    Whole { op, begin: one.min(other), end: one.max(other), read }
                })
                .collect();
            let mut history = History::new(0);
            let mut found = true;
            for moment in 0..2 * count {
                for (id, one) in whole.iter().enumerate() {
                    if one.begin == moment {
                        history.begin(id as u64, one.op);
                    } else if one.end == moment && found {
                        found = history.done(id as u64, one.read).is_ok();
                    }
                }
            }
            assert_eq!(found, has_order(&whole, 0), "{whole:?}");
            *(if found { &mut good } else { &mut bad }) += 1;
        }
        assert!(good > 300 && bad > 300, "{good} histories are linearizable, {bad} are not");
    }
}
