//! The limits that hold for all runs of a device: how many may begin, and how busy those that have begun may be.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lighter_config::sidecar::Priority;
use rustix::time::{ClockId, clock_gettime};

use super::bucket::Bucket;
use crate::error::Cause;
use crate::telemetry;

/// Longest rest between two looks at whether anybody waits for the run any more.
const NAP: Duration = Duration::from_millis(10);
/// Longest rest of a run before it goes on a little; what it still owes it rests the next time.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// What runs, admission and whoever sets the limits share.
pub(super) struct Hold {
    /// Of all threads of functions.
    pub(super) priority: Priority,
    /// How many processors they may keep busy together, as the bits of a float.
    processors: AtomicU64,
    bucket: Mutex<Bucket>,
    /// Processor time of all runs so far, in nanoseconds.
    busy: AtomicU64,
    /// How many runs there may be beside the main task.
    beside_main: AtomicUsize,
    /// How many there may be by the power that they take.
    by_power: AtomicUsize,
}

/// What one run has used.
pub(super) struct Used {
    hold: Arc<Hold>,
    /// Of its thread, in nanoseconds.
    counted: AtomicU64,
}

impl Hold {
    /// No limit yet.
    pub(super) fn new(priority: Priority) -> Self {
        Hold {
            priority,
            processors: AtomicU64::new(f64::INFINITY.to_bits()),
            bucket: Mutex::default(),
            busy: AtomicU64::new(0),
            beside_main: AtomicUsize::new(usize::MAX),
            by_power: AtomicUsize::new(usize::MAX),
        }
    }

    /// Runs together keep so many processors busy from now on, at most.
    pub(super) fn set_processors(&self, processors: f64) {
        self.processors.store(processors.to_bits(), Relaxed);
    }

    /// So many runs may be under way when one begins: beside the main task, and by the power that they take.
    pub(super) fn set_runs(&self, beside_main: usize, by_power: usize) {
        self.beside_main.store(beside_main, Relaxed);
        self.by_power.store(by_power, Relaxed);
    }

    /// Whether a run may begin where, with it, there are so many.
    pub(super) fn admit(&self, runs: usize) -> Result<(), Cause> {
        if runs > self.beside_main.load(Relaxed) {
            return Err(Cause::Reserve);
        }
        if runs > self.by_power.load(Relaxed) {
            return Err(Cause::PowerCap);
        }
        Ok(())
    }

    /// How many runs there may be at once.
    pub(super) fn most_runs(&self) -> usize {
        self.beside_main.load(Relaxed).min(self.by_power.load(Relaxed))
    }

    /// Processor time of all runs so far.
    pub(super) fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Relaxed))
    }

    /// Programs of their own have used so much, which cannot be had to rest.
    pub(super) fn count(&self, spent: Duration) {
        if !spent.is_zero() {
            self.busy.fetch_add(telemetry::histogram::nanos(spent), Relaxed);
            telemetry::device_busy(spent);
        }
    }

    /// How long to rest after so much processor time.
    fn spend(&self, spent: Duration) -> Duration {
        let processors = f64::from_bits(self.processors.load(Relaxed));
        if processors == f64::INFINITY {
            return Duration::ZERO;
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.spend(spent, processors, Instant::now())
    }
}

impl Used {
    /// Of a run that begins on this thread, which has done nothing else.
    pub(super) fn none(hold: Arc<Hold>) -> Self {
        Used { hold, counted: AtomicU64::new(0) }
    }

    /// Counts what this thread, the run's, has used since, and rests as long as the limits have it, unless `is_gone`.
    pub(super) fn pay(&self, is_gone: impl Fn() -> bool) {
        let rest = self.hold.spend(self.count()).min(LONGEST_REST);
        if rest.is_zero() {
            return;
        }
        let began = Instant::now();
        loop {
            let left = rest.saturating_sub(began.elapsed());
            if left.is_zero() || is_gone() {
                break;
            }
            std::thread::sleep(left.min(NAP));
        }
        telemetry::device_rested(began.elapsed());
    }

    /// The same for a run that has ended, which nothing keeps. Returns all that it has used.
    pub(super) fn end(&self) -> Duration {
        self.hold.spend(self.count());
        Duration::from_nanos(self.counted.load(Relaxed))
    }

    fn count(&self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let now =
            Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
        let now = telemetry::histogram::nanos(now);
        let spent = now.saturating_sub(self.counted.fetch_max(now, Relaxed));
        self.hold.busy.fetch_add(spent, Relaxed);
        let spent = Duration::from_nanos(spent);
        telemetry::device_busy(spent);
        spent
    }
}
