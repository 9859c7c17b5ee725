//! What requests wanted, wherever they went: by that it is planned where functions are active.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::log::placements_of;
use crate::mesh::Mesh;

/// How many requests there were so far that could have been placed, of each policy of a mesh by its `namespace/name`. One that was
/// placed a second time is one. What is not configured any more is forgotten.
pub(crate) fn demands(mesh: &Mesh) -> BTreeMap<Arc<str>, u64> {
    let mut demands: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for placement in placements_of(mesh) {
        *demands.entry(placement.said.policy.clone()).or_default() += placement.lock().asked;
    }
    demands
}
