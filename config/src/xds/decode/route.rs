//! RouteConfigurations: where requests go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::action::{self, Changes};
use super::filter::OfRoute;
use super::{
    Nack, balancing, duration, filter, join, matching, missing, offload, overload, read, retry, unsupported,
};
use crate::build::check as checks;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{Action, Backend, HashOn, HeaderChanges, Priority, Retry, Route, RouteTable};
use crate::xds::names;
use crate::xds::unknown::shapes;
use crate::xds::wire::envoy::config::route::v3 as wire;
use wire::route_action::ClusterSpecifier;

/// Where the requests of a listener go.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfiguration {
    /// Its name.
    pub name: Arc<str>,
    /// Tables by authority.
    pub hosts: Vec<VirtualHost>,
    /// By what the requests to a cluster are told apart if it hashes, by the first route to it that says so.
    pub hashes: BTreeMap<Arc<str>, Arc<[HashOn]>>,
}

/// The routes of some authorities.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// `name:80`, `*.name`, `name.*` or `*`, in lower case.
    pub domains: Vec<Arc<str>>,
    /// The routes.
    pub table: RouteTable,
    /// What is tried again, where a route does not say it. None: not said.
    pub retry: Option<Retry>,
}

impl RouteConfiguration {
    /// The table for requests to `authority`: that of a whole name, then of the longest `*` at the front, then at the
    /// end, then of `*` alone.
    pub fn table(&self, authority: &str) -> Option<&RouteTable> {
        self.host(authority).map(|host| &host.table)
    }

    /// The virtual host for requests to `authority`.
    pub(super) fn host(&self, authority: &str) -> Option<&VirtualHost> {
        let authority = authority.to_ascii_lowercase();
        let fit = |host: &VirtualHost| host.domains.iter().filter_map(|domain| fit(domain, &authority)).max();
        let fitting = self.hosts.iter().filter_map(|host| Some((fit(host)?, host)));
        // Of equals, the first: `max_by_key` would return the last.
        let best = fitting.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, host)| host)
    }

    /// The clusters that routes lead to, each once.
    pub fn clusters(&self) -> Vec<Arc<str>> {
        let routes = self.hosts.iter().flat_map(|host| &host.table.routes);
        let targets: BTreeSet<_> = routes.flat_map(Route::targets).collect();
        targets.into_iter().map(|target| names::cluster(target).into()).collect()
    }
}

/// A RouteConfiguration.
pub fn route_configuration(message: &[u8]) -> Result<RouteConfiguration, Nack> {
    read(
        message,
        &shapes::ENVOY_CONFIG_ROUTE_V3_ROUTECONFIGURATION,
        |routes: &wire::RouteConfiguration| &routes.name,
        check,
    )
}

/// The same where it lies in a Listener.
pub(super) fn check(
    routes: &wire::RouteConfiguration,
    at: &At<'_>,
) -> Result<RouteConfiguration, ConfigError> {
    if !routes.vhds.is_empty() {
        return Err(unsupported(&at.field("vhds"), "send the virtual hosts"));
    }
    filter::of_others(&routes.typed_per_filter_config, &at.field("typed_per_filter_config"))?;
    let request = Changes {
        add: &routes.request_headers_to_add,
        remove: &routes.request_headers_to_remove,
        at: (at.field("request_headers_to_add"), at.field("request_headers_to_remove")),
    };
    let response = Changes {
        add: &routes.response_headers_to_add,
        remove: &routes.response_headers_to_remove,
        at: (at.field("response_headers_to_add"), at.field("response_headers_to_remove")),
    };
    let outer = Scope { label: &routes.name, request: &[&request], response: &[&response] };
    let at_hosts = at.field("virtual_hosts");
    let count = routes.virtual_hosts.iter().map(|host| host.routes.len()).sum();
    checks::at_most(&at_hosts, count, MAX_ROUTES)?;
    let mut hosts = Vec::new();
    let mut label = 0;
    for (index, host) in routes.virtual_hosts.iter().enumerate() {
        hosts.push(virtual_host(host, &at_hosts.index(index), &outer, label)?);
        label += host.routes.len();
    }
    let hashes = hashes(routes, at)?;
    Ok(RouteConfiguration { name: routes.name.as_str().into(), hosts, hashes })
}

fn hashes(
    routes: &wire::RouteConfiguration,
    at: &At<'_>,
) -> Result<BTreeMap<Arc<str>, Arc<[HashOn]>>, ConfigError> {
    let mut hashes = BTreeMap::new();
    for (index, host) in routes.virtual_hosts.iter().enumerate() {
        let at = at.field("virtual_hosts").index(index).field("routes");
        for (index, route) in host.routes.iter().enumerate() {
            let Some(wire::route::Action::Route(forward)) = &route.action else { continue };
            if forward.hash_policy.is_empty() {
                continue;
            }
            let at = at.index(index).field("route").field("hash_policy");
            let hash = balancing::hash_policies(&forward.hash_policy, &at)?;
            let clusters: Vec<&str> = match &forward.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => vec![name],
                Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                    weighted.clusters.iter().map(|cluster| &*cluster.name).collect()
                }
                None => Vec::new(),
            };
            for name in clusters {
                hashes.entry(Arc::from(name)).or_insert_with(|| hash.clone());
            }
        }
    }
    Ok(hashes)
}

/// What holds for the routes within, from the inside out.
struct Scope<'s, 'm, 'd> {
    /// The RouteConfiguration's name.
    label: &'s str,
    request: &'s [&'s Changes<'m, 'd>],
    response: &'s [&'s Changes<'m, 'd>],
}

fn virtual_host(
    host: &wire::VirtualHost,
    at: &At<'_>,
    outer: &Scope<'_, '_, '_>,
    first: usize,
) -> Result<VirtualHost, ConfigError> {
    if host.require_tls != 0 {
        return Err(unsupported(
            &at.field("require_tls"),
            "how callers connect is for their sidecars to say",
        ));
    }
    if !host.matcher.is_empty() {
        return Err(unsupported(&at.field("matcher"), "send `routes`"));
    }
    filter::of_others(&host.typed_per_filter_config, &at.field("typed_per_filter_config"))?;
    let at_domains = at.field("domains");
    if host.domains.is_empty() {
        return Err(missing(&at_domains));
    }
    let mut domains = Vec::new();
    for (index, domain) in host.domains.iter().enumerate() {
        let inner = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*')).unwrap_or(domain);
        if domain.is_empty() || inner.contains('*') {
            let error = at_domains.index(index).error(format!("`{}` is no domain", domain.escape_debug()));
            return Err(error.hint("a name, with at most one `*`, at one of its ends"));
        }
        domains.push(domain.to_ascii_lowercase().into());
    }
    let request = Changes {
        add: &host.request_headers_to_add,
        remove: &host.request_headers_to_remove,
        at: (at.field("request_headers_to_add"), at.field("request_headers_to_remove")),
    };
    let response = Changes {
        add: &host.response_headers_to_add,
        remove: &host.response_headers_to_remove,
        at: (at.field("response_headers_to_add"), at.field("response_headers_to_remove")),
    };
    let requests: Vec<_> = std::iter::once(&request).chain(outer.request.iter().copied()).collect();
    let responses: Vec<_> = std::iter::once(&response).chain(outer.response.iter().copied()).collect();
    let scope = Scope { label: outer.label, request: &requests, response: &responses };
    let mut routes = Vec::new();
    for (index, route) in host.routes.iter().enumerate() {
        routes.push(one(route, &at.field("routes").index(index), &scope, first + index)?);
    }
    let at_retry = at.field("retry_policy");
    let retry = host.retry_policy.as_ref().map(|policy| retry::policy(policy, &at_retry)).transpose()?;
    Ok(VirtualHost { domains, table: RouteTable::new(join::neighbours(routes)), retry })
}

fn one(
    route: &wire::Route,
    at: &At<'_>,
    outer: &Scope<'_, '_, '_>,
    number: usize,
) -> Result<Route, ConfigError> {
    let at_match = at.field("match");
    let route_match = route.r#match.as_ref().ok_or_else(|| missing(&at_match))?;
    let matcher = matching::matcher(route_match, &at_match)?;
    let at_filters = at.field("typed_per_filter_config");
    let OfRoute { mut actions, session } = filter::of_route(&route.typed_per_filter_config, &at_filters)?;
    actions.extend(header_actions(route, at, outer)?);
    let (mut backends, mut request_timeout, mut retry) = (Vec::new(), None, None);
    let mut priority = Priority::Default;
    match &route.action {
        Some(wire::route::Action::Route(forward)) => {
            let at = at.field("route");
            backends = self::backends(forward, &at)?;
            request_timeout = timeout(forward, &at)?;
            priority = overload::priority(forward.priority, &at.field("priority"))?;
            let policy = forward.retry_policy.as_ref();
            retry = policy.map(|policy| retry::policy(policy, &at.field("retry_policy"))).transpose()?;
            actions.extend(action::rewrite(forward, &matcher.path, &at)?.map(Action::Rewrite));
            let at_mirrors = at.field("request_mirror_policies");
            actions.extend(filter::mirrors(&forward.request_mirror_policies, &at_mirrors)?);
        }
        Some(wire::route::Action::Redirect(to)) => {
            actions.push(Action::Redirect(action::redirect(to, &matcher.path, &at.field("redirect"))?));
        }
        // What has no backend is answered so.
        Some(wire::route::Action::DirectResponse(answer)) => {
            if answer.status != 500 || !answer.body.is_empty() {
                let hint = "only status 500 without a body, for a route that has no backend";
                return Err(unsupported(&at.field("direct_response"), hint));
            }
        }
        None => {
            let error = at.error("nothing that is supported is done with what it matches");
            return Err(error.hint("send `route` or `redirect`"));
        }
    }
    let name = match route.name.as_str() {
        "" => format!("{}/{number}", outer.label).into(),
        name => name.into(),
    };
    let retry = retry.map(Arc::new);
    let offload = offload::offload(route.metadata.as_ref(), &at.field("metadata"))?;
    Ok(Route {
        index: 0,
        name,
        matcher,
        actions,
        backends,
        request_timeout,
        retry,
        priority,
        session,
        offload,
    })
}

fn header_actions(
    route: &wire::Route,
    at: &At<'_>,
    outer: &Scope<'_, '_, '_>,
) -> Result<Vec<Action>, ConfigError> {
    let request = Changes {
        add: &route.request_headers_to_add,
        remove: &route.request_headers_to_remove,
        at: (at.field("request_headers_to_add"), at.field("request_headers_to_remove")),
    };
    let response = Changes {
        add: &route.response_headers_to_add,
        remove: &route.response_headers_to_remove,
        at: (at.field("response_headers_to_add"), at.field("response_headers_to_remove")),
    };
    let all = |own, outer: &[&Changes<'_, '_>]| -> Result<Option<HeaderChanges>, ConfigError> {
        let places: Vec<_> = std::iter::once(own).chain(outer.iter().copied()).collect();
        let changes = action::headers(&places)?;
        Ok((changes != HeaderChanges::default()).then_some(changes))
    };
    let request = all(&request, outer.request)?.map(Action::RequestHeaders);
    let response = all(&response, outer.response)?.map(Action::ResponseHeaders);
    Ok(request.into_iter().chain(response).collect())
}

/// Whether they exist is known once clusters are.
fn backends(action: &wire::RouteAction, at: &At<'_>) -> Result<Vec<Backend>, ConfigError> {
    let backend = |name: &str, weight| Backend { target: names::of_cluster(name), weight, exists: true };
    let weighted = match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => return Ok(vec![backend(name, 1)]),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted,
        _ => return Err(at.error("no cluster").hint("send `cluster` or `weighted_clusters`")),
    };
    let at = at.field("weighted_clusters").field("clusters");
    checks::at_most(&at, weighted.clusters.len(), MAX_BACKENDS)?;
    let mut backends: Vec<Backend> = Vec::new();
    let mut sum = 0u32;
    for (index, cluster) in weighted.clusters.iter().enumerate() {
        let at = at.index(index);
        filter::of_others(&cluster.typed_per_filter_config, &at.field("typed_per_filter_config"))?;
        if cluster.name.is_empty() {
            return Err(missing(&at.field("name")));
        }
        let at_weight = at.field("weight");
        let weight = cluster.weight.ok_or_else(|| missing(&at_weight))?;
        sum = sum.checked_add(weight).ok_or_else(|| {
            at_weight.error("the sum of the weights is too large").hint(format!("at most {}", u32::MAX))
        })?;
        let new = backend(&cluster.name, weight);
        // The sum was checked, so no part of it is too large.
        match backends.iter_mut().find(|known| known.target == new.target) {
            Some(known) => known.weight = known.weight.saturating_add(weight),
            None => backends.push(new),
        }
    }
    if sum == 0 {
        return Err(at.error("every weight is 0").hint("give at least one cluster a weight"));
    }
    Ok(backends)
}

/// `timeout` as Envoy reads it, or else `max_stream_duration` as gRPC clients do. 0: without limit.
fn timeout(action: &wire::RouteAction, at: &At<'_>) -> Result<Option<Option<Duration>>, ConfigError> {
    let streams = action.max_stream_duration.as_ref();
    let of_stream = streams.and_then(|streams| {
        streams.grpc_timeout_header_max.as_ref().or(streams.max_stream_duration.as_ref())
    });
    let (limit, name) = match (&action.timeout, of_stream) {
        (Some(limit), _) => (limit, "timeout"),
        (None, Some(limit)) => (limit, "max_stream_duration"),
        (None, None) => return Ok(None),
    };
    let limit = duration(limit, &at.field(name))?;
    Ok(Some((!limit.is_zero()).then_some(limit)))
}

/// How well a domain fits: the greater is preferred. None: not at all.
fn fit(domain: &str, authority: &str) -> Option<(u8, usize)> {
    let kind = match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
        _ if domain == authority => 3,
        (Some(""), _) => 0,
        (Some(end), _) if authority.len() > end.len() && authority.ends_with(end) => 2,
        (_, Some(front)) if authority.len() > front.len() && authority.starts_with(front) => 1,
        _ => return None,
    };
    Some((kind, domain.len()))
}

/// Most routes of one RouteConfiguration.
const MAX_ROUTES: usize = 16 << 10;
/// Most clusters of one route.
const MAX_BACKENDS: usize = 1024;
