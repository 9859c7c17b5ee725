//! Requests that hide another one. None of them may be read to its end.

use super::read_all;
use crate::error::Cause;

/// What an attacker wants to be taken for a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// Fields between a request line with `Host` and the empty line, and what stands before the hidden request.
const FIELDS: &[(&str, &str)] = &[
    ("Content-Length: 0\r\nContent-Length: 37\r\n", ""),
    ("Content-Length: 37\r\nContent-Length: 0\r\n", ""),
    ("Content-Length: 0\r\nContent-Length: 0\r\n", ""),
    ("Content-Length: 0, 37\r\n", ""),
    ("Content-Length: 0,0\r\n", ""),
    ("Content-Length: +0\r\n", ""),
    ("Content-Length: -0\r\n", ""),
    ("Content-Length: 0x25\r\n", ""),
    ("Content-Length: 0 37\r\n", ""),
    ("Content-Length: 0\u{b}\r\n", ""),
    ("Content-Length: 00000000000000000000\r\n", ""),
    ("Content-Length: 18446744073709551616\r\n", ""),
    ("Content-Length: \"0\"\r\n", ""),
    ("Content-Length: 0;\r\n", ""),
    ("Content-Length: ٣\r\n", ""),
    ("Content-Length:\r\n", ""),
    ("Content-Length : 37\r\n", ""),
    ("Content-Length\t: 37\r\n", ""),
    (" Content-Length: 37\r\n", ""),
    ("X: y\r\n Content-Length: 37\r\n", ""),
    ("X: y\r\n\tContent-Length: 37\r\n", ""),
    ("X: y\nContent-Length: 37\r\n", ""),
    ("X: y\rContent-Length: 37\r\n", ""),
    ("X: y\r\r\nContent-Length: 37\r\n", ""),
    ("X: y\0Content-Length: 37\r\n", ""),
    ("Content_Length : 37\r\n", ""),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: , chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunkedx\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\u{c}\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding:\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    ("\u{b}Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Connection: Content-Length\r\nContent-Length: 37\r\n", ""),
    ("Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Connection: Host\r\n", ""),
    ("Host: b\r\n", ""),
    ("Host: a\r\n", ""),
    ("Expect: 100-continue, x\r\n", ""),
    ("Transfer-Encoding: chunked\r\n", "0\n\n"),
    ("Transfer-Encoding: chunked\r\n", "0\r\n\n"),
    ("Transfer-Encoding: chunked\r\n", "0 \r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0\r\nX: y\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0;a=b\nX: y\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "2\r\nab0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "2\r\nab\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "-0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length : 5\r\n\r\n"),
];

/// Whole requests whose first line or Host is the trick.
const WHOLE: &[&str] = &[
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
    "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\n",
    "GET / HTTP/1.1\rHost: a\r\n\r\n",
    "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "GET / http/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/11\r\nHost: a\r\n\r\n",
    "GET /\r\nHost: a\r\n\r\n",
    "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

#[test]
fn no_request_hides_another() {
    for (fields, before) in FIELDS {
        for hidden in ["", HIDDEN] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{before}{hidden}");
            let (read, refused) = read_all(text.as_bytes());
            assert!(read.is_empty(), "{text:?}: {read:?}");
            if !hidden.is_empty() {
                let refused = refused.unwrap_or_else(|| panic!("waits for more: {text:?}"));
                assert!(
                    matches!(refused.cause, Cause::AmbiguousMessage | Cause::BadRequest | Cause::Unsupported),
                    "{text:?}: {refused:?}"
                );
            }
        }
    }
}

#[test]
fn no_request_line_or_host_says_two_things() {
    for text in WHOLE {
        let text = format!("{text}{HIDDEN}");
        let (read, refused) = read_all(text.as_bytes());
        assert!(read.is_empty() && refused.is_some(), "{text:?}: {read:?}");
    }
}
