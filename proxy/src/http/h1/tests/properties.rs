//! What holds for any bytes, in any pieces.

use proptest::prelude::*;

use super::super::body::{Body, Framing};
use super::super::edit::{Edit, RequestRules, ResponseRules};
use super::super::head::{self, Asked, Refusal};

/// Feeds a body in `pieces`, as a connection would; what was passed on, what is left, and whether it ended.
fn passed(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, bool), Refusal> {
    let mut body = Body::new(framing);
    let (mut held, mut out) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            let pass = body.pass(&held)?;
            out.extend(held.drain(..pass.pass));
            held.drain(..pass.omit);
            if pass.pass + pass.omit == 0 || body.is_done() {
                break;
            }
        }
    }
    Ok((out, held, body.is_done()))
}

fn chunk() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,40}".prop_map(|data| format!("{:x}\r\n{data}\r\n", data.len())),
        "[a-z]{1,9}".prop_map(|data| format!("00{:X};ext=\"v\"\r\n{data}\r\n", data.len())),
    ]
}

fn chunked() -> impl Strategy<Value = String> {
    let trailer = prop::sample::select(vec![
        "",
        "T: v\r\n",
        "Host: x\r\n",
        "A: b\r\nContent-Length: 1\r\nC: d\r\n",
        "bad\r\n",
    ]);
    (prop::collection::vec(chunk(), 0..6), trailer, "[ -~]{0,10}")
        .prop_map(|(chunks, trailer, behind)| format!("{}0\r\n{trailer}\r\n{behind}", chunks.concat()))
}

fn cut(bytes: &[u8], mut at: Vec<usize>) -> Vec<&[u8]> {
    at.iter_mut().for_each(|at| *at %= bytes.len() + 1);
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

const RULES: RequestRules<'static> =
    RequestRules { authority: b"svc", caller: b"10.0.0.1", vouch: None, identify: true };

/// What goes on is a head that is read as the one that came.
fn survives_its_edit(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut room = head::room();
    let Ok(Some(request)) = head::request(bytes, &mut room) else { return Ok(()) };
    let mut edit = Edit::default();
    edit.request(bytes, &request, &RULES);
    let out = edit.to_vec(bytes);
    let mut room = head::room();
    let again = head::request(&out, &mut room);
    let text = String::from_utf8_lossy(&out);
    prop_assert!(matches!(&again, Ok(Some(again)) if again.len == out.len()), "{text:?}: {again:?}");
    let Ok(Some(again)) = again else { return Ok(()) };
    prop_assert_eq!((again.method, again.framing), (request.method, request.framing));
    prop_assert_eq!(again.upgrade, request.upgrade);
    let forwarded = |field: &&head::Field<'_>| field.name.eq_ignore_ascii_case(b"x-forwarded-for");
    let last = again.fields.list.iter().rfind(forwarded);
    prop_assert!(last.is_some_and(|field| field.value.ends_with(b"10.0.0.1")), "{text:?}");
    Ok(())
}

fn head_text() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "Host: a\r\n",
        "Host: a\r\n",
        "Connection: close\r\n",
        "Connection: x-a, upgrade\r\n",
        "X-A: 1\r\n",
        "Upgrade: websocket\r\n",
        "Keep-Alive: 5\r\n",
        "TE: trailers\r\n",
        "TE: gzip\r\n",
        "X-Lighter-Error: a\r\n",
        "X-Forwarded-For: 1.1.1.1\r\n",
        "X-Forwarded-For:\r\n",
        "x-request-id: mine\r\n",
        "X-Request-Id:\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: x-forwarded-for, x-request-id\r\n",
        "HTTP2-Settings: AA\r\n",
        "Accept: */*\r\n",
        "Connection: TE\r\n",
        "A:  b  \r\n",
    ]);
    let first = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "POST http://a/b HTTP/1.1\r\n",
        "OPTIONS http://a HTTP/1.1\r\n",
        "GET http://a?q HTTP/1.0\r\n",
        "OPTIONS * HTTP/1.1\r\n",
    ]);
    (first, prop::collection::vec(line, 0..9))
        .prop_map(|(first, lines)| format!("{first}{}\r\n", lines.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_body_is_the_same_in_any_pieces(text in chunked(), at in prop::collection::vec(0usize..400, 0..8)) {
        let whole = passed(Framing::Chunked, &[text.as_bytes()]);
        let pieces = passed(Framing::Chunked, &cut(text.as_bytes(), at));
        match (whole, pieces) {
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert_eq!(whole, pieces),
        }
    }

    #[test]
    fn a_damaged_body_is_the_same_in_any_pieces(
        text in chunked(),
        damage in (0usize..400, any::<u8>()),
        at in prop::collection::vec(0usize..400, 0..8),
    ) {
        let mut bytes = text.into_bytes();
        let place = damage.0 % bytes.len();
        bytes[place] = damage.1;
        let whole = passed(Framing::Chunked, &[&bytes]);
        let pieces = passed(Framing::Chunked, &cut(&bytes, at));
        match (whole, pieces) {
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert_eq!(whole, pieces),
        }
    }

    #[test]
    fn a_head_is_whole_only_at_its_end(text in head_text(), behind in "[ -~]{0,20}") {
        let bytes = [text.as_bytes(), behind.as_bytes()].concat();
        let mut room = head::room();
        let whole = head::request(&bytes, &mut room).map(|head| head.map(|head| head.len));
        for end in 0..text.len() {
            let mut room = head::room();
            let part = head::request(&bytes[..end], &mut room).map(|head| head.map(|head| head.len));
            match part {
                Ok(None) => {}
                Ok(Some(len)) => prop_assert!(false, "whole after {len} of {end}"),
                Err(refusal) => prop_assert_eq!(Err(refusal), whole),
            }
        }
    }

    #[test]
    fn what_goes_on_is_read_as_what_came(text in head_text()) {
        survives_its_edit(text.as_bytes())?;
    }

    #[test]
    fn no_bytes_break_the_readers(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives_its_edit(&bytes)?;
        let mut room = head::room();
        let _ = head::response(&bytes, &mut room, Asked::default());
        let _ = passed(Framing::Chunked, &[&bytes]);
    }

    #[test]
    fn an_answer_that_goes_on_is_framed_as_it_came(
        status in prop::sample::select(vec![100u16, 103, 200, 204, 206, 304, 404, 426, 500]),
        minor in 0u8..2,
        client in 0u8..2,
        close: bool,
        lines in prop::collection::vec(prop::sample::select(vec![
            "Connection: close\r\n", "Connection: x-a\r\n", "X-A: 1\r\n", "Keep-Alive: 5\r\n", "Content-Length: 5\r\n",
            "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Upgrade: h2c\r\n", "Server: x\r\n", "X-Lighter-Error: a\r\n",
        ]), 0..6),
    ) {
        let text = format!("HTTP/1.{minor} {status} Reason\r\n{}\r\n", lines.concat());
        let mut room = head::room();
        let Ok(Some(came)) = head::response(text.as_bytes(), &mut room, Asked::default()) else { return Ok(()) };
        let mut edit = Edit::default();
        edit.response(text.as_bytes(), &came, &ResponseRules { lighter: false, client_minor: client, close, draining: false });
        let out = edit.to_vec(text.as_bytes());
        let mut room = head::room();
        let went = head::response(&out, &mut room, Asked::default());
        prop_assert!(matches!(&went, Ok(Some(went)) if went.len == out.len()), "{:?}", String::from_utf8_lossy(&out));
        let Ok(Some(went)) = went else { return Ok(()) };
        let expected = if came.framing == Framing::Chunked && client == 0 { Framing::UntilClose } else { came.framing };
        prop_assert_eq!((went.status, went.framing, went.minor), (status, expected, 1));
        prop_assert!(went.fields.get("x-lighter-error").is_none() && went.fields.get("keep-alive").is_none());
    }
}
