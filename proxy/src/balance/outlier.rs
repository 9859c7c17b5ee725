//! Passive ejection: an endpoint that fails time after time, or does worse than its siblings (see [`super::rates`]), gets no
//! requests for a while, and then one to show that it is back.
//!
//! Pure state with the time as a parameter. Workers share it without a lock; every transition is one atomic exchange,
//! so that an endpoint is ejected once, and probed by one request at a time.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::time::Duration;

/// When and for how long endpoints are ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How many failures in a row eject, by [`Fault`]. 0: none do.
    pub after: [u32; 3],
    /// The first ejection's length; the n-th lasts n times as long, up to [`LONGEST`] times.
    pub length: Duration,
    /// At most this share of the siblings is ejected at once, in percent; one always may be if there are two.
    pub max_percent: u8,
}

/// What an endpoint did wrong. A broken connection is one fault; an answer can be two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection failed or broke.
    Connection,
    /// The answer has a status from 500 to 599.
    Error,
    /// The answer has one of 502, 503 and 504.
    Gateway,
}

/// Why an endpoint is ejected: the `cause` of `lighter_endpoint_ejections_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Connections in a row failed.
    ConsecutiveFailures,
    /// Answers in a row had a status from 500 to 599.
    Consecutive5xx,
    /// Answers in a row had one of 502, 503 and 504.
    ConsecutiveGatewayErrors,
    /// It failed more often than the others.
    SuccessRate,
    /// It took longer than the others.
    Latency,
}

impl Reason {
    /// Each, in the order of its number.
    pub const ALL: [Reason; 5] = [
        Reason::ConsecutiveFailures,
        Reason::Consecutive5xx,
        Reason::ConsecutiveGatewayErrors,
        Reason::SuccessRate,
        Reason::Latency,
    ];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::ConsecutiveFailures => "consecutive_failures",
            Reason::Consecutive5xx => "consecutive_5xx",
            Reason::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Reason::SuccessRate => "success_rate",
            Reason::Latency => "latency",
        }
    }
}

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Connection => Reason::ConsecutiveFailures,
            Fault::Error => Reason::Consecutive5xx,
            Fault::Gateway => Reason::ConsecutiveGatewayErrors,
        }
    }
}

/// The longest ejection, in lengths of the first.
pub const LONGEST: u32 = 10;

/// An ejection that ends when health checks say so, and not before.
const SHUNNED: u64 = u64::MAX;

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
    /// Faults of each kind without an answer between them that is none of that kind.
    rows: [AtomicU32; 3],
    /// Ejections without a quiet time between them.
    ejections: AtomicU32,
    /// Whether a request is on its way to show that the endpoint is back.
    probing: AtomicBool,
}

impl Rules {
    /// Nothing is ever ejected.
    pub const NEVER: Rules = Rules { after: [0; 3], length: Duration::ZERO, max_percent: 0 };

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
    /// The endpoint says itself that it leaves: it gets no requests until then, and then one to show whether it is back.
    /// Returns whether it was in service. That counts as no failure, and no share of its siblings keeps it there.
    pub fn leave(&self, now: u64, length: Duration) -> bool {
        let until = now.saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)).max(1);
        let left = self.until.compare_exchange(0, until, AcqRel, Relaxed).is_ok();
        if left {
            // Answers to what it took before say nothing of it.
            self.since.store(now, Relaxed);
        }
        left
    }

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

    /// Whether it is out of service because health checks say that it is unwell.
    pub fn is_shunned(&self) -> bool {
        self.until.load(Relaxed) == SHUNNED
    }

    /// Health checks say that it is unwell: it is out until they say otherwise.
    pub fn shun(&self) {
        self.until.store(SHUNNED, Release);
        self.probing.store(false, Release);
    }

    /// Health checks say that it is well, or are not to be believed. Returns whether that brings it back. One that was
    /// ejected meanwhile comes back too: it was asked, and answered.
    pub fn admit(&self, now: u64) -> bool {
        let back = self.until.compare_exchange(SHUNNED, 0, AcqRel, Relaxed).is_ok();
        if back {
            self.since.store(now, Relaxed);
            self.rows.iter().for_each(|row| row.store(0, Relaxed));
        }
        back
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
        self.clear(Fault::Connection);
        if self.until.load(Relaxed) == 0 && self.ejections.load(Relaxed) == 0 {
            return false;
        }
        self.recover(picked, now, &rules())
    }

    /// An answer came that is no fault of this kind.
    #[inline]
    pub fn clear(&self, fault: Fault) {
        let row = &self.rows[fault as usize];
        if row.load(Relaxed) != 0 {
            row.store(0, Relaxed);
        }
    }

    /// A request ended with these faults. `probe`: it was the deciding one. `allowed` is asked whether one more endpoint
    /// may be ejected. Returns the fault for which this ejects the endpoint.
    pub fn failure(
        &self,
        faults: &[Fault],
        probe: bool,
        now: u64,
        rules: &Rules,
        mut allowed: impl FnMut() -> bool,
    ) -> Option<Fault> {
        let mut reached = None;
        let mut counted = None;
        for fault in faults {
            let row = self.rows[*fault as usize].fetch_add(1, Relaxed).saturating_add(1);
            let after = rules.after[*fault as usize];
            if after != 0 {
                counted = Some(*fault);
                reached = reached.or((row >= after).then_some(*fault));
            }
        }
        let until = self.until.load(Relaxed);
        if until != 0 {
            // It is out already, so its siblings' share does not change.
            let fault = counted.or(faults.first().copied())?;
            return (probe && self.eject(until, now, rules)).then_some(fault);
        }
        let fault = reached?;
        (allowed() && self.eject(0, now, rules)).then_some(fault)
    }

    /// Ejects it for what it does beside others, unless it is out or not `allowed`. Returns whether it did.
    pub fn expel(&self, now: u64, rules: &Rules, allowed: impl FnOnce() -> bool) -> bool {
        !self.is_out() && allowed() && self.eject(0, now, rules)
    }

    fn eject(&self, before: u64, now: u64, rules: &Rules) -> bool {
        let ejections = self.ejections.load(Relaxed).saturating_add(1);
        let until = now.saturating_add(rules.length(ejections)).clamp(1, SHUNNED - 1);
        if self.until.compare_exchange(before, until, AcqRel, Relaxed).is_err() {
            return false;
        }
        self.ejections.store(ejections, Relaxed);
        self.since.store(now, Relaxed);
        self.rows.iter().for_each(|row| row.store(0, Relaxed));
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
        if picked < since
            || until == SHUNNED
            || self.until.compare_exchange(until, 0, AcqRel, Relaxed).is_err()
        {
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
    const RULES: Rules = Rules { after: [3, 2, 2], length: Duration::from_secs(10), max_percent: 50 };

    fn fail(health: &Health, now: u64) -> bool {
        health.failure(&[Fault::Connection], false, now, &RULES, || true).is_some()
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
    fn who_says_that_it_leaves_is_away_whatever_it_answers_yet() {
        let health = Health::default();
        assert!(health.leave(10, Duration::from_secs(5)) && !health.leave(11, Duration::from_secs(5)));
        // It took this before.
        assert!(!health.success(9, 12, || RULES));
        assert_eq!(health.state(5 * S), State::Ejected);
        let now = 10 + 5 * S;
        assert!(health.begin_probe(now) && health.success(now, now + 1, || RULES));
        assert_eq!(health.state(now + 1), State::InService);
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
        assert!(health.failure(&[Fault::Connection], true, now, &RULES, || false).is_some());
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
            assert!(health.failure(&[Fault::Connection], true, now, &RULES, || true).is_some());
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
        let fail = |rules: &Rules, allowed| {
            let found = health.failure(&[Fault::Connection], false, 1, rules, || allowed);
            found.is_some()
        };
        assert!((0..10).all(|_| !fail(&RULES, false)));
        assert!((0..10).all(|_| !fail(&Rules::NEVER, true)));
    }

    #[test]
    fn who_is_unwell_stays_out_until_health_checks_say_otherwise() {
        let health = Health::default();
        health.shun();
        let long = 1 << 60;
        assert_eq!(health.state(long), State::Ejected);
        assert!(health.is_shunned() && health.is_out() && !health.begin_probe(long));
        assert!(!health.success(long, long, || RULES), "an answer does not bring it back");
        assert!(!fail(&health, long) && !fail(&health, long) && !fail(&health, long));
        assert!(health.admit(long) && !health.admit(long));
        assert_eq!(health.state(long), State::InService);
        eject(&health, 1);
        assert!(!health.admit(2), "an ejection is none of theirs");
    }

    #[test]
    fn each_kind_of_fault_has_a_row_of_its_own() {
        let health = Health::default();
        let fail = |faults: &[Fault]| health.failure(faults, false, 1, &RULES, || true);
        assert_eq!(fail(&[Fault::Error]), None);
        assert_eq!(fail(&[Fault::Connection]), None);
        health.clear(Fault::Error);
        assert_eq!(fail(&[Fault::Error]), None);
        assert_eq!(fail(&[Fault::Gateway, Fault::Error]), Some(Fault::Error));
        // An answer of the kind that keeps it out does so once more.
        let now = 1 + 10 * S;
        assert!(health.begin_probe(now));
        assert_eq!(health.failure(&[Fault::Error], true, now, &RULES, || false), Some(Fault::Error));
        assert_eq!(health.state(now + 20 * S - 1), State::Ejected);
        let other = Health::default();
        assert!(other.expel(1, &RULES, || true) && !other.expel(2, &RULES, || true));
    }
}
