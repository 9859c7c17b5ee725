//! MeshPolicies.

use std::collections::BTreeMap;

use super::kind::Refers;
use super::reference::{self, Target};
use super::{Drafts, Making, Report};
use crate::document::At;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::policy::{MeshPolicySpec, Mtls as MtlsSpec, OutboundPolicy as OutboundSpec};
use crate::snapshot::{Mtls, OutboundPolicy};

impl Refers for MeshPolicySpec {
    type Said = Vec<Target>;

    fn about(policy: &Loaded<Self>) -> Vec<ServiceName> {
        reference::named_or_mesh(&policy.resource.spec.target_refs, policy.namespace())
    }

    fn follow(policy: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Vec<Target> {
        let (spec, at) = (&policy.resource.spec, policy.spec());
        if spec.outbound_policy.is_some() && !spec.target_refs.is_empty() {
            let error = at.field("outboundPolicy").error("this is said of the whole mesh, not of a Service");
            report.error(error.hint("write it into a MeshPolicy without `targetRefs`"));
        }
        reference::targets(&spec.target_refs, &at.field("targetRefs"), policy.namespace(), drafts, report)
    }
}

/// MeshPolicies about the same, in order.
pub(super) type Policies<'m> = Vec<(&'m Loaded<MeshPolicySpec>, &'m Vec<Target>)>;

/// What the mesh does with destinations that are in no Service, by the policies about the whole mesh.
pub(super) fn outbound(policies: &Policies<'_>, report: &mut Report) -> OutboundPolicy {
    let mut said: Option<(OutboundPolicy, At<'_>)> = None;
    for (policy, _) in policies {
        let Some(outbound) = policy.resource.spec.outbound_policy else { continue };
        let at = policy.spec().field("outboundPolicy");
        if let Some((_, first)) = &said {
            let error = at.error("another MeshPolicy says what happens to unknown destinations already");
            report.error(error.hint(format!("the first is at {}", first.place())));
            continue;
        }
        let outbound = match outbound {
            OutboundSpec::Passthrough => OutboundPolicy::Passthrough,
            OutboundSpec::RegistryOnly => OutboundPolicy::RegistryOnly,
        };
        said = Some((outbound, at));
    }
    said.map(|(outbound, _)| outbound).unwrap_or_default()
}

/// Whether callers without an identity are let in where nothing narrower is said, by the policies about the whole mesh.
pub(super) fn mtls_of_mesh(policies: &Policies<'_>, report: &mut Report) -> Mtls {
    let mut said = BTreeMap::new();
    for (policy, _) in policies {
        say(&mut said, (), policy, policy.spec().field("mtls"), report);
    }
    said.get(&()).map(|(mtls, _)| *mtls).unwrap_or_default()
}

/// Tells every port of a Service whether callers without an identity are let in; `mesh` holds where nothing is said.
pub(super) fn mtls(
    policies: &Policies<'_>,
    service: &ServiceName,
    mesh: Mtls,
    ports: &mut [Making<'_>],
    report: &mut Report,
) {
    let mut said = BTreeMap::new();
    for (policy, targets) in policies {
        for target in targets.iter().filter(|target| target.service == *service) {
            let at = policy.spec().field("targetRefs").index(target.index);
            say(&mut said, target.port, policy, at, report);
        }
    }
    for port in ports {
        let of_port = said.get(&Some(port.draft.key.port)).or_else(|| said.get(&None));
        port.mtls = of_port.map_or(mesh, |(mtls, _)| *mtls);
    }
}

/// Notes what a policy says of `scope`, if it does; one policy can.
fn say<'m, S: Ord>(
    said: &mut BTreeMap<S, (Mtls, At<'m>)>,
    scope: S,
    policy: &Loaded<MeshPolicySpec>,
    at: At<'m>,
    report: &mut Report,
) {
    let mtls = match policy.resource.spec.mtls {
        None => return,
        Some(MtlsSpec::Permissive) => Mtls::Permissive,
        Some(MtlsSpec::Strict) => Mtls::Strict,
    };
    if let Some((_, first)) = said.get(&scope) {
        let error = at.error("another MeshPolicy says whether mTLS is strict here already");
        report.error(error.hint(format!("the first is at {}", first.place())));
    } else {
        said.insert(scope, (mtls, at));
    }
}
