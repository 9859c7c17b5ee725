//! What the API counts, as Prometheus reads it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of the API. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests answered, whatever the answer.
    pub requests: AtomicU64,
    /// Requests with the operator's token.
    pub by_token: AtomicU64,
    /// Requests of operators who had shown a certificate.
    pub by_certificate: AtomicU64,
    /// Requests of nobody who may ask.
    pub unauthorized: AtomicU64,
    /// Changes refused: a fault in what was pushed.
    pub invalid: AtomicU64,
    /// Changes refused: someone else was faster.
    pub conflict: AtomicU64,
    /// Changes of the store.
    pub changes: AtomicU64,
    /// Lines that the audit log did not take.
    pub audit_lost: AtomicU64,
    /// Connections that never became TLS.
    pub handshakes_failed: AtomicU64,
    /// Connections closed so that a newer one had its place.
    pub connections_shed: AtomicU64,
}

impl Counters {
    /// Counts one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// Writes them in Prometheus' text format.
    pub fn write(&self, text: &mut String, generation: u64, resources: usize) {
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            let _ =
                writeln!(text, "# HELP lighter_control_{name} {help}\n# TYPE lighter_control_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "lighter_control_{name}{labels} {value}");
            }
        };
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        family("store_generation", "gauge", "Generation of the store.", &[("", generation)]);
        family("store_resources", "gauge", "Resources in the store.", &[("", resources as u64)]);
        family("store_changes_total", "counter", "Changes of the store.", &[("", read(&self.changes))]);
        family("api_requests_total", "counter", "Requests answered.", &[("", read(&self.requests))]);
        let by =
            [("{by=\"token\"}", read(&self.by_token)), ("{by=\"certificate\"}", read(&self.by_certificate))];
        family("api_operators_total", "counter", "Requests of operators, by what they showed.", &by);
        let refused = [
            ("{cause=\"unauthorized\"}", read(&self.unauthorized)),
            ("{cause=\"invalid\"}", read(&self.invalid)),
            ("{cause=\"conflict\"}", read(&self.conflict)),
        ];
        family("api_refused_total", "counter", "Requests refused, by cause.", &refused);
        let lost = [
            ("{cause=\"handshake\"}", read(&self.handshakes_failed)),
            ("{cause=\"shed\"}", read(&self.connections_shed)),
        ];
        family("api_connections_closed_total", "counter", "Connections closed early, by cause.", &lost);
        let help = "Changes that the audit log did not take.";
        family("audit_lost_total", "counter", help, &[("", read(&self.audit_lost))]);
    }
}
