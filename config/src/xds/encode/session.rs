//! Sessions of a route, as configurations of filters.
//!
//! Envoy's words are said where they say it all or a reader can do with less. Not so of sessions by a header: clients of
//! gRPC know the filter, and refuse a table that has what they do not know in it.

use prost_types::Any;

use super::{any, duration};
use crate::snapshot::session::{Carrier, Persistence};
use crate::xds::type_url;
use crate::xds::wire::envoy::config::core::v3::TypedExtensionConfig;
use crate::xds::wire::envoy::extensions::filters::http::stateful_session::v3 as filter;
use crate::xds::wire::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use crate::xds::wire::envoy::r#type::http::v3::Cookie;
use crate::xds::wire::lighter::config::v1 as lighter;

/// In Envoy's words, as far as they go.
pub(super) fn stateful(persistence: &Persistence) -> Option<Any> {
    let Carrier::Cookie { path, permanent } = &persistence.carrier else { return None };
    let ttl = persistence.absolute.filter(|_| *permanent).map(duration);
    let cookie =
        Cookie { name: persistence.name.to_string(), ttl, path: path.to_string(), attributes: Vec::new() };
    let state = TypedExtensionConfig {
        name: "envoy.http.stateful_session.cookie".to_string(),
        typed_config: Some(any(type_url::COOKIE_SESSION, &CookieBasedSessionState { cookie: Some(cookie) })),
    };
    let session = filter::StatefulSession { session_state: Some(state), strict: false };
    let session = filter::stateful_session_per_route::Override::StatefulSession(session);
    Some(any(type_url::STATEFUL_SESSION, &filter::StatefulSessionPerRoute { r#override: Some(session) }))
}

/// In Lighter's, where Envoy's are not enough.
pub(super) fn own(persistence: &Persistence) -> Option<Any> {
    use lighter::session_persistence::Carrier as Said;
    let Persistence { name, carrier, absolute, idle } = persistence;
    let carrier = match carrier {
        Carrier::Cookie { permanent, .. } if idle.is_none() && *permanent == absolute.is_some() => {
            return None;
        }
        Carrier::Cookie { path, permanent } => {
            Said::Cookie(lighter::SessionCookie { path: path.to_string(), permanent: *permanent })
        }
        Carrier::Header => Said::Header(true),
    };
    let seconds = |limit: &Option<std::time::Duration>| limit.map_or(0, |limit| limit.as_secs());
    let said = lighter::SessionPersistence {
        name: name.to_string(),
        carrier: Some(carrier),
        absolute_seconds: seconds(absolute),
        idle_seconds: seconds(idle),
    };
    Some(any(type_url::SESSION, &said))
}
