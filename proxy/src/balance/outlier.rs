//! Passive ejection: an endpoint that fails time after time gets no requests for a while, and then one to show that
//! it is back.
//!
//! Pure state with the time as a parameter. Workers share it without a lock; every transition is one atomic exchange,
//! so that an endpoint is ejected once, and probed by one request at a time.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::time::Duration;

/// When and for how long endpoints are ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How many failures in a row eject. 0: none do.
    pub after: u32,
    /// The first ejection's length; the n-th lasts n times as long, up to [`LONGEST`] times.
    pub length: Duration,
    /// At most this share of the siblings is ejected at once, in percent; one always may be if there are two.
    pub max_percent: u8,
}

/// The longest ejection, in lengths of the first.
pub const LONGEST: u32 = 10;

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes requests.
    InService,
    /// It gets none.
    Ejected,
    /// Its ejection is over: it gets one request, and that one's end decides.
    HalfOpen,
}

/// One endpoint's health. Times are nanoseconds of a clock that begins above zero.
#[derive(Debug, Default)]
pub struct Health {
    /// When the ejection ends; zero while in service.
    until: AtomicU64,
    /// When it was last ejected or came back.
    since: AtomicU64,
    /// Failures without an answer between them.
    row: AtomicU32,
    /// Ejections without a quiet time between them.
    ejections: AtomicU32,
    /// Whether a request is on its way to show that the endpoint is back.
    probing: AtomicBool,
}

impl Rules {
    /// Nothing is ever ejected.
    pub const NEVER: Rules = Rules { after: 0, length: Duration::ZERO, max_percent: 0 };

    /// Whether one more of `siblings` may be ejected when `ejected` of them are.
    pub fn allow(&self, siblings: usize, ejected: usize) -> bool {
        let share = (ejected + 1) * 100 <= siblings * usize::from(self.max_percent);
        share || ejected == 0 && siblings >= 2
    }

    fn length(&self, ejections: u32) -> u64 {
        let times = u64::from(ejections.clamp(1, LONGEST));
        u64::try_from(self.length.as_nanos()).unwrap_or(u64::MAX).saturating_mul(times)
    }
}

impl Health {
    /// Where it stands at `now`.
    #[inline]
    pub fn state(&self, now: u64) -> State {
        match self.until.load(Relaxed) {
            0 => State::InService,
            until if now < until => State::Ejected,
            _ => State::HalfOpen,
        }
    }

    /// Whether it is out of service, half-open or not.
    pub fn is_out(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// Whether a pick may take it: in service, or half-open with no request on its way.
    #[inline]
    pub fn is_available(&self, now: u64) -> bool {
        match self.state(now) {
            State::InService => true,
            State::Ejected => false,
            State::HalfOpen => !self.probing.load(Relaxed),
        }
    }

    /// Makes the caller's request the one that decides, unless there is one already.
    pub fn begin_probe(&self, now: u64) -> bool {
        self.state(now) == State::HalfOpen && !self.probing.swap(true, AcqRel)
    }

    /// The deciding request ended without saying anything; another may be tried.
    pub fn abandon_probe(&self) {
        self.probing.store(false, Release);
    }

    /// A request that was picked at `picked` got an answer. Returns whether this brings the endpoint back.
    #[inline]
    pub fn success(&self, picked: u64, now: u64, rules: impl FnOnce() -> Rules) -> bool {
        if self.row.load(Relaxed) != 0 {
            self.row.store(0, Relaxed);
        }
        if self.until.load(Relaxed) == 0 && self.ejections.load(Relaxed) == 0 {
            return false;
        }
        self.recover(picked, now, &rules())
    }

    /// A request failed. `probe`: it was the deciding one. `allowed` is asked whether one more endpoint may be ejected.
    /// Returns whether this ejects the endpoint.
    pub fn failure(&self, probe: bool, now: u64, rules: &Rules, allowed: impl FnOnce() -> bool) -> bool {
        let row = self.row.fetch_add(1, Relaxed).saturating_add(1);
        let until = self.until.load(Relaxed);
        if until != 0 {
            // It is out already, so its siblings' share does not change.
            return probe && self.eject(until, now, rules);
        }
        rules.after != 0 && row >= rules.after && allowed() && self.eject(0, now, rules)
    }

    fn eject(&self, before: u64, now: u64, rules: &Rules) -> bool {
        let ejections = self.ejections.load(Relaxed).saturating_add(1);
        let until = now.saturating_add(rules.length(ejections)).max(1);
        if self.until.compare_exchange(before, until, AcqRel, Relaxed).is_err() {
            return false;
        }
        self.ejections.store(ejections, Relaxed);
        self.since.store(now, Relaxed);
        self.row.store(0, Relaxed);
        self.probing.store(false, Release);
        true
    }

    #[cold]
    fn recover(&self, picked: u64, now: u64, rules: &Rules) -> bool {
        let until = self.until.load(Relaxed);
        let since = self.since.load(Relaxed);
        if until == 0 {
            // As long in service as it was last out: what was before is forgotten.
            if now.saturating_sub(since) >= rules.length(self.ejections.load(Relaxed)) {
                self.ejections.store(0, Relaxed);
            }
            return false;
        }
        // An answer to a request from before the ejection says nothing of the time since.
        if picked < since || self.until.compare_exchange(until, 0, AcqRel, Relaxed).is_err() {
            return false;
        }
        self.since.store(now, Relaxed);
        self.probing.store(false, Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const RULES: Rules = Rules { after: 3, length: Duration::from_secs(10), max_percent: 50 };

    fn fail(health: &Health, now: u64) -> bool {
        health.failure(false, now, &RULES, || true)
    }

    fn eject(health: &Health, now: u64) {
        assert!(!fail(health, now) && !fail(health, now) && fail(health, now));
    }

    #[test]
    fn only_failures_in_a_row_eject() {
        let health = Health::default();
        assert!(!fail(&health, 1) && !fail(&health, 2));
        assert!(!health.success(2, 3, || RULES));
        assert!(!fail(&health, 4) && !fail(&health, 5));
        assert_eq!(health.state(5), State::InService);
        assert!(fail(&health, 6));
        assert_eq!(health.state(6), State::Ejected);
    }

    #[test]
    fn one_request_at_a_time_shows_whether_it_is_back() {
        let health = Health::default();
        eject(&health, 1);
        assert!(!health.begin_probe(5 * S));
        let now = 1 + 10 * S;
        assert!(health.is_available(now));
        assert!(health.begin_probe(now));
        assert!(!health.is_available(now) && !health.begin_probe(now));
        health.abandon_probe();
        assert!(health.begin_probe(now));
        // It fails: out again, twice as long.
        assert!(health.failure(true, now, &RULES, || false));
        assert_eq!(health.state(now + 20 * S - 1), State::Ejected);
        assert!(health.begin_probe(now + 20 * S));
        assert!(health.success(now + 20 * S, now + 21 * S, || RULES));
        assert_eq!(health.state(now + 21 * S), State::InService);
    }

    #[test]
    fn ejections_grow_up_to_ten_times_and_are_forgotten_after_a_quiet_time() {
        let health = Health::default();
        let mut now = 1;
        eject(&health, now);
        for n in 2..15u64 {
            let length = 10 * S * (n - 1).min(10);
            assert_eq!(health.state(now + length - 1), State::Ejected, "ejection {}", n - 1);
            now += length;
            assert!(health.begin_probe(now));
            assert!(health.failure(true, now, &RULES, || true));
        }
        now += 100 * S;
        assert!(health.begin_probe(now) && health.success(now, now, || RULES));
        // Not quiet for long enough: the next is still the longest.
        health.success(now, now + 99 * S, || RULES);
        eject(&health, now);
        assert_eq!(health.state(now + 100 * S - 1), State::Ejected);
        now += 100 * S;
        assert!(health.begin_probe(now) && health.success(now, now, || RULES));
        now += 100 * S;
        health.success(now, now, || RULES);
        eject(&health, now);
        assert_eq!(health.state(now + 10 * S), State::HalfOpen);
    }

    #[test]
    fn an_old_answer_does_not_bring_it_back_and_an_old_failure_does_not_prolong() {
        let health = Health::default();
        eject(&health, 100);
        assert!(!health.success(50, 200, || RULES));
        assert!(!fail(&health, 200));
        assert_eq!(health.state(200), State::Ejected);
        assert_eq!(health.state(100 + 10 * S), State::HalfOpen);
        // One that was picked for want of any other does bring it back.
        assert!(health.success(150, 300, || RULES));
    }

    #[test]
    fn the_floor_holds() {
        assert!(!RULES.allow(1, 0));
        assert!(RULES.allow(2, 0) && !RULES.allow(2, 1));
        assert!(RULES.allow(3, 0) && !RULES.allow(3, 1));
        assert!(RULES.allow(4, 1) && !RULES.allow(4, 2));
        let none = Rules { max_percent: 0, ..RULES };
        assert!(none.allow(2, 0) && !none.allow(100, 1));
        let all = Rules { max_percent: 100, ..RULES };
        assert!(all.allow(3, 2));
        let health = Health::default();
        assert!((0..10).all(|_| !health.failure(false, 1, &RULES, || false)));
        assert!((0..10).all(|_| !health.failure(false, 1, &Rules::NEVER, || true)));
    }
}
