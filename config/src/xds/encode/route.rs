//! A port's routes as a RouteConfiguration.
//!
//! A match of whole segments, which gRPC clients do not know, becomes two routes: one for the path itself, and one for
//! what begins with it and a slash. They have one name and stand side by side, so that a reader can join them again.

use std::sync::Arc;

use super::{balancing, duration, filter, offload, overload, retry};
use crate::snapshot::route::{Action, Matcher, PathChange, PathMatch, Redirect, Rewrite, Route, ValueMatch};
use crate::snapshot::{Backend, HeaderChanges, Port, Retry};
use crate::xds::wire::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::xds::wire::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use crate::xds::wire::envoy::config::route::v3 as wire;
use crate::xds::wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use crate::xds::wire::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use wire::header_matcher::HeaderMatchSpecifier;
use wire::query_parameter_matcher::QueryParameterMatchSpecifier;
use wire::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
use wire::route_action::{ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration};
use wire::route_match::PathSpecifier;

/// The regular expression of every path.
pub(in crate::xds) const WHOLE_PATH: &str = ".*";

/// The RouteConfiguration of a port: one virtual host for every authority, since a port has one table.
pub fn route_configuration(port: &Port) -> wire::RouteConfiguration {
    let name = port.key.to_string();
    let mut routes: Vec<wire::Route> = port.routes.routes.iter().flat_map(self::routes).collect();
    let hash = balancing::hash_policies(port);
    for route in &mut routes {
        if let Some(wire::route::Action::Route(forward)) = &mut route.action {
            forward.hash_policy = hash.clone();
        }
    }
    let host = wire::VirtualHost {
        name: name.clone(),
        domains: vec!["*".to_string()],
        routes,
        // What other clients know of the port's policy.
        retry_policy: (port.policy.retry != Retry::default()).then(|| retry::policy(&port.policy.retry)),
        ..Default::default()
    };
    wire::RouteConfiguration { name, virtual_hosts: vec![host], ..Default::default() }
}

/// How one route asks for a path on the wire, and what its path is replaced by.
struct Part {
    path: PathSpecifier,
    /// What the whole path (of `Path`) or the prefix (of `Prefix`) becomes where a prefix is replaced.
    prefix: Option<String>,
}

fn routes(route: &Route) -> Vec<wire::Route> {
    let new_prefix = route.actions.iter().find_map(|action| match action {
        Action::Redirect(Redirect { path: Some(PathChange::ReplacePrefix(new, _)), .. })
        | Action::Rewrite(Rewrite { path: Some(PathChange::ReplacePrefix(new, _)), .. }) => Some(&**new),
        _ => None,
    });
    parts(&route.matcher.path, new_prefix).into_iter().map(|part| one(route, part)).collect()
}

/// Slashes stay single, as the Gateway API's table of `replacePrefixMatch` says.
fn parts(path: &PathMatch, new_prefix: Option<&str>) -> Vec<Part> {
    let or_root = |path: &str| if path.is_empty() { "/".to_string() } else { path.to_string() };
    let bare = new_prefix.map(|new| new.strip_suffix('/').unwrap_or(new));
    match path {
        PathMatch::Exact(path) => vec![Part { path: PathSpecifier::Path(path.to_string()), prefix: None }],
        PathMatch::Regex(regex) => {
            let regex = self::regex(unanchored(regex.as_str()));
            vec![Part { path: PathSpecifier::SafeRegex(regex), prefix: None }]
        }
        PathMatch::Starts(front) => {
            let path = PathSpecifier::Prefix(front.to_string());
            vec![Part { path, prefix: new_prefix.map(str::to_string) }]
        }
        // Every path begins with a slash, which stays; so nothing, or `/`, before it changes nothing.
        PathMatch::Prefix(prefix) if prefix.is_empty() => {
            let new = bare.filter(|new| !new.is_empty()).map(str::to_string);
            vec![Part { path: PathSpecifier::Prefix(String::new()), prefix: new }]
        }
        PathMatch::Prefix(prefix) => vec![
            Part { path: PathSpecifier::Path(prefix.to_string()), prefix: new_prefix.map(or_root) },
            Part {
                path: PathSpecifier::Prefix(format!("{prefix}/")),
                prefix: bare.map(|new| format!("{new}/")),
            },
        ],
    }
}

fn one(route: &Route, part: Part) -> wire::Route {
    let mut whole = wire::Route {
        name: route.name.to_string(),
        r#match: Some(route_match(&route.matcher, part.path)),
        metadata: route.offload.as_deref().map(offload::metadata),
        typed_per_filter_config: filter::configurations(route),
        ..Default::default()
    };
    let (mut redirect, mut rewrite) = (None, None);
    for action in &route.actions {
        match action {
            Action::RequestHeaders(changes) => {
                whole.request_headers_to_add = header_options(changes);
                whole.request_headers_to_remove = changes.remove.iter().map(ToString::to_string).collect();
            }
            Action::ResponseHeaders(changes) => {
                whole.response_headers_to_add = header_options(changes);
                whole.response_headers_to_remove = changes.remove.iter().map(ToString::to_string).collect();
            }
            Action::Redirect(to) => redirect = Some(to),
            Action::Rewrite(to) => rewrite = Some(to),
            Action::RateLimit(_) | Action::SizeLimits(_) | Action::Fault(_) | Action::Mirror(_) => {}
        }
    }
    whole.action = Some(match redirect {
        Some(redirect) => wire::route::Action::Redirect(self::redirect(redirect, part.prefix)),
        // The Gateway API answers what has no backend with 500.
        None if route.backends.is_empty() => {
            wire::route::Action::DirectResponse(wire::DirectResponseAction { status: 500, body: Vec::new() })
        }
        None => wire::route::Action::Route(forward(route, rewrite, part.prefix)),
    });
    whole
}

fn route_match(matcher: &Matcher, path: PathSpecifier) -> wire::RouteMatch {
    let method = matcher.method.as_ref().map(|method| wire::HeaderMatcher {
        name: ":method".to_string(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(method))),
        ..Default::default()
    });
    let headers = matcher.headers.iter().map(header);
    let query = matcher.query.iter().map(|(name, value)| wire::QueryParameterMatcher {
        name: name.to_string(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string_matcher(
            value,
        ))),
    });
    wire::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: None,
        headers: method.into_iter().chain(headers).collect(),
        query_parameters: query.collect(),
    }
}

/// A match of a header.
pub(super) fn header((name, value): &(Arc<str>, ValueMatch)) -> wire::HeaderMatcher {
    wire::HeaderMatcher {
        name: name.to_string(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string_matcher(value))),
        ..Default::default()
    }
}

fn forward(route: &Route, rewrite: Option<&Rewrite>, prefix: Option<String>) -> wire::RouteAction {
    let limit = route.request_timeout.map(|limit| duration(limit.unwrap_or_default()));
    let regex_rewrite = match rewrite.and_then(|rewrite| rewrite.path.as_ref()) {
        Some(PathChange::ReplaceFull(path)) => Some(RegexMatchAndSubstitute {
            pattern: Some(regex(WHOLE_PATH)),
            // A backslash would name a group.
            substitution: path.replace('\\', r"\\"),
        }),
        _ => None,
    };
    let host = rewrite.and_then(|rewrite| rewrite.hostname.as_ref());
    wire::RouteAction {
        cluster_specifier: Some(clusters(&route.backends)),
        host_rewrite_specifier: host.map(|host| HostRewriteSpecifier::HostRewriteLiteral(host.to_string())),
        prefix_rewrite: prefix.unwrap_or_default(),
        request_mirror_policies: route.mirrors().map(filter::mirror).collect(),
        timeout: limit,
        priority: overload::priority(route.priority),
        retry_policy: route.retry.as_ref().map(|own| retry::policy(own)),
        regex_rewrite,
        // What gRPC clients read in place of `timeout`.
        max_stream_duration: limit
            .map(|limit| MaxStreamDuration { max_stream_duration: Some(limit), ..Default::default() }),
        hash_policy: Vec::new(),
    }
}

fn clusters(backends: &[Backend]) -> ClusterSpecifier {
    if let [Backend { target, weight: 1, .. }] = backends {
        return ClusterSpecifier::Cluster(target.to_string());
    }
    let cluster = |backend: &Backend| wire::weighted_cluster::ClusterWeight {
        name: backend.target.to_string(),
        weight: Some(backend.weight),
        ..Default::default()
    };
    ClusterSpecifier::WeightedClusters(wire::WeightedCluster {
        clusters: backends.iter().map(cluster).collect(),
    })
}

fn redirect(to: &Redirect, prefix: Option<String>) -> wire::RedirectAction {
    let code = match to.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    let path = match (&to.path, prefix) {
        (Some(PathChange::ReplaceFull(path)), _) => {
            Some(PathRewriteSpecifier::PathRedirect(path.to_string()))
        }
        (_, prefix) => prefix.map(PathRewriteSpecifier::PrefixRewrite),
    };
    wire::RedirectAction {
        host_redirect: to.hostname.as_deref().unwrap_or_default().to_string(),
        port_redirect: to.port.unwrap_or_default().into(),
        response_code: code.into(),
        strip_query: false,
        scheme_rewrite_specifier: to
            .scheme
            .as_ref()
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_string())),
        path_rewrite_specifier: path,
    }
}

/// First what is set, then what is added, as [`HeaderChanges`] has it.
fn header_options(changes: &HeaderChanges) -> Vec<HeaderValueOption> {
    let option = |action: HeaderAppendAction| {
        move |(name, value): &(Arc<str>, Arc<str>)| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_string(),
                // A percent sign would begin a command.
                value: value.replace('%', "%%"),
                raw_value: Vec::new(),
            }),
            append: None,
            append_action: action.into(),
        }
    };
    let set = changes.set.iter().map(option(HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes.add.iter().map(option(HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn string_matcher(value: &ValueMatch) -> StringMatcher {
    match value {
        ValueMatch::Exact(value) => exact(value),
        ValueMatch::Regex(regex) => {
            let pattern = MatchPattern::SafeRegex(self::regex(unanchored(regex.as_str())));
            StringMatcher { match_pattern: Some(pattern), ignore_case: false }
        }
    }
}

pub(super) fn exact(value: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(value.to_string())), ignore_case: false }
}

fn regex(expression: &str) -> RegexMatcher {
    RegexMatcher { google_re2: Vec::new(), regex: expression.to_string() }
}

/// The expression that was given for one that is matched against whole values.
fn unanchored(anchored: &str) -> &str {
    anchored.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(anchored)
}
