//! Clients that are slow to send a head or a body, or to take an answer.

use std::io::Read;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::http2::{frame, literals};
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, policy};
use crate::support::{http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("slow::a_head_that_trickles_in_is_refused", slow_head),
        test("slow::a_body_that_trickles_in_is_refused", slow_body),
        test("slow::a_body_that_trickles_in_behind_its_answer_leaves_that_as_it_is", late_body),
        test("slow::a_client_that_takes_no_answer_is_cut", slow_reader),
        test("slow::a_client_that_waits_for_the_service_is_not_slow", slow_service),
        test("slow::limits_hold_in_http_2", in_http_2),
        test("slow::limits_hold_from_http_1_to_http_2", from_http_1_to_http_2),
    ]
}

/// Limits that a test can wait for.
const SHORT: &str = "guard: {headTimeout: 300ms, clientTimeout: 400ms}\n";

/// An answer that fits into no socket.
const LARGE: usize = 32 << 20;

fn counted(sidecar: &Sidecar, with: &str) -> f64 {
    sidecar.metrics().sum("lighter_slow_clients_total", &[("with", with)])
}

fn failed(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_requests_total", &[("cause", "client_timeout")])
}

/// Sends `text` a byte at a time until it is sent or the other side wants no more.
fn trickle(client: &mut Peer, text: &str, pause: Duration) {
    for byte in text.bytes() {
        if !client.try_send([byte]) {
            return;
        }
        std::thread::sleep(pause);
    }
}

fn slow_head() {
    let upstream = Upstream::answering("there");
    let head = "GET /some/path HTTP/1.1\r\nHost: up\r\nX-A: 0123456789\r\n\r\n";
    let pause = Duration::from_millis(12);
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", SHORT);
    let mut client = Peer::connect(at);
    trickle(&mut client, &head[..40], pause);
    let answer = client.expect_head();
    assert_eq!((answer.status(), answer.cause()), (408, Some("client_timeout")));
    wait_until("it is counted", || counted(&sidecar, "head") == 1.0 && failed(&sidecar) == 1.0);
    assert_eq!(upstream.received(), "");
    // Its kept connections have the same time, and each head its own.
    let mut client = Peer::connect(at);
    for _ in 0..4 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n").0.status(), 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    // Without those limits there is time enough.
    let (patient, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    trickle(&mut client, head, pause);
    assert_eq!(client.expect_head().status(), 200);
    assert_eq!(counted(&patient, "head"), 0.0);
}

fn slow_body() {
    let upstream = Upstream::answering("there");
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", SHORT);
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 1000\r\n\r\n");
    trickle(&mut client, &"x".repeat(40), Duration::from_millis(50));
    let answer = client.expect_head();
    assert_eq!((answer.status(), answer.cause()), (408, Some("client_timeout")));
    wait_until("it is counted", || counted(&sidecar, "body") == 1.0 && failed(&sidecar) == 1.0);
    // What has no length may be a stream, and rests as long as it likes.
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    std::thread::sleep(Duration::from_millis(1300));
    client.send("0\r\n\r\n");
    assert_eq!(client.expect_head().status(), 200);
    // A rate that is asked for decides: the same client is fast enough here.
    let own = "guard: {clientTimeout: 800ms, minBytesPerSecond: 1}\n";
    let (patient, at) = Sidecar::before_with(upstream.address, "http", "", own);
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 30\r\n\r\n");
    trickle(&mut client, &"x".repeat(30), Duration::from_millis(50));
    assert_eq!(client.expect_head().status(), 200);
    assert_eq!(counted(&patient, "body"), 0.0);
}

fn late_body() {
    // It waits for no body before it answers, and stays.
    let upstream = Upstream::start(|mut peer, _| {
        if peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere");
            let _ = peer.stream.read_to_end(&mut Vec::new());
        }
    });
    let more = policy("up", "idleTimeout: 500ms");
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", &more, SHORT);
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 1000\r\n\r\nx");
    assert_eq!(client.expect_head().status(), 200);
    trickle(&mut client, &"x".repeat(40), Duration::from_millis(50));
    wait_until("it is counted", || counted(&sidecar, "body") == 1.0);
    let answered = || sidecar.metrics().sum("lighter_requests_total", &[("code_class", "2xx")]);
    wait_until("its answer is", || answered() == 1.0);
    assert_eq!(failed(&sidecar), 0.0);
}

/// Sends more than a socket takes.
fn endless() -> Upstream {
    Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            for _ in 0..LARGE / 65536 {
                if !peer.try_send([b'x'; 65536]) {
                    return;
                }
            }
        }
    })
}

fn slow_reader() {
    let upstream = endless();
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", SHORT);
    let mut client = Peer::connect(at);
    client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    wait_until("it is given up", || counted(&sidecar, "answer") == 1.0 && failed(&sidecar) == 1.0);
    let mut rest = Vec::new();
    let end = client.stream.read_to_end(&mut rest);
    assert!(end.is_err() && rest.len() < LARGE, "a cut is no clean end: {end:?}");
    // One that takes its time has it where there is time.
    let (patient, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    std::thread::sleep(Duration::from_millis(1300));
    client.expect_head();
    assert_eq!(client.skip(LARGE as u64), LARGE as u64);
    assert_eq!(counted(&patient, "answer"), 0.0);
}

fn slow_service() {
    let upstream = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            let Body::Whole(_) = peer.body(&head) else { return };
            std::thread::sleep(Duration::from_millis(1300));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
            std::thread::sleep(Duration::from_millis(1300));
            peer.send("b");
        }
    });
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", SHORT);
    let mut client = Peer::connect(at);
    let asked = "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 5\r\n\r\nhello";
    let (head, body) = client.exchange(asked);
    assert_eq!((head.status(), body), (200, Body::Whole(b"ab".to_vec())));
    assert_eq!(failed(&sidecar), 0.0);
}

/// Frames of a request, from the connection's beginning.
fn request(flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let plain = [(":method", "POST"), (":scheme", "http"), (":authority", "up"), (":path", "/1")];
    let fields: Vec<_> = plain.iter().chain(more).copied().collect();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, flags, 1, &literals(&fields)),
    ]
    .concat()
}

fn in_http_2() {
    let upstream = endless();
    for protocol in ["http", "http2"] {
        let echo = http2::Upstream::echo();
        let to = if protocol == "http" { upstream.address } else { echo.address };
        let (sidecar, at) = Sidecar::before_with(to, protocol, "", SHORT);
        // Without END_HEADERS, more has to come.
        let mut client = Peer::connect(at);
        client.send(request(0, &[]));
        client.rest();
        wait_until("the head is given up", || counted(&sidecar, "head") == 1.0);
        // A body of which most is missing.
        let mut client = Peer::connect(at);
        client.send(request(4, &[("content-length", "1000")])).send(frame(0, 0, 1, b"body"));
        wait_until("the body is given up", || counted(&sidecar, "body") == 1.0);
        assert_eq!(failed(&sidecar), 1.0);
        // One whose length is not said is waited for.
        let mut client = Peer::connect(at);
        client.send(request(4, &[])).send(frame(0, 0, 1, b"body"));
        std::thread::sleep(Duration::from_millis(1300));
        assert_eq!(counted(&sidecar, "body"), 1.0);
    }
    // A window that is never opened, and a socket that is never read.
    for window in [0u32, 1 << 30] {
        let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", SHORT);
        let mut client = Peer::connect(at);
        let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(4, 0, 0, &setting));
        client.send(frame(8, 0, 0, &(1u32 << 30).to_be_bytes()));
        let get = [(":method", "GET"), (":scheme", "http"), (":authority", "up"), (":path", "/")];
        client.send(frame(1, 5, 1, &literals(&get)));
        wait_until("the reader is given up", || counted(&sidecar, "answer") >= 1.0);
    }
}

fn from_http_1_to_http_2() {
    let upstream = http2::Upstream::start(|_, mut respond| async move {
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        body.reserve_capacity(LARGE);
        let mut left = LARGE;
        while left > 0 {
            let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else { return };
            left -= room.min(left);
            if body.send_data(vec![b'x'; room].into(), left == 0).is_err() {
                return;
            }
        }
    });
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http2", "", SHORT);
    let mut client = Peer::connect(at);
    client.send("GET / HTTP/1.1\r\nHost:");
    let answer = client.expect_head();
    assert_eq!((answer.status(), answer.cause()), (408, Some("client_timeout")));
    assert_eq!(counted(&sidecar, "head"), 1.0);
    let mut client = Peer::connect(at);
    client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    wait_until("the reader is given up", || counted(&sidecar, "answer") == 1.0 && failed(&sidecar) == 1.0);
    client.expect_head();
    let echo = http2::Upstream::echo();
    let (sidecar, at) = Sidecar::before_with(echo.address, "http2", "", SHORT);
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 1000\r\n\r\nx");
    let answer = client.expect_head();
    assert_eq!((answer.status(), answer.cause()), (408, Some("client_timeout")));
    assert_eq!((counted(&sidecar, "body"), failed(&sidecar)), (1.0, 1.0));
}
