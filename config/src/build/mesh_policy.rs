//! MeshPolicies.

use std::collections::BTreeMap;

use super::{Drafts, Report, reference};
use crate::document::At;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::policy::{MeshPolicySpec, Mtls as MtlsSpec, OutboundPolicy as OutboundSpec};
use crate::snapshot::{Mtls, OutboundPolicy};

/// What the mesh does with destinations that are in no Service.
pub(super) fn outbound(policies: &[Loaded<MeshPolicySpec>], report: &mut Report) -> OutboundPolicy {
    let mut said: Option<(OutboundPolicy, At<'_>)> = None;
    for policy in policies {
        let Some(outbound) = policy.resource.spec.outbound_policy else { continue };
        let at = policy.spec().field("outboundPolicy");
        if !policy.resource.spec.target_refs.is_empty() {
            let error = at.error("this is said of the whole mesh, not of a Service");
            report.error(error.hint("write it into a MeshPolicy without `targetRefs`"));
        }
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

/// Tells every port whether callers without an identity are let in, and returns what holds for ports in no Service.
pub(super) fn mtls(
    policies: &[Loaded<MeshPolicySpec>],
    drafts: &mut Drafts<'_>,
    report: &mut Report,
) -> Mtls {
    let mut said: BTreeMap<Scope, (Mtls, At<'_>)> = BTreeMap::new();
    for policy in policies {
        let (spec, at) = (&policy.resource.spec, policy.spec());
        let mut scopes = Vec::new();
        if spec.target_refs.is_empty() {
            scopes.push((None, at.field("mtls")));
        }
        for (index, target) in spec.target_refs.iter().enumerate() {
            let at = at.field("targetRefs").index(index);
            if let Some(scope) = reference::target(target, &at, policy.namespace(), drafts, report) {
                scopes.push((Some(scope), at));
            }
        }
        let Some(mtls) = spec.mtls else { continue };
        let mtls = match mtls {
            MtlsSpec::Permissive => Mtls::Permissive,
            MtlsSpec::Strict => Mtls::Strict,
        };
        for (scope, at) in scopes {
            if let Some((_, first)) = said.get(&scope) {
                let error = at.error("another MeshPolicy says whether mTLS is strict here already");
                report.error(error.hint(format!("the first is at {}", first.place())));
            } else {
                said.insert(scope, (mtls, at));
            }
        }
    }
    let of = |scope: &Scope| said.get(scope).map(|(mtls, _)| *mtls);
    let mesh = of(&None).unwrap_or_default();
    for port in drafts.values_mut().flat_map(|draft| draft.ports.iter_mut()) {
        let service = port.key.service.clone();
        port.mtls = of(&Some((service.clone(), Some(port.key.port))))
            .or_else(|| of(&Some((service, None))))
            .unwrap_or(mesh);
    }
    mesh
}

/// A port of a Service, a whole Service, or the mesh.
type Scope = Option<(ServiceName, Option<u16>)>;
