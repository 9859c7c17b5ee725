//! Heads from one version of HTTP to the other (RFC 9113 §8.2, §8.3).

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, COOKIE, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use crate::error::{Cause, ProxyError};
use crate::http::h1::head::{self, Refusal};
use crate::http::hop;

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
pub(crate) fn put_request(out: &mut BytesMut, parts: &http::request::Parts, host: &str, body: Sized) {
    let authority = parts.uri.authority().map_or(host, |authority| authority.as_str());
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\nhost: ", authority, "\r\n"] {
        out.put_slice(part.as_bytes());
    }
    let none = hop::Options::default();
    for (name, value) in &parts.headers {
        if name != COOKIE && name != CONTENT_LENGTH && hop::crosses_versions(name.as_str().as_bytes(), &none)
        {
            put_field(out, name, value.as_bytes());
        }
    }
    put_cookies(out, &parts.headers);
    if parts.headers.get(TE).is_some_and(|value| hop::te_trailers(value.as_bytes())) {
        out.put_slice(b"te: trailers\r\nconnection: te\r\n");
    }
    match (body, parts.headers.get(CONTENT_LENGTH)) {
        (Sized::Chunked, _) => out.put_slice(b"transfer-encoding: chunked\r\n"),
        (_, Some(length)) => put_field(out, &CONTENT_LENGTH, length.as_bytes()),
        (_, None) => {}
    }
    out.put_slice(b"\r\n");
}

/// Writes one line of a head or of a trailer section.
pub(crate) fn put_field(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// The head of an HTTP/1 request as HTTP/2 says it.
pub(crate) fn request(from: &head::Request<'_, '_>) -> Result<http::request::Parts, Refusal> {
    let bad = |detail| Refusal { cause: Cause::BadRequest, detail };
    if from.method == b"CONNECT" {
        return Err(Refusal { cause: Cause::Unsupported, detail: "CONNECT is not translated" });
    }
    let mut to = Request::new(());
    *to.version_mut() = Version::HTTP_11;
    *to.method_mut() = Method::from_bytes(from.method).map_err(|_| bad("no such method"))?;
    let target = from.path_and_query();
    let target = match target {
        b"" if from.method == b"OPTIONS" => PathAndQuery::from_static("*"),
        b"" => PathAndQuery::from_static("/"),
        [b'?', ..] => PathAndQuery::try_from([b"/", target].concat()).map_err(|_| bad("no such target"))?,
        _ => PathAndQuery::try_from(target).map_err(|_| bad("no such target"))?,
    };
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(target);
    if !from.authority.is_empty() {
        uri.authority = Some(Authority::try_from(from.authority).map_err(|_| bad("no such authority"))?);
        uri.scheme = Some(Scheme::HTTP);
        *to.version_mut() = Version::HTTP_2;
    }
    *to.uri_mut() = Uri::from_parts(uri).map_err(|_| bad("no such target"))?;
    let headers = to.headers_mut();
    headers.reserve(from.fields.list.len() + 1);
    for field in from.fields.list {
        let name = field.name;
        if hop::crosses_versions(name, &from.fields.connection) {
            let name = HeaderName::from_bytes(name).map_err(|_| bad("no such field"))?;
            headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| bad("no such field"))?);
        } else if hop::classify(name) == hop::Kind::Te && hop::te_trailers(field.value) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if let Some(length) = headers.get(CONTENT_LENGTH).cloned() {
        headers.insert(CONTENT_LENGTH, length);
    }
    Ok(to.into_parts().0)
}

/// The head of an HTTP/1 answer as HTTP/2 says it.
pub(crate) fn response(from: &head::Response<'_, '_>) -> Result<Response<()>, ProxyError> {
    let mut to = Response::new(());
    *to.version_mut() = Version::HTTP_2;
    *to.status_mut() = StatusCode::from_u16(from.status).map_err(|_| malformed())?;
    let headers = to.headers_mut();
    headers.reserve(from.fields.list.len());
    for field in from.fields.list {
        if hop::crosses_versions(field.name, &from.fields.connection) {
            let name = HeaderName::from_bytes(field.name).map_err(|_| malformed())?;
            headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| malformed())?);
        }
    }
    // Repeated but equal, or where no body can be: the codec has found what matters.
    if from.status < 200 || from.status == 204 {
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = headers.get(CONTENT_LENGTH).cloned() {
        headers.insert(CONTENT_LENGTH, length);
    }
    Ok(to)
}

/// Crumbs of a cookie become one again (RFC 9113 §8.2.3).
fn put_cookies(out: &mut BytesMut, headers: &HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    out.put_slice(b"cookie: ");
    out.put_slice(first.as_bytes());
    for crumb in crumbs {
        out.put_slice(b"; ");
        out.put_slice(crumb.as_bytes());
    }
    out.put_slice(b"\r\n");
}

fn malformed() -> ProxyError {
    ProxyError::new(Cause::UpstreamMalformed, "the answer's head cannot be said in HTTP/2")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(request: Request<()>, body: Sized) -> String {
        let mut out = BytesMut::new();
        put_request(&mut out, &request.into_parts().0, "10.0.0.1:80", body);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn authority_becomes_host_and_cookie_crumbs_become_one() {
        let request = Request::get("http://reviews/x?y=1")
            .header("cookie", "a=1")
            .header("x-b", "2")
            .header("cookie", "c=3")
            .body(())
            .unwrap();
        let text = "GET /x?y=1 HTTP/1.1\r\nhost: reviews\r\nx-b: 2\r\ncookie: a=1; c=3\r\n\r\n";
        assert_eq!(written(request, Sized::Empty), text);
    }

    #[test]
    fn a_body_without_a_length_is_sent_in_chunks() {
        let request = Request::post("http://a/").header("te", "trailers").body(()).unwrap();
        let text = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(written(request, Sized::Chunked), text);
        let request = Request::post("http://a/").header("content-length", "5").body(()).unwrap();
        assert_eq!(
            written(request, Sized::Length),
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
        );
    }

    #[test]
    fn a_request_without_authority_gets_a_host_all_the_same() {
        let request = Request::get("/").body(()).unwrap();
        assert_eq!(written(request, Sized::Empty), "GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n");
    }

    #[test]
    fn what_belonged_to_the_hop_does_not_reach_http2() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                      Transfer-Encoding: chunked\r\nX-End: 2\r\n\r\n";
        let mut room = head::room();
        let parsed = head::response(bytes, &mut room, head::Asked::default()).unwrap().unwrap();
        let response = response(&parsed).unwrap();
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers()["x-end"], "2");
    }

    #[test]
    fn no_content_has_no_length() {
        let bytes = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
        let mut room = head::room();
        let parsed = head::response(bytes, &mut room, head::Asked::default()).unwrap().unwrap();
        assert!(response(&parsed).unwrap().headers().is_empty());
    }
}
