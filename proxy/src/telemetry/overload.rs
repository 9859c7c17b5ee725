//! What is counted where a workload is kept from more requests than it can work on.

use std::sync::Arc;
use std::time::Duration;

use lighter_config::name::ServicePort;
use lighter_config::snapshot::Priority;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Counters of one port of this workload.
pub struct OverloadMetrics {
    limit: Gauge,
    baseline: Gauge,
    asked: Counter,
    refused: [Counter; 2],
}

impl OverloadMetrics {
    /// The counters of a port.
    pub fn of(key: &ServicePort) -> Arc<Self> {
        describe();
        let labels = [("service", key.service.to_string()), ("port", key.port.to_string())];
        let refused = |priority: &'static str| {
            let [service, port] = labels.clone();
            counter!("lighter_overload_refusals_total", &[service, port, ("priority", priority.to_owned())])
        };
        Arc::new(OverloadMetrics {
            limit: gauge!("lighter_overload_limit", &labels),
            baseline: gauge!("lighter_overload_baseline_seconds", &labels),
            asked: counter!("lighter_overload_probes_total", &labels),
            refused: [refused("default"), refused("high")],
        })
    }

    /// A request was refused.
    pub fn refused(&self, priority: Priority) {
        self.refused[priority as usize].increment(1);
    }

    /// So many are let through at once, and so long an answer takes at rest.
    pub fn found(&self, limit: u32, baseline: Option<Duration>) {
        self.limit.set(limit);
        if let Some(baseline) = baseline {
            self.baseline.set(baseline.as_secs_f64());
        }
    }

    /// Only few are let through for a moment, to find out how long an answer takes at rest.
    pub fn asked(&self) {
        self.asked.increment(1);
    }
}

fn describe() {
    describe_gauge!("lighter_overload_limit", "Requests to this workload that are let through at once.");
    describe_gauge!(
        "lighter_overload_baseline_seconds",
        "How long an answer of this workload takes while few requests are under way."
    );
    describe_counter!(
        "lighter_overload_probes_total",
        "Times that only few requests were let through, to find out how long an answer takes."
    );
    describe_counter!(
        "lighter_overload_refusals_total",
        "Requests that were refused as this workload had as many as it can work on, by their route's priority."
    );
}
