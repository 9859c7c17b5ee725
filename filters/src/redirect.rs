//! RequestRedirect: sends the caller elsewhere.

use lighter_config::snapshot::Route;
use lighter_config::snapshot::route::Redirect as To;
use tower::Layer;

use crate::filter::Filter;
use crate::head::{LocalAnswer, RequestHead, ResponseHead};
use crate::path;

/// Makes [`Redirect`] in the place of a filter.
pub struct RedirectLayer<'c>(&'c To);

/// Answers every request. The filter inside sees none, only answers.
pub struct Redirect<S> {
    to: To,
    inner: S,
}

impl<'c> RedirectLayer<'c> {
    /// A layer that sends callers there.
    pub fn new(to: &'c To) -> Self {
        RedirectLayer(to)
    }
}

impl<S> Layer<S> for RedirectLayer<'_> {
    type Service = Redirect<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Redirect { to: self.0.clone(), inner }
    }
}

impl<S: Filter> Filter for Redirect<S> {
    fn on_request<'a>(&'a self, _: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        let fields = vec![("location".to_string(), location(&self.to, head))];
        Some(LocalAnswer::new(self.to.status, fields))
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
    }
}

/// The Location. Absolute, unless neither the request nor the route names a host: then it is path and query only.
fn location(to: &To, head: &RequestHead<'_>) -> Vec<u8> {
    let (asked_host, asked_port) = split_authority(&head.authority);
    let host = to.hostname.as_ref().map_or(asked_host, |host| host.as_bytes());
    let mut location = Vec::with_capacity(host.len() + head.target.len() + 16);
    if !host.is_empty() {
        let scheme = to.scheme.as_deref().unwrap_or(head.scheme);
        location.extend_from_slice(scheme.as_bytes());
        location.extend_from_slice(b"://");
        location.extend_from_slice(host);
        // A new scheme without a port means that scheme's own port, which nobody writes.
        let own_port: u16 = if scheme == "https" { 443 } else { 80 };
        let port = match (to.port, &to.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => asked_port,
        };
        if let Some(port) = port.filter(|port| *port != own_port) {
            location.extend_from_slice(format!(":{port}").as_bytes());
        }
    }
    match &to.path {
        Some(change) if head.target.first() == Some(&b'/') => {
            location.extend_from_slice(&path::change(&head.target, change));
        }
        _ if head.target.first() == Some(&b'/') => location.extend_from_slice(&head.target),
        _ => location.push(b'/'),
    }
    location
}

/// Host (an IPv6 address with its brackets) and port of an authority. What is no port is left out.
fn split_authority(authority: &[u8]) -> (&[u8], Option<u16>) {
    let host_end = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if authority[colon..].contains(&b']') => authority.len(),
        Some(colon) => colon,
        None => authority.len(),
    };
    let port = authority.get(host_end + 1..).and_then(|port| std::str::from_utf8(port).ok()?.parse().ok());
    (&authority[..host_end], port)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Instant;

    use lighter_config::snapshot::route::PathChange;

    use super::*;
    use crate::head::{Facts, Orders};

    fn to() -> To {
        To { scheme: None, hostname: None, port: None, path: None, status: 302 }
    }

    fn from(authority: &'static str, target: &'static str, to: &To) -> String {
        let head = RequestHead {
            method: Cow::Borrowed(b"GET"),
            scheme: "http",
            target: Cow::Borrowed(target.as_bytes()),
            authority: Cow::Borrowed(authority.as_bytes()),
            fields: Default::default(),
            facts: Facts { caller: "", grpc: false, body: None, now: Instant::now(), dice: || 0 },
            orders: Orders::default(),
        };
        String::from_utf8(location(to, &head)).unwrap()
    }

    #[test]
    fn what_is_not_said_stays_as_asked() {
        assert_eq!(from("a.example:8080", "/p?q=1", &to()), "http://a.example:8080/p?q=1");
        assert_eq!(from("a.example:80", "/", &to()), "http://a.example/");
        let elsewhere = To { hostname: Some("b.example".into()), ..to() };
        assert_eq!(from("a.example:8080", "/p", &elsewhere), "http://b.example:8080/p");
    }

    #[test]
    fn a_new_scheme_means_its_own_port() {
        let https = To { scheme: Some("https".into()), ..to() };
        assert_eq!(from("a.example:8080", "/p", &https), "https://a.example/p");
        let https_port = To { port: Some(8443), ..https.clone() };
        assert_eq!(from("a.example:8080", "/p", &https_port), "https://a.example:8443/p");
        let https_443 = To { port: Some(443), ..https };
        assert_eq!(from("a.example", "/p", &https_443), "https://a.example/p");
    }

    #[test]
    fn ipv6_addresses_keep_their_brackets() {
        let port = To { port: Some(81), ..to() };
        assert_eq!(from("[::1]:8080", "/", &port), "http://[::1]:81/");
        assert_eq!(from("[::1]", "/", &to()), "http://[::1]/");
    }

    #[test]
    fn a_request_without_host_is_sent_to_a_path() {
        assert_eq!(from("", "/p?q", &to()), "/p?q");
        let full = To { path: Some(PathChange::ReplaceFull("/new".into())), ..to() };
        assert_eq!(from("a.example", "/p?q", &full), "http://a.example/new?q");
        assert_eq!(from("a.example", "*", &to()), "http://a.example/");
    }
}
