//! What a workload enforces. Every word of it is known, or the whole is refused.

use std::sync::Arc;

use super::service::links;
use super::{Nack, missing, read};
use crate::build::{authorization, check};
use crate::document::At;
use crate::error::ConfigError;
use crate::name::is_label;
use crate::snapshot::authorization::{AuthorizationRule, Operation, Source};
use crate::snapshot::{Authorization, Mtls, OutboundPolicy};
use crate::xds::facts::{InboundPort, Workload};
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
    let is_caller = key.strip_prefix("-/").is_some_and(is_label);
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
        links: links(workload.links.as_ref(), &at.field("links"))?,
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
    let authorization = Authorization {
        rules: each(&port.rules, &at.field("rules"), rule)?,
        allow: texts(&port.allow, &at.field("allow"), text)?,
        audit_allow: texts(&port.audit_allow, &at.field("audit_allow"), text)?,
    };
    if number == 0 && !authorization.is_empty() {
        return Err(at.error("rules for no port").hint("say them of each port"));
    }
    Ok(InboundPort { port: number, mtls, authorization: Arc::new(authorization) })
}

fn rule(rule: &wire::Rule, at: &At<'_>) -> Result<AuthorizationRule, ConfigError> {
    let deny = match rule.action.as_str() {
        "allow" => false,
        "deny" => true,
        other => return Err(not_a_word(other, "`allow` or `deny`", &at.field("action"))),
    };
    Ok(AuthorizationRule {
        name: text(&at.field("policy"), &rule.policy)?,
        deny,
        audit: rule.audit,
        sources: each(&rule.sources, &at.field("sources"), source)?,
        operations: each(&rule.operations, &at.field("operations"), operation)?,
    })
}

fn source(source: &wire::Source, at: &At<'_>) -> Result<Source, ConfigError> {
    let source = Source {
        principals: texts(&source.principals, &at.field("principals"), authorization::principal)?,
        not_principals: texts(&source.not_principals, &at.field("not_principals"), authorization::principal)?,
        namespaces: texts(&source.namespaces, &at.field("namespaces"), text)?,
        cidrs: texts(&source.cidrs, &at.field("cidrs"), check::cidr)?,
    };
    if source == Source::default() {
        return Err(at.error("a source that says nothing").hint("for anybody, leave `sources` out"));
    }
    Ok(source)
}

fn operation(operation: &wire::Operation, at: &At<'_>) -> Result<Operation, ConfigError> {
    let header = |header: &wire::HeaderMatch, at: &At<'_>| {
        check::header_name(&at.field("name"), &header.name)?;
        let name = header.name.to_ascii_lowercase();
        Ok((Arc::from(name), header.exact.as_deref().map(Arc::from)))
    };
    let operation = Operation {
        methods: texts(&operation.methods, &at.field("methods"), authorization::method)?,
        paths: texts(&operation.paths, &at.field("paths"), authorization::path)?,
        hosts: texts(&operation.hosts, &at.field("hosts"), authorization::host)?,
        headers: each(&operation.headers, &at.field("headers"), header)?,
    };
    if operation == Operation::default() {
        return Err(at.error("an operation that says nothing").hint("for anything, leave `operations` out"));
    }
    Ok(operation)
}

fn text(at: &At<'_>, text: &str) -> Result<Arc<str>, ConfigError> {
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
    check: impl Fn(&At<'_>, &str) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    each(items, at, |item, at| check(at, item))
}

fn not_a_word(word: &str, known: &str, at: &At<'_>) -> ConfigError {
    at.error(format!("`{}` is not known", word.escape_debug())).hint(known.to_string())
}
