//! When a sidecar that joined asks for what. No clock and no socket of its own.
//!
//! Times are of the day, as the lives of certificates are: a machine that slept or whose clock was set finds out by
//! asking again.

use std::time::{Duration, SystemTime};

use lighter_config::xds::client::Backoff;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// There is no certificate, or its life is over: only a join token leads to another one.
    Join,
    /// The next certificate is due, by the one that is alive.
    Renew,
    /// Nothing before then.
    At(SystemTime),
}

/// Decides when to join and when to renew.
pub(super) struct Schedule {
    /// When the next certificate is due, and the end of the one there is.
    certificate: Option<(SystemTime, SystemTime)>,
    /// Not before: something failed.
    try_at: Option<SystemTime>,
    backoff: Backoff,
}

impl Schedule {
    /// Of a sidecar without a certificate.
    pub(super) fn new() -> Self {
        Schedule { certificate: None, try_at: None, backoff: Backoff::default() }
    }

    /// There is a certificate, received at `issued`, that lives until `end`. The next one is due at half its life, or up
    /// to a tenth of it before, by `random` from 0 to 1: sidecars that started together shall not ask together.
    pub(super) fn received(&mut self, issued: SystemTime, end: SystemTime, random: f64) {
        let life = end.duration_since(issued).unwrap_or_default();
        let share = 0.5 - SPREAD * random.clamp(0.0, 1.0);
        self.certificate = Some((issued + life.mul_f64(share).max(SHORTEST), end));
        self.try_at = None;
        self.backoff.reset();
    }

    /// Other roots are trusted. A certificate under a root that leaves is worth nothing soon, so that one of the root
    /// that signs now is due within a while, by `random`.
    pub(super) fn roots_changed(&mut self, now: SystemTime, random: f64) {
        if let Some((due, _)) = &mut self.certificate {
            *due = (*due).min(now + AFTER_ROOTS.mul_f64(random.clamp(0.0, 1.0)));
        }
    }

    /// What was due did not succeed.
    pub(super) fn failed(&mut self, now: SystemTime, random: f64) {
        self.try_at = Some(now + self.backoff.wait(random));
    }

    /// What is to be done now.
    pub(super) fn due(&self, now: SystemTime) -> Due {
        // A clock that was set back by more than any wait: what it said before means nothing.
        let try_at = self.try_at.filter(|at| at.duration_since(now).is_ok_and(|wait| wait < LONGEST_WAIT));
        match self.certificate {
            Some((due, end)) if now < end => match try_at.map_or(due, |at| due.max(at)) {
                // At the end, something else is due.
                at if at > now => Due::At(at.min(end)),
                _ => Due::Renew,
            },
            _ => try_at.filter(|at| *at > now).map_or(Due::Join, Due::At),
        }
    }
}

/// The share of a life by which a renewal may be early.
const SPREAD: f64 = 0.1;

/// The least time from one certificate to the next.
const SHORTEST: Duration = Duration::from_secs(1);

/// Within this time after a change of roots, everyone has asked for a new certificate.
const AFTER_ROOTS: Duration = Duration::from_secs(10);

/// Longer than any pause after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn who_has_nothing_joins_at_once_and_again_after_a_pause() {
        let mut schedule = Schedule::new();
        assert_eq!(schedule.due(at(0)), Due::Join);
        schedule.failed(at(0), 0.5);
        let Due::At(again) = schedule.due(at(0)) else { panic!("at once again") };
        assert!(again > at(0) && again < at(1));
        assert_eq!(schedule.due(again), Due::Join);
    }

    #[test]
    fn the_next_certificate_is_due_about_half_way() {
        for (random, due) in [(0.0, DAY / 2), (1.0, DAY / 10 * 4)] {
            let mut schedule = Schedule::new();
            schedule.received(at(0), at(DAY), random);
            let Due::At(time) = schedule.due(at(0)) else { panic!("at once") };
            assert!(time.duration_since(at(due)).unwrap_or_default() < Duration::from_secs(1));
            assert_eq!(schedule.due(at(due - 1)), Due::At(time));
            assert_eq!(schedule.due(at(due + 1)), Due::Renew);
        }
    }

    #[test]
    fn failures_are_repeated_to_the_end_and_then_only_a_token_helps() {
        let mut schedule = Schedule::new();
        schedule.received(at(0), at(1000), 0.0);
        let (mut now, mut tries) = (at(500), 0);
        while schedule.due(now) == Due::Renew {
            tries += 1;
            schedule.failed(now, 1.0);
            let Due::At(next) = schedule.due(now) else { panic!("without a pause") };
            assert!(next > now && next <= at(1000));
            now = next;
        }
        assert!(tries > 10, "{tries}");
        assert!(now >= at(1000));
        schedule.failed(now, 0.5);
        let Due::At(again) = schedule.due(now) else { panic!("without a pause") };
        assert_eq!(schedule.due(again), Due::Join);
        schedule.received(again, again + Duration::from_secs(DAY), 0.0);
        assert!(matches!(schedule.due(again), Due::At(_)));
    }

    #[test]
    fn other_roots_bring_the_next_certificate_forward_and_never_back() {
        let mut schedule = Schedule::new();
        schedule.received(at(0), at(DAY), 0.0);
        schedule.roots_changed(at(100), 0.5);
        assert_eq!(schedule.due(at(100)), Due::At(at(105)));
        schedule.roots_changed(at(101), 1.0);
        assert_eq!(schedule.due(at(105)), Due::Renew);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing_up() {
        let mut schedule = Schedule::new();
        schedule.failed(at(DAY), 0.5);
        assert_eq!(schedule.due(at(0)), Due::Join);
    }

    proptest! {
        /// Whatever fails in whatever order: as time goes on there is always something due, and never twice at one time.
        #[test]
        fn it_never_stops_and_never_spins(
            life in 0u64..200_000,
            random in 0.0f64..1.0,
            outcomes in proptest::collection::vec(0u8..3, 1..60),
        ) {
            let mut schedule = Schedule::new();
            let mut now = at(0);
            for outcome in outcomes {
                if let Due::At(next) = schedule.due(now) {
                    prop_assert!(next > now);
                    now = next;
                }
                prop_assert!(!matches!(schedule.due(now), Due::At(next) if next <= now));
                match outcome {
                    0 => schedule.received(now, now + Duration::from_secs(life), random),
                    1 => schedule.failed(now, random),
                    _ => schedule.roots_changed(now, random),
                }
                if life > 0 && outcome == 0 {
                    let is_pause = matches!(schedule.due(now), Due::At(_));
                    prop_assert!(is_pause);
                }
            }
        }
    }
}
