//! When endpoints are ejected for their answers, and how much goes to a port at once, for sidecars.

use super::millis;
use crate::snapshot::{Circuit, Comparison, Outliers};
use crate::xds::wire::lighter::config::v1 as lighter;

pub(super) fn outliers(outliers: &Outliers) -> lighter::Outliers {
    lighter::Outliers {
        errors: outliers.errors,
        gateway_errors: outliers.gateway_errors,
        interval_ms: millis(outliers.interval),
        success_rate: outliers.success_rate.map(comparison),
        latency: outliers.latency.map(comparison),
    }
}

pub(super) fn circuit(circuit: &Circuit) -> lighter::Circuit {
    lighter::Circuit {
        max_connections: circuit.max_connections,
        max_requests: circuit.max_requests,
        max_pending: circuit.max_pending,
        pending_timeout_ms: millis(circuit.pending_timeout),
    }
}

fn comparison(by: Comparison) -> lighter::Comparison {
    lighter::Comparison { factor: by.factor, hosts: by.hosts, volume: by.volume }
}
