//! Request smuggling, judged by what a raw upstream receives: what can be read in two ways reaches nobody.

use libtest_mimic::Trial;

use crate::support::http2::{frame, literals};
use crate::support::process::free_address;
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::{Sidecar, service};
use crate::support::smuggling::reach_nobody;
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("smuggling::ambiguous_requests_reach_nobody", ambiguous_requests_reach_nobody),
        test("smuggling::ambiguous_requests_pass_no_pair", ambiguous_requests_pass_no_pair),
        test("smuggling::what_is_read_one_way_is_passed_one_way", passed_in_one_reading),
        test("smuggling::refusals_are_counted", refusals_are_counted),
        test("smuggling::ambiguous_answers_reach_nobody", ambiguous_answers),
        test("smuggling::http_2_requests_cannot_break_out_of_their_lines", http_2_requests),
        test("smuggling::an_answer_before_its_question_is_not_used", answer_before_question),
    ]
}

fn ambiguous_requests_reach_nobody() {
    let upstream = Upstream::answering("reached");
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    reach_nobody("up", at, &upstream);
}

fn ambiguous_requests_pass_no_pair() {
    let upstream = Upstream::answering("reached");
    let listen = free_address();
    let resources = service("up", "http", &[listen]);
    let inbound = format!(
        "service: up\nworkers: 1\ninbound: [{{listen: '{listen}', app: '{}', port: 80}}]\n",
        upstream.address
    );
    let _callee = Sidecar::start(&resources, &inbound);
    let (_caller, at) = Sidecar::before(listen, "http");
    reach_nobody("up", at, &upstream);
}

/// Odd but unambiguous: the service must read each as this many requests, and the caller gets as many answers.
const ONE_READING: &[(&str, &str, usize)] = &[
    ("an empty line first", "\r\nGET /1 HTTP/1.1\r\nHost: up\r\n\r\n", 1),
    (
        "a coding in capitals",
        "POST /1 HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n",
        1,
    ),
    (
        "a size with leading zeros",
        "POST /1 HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n0001\r\na\r\n000\r\n\r\n",
        1,
    ),
    (
        "a chunk's extension",
        "POST /1 HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n",
        1,
    ),
    (
        "a request in a body",
        "POST /1 HTTP/1.1\r\nHost: up\r\nContent-Length: 36\r\n\r\nGET /inner HTTP/1.1\r\nHost: inner\r\n\r\nGET /2 HTTP/1.1\r\nHost: up\r\n\r\n",
        2,
    ),
];

fn passed_in_one_reading() {
    for (name, vector, count) in ONE_READING {
        let paths = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let all = paths.clone();
        let upstream = Upstream::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                peer.body(&head);
                all.lock().unwrap().push(head.target().to_owned());
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let (_sidecar, at) = Sidecar::before(upstream.address, "http");
        let mut client = Peer::connect(at);
        client.send(vector);
        for number in 0..*count {
            assert_eq!(client.expect_head().status(), 200, "{name}: answer {number}");
        }
        let expected: Vec<String> = (1..=*count).map(|number| format!("/{number}")).collect();
        assert_eq!(*paths.lock().unwrap(), expected, "{name}");
    }
}

fn refusals_are_counted() {
    let upstream = Upstream::answering("reached");
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send(
        "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    let head = client.expect_head();
    assert_eq!((head.status(), head.cause()), (400, Some("ambiguous_message")), "{head:?}");
    client.body(&head);
    assert!(client.head().is_none(), "the connection ends: nobody knows where the next request begins");
    wait_until("it is counted", || {
        sidecar.metrics().sum("lighter_requests_total", &[("cause", "ambiguous_message")]) == 1.0
    });
    assert_eq!(upstream.received(), "");
}

fn ambiguous_answers() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let upstream = Upstream::start(move |mut peer, _| {
            peer.head();
            peer.send(answer);
            peer.head();
        });
        let (_sidecar, at) = Sidecar::before(upstream.address, "http");
        let (head, _) = Peer::connect(at).exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
        assert_eq!(head.status(), 502, "{answer:?}: {head:?}");
        assert!(matches!(head.cause(), Some("upstream_malformed" | "ambiguous_message")), "{head:?}");
    }
}

fn http_2_requests() {
    let plain = [(":method", "POST"), (":scheme", "http"), (":authority", "up"), (":path", "/1")];
    let vectors: [(&str, Vec<(&str, &str)>); 9] = [
        ("a line break in a value", vec![("x-a", "b\r\nTransfer-Encoding: chunked")]),
        ("a line feed in a value", vec![("x-a", "b\nGET /hidden HTTP/1.1")]),
        ("a colon in a name", vec![("x-a: b\r\ntransfer-encoding", "chunked")]),
        ("a zero byte in a value", vec![("x-a", "b\0c")]),
        ("a transfer coding", vec![("transfer-encoding", "chunked")]),
        ("a connection header", vec![("connection", "x-a")]),
        ("capitals in a name", vec![("X-A", "b")]),
        ("a length that is not the body's", vec![("content-length", "50")]),
        ("two lengths", vec![("content-length", "4"), ("content-length", "5")]),
    ];
    for (name, more) in vectors {
        let upstream = Upstream::answering("reached");
        let (_sidecar, at) = Sidecar::before(upstream.address, "http");
        let mut client = Peer::connect(at);
        let fields: Vec<_> = plain.iter().copied().chain(more).collect();
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(4, 0, 0, &[]));
        client.send(frame(1, 4, 1, &literals(&fields))).send(frame(0, 1, 1, b"body"));
        // A ping behind it: when it is answered, or the connection is ended, the request was judged.
        client.try_send(frame(6, 0, 0, &[7; 8]));
        let reset = read_frames(&mut client);
        let received = upstream.received();
        assert!(reset, "{name}: the stream is refused; the service received {received:?}");
        let whole = received.contains("\r\n\r\n") && received.ends_with("body");
        let smuggled = received.contains("GET /hidden")
            || received.to_lowercase().contains("\ntransfer-encoding: chunked\r\nbody");
        assert!(!smuggled && (!whole || name.contains("not the body's")), "{name}: {received:?}");
    }
}

/// Reads frames until stream 1 has an answer, or the connection ends. Whether the stream was refused: reset, answered
/// with an error, or ended with its connection.
fn read_frames(client: &mut Peer) -> bool {
    loop {
        let head = client.bytes(9);
        if head.len() < 9 {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = client.bytes(length);
        match (head[3], head[8]) {
            // RST_STREAM and GOAWAY.
            (3, 1) | (7, _) => return true,
            // Status 200 is a byte of the static table (index 8).
            (1, 1) => return !payload.contains(&0x88),
            _ => {}
        }
    }
}

/// A service that answers what nobody asked must not have its answer given to the next caller.
fn answer_before_question() {
    let upstream = Upstream::start(|mut peer, connection| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            if connection == 0 {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            } else {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
            }
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let get = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";
    let mut client = Peer::connect(at);
    let (_, first) = client.exchange(get);
    assert_eq!(first, crate::support::raw::Body::Whole(b"one".to_vec()));
    let (_, second) = Peer::connect(at).exchange(get);
    assert_eq!(second, crate::support::raw::Body::Whole(b"good".to_vec()));
}
