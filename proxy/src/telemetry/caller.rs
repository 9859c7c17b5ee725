//! What is counted of callers, where this workload has an identity: whether they proved who they are.

use std::sync::Arc;
use std::time::Instant;

use lighter_config::identity::Spiffe;
use lighter_config::name::ServicePort;

use super::exposition::{Exposition, Family, Kind, LabelValue, Unit};
use super::recorder::recorder;
use super::shards::Cells;

/// Counts of one caller's connections to one port.
pub struct CallerMetrics {
    labels: String,
    cells: Cells,
}

/// Which port, and who; nobody in plain text.
pub(super) type CallerKey = (ServicePort, Option<Spiffe>);

/// What became of a caller's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Welcome {
    /// It is served.
    Served,
    /// It is refused, as it did not prove who calls.
    Refused,
    /// It began TLS, and the handshake failed: mostly the caller's certificate.
    HandshakeFailed,
}

impl CallerMetrics {
    /// The counters of `caller`, who has proved to be that, or of all who have not.
    pub fn of(port: &ServicePort, caller: Option<&Spiffe>) -> Arc<Self> {
        recorder().callers.of((port.clone(), caller.cloned()), Instant::now(), |(port, caller)| {
            let (security, caller) = match caller {
                Some(caller) => ("mtls", caller.as_str()),
                None => ("plaintext", ""),
            };
            CallerMetrics {
                labels: format!(
                    "service=\"{}\",port=\"{}\",security=\"{security}\",caller=\"{}\"",
                    LabelValue(&port.service.to_string()),
                    port.port,
                    LabelValue(caller)
                ),
                cells: Cells::new(Welcome::ALL.len()),
            }
        })
    }

    /// A connection came.
    pub fn count(&self, welcome: Welcome) {
        self.cells.add(welcome as usize, 1);
    }

    pub(super) fn collect(&self, out: &mut Exposition) {
        for welcome in Welcome::ALL {
            let count = self.cells.sum(welcome as usize);
            if count > 0 {
                let labels = &self.labels;
                out.sample(&CALLERS, format_args!("{labels},outcome=\"{}\"", welcome.label()), count);
            }
        }
    }
}

impl Welcome {
    const ALL: [Welcome; 3] = [Welcome::Served, Welcome::Refused, Welcome::HandshakeFailed];

    const fn label(self) -> &'static str {
        match self {
            Welcome::Served => "served",
            Welcome::Refused => "refused",
            Welcome::HandshakeFailed => "handshake_failed",
        }
    }
}

static CALLERS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_inbound_connections",
    "Connections of callers to a workload that has an identity, by whether and as whom they proved who they are.",
);
