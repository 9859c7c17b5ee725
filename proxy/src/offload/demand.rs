//! What requests wanted, wherever they went: by that it is planned where functions are active.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::log::placements_of;
use crate::mesh::Mesh;

/// Requests that could have been placed. One that was placed a second time is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) requests: u64,
    /// Of them, those that the host was to answer.
    pub(crate) at_host: u64,
}

/// What the requests of each policy of a mesh wanted so far, by its `namespace/name`. What is not configured any more is
/// forgotten.
pub(crate) fn demands(mesh: &Mesh) -> BTreeMap<Arc<str>, Demand> {
    let mut demands: BTreeMap<Arc<str>, Demand> = BTreeMap::new();
    for placement in placements_of(mesh) {
        let one = placement.lock().demand;
        let sum = demands.entry(placement.said.policy.clone()).or_default();
        sum.requests += one.requests;
        sum.at_host += one.at_host;
    }
    demands
}
