//! What runs at a place that serves: one number, which workers raise and lower without a lock.
//!
//! While the place serves, the count is open and has all that runs. Whoever has the place's lock closes it before it asks the
//! place anything, takes what it counted along, and opens it again with what the place has then. In between everybody goes
//! through the lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a request that runs counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A request that ends soon.
    Unary,
    /// One that may go on for long.
    Stream,
}

/// A word that threads share.
pub(super) trait Word {
    fn load(&self) -> u64;
    fn store(&self, value: u64);
    fn swap(&self, value: u64) -> u64;
    /// Puts `new` where `old` is; otherwise says what is there.
    fn replace(&self, old: u64, new: u64) -> Result<(), u64>;
}

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.store(value, Ordering::Release);
    }

    fn swap(&self, value: u64) -> u64 {
        self.swap(value, Ordering::AcqRel)
    }

    fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }
}

/// The count: whether it is open, and then how many requests run, and how many streams.
#[derive(Debug, Default)]
pub(super) struct Count<W = AtomicU64>(W);

impl<W: Word> Count<W> {
    /// One more runs, unless it is closed. More than can be counted do not run.
    #[inline]
    pub(super) fn enter(&self, what: What) -> bool {
        self.change(|value| {
            let (one, all) = of(what);
            (value & all != all).then(|| value + one)
        })
    }

    /// One that runs has ended, unless it is closed.
    #[inline]
    pub(super) fn leave(&self, what: What) -> bool {
        self.change(|value| {
            let (one, all) = of(what);
            (value & all != 0).then(|| value - one)
        })
    }

    /// Closes it. Returns what runs that it has counted.
    pub(super) fn close(&self) -> (u32, u32) {
        counted(self.0.swap(0))
    }

    /// Opens it, where so much runs. For whoever closed it.
    pub(super) fn open(&self, (unary, streams): (u32, u32)) {
        self.0.store(OPEN | (u64::from(unary) << UNARY_AT) | u64::from(streams).min(STREAMS));
    }

    #[inline]
    fn change(&self, to: impl Fn(u64) -> Option<u64>) -> bool {
        let mut value = self.0.load();
        loop {
            let Some(new) = (value & OPEN != 0).then(|| to(value)).flatten() else { return false };
            match self.0.replace(value, new) {
                Ok(()) => return true,
                Err(now) => value = now,
            }
        }
    }
}

const fn of(what: What) -> (u64, u64) {
    match what {
        What::Unary => (1 << UNARY_AT, UNARY),
        What::Stream => (1, STREAMS),
    }
}

const fn counted(value: u64) -> (u32, u32) {
    (((value & UNARY) >> UNARY_AT) as u32, (value & STREAMS) as u32)
}

const OPEN: u64 = 1 << 63;
const UNARY_AT: u32 = 24;
const STREAMS: u64 = (1 << UNARY_AT) - 1;
const UNARY: u64 = (u32::MAX as u64) << UNARY_AT;

#[cfg(test)]
mod tests {
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::*;

    impl Word for loom::sync::atomic::AtomicU64 {
        fn load(&self) -> u64 {
            self.load(loom::sync::atomic::Ordering::Acquire)
        }

        fn store(&self, value: u64) {
            self.store(value, loom::sync::atomic::Ordering::Release);
        }

        fn swap(&self, value: u64) -> u64 {
            self.swap(value, loom::sync::atomic::Ordering::AcqRel)
        }

        fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
            use loom::sync::atomic::Ordering::{AcqRel, Acquire};
            self.compare_exchange(old, new, AcqRel, Acquire).map(|_| ())
        }
    }

    /// The count beside what a place has of it while that does not serve, as `Hosted` has both.
    struct Both {
        count: Count<loom::sync::atomic::AtomicU64>,
        /// What runs as the place knows it, and whether it serves.
        place: Mutex<((u32, u32), bool)>,
        /// It does not serve, and nothing runs.
        is_frozen: loom::sync::atomic::AtomicBool,
    }

    impl Both {
        /// Does something with the place under its lock, which has all counts then.
        fn with<T>(&self, what: impl FnOnce(&mut (u32, u32), &mut bool) -> T) -> T {
            let mut place = self.place.lock().unwrap();
            let (unary, streams) = self.count.close();
            let (running, serves) = &mut *place;
            (running.0, running.1) = (running.0 + unary, running.1 + streams);
            let done = what(running, serves);
            self.is_frozen.store(!*serves && *running == (0, 0), Ordering::Release);
            if *serves {
                self.count.open(std::mem::take(running));
            }
            done
        }

        fn arrive(&self, what: What) -> bool {
            let one = |running: &mut (u32, u32), serves: &mut bool| {
                match what {
                    What::Unary => running.0 += u32::from(*serves),
                    What::Stream => running.1 += u32::from(*serves),
                }
                *serves
            };
            self.count.enter(what) || self.with(one)
        }

        fn end(&self, what: What) {
            let one = |running: &mut (u32, u32), _: &mut bool| match what {
                // Not below nothing: that would be another one's end.
                What::Unary => running.0 = running.0.checked_sub(1).unwrap(),
                What::Stream => running.1 = running.1.checked_sub(1).unwrap(),
            };
            if !self.count.leave(what) {
                self.with(one);
            }
        }
    }

    #[test]
    fn in_every_order_of_events_no_request_is_lost_from_the_count_or_counted_twice() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(if std::env::var_os("LIGHTER_FULL").is_some() { 3 } else { 2 });
        builder.check(|| {
            let count = Count(loom::sync::atomic::AtomicU64::new(0));
            count.open((0, 0));
            let (place, is_frozen) = (Mutex::new(((0, 0), true)), false.into());
            let both = Arc::new(Both { count, place, is_frozen });
            let threads = [What::Unary, What::Stream].map(|what| {
                let both = both.clone();
                thread::spawn(move || {
                    if both.arrive(what) {
                        assert!(!both.is_frozen.load(Ordering::Acquire), "it runs while the state is copied");
                        both.end(what);
                    }
                })
            });
            // It stops to serve while they come and go, and serves again.
            both.with(|_, serves| *serves = false);
            both.with(|_, serves| *serves = true);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(both.with(|running, _| *running), (0, 0));
        });
    }

    #[test]
    fn what_runs_when_it_closes_is_what_came_in_and_has_not_left() {
        let count = Count::<AtomicU64>::default();
        assert!(!count.enter(What::Unary), "closed");
        count.open((2, 1));
        assert!(count.enter(What::Unary) && count.enter(What::Stream) && count.leave(What::Unary));
        assert_eq!(count.close(), (2, 2));
        assert!(!count.leave(What::Stream) && !count.enter(What::Stream));
        count.open((u32::MAX, STREAMS as u32));
        assert!(!count.enter(What::Unary) && !count.enter(What::Stream), "no more can be counted");
        assert_eq!(count.close(), (u32::MAX, STREAMS as u32));
    }
}
