//! TCPRoutes.

use super::reference::{self, Carries};
use super::{Drafts, Report, TcpDraft, port_mut};
use crate::load::Loaded;
use crate::resource::route::TcpRouteSpec;

/// Attaches a TCPRoute to the ports of its parents.
pub(super) fn attach<'r>(route: &'r Loaded<TcpRouteSpec>, drafts: &mut Drafts<'r>, report: &mut Report) {
    let (spec, at) = (&route.resource.spec, route.spec());
    let (at_parents, at_rules) = (at.field("parentRefs"), at.field("rules"));
    let ports =
        reference::parents(&spec.parent_refs, &at_parents, route.namespace(), Carries::Tcp, drafts, report);
    let names = spec.rules.iter().map(|rule| rule.name.as_deref());
    let labels = reference::labels(route.namespace(), route.name(), names, &at_rules, report);
    if spec.rules.len() > 1 {
        let error = at_rules.index(1).error("a TCPRoute has one rule");
        report.error(error.hint("a connection has nothing by which a second rule could be chosen"));
    }
    let (Some(rule), Some(label)) = (spec.rules.first(), labels.first()) else { return };
    let at_backends = at_rules.index(0).field("backendRefs");
    if rule.backend_refs.is_empty() {
        report.error(at_backends.error("the rule has no backends"));
    }
    let backends = reference::backends(&rule.backend_refs, &at_backends, route.namespace(), drafts, report);
    for key in &ports {
        let Some(port) = port_mut(drafts, key) else { continue };
        if let Some(other) = &port.tcp {
            let error = at_parents.error(format!("{} has a TCPRoute already", port.key));
            report.error(error.hint(format!("the first is at {}", other.at.place())));
            continue;
        }
        port.tcp = Some(TcpDraft { at: at_parents.clone(), name: label.clone(), backends: backends.clone() });
    }
}
