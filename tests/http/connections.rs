//! One connection's life: kept, pipelined, upgraded, closed.

use std::sync::mpsc;

use libtest_mimic::Trial;

use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("connections::both_sides_are_kept", both_sides_are_kept),
        test(
            "connections::pipelined_requests_are_answered_in_order",
            pipelined_requests_are_answered_in_order,
        ),
        test("connections::interim_answers_pass", interim_answers_pass),
        test("connections::expect_continue_reaches_the_service_before_the_body", expect_continue),
        test("connections::an_early_answer_passes_before_the_body_is_read", early_answer),
        test("connections::upgrade_becomes_a_tunnel_with_half_close", upgrade),
        test("connections::a_refused_upgrade_is_an_answer", refused_upgrade),
        test("connections::http_1_0_ends_with_its_answer", http_1_0),
        test("connections::http_1_0_keep_alive_is_kept", http_1_0_keep_alive),
        test("connections::close_is_honoured_on_each_side_alone", close_is_honoured),
        test("connections::header_case_and_order_pass", header_case_and_order_pass),
        test("connections::hop_by_hop_fields_stay_on_their_hop", hop_by_hop),
        test("connections::head_has_no_body", head_has_no_body),
        test("connections::answers_without_body_keep_the_connection", bodiless_answers),
        test("connections::trailers_pass", trailers_pass),
    ]
}

fn both_sides_are_kept() {
    let upstream = Upstream::answering("hello");
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for number in 0..100 {
        let (head, body) = client.exchange(format!("GET /{number} HTTP/1.1\r\nHost: up\r\n\r\n"));
        assert_eq!(head.status(), 200);
        assert_eq!(body, Body::Whole(b"hello".to_vec()));
    }
    assert_eq!(upstream.connections(), 1, "a hundred requests one after another need one connection");
}

fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            let body = head.target().to_owned();
            peer.body(&head);
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    let mut all = String::new();
    for number in 0..20 {
        all += &match number % 2 {
            0 => format!("GET /{number} HTTP/1.1\r\nHost: up\r\n\r\n"),
            _ => format!("POST /{number} HTTP/1.1\r\nHost: up\r\nContent-Length: 5\r\n\r\nabcde"),
        };
    }
    client.send(all);
    for number in 0..20 {
        let head = client.expect_head();
        assert_eq!(client.body(&head), Body::Whole(format!("/{number}").into_bytes()));
    }
}

fn interim_answers_pass() {
    let upstream = Upstream::start(|mut peer, _| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
        let early = client.expect_head();
        assert_eq!(early.status(), 103);
        assert_eq!(early.get("link"), Some("</a.css>; rel=preload"));
        let head = client.expect_head();
        assert_eq!(head.status(), 200);
        assert_eq!(client.body(&head), Body::Whole(b"ok".to_vec()));
    }
}

fn expect_continue() {
    let upstream = Upstream::start(|mut peer, _| {
        let head = peer.head().unwrap();
        assert!(head.has("expect", "100-continue"));
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(peer.body(&head), Body::Whole(b"body!".to_vec()));
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("PUT / HTTP/1.1\r\nHost: up\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.expect_head().status(), 100);
    client.send("body!");
    assert_eq!(client.expect_head().status(), 200);
}

fn early_answer() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        peer.finish();
        peer.rest();
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 1000000000\r\n\r\nfirst part");
    let head = client.expect_head();
    assert_eq!(head.status(), 413);
    assert_eq!(client.body(&head), Body::Whole(b"big".to_vec()));
}

fn upgrade() {
    let upstream = Upstream::start(|mut peer, _| {
        let head = peer.head().unwrap();
        assert!(head.has("upgrade", "echo") && head.has("connection", "upgrade"), "{head:?}");
        // What follows the answer at once belongs to the tunnel.
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirst");
        let all = peer.rest();
        peer.send(all);
        peer.send("last");
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("GET /chat HTTP/1.1\r\nHost: up\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
    let head = client.expect_head();
    assert_eq!(head.status(), 101);
    assert!(head.has("upgrade", "echo") && head.has("connection", "upgrade"), "{head:?}");
    assert_eq!(client.bytes(5), b"first");
    client.send("not HTTP\r\n\r\nat all");
    client.finish();
    assert_eq!(client.rest(), b"not HTTP\r\n\r\nat alllast");
}

fn refused_upgrade() {
    let upstream = Upstream::answering("plain");
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for _ in 0..2 {
        let (head, body) = client
            .exchange("GET / HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!((head.status(), body), (200, Body::Whole(b"plain".to_vec())));
    }
}

fn http_1_0() {
    let upstream = Upstream::answering("hello");
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    let (head, body) = client.exchange("GET / HTTP/1.0\r\nHost: up\r\n\r\n");
    assert_eq!((head.status(), body), (200, Body::Whole(b"hello".to_vec())));
    assert!(client.head().is_none(), "the connection ends behind the answer");
    assert!(!upstream.received().to_ascii_lowercase().contains("transfer-encoding"));
}

fn http_1_0_keep_alive() {
    // A chunked answer cannot be passed to a caller of HTTP/1.0: its end is the connection's end.
    let upstream = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            if head.target() == "/chunked" {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
            } else {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for _ in 0..2 {
        let (head, body) = client.exchange("GET / HTTP/1.0\r\nHost: up\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((head.status(), body), (200, Body::Whole(b"ok".to_vec())));
        assert!(head.has("connection", "keep-alive"), "{head:?}");
    }
    client.send("GET /chunked HTTP/1.0\r\nHost: up\r\nConnection: keep-alive\r\n\r\n");
    let head = client.expect_head();
    assert!(head.get("transfer-encoding").is_none(), "{head:?}");
    assert_eq!(client.rest(), b"abc");
}

fn close_is_honoured() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n1");
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for _ in 0..3 {
        let (head, _) = client.exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
        assert!(!head.has("connection", "close"), "the service's close is the other hop's: {head:?}");
    }
    assert_eq!(upstream.connections(), 3);
    let (head, _) = client.exchange("GET / HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n");
    assert!(head.has("connection", "close"), "{head:?}");
    assert!(client.head().is_none());
}

fn header_case_and_order_pass() {
    let upstream = Upstream::start(|mut peer, _| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nX-OdD-Case: Yes\r\nContent-Length: 0\r\nx-2: b\r\nx-2: a\r\n\r\n");
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("GET /a%2Fb?q=%20 HTTP/1.1\r\nHOST: up\r\nX-MiXeD: 1\r\nx-2: second\r\nx-2: first\r\n\r\n");
    let answer = client.expect_head();
    let names: Vec<&str> = answer.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"X-OdD-Case"), "{names:?}");
    assert_eq!(answer.all("x-2").collect::<Vec<_>>(), ["b", "a"]);
    let received = upstream.received();
    assert!(received.starts_with("GET /a%2Fb?q=%20 HTTP/1.1\r\n"), "{received}");
    assert!(received.contains("\r\nX-MiXeD: 1\r\n"), "{received}");
    assert!(received.find("x-2: second").unwrap() < received.find("x-2: first").unwrap());
}

fn hop_by_hop() {
    let upstream = Upstream::start(|mut peer, _| {
        while peer.head().is_some() {
            peer.send(
                "HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
                 X-Open: 1\r\nContent-Length: 0\r\n\r\n",
            );
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    let (answer, _) = client.exchange(
        "GET / HTTP/1.1\r\nHost: up\r\nConnection: x-private, keep-alive\r\nX-Private: 1\r\nX-Public: 1\r\n\
         Keep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nx-lighter-hint: 1\r\n\
         TE: trailers\r\n\r\n",
    );
    for gone in ["x-secret", "keep-alive"] {
        assert!(answer.get(gone).is_none(), "{gone} of the answer stays on its hop");
    }
    assert!(answer.get("x-open").is_some());
    let received = upstream.received().to_ascii_lowercase();
    for gone in ["x-private", "keep-alive:", "proxy-connection", "x-lighter-"] {
        assert!(!received.contains(gone), "{gone} of the request stays on its hop: {received}");
    }
    assert!(received.contains("x-public: 1"));
    assert!(received.contains("x-request-id: "), "a request without a name gets one");
}

fn head_has_no_body() {
    let upstream = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            let body = if head.line.starts_with("HEAD") { "" } else { "12345" };
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}"));
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: up\r\n\r\n");
        assert_eq!(client.expect_head().get("content-length"), Some("5"));
        let (_, body) = client.exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
        assert_eq!(body, Body::Whole(b"12345".to_vec()));
    }
}

fn bodiless_answers() {
    let upstream = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            match head.target() {
                "/204" => peer.send("HTTP/1.1 204 No Content\r\n\r\n"),
                "/304" => peer.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n"),
                _ => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            };
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    for (path, status) in [("/204", 204), ("/304", 304), ("/", 200), ("/204", 204)] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: up\r\n\r\n"));
        assert_eq!(client.expect_head().status(), status);
    }
    assert_eq!(upstream.connections(), 1);
}

fn trailers_pass() {
    let (told, tell) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            assert!(head.has("transfer-encoding", "chunked"));
            let mut lines = Vec::new();
            while let Some(line) = peer.line() {
                lines.push(line);
                if lines.last().is_some_and(String::is_empty) {
                    break;
                }
            }
            told.lock().unwrap().send(lines).unwrap();
            peer.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
            );
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send(
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Check\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n",
    );
    let head = client.expect_head();
    assert!(head.has("transfer-encoding", "chunked"));
    let lines: Vec<String> =
        std::iter::from_fn(|| client.line()).take_while(|line| !line.is_empty()).collect();
    assert!(lines.iter().any(|line| line == "X-Sum: 42"), "{lines:?}");
    let lines = tell.recv().unwrap();
    assert!(lines.iter().any(|line| line == "X-Check: 7"), "{lines:?}");
}
