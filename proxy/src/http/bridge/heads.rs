//! Heads from one version of HTTP to the other (RFC 9113 §8.2, §8.3).

use bytes::{BufMut, BytesMut};

use crate::error::{Cause, ProxyError};
use crate::http::h1::head::{self, Refusal};
use crate::http::h2::fields::{Fields, RequestHead, ResponseHead};
use crate::http::hop::{self, Kind};

/// How a request's body is framed in HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sized {
    /// There is none.
    Empty,
    /// By the Content-Length that the caller sent.
    Length,
    /// In chunks.
    Chunked,
}

/// Writes the head of an HTTP/2 request as HTTP/1.1. `host` stands in where the request names no authority.
pub(crate) fn put_request(out: &mut BytesMut, head: &RequestHead, host: &str, body: Sized) {
    let authority = if head.authority().is_empty() { host.as_bytes() } else { head.authority() };
    for part in [head.method(), b" ", head.target(), b" HTTP/1.1\r\nhost: ", authority, b"\r\n"] {
        out.put_slice(part);
    }
    let none = hop::Options::default();
    for field in head.fields.iter() {
        let crosses = hop::crosses_versions(field.name, &none);
        if crosses && field.name != COOKIE && field.kind != Kind::ContentLength {
            put_field(out, field.name, field.value);
        }
    }
    put_cookies(out, &head.fields);
    if head.fields.of(Kind::Te).is_some_and(hop::te_trailers) {
        out.put_slice(b"te: trailers\r\nconnection: te\r\n");
    }
    match (body, head.fields.of(Kind::ContentLength)) {
        (Sized::Chunked, _) => out.put_slice(b"transfer-encoding: chunked\r\n"),
        (_, Some(length)) => put_field(out, CONTENT_LENGTH, length),
        (_, None) => {}
    }
    out.put_slice(b"\r\n");
}

/// Writes one line of a head or of a trailer section.
pub(crate) fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// The head of an HTTP/1 request as HTTP/2 says it.
pub(crate) fn request(from: &head::Request<'_, '_>) -> Result<RequestHead, Refusal> {
    if from.method == b"CONNECT" {
        return Err(Refusal { cause: Cause::Unsupported, detail: "CONNECT is not translated" });
    }
    let slashed;
    let target: &[u8] = match from.path_and_query() {
        b"" if from.method == b"OPTIONS" => b"*",
        b"" => b"/",
        target @ [b'?', ..] => {
            slashed = [b"/", target].concat();
            &slashed
        }
        target => target,
    };
    let mut to = RequestHead::new(from.method, b"http", from.authority, target);
    for field in from.fields.list {
        if hop::crosses_versions(field.name, &from.fields.connection) {
            to.fields.push_lower(field.name, field.value);
        } else if field.kind == Kind::Te && hop::te_trailers(field.value) {
            to.fields.set(b"te", b"trailers");
        }
    }
    Ok(to)
}

/// The head of an HTTP/1 answer as HTTP/2 says it.
pub(crate) fn response(from: &head::Response<'_, '_>) -> Result<ResponseHead, ProxyError> {
    // What the codec lets pass only where an upgrade was asked for.
    if from.status == 101 {
        return Err(ProxyError::new(Cause::UpstreamMalformed, "the answer's head cannot be said in HTTP/2"));
    }
    let mut to = ResponseHead { status: from.status, fields: Fields::with_room() };
    for field in from.fields.list {
        if hop::crosses_versions(field.name, &from.fields.connection) {
            to.fields.push_lower(field.name, field.value);
        }
    }
    // Repeated but equal, or where no body can be: the codec has found what matters.
    if from.status < 200 || from.status == 204 {
        to.fields.remove(Kind::ContentLength);
    } else if let Some(length) = to.fields.of(Kind::ContentLength) {
        let length = length.to_vec();
        to.fields.set(CONTENT_LENGTH, &length);
    }
    Ok(to)
}

/// Crumbs of a cookie become one again (RFC 9113 §8.2.3).
fn put_cookies(out: &mut BytesMut, fields: &Fields) {
    let mut crumbs = fields.values(COOKIE);
    let Some(first) = crumbs.next() else { return };
    out.put_slice(b"cookie: ");
    out.put_slice(first);
    for crumb in crumbs {
        out.put_slice(b"; ");
        out.put_slice(crumb);
    }
    out.put_slice(b"\r\n");
}

const COOKIE: &[u8] = b"cookie";
const CONTENT_LENGTH: &[u8] = b"content-length";

#[cfg(test)]
mod tests {
    use super::*;

    fn written<const N: usize>(
        [method, authority, target]: [&str; 3],
        fields: [(&str, &str); N],
        body: Sized,
    ) -> String {
        let parts = [method, authority, target].map(str::as_bytes);
        let mut head = RequestHead::new(parts[0], b"http", parts[1], parts[2]);
        fields.iter().for_each(|(name, value)| head.fields.push(name.as_bytes(), value.as_bytes()));
        let mut out = BytesMut::new();
        put_request(&mut out, &head, "10.0.0.1:80", body);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn authority_becomes_host_and_cookie_crumbs_become_one() {
        let fields = [("cookie", "a=1"), ("x-b", "2"), ("cookie", "c=3")];
        let text = "GET /x?y=1 HTTP/1.1\r\nhost: reviews\r\nx-b: 2\r\ncookie: a=1; c=3\r\n\r\n";
        assert_eq!(written(["GET", "reviews", "/x?y=1"], fields, Sized::Empty), text);
    }

    #[test]
    fn a_body_without_a_length_is_sent_in_chunks() {
        let text = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n";
        let post = ["POST", "a", "/"];
        assert_eq!(written(post, [("te", "trailers")], Sized::Chunked), text);
        let text = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
        assert_eq!(written(post, [("content-length", "5")], Sized::Length), text);
    }

    #[test]
    fn a_request_without_authority_gets_a_host_all_the_same() {
        let text = "GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n";
        assert_eq!(written(["GET", "", "/"], [], Sized::Empty), text);
    }

    #[test]
    fn what_belonged_to_the_hop_does_not_reach_http2() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                      Transfer-Encoding: chunked\r\nX-End: 2\r\n\r\n";
        let mut room = head::room();
        let parsed = head::response(bytes, &mut room, head::Asked::default()).unwrap().unwrap();
        let response = response(&parsed).unwrap();
        assert_eq!(response.fields, Fields::from([("x-end", "2")]));
    }

    #[test]
    fn no_content_has_no_length() {
        let bytes = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
        let mut room = head::room();
        let parsed = head::response(bytes, &mut room, head::Asked::default()).unwrap().unwrap();
        assert!(response(&parsed).unwrap().fields.is_empty());
    }
}
