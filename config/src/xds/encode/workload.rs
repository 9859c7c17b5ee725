//! What a workload's own sidecar enforces.

use std::sync::Arc;

use crate::snapshot::{Mtls, OutboundPolicy};
use crate::xds::facts::{Effect, HeaderIs, InboundPort, Operation, Rule, Source, Workload};
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
    }
}

fn port(port: &InboundPort) -> lighter::InboundPort {
    lighter::InboundPort {
        port: port.port.into(),
        mtls: match port.mtls {
            Mtls::Permissive => "permissive".to_string(),
            Mtls::Strict => "strict".to_string(),
        },
        rules: port.rules.iter().map(rule).collect(),
        default_deny: port.default_deny,
    }
}

fn rule(rule: &Rule) -> lighter::Rule {
    lighter::Rule {
        policy: rule.policy.to_string(),
        action: match rule.effect {
            Effect::Allow => "allow".to_string(),
            Effect::Deny => "deny".to_string(),
        },
        audit: rule.audit,
        sources: rule.sources.iter().map(source).collect(),
        operations: rule.operations.iter().map(operation).collect(),
    }
}

fn source(source: &Source) -> lighter::Source {
    lighter::Source {
        principals: texts(&source.principals),
        not_principals: texts(&source.not_principals),
        namespaces: texts(&source.namespaces),
        cidrs: texts(&source.cidrs),
    }
}

fn operation(operation: &Operation) -> lighter::Operation {
    let header = |header: &HeaderIs| lighter::HeaderMatch {
        name: header.name.to_string(),
        exact: header.exact.as_ref().map(Arc::to_string),
    };
    lighter::Operation {
        methods: texts(&operation.methods),
        paths: texts(&operation.paths),
        hosts: texts(&operation.hosts),
        headers: operation.headers.iter().map(header).collect(),
    }
}

fn texts(of: &[impl ToString]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}
