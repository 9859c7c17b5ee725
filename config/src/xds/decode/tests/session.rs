//! Sessions of other servers.

use std::time::Duration;

use super::*;
use crate::snapshot::session::{Carrier, Persistence};
use crate::xds::wire::envoy::config::core::v3::TypedExtensionConfig;
use crate::xds::wire::envoy::extensions::filters::http::stateful_session::v3 as filter;
use crate::xds::wire::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use crate::xds::wire::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use crate::xds::wire::envoy::r#type::http::v3::Cookie;
use filter::stateful_session_per_route::Override;

#[test]
fn sessions_of_another_server_are_those_of_its_filter() {
    let with = |state: Option<prost_types::Any>, strict: bool| {
        let config = TypedExtensionConfig { name: "any".into(), typed_config: state };
        let session = filter::StatefulSession { session_state: Some(config), strict };
        let said = filter::StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
        let mut route = simple("/", "a");
        let said = encode::any(type_url::STATEFUL_SESSION, &said);
        route.typed_per_filter_config.insert("envoy.filters.http.stateful_session".into(), said);
        read_table(vec![route]).map(|routes| routes.hosts[0].table.routes[0].session.as_deref().cloned())
    };
    let cookie = |cookie: Cookie| {
        encode::any(type_url::COOKIE_SESSION, &CookieBasedSessionState { cookie: Some(cookie) })
    };
    let ttl = prost_types::Duration { seconds: 90, nanos: 0 };
    let plain = Cookie { name: "Seat".into(), ttl: Some(ttl), ..Cookie::default() };
    let expected = Persistence {
        name: "Seat".into(),
        carrier: Carrier::Cookie { path: "".into(), permanent: true },
        absolute: Some(Duration::from_secs(90)),
        idle: None,
    };
    assert_eq!(with(Some(cookie(plain.clone())), false).unwrap(), Some(expected.clone()));
    let header = HeaderBasedSessionState { name: "X-Seat".into() };
    let header = encode::any(type_url::HEADER_SESSION, &header);
    let by_header =
        Persistence { name: "x-seat".into(), carrier: Carrier::Header, absolute: None, idle: None };
    assert_eq!(with(Some(header.clone()), false).unwrap(), Some(by_header));
    for (state, strict) in [
        (Some(header), true),
        (None, false),
        (Some(cookie(Cookie { attributes: vec![Vec::new()], ..plain.clone() })), false),
        (Some(cookie(Cookie { path: "/; Domain=x".into(), ..plain.clone() })), false),
        (Some(cookie(Cookie { name: "a b".into(), ..plain.clone() })), false),
        (Some(encode::any("type.googleapis.com/other", &Cookie::default())), false),
    ] {
        assert!(with(state.clone(), strict).is_err(), "{state:?}");
    }
}
