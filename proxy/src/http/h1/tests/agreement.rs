//! hyper reads the same requests. What this codec takes, hyper takes for the same; what it refuses, hyper may take.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Message, read_all};

/// What hyper understands of the same bytes.
fn hyper_reads(bytes: &[u8]) -> Vec<Message> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            if let Ok(body) = request.into_body().collect().await {
                seen.lock().unwrap().push(Message { method, target, body: body.to_bytes().into() });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let feed = async {
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.unwrap();
        };
        let _ = tokio::join!(connection, feed);
    });
    let seen = seen.lock().unwrap();
    seen.clone()
}

fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (ours, refused) = read_all(bytes);
    let hypers = hyper_reads(bytes);
    let text = String::from_utf8_lossy(bytes);
    if refused.is_some() {
        // hyper reads on where this codec has stopped, but what both took they took for the same.
        prop_assert!(hypers.starts_with(&ours), "{text:?}\nours {ours:?}\nhyper {hypers:?}");
    } else {
        prop_assert_eq!(&ours, &hypers, "{:?}", text);
    }
    Ok(())
}

#[test]
fn valid_requests_are_read_as_hyper_reads_them() {
    let valid: &[(&str, usize)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 1),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n003;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n\
          GET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            2,
        ),
        ("GET / HTTP/1.0\r\n\r\nGET /b HTTP/1.0\r\n\r\n", 1),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n", 2),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET /a?b=c&d=%20 HTTP/1.1\r\nHost: a:8080\r\nCookie: x; y\r\nX-Empty:\r\n\r\n", 1),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("DELETE / HTTP/1.1\r\nhOST:   a  \r\nX-Obs: \u{e9}\r\n\r\n", 1),
        ("PURGE /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345", 1),
    ];
    for (text, count) in valid {
        let (ours, refused) = read_all(text.as_bytes());
        assert_eq!((ours.len(), refused), (*count, None), "{text:?}");
        assert_eq!(ours, hyper_reads(text.as_bytes()), "{text:?}");
    }
}

/// A line that is fine, or one of those that two implementations read in two ways.
fn line() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "Host: a\r\n",
        "Host: a\r\n",
        "Host: a\r\n",
        "Host: b\r\n",
        "Host: a\n",
        "Host : a\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 4\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 03\r\n",
        "Content-Length: 3 \r\n",
        "content-length:3\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: Content-Length\r\n",
        "X: y\r\n z\r\n",
        "X: y\rz\r\n",
        "X: y\r\n",
        "X:\r\n",
        "X: \u{e9}\r\n",
        "Expect: 100-continue\r\n",
        ": y\r\n",
        "X\r\n",
        " X: y\r\n",
    ])
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nT: v\r\n\r\n",
        "0\r\nT: v\n\r\n",
        "0;a\r\n\r\n",
        "0 \r\n\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "0\r\n",
        "\r\n",
        "\n",
        "GET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /old HTTP/1.0\r\n\r\n",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn what_is_taken_is_taken_for_what_hyper_takes_it_for(
        first in prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "POST / HTTP/1.0\r\n", "POST /  HTTP/1.1\r\n", "POST / HTTP/1.1\n",
            "POST http://a/ HTTP/1.1\r\n", "POST / HTTP/1.2\r\n", "\r\nPOST / HTTP/1.1\r\n", "P@ST / HTTP/1.1\r\n",
        ]),
        lines in prop::collection::vec(line(), 0..5),
        pieces in prop::collection::vec(piece(), 0..5),
    ) {
        let text = format!("{first}{}\r\n{}", lines.concat(), pieces.concat());
        agrees(text.as_bytes())?;
    }
}
