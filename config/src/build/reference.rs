//! References from routes and policies to Services.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Drafts, PortDraft, Report, check};
use crate::document::At;
use crate::error::ConfigError;
use crate::name::{ServiceName, ServicePort};
use crate::resource::meta::{BackendRef, ParentRef, TargetRef};
use crate::snapshot::{Backend, Protocol};
use crate::suggest::closest;

/// How many names are looked at for a "did you mean".
const MAX_SUGGESTED: usize = 1000;

/// What a route carries, and so to which ports it can be attached.
#[derive(Clone, Copy)]
pub(super) enum Carries {
    Http,
    Tcp,
}

impl Carries {
    pub(super) fn fits(self, protocol: Protocol) -> bool {
        match self {
            Carries::Http => {
                matches!(protocol, Protocol::Auto | Protocol::Http | Protocol::Http2 | Protocol::Grpc)
            }
            Carries::Tcp => {
                matches!(protocol, Protocol::Auto | Protocol::Tcp | Protocol::Tls | Protocol::Redis)
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Carries::Http => "HTTP",
            Carries::Tcp => "opaque TCP",
        }
    }
}

/// `namespace/name/rule` of each rule, given the rules' names: what metrics call it.
pub(super) fn labels<'n>(
    namespace: &str,
    name: &str,
    rules: impl Iterator<Item = Option<&'n str>>,
    at: &At<'_>,
    report: &mut Report,
) -> Vec<Arc<str>> {
    let mut seen = HashSet::new();
    let mut label = |(index, rule): (usize, Option<&str>)| -> Arc<str> {
        if let Some(rule) = rule {
            report.ok(check::dns_name(&at.index(index).field("name"), rule));
        }
        let own = own_name(index, rule);
        let label = format!("{namespace}/{name}/{own}").into();
        if !seen.insert(own) {
            let error = at.index(index).field("name").error("another rule is called so already");
            report.error(error.hint("a rule without a name is called by its number, from 0"));
        }
        label
    };
    let labels: Vec<Arc<str>> = rules.enumerate().map(&mut label).collect();
    if labels.is_empty() {
        report.error(at.error("a route has at least one rule"));
    }
    labels
}

/// What rules are called within their route, given their names.
pub(super) fn rules<'n>(names: impl Iterator<Item = Option<&'n str>>) -> Vec<Arc<str>> {
    names.enumerate().map(|(index, name)| own_name(index, name).into()).collect()
}

fn own_name(index: usize, name: Option<&str>) -> String {
    name.map_or_else(|| index.to_string(), str::to_string)
}

/// What one of a policy's `targetRefs` leads to.
#[derive(Clone)]
pub(super) struct Target {
    /// Its place among them.
    pub(super) index: usize,
    pub(super) service: ServiceName,
    /// None: all ports of it.
    pub(super) port: Option<u16>,
}

/// What the `targetRefs` of a policy in `namespace` lead to, as far as that is there.
pub(super) fn targets(
    refs: &[TargetRef],
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Vec<Target> {
    let found = refs
        .iter()
        .enumerate()
        .filter_map(|(index, target)| service(index, target, &at.index(index), namespace, drafts, report));
    found.collect()
}

/// The Services that the `targetRefs` of a policy in `namespace` name.
pub(super) fn named(refs: &[TargetRef], namespace: &str) -> Vec<ServiceName> {
    refs.iter().map(|target| ServiceName::new(namespace, &target.name)).collect()
}

/// The same; without any the policy is about the mesh, for which [`ServiceName::nobody`] stands.
pub(super) fn named_or_mesh(refs: &[TargetRef], namespace: &str) -> Vec<ServiceName> {
    if refs.is_empty() { vec![ServiceName::nobody()] } else { named(refs, namespace) }
}

/// The Services that the `parentRefs` of a route in `namespace` name.
pub(super) fn named_parents(refs: &[ParentRef], namespace: &str) -> Vec<ServiceName> {
    refs.iter().map(|parent| ServiceName::new(namespace, &parent.name)).collect()
}

/// The Services that `backendRefs` of a route in `namespace` name.
pub(super) fn named_backends<'b>(
    refs: impl IntoIterator<Item = &'b BackendRef>,
    namespace: &str,
) -> Vec<ServiceName> {
    let name = |backend: &BackendRef| {
        ServiceName::new(backend.namespace.as_deref().unwrap_or(namespace), &backend.name)
    };
    refs.into_iter().map(name).collect()
}

/// What number `index` of them leads to, which stands at `at`.
pub(super) fn service(
    index: usize,
    target: &TargetRef,
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Option<Target> {
    report.ok(is_service(at, target.group.as_deref(), target.kind.as_deref()))?;
    let service = ServiceName::new(namespace, &target.name);
    let draft = report.ok(existing(&service, &at.field("name"), drafts))?;
    let no_port = |field: &str, port: &str| {
        let error = at.field(field).error(format!("{service} has no port {port}"));
        error.hint(ports_hint(&draft.ports))
    };
    let port = match (target.port, target.section_name.as_deref()) {
        (Some(_), Some(_)) => {
            report.error(at.field("sectionName").error("there is `port` already"));
            return None;
        }
        (None, None) => None,
        (Some(number), None) => {
            let known = draft.ports.iter().find(|known| known.key.port == number);
            Some(report.ok(known.ok_or_else(|| no_port("port", &number.to_string())))?.key.port)
        }
        (None, Some(name)) => {
            let known = draft.ports.iter().find(|known| known.name.as_deref() == Some(name));
            Some(report.ok(known.ok_or_else(|| no_port("sectionName", &format!("`{name}`"))))?.key.port)
        }
    };
    Some(Target { index, service, port })
}

/// The ports to which a route in `namespace` is attached by `parents`, each once.
pub(super) fn parents(
    parents: &[ParentRef],
    at: &At<'_>,
    namespace: &str,
    carries: Carries,
    drafts: &Drafts,
    report: &mut Report,
) -> Vec<ServicePort> {
    let mut found: Vec<ServicePort> = Vec::new();
    if parents.is_empty() {
        report.error(
            at.error("a route has at least one parent").hint("name the Service whose callers it routes"),
        );
    }
    if report.ok(check::at_most(at, parents.len(), check::MAX_ITEMS)).is_none() {
        return found;
    }
    for (index, parent) in parents.iter().enumerate() {
        let at = at.index(index);
        for port in report.ok(ports_of(parent, &at, namespace, carries, drafts)).unwrap_or_default() {
            if found.contains(&port) {
                report.error(at.error(format!("the route is attached to {port} already")));
            } else {
                found.push(port);
            }
        }
    }
    found
}

fn ports_of(
    parent: &ParentRef,
    at: &At<'_>,
    namespace: &str,
    carries: Carries,
    drafts: &Drafts,
) -> Result<Vec<ServicePort>, ConfigError> {
    if parent.kind.is_none() {
        let error = at.error("missing field `kind`");
        return Err(error.hint("write `kind: Service`; without it, the Gateway API means a Gateway"));
    }
    is_service(at, parent.group.as_deref(), parent.kind.as_deref())?;
    if parent.namespace.as_deref().is_some_and(|other| other != namespace) {
        let error = at.field("namespace").error("a route is in the namespace of its parent");
        return Err(error.hint("routes for callers of one namespace only are not supported"));
    }
    let name = ServiceName::new(namespace, &parent.name);
    let draft = existing(&name, &at.field("name"), drafts)?;
    let is_named = |port: &&PortDraft| {
        parent.port.is_none_or(|number| number == port.key.port)
            && parent.section_name.as_deref().is_none_or(|section| port.name.as_deref() == Some(section))
    };
    let named: Vec<&PortDraft> = draft.ports.iter().filter(is_named).collect();
    let at_port = if parent.port.is_some() { at.field("port") } else { at.field("sectionName") };
    if named.is_empty() {
        return Err(at_port.error(format!("{name} has no such port")).hint(ports_hint(&draft.ports)));
    }
    let fitting: Vec<ServicePort> =
        named.iter().filter(|port| carries.fits(port.protocol)).map(|port| port.key.clone()).collect();
    if fitting.is_empty() {
        let at = if parent.port.is_some() || parent.section_name.is_some() { &at_port } else { at };
        let error = at.error(format!("{name} has no port here that carries {}", carries.word()));
        return Err(error.hint("see `appProtocol` of its ports"));
    }
    Ok(fitting)
}

/// The backends of one rule. Those that do not exist are kept, and warned of.
pub(super) fn backends(
    refs: &[BackendRef],
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Vec<Backend> {
    let mut backends: Vec<Backend> = Vec::new();
    if report.ok(check::at_most(at, refs.len(), check::MAX_ITEMS)).is_none() {
        return backends;
    }
    for (index, reference) in refs.iter().enumerate() {
        let at = at.index(index);
        let Some(backend) = backend(reference, &at, namespace, drafts, report) else { continue };
        if backends.iter().any(|other| other.target == backend.target) {
            let error = at.error(format!("the backend {} is there already", backend.target));
            report.error(error.hint("give one entry the sum of the weights"));
        }
        backends.push(backend);
    }
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        report.error(at.error("every weight is 0").hint("give at least one backend a weight"));
    }
    backends
}

/// A backend; one that does not exist is kept, and warned of.
pub(super) fn backend(
    reference: &BackendRef,
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Option<Backend> {
    report.ok(is_service(at, reference.group.as_deref(), reference.kind.as_deref()))?;
    let weight = report.ok(check::weight(&at.field("weight"), reference.weight.unwrap_or(1)))?;
    if let Some(port) = reference.port {
        report.ok(check::port(&at.field("port"), port))?;
    }
    let name = ServiceName::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
    let draft = match existing(&name, &at.field("name"), drafts) {
        Ok(draft) => draft,
        Err(missing) => {
            report.warnings.push(missing);
            let target = ServicePort { service: name, port: reference.port.unwrap_or(0) };
            return Some(Backend { target, weight, exists: false });
        }
    };
    let port = match (reference.port, draft.ports.as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => only.key.port,
        (None, ports) => {
            let error = at.error(format!("missing field `port`: {name} has several ports"));
            report.error(error.hint(ports_hint(ports)));
            return None;
        }
    };
    let exists = draft.ports.iter().any(|known| known.key.port == port);
    if !exists {
        let warning = at.field("port").error(format!("{name} has no port {port}"));
        report.warnings.push(warning.hint(ports_hint(&draft.ports)));
    }
    Some(Backend { target: ServicePort { service: name, port }, weight, exists })
}

/// Whether a reference is to a Service: Kubernetes' or Lighter's own, which are the same in references.
pub(super) fn is_service(at: &At<'_>, group: Option<&str>, kind: Option<&str>) -> Result<(), ConfigError> {
    if let Some(kind) = kind.filter(|kind| *kind != "Service") {
        return Err(at
            .field("kind")
            .error(format!("`{kind}` cannot be referred to"))
            .hint("only `Service` can"));
    }
    match group {
        None | Some("" | "core" | "mesh.lighter.dev") => Ok(()),
        Some(group) => {
            let error = at.field("group").error(format!("there is no Service in the group `{group}`"));
            Err(error.hint("leave `group` out, or write \"\""))
        }
    }
}

/// The Service of that name.
pub(super) fn existing<'d>(
    name: &ServiceName,
    at: &At<'_>,
    drafts: &'d Drafts,
) -> Result<&'d super::Draft, ConfigError> {
    drafts.get(name).map(|draft| &**draft).ok_or_else(|| {
        let error = at.error(format!("there is no Service {name}"));
        // In a large mesh with many faults, a look at every name for each would take its time.
        let siblings = drafts.keys().filter(|known| known.namespace == name.namespace).take(MAX_SUGGESTED);
        let elsewhere = drafts.keys().find(|known| known.name == name.name);
        match (closest(&name.name, siblings.map(|known| &*known.name)), elsewhere) {
            (_, Some(known)) => error.hint(format!("there is {known}")),
            (Some(close), None) => error.hint(format!("did you mean `{close}`?")),
            (None, None) => error,
        }
    })
}

/// "its ports are: 80 (http), 81".
pub(super) fn ports_hint(ports: &[PortDraft]) -> String {
    let of_port = |port: &PortDraft| match &port.name {
        Some(name) => format!("{} ({name})", port.key.port),
        None => port.key.port.to_string(),
    };
    format!("its ports are: {}", ports.iter().map(of_port).collect::<Vec<_>>().join(", "))
}
