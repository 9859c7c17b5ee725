//! HTTPRoutes.

use std::sync::Arc;

use super::attach::{Attached, Attachment, attachment};
use super::kind::{Kinds, Refers};
use super::order::Ranked;
use super::shape::{self, ByRule};
use super::{Drafts, Making, Report, check, filter, reference, retry, session};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::Duration;
use crate::resource::route::{
    HttpPathMatch, HttpPathMatchType, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, ValueMatch as ValueSpec,
    ValueMatchType,
};
use crate::snapshot::route::{Matcher, PathMatch, Route, ValueMatch};
use crate::snapshot::{Action, Priority};

impl Refers for HttpRouteSpec {
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
            let made = of_rule(rule, label, &at, route.namespace(), drafts, report);
            let retry = retry::of_rule(rule);
            let ranked = |(alternative, route)| Ranked {
                retry: retry.clone(),
                ..Ranked::http(route, &age, index, alternative)
            };
            routes.extend(made.into_iter().enumerate().map(ranked));
        }
        Attached { ports, routes }
    }
}

/// Attaches HTTPRoutes to the ports of a Service.
pub(super) fn attach<'m>(kinds: &'m Kinds, service: &ServiceName, ports: &mut [Making<'m>]) {
    for (route, attached) in kinds.http_routes.about(service) {
        let policies = ByRule::of(&shape::route_name(route), kinds);
        for port in attached.to(ports) {
            port.http_route.get_or_insert_with(|| route.spec().field("parentRefs"));
            port.attach(&attached.routes, &policies);
        }
    }
}

fn of_rule(
    rule: &HttpRouteRule,
    label: &Arc<str>,
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Vec<Route> {
    let actions = filter::http(&rule.filters, &at.field("filters"), namespace, drafts, report);
    let backends =
        reference::backends(&rule.backend_refs, &at.field("backendRefs"), namespace, drafts, report);
    let redirects = actions.iter().any(|action| matches!(action, Action::Redirect(_)));
    if redirects && !rule.backend_refs.is_empty() {
        report.error(at.field("backendRefs").error("a rule that redirects has no backends"));
    }
    if !redirects && rule.backend_refs.is_empty() {
        let warning = at.error("the rule has no backends: what it matches is answered with 500");
        report.warnings.push(warning.hint("to keep the traffic of the Service itself, name it as a backend"));
    }
    retry::check_rule(rule, at, report);
    let request_timeout = rule.timeouts.as_ref().and_then(|timeouts| timeouts.request);
    let replaces_prefix = filter::replaces_prefix(&actions);
    let any = [HttpRouteMatch::default()];
    let alternatives = if rule.matches.is_empty() { &any } else { rule.matches.as_slice() };
    let mut routes = Vec::new();
    for (index, alternative) in alternatives.iter().enumerate() {
        let at = at.field("matches").index(index);
        let Some(matcher) = matcher(alternative, &at, report) else { continue };
        if replaces_prefix && !matches!(matcher.path, PathMatch::Prefix(_)) {
            let error = at.field("path").error("the rule replaces a prefix, but this match has none");
            report.error(error.hint("use a match of type `PathPrefix`, or `ReplaceFullPath`"));
        }
        routes.push(Route {
            index: 0,
            name: label.clone(),
            actions: filter::for_match(&actions, &matcher.path),
            matcher,
            backends: backends.clone(),
            request_timeout: request_timeout.map(Duration::limit),
            retry: None,
            priority: Priority::Default,
            session: None,
            offload: None,
        });
    }
    let session = session::of_rule(rule.session_persistence.as_ref(), label, at, routes.iter(), report);
    routes.iter_mut().for_each(|route| route.session = session.clone());
    routes
}

fn matcher(spec: &HttpRouteMatch, at: &At<'_>, report: &mut Report) -> Option<Matcher> {
    let at_path = at.field("path");
    let path = spec.path.as_ref().map_or(Ok(PathMatch::default()), |path| path_match(path, &at_path));
    // Every part is looked at, so that all that is wrong is said at once.
    let path = report.ok(path);
    let headers = headers(&spec.headers, &at.field("headers"), report);
    let query = query(&spec.query_params, &at.field("queryParams"), report);
    let method = spec.method.map(|method| method.as_str().into());
    Some(Matcher { path: path?, method, headers: headers?, query: query? })
}

fn path_match(path: &HttpPathMatch, at: &At<'_>) -> Result<PathMatch, ConfigError> {
    let (value, at_value) = (path.value.as_deref().unwrap_or("/"), at.field("value"));
    match path.kind {
        HttpPathMatchType::Exact => {
            check::path(&at_value, value)?;
            Ok(PathMatch::Exact(value.into()))
        }
        HttpPathMatchType::PathPrefix => {
            check::path(&at_value, value)?;
            Ok(PathMatch::prefix(value))
        }
        HttpPathMatchType::RegularExpression => Ok(PathMatch::Regex(check::regex(&at_value, value)?)),
    }
}

/// The header matches of a match; names become lower-case.
pub(super) fn headers(
    specs: &[ValueSpec],
    at: &At<'_>,
    report: &mut Report,
) -> Option<Vec<(Arc<str>, ValueMatch)>> {
    report.ok(check::at_most(at, specs.len(), check::MAX_ITEMS))?;
    let mut matches: Vec<(Arc<str>, ValueMatch)> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let at = at.index(index);
        let name: Arc<str> = spec.name.to_ascii_lowercase().into();
        report.ok(check::header_name(&at.field("name"), &spec.name))?;
        if matches.iter().any(|(other, _)| *other == name) {
            let error = at.field("name").error(format!("the header `{}` is matched already", spec.name));
            report.error(error.hint("use one regular expression"));
        }
        if spec.kind == ValueMatchType::Exact {
            report.ok(check::header_value(&at.field("value"), &spec.value))?;
        }
        matches.push((name, report.ok(value(spec, &at))?));
    }
    Some(matches)
}

fn query(specs: &[ValueSpec], at: &At<'_>, report: &mut Report) -> Option<Vec<(Arc<str>, ValueMatch)>> {
    report.ok(check::at_most(at, specs.len(), check::MAX_ITEMS))?;
    let mut matches: Vec<(Arc<str>, ValueMatch)> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let at = at.index(index);
        if spec.name.is_empty() {
            report.error(at.field("name").error("the name of a query parameter is empty"));
        }
        if matches.iter().any(|(other, _)| **other == *spec.name) {
            let error = at.field("name").error(format!("the parameter `{}` is matched already", spec.name));
            report.error(error.hint("use one regular expression"));
        }
        matches.push((spec.name.as_str().into(), report.ok(value(spec, &at))?));
    }
    Some(matches)
}

fn value(spec: &ValueSpec, at: &At<'_>) -> Result<ValueMatch, ConfigError> {
    Ok(match spec.kind {
        ValueMatchType::Exact => ValueMatch::Exact(spec.value.as_str().into()),
        ValueMatchType::RegularExpression => {
            ValueMatch::Regex(check::regex(&at.field("value"), &spec.value)?)
        }
    })
}
