//! TrafficPolicies.

use std::collections::BTreeMap;

use super::kind::Refers;
use super::reference::{self, Target};
use super::shape::{self, ByPort, RouteTarget, Shape};
use super::{Drafts, Making, Report, balancing, circuit, ejection, health, locality, overload, retry};
use crate::document::At;
use crate::load::Loaded;
use crate::name::{ServiceName, ServicePort};
use crate::resource::meta::TargetRef;
use crate::resource::policy::TrafficPolicySpec;
use crate::snapshot::TrafficPolicy;

/// What a policy says, and of what.
#[derive(Clone)]
pub(super) struct Said {
    pub(super) targets: Vec<Target>,
    pub(super) routes: Vec<RouteTarget>,
    pub(super) shape: Shape,
}

impl Refers for TrafficPolicySpec {
    type Said = Said;

    fn about(policy: &Loaded<Self>) -> Vec<ServiceName> {
        let about = |target: &TargetRef| match shape::names_route(target) {
            true => shape::named_route(target, policy.namespace()),
            false => ServiceName::new(policy.namespace(), &target.name),
        };
        policy.resource.spec.target_refs.iter().map(about).collect()
    }

    fn follow(policy: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Said {
        let (spec, at) = (&policy.resource.spec, policy.spec());
        check(spec, &at, report);
        let at_targets = at.field("targetRefs");
        if spec.target_refs.is_empty() {
            report.error(at_targets.error("a policy has at least one target"));
        }
        let mut said = Said { targets: Vec::new(), routes: Vec::new(), shape: Shape::of(spec, &at, report) };
        for (index, target) in spec.target_refs.iter().enumerate() {
            let at = at_targets.index(index);
            match shape::names_route(target) {
                true => {
                    said.routes.extend(report.ok(RouteTarget::of(index, target, &at, policy.namespace())));
                }
                false => said.targets.extend(reference::service(
                    index,
                    target,
                    &at,
                    policy.namespace(),
                    drafts,
                    report,
                )),
            }
        }
        if spec.priority.is_some() && said.routes.len() < spec.target_refs.len() {
            let error = at.field("priority").error("this field is about routes alone");
            report.error(error.hint("give the policy no targets but routes and rules of them"));
        }
        if !said.routes.is_empty() {
            check_for_routes(spec, &said.shape, &at, report);
        }
        said
    }
}

/// Applies the TrafficPolicies about a Service to its ports: first the one for the whole Service, then those for single
/// ports.
pub(super) fn apply<'m>(
    policies: Vec<(&'m Loaded<TrafficPolicySpec>, &'m Said)>,
    service: &ServiceName,
    ports: &mut [Making<'m>],
    report: &mut Report,
) {
    let mut said: BTreeMap<Option<u16>, (&TrafficPolicySpec, At<'_>)> = BTreeMap::new();
    let mut shapes = ByPort::new();
    for (policy, Said { targets, shape, .. }) in policies {
        for Target { index, port, .. } in targets.iter().filter(|target| target.service == *service) {
            let at = policy.spec().field("targetRefs").index(*index);
            if let Some((_, first)) = said.get(port) {
                let about = match *port {
                    Some(port) => ServicePort { service: service.clone(), port }.to_string(),
                    None => service.to_string(),
                };
                let error = at.error(format!("{about} has a TrafficPolicy already"));
                report.error(error.hint(format!("the first is at {}", first.place())));
            } else {
                said.insert(*port, (&policy.resource.spec, at));
                shapes.insert(*port, shape);
            }
        }
    }
    shape::apply(&shapes, ports);
    for port in ports {
        for (spec, at) in said.get(&None).into_iter().chain(said.get(&Some(port.draft.key.port))) {
            fill_in(spec, at, &mut port.policy);
        }
    }
}

/// What is about connections and endpoints cannot be said of a route: they are those of its backends.
fn check_for_routes(spec: &TrafficPolicySpec, shape: &Shape, at: &At<'_>, report: &mut Report) {
    let of_backends = [
        ("connectTimeout", spec.connect_timeout.is_some()),
        ("idleTimeout", spec.idle_timeout.is_some()),
        ("keepAlive", spec.keep_alive.is_some()),
        ("maxIdleConnections", spec.max_idle_connections.is_some()),
        ("ejection", spec.ejection.is_some()),
        ("retry", spec.retry.is_some()),
        ("balancing", spec.balancing.is_some()),
        ("circuit", spec.circuit.is_some()),
        ("healthCheck", spec.health_check.is_some()),
        ("locality", spec.locality.is_some()),
        ("overload", spec.overload.is_some()),
    ];
    for (field, _) in of_backends.iter().filter(|(_, present)| *present) {
        let error = at.field(field).error("this field is not about a route");
        report.error(error.hint("let a policy of its own say it of the Service"));
    }
    if shape.is_per_identity() {
        let error = at.field("rateLimits").error("a route is kept by the caller's own sidecar");
        report.error(error.hint("`per: Identity` is for policies about a Service or port"));
    }
}

fn check(spec: &TrafficPolicySpec, at: &At<'_>, report: &mut Report) {
    if spec.connect_timeout.is_some_and(|limit| limit.0.is_zero()) {
        let error = at.field("connectTimeout").error("a connection cannot be made in no time");
        report.error(error.hint("leave the field out for the default, 5s"));
    }
    retry::check(spec, at, report);
    if let Some(said) = &spec.balancing {
        balancing::check(said, &at.field("balancing"), report);
    }
    if let Some(said) = &spec.ejection {
        ejection::check(said, &at.field("ejection"), report);
    }
    if let Some(said) = &spec.circuit {
        circuit::check(said, &at.field("circuit"), report);
    }
    if let Some(said) = &spec.health_check {
        health::check(said, &at.field("healthCheck"), report);
    }
    if let Some(said) = &spec.locality {
        locality::check(said, &at.field("locality"), report);
    }
    if let Some(said) = &spec.overload {
        overload::check(said, &at.field("overload"), report);
    }
}

/// `at` is for what was judged already.
fn fill_in(spec: &TrafficPolicySpec, at: &At<'_>, policy: &mut TrafficPolicy) {
    if let Some(timeout) = spec.connect_timeout {
        policy.connect_timeout = timeout.0;
    }
    if let Some(timeout) = spec.request_timeout {
        policy.request_timeout = timeout.limit();
    }
    if let Some(timeout) = spec.idle_timeout {
        policy.idle_timeout = timeout.limit();
    }
    if let Some(rest) = spec.keep_alive {
        policy.keep_alive = rest.0;
    }
    if let Some(most) = spec.max_idle_connections {
        policy.max_idle_connections = most;
    }
    if let Some(said) = &spec.ejection {
        ejection::fill_in(said, policy);
    }
    if let Some(said) = &spec.circuit {
        circuit::fill_in(said, &mut policy.circuit);
    }
    if let Some(said) = &spec.health_check {
        health::fill_in(said, at, policy);
    }
    if let Some(said) = &spec.locality {
        policy.nearness = Some(locality::nearness(said, policy.nearness));
    }
    if let Some(said) = &spec.overload {
        policy.overload = Some(overload::fill_in(said, policy.overload));
    }
    if let Some(spec) = &spec.retry {
        retry::fill_in(spec, policy);
    }
    if let Some(said) = &spec.balancing {
        balancing::fill_in(said, &mut policy.balancing);
    }
}
