//! What a run takes, and whether it may go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::device::{Limits, Usage, Watch};
use crate::media::Media;
use crate::status::{Fault, Status};

/// Rows between two looks at the clock.
pub(crate) const ROWS_BETWEEN_CHECKS: u64 = 256;
/// How long a run waits for its medium before it looks again whether anybody waits for it.
const NAP: Duration = Duration::from_millis(10);

/// Counts for one run. Shared with readers that keep it.
pub struct Meter {
    limits: Limits,
    until: Instant,
    /// The same of one that waited before it began.
    anew: OnceLock<Instant>,
    gone: Watch,
    media: Option<Arc<Media>>,
    held: AtomicU64,
    bytes_read: AtomicU64,
    bytes_skipped: AtomicU64,
    bytes_out: AtomicU64,
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    denied: AtomicU64,
    memories_lost: AtomicU64,
    /// It goes on though nobody waits for it.
    stays: AtomicBool,
}

impl Meter {
    pub(crate) fn new(limits: Limits, media: Option<Arc<Media>>, gone: Watch, now: Instant) -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Meter {
            limits,
            until: limits.until(now),
            anew: OnceLock::new(),
            gone,
            media,
            held: zero(),
            bytes_read: zero(),
            bytes_skipped: zero(),
            bytes_out: zero(),
            rows_in: zero(),
            rows_out: zero(),
            denied: zero(),
            memories_lost: zero(),
            stays: AtomicBool::new(false),
        })
    }

    /// For what is done with a program while nobody asks anything of it.
    pub fn unasked(memory_bytes: u64, deadline: Duration) -> Arc<Self> {
        let limits = Limits { memory_bytes, rows_out: u64::MAX, bytes_out: u64::MAX, deadline };
        Meter::new(limits, None, Arc::new(|| false), Instant::now())
    }

    /// From now on the run goes on to its end or its deadline, though whoever asked may leave; or that ends.
    pub fn stay(&self, stays: bool) {
        self.stays.store(stays, Relaxed);
    }

    /// The run begins only now: what it waited is no part of its time. Said once.
    pub fn begin(&self) {
        let _ = self.anew.set(self.limits.until(Instant::now()));
    }

    /// When the run has to have ended.
    pub fn until(&self) -> Instant {
        self.anew.get().copied().unwrap_or(self.until)
    }

    /// Whether the run may go on.
    pub fn check(&self) -> Result<(), Fault> {
        if !self.stays.load(Relaxed) && (self.gone)() {
            return Err(Fault::new(Status::NotDone, "whoever asked has left"));
        }
        if Instant::now() >= self.until() {
            return Err(self.late());
        }
        Ok(())
    }

    /// The time is over.
    pub fn late(&self) -> Fault {
        Fault::new(Status::IoTimeout, format!("not done within {:?}", self.limits.deadline))
    }

    /// So many bytes of the dataset were read: waits as long as its medium takes for that.
    pub fn read(&self, bytes: u64) -> Result<(), Fault> {
        self.bytes_read.fetch_add(bytes, Relaxed);
        let now = Instant::now();
        let ready = now + self.media.as_ref().map_or(Duration::ZERO, |media| media.take(bytes, now));
        loop {
            self.check()?;
            let left = ready.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    /// So many bytes of the dataset need not be read.
    pub(crate) fn skip(&self, bytes: u64) {
        self.bytes_skipped.fetch_add(bytes, Relaxed);
    }

    /// A dataset of another tenant was asked for.
    pub fn deny(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    /// The memory that the function kept is lost with this run.
    pub fn lose_memory(&self) {
        self.memories_lost.fetch_add(1, Relaxed);
    }

    /// One more row is looked at.
    pub(crate) fn row_in(&self) -> Result<(), Fault> {
        if self.rows_in.fetch_add(1, Relaxed) % ROWS_BETWEEN_CHECKS == ROWS_BETWEEN_CHECKS - 1 {
            self.check()?;
        }
        Ok(())
    }

    /// One more row is part of the result.
    pub(crate) fn row_out(&self) -> Result<(), Fault> {
        let rows = self.rows_out.fetch_add(1, Relaxed) + 1;
        if rows > self.limits.rows_out {
            self.rows_out.fetch_sub(1, Relaxed);
            let most = self.limits.rows_out;
            return Err(Fault::new(Status::OutOfResources, format!("the result has more than {most} rows")));
        }
        Ok(())
    }

    /// So many bytes more are part of the result.
    pub fn bytes_out(&self, bytes: u64) -> Result<(), Fault> {
        if self.bytes_out.load(Relaxed).saturating_add(bytes) > self.limits.bytes_out {
            let most = self.limits.bytes_out;
            return Err(Fault::new(Status::OutOfResources, format!("the result has more than {most} bytes")));
        }
        self.bytes_out.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Holds so many bytes more, if that is within the limit.
    pub fn hold(&self, bytes: u64) -> Result<(), Fault> {
        let held = self.held.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if held > self.limits.memory_bytes {
            self.held.fetch_sub(bytes, Relaxed);
            let most = self.limits.memory_bytes;
            return Err(Fault::new(
                Status::NotEnoughMemory,
                format!("{bytes} bytes more would be above the {most} that a run may hold"),
            ));
        }
        Ok(())
    }

    /// Gives so many bytes back.
    pub fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    /// What the run took so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_skipped: self.bytes_skipped.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            rows_in: self.rows_in.load(Relaxed),
            rows_out: self.rows_out.load(Relaxed),
            denied: self.denied.load(Relaxed),
            memories_lost: self.memories_lost.load(Relaxed),
        }
    }
}

/// Bytes that are held until this is dropped.
pub(crate) struct Held {
    meter: Arc<Meter>,
    bytes: u64,
}

impl Held {
    /// Nothing yet.
    pub(crate) fn none(meter: &Arc<Meter>) -> Self {
        Held { meter: meter.clone(), bytes: 0 }
    }

    /// So many from now on, where that is more than before.
    pub(crate) fn at_least(&mut self, bytes: u64) -> Result<(), Fault> {
        if bytes > self.bytes {
            self.meter.hold(bytes - self.bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// So many from now on.
    pub(crate) fn exactly(&mut self, bytes: u64) -> Result<(), Fault> {
        if bytes < self.bytes {
            self.meter.release(self.bytes - bytes);
            self.bytes = bytes;
        }
        self.at_least(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.meter.release(self.bytes);
    }
}
