//! How many requests of a route may be tried again that an endpoint may have read.
//!
//! Each request puts a share of a try into the budget, and each other try takes a whole one out. What is not used within
//! a second fades. So many tries in a second as there always may be are lent, to be paid back by later requests: the
//! sum of both limits is the larger one, not more.
//!
//! Requests are not counted here but by the route's own counters: they are looked at when a try failed. So a request
//! that is answered well pays nothing, and one that is not takes no lock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use lighter_config::snapshot::RetryBudget;

/// What a route has left to spend on other tries.
#[derive(Debug)]
pub struct Budget {
    epoch: Instant,
    /// Hundredths of a try. Below zero: what was lent.
    balance: AtomicI64,
    /// How many requests are accounted for.
    seen: AtomicU64,
    /// When requests were last looked at, in nanoseconds since `epoch`.
    looked: AtomicU64,
    /// When all that was lent may be lent again, in the same.
    lent_until: AtomicU64,
}

impl Budget {
    /// Empty, for a route that has had `seen` requests.
    pub fn new(now: Instant, seen: u64) -> Self {
        Budget {
            epoch: now,
            balance: AtomicI64::new(0),
            seen: AtomicU64::new(seen),
            looked: AtomicU64::new(0),
            lent_until: AtomicU64::new(0),
        }
    }

    /// Whether there is another try. It is paid for by asking. `seen`: how many requests the route has had.
    pub fn take(&self, limit: &RetryBudget, now: Instant, seen: impl FnOnce() -> u64) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        self.fill(limit, now, seen);
        let paid = |balance: i64| (balance >= TRY).then_some(balance - TRY);
        if self.balance.fetch_update(Relaxed, Relaxed, paid).is_ok() {
            return true;
        }
        if !self.lend(limit, now) {
            return false;
        }
        let least = -TRY * i64::from(limit.min_per_second);
        let owed = |balance: i64| Some((balance - TRY).max(least));
        // Always `Ok`.
        let _ = self.balance.fetch_update(Relaxed, Relaxed, owed);
        true
    }

    /// Puts in what the requests since the last look bring.
    fn fill(&self, limit: &RetryBudget, now: u64, seen: impl FnOnce() -> u64) {
        let looked = self.looked.load(Relaxed);
        // One of those who look at once is enough.
        if now <= looked || self.looked.compare_exchange(looked, now, Relaxed, Relaxed).is_err() {
            return;
        }
        let passed = now - looked;
        let seen = seen();
        let new = seen.saturating_sub(self.seen.swap(seen, Relaxed));
        // Of the requests since a long time, those of about the last second.
        let recent = match passed {
            ..=WINDOW => u128::from(new),
            passed => u128::from(new) * u128::from(WINDOW) / u128::from(passed),
        };
        let brought = i64::try_from(recent * u128::from(limit.percent)).unwrap_or(i64::MAX / 4);
        let fading = i128::from(WINDOW.saturating_sub(passed));
        let filled = |balance: i64| {
            let kept = match balance {
                ..=0 => balance,
                // No more than before, so it fits.
                _ => (i128::from(balance) * fading / i128::from(WINDOW)) as i64,
            };
            Some(kept.saturating_add(brought))
        };
        let _ = self.balance.fetch_update(Relaxed, Relaxed, filled);
    }

    /// Whether one of those is left that there always may be.
    fn lend(&self, limit: &RetryBudget, now: u64) -> bool {
        let Some(each) = WINDOW.checked_div(limit.min_per_second.into()) else { return false };
        let lent = |until: u64| {
            let until = until.max(now) + each;
            (until <= now + WINDOW).then_some(until)
        };
        self.lent_until.fetch_update(Relaxed, Relaxed, lent).is_ok()
    }
}

/// A try, in what `balance` counts.
const TRY: i64 = 100;

/// A second.
const WINDOW: u64 = 1_000_000_000;
