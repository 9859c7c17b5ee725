//! Heads as they are written are read again, and what a peer must not say is refused.

use super::*;

const GET: Opening<'static> = Opening {
    protocol: Protocol::Http1,
    scheme: Scheme::Https,
    method: b"GET",
    authority: b"reviews:80",
    path: b"/a?b=c",
    deadline: Some(Duration::from_millis(1500)),
};

fn request(head: &Opening<'_>, fields: &[(&str, &str)]) -> Result<RequestHead, Wrong> {
    let mut payload = Vec::new();
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    put_request(&mut payload, head, fields).unwrap();
    let whole = payload.len();
    payload.extend_from_slice(b"body");
    let (head, len) = RequestHead::decode(&payload, Bytes::copy_from_slice)?;
    assert_eq!(len, whole);
    Ok(head)
}

fn response(status: u16, fields: &[(&str, &str)]) -> Result<ResponseHead, Wrong> {
    let mut payload = Vec::new();
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    put_response(&mut payload, status, fields).unwrap();
    ResponseHead::decode(&payload, Bytes::copy_from_slice).map(|(head, _)| head)
}

fn cause<T>(read: Result<T, Wrong>) -> Option<Cause> {
    match read {
        Err(Wrong::Refused(refusal, _)) => Some(refusal.cause),
        _ => None,
    }
}

#[test]
fn a_request_is_read_as_it_was_written() {
    let head = request(&GET, &[("Accept", "*/*"), ("X-Empty", ""), ("content-length", "4")]).unwrap();
    assert_eq!((head.protocol, head.scheme), (Protocol::Http1, Scheme::Https));
    assert_eq!(head.deadline, Some(Duration::from_millis(1500)));
    assert_eq!(head.length, Some(4));
    let parts: &dyn RequestParts = &head;
    assert_eq!((parts.method(), parts.path(), parts.query()), (&b"GET"[..], &b"/a"[..], Some(&b"b=c"[..])));
    assert_eq!(parts.header("host"), Some(&b"reviews:80"[..]));
    assert_eq!(parts.header("accept"), Some(&b"*/*"[..]));
    let names: Vec<_> = head.fields().map(|field| field.name.to_vec()).collect();
    assert_eq!(names, [&b"Accept"[..], b"X-Empty", b"content-length"]);
}

#[test]
fn a_head_that_would_smuggle_on_the_far_side_is_refused() {
    for fields in [
        &[("x", "a\r\nContent-Length: 3")][..],
        &[("x", "a\0")],
        &[("x: y\r\nz", "a")],
        &[("", "a")],
        &[("x ", "a")],
        &[("Content-Length", "+3")],
        &[("Content-Length", "3, 3")],
        &[("Content-Length", "3"), ("content-length", "3")],
        &[("Transfer-Encoding", "chunked")],
        &[("transfer-encoding", "identity")],
        &[("Connection", "close")],
        &[("Keep-Alive", "1")],
        &[("Host", "reviews:80")],
        &[("TE", "chunked")],
        &[("Upgrade", "h2c")],
        &[("HTTP2-Settings", "AA")],
        &[("Expect", "200-ok")],
    ] {
        assert!(cause(request(&GET, fields)).is_some(), "{fields:?}");
    }
    for head in [
        Opening { method: b"GE T", ..GET },
        Opening { method: b"", ..GET },
        Opening { path: b"", ..GET },
        Opening { path: b"*", ..GET },
        Opening { path: b"a", ..GET },
        Opening { path: b"/a b", ..GET },
        Opening { path: b"/a\r\nx: y", ..GET },
        Opening { path: b"/a#b", ..GET },
        Opening { authority: b"a b", ..GET },
        Opening { authority: b"user@a", ..GET },
        Opening { authority: b"a\r\n", ..GET },
        Opening { method: b"CONNECT", ..GET },
        Opening { method: b"CONNECT", path: b"", authority: b"no-port", ..GET },
        Opening { protocol: Protocol::Tunnel, ..GET },
        Opening { protocol: Protocol::Tunnel, method: b"", path: b"", authority: b"", ..GET },
    ] {
        assert_eq!(cause(request(&head, &[])), Some(Cause::BadRequest), "{head:?}");
    }
    let http2 = Opening { protocol: Protocol::Http2, ..GET };
    assert_eq!(cause(request(&http2, &[("upgrade", "websocket")])), Some(Cause::AmbiguousMessage));
}

#[test]
fn every_form_of_a_request_is_taken() {
    for head in [
        GET,
        Opening { method: b"OPTIONS", path: b"*", ..GET },
        Opening { method: b"CONNECT", path: b"", ..GET },
        Opening { protocol: Protocol::Tunnel, method: b"", path: b"", authority: b"[fd00::1]:6379", ..GET },
        Opening { authority: b"", ..GET },
        Opening { protocol: Protocol::Http2, path: b"/\xc3\xa9?", ..GET },
    ] {
        assert!(request(&head, &[("te", "trailers"), ("x-lighter-a", "b")]).is_ok(), "{head:?}");
    }
    let head = request(&GET, &[("Upgrade", "websocket"), ("Expect", "100-continue")]).unwrap();
    assert!(head.upgrade && head.expects_continue && !head.grpc);
    assert!(request(&GET, &[("content-type", "application/grpc")]).unwrap().grpc);
}

#[test]
fn answers_that_count_their_body_in_two_ways_are_refused() {
    for (status, fields) in [
        (99, &[][..]),
        (600, &[]),
        (204, &[("content-length", "3")]),
        (101, &[("content-length", "3")]),
        (200, &[("content-length", "3"), ("content-length", "4")]),
        (200, &[("transfer-encoding", "chunked")]),
        (200, &[("x", "a\n")]),
    ] {
        assert_eq!(cause(response(status, fields)), Some(Cause::UpstreamMalformed), "{status} {fields:?}");
    }
    let twice = response(200, &[("content-length", "3"), ("Content-Length", "3")]).unwrap();
    assert_eq!(twice.length, Some(3));
    assert!(response(204, &[("content-length", "0")]).is_ok());
    assert!(response(103, &[]).unwrap().is_informational());
    assert!(!response(101, &[]).unwrap().is_informational());
}

#[test]
fn trailers_cannot_frame_or_route() {
    let read = |name: &str| {
        let mut payload = Vec::new();
        put_fields(&mut payload, [(name.as_bytes(), &b"0"[..])]).unwrap();
        Trailers::decode(&payload, Bytes::copy_from_slice)
    };
    assert_eq!(read("Grpc-Status").unwrap().header("grpc-status"), Some(&b"0"[..]));
    for name in ["content-length", "Host", "te", "x-lighter-error", "a b"] {
        assert!(cause(read(name)).is_some(), "{name}");
    }
}

#[test]
fn lengths_that_do_not_add_up_are_never_read_past_the_end() {
    let mut payload = Vec::new();
    put_request(&mut payload, &GET, [(&b"name"[..], &b"value"[..])]).unwrap();
    for upto in 0..payload.len() {
        let read = RequestHead::decode(&payload[..upto], Bytes::copy_from_slice);
        assert_eq!(read.err(), Some(Wrong::Broken), "{upto}");
    }
    // All counts and lengths, one at a time, made larger.
    for at in 0..payload.len() {
        let mut changed = payload.clone();
        changed[at] = 0x7f;
        let _ = RequestHead::decode(&changed, Bytes::copy_from_slice);
    }
    let mut many = Vec::new();
    let fields = std::iter::repeat_n((&b"a"[..], &b"b"[..]), MAX_FIELDS + 1);
    assert_eq!(put_fields(&mut many, fields), Err(TooLarge));
    let count = (MAX_FIELDS as u16 + 1).to_be_bytes();
    assert_eq!(Trailers::decode(&count, Bytes::copy_from_slice).err(), Some(Wrong::Broken));
}
