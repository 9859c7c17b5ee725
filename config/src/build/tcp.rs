//! TCPRoutes.

use std::sync::Arc;

use super::kind::Refers;
use super::making::TcpMaking;
use super::reference::{self, Carries};
use super::{Drafts, Making, Report};
use crate::load::Loaded;
use crate::name::{ServiceName, ServicePort};
use crate::resource::route::TcpRouteSpec;
use crate::snapshot::Backend;

/// A TCPRoute that knows its place.
#[derive(Clone)]
pub(super) struct Attached {
    ports: Vec<ServicePort>,
    /// What its one rule is called, and where it leads. None: it has no rule, which is a fault.
    rule: Option<(Arc<str>, Vec<Backend>)>,
}

impl Refers for TcpRouteSpec {
    type Said = Attached;

    fn about(route: &Loaded<Self>) -> Vec<ServiceName> {
        reference::named_parents(&route.resource.spec.parent_refs, route.namespace())
    }

    fn names(route: &Loaded<Self>) -> Vec<ServiceName> {
        let rules = route.resource.spec.rules.iter();
        reference::named_backends(rules.flat_map(|rule| &rule.backend_refs), route.namespace())
    }

    fn follow(route: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Attached {
        let (spec, at) = (&route.resource.spec, route.spec());
        let (at_parents, at_rules) = (at.field("parentRefs"), at.field("rules"));
        let (namespace, carries) = (route.namespace(), Carries::Tcp);
        let ports = reference::parents(&spec.parent_refs, &at_parents, namespace, carries, drafts, report);
        let names = spec.rules.iter().map(|rule| rule.name.as_deref());
        let labels = reference::labels(namespace, route.name(), names, &at_rules, report);
        if spec.rules.len() > 1 {
            let error = at_rules.index(1).error("a TCPRoute has one rule");
            report.error(error.hint("a connection has nothing by which a second rule could be chosen"));
        }
        let (Some(rule), Some(label)) = (spec.rules.first(), labels.first()) else {
            return Attached { ports, rule: None };
        };
        let at_backends = at_rules.index(0).field("backendRefs");
        if rule.backend_refs.is_empty() {
            report.error(at_backends.error("the rule has no backends"));
        }
        let backends = reference::backends(&rule.backend_refs, &at_backends, namespace, drafts, report);
        Attached { ports, rule: Some((label.clone(), backends)) }
    }
}

/// Attaches TCPRoutes to the ports of a Service.
pub(super) fn attach<'m>(
    routes: Vec<(&'m Loaded<TcpRouteSpec>, &'m Attached)>,
    ports: &mut [Making<'m>],
    report: &mut Report,
) {
    for (route, attached) in routes {
        let Some((name, backends)) = &attached.rule else { continue };
        for port in ports.iter_mut().filter(|port| attached.ports.contains(&port.draft.key)) {
            let at = route.spec().field("parentRefs");
            if let Some(other) = &port.tcp {
                let error = at.error(format!("{} has a TCPRoute already", port.draft.key));
                report.error(error.hint(format!("the first is at {}", other.at.place())));
                continue;
            }
            port.tcp = Some(TcpMaking { at, name, backends });
        }
    }
}
