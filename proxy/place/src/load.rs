//! How long a request waits at a place: what the place last said, less what it has done since, and what was sent meanwhile.

use crate::time::Time;

/// The queue of one place as it is known here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// How long one that came at `at` would have waited.
    seconds: f64,
    at: Time,
    /// When the place last said so.
    said: Option<Time>,
}

impl Load {
    /// How long one that comes now would wait.
    pub(crate) fn queue_seconds(&self, now: Time) -> f64 {
        (self.seconds - now.seconds_since(self.at)).max(0.0)
    }

    /// The place said at `now` how long one would wait. What is older than what is known is dropped.
    pub(crate) fn report(&mut self, queue_seconds: f64, now: Time) {
        if now >= self.at && queue_seconds.is_finite() {
            *self = Load { seconds: queue_seconds.max(0.0), at: now, said: Some(now) };
        }
    }

    /// For how long a place that reports has not done so. Zero, if it never did.
    pub(crate) fn silent_seconds(&self, now: Time) -> f64 {
        self.said.map_or(0.0, |said| now.seconds_since(said))
    }

    /// A request was sent there that lets others wait for so long.
    pub(crate) fn begin(&mut self, occupied_seconds: f64, now: Time) {
        self.seconds = self.queue_seconds(now) + occupied_seconds;
        self.at = now.max(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_drains_as_time_passes_and_grows_with_what_is_sent() {
        let mut load = Load::default();
        load.report(0.010, Time::from_seconds(1.0));
        assert!((load.queue_seconds(Time::from_seconds(1.004)) - 0.006).abs() < 1e-9);
        load.begin(0.004, Time::from_seconds(1.004));
        assert!((load.queue_seconds(Time::from_seconds(1.004)) - 0.010).abs() < 1e-9);
        assert_eq!(load.queue_seconds(Time::from_seconds(2.0)), 0.0);
        assert_eq!(load.silent_seconds(Time::from_seconds(2.0)), 1.0);
        // An old report changes nothing.
        load.report(9.0, Time::from_seconds(0.5));
        assert_eq!(load.queue_seconds(Time::from_seconds(2.0)), 0.0);
    }
}
