//! Whether a place is left alone for a while, because it refused, failed or stalled.

use serde::{Deserialize, Serialize};

use crate::record::Standing;
use crate::time::Time;

/// Why a device did not execute a request. It says so before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It may not draw more power.
    PowerCap,
    /// Its main task keeps its share.
    Reserve,
}

/// How a request failed that a device may have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The device is gone, or the way to it.
    Lost,
    /// It did not answer in time.
    TimedOut,
    /// It answered that it cannot.
    Error,
}

/// Why a request did not get its answer where it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setback {
    /// It was not executed.
    Refused(Refusal),
    /// It may have been.
    Failed(Failure),
}

/// What is known of a place's health. The host is never asked for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    /// Requests there that have not ended.
    outstanding: u32,
    /// Since when some are there and none has ended.
    waiting_since: Time,
    /// How long that may last, in seconds.
    patience_seconds: f64,
    suspension: Option<Suspension>,
}

#[derive(Clone, Copy, Debug)]
struct Suspension {
    cause: Standing,
    since: Time,
    until: Time,
    /// How many in a row, from 0.
    row: u32,
    /// Whether a request is under way that says whether it is over.
    is_tried: bool,
}

impl Health {
    /// Whether requests may go there. `draw` is from 0 to 1 by chance, so that not all sidecars come back at once.
    pub(crate) fn standing(&mut self, now: Time, draw: impl FnOnce() -> f32) -> Standing {
        let waited = now.seconds_since(self.waiting_since);
        if self.outstanding > 0 && waited > self.patience_seconds && !self.is_suspended(now) {
            self.suspend(Standing::Stalled, now, draw);
        }
        match &self.suspension {
            Some(suspension) if now < suspension.until || suspension.is_tried => suspension.cause,
            _ => Standing::Admissible,
        }
    }

    /// Nothing of what is under way there is waited for any more.
    pub(crate) fn forget_requests(&mut self) {
        self.outstanding = 0;
        if let Some(suspension) = &mut self.suspension {
            suspension.is_tried = false;
        }
    }

    /// Requests there that have not ended.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// A request is sent there that ought to be answered within so many seconds.
    pub(crate) fn begin(&mut self, patience_seconds: f64, now: Time) {
        if self.outstanding == 0 {
            (self.waiting_since, self.patience_seconds) = (now, patience_seconds);
        }
        self.patience_seconds = self.patience_seconds.max(patience_seconds);
        self.outstanding += 1;
        if let Some(suspension) = &mut self.suspension {
            suspension.is_tried = true;
        }
    }

    /// One that began at `began` was answered well.
    pub(crate) fn answered(&mut self, began: Time, now: Time) {
        self.end(now);
        // What was sent before says nothing of what came after.
        if self.suspension.is_some_and(|suspension| began >= suspension.since) {
            self.suspension = None;
        }
    }

    /// One that nobody waits for any more. Whether the place would have answered is as open as before.
    pub(crate) fn abandoned(&mut self, began: Time, now: Time) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            self.waiting_since = now;
        }
        if let Some(suspension) = self.suspension.as_mut().filter(|suspension| began >= suspension.since) {
            suspension.is_tried = false;
        }
    }

    /// One that began at `began` was not. Returns whether that is news.
    pub(crate) fn set_back(
        &mut self,
        setback: Setback,
        began: Time,
        now: Time,
        draw: impl FnOnce() -> f32,
    ) -> bool {
        self.end(now);
        // Of many that were under way at once, the first has said it for all.
        let is_news = self.suspension.is_none_or(|suspension| began >= suspension.since);
        if is_news {
            let cause = match setback {
                Setback::Refused(_) => Standing::Refused,
                Setback::Failed(_) => Standing::Failed,
            };
            self.suspend(cause, now, draw);
        }
        is_news
    }

    fn end(&mut self, now: Time) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.waiting_since = now;
    }

    fn is_suspended(&self, now: Time) -> bool {
        self.suspension.is_some_and(|suspension| now < suspension.until)
    }

    fn suspend(&mut self, cause: Standing, now: Time, draw: impl FnOnce() -> f32) {
        let row = self.suspension.map_or(0, |before| before.row + 1);
        let (first, longest) = match cause {
            Standing::Refused => REFUSED_SECONDS,
            _ => FAILED_SECONDS,
        };
        let seconds = (first * f64::from(1u32 << row.min(16))).min(longest);
        let until = Time::from_seconds(now.seconds() + seconds * (1.0 + JITTER * f64::from(draw())));
        self.suspension = Some(Suspension { cause, since: now, until, row, is_tried: false });
    }
}

/// The first time and the longest that a place is left alone that refused. It is well, and may have room again soon.
const REFUSED_SECONDS: (f64, f64) = (0.05, 5.0);
/// The same of one that failed or stalled: to try it costs a request's time.
const FAILED_SECONDS: (f64, f64) = (1.0, 60.0);
/// Up to this part longer.
const JITTER: f64 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from_seconds(seconds)
    }

    #[test]
    fn a_place_that_refused_is_left_alone_and_then_tried_by_one() {
        let mut health = Health::default();
        health.begin(1.0, at(0.0));
        health.set_back(Setback::Refused(Refusal::PowerCap), at(0.0), at(0.001), || 0.0);
        assert_eq!(health.standing(at(0.05), || 0.0), Standing::Refused);
        assert_eq!(health.standing(at(0.06), || 0.0), Standing::Admissible);
        health.begin(1.0, at(0.06));
        assert_eq!(health.standing(at(0.07), || 0.0), Standing::Refused, "one is enough to find out");
        health.set_back(Setback::Refused(Refusal::Reserve), at(0.06), at(0.08), || 0.0);
        assert_eq!(health.standing(at(0.17), || 0.0), Standing::Refused, "twice as long");
        health.begin(1.0, at(0.2));
        health.answered(at(0.2), at(0.21));
        assert_eq!(health.standing(at(0.21), || 0.0), Standing::Admissible);
    }

    #[test]
    fn who_does_not_end_anything_has_stalled() {
        let mut health = Health::default();
        health.begin(0.1, at(0.0));
        health.begin(0.1, at(0.05));
        health.answered(at(0.0), at(0.09));
        assert_eq!(health.standing(at(0.15), || 0.0), Standing::Admissible, "it answered a moment ago");
        assert_eq!(health.standing(at(0.2), || 0.0), Standing::Stalled);
        // An answer to what was sent before is no sign that new ones get one.
        health.answered(at(0.05), at(0.3));
        assert_eq!(health.standing(at(0.3), || 0.0), Standing::Stalled);
    }

    #[test]
    fn many_that_fail_at_once_are_one_failure() {
        let mut health = Health::default();
        (0..30).for_each(|_| health.begin(1.0, at(0.0)));
        let news =
            (0..30).filter(|_| health.set_back(Setback::Failed(Failure::Lost), at(0.0), at(0.1), || 0.0));
        assert_eq!(news.count(), 1);
        assert_eq!(health.standing(at(1.05), || 0.0), Standing::Failed);
        assert_eq!(health.standing(at(1.11), || 0.0), Standing::Admissible);
    }
}
