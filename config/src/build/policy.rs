//! TrafficPolicies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kind::Refers;
use super::reference::{self, Target};
use super::{Drafts, Making, Report};
use crate::document::At;
use crate::load::Loaded;
use crate::name::{ServiceName, ServicePort};
use crate::resource::policy::TrafficPolicySpec;
use crate::snapshot::TrafficPolicy;

impl Refers for TrafficPolicySpec {
    type Said = Vec<Target>;

    fn about(policy: &Loaded<Self>) -> Vec<ServiceName> {
        reference::named(&policy.resource.spec.target_refs, policy.namespace())
    }

    fn follow(policy: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Vec<Target> {
        let (spec, at) = (&policy.resource.spec, policy.spec());
        check(spec, &at, report);
        let at_targets = at.field("targetRefs");
        if spec.target_refs.is_empty() {
            report.error(at_targets.error("a policy has at least one target"));
        }
        reference::targets(&spec.target_refs, &at_targets, policy.namespace(), drafts, report)
    }
}

/// Applies the TrafficPolicies about a Service to its ports: first the one for the whole Service, then those for single
/// ports.
pub(super) fn apply<'m>(
    policies: Vec<(&'m Loaded<TrafficPolicySpec>, &'m Vec<Target>)>,
    service: &ServiceName,
    ports: &mut [Making<'m>],
    report: &mut Report,
) {
    let mut said: BTreeMap<Option<u16>, (&TrafficPolicySpec, At<'_>)> = BTreeMap::new();
    for (policy, targets) in policies {
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
            }
        }
    }
    for port in ports {
        for (spec, _) in said.get(&None).into_iter().chain(said.get(&Some(port.draft.key.port))) {
            fill_in(spec, &mut port.policy);
        }
    }
}

fn check(spec: &TrafficPolicySpec, at: &At<'_>, report: &mut Report) {
    if spec.connect_timeout.is_some_and(|limit| limit.0.is_zero()) {
        let error = at.field("connectTimeout").error("a connection cannot be made in no time");
        report.error(error.hint("leave the field out for the default, 5s"));
    }
    let Some(ejection) = &spec.ejection else { return };
    let at = at.field("ejection");
    if let Some(percent) = ejection.max_percent.filter(|percent| *percent > 100) {
        report.error(at.field("maxPercent").error(format!("{percent} percent is more than all")));
    }
    if ejection.duration.is_some_and(|duration| duration.0.is_zero()) {
        let error = at.field("duration").error("an ejection takes some time");
        report.error(error.hint("to eject nothing, write `consecutiveFailures: 0`"));
    }
}

fn fill_in(spec: &TrafficPolicySpec, policy: &mut TrafficPolicy) {
    let limit = |duration: Duration| (!duration.is_zero()).then_some(duration);
    if let Some(timeout) = spec.connect_timeout {
        policy.connect_timeout = timeout.0;
    }
    if let Some(timeout) = spec.request_timeout {
        policy.request_timeout = limit(timeout.0);
    }
    if let Some(timeout) = spec.idle_timeout {
        policy.idle_timeout = limit(timeout.0);
    }
    if let Some(rest) = spec.keep_alive {
        policy.keep_alive = rest.0;
    }
    if let Some(most) = spec.max_idle_connections {
        policy.max_idle_connections = most;
    }
    if let Some(ejection) = &spec.ejection {
        policy.eject_after = ejection.consecutive_failures.unwrap_or(policy.eject_after);
        policy.eject_for = ejection.duration.map_or(policy.eject_for, |duration| duration.0);
        policy.max_ejected_percent = ejection.max_percent.unwrap_or(policy.max_ejected_percent);
    }
    if let Some(safe) = spec.retry.as_ref().and_then(|retry| retry.safe) {
        policy.safe_retry = safe;
    }
}
