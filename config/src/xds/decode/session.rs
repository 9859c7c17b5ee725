//! Sessions of a route.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Any;

use super::filter::open;
use super::{duration, missing, unsupported};
use crate::build::{check, session};
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::session::{Carrier, Persistence};
use crate::xds::type_url;
use crate::xds::wire::envoy::extensions::filters::http::stateful_session::v3 as filter;
use crate::xds::wire::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use crate::xds::wire::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use crate::xds::wire::envoy::r#type::http::v3::Cookie;
use crate::xds::wire::lighter::config::v1 as lighter;

/// What Envoy's filter is told. None: there are no sessions.
pub(super) fn stateful(any: &Any, at: &At<'_>) -> Result<Option<Persistence>, ConfigError> {
    use filter::stateful_session_per_route::Override;
    let said: filter::StatefulSessionPerRoute = open(any, at)?;
    let Some(Override::StatefulSession(session)) = said.r#override else { return Ok(None) };
    let at = at.field("stateful_session");
    if session.strict {
        return Err(unsupported(&at.field("strict"), "a session moves on where its endpoint is gone"));
    }
    let Some(state) = session.session_state else { return Ok(None) };
    let at = at.field("session_state").field("typed_config");
    let any = state.typed_config.ok_or_else(|| missing(&at))?;
    match any.type_url.as_str() {
        type_url::COOKIE_SESSION => {
            let at = at.field("cookie");
            let state: CookieBasedSessionState = open(&any, &at)?;
            of_cookie(&state.cookie.ok_or_else(|| missing(&at))?, &at).map(Some)
        }
        type_url::HEADER_SESSION => {
            let state: HeaderBasedSessionState = open(&any, &at)?;
            let name = session::name(&state.name, true, &at.field("name"))?;
            Ok(Some(Persistence { name, carrier: Carrier::Header, absolute: None, idle: None }))
        }
        _ => Err(unsupported(&at, "a cookie or a header carries sessions")),
    }
}

/// What Lighter's own is told.
pub(super) fn own(any: &Any, at: &At<'_>) -> Result<Persistence, ConfigError> {
    use lighter::session_persistence::Carrier as Said;
    let said: lighter::SessionPersistence = open(any, at)?;
    let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let (absolute, idle) = (limit(said.absolute_seconds), limit(said.idle_seconds));
    let carrier = match said.carrier {
        Some(Said::Cookie(lighter::SessionCookie { path, permanent })) => {
            let at = at.field("cookie");
            if permanent && absolute.is_none() {
                return Err(missing(&at.field("absolute_seconds")));
            }
            Carrier::Cookie { path: cookie_path(&path, &at.field("path"))?, permanent }
        }
        Some(Said::Header(true)) => Carrier::Header,
        _ => return Err(missing(&at.field("carrier"))),
    };
    let name = session::name(&said.name, carrier == Carrier::Header, &at.field("name"))?;
    Ok(Persistence { name, carrier, absolute, idle })
}

fn of_cookie(cookie: &Cookie, at: &At<'_>) -> Result<Persistence, ConfigError> {
    if !cookie.attributes.is_empty() {
        return Err(unsupported(&at.field("attributes"), "`name`, `ttl` and `path` are"));
    }
    let at_ttl = at.field("ttl");
    let ttl = cookie.ttl.as_ref().map(|ttl| duration(ttl, &at_ttl)).transpose()?.filter(|ttl| !ttl.is_zero());
    if ttl.is_some_and(|ttl| ttl.subsec_nanos() != 0) {
        return Err(at_ttl.error("not a whole number of seconds"));
    }
    let path = cookie_path(&cookie.path, &at.field("path"))?;
    let name = session::name(&cookie.name, false, &at.field("name"))?;
    Ok(Persistence {
        name,
        carrier: Carrier::Cookie { path, permanent: ttl.is_some() },
        absolute: ttl,
        idle: None,
    })
}

fn cookie_path(path: &str, at: &At<'_>) -> Result<Arc<str>, ConfigError> {
    if !path.is_empty() {
        check::path(at, path)?;
    }
    if path.contains(';') {
        return Err(at.error("a cookie's path has no `;`"));
    }
    Ok(path.into())
}
