//! GRPCRoutes: HTTP routes over the path `/service/method` that gRPC uses.

use std::sync::Arc;

use super::attach::{Attachment, attachment};
use super::order::Ranked;
use super::{Drafts, Report, check, filter, http, port_mut, reference};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::resource::route::{GrpcMethodMatch, GrpcRouteMatch, GrpcRouteSpec, ValueMatchType};
use crate::snapshot::route::{Matcher, PathMatch, Route};

/// Attaches a GRPCRoute to the ports of its parents.
pub(super) fn attach<'r>(route: &'r Loaded<GrpcRouteSpec>, drafts: &mut Drafts<'r>, report: &mut Report) {
    let (spec, at) = (&route.resource.spec, route.spec());
    let at_parents = at.field("parentRefs");
    let rules = spec.rules.iter().map(|rule| (rule.name.as_deref(), rule.matches.len()));
    let Some(Attachment { ports, age, labels }) = attachment(route, &spec.parent_refs, rules, drafts, report)
    else {
        return;
    };
    let mut made = Vec::new();
    for (index, (rule, label)) in spec.rules.iter().zip(&labels).enumerate() {
        let at = at.field("rules").index(index);
        let actions = filter::grpc(&rule.filters, &at.field("filters"), report);
        let at_backends = at.field("backendRefs");
        let backends =
            reference::backends(&rule.backend_refs, &at_backends, route.namespace(), drafts, report);
        if rule.backend_refs.is_empty() {
            report.warnings.push(at.error("the rule has no backends: the calls it matches fail"));
        }
        let any = [GrpcRouteMatch::default()];
        let alternatives = if rule.matches.is_empty() { &any } else { rule.matches.as_slice() };
        for (alternative, spec) in alternatives.iter().enumerate() {
            let Some(matcher) = matcher(spec, &at.field("matches").index(alternative), report) else {
                continue;
            };
            let route = of_match(matcher, label, &actions, &backends);
            made.push((route, lengths(spec.method.as_ref()), index, alternative));
        }
    }
    for key in &ports {
        let Some(port) = port_mut(drafts, key) else { continue };
        if let Some(other) = &port.http_route {
            let error = at_parents.error(format!("{} has an HTTPRoute already", port.key));
            report.error(
                error.hint(format!("the port is routed by one kind only; the other is at {}", other.place())),
            );
        }
        port.grpc_route.get_or_insert_with(|| at_parents.clone());
        port.routes.extend(made.iter().map(|(route, lengths, rule, alternative)| {
            Ranked::grpc(route.clone(), *lengths, &age, *rule, *alternative)
        }));
    }
}

fn of_match(
    matcher: Matcher,
    label: &Arc<str>,
    actions: &[crate::snapshot::Action],
    backends: &[crate::snapshot::Backend],
) -> Route {
    Route {
        index: 0,
        name: label.clone(),
        matcher,
        actions: actions.to_vec(),
        backends: backends.to_vec(),
        request_timeout: None,
    }
}

/// Characters in what is said of service and method: the longer is preferred.
fn lengths(method: Option<&GrpcMethodMatch>) -> (usize, usize) {
    let length = |part: Option<&String>| part.map_or(0, String::len);
    (
        length(method.and_then(|method| method.service.as_ref())),
        length(method.and_then(|method| method.method.as_ref())),
    )
}

fn matcher(spec: &GrpcRouteMatch, at: &At<'_>, report: &mut Report) -> Option<Matcher> {
    let at_method = at.field("method");
    let path = spec.method.as_ref().map_or(Ok(PathMatch::default()), |method| path(method, &at_method));
    let path = report.ok(path);
    let headers = http::headers(&spec.headers, &at.field("headers"), report);
    Some(Matcher { path: path?, method: None, headers: headers?, query: Vec::new() })
}

fn path(method: &GrpcMethodMatch, at: &At<'_>) -> Result<PathMatch, ConfigError> {
    let (service, name) = (method.service.as_deref(), method.method.as_deref());
    if service.is_none() && name.is_none() {
        return Err(at.error("a method match names `service` or `method`"));
    }
    if method.kind == ValueMatchType::RegularExpression {
        // Each alone, so that a fault is told where it stands.
        for (field, part) in [("service", service), ("method", name)] {
            part.map(|part| check::regex(&at.field(field), part)).transpose()?;
        }
        let part =
            |part: Option<&str>| part.map_or_else(|| "[^/]+".to_string(), |part| format!("(?:{part})"));
        return Ok(PathMatch::Regex(check::regex(at, &format!("/{}/{}", part(service), part(name)))?));
    }
    for (field, part) in [("service", service), ("method", name)] {
        let is_name = |part: &str| {
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
            !part.is_empty() && part.bytes().all(is_inner) && (field == "service" || !part.contains('.'))
        };
        if let Some(part) = part.filter(|part| !is_name(part)) {
            let error =
                at.field(field).error(format!("`{}` is not the name of a {field}", part.escape_debug()));
            return Err(error.hint("letters, digits and `_`; in a service's name also `.`"));
        }
    }
    Ok(match (service, name) {
        (Some(service), Some(name)) => PathMatch::Exact(format!("/{service}/{name}").into()),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}").into()),
        (None, name) => {
            let name = name.unwrap_or_default();
            PathMatch::Regex(check::regex(at, &format!("/[^/]+/{name}"))?)
        }
    })
}
