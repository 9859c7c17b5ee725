//! Listeners: targets that can be dialled.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Any;

use super::route::{self, RouteConfiguration};
use super::{Nack, duration, missing, open, read, source, unsupported};
use crate::document::At;
use crate::error::ConfigError;
use crate::xds::type_url;
use crate::xds::unknown::{self, shapes};
use crate::xds::wire::envoy::config::listener::v3 as wire;
use crate::xds::wire::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use manager::http_connection_manager::RouteSpecifier;

/// A target that can be dialled.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The target.
    pub name: Arc<str>,
    /// Where its requests go.
    pub routes: RouteSource,
    /// Longest time of a request where its route says nothing else. `Some(None)`: said to be without limit.
    pub request_timeout: Option<Option<Duration>>,
}

/// Where a listener's routes are.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    /// In the RouteConfiguration of this name.
    Named(Arc<str>),
    /// In the listener itself.
    Inline(RouteConfiguration),
}

/// A Listener of the gRPC profile: one with an `api_listener`.
pub fn listener(message: &[u8]) -> Result<Listener, Nack> {
    read(
        message,
        &shapes::ENVOY_CONFIG_LISTENER_V3_LISTENER,
        |listener: &wire::Listener| &listener.name,
        check,
    )
}

fn check(listener: &wire::Listener, at: &At<'_>) -> Result<Listener, ConfigError> {
    if !listener.filter_chains.is_empty() {
        let hint = "a sidecar dials; send a listener that has an `api_listener` only";
        return Err(unsupported(&at.field("filter_chains"), hint));
    }
    let at = at.field("api_listener");
    let api = listener.api_listener.as_ref().ok_or_else(|| missing(&at))?;
    let at = at.field("api_listener");
    let any = api.api_listener.as_ref();
    let manager: manager::HttpConnectionManager = open(any, type_url::HTTP_CONNECTION_MANAGER, &at)?;
    // What lies in an Any was not walked with the rest.
    unknown_in(any, &at)?;
    filters(&manager.http_filters, &at.field("http_filters"))?;
    let routes = match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            let at = at.field("rds");
            source(rds.config_source.as_ref(), &at.field("config_source"))?;
            if rds.route_config_name.is_empty() {
                return Err(missing(&at.field("route_config_name")));
            }
            RouteSource::Named(rds.route_config_name.as_str().into())
        }
        Some(RouteSpecifier::RouteConfig(routes)) => {
            RouteSource::Inline(route::check(routes, &at.field("route_config"))?)
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return Err(unsupported(&at.field("scoped_routes"), "send `rds` or `route_config`"));
        }
        None => return Err(at.error("no routes").hint("send `rds` or `route_config`")),
    };
    let options = manager.common_http_protocol_options.as_ref();
    let limit = options.and_then(|options| options.max_stream_duration.as_ref());
    let at_limit = at.field("common_http_protocol_options").field("max_stream_duration");
    let limit = limit.map(|limit| duration(limit, &at_limit)).transpose()?;
    let request_timeout = limit.map(|limit| (!limit.is_zero()).then_some(limit));
    Ok(Listener { name: listener.name.as_str().into(), routes, request_timeout })
}

fn unknown_in(any: Option<&Any>, at: &At<'_>) -> Result<(), ConfigError> {
    let shape = &shapes::ENVOY_EXTENSIONS_FILTERS_NETWORK_HTTP_CONNECTION_MANAGER_V3_HTTPCONNECTIONMANAGER;
    unknown::check(any.map_or(&[][..], |any| &any.value), shape).map_err(|error| {
        let at = if error.path.is_empty() { at.clone() } else { at.field(&error.path) };
        at.error(error.to_string())
    })
}

/// The last filter is the router; what stands before it can be left out, or is refused.
fn filters(filters: &[manager::HttpFilter], at: &At<'_>) -> Result<(), ConfigError> {
    for (index, filter) in filters.iter().enumerate() {
        let at = at.index(index);
        let is_router =
            filter.typed_config.as_ref().is_some_and(|config| config.type_url == type_url::ROUTER);
        let is_last = index + 1 == filters.len();
        if is_router && !is_last {
            return Err(at.error("the router is not the last filter"));
        }
        if !is_router && !filter.is_optional && !filter.disabled {
            let error = at.error(format!("the filter `{}` is not supported", filter.name.escape_debug()));
            return Err(error.hint("say `is_optional` if requests may go on without it"));
        }
        if is_last && !is_router {
            return Err(at.error("the last filter is not the router"));
        }
    }
    if filters.is_empty() {
        return Err(at.error("no filter").hint("the last filter is the router"));
    }
    Ok(())
}
