//! How much goes to a port at once: what is wrong with it, and what it comes to.

use super::Report;
use crate::document::At;
use crate::resource::circuit as resource;
use crate::snapshot::Circuit;

/// Says what is wrong.
pub(super) fn check(said: &resource::Circuit, at: &At<'_>, report: &mut Report) {
    for (field, most) in [("maxConnections", said.max_connections), ("maxRequests", said.max_requests)] {
        if most == Some(0) {
            let error = at.field(field).error("nothing would ever go there");
            report.error(error.hint("leave the field out for no limit"));
        }
    }
    if said.pending_timeout.is_some_and(|limit| limit.0.is_zero()) {
        let error = at.field("pendingTimeout").error("whoever waits, waits for some time");
        report.error(error.hint("to let none wait, write `maxPendingRequests: 0`"));
    }
}

/// Puts what is said in place of what held before.
pub(super) fn fill_in(said: &resource::Circuit, circuit: &mut Circuit) {
    circuit.max_connections = said.max_connections.or(circuit.max_connections);
    circuit.max_requests = said.max_requests.or(circuit.max_requests);
    circuit.max_pending = said.max_pending_requests.unwrap_or(circuit.max_pending);
    circuit.pending_timeout = said.pending_timeout.map_or(circuit.pending_timeout, |limit| limit.0);
}
