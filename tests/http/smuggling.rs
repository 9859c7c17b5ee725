//! Request smuggling, judged by what a raw upstream receives: what can be read in two ways reaches nobody.

use libtest_mimic::Trial;

use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("smuggling::ambiguous_requests_reach_nobody", ambiguous_requests_reach_nobody),
        test("smuggling::what_is_read_one_way_is_passed_one_way", passed_in_one_reading),
        test("smuggling::refusals_are_counted", refusals_are_counted),
        test("smuggling::ambiguous_answers_reach_nobody", ambiguous_answers),
        test("smuggling::http_2_requests_cannot_break_out_of_their_lines", http_2_requests),
        test("smuggling::an_answer_before_its_question_is_not_used", answer_before_question),
    ]
}

/// What an attacker wants the service to take for a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: up\r\n\r\n";

/// Requests that two readers could end at different places, or take for different things. `{}` is where the hidden
/// request stands.
const AMBIGUOUS: &[(&str, &str)] = &[
    ("two lengths", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n{}"),
    ("a list of two lengths", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 0, 40\r\n\r\n{}"),
    (
        "length and coding",
        "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 45\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "coding and length",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{}",
    ),
    ("a length with a sign", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: +0\r\n\r\n{}"),
    ("a negative length", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: -1\r\n\r\n{}"),
    ("a length in hexadecimal", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 0x0\r\n\r\n{}"),
    (
        "a length beyond counting",
        "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 18446744073709551616\r\n\r\n{}",
    ),
    ("an empty length", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: \r\n\r\n{}"),
    ("a space before the colon of a length", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length : 40\r\n\r\n{}"),
    (
        "a space before the colon of a coding",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "a tab before the colon",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "a coding that is not known",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "chunked not as the last coding",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "two codings in two lines",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "a coding behind a vertical tab",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{}",
    ),
    (
        "a coding in quotes",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{}",
    ),
    ("an empty coding", "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: \r\nContent-Length: 40\r\n\r\n{}"),
    (
        "a coding from HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
    ),
    ("a folded coding", "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{}"),
    ("a folded header", "POST / HTTP/1.1\r\nHost: up\r\nX-A: b\r\n\tc\r\nContent-Length: 0\r\n\r\n{}"),
    (
        "a line that ends in a bare carriage return",
        "POST / HTTP/1.1\r\nHost: up\r\nX-A: b\rContent-Length: 40\r\n\r\n{}",
    ),
    ("a zero byte in a value", "POST / HTTP/1.1\r\nHost: up\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n{}"),
    ("a zero byte in a name", "POST / HTTP/1.1\r\nHost: up\r\nX\0A: b\r\nContent-Length: 0\r\n\r\n{}"),
    ("a name with a space", "POST / HTTP/1.1\r\nHost: up\r\nX A: b\r\nContent-Length: 0\r\n\r\n{}"),
    ("a line without a colon", "POST / HTTP/1.1\r\nHost: up\r\nContent-Length\r\n\r\n{}"),
    ("a line without a name", "POST / HTTP/1.1\r\nHost: up\r\n: x\r\nContent-Length: 0\r\n\r\n{}"),
    ("a first header with a leading space", "POST / HTTP/1.1\r\n Host: up\r\nContent-Length: 0\r\n\r\n{}"),
    ("no host", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n{}"),
    ("two hosts", "POST / HTTP/1.1\r\nHost: up\r\nHost: other\r\nContent-Length: 0\r\n\r\n{}"),
    ("two spaces in the request line", "POST  / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n{}"),
    ("a space in the target", "POST /a b HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n{}"),
    ("no version", "POST /\r\nHost: up\r\nContent-Length: 0\r\n\r\n{}"),
    ("a version to come", "POST / HTTP/1.2\r\nHost: up\r\nContent-Length: 0\r\n\r\n{}"),
    (
        "a chunk's size with a sign",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n+0\r\n\r\n{}",
    ),
    (
        "a chunk's size with a prefix",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{}",
    ),
    (
        "a chunk's size beyond counting",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n{}",
    ),
    ("a chunk without a size", "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n{}"),
    (
        "a chunk's line that ends in a bare line feed",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n{}",
    ),
    (
        "a chunk's extension with a bare line feed",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n0\r\n\r\n{}",
    ),
    (
        "a chunk longer than its size",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n{}",
    ),
    (
        "a trailer that is a length",
        "POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length : 40\r\n\r\n{}",
    ),
];

fn ambiguous_requests_reach_nobody() {
    let mut wrong = Vec::new();
    for (name, vector) in AMBIGUOUS {
        let upstream = Upstream::answering("reached");
        let (_sidecar, at) = Sidecar::before(upstream.address, "http");
        let mut client = Peer::connect(at);
        client.send(vector.replace("{}", HIDDEN));
        let answers = answers_to_end(&mut client);
        let received = upstream.received();
        if received.contains("/hidden") {
            wrong.push(format!("{name}: the hidden request reached the service"));
        }
        // Faults in a body show only when the head has gone; then the exchange must not have ended well.
        if answers.iter().any(|status| *status < 400) {
            wrong.push(format!("{name}: answered with {answers:?}; the service received {received:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The statuses of all answers until the sidecar ends the connection.
fn answers_to_end(client: &mut Peer) -> Vec<u16> {
    let all = client.rest();
    let text = String::from_utf8_lossy(&all);
    text.split("HTTP/1.").skip(1).filter_map(|part| part.get(2..5)?.parse().ok()).collect()
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

/// Frames by hand, since no library sends what is forbidden.
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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals that are in no table (RFC 7541 §6.2.2), without Huffman coding.
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    block
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
