//! GRPCRoutes: HTTP routes over the path `/service/method` that gRPC uses.

use std::sync::Arc;

use super::attach::{Attached, Attachment, attachment};
use super::kind::{Kinds, Refers};
use super::order::Ranked;
use super::shape::{self, ByRule};
use super::{Drafts, Making, Report, check, filter, http, reference, retry, session};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::route::{GrpcMethodMatch, GrpcRouteMatch, GrpcRouteSpec, ValueMatchType};
use crate::snapshot::Priority;
use crate::snapshot::route::{Matcher, PathMatch, Route};

impl Refers for GrpcRouteSpec {
    type Said = Attached;

    fn about(route: &Loaded<Self>) -> Vec<ServiceName> {
        let parents = reference::named_parents(&route.resource.spec.parent_refs, route.namespace());
        parents.into_iter().chain([shape::route_name(route)]).collect()
    }

    fn names(route: &Loaded<Self>) -> Vec<ServiceName> {
        let rules = route.resource.spec.rules.iter();
        let filters = rules.clone().flat_map(|rule| &rule.filters);
        let mirrors = filter::mirrors(filters.map(|filter| filter.request_mirror.as_ref()));
        let backends = rules.flat_map(|rule| &rule.backend_refs).chain(mirrors);
        reference::named_backends(backends, route.namespace())
    }

    fn follow(route: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Attached {
        let (spec, at) = (&route.resource.spec, route.spec());
        let rules = spec.rules.iter().map(|rule| (rule.name.as_deref(), rule.matches.len()));
        let found = attachment(route, &spec.parent_refs, rules, drafts, report);
        let Some(Attachment { ports, age, labels }) = found else { return Attached::default() };
        let mut routes = Vec::new();
        for (index, (rule, label)) in spec.rules.iter().zip(&labels).enumerate() {
            let at = at.field("rules").index(index);
            let actions =
                filter::grpc(&rule.filters, &at.field("filters"), route.namespace(), drafts, report);
            let at_backends = at.field("backendRefs");
            let backends =
                reference::backends(&rule.backend_refs, &at_backends, route.namespace(), drafts, report);
            if rule.backend_refs.is_empty() {
                report.warnings.push(at.error("the rule has no backends: the calls it matches fail"));
            }
            let any = [GrpcRouteMatch::default()];
            let alternatives = if rule.matches.is_empty() { &any } else { rule.matches.as_slice() };
            let mut of_rule = Vec::new();
            for (alternative, spec) in alternatives.iter().enumerate() {
                let Some(matcher) = matcher(spec, &at.field("matches").index(alternative), report) else {
                    continue;
                };
                let route = of_match(matcher, label, &actions, &backends);
                of_rule.push(Ranked::grpc(route, lengths(spec.method.as_ref()), &age, index, alternative));
            }
            let made = of_rule.iter().map(|ranked| &ranked.route);
            let session = session::of_rule(rule.session_persistence.as_ref(), label, &at, made, report);
            if let Some(said) = &rule.retry {
                retry::check_grpc_rule(said, &at, report);
            }
            let retry = rule.retry.as_ref().map(retry::of_grpc_rule);
            for ranked in &mut of_rule {
                ranked.route.session = session.clone();
                ranked.retry = retry.clone();
            }
            routes.append(&mut of_rule);
        }
        Attached { ports, routes }
    }
}

/// Attaches GRPCRoutes to the ports of a Service, behind its HTTPRoutes.
pub(super) fn attach<'m>(
    kinds: &'m Kinds,
    service: &ServiceName,
    ports: &mut [Making<'m>],
    report: &mut Report,
) {
    for (route, attached) in kinds.grpc_routes.about(service) {
        let policies = ByRule::of(&shape::route_name(route), kinds);
        let at_parents = route.spec().field("parentRefs");
        for port in attached.to(ports) {
            if let Some(other) = &port.http_route {
                let error = at_parents.error(format!("{} has an HTTPRoute already", port.draft.key));
                let place = other.place();
                report.error(
                    error.hint(format!("the port is routed by one kind only; the other is at {place}")),
                );
            }
            port.has_grpc_route = true;
            port.attach(&attached.routes, &policies);
        }
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
        retry: None,
        priority: Priority::Default,
        session: None,
        offload: None,
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
