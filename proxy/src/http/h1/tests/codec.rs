//! What passes and how it is changed on its way.

use super::super::body::{Body, Framing, Step};
use super::super::edit::{Edit, RequestRules, ResponseRules};
use super::super::head::{self, Asked, Refusal};
use crate::error::Cause;

fn request(text: &str) -> Result<Option<String>, Refusal> {
    edited(text, b"", false)
}

fn edited(text: &str, caller: &[u8], identify: bool) -> Result<Option<String>, Refusal> {
    let mut room = head::room();
    let bytes = text.as_bytes();
    let Some(request) = head::request(bytes, &mut room)? else { return Ok(None) };
    let mut edit = Edit::default();
    let rules = RequestRules { authority: b"svc", caller, vouch: None, identify };
    edit.request(bytes, &request, &rules);
    Ok(Some(String::from_utf8(edit.to_vec(bytes)).unwrap()))
}

fn response(text: &str, asked: Asked, rules: &ResponseRules) -> Result<(String, Framing, bool), Refusal> {
    let mut room = head::room();
    let bytes = text.as_bytes();
    let response = head::response(bytes, &mut room, asked)?.expect("a whole head");
    let mut edit = Edit::default();
    edit.response(bytes, &response, rules);
    Ok((String::from_utf8(edit.to_vec(bytes)).unwrap(), response.framing, response.keep_alive))
}

const PLAIN: ResponseRules = ResponseRules { lighter: true, client_minor: 1, close: false, draining: false };

fn next_head(text: &str) -> String {
    request(text).unwrap().unwrap()
}

#[test]
fn an_ordinary_head_goes_on_as_it_came() {
    let text = "GET /a?b=c HTTP/1.1\r\nHOST: a\r\nX-CamelCase:  v \r\naccept: */*\r\nEmpty:\r\n\r\n";
    assert_eq!(next_head(text), text);
}

#[test]
fn what_belongs_to_a_hop_stays_behind() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nA: b\r\n\
                Proxy-Connection: x\r\nTE: gzip\r\nUpgrade: websocket\r\nX-Lighter-Error: no\r\nTrailer: T\r\n\r\n";
    assert_eq!(next_head(text), "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nTrailer: T\r\n\r\n");
}

#[test]
fn te_passes_as_trailers_only() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, trailers\r\nConnection: TE\r\n\r\n";
    assert_eq!(next_head(text), "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
}

#[test]
fn an_upgrade_passes_but_not_to_h2c() {
    let text =
        |to: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: {to}\r\nConnection: upgrade\r\n\r\n");
    assert_eq!(
        next_head(&text("websocket")),
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    );
    assert_eq!(next_head(&text("h2c, websocket")), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn an_http_1_0_request_becomes_1_1_with_a_host() {
    assert_eq!(next_head("GET / HTTP/1.0\r\nA: b\r\n\r\n"), "GET / HTTP/1.1\r\nA: b\r\nHost: svc\r\n\r\n");
}

#[test]
fn an_absolute_target_becomes_a_path() {
    for (target, path) in [("http://a/b?c", "/b?c"), ("http://a", "/"), ("HTTP://a?x", "/?x")] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(next_head(&text), format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
}

#[test]
fn the_callers_address_is_appended() {
    let inbound = |fields: &str| {
        edited(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), b"10.0.0.1", false).unwrap().unwrap()
    };
    assert_eq!(inbound("A: b\r\n"), "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nx-forwarded-for: 10.0.0.1\r\n\r\n");
    assert_eq!(
        inbound("X-Forwarded-For: 1.1.1.1 \r\nX-Forwarded-For: 2.2.2.2\r\nConnection: close\r\nA: b\r\n"),
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1 \r\nX-Forwarded-For: 2.2.2.2, 10.0.0.1\r\nA: b\r\n\r\n"
    );
}

#[test]
fn a_request_without_an_id_gets_one() {
    let with = |fields: &str| {
        edited(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), b"", true).unwrap().unwrap()
    };
    let text = with("");
    let id = text.split("x-request-id: ").nth(1).unwrap().trim_end();
    assert_eq!(id.len(), 36);
    assert_eq!((&id[14..15], id.matches('-').count()), ("4", 4));
    assert!(!with("X-Request-ID: mine\r\n").contains("x-request-id"));
}

#[test]
fn answers_lose_what_belongs_to_a_hop() {
    let text = "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
                Content-Length: 2\r\ncontent-length: 2\r\nX-Lighter-Error: far\r\n\r\n";
    let (out, framing, keep_alive) = response(text, Asked::default(), &PLAIN).unwrap();
    assert_eq!(out, "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nX-Lighter-Error: far\r\n\r\n");
    assert_eq!((framing, keep_alive), (Framing::Length(2), true));
    let inbound = ResponseRules { lighter: false, close: true, ..PLAIN };
    let (out, ..) = response(text, Asked::default(), &inbound).unwrap();
    assert!(!out.contains("Lighter") && out.ends_with("Connection: close\r\n\r\n"));
}

#[test]
fn an_old_servers_answer_is_ours_in_version() {
    let text = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\n";
    let (out, framing, keep_alive) = response(text, Asked::default(), &PLAIN).unwrap();
    assert_eq!(out, "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n");
    assert_eq!((framing, keep_alive), (Framing::UntilClose, false));
}

#[test]
fn answers_without_a_body_are_known() {
    let head = Asked { head: true, upgrade: false };
    for (status, fields, asked, keeps) in [
        ("204 No Content", "", Asked::default(), true),
        ("204 No Content", "Content-Length: 3\r\n", Asked::default(), false),
        ("304 Not Modified", "Content-Length: 3\r\n", Asked::default(), true),
        ("200 OK", "Content-Length: 3\r\n", head, true),
        ("200 OK", "Transfer-Encoding: chunked\r\n", head, true),
        ("103 Early Hints", "Link: a\r\n", Asked::default(), true),
    ] {
        let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
        let (out, framing, keep_alive) = response(&text, asked, &PLAIN).unwrap();
        assert_eq!((framing, keep_alive), (Framing::None, keeps), "{text}");
        assert_eq!(
            out.contains("Content-Length"),
            text.contains("Content-Length") && !status.starts_with("204")
        );
    }
}

#[test]
fn only_an_upgrade_that_was_asked_for_becomes_a_tunnel() {
    let text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    let asked = Asked { head: false, upgrade: true };
    let (out, framing, _) = response(text, asked, &PLAIN).unwrap();
    assert_eq!(framing, Framing::Tunnel);
    assert!(out.ends_with("Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"));
    assert!(response(text, Asked::default(), &PLAIN).is_err());
}

#[test]
fn a_client_of_1_0_gets_no_chunks() {
    let rules = ResponseRules { client_minor: 0, close: true, ..PLAIN };
    let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (out, framing, _) = response(text, Asked::default(), &rules).unwrap();
    assert_eq!((out.as_str(), framing), ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", Framing::Chunked));
}

#[test]
fn answers_that_can_be_read_in_two_ways_are_refused() {
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 1\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "A: b\n",
        "A : b\r\n",
        "A: b\r\n c\r\n",
    ] {
        let error =
            response(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), Asked::default(), &PLAIN).unwrap_err();
        assert_eq!(error.cause, Cause::UpstreamMalformed, "{fields:?}");
    }
    assert!(response("HTTP/1.1 200 OK\nA: b\r\n\r\n", Asked::default(), &PLAIN).is_err());
    assert!(
        response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Asked::default(), &PLAIN).is_err()
    );
}

fn whole(framing: Framing, bytes: &[u8]) -> Result<(usize, bool), Refusal> {
    let mut body = Body::new(framing);
    let mut at = 0;
    loop {
        let pass = body.pass(&bytes[at..])?;
        at += pass.pass + pass.omit;
        if pass.pass + pass.omit == 0 || body.is_done() {
            return Ok((at, body.is_done()));
        }
    }
}

#[test]
fn a_body_ends_where_its_framing_says() {
    for (framing, bytes, end, done) in [
        (Framing::None, "GET", 0, true),
        (Framing::Length(3), "abcGET", 3, true),
        (Framing::Length(3), "ab", 2, false),
        (Framing::UntilClose, "abc", 3, false),
        (Framing::Chunked, "0\r\n\r\nGET", 5, true),
        (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\nGET", 13, true),
        (Framing::Chunked, "00a;x=\"y\"\r\n0123456789\r\n000\r\nT: v\r\n\r\nX", 36, true),
        (Framing::Chunked, "3\r\nabc\r\n0\r\n", 11, false),
        (Framing::Chunked, "3\r\nabc\r\n0\r\nT: v", 11, false),
    ] {
        assert_eq!(whole(framing, bytes.as_bytes()), Ok((end, done)), "{bytes:?}");
    }
}

#[test]
fn broken_chunks_are_refused() {
    for bytes in [
        "\r\n",
        "x\r\n",
        "0x1\r\n",
        "-1\r\n",
        "+1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1\n",
        "1\rX",
        "1;a\n",
        "1;\0\r\n",
        "1_0\r\n",
        "1\r\nabc",
        "1\r\na\n",
        "1\r\na\r0",
        "0\r\nT: v\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nT : v\r\n\r\n",
        "0\r\n\n",
        "10000000000000000\r\n",
        "00000000000000001\r\n",
        "fffffffffffffffff\r\n",
        "0\r\n T: v\r\n\r\n",
        "0\r\nT: \0\r\n\r\n",
    ] {
        assert!(whole(Framing::Chunked, bytes.as_bytes()).is_err(), "{bytes:?}");
    }
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(20_000));
    assert!(whole(Framing::Chunked, long.as_bytes()).is_err());
    let long = format!("0\r\nT: {}\r\n\r\n", "x".repeat(9_000));
    assert!(whole(Framing::Chunked, long.as_bytes()).is_err());
}

#[test]
fn trailers_that_would_frame_or_route_are_left_out() {
    let bytes = b"0\r\nA: b\r\nContent-Length: 5\r\nX-Lighter-Error: x\r\nC: d\r\n\r\n";
    let mut body = Body::new(Framing::Chunked);
    let (mut at, mut out) = (0, Vec::new());
    while !body.is_done() {
        let pass = body.pass(&bytes[at..]).unwrap();
        out.extend_from_slice(&bytes[at..at + pass.pass]);
        at += pass.pass + pass.omit;
    }
    assert_eq!(out, b"0\r\nA: b\r\nC: d\r\n\r\n");
}

#[test]
fn steps_give_content_and_trailers_to_who_decodes() {
    let bytes = b"3\r\nabc\r\n0\r\nT:  v \r\n\r\n";
    let mut body = Body::new(Framing::Chunked);
    let (mut at, mut content, mut trailers) = (0, Vec::new(), Vec::new());
    while !body.is_done() {
        match body.step(&bytes[at..]).unwrap() {
            Step::Data(count) => {
                content.extend_from_slice(&bytes[at..at + count]);
                at += count;
            }
            Step::Framing(count) | Step::End(count) => at += count,
            Step::Trailer(line) => {
                trailers.push(line.split(&bytes[at..]));
                at += line.len;
            }
            Step::More => panic!("all bytes are there"),
        }
    }
    assert_eq!((content.as_slice(), at), (&b"abc"[..], bytes.len()));
    assert_eq!(trailers, [(&b"T"[..], &b"v"[..])]);
}
