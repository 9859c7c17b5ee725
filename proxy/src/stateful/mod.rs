//! Of a Service with state: what this instance is to it, and what becomes of its callers' requests meanwhile.

use std::time::{SystemTime, UNIX_EPOCH};

use lighter_migrate::Incarnation;

use crate::mesh::Mesh;
use crate::registry;
use crate::worker::Shared;

pub mod copies;
mod count;
mod counts;
pub(crate) mod entry;
pub(crate) mod gate;
pub mod hooks;
pub(crate) mod host;
mod hosted;
pub(crate) mod run;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod transfer;
pub mod wire;

pub use hosted::Hosted;

/// Has `mesh`, which is about to be in force, know this workload's place, where its own Service has state. There is one only
/// beside a control plane with which this sidecar registers: nobody else can say who serves. It is the same one for as long as
/// the Service has state.
pub(crate) fn keep(shared: &Shared, mesh: &mut Mesh) {
    let own = shared.service().filter(|_| registry::registers(&shared.config));
    let stateful = own.and_then(|own| mesh.config.services.get(own)?.state.clone());
    let before = shared.hosted.load_full();
    let hosted = match (stateful, before) {
        (Some(stateful), Some(hosted)) => {
            hosted.set(&stateful);
            Some(hosted)
        }
        (Some(stateful), None) => Some(Hosted::new(&stateful, incarnation(None))),
        (None, Some(hosted)) => {
            // Whoever waits there would wait for nothing.
            hosted.renew(incarnation(Some(hosted.with(|place, _, _| place.incarnation()))));
            None
        }
        (None, None) => None,
    };
    shared.hosted.store(hosted.clone());
    mesh.hosted = hosted;
}

/// The life of a place that begins now, after that one.
pub fn incarnation(before: Option<Incarnation>) -> Incarnation {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Incarnation(before.map_or(now, |before| now.max(before.0.saturating_add(1))))
}
