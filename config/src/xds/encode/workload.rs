//! What a workload's own sidecar enforces.

use std::net::IpAddr;
use std::sync::Arc;

use crate::snapshot::authorization::{AuthorizationRule, Operation, Source, TextMatch};
use crate::snapshot::{LinkPolicy, Mtls, OutboundPolicy};
use crate::xds::facts::{InboundPort, Workload};
use crate::xds::wire::lighter::config::v1 as lighter;

/// The message of a workload.
pub fn workload(workload: &Workload) -> lighter::Workload {
    lighter::Workload {
        service: workload.key.to_string(),
        trust_domain: workload.trust_domain.to_string(),
        outbound_policy: match workload.outbound_policy {
            OutboundPolicy::Passthrough => "passthrough".to_string(),
            OutboundPolicy::RegistryOnly => "registryOnly".to_string(),
        },
        ports: workload.ports.iter().map(port).collect(),
        links: (workload.links != LinkPolicy::default()).then(|| super::links(&workload.links)),
    }
}

fn port(port: &InboundPort) -> lighter::InboundPort {
    lighter::InboundPort {
        port: port.port.into(),
        mtls: match port.mtls {
            Mtls::Permissive => "permissive".to_string(),
            Mtls::Strict => "strict".to_string(),
        },
        rules: port.authorization.rules.iter().map(rule).collect(),
        allow: texts(&port.authorization.allow),
        audit_allow: texts(&port.authorization.audit_allow),
    }
}

fn rule(rule: &AuthorizationRule) -> lighter::Rule {
    lighter::Rule {
        policy: rule.name.to_string(),
        action: if rule.deny { "deny" } else { "allow" }.to_string(),
        audit: rule.audit,
        sources: rule.sources.iter().map(source).collect(),
        operations: rule.operations.iter().map(operation).collect(),
    }
}

fn source(source: &Source) -> lighter::Source {
    let cidr = |(address, length): &(IpAddr, u8)| format!("{address}/{length}");
    lighter::Source {
        principals: matches(&source.principals),
        not_principals: matches(&source.not_principals),
        namespaces: texts(&source.namespaces),
        cidrs: source.cidrs.iter().map(cidr).collect(),
    }
}

fn operation(operation: &Operation) -> lighter::Operation {
    let header = |(name, value): &(Arc<str>, Option<Arc<str>>)| lighter::HeaderMatch {
        name: name.to_string(),
        exact: value.as_ref().map(Arc::to_string),
    };
    lighter::Operation {
        methods: texts(&operation.methods),
        paths: matches(&operation.paths),
        hosts: texts(&operation.hosts),
        headers: operation.headers.iter().map(header).collect(),
    }
}

fn matches(of: &[TextMatch]) -> Vec<String> {
    let text = |one: &TextMatch| match one {
        TextMatch::Exact(whole) => whole.to_string(),
        TextMatch::Prefix(front) => format!("{front}*"),
    };
    of.iter().map(text).collect()
}

fn texts(of: &[Arc<str>]) -> Vec<String> {
    of.iter().map(Arc::to_string).collect()
}
