//! Heads of HTTP/2 messages: what a route sees of them, what a hop adds and takes away, and their way through a
//! filter chain.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use lighter_config::snapshot::{RequestParts, Route};
use lighter_filters::{Chain, Fields, LocalAnswer, RequestHead, ResponseHead};

use crate::error::Cause;
use crate::http::hop;
use crate::link::accept::Caller;
use crate::telemetry::{Direction, trace};

/// `x-request-id`.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `x-forwarded-for`.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `x-forwarded-client-cert`.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// `grpc-timeout`.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request as a route sees it.
pub(crate) struct View<'a>(pub(crate) &'a Parts);

impl RequestParts for View<'_> {
    fn method(&self) -> &[u8] {
        self.0.method.as_str().as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.0.uri.path().as_bytes()
    }

    fn query(&self) -> Option<&[u8]> {
        self.0.uri.query().map(str::as_bytes)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        if name == "host" {
            return Some(authority(&self.0.uri));
        }
        self.0.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn header_values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        if name == "host" {
            return see(authority(&self.0.uri));
        }
        self.0.headers.get_all(name).iter().for_each(|value| see(value.as_bytes()));
    }
}

/// The authority, or nothing where none was sent.
pub(crate) fn authority(uri: &Uri) -> &[u8] {
    uri.authority().map_or(&b""[..], |authority| authority.as_str().as_bytes())
}

/// Whether the message is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| hop::is_grpc(value.as_bytes()))
}

/// Makes `:authority` say what `Host` says where it is absent, and takes `Host` away. Two authorities that differ can
/// be read in two ways (RFC 9113 §8.3.1).
pub(crate) fn unify_authority(parts: &mut Parts) -> Result<(), Cause> {
    let Some(host) = parts.headers.get(HOST) else {
        if parts.uri.authority().is_none() {
            // So `h2` sends what came: a request without an authority.
            parts.version = Version::HTTP_11;
        }
        return Ok(());
    };
    if parts.headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Cause::AmbiguousMessage);
    }
    match parts.uri.authority() {
        Some(authority) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            return Err(Cause::AmbiguousMessage);
        }
        Some(_) => {}
        None => {
            let host = Authority::try_from(host.as_bytes()).map_err(|_| Cause::BadRequest)?;
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.authority = Some(host);
            uri.scheme.get_or_insert(Scheme::HTTP);
            parts.uri = Uri::from_parts(uri).map_err(|_| Cause::BadRequest)?;
        }
    }
    parts.headers.remove(HOST);
    Ok(())
}

/// Why a request's authority leads nowhere, in words.
pub(crate) fn misdirected(cause: Cause) -> &'static str {
    match cause {
        Cause::NotInRegistry => "the authority names no service that is known here",
        Cause::Unsupported => "the port does not speak HTTP",
        _ => "the authority cannot be read",
    }
}

/// Takes `x-lighter-*` away where `direction` and `half` do not let it pass.
pub(crate) fn strip(headers: &mut HeaderMap, direction: Direction, half: hop::Half) {
    if hop::lighter_passes(direction, half) {
        return;
    }
    while let Some(name) = headers.keys().find(|name| hop::is_lighter(name.as_str().as_bytes())).cloned() {
        headers.remove(name);
    }
}

/// Takes away what may not stand in a trailer section: above all `x-lighter-*`, which no sidecar puts there.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    let barred = |name: &&HeaderName| !hop::allowed_in_trailers(name.as_str().as_bytes());
    while let Some(name) = trailers.keys().find(barred).cloned() {
        trailers.remove(name);
    }
}

/// Adds what this hop adds to a request: `x-request-id` on the way out, the caller's address on the way in.
pub(crate) fn annotate(headers: &mut HeaderMap, direction: Direction, peer: &HeaderValue) {
    match direction {
        Direction::Outbound => {
            // Never the same twice: in a table of HPACK it would only push out what is.
            if let Some(id) = headers.get_mut(REQUEST_ID) {
                id.set_sensitive(true);
            } else if let Ok(mut id) = HeaderValue::from_bytes(&trace::request_id()) {
                id.set_sensitive(true);
                headers.insert(REQUEST_ID, id);
            }
        }
        Direction::Inbound => {
            let value = match headers.get(FORWARDED_FOR) {
                None => peer.clone(),
                Some(before) => {
                    let mut value = before.as_bytes().to_vec();
                    for more in headers.get_all(FORWARDED_FOR).iter().skip(1) {
                        value.extend_from_slice(b", ");
                        value.extend_from_slice(more.as_bytes());
                    }
                    value.extend_from_slice(b", ");
                    value.extend_from_slice(peer.as_bytes());
                    HeaderValue::from_bytes(&value).unwrap_or_else(|_| peer.clone())
                }
            };
            headers.insert(FORWARDED_FOR, value);
        }
    }
}

/// Says who called, in place of whatever the caller said itself.
pub(crate) fn vouch(headers: &mut HeaderMap, caller: Option<&Caller>) {
    match caller {
        Some(caller) => {
            headers.insert(CLIENT_CERT, caller.field.clone());
        }
        None => {
            headers.remove(CLIENT_CERT);
        }
    }
}

/// What `grpc-timeout` says (at most eight digits and a unit); `None` where it is absent or not valid.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(GRPC_TIMEOUT)?.as_bytes();
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// `left` as `grpc-timeout` says it: at most eight digits.
pub(crate) fn grpc_timeout_value(left: Duration) -> HeaderValue {
    let (amount, unit) = match left.as_micros() {
        micros if micros < 100_000_000 => (micros as u64, 'u'),
        micros if micros < 100_000_000_000 => ((micros / 1000) as u64, 'm'),
        micros => (((micros / 1_000_000) as u64).min(99_999_999), 'S'),
    };
    HeaderValue::try_from(format!("{amount}{unit}")).unwrap_or(HeaderValue::from_static("0u"))
}

/// Sends a request's head through `chain`: changes it, or answers in its stead.
pub(crate) fn filter_request(
    chain: &Chain,
    route: &Route,
    parts: &mut Parts,
) -> Result<Option<LocalAnswer>, Cause> {
    let https = parts.uri.scheme() == Some(&Scheme::HTTPS);
    let mut head = RequestHead {
        method: Cow::Borrowed(parts.method.as_str().as_bytes()),
        scheme: if https { "https" } else { "http" },
        target: Cow::Borrowed(parts.uri.path_and_query().map_or("", PathAndQuery::as_str).as_bytes()),
        authority: Cow::Borrowed(authority(&parts.uri)),
        fields: fields(&parts.headers),
    };
    if let Some(answer) = chain.on_request(route, &mut head) {
        return Ok(Some(answer));
    }
    let mut uri = http::uri::Parts::default();
    if !head.target.is_empty() {
        uri.path_and_query = Some(PathAndQuery::try_from(&*head.target).map_err(|_| Cause::Internal)?);
    }
    if !head.authority.is_empty() {
        uri.authority = Some(Authority::try_from(&*head.authority).map_err(|_| Cause::Internal)?);
        uri.scheme = Some(parts.uri.scheme().cloned().unwrap_or(Scheme::HTTP));
    }
    let headers = map(&head.fields)?;
    let uri = Uri::from_parts(uri).map_err(|_| Cause::Internal)?;
    drop(head);
    parts.version = if uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    parts.uri = uri;
    parts.headers = headers;
    Ok(None)
}

/// Sends an answer's head through `chain`.
pub(crate) fn filter_response(chain: &Chain, response: &mut http::response::Parts) -> Result<(), Cause> {
    let mut head = ResponseHead { status: response.status.as_u16(), fields: fields(&response.headers) };
    chain.on_response(&mut head);
    let status = http::StatusCode::from_u16(head.status).map_err(|_| Cause::Internal)?;
    let headers = map(&head.fields)?;
    drop(head);
    response.status = status;
    response.headers = headers;
    Ok(())
}

fn fields(headers: &HeaderMap) -> Fields<'_> {
    headers
        .iter()
        .map(|(name, value)| (Cow::Borrowed(name.as_str().as_bytes()), Cow::Borrowed(value.as_bytes())))
        .collect()
}

fn map(fields: &Fields<'_>) -> Result<HeaderMap, Cause> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name).map_err(|_| Cause::Internal)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Cause::Internal)?;
        if hop::allowed_in_http2(name.as_str().as_bytes(), value.as_bytes()) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().version(Version::HTTP_2).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn host_becomes_the_authority_where_that_is_absent() {
        let mut request = parts("/x?y", &[("host", "reviews:80")]);
        unify_authority(&mut request).unwrap();
        assert_eq!(request.uri, "http://reviews:80/x?y");
        assert!(request.headers.is_empty());
        assert_eq!(View(&request).header("host"), Some(&b"reviews:80"[..]));
    }

    #[test]
    fn two_authorities_that_differ_are_refused() {
        let mut request = parts("http://a/", &[("host", "b")]);
        assert_eq!(unify_authority(&mut request), Err(Cause::AmbiguousMessage));
        let mut request = parts("http://a/", &[("host", "A")]);
        assert_eq!(unify_authority(&mut request), Ok(()));
        let mut request = parts("/", &[("host", "a"), ("host", "a")]);
        assert_eq!(unify_authority(&mut request), Err(Cause::AmbiguousMessage));
    }

    #[test]
    fn a_request_without_authority_stays_one() {
        let mut request = parts("/", &[]);
        unify_authority(&mut request).unwrap();
        assert_eq!(request.version, Version::HTTP_11);
    }

    #[test]
    fn fields_of_the_mesh_are_taken_away_where_they_could_be_forged() {
        for (direction, half, left) in [
            (Direction::Outbound, hop::Half::Request, 1),
            (Direction::Inbound, hop::Half::Request, 1),
            (Direction::Inbound, hop::Half::Response, 1),
            (Direction::Outbound, hop::Half::Response, 3),
        ] {
            let mut request = parts("/", &[("x-lighter-error", "a"), ("x-lighter-b", "b"), ("x-light", "c")]);
            strip(&mut request.headers, direction, half);
            assert_eq!(request.headers.len(), left);
        }
    }

    #[test]
    fn the_caller_is_appended_to_those_before_it() {
        let peer = HeaderValue::from_static("10.0.0.3");
        let mut request = parts("/", &[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2")]);
        annotate(&mut request.headers, Direction::Inbound, &peer);
        assert_eq!(request.headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(request.headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 10.0.0.3");
    }

    #[test]
    fn who_called_is_said_by_the_sidecar_alone() {
        let mut request = parts("/", &[("x-forwarded-client-cert", "URI=spiffe://mesh/forged")]);
        vouch(&mut request.headers, None);
        assert!(request.headers.is_empty());
        let mut request = parts("/", &[("x-forwarded-client-cert", "a"), ("x-forwarded-client-cert", "b")]);
        vouch(&mut request.headers, Caller::new("spiffe://mesh/web".parse().unwrap()).as_deref());
        let said: Vec<_> = request.headers.get_all(CLIENT_CERT).iter().collect();
        assert_eq!(said, ["URI=spiffe://mesh/web"]);
    }

    #[test]
    fn a_request_id_is_made_once_and_has_the_shape_of_a_uuid() {
        let mut request = parts("/", &[]);
        annotate(&mut request.headers, Direction::Outbound, &HeaderValue::from_static(""));
        let id = request.headers[REQUEST_ID].to_str().unwrap().to_owned();
        annotate(&mut request.headers, Direction::Outbound, &HeaderValue::from_static(""));
        assert_eq!(request.headers[REQUEST_ID], id);
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(id.bytes().filter(|byte| *byte == b'-').count(), 4);
    }

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("1", None),
        ] {
            assert_eq!(grpc_timeout(&parts("/", &[("grpc-timeout", text)]).headers), expected, "{text}");
        }
        for (left, text) in [
            (Duration::from_millis(1500), "1500000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
        ] {
            assert_eq!(grpc_timeout_value(left), text);
        }
    }
}
