//! A slow medium, emulated: a token bucket that all runs of a device share.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much may be read at once after a rest, as a part of a second.
const BURST: Duration = Duration::from_millis(20);

/// Tells readers how long to wait, so that together they read no faster than the medium.
#[derive(Debug)]
pub(crate) struct Media {
    bytes_per_second: u64,
    /// Until when what was read so far takes.
    busy_until: Mutex<Option<Instant>>,
}

impl Media {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Media { bytes_per_second: bytes_per_second.max(1), busy_until: Mutex::new(None) }
    }

    /// Reads `bytes` at `now`: how long that takes, after everything that was read before.
    pub(crate) fn take(&self, bytes: u64, now: Instant) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = now.checked_sub(BURST).unwrap_or(now);
        let until = busy_until.unwrap_or(rested).max(rested) + takes;
        *busy_until = Some(until);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_together_are_no_faster_than_the_medium() {
        let media = Media::new(1_000_000);
        let start = Instant::now();
        // Two readers that wait as they are told, and read a megabyte each.
        let (mut one, mut two) = (start, start);
        for _ in 0..100 {
            one += media.take(10_000, one);
            two += media.take(10_000, two);
        }
        let took = one.max(two) - start;
        assert!(took > Duration::from_millis(1_950) && took <= Duration::from_secs(2), "{took:?}");
        // A rest saves up no more than a burst.
        let later = start + Duration::from_secs(60);
        assert_eq!(media.take(20_000, later), Duration::ZERO);
        assert_eq!(media.take(1_000_000, later), Duration::from_secs(1));
    }
}
