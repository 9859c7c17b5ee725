//! What routes with rules and matches have in common, whatever they match by.

use std::sync::Arc;

use super::order::{Age, Ranked};
use super::reference::{self, Carries};
use super::{Drafts, Making, Report, check};
use crate::load::Loaded;
use crate::name::ServicePort;
use crate::resource::meta::ParentRef;

/// A route that knows its place.
#[derive(Clone, Default)]
pub(super) struct Attached {
    /// The ports to which it is attached.
    pub(super) ports: Vec<ServicePort>,
    /// What it is for each of them.
    pub(super) routes: Vec<Ranked>,
}

impl Attached {
    /// Those of `ports` to which it is attached.
    pub(super) fn to<'p, 'm>(&self, ports: &'p mut [Making<'m>]) -> impl Iterator<Item = &'p mut Making<'m>> {
        ports.iter_mut().filter(|port| self.ports.contains(&port.draft.key))
    }
}

/// Where a route is attached, and what its rules are called.
pub(super) struct Attachment {
    pub(super) ports: Vec<ServicePort>,
    pub(super) age: Age,
    /// One for each rule.
    pub(super) labels: Vec<Arc<str>>,
}

/// The attachment of a route to its parents. `rules`: each one's name and number of matches. `None` if there is more
/// than can be looked at.
pub(super) fn attachment<'r, S>(
    route: &'r Loaded<S>,
    parents: &[ParentRef],
    rules: impl Iterator<Item = (Option<&'r str>, usize)> + Clone,
    drafts: &Drafts,
    report: &mut Report,
) -> Option<Attachment> {
    let at = route.spec();
    let (at_parents, at_rules) = (at.field("parentRefs"), at.field("rules"));
    let ports = reference::parents(parents, &at_parents, route.namespace(), Carries::Http, drafts, report);
    // A rule without matches matches everything, once.
    let matches = rules.clone().map(|(_, matches)| matches.max(1)).sum();
    report.ok(check::at_most(&at_rules, matches, check::MAX_MATCHES))?;
    let names = rules.map(|(name, _)| name);
    let labels = reference::labels(route.namespace(), route.name(), names, &at_rules, report);
    let created = route.resource.metadata.creation_timestamp.as_deref();
    Some(Attachment { ports, age: Age::new(created, route.namespace(), route.name()), labels })
}
