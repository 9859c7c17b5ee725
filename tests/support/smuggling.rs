//! Requests that can be read in two ways, and whether one of them gets anywhere.

use std::net::SocketAddr;

use super::raw::{Peer, Upstream};

/// Sends each of them to `at`, as a request of `host`, and fails where `upstream`, which is behind it, was reached by what
/// is hidden, or where the sender was told that all is well.
pub fn reach_nobody(host: &str, at: SocketAddr, upstream: &Upstream) {
    let mut wrong = Vec::new();
    for (name, vector) in AMBIGUOUS {
        let before = upstream.received().len();
        let mut client = Peer::connect(at);
        client.send(vector.replace("Host: up", &format!("Host: {host}")).replace("{}", HIDDEN));
        let answers = answers_to_end(&mut client);
        let received = upstream.received()[before..].to_owned();
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
