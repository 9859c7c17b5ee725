//! The head of an HTTP/1 CONNECT request.

use super::Parsed;
use super::ask::{Ask, Host};
use crate::error::{Cause, ProxyError};
use crate::http::local::ErrorAnswer;

/// Largest head of a CONNECT request: it says little.
pub(super) const MOST_BYTES: usize = 8 * 1024;

const METHOD: &[u8] = b"CONNECT ";

/// Whether these bytes begin a CONNECT request.
pub(super) fn is_connect(prefix: &[u8]) -> bool {
    skip_blank(prefix).starts_with(METHOD)
}

/// Whether these bytes are too few to tell.
pub(super) fn may_become_connect(prefix: &[u8]) -> bool {
    METHOD.starts_with(skip_blank(prefix)) && prefix.len() < METHOD.len() + 2
}

/// Reads the head of a CONNECT request.
pub(crate) fn parse(prefix: &[u8]) -> Parsed<Ask> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let bytes = match request.parse(prefix) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if prefix.len() < MOST_BYTES => return Parsed::More,
        Ok(httparse::Status::Partial) => return bad(Cause::HeadTooLarge, "the head is too large"),
        Err(_) => return bad(Cause::BadRequest, "the request is not valid HTTP"),
    };
    // A tunnel begins right behind the head: with content announced, two readers could see it begin elsewhere.
    let announces = |name: &str| request.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
    if announces("transfer-encoding") || announces("content-length") {
        return bad(Cause::AmbiguousMessage, "CONNECT with content");
    }
    match (request.method, request.path.and_then(authority)) {
        (Some("CONNECT"), Some(ask)) => Parsed::Whole(ask, bytes),
        _ => bad(Cause::BadRequest, "CONNECT needs a host and a port"),
    }
}

/// `host:port`, both needed (RFC 9112 §3.2.3).
fn authority(text: &str) -> Option<Ask> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { port.parse().ok().filter(|port| *port != 0)? } else { return None };
    Some(Ask { host: Host::parse(host)?, port })
}

/// RFC 9112 §2.2: an empty line before the request is ignored.
fn skip_blank(prefix: &[u8]) -> &[u8] {
    prefix.strip_prefix(b"\r\n").or_else(|| prefix.strip_prefix(b"\r")).unwrap_or(prefix)
}

fn bad(cause: Cause, detail: &'static str) -> Parsed<Ask> {
    Parsed::Bad(ErrorAnswer::of(&ProxyError::new(cause, detail), false).http1(false, true))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(host: &str, port: u16) -> Ask {
        Ask { host: Host::parse(host).unwrap(), port }
    }

    #[test]
    fn host_and_port_are_read() {
        for (target, ask) in [
            ("reviews:80", name("reviews", 80)),
            ("Reviews.Default.svc:9080", name("reviews.default.svc", 9080)),
            ("127.0.0.1:1", Ask { host: Host::Address([127, 0, 0, 1].into()), port: 1 }),
            ("[fd00::1]:443", Ask { host: Host::Address("fd00::1".parse().unwrap()), port: 443 }),
        ] {
            let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            assert_eq!(parse(format!("{head}beyond").as_bytes()), Parsed::Whole(ask, head.len()));
        }
    }

    #[test]
    fn faulty_requests_are_answered_with_what_is_wrong() {
        for (target, fields) in [
            ("reviews", ""),
            ("reviews:", ""),
            ("reviews:0", ""),
            ("reviews:+80", ""),
            ("reviews:65536", ""),
            ("a b:80", ""),
            ("user@reviews:80", ""),
            ("[::1:80", ""),
            ("reviews:80", "Content-Length: 3\r\n"),
            ("reviews:80", "Transfer-Encoding: chunked\r\n"),
        ] {
            let head = format!("CONNECT {target} HTTP/1.1\r\n{fields}\r\n");
            let Parsed::Bad(answer) = parse(head.as_bytes()) else { panic!("{target} was taken") };
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{target}");
        }
        let long = [b"CONNECT a:1 HTTP/1.1\r\nx: ".to_vec(), vec![b'y'; MOST_BYTES]].concat();
        let Parsed::Bad(answer) = parse(&long) else { panic!("a head without end was taken") };
        assert!(answer.starts_with(b"HTTP/1.1 431 "));
    }

    #[test]
    fn other_requests_are_not_connect() {
        for (bytes, is, may) in [
            (&b"CONNECT a"[..], true, false),
            (b"\r\nCONNECT a", true, false),
            (b"CONN", false, true),
            (b"\r", false, true),
            (b"CONFUSE", false, false),
            (b"GET http", false, false),
        ] {
            assert_eq!((is_connect(bytes), may_become_connect(bytes)), (is, may), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn segmentation_changes_nothing(host in "[a-z]{1,9}", port in 1u16.., junk in "[ -~]{0,20}") {
            let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nx: {junk}\r\n\r\n");
            for upto in 0..head.len() {
                prop_assert_eq!(parse(&head.as_bytes()[..upto]), Parsed::More);
            }
            prop_assert_eq!(parse(head.as_bytes()), Parsed::Whole(name(&host, port), head.len()));
        }
    }
}
