//! How busy the device is: what its callers are told beside each answer, and the control plane now and then.
//!
//! What is told is a load report of the kind that gRPC and Envoy know (ORCA): `application_utilization` is runs under way by
//! the most that there may be, `named_metrics.queue_seconds` how long a request that comes now would have to wait, and
//! `named_metrics.processor_seconds` what the answer itself took, where all of it goes out with its head.

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use lighter_config::sidecar::DeviceConfig;
use metrics::{Gauge, describe_gauge, gauge};

use crate::balance::LOAD_FIELD;

/// The runs that are under way, and how long they take.
#[derive(Debug)]
pub(crate) struct Busy {
    slots: u32,
    running: AtomicU32,
    /// How long runs took of late, in seconds, as the bits of a float. Zero: none has ended.
    mean: AtomicU64,
    queue: Option<Gauge>,
}

impl Busy {
    /// That of a device that runs nothing yet.
    pub(super) fn new(config: &DeviceConfig) -> Self {
        describe_gauge!("lighter_device_slots", "How many runs there may be at once.");
        describe_gauge!(
            "lighter_device_queue_seconds",
            "How long a request that comes now would have to wait: runs under way by slots, times how long runs took of late."
        );
        let slots = u32::try_from(config.limits.runs).unwrap_or(u32::MAX);
        gauge!("lighter_device_slots").set(f64::from(slots));
        Busy { queue: Some(gauge!("lighter_device_queue_seconds")), ..Busy::of(slots) }
    }

    fn of(slots: u32) -> Self {
        Busy { slots: slots.max(1), running: AtomicU32::new(0), mean: AtomicU64::new(0), queue: None }
    }

    pub(super) fn begin(&self) {
        self.running.fetch_add(1, Relaxed);
        self.show();
    }

    /// A run has ended that took so long, without what it waited for its caller.
    pub(super) fn end(&self, took: Duration) {
        let took = took.as_secs_f64();
        // Two that end at once may forget one of them: it is a mean.
        let mean = f64::from_bits(self.mean.load(Relaxed));
        let mean = if mean == 0.0 { took } else { mean + (took - mean) * NEWEST };
        self.mean.store(mean.to_bits(), Relaxed);
        self.running.fetch_sub(1, Relaxed);
        self.show();
    }

    /// Runs under way.
    pub(crate) fn running(&self) -> u32 {
        self.running.load(Relaxed)
    }

    /// How long a request that comes now would wait behind what is under way, in seconds. Runs share processor and medium, so
    /// that each slot is as slow as there are runs.
    pub(crate) fn queue_seconds(&self) -> f64 {
        self.queue_behind(self.running())
    }

    fn queue_behind(&self, runs: u32) -> f64 {
        f64::from(runs) / f64::from(self.slots) * f64::from_bits(self.mean.load(Relaxed))
    }

    /// Says it beside an answer. `is_running`: the run that makes the answer is under way, and is nobody's queue: whoever
    /// asked for it knows. `took`: the processor time of the run, where it has ended.
    pub(super) fn tell(&self, fields: &mut HeaderMap, is_running: bool, took: Option<Duration>) {
        let others = self.running().saturating_sub(u32::from(is_running));
        let used = f64::from(others) / f64::from(self.slots);
        let queue = self.queue_behind(others);
        let mut report =
            format!("TEXT application_utilization={used:.4}, named_metrics.queue_seconds={queue:.6}");
        if let Some(took) = took {
            // A String takes all that is written.
            let _ = write!(report, ", named_metrics.processor_seconds={:.9}", took.as_secs_f64());
        }
        if let Ok(report) = HeaderValue::from_maybe_shared(bytes::Bytes::from(report)) {
            fields.insert(LOAD_FIELD, report);
        }
    }

    fn show(&self) {
        if let Some(queue) = &self.queue {
            queue.set(self.queue_seconds());
        }
    }
}

/// So much the newest run says of how long runs take.
const NEWEST: f64 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(busy: &Busy, is_running: bool) -> String {
        let mut fields = HeaderMap::new();
        busy.tell(&mut fields, is_running, None);
        fields[LOAD_FIELD].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_queue_is_what_runs_by_slots_times_how_long_it_takes() {
        let busy = Busy::of(2);
        busy.begin();
        assert_eq!(busy.queue_seconds(), 0.0, "nobody knows yet how long a run takes");
        busy.end(Duration::from_secs(1));
        (0..3).for_each(|_| busy.begin());
        assert_eq!((busy.running(), busy.queue_seconds()), (3, 1.5));
        let all = "TEXT application_utilization=1.5000, named_metrics.queue_seconds=1.500000";
        let others = "TEXT application_utilization=1.0000, named_metrics.queue_seconds=1.000000";
        assert_eq!((told(&busy, false), told(&busy, true)), (all.to_owned(), others.to_owned()));
        let mut fields = HeaderMap::new();
        busy.tell(&mut fields, true, Some(Duration::from_micros(1234)));
        assert_eq!(fields[LOAD_FIELD], format!("{others}, named_metrics.processor_seconds=0.001234000"));
        busy.end(Duration::from_secs(2));
        assert!((busy.queue_seconds() - 1.2).abs() < 1e-9, "of the newest a fifth");
        (0..2).for_each(|_| busy.end(Duration::ZERO));
        assert_eq!(busy.queue_seconds(), 0.0);
    }
}
