//! TrafficPolicies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Drafts, Report, reference};
use crate::document::At;
use crate::load::Loaded;
use crate::name::{ServiceName, ServicePort};
use crate::resource::policy::TrafficPolicySpec;
use crate::snapshot::TrafficPolicy;

/// Applies every TrafficPolicy to the ports it is about: first those for whole Services, then those for single ports.
pub(super) fn apply(policies: &[Loaded<TrafficPolicySpec>], drafts: &mut Drafts<'_>, report: &mut Report) {
    let mut whole: BTreeMap<ServiceName, (&TrafficPolicySpec, At<'_>)> = BTreeMap::new();
    let mut single: BTreeMap<ServicePort, (&TrafficPolicySpec, At<'_>)> = BTreeMap::new();
    for policy in policies {
        let (spec, at) = (&policy.resource.spec, policy.spec());
        check(spec, &at, report);
        let at_targets = at.field("targetRefs");
        if spec.target_refs.is_empty() {
            report.error(at_targets.error("a policy has at least one target"));
        }
        for (index, target) in spec.target_refs.iter().enumerate() {
            let at = at_targets.index(index);
            match reference::target(target, &at, policy.namespace(), drafts, report) {
                Some((service, None)) => conflict(&mut whole, service, spec, at, report),
                Some((service, Some(port))) => {
                    conflict(&mut single, ServicePort { service, port }, spec, at, report);
                }
                None => {}
            }
        }
    }
    for port in drafts.values_mut().flat_map(|draft| draft.ports.iter_mut()) {
        for (spec, _) in whole.get(&port.key.service).into_iter().chain(single.get(&port.key)) {
            fill_in(spec, &mut port.policy);
        }
    }
}

/// Notes a policy for `key`, of which there can be one.
fn conflict<'r, K: Ord + std::fmt::Display>(
    known: &mut BTreeMap<K, (&'r TrafficPolicySpec, At<'r>)>,
    key: K,
    spec: &'r TrafficPolicySpec,
    at: At<'r>,
    report: &mut Report,
) {
    match known.get(&key) {
        Some((_, first)) => {
            let error = at.error(format!("{key} has a TrafficPolicy already"));
            report.error(error.hint(format!("the first is at {}", first.place())));
        }
        None => {
            known.insert(key, (spec, at));
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
