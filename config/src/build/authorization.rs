//! AuthorizationPolicies.

use std::net::IpAddr;
use std::sync::Arc;

use super::kind::Refers;
use super::{Drafts, Making, Report, check, reference};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::{ServiceName, ServicePort};
use crate::resource::authorization::{
    Action, AuthorizationPolicySpec, Mode, OperationSpec, RuleSpec, SourceSpec,
};
use crate::snapshot::Protocol;
use crate::snapshot::authorization::{AuthorizationRule, Operation, Source, TextMatch};

/// What a policy says.
#[derive(Clone)]
pub(super) struct Said {
    /// `namespace/name`.
    name: Arc<str>,
    rules: Vec<AuthorizationRule>,
    /// Where it holds.
    ports: Vec<ServicePort>,
}

impl Refers for AuthorizationPolicySpec {
    type Said = Said;

    fn about(policy: &Loaded<Self>) -> Vec<ServiceName> {
        reference::named(&policy.resource.spec.target_refs, policy.namespace())
    }

    fn follow(policy: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Said {
        let name: Arc<str> = policy.full_name().to_string().into();
        let rules = rules(&policy.resource.spec, &name, &policy.spec().field("rules"), report);
        Said { name, rules, ports: targets(policy, drafts, report) }
    }
}

/// Tells every port of a Service what the policies about it say, in the order of their names.
pub(super) fn apply(mut policies: Vec<(&Loaded<AuthorizationPolicySpec>, &Said)>, ports: &mut [Making<'_>]) {
    policies.sort_by(|(_, one), (_, two)| one.name.cmp(&two.name));
    for port in ports {
        for (policy, said) in policies.iter().filter(|(_, said)| said.ports.contains(&port.draft.key)) {
            let authorization = port.authorization.get_or_insert_default();
            authorization.rules.extend(said.rules.iter().cloned());
            match (policy.resource.spec.action, policy.resource.spec.mode) {
                (Action::Allow, Mode::Enforce) => authorization.allow.push(said.name.clone()),
                (Action::Allow, Mode::Audit) => authorization.audit_allow.push(said.name.clone()),
                (Action::Deny, _) => {}
            }
        }
    }
}

/// The ports that a policy is about, each once.
fn targets(
    policy: &Loaded<AuthorizationPolicySpec>,
    drafts: &Drafts,
    report: &mut Report,
) -> Vec<ServicePort> {
    let spec = &policy.resource.spec;
    let at_targets = policy.spec().field("targetRefs");
    if spec.target_refs.is_empty() {
        report.error(at_targets.error("a policy has at least one target"));
    }
    let looks_at_requests = spec.rules.iter().any(|rule| !rule.to.is_empty());
    let mut found: Vec<ServicePort> = Vec::new();
    for (index, target) in spec.target_refs.iter().enumerate() {
        let at = at_targets.index(index);
        if report.ok(reference::is_service(&at, target.group.as_deref(), target.kind.as_deref())).is_none() {
            continue;
        }
        let service = ServiceName::new(policy.namespace(), &target.name);
        let Some(draft) = report.ok(reference::existing(&service, &at.field("name"), drafts)) else {
            continue;
        };
        let mut ports =
            draft.ports.iter().filter(|port| target.port.is_none_or(|number| number == port.key.port));
        let mut any = false;
        for port in &mut ports {
            any = true;
            if looks_at_requests && matches!(port.protocol, Protocol::Tcp | Protocol::Tls | Protocol::Redis) {
                let message = format!("{} is opaque: no request can be looked at", port.key);
                report.error(at.error(message).hint("leave `to` out of the rules, or name another port"));
            } else if !found.contains(&port.key) {
                found.push(port.key.clone());
            }
        }
        if let (false, Some(number)) = (any, target.port) {
            let error = at.field("port").error(format!("{service} has no port {number}"));
            report.error(error.hint(reference::ports_hint(&draft.ports)));
        }
    }
    found
}

fn rules(
    spec: &AuthorizationPolicySpec,
    policy: &str,
    at: &At<'_>,
    report: &mut Report,
) -> Vec<AuthorizationRule> {
    if report.ok(check::at_most(at, spec.rules.len(), check::MAX_ITEMS)).is_none() {
        return Vec::new();
    }
    let rule = |(index, rule): (usize, &RuleSpec)| {
        let at = at.index(index);
        let (from, to) = (at.field("from"), at.field("to"));
        let sources =
            rule.from.iter().enumerate().map(|(at, one)| source(one, &from.index(at), report)).collect();
        let operations =
            rule.to.iter().enumerate().map(|(at, one)| operation(one, &to.index(at), report)).collect();
        AuthorizationRule {
            name: format!("{policy}/{index}").into(),
            deny: spec.action == Action::Deny,
            audit: spec.mode == Mode::Audit,
            sources,
            operations,
        }
    };
    spec.rules.iter().enumerate().map(rule).collect()
}

fn source(spec: &SourceSpec, at: &At<'_>, report: &mut Report) -> Source {
    let empty = spec.principals.is_empty()
        && spec.not_principals.is_empty()
        && spec.namespaces.is_empty()
        && spec.cidrs.is_empty();
    if empty {
        let error = at.error("a source that says nothing matches everybody");
        report.error(error.hint("leave `from` out if everybody is meant"));
    }
    let mut principals = |field: &str, list: &[String]| each(&at.field(field), list, report, principal);
    let (named, not_named) =
        (principals("principals", &spec.principals), principals("notPrincipals", &spec.not_principals));
    let namespace = |at: &At<'_>, text: &str| check::dns_label(at, text).map(|()| Arc::from(text));
    Source {
        principals: named,
        not_principals: not_named,
        namespaces: each(&at.field("namespaces"), &spec.namespaces, report, namespace),
        cidrs: each(&at.field("cidrs"), &spec.cidrs, report, check::cidr),
    }
}

fn operation(spec: &OperationSpec, at: &At<'_>, report: &mut Report) -> Operation {
    let empty =
        spec.methods.is_empty() && spec.paths.is_empty() && spec.hosts.is_empty() && spec.headers.is_empty();
    if empty {
        let error = at.error("an operation that says nothing matches everything");
        report.error(error.hint("leave `to` out if everything is meant"));
    }
    let headers = at.field("headers");
    let fields = spec.headers.iter().enumerate().filter_map(|(index, header)| {
        let name = header.name.to_ascii_lowercase();
        let checked = check::header_name(&headers.index(index).field("name"), &name);
        report.ok(checked)?;
        Some((Arc::from(name), header.value.as_deref().map(Arc::from)))
    });
    let headers = fields.collect();
    Operation {
        methods: each(&at.field("methods"), &spec.methods, report, method),
        paths: each(&at.field("paths"), &spec.paths, report, path),
        hosts: each(&at.field("hosts"), &spec.hosts, report, host),
        headers,
    }
}

/// Every item of a list, checked.
fn each<T>(
    at: &At<'_>,
    list: &[String],
    report: &mut Report,
    check_one: impl Fn(&At<'_>, &str) -> Result<T, ConfigError>,
) -> Vec<T> {
    if report.ok(check::at_most(at, list.len(), check::MAX_ITEMS)).is_none() {
        return Vec::new();
    }
    list.iter().enumerate().filter_map(|(index, text)| report.ok(check_one(&at.index(index), text))).collect()
}

pub(crate) fn principal(at: &At<'_>, text: &str) -> Result<TextMatch, ConfigError> {
    let matched = text_match(at, text)?;
    if text == "*" || text.starts_with("spiffe://") {
        return Ok(matched);
    }
    Err(at
        .error(format!("`{text}` is no SPIFFE ID"))
        .hint("`spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE`, or `*`"))
}

pub(crate) fn path(at: &At<'_>, text: &str) -> Result<TextMatch, ConfigError> {
    if text == "*" || text.starts_with('/') {
        return text_match(at, text);
    }
    Err(at.error(format!("`{text}` is no path")).hint("a path begins with a slash"))
}

/// Text, whole or up to a `*` at its end.
fn text_match(at: &At<'_>, text: &str) -> Result<TextMatch, ConfigError> {
    let (matched, rest) = match text.strip_suffix('*') {
        Some(prefix) => (TextMatch::Prefix(prefix.into()), prefix),
        None => (TextMatch::Exact(text.into()), text),
    };
    match rest.contains('*') || text.is_empty() {
        true => Err(at.error(format!("`{text}` cannot be matched")).hint("a `*` can stand at the end only")),
        false => Ok(matched),
    }
}

pub(crate) fn method(at: &At<'_>, text: &str) -> Result<Arc<str>, ConfigError> {
    match !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_')
    {
        true => Ok(text.into()),
        false => {
            Err(at.error(format!("`{text}` is no method")).hint("methods are in capitals, such as `GET`"))
        }
    }
}

pub(crate) fn host(at: &At<'_>, text: &str) -> Result<Arc<str>, ConfigError> {
    match text.parse::<IpAddr>().is_ok() {
        true => Ok(if text.contains(':') { format!("[{text}]").into() } else { text.into() }),
        false => check::dns_name(at, text).map(|()| text.into()),
    }
}
