//! What the service never read is tried again; what may have run is not.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::Trial;

use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, policy};
use crate::support::{http2, process::free_address, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("retry::a_refused_connection_is_tried_elsewhere", refused_is_tried_elsewhere),
        test("retry::one_dead_endpoint_of_two_costs_no_request", dead_endpoint_costs_nothing),
        test("retry::a_kept_connection_that_was_closed_is_replaced", kept_connection_closed),
        test("retry::a_post_that_may_have_run_is_not_sent_twice", post_is_not_sent_twice),
        test("retry::an_answer_that_never_came_on_a_new_connection_is_an_error", fresh_connection_closed),
        test("retry::a_request_that_a_dying_endpoint_left_unread_is_tried_again", left_unread),
        test("retry::refused_streams_are_tried_again", refused_streams),
        test("retry::an_application_killed_alone_costs_no_get", application_killed_alone),
        test("retry::what_may_not_run_twice_is_not_moved_by_a_word", unreached_but_not_idempotent),
        test("retry::the_request_timeout_is_kept", request_timeout),
        test("retry::the_connect_timeout_is_kept", connect_timeout),
        test("retry::without_safe_retry_there_is_none", no_safe_retry),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";

/// Asks so often over each version of HTTP, and is answered well every time.
pub fn ask_both_ways(at: std::net::SocketAddr, times: usize, of: &str) {
    let mut client = Peer::connect(at);
    for _ in 0..times {
        let (head, _) = client.exchange(GET);
        assert_eq!(head.status(), 200, "{of}: {head:?}");
    }
    http2::run(async {
        let client = http2::connect(at).await;
        for _ in 0..times {
            let answer = http2::get(&client, "/").await.unwrap();
            assert_eq!(answer.head.status, 200, "{of}: {answer:?}");
        }
    });
}

/// A sidecar before these endpoints, and its listener.
fn before_all(endpoints: &[std::net::SocketAddr], more: &str) -> (Sidecar, std::net::SocketAddr) {
    Sidecar::before_all(endpoints, "http", more, "")
}

fn refused_is_tried_elsewhere() {
    let alive = Upstream::answering("alive");
    let (sidecar, at) = before_all(&[free_address(), alive.address], "");
    for _ in 0..20 {
        let request = "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 4\r\n\r\nbody";
        let (head, body) = Peer::connect(at).exchange(request);
        assert_eq!((head.status(), body), (200, Body::Whole(b"alive".to_vec())), "{head:?}");
    }
    assert!(sidecar.metrics().sum("lighter_retries_total", &[]) >= 1.0);
}

fn dead_endpoint_costs_nothing() {
    let alive = Upstream::answering("alive");
    // It lives until it is known, and then is gone.
    let doomed = TcpListener::bind("127.0.0.1:0").unwrap();
    let (sidecar, at) = before_all(&[alive.address, doomed.local_addr().unwrap()], "");
    drop(doomed);
    let mut client = Peer::connect(at);
    for _ in 0..200 {
        let (head, _) = client.exchange(GET);
        assert_eq!(head.status(), 200, "{head:?}");
    }
    // The last one is counted right behind its answer.
    wait_until("200 requests are counted", || {
        sidecar.metrics().sum("lighter_requests_total", &[("code_class", "2xx")]) == 200.0
    });
}

/// Answers the first request of a connection, then reads the second and closes without a byte, for its first
/// connection; later ones are answered for ever.
fn closing_once() -> (Upstream, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::start(move |mut peer, connection| {
        let mut here = 0;
        while let Some(head) = peer.head() {
            peer.body(&head);
            count.fetch_add(1, Ordering::Relaxed);
            here += 1;
            if connection == 0 && here == 2 {
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    (upstream, asked)
}

fn kept_connection_closed() {
    let (upstream, asked) = closing_once();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for _ in 0..3 {
        let (head, _) = client.exchange(GET);
        assert_eq!(head.status(), 200, "{head:?}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 4, "one of three was asked twice");
}

fn post_is_not_sent_twice() {
    let (upstream, asked) = closing_once();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.exchange(GET);
    let (head, _) = client.exchange("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!((head.status(), head.cause()), (502, Some("upstream_closed")), "{head:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

fn fresh_connection_closed() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let (head, _) = Peer::connect(at).exchange(GET);
    assert_eq!((head.status(), head.cause()), (502, Some("upstream_closed")), "{head:?}");
    assert_eq!(upstream.connections(), 1);
}

fn left_unread() {
    // Closed with something unread, a socket resets its peer.
    let upstream = Upstream::start(|mut peer, connection| {
        if connection == 0 {
            peer.stream.peek(&mut [0]).unwrap();
            return;
        }
        while let Some(head) = peer.head() {
            peer.body(&head);
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let (head, _) = Peer::connect(at).exchange(GET);
    assert_eq!(head.status(), 200, "{head:?}");
    assert_eq!(upstream.connections(), 2);

    let upstream = Upstream::start(|peer, _| drop(peer.stream.peek(&mut [0])));
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let (head, _) = Peer::connect(at).exchange("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((head.status(), head.cause()), (502, Some("upstream_reset")), "{head:?}");
    assert_eq!(upstream.connections(), 1);
}

fn refused_streams() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = http2::Upstream::start(move |_, mut respond| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        async move {
            if number == 0 {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                let _ = respond.send_response(http::Response::new(()), true);
            }
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    http2::run(async {
        let client = http2::connect(at).await;
        let request = http::Request::post("http://up/").body(b"body".to_vec()).unwrap();
        let answer = http2::exchange(&client, request).await.unwrap();
        assert_eq!(answer.head.status, 200, "{answer:?}");
    });
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// The sidecar beside a dead application is well, and says what it met.
fn application_killed_alone() {
    for protocol in ["http", "http2"] {
        let (_far, far) = Sidecar::before(free_address(), protocol);
        let alive = Upstream::answering("alive");
        let alive2 = http2::Upstream::start(|_, mut respond| async move {
            let _ = respond.send_response(http::Response::new(()), true);
        });
        let alive = if protocol == "http" { alive.address } else { alive2.address };
        let (near, at) = Sidecar::before_all(&[far, alive], protocol, "", "");
        ask_both_ways(at, 10, protocol);
        let far = far.to_string();
        let failures = near.metrics().sum("lighter_endpoint_failures_total", &[("endpoint", &far)]);
        let retries = near.metrics().sum("lighter_retries_total", &[]);
        assert!(failures >= 1.0 && retries == failures, "{protocol}: {failures} failures, {retries} retries");
    }
}

/// Nothing proves that it is a sidecar that says so.
fn unreached_but_not_idempotent() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            count.fetch_add(1, Ordering::Relaxed);
            peer.send("HTTP/1.1 503 No\r\nX-Lighter-Error: connect_refused\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    let (head, _) = client.exchange("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!((head.status(), head.cause()), (503, Some("connect_refused")), "{head:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // There is nobody else to ask: asked twice, and told what was answered.
    let (head, _) = client.exchange(GET);
    assert_eq!((head.status(), head.cause()), (503, Some("connect_refused")), "{head:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    http2::run(async {
        let client = http2::connect(at).await;
        let request = http::Request::post("http://up/").body(b"body".to_vec()).unwrap();
        let answer = http2::exchange(&client, request).await.unwrap();
        assert_eq!(answer.head.status, 503, "{answer:?}");
    });
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

fn request_timeout() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        peer.rest();
    });
    let (_sidecar, at) =
        Sidecar::before_with(upstream.address, "http", &policy("up", "requestTimeout: 200ms"), "");
    let (head, _) = Peer::connect(at).exchange(GET);
    assert_eq!((head.status(), head.cause()), (504, Some("request_timeout")), "{head:?}");
    http2::run(async {
        let client = http2::connect(at).await;
        let answer = http2::get(&client, "/").await.unwrap();
        assert_eq!(answer.head.status, 504);
        assert_eq!(answer.head.headers["x-lighter-error"], "request_timeout");
    });
}

fn connect_timeout() {
    // A listener whose queue is full does not answer the next connection.
    let full = socket_with_a_full_queue();
    let (_sidecar, at) = before_all(&[full.address], &policy("up", "connectTimeout: 200ms"));
    let (head, _) = Peer::connect(at).exchange(GET);
    assert_eq!((head.status(), head.cause()), (504, Some("connect_timeout")), "{head:?}");
}

fn no_safe_retry() {
    let (upstream, _) = closing_once();
    let (_sidecar, at) =
        Sidecar::before_with(upstream.address, "http", &policy("up", "retry: {safe: false}"), "");
    let mut client = Peer::connect(at);
    client.exchange(GET);
    let (head, _) = client.exchange(GET);
    assert_eq!(head.cause(), Some("upstream_closed"), "{head:?}");
}

struct Full {
    address: std::net::SocketAddr,
    _held: (std::os::fd::OwnedFd, Vec<std::net::TcpStream>),
}

fn socket_with_a_full_queue() -> Full {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let held = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    // What was free a moment ago may be somebody's by now.
    bind(&held, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = getsockname(&held).unwrap().try_into().unwrap();
    listen(&held, 0).unwrap();
    let mut waiting = Vec::new();
    loop {
        match std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)) {
            Ok(stream) => waiting.push(stream),
            Err(_) => return Full { address, _held: (held, waiting) },
        }
    }
}
