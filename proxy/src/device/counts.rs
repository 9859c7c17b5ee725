//! What is counted of runs. Functions and datasets that the configuration does not know have the label `unknown`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lighter_config::sidecar::{DeviceConfig, Priority};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use super::{Asked, Ended, priority};
use crate::error::Cause;

/// Handles are kept, so that what a device counted is shown as long as it lives.
pub(super) struct Counts {
    functions: Vec<String>,
    datasets: Vec<String>,
    runs: Mutex<HashMap<(usize, usize), Runs>>,
    in_flight: Gauge,
    refused: Counter,
    reserved: Counter,
    capped: Counter,
    inactive: Counter,
}

/// Of one function on one dataset.
struct Runs {
    function: String,
    dataset: String,
    ended: HashMap<&'static str, Counter>,
    bytes_read: Counter,
    bytes_skipped: Counter,
    bytes_out: Counter,
    denied: Counter,
    memories_lost: Counter,
    rows_in: Counter,
    rows_out: Counter,
}

impl Counts {
    pub(super) fn new(config: &DeviceConfig) -> Self {
        describe();
        Counts {
            functions: config.function_names().map(str::to_owned).collect(),
            datasets: config.datasets.iter().map(|dataset| dataset.name.clone()).collect(),
            runs: Mutex::default(),
            in_flight: gauge!("lighter_device_runs_in_flight"),
            refused: refusals(Cause::ConcurrencyLimit),
            reserved: refusals(Cause::Reserve),
            capped: refusals(Cause::PowerCap),
            inactive: refusals(Cause::Inactive),
        }
    }

    /// A run begins, whose thread has this priority.
    pub(super) fn begin(&self, has: Priority) {
        self.in_flight.increment(1.0);
        with_priority(has).increment(1.0);
    }

    /// A run that began has ended.
    pub(super) fn end(&self, asked: &Asked<'_>, ended: &Ended, had: Priority) {
        self.in_flight.decrement(1.0);
        with_priority(had).decrement(1.0);
        let name = asked.dataset.split('@').next().unwrap_or_default();
        self.with(asked.function, name, |runs| runs.count(ended));
    }

    /// So many memories of a function ended without a run.
    pub(super) fn lost(&self, function: &str, memories: u64) {
        if memories > 0 {
            self.with(function, UNKNOWN, |runs| runs.memories_lost.increment(memories));
        }
    }

    fn with(&self, function: &str, dataset: &str, what: impl FnOnce(&mut Runs)) {
        let function = self.functions.iter().position(|known| *known == function);
        let dataset = self.datasets.iter().position(|known| known == dataset);
        let key = (function.unwrap_or(usize::MAX), dataset.unwrap_or(usize::MAX));
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = runs.entry(key).or_insert_with(|| {
            let function = function.and_then(|at| self.functions.get(at)).cloned();
            let dataset = dataset.and_then(|at| self.datasets.get(at)).cloned();
            let unknown = || UNKNOWN.to_owned();
            Runs::new(function.unwrap_or_else(unknown), dataset.unwrap_or_else(unknown))
        });
        what(runs);
    }

    /// A run was refused before it began.
    pub(super) fn refuse(&self, cause: Cause) {
        match cause {
            Cause::Reserve => self.reserved.increment(1),
            Cause::PowerCap => self.capped.increment(1),
            Cause::Inactive => self.inactive.increment(1),
            _ => self.refused.increment(1),
        }
    }
}

impl Runs {
    fn new(function: String, dataset: String) -> Self {
        let labels = || [("function", function.clone()), ("dataset", dataset.clone())];
        let rows = |way: &'static str| {
            let [function, dataset] = labels();
            counter!("lighter_device_rows_total", &[function, dataset, ("way", way.to_owned())])
        };
        Runs {
            bytes_read: counter!("lighter_device_read_bytes_total", &labels()),
            bytes_skipped: counter!("lighter_device_skipped_bytes_total", &labels()),
            bytes_out: counter!("lighter_device_result_bytes_total", &labels()),
            denied: counter!("lighter_device_denied_total", &labels()),
            memories_lost: counter!("lighter_device_memories_lost_total", &labels()),
            rows_in: rows("in"),
            rows_out: rows("out"),
            ended: HashMap::new(),
            function,
            dataset,
        }
    }

    fn count(&mut self, Ended { status, took, .. }: &Ended) {
        let ended = self.ended.entry(status).or_insert_with(|| {
            let (function, dataset) = (self.function.clone(), self.dataset.clone());
            counter!("lighter_device_runs_total", "function" => function, "dataset" => dataset, "status" => *status)
        });
        ended.increment(1);
        self.bytes_read.increment(took.bytes_read);
        self.bytes_skipped.increment(took.bytes_skipped);
        self.bytes_out.increment(took.bytes_out);
        self.denied.increment(took.denied);
        self.memories_lost.increment(took.memories_lost);
        self.rows_in.increment(took.rows_in);
        self.rows_out.increment(took.rows_out);
    }
}

fn refusals(cause: Cause) -> Counter {
    counter!("lighter_device_refusals_total", "cause" => cause.label())
}

fn with_priority(priority: Priority) -> Gauge {
    gauge!("lighter_device_priority", "priority" => priority::label(priority))
}

const UNKNOWN: &str = "unknown";

fn describe() {
    describe_counter!("lighter_device_runs_total", "Runs of functions that ended, by how.");
    describe_counter!("lighter_device_read_bytes_total", "Bytes of datasets that runs read.");
    describe_counter!(
        "lighter_device_skipped_bytes_total",
        "Bytes of datasets that runs did not have to read, as no row or column that was asked for is in them."
    );
    describe_counter!("lighter_device_result_bytes_total", "Bytes of results.");
    describe_counter!(
        "lighter_device_denied_total",
        "Datasets of other tenants that components asked for, and did not get."
    );
    describe_counter!(
        "lighter_device_memories_lost_total",
        "Memories that functions kept between their runs, and that ended with a run that broke off, or while they moved."
    );
    describe_counter!(
        "lighter_device_rows_total",
        "Rows that runs looked at (in), and rows of their results (out)."
    );
    describe_gauge!("lighter_device_runs_in_flight", "Runs of functions that are under way.");
    describe_counter!(
        "lighter_device_refusals_total",
        "Requests that were refused before they ran, by the limit that had them refused."
    );
}
