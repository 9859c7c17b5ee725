//! What a workload enforces. Every word of it is known, or the whole is refused.

use std::sync::Arc;

use super::{Nack, missing, read};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{Mtls, OutboundPolicy};
use crate::xds::facts::{Cidr, Effect, HeaderIs, InboundPort, Operation, Pattern, Rule, Source, Workload};
use crate::xds::names;
use crate::xds::unknown::shapes;
use crate::xds::wire::lighter::config::v1 as wire;

/// A Workload.
pub fn workload(message: &[u8]) -> Result<Workload, Nack> {
    read(
        message,
        &shapes::LIGHTER_CONFIG_V1_WORKLOAD,
        |workload: &wire::Workload| &workload.service,
        check_workload,
    )
}

fn check_workload(workload: &wire::Workload, at: &At<'_>) -> Result<Workload, ConfigError> {
    let key = &workload.service;
    let is_caller = key.strip_prefix("-/").is_some_and(check::is_label);
    if !is_caller && names::of_service(key).is_none() {
        let error = at.field("service").error(format!("`{}` is no workload", key.escape_debug()));
        return Err(error.hint("`NAMESPACE/NAME` of a Service, or `-/NAMESPACE`"));
    }
    let at_domain = at.field("trust_domain");
    check::spiffe_id(&at_domain, &format!("spiffe://{}/ns", workload.trust_domain))?;
    let at_policy = at.field("outbound_policy");
    let outbound_policy = match workload.outbound_policy.as_str() {
        "passthrough" => OutboundPolicy::Passthrough,
        "registryOnly" => OutboundPolicy::RegistryOnly,
        other => return Err(not_a_word(other, "`passthrough` or `registryOnly`", &at_policy)),
    };
    let at_ports = at.field("ports");
    let mut ports: Vec<InboundPort> = Vec::new();
    for (index, port) in workload.ports.iter().enumerate() {
        let at = at_ports.index(index);
        let port = self::port(port, &at)?;
        if ports.iter().any(|other| other.port == port.port) {
            return Err(at.field("port").error(format!("port {} is there already", port.port)));
        }
        ports.push(port);
    }
    Ok(Workload {
        key: key.as_str().into(),
        trust_domain: workload.trust_domain.as_str().into(),
        outbound_policy,
        ports,
    })
}

fn port(port: &wire::InboundPort, at: &At<'_>) -> Result<InboundPort, ConfigError> {
    let number = match port.port {
        0 => 0,
        number => super::port(number, &at.field("port"))?,
    };
    let mtls = match port.mtls.as_str() {
        "permissive" => Mtls::Permissive,
        "strict" => Mtls::Strict,
        other => return Err(not_a_word(other, "`permissive` or `strict`", &at.field("mtls"))),
    };
    let at_rules = at.field("rules");
    let rules = each(&port.rules, &at_rules, rule)?;
    Ok(InboundPort { port: number, mtls, rules, default_deny: port.default_deny })
}

fn rule(rule: &wire::Rule, at: &At<'_>) -> Result<Rule, ConfigError> {
    let effect = match rule.action.as_str() {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        other => return Err(not_a_word(other, "`allow` or `deny`", &at.field("action"))),
    };
    if rule.policy.is_empty() {
        return Err(missing(&at.field("policy")));
    }
    Ok(Rule {
        policy: rule.policy.as_str().into(),
        effect,
        audit: rule.audit,
        sources: each(&rule.sources, &at.field("sources"), source)?,
        operations: each(&rule.operations, &at.field("operations"), operation)?,
    })
}

fn source(source: &wire::Source, at: &At<'_>) -> Result<Source, ConfigError> {
    let is_empty = source.principals.is_empty()
        && source.not_principals.is_empty()
        && source.namespaces.is_empty()
        && source.cidrs.is_empty();
    if is_empty {
        return Err(at.error("a source that says nothing").hint("for anybody, leave `sources` out"));
    }
    let cidr = |text: &String, at: &At<'_>| {
        Cidr::parse(text).ok_or_else(|| {
            let error = at.error(format!("`{}` is not an address range", text.escape_debug()));
            error.hint("`ADDRESS/LENGTH`")
        })
    };
    Ok(Source {
        principals: texts(&source.principals, &at.field("principals"), pattern)?,
        not_principals: texts(&source.not_principals, &at.field("not_principals"), pattern)?,
        namespaces: texts(&source.namespaces, &at.field("namespaces"), text)?,
        cidrs: each(&source.cidrs, &at.field("cidrs"), cidr)?,
    })
}

fn operation(operation: &wire::Operation, at: &At<'_>) -> Result<Operation, ConfigError> {
    let is_empty = operation.methods.is_empty()
        && operation.paths.is_empty()
        && operation.hosts.is_empty()
        && operation.headers.is_empty();
    if is_empty {
        return Err(at.error("an operation that says nothing").hint("for anything, leave `operations` out"));
    }
    let header = |header: &wire::HeaderMatch, at: &At<'_>| {
        check::header_name(&at.field("name"), &header.name)?;
        Ok(HeaderIs {
            name: header.name.to_ascii_lowercase().into(),
            exact: header.exact.as_deref().map(Arc::from),
        })
    };
    Ok(Operation {
        methods: texts(&operation.methods, &at.field("methods"), text)?,
        paths: texts(&operation.paths, &at.field("paths"), pattern)?,
        hosts: texts(&operation.hosts, &at.field("hosts"), text)?,
        headers: each(&operation.headers, &at.field("headers"), header)?,
    })
}

fn pattern(text: &str, at: &At<'_>) -> Result<Pattern, ConfigError> {
    if text.is_empty() {
        return Err(missing(at));
    }
    Ok(Pattern::parse(text))
}

fn text(text: &str, at: &At<'_>) -> Result<Arc<str>, ConfigError> {
    if text.is_empty() {
        return Err(missing(at));
    }
    Ok(text.into())
}

/// Every item, checked.
fn each<W, T>(
    items: &[W],
    at: &At<'_>,
    check: impl Fn(&W, &At<'_>) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    items.iter().enumerate().map(|(index, item)| check(item, &at.index(index))).collect()
}

fn texts<T>(
    items: &[String],
    at: &At<'_>,
    check: impl Fn(&str, &At<'_>) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    each(items, at, |item, at| check(item, at))
}

fn not_a_word(word: &str, known: &str, at: &At<'_>) -> ConfigError {
    at.error(format!("`{}` is not known", word.escape_debug())).hint(known.to_string())
}
