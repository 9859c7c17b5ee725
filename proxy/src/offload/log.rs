//! The last decisions, each with all that it was made from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lighter_place::{Logged, Record};

use super::{Placement, Rule};
use crate::mesh::Mesh;

/// So many are kept for each policy at a port: half a megabyte, once there were so many.
const KEPT: usize = 1024;

/// The last decisions of a placement, the oldest first.
#[derive(Default)]
pub(super) struct Log(VecDeque<Record>);

impl Log {
    pub(super) fn push(&mut self, record: Record) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(record);
    }
}

/// All placements of a mesh.
pub(super) fn placements_of(mesh: &Mesh) -> Vec<&Arc<Placement>> {
    let mut placements: Vec<&Arc<Placement>> = Vec::new();
    for destination in mesh.destinations() {
        for of_route in destination.routes.iter().filter_map(|route| route.offload.as_ref()) {
            if !placements.iter().any(|known| Arc::ptr_eq(known, &of_route.placement)) {
                placements.push(&of_route.placement);
            }
        }
    }
    placements
}

/// The last decisions of a mesh, at most `most`, the oldest first; of the rule `route`, if one is named.
pub(crate) fn decisions(mesh: &Mesh, route: Option<&str>, most: usize) -> Vec<Logged> {
    let mut found: Vec<Logged> =
        placements_of(mesh).into_iter().flat_map(|placement| placement.logged(route, most)).collect();
    found.sort_by_key(|logged| logged.unix_ms);
    found.split_off(found.len().saturating_sub(most))
}

impl Placement {
    fn logged(&self, route: Option<&str>, most: usize) -> Vec<Logged> {
        let named = |rule: &&Rule| route.is_some_and(|route| *rule.name == *route);
        let wanted = self.rules.iter().find(named).map(|rule| rule.id);
        if route.is_some() && wanted.is_none() {
            return Vec::new();
        }
        let is_wanted = |record: &&Record| wanted.is_none_or(|wanted| record.route == wanted);
        // Under the lock they are copied, and no more.
        let mut records = Vec::with_capacity(most.min(KEPT));
        records.extend(self.lock().log.0.iter().rev().filter(is_wanted).take(most).copied());
        records.reverse();
        records.into_iter().map(|record| self.name_all(record)).collect()
    }

    fn name_all(&self, record: Record) -> Logged {
        let at = self.began.1 + Duration::from_nanos(record.at.nanos());
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let candidates = record.inputs.candidates.iter();
        Logged {
            unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            service: self.key.to_string(),
            route: self.route_name(&record).to_string(),
            policy: self.said.policy.to_string(),
            place: self.name(record.decision.place).to_owned(),
            reason: record.decision.reason.label().to_owned(),
            places: candidates.map(|candidate| self.name(candidate.place).to_owned()).collect(),
            record,
        }
    }

    fn route_name(&self, record: &Record) -> &Arc<str> {
        // Records are of the routes that the placer was told of.
        let number = (record.route.number() as usize).min(self.rules.len() - 1);
        &self.rules[number].name
    }
}
