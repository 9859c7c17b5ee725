//! A body that was cut never ends as a whole one, in any direction, for any reader.

use std::sync::Arc;

use libtest_mimic::Trial;
use tokio::sync::Notify;

use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("truncation::of_a_measured_answer_is_seen_by_http_1", measured_answer_http_1),
        test("truncation::of_a_chunked_answer_is_seen_by_http_1", chunked_answer_http_1),
        test("truncation::by_reset_of_an_answer_without_length_is_seen_by_http_1", unmeasured_answer_http_1),
        test("truncation::an_answer_without_length_that_ends_well_is_whole", unmeasured_answer_is_whole),
        test("truncation::of_a_measured_answer_is_seen_by_http_2", measured_answer_http_2),
        test("truncation::of_a_chunked_answer_is_seen_by_http_2", chunked_answer_http_2),
        test("truncation::between_http_2_peers_is_seen", between_http_2_peers),
        test("truncation::by_an_http_2_service_is_seen_by_http_1", http_2_service_http_1_caller),
        test("truncation::of_a_measured_request_is_seen_by_the_service", measured_request),
        test("truncation::of_a_chunked_request_is_seen_by_the_service", chunked_request),
        test("truncation::by_an_http_2_caller_is_seen_by_the_service", http_2_request),
        test("truncation::is_counted_by_its_cause", counted),
    ]
}

const MEASURED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n";

/// Sends `answer` to whatever is asked, and ends the connection.
fn cutting(answer: &'static str) -> Upstream {
    Upstream::start(move |mut peer, _| {
        peer.head();
        peer.send(answer);
    })
}

fn http_1_sees_a_cut(answer: &'static str) {
    let upstream = cutting(answer);
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    let (head, body) = client.exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    assert_eq!(head.status(), 200);
    assert_eq!(body, Body::Cut(b"only this".to_vec()));
    assert!(client.head().is_none(), "a connection with half an answer in it is not used again");
}

fn measured_answer_http_1() {
    http_1_sees_a_cut(MEASURED);
}

fn chunked_answer_http_1() {
    http_1_sees_a_cut(CHUNKED);
}

fn unmeasured_answer_http_1() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\n\r\nonly this");
        // The caller has the first part before the reset can overtake it.
        peer.bytes(1);
        peer.reset();
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 2\r\n\r\n");
    let head = client.expect_head();
    if head.has("transfer-encoding", "chunked") {
        assert_eq!(client.line().as_deref(), Some("9"));
        assert_eq!(client.bytes(11), b"only this\r\n");
        client.send("!");
        assert_eq!(client.line(), None, "no last chunk behind a reset");
    } else {
        assert_eq!(client.bytes(9), b"only this");
        client.send("!");
        let mut rest = [0; 16];
        let end = std::io::Read::read(&mut client.stream, &mut rest);
        assert!(end.is_err(), "a body without length ends with a reset where it was cut: {end:?}");
    }
}

fn unmeasured_answer_is_whole() {
    let upstream = cutting("HTTP/1.1 200 OK\r\n\r\nall there is");
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let (_, body) = Peer::connect(at).exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    assert_eq!(body, Body::Whole(b"all there is".to_vec()));
    let answer = http2::run(async {
        let client = http2::connect(at).await;
        http2::get(&client, "/").await.unwrap()
    });
    assert_eq!((answer.body.as_slice(), answer.cut), (&b"all there is"[..], None));
}

fn http_2_sees_a_cut(answer: &'static str) {
    let upstream = cutting(answer);
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    http2::run(async {
        let client = http2::connect(at).await;
        // Twice: the connection outlives the stream.
        for path in ["/", "/again"] {
            match http2::get(&client, path).await {
                // The reset may overtake what was still to be sent.
                Err(error) => assert!(error.is_reset(), "only the stream is reset: {error}"),
                Ok(answer) => assert!(answer.cut.is_some(), "the stream is reset, not ended: {answer:?}"),
            }
        }
    });
}

fn measured_answer_http_2() {
    http_2_sees_a_cut(MEASURED);
}

fn chunked_answer_http_2() {
    http_2_sees_a_cut(CHUNKED);
}

/// Sends part of a body over HTTP/2, and resets the stream once it is told that this has arrived: a reset may overtake
/// what was sent before it.
fn resetting() -> (http2::Upstream, Arc<Notify>) {
    let arrived = Arc::new(Notify::new());
    let told = arrived.clone();
    let upstream = http2::Upstream::start(move |_request, mut respond| {
        let told = told.clone();
        async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data("only this".into(), false).unwrap();
            told.notified().await;
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    });
    (upstream, arrived)
}

fn between_http_2_peers() {
    let (upstream, arrived) = resetting();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    http2::run(async {
        let mut client = http2::connect(at).await.ready().await.unwrap();
        let request = http::Request::get("http://up/").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "only this");
        arrived.notify_one();
        let cut = body.data().await;
        assert!(matches!(&cut, Some(Err(error)) if error.is_reset()), "{cut:?}");
    });
}

fn http_2_service_http_1_caller() {
    let (upstream, arrived) = resetting();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    let mut client = Peer::connect(at);
    client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    let head = client.expect_head();
    assert_eq!((head.status(), head.has("transfer-encoding", "chunked")), (200, true), "{head:?}");
    assert_eq!(client.line().as_deref(), Some("9"));
    assert_eq!(client.bytes(11), b"only this\r\n");
    arrived.notify_one();
    assert_eq!(client.line(), None, "no last chunk behind a reset");
}

/// A service that tells how the first request's body ended.
fn judging() -> (Upstream, std::sync::mpsc::Receiver<Body>) {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let upstream = Upstream::start(move |mut peer, _| {
        if let Some(head) = peer.head() {
            let body = peer.body(&head);
            let _ = tell.lock().unwrap().send(body);
        }
    });
    (upstream, told)
}

fn service_sees_a_cut(request: &str) {
    let (upstream, told) = judging();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send(request);
    wait_until("the first part is through", || upstream.received().contains("only this"));
    client.stream.shutdown(std::net::Shutdown::Both).unwrap();
    drop(client);
    assert_eq!(told.recv_timeout(crate::support::PATIENCE).unwrap(), Body::Cut(b"only this".to_vec()));
}

fn measured_request() {
    service_sees_a_cut("PUT / HTTP/1.1\r\nHost: up\r\nContent-Length: 1000\r\n\r\nonly this");
}

fn chunked_request() {
    service_sees_a_cut("PUT / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n");
}

fn http_2_request() {
    let (upstream, told) = judging();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let seen = upstream.seen.clone();
    http2::run(async {
        let client = http2::connect(at).await;
        let mut client = client.ready().await.unwrap();
        let request = http::Request::put("http://up/").body(()).unwrap();
        let (_answer, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data("only this".into(), false).unwrap();
        while !seen.lock().unwrap().iter().any(|all| String::from_utf8_lossy(all).contains("only this")) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        stream.send_reset(h2::Reason::CANCEL);
        // The reset is on its way only while the connection is driven.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    });
    assert_eq!(told.recv_timeout(crate::support::PATIENCE).unwrap(), Body::Cut(b"only this".to_vec()));
}

fn counted() {
    let upstream = cutting(MEASURED);
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    Peer::connect(at).exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    wait_until("the cut is counted", || {
        sidecar.metrics().sum("lighter_requests_total", &[("cause", "upstream_truncated")]) == 1.0
    });
}
