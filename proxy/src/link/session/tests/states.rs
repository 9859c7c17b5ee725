//! What each frame does in each state of a stream.

use super::*;
use crate::link::frame::{END, HEADER_BYTES, Header, INFO};

/// A frame as a peer may send it.
fn frame(kind: Type, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let header = Header { len: payload.len(), kind, flags, stream };
    let mut bytes = BytesMut::from(&header.encode()[..]);
    bytes.extend_from_slice(payload);
    bytes.freeze()
}

const HEAD: (Type, u8, &[u8]) = (Type::Head, 0, b"\x00\xc8\0\0");
const INFORM: (Type, u8, &[u8]) = (Type::Head, INFO, b"\x00\x67\0\0");
const DATA: (Type, u8, &[u8]) = (Type::Data, 0, b"body");
const LAST: (Type, u8, &[u8]) = (Type::Data, END, b"");
const TRAILERS: (Type, u8, &[u8]) = (Type::Trailers, 0, b"\0\0");
const RESET: (Type, u8, &[u8]) = (Type::Reset, 0, b"\x05");
const CREDIT: (Type, u8, &[u8]) = (Type::Credit, 0, b"\0\0\x10\0");
const OPEN: (Type, u8, &[u8]) = (Type::Open, 0, b"\x01\0\0\0\0\0\x03GET\x01a\x01/\0\0");
const ALL: [(Type, u8, &[u8]); 8] = [HEAD, INFORM, DATA, LAST, TRAILERS, RESET, CREDIT, OPEN];

/// What of [`ALL`] is taken, in this order.
type Taken = [bool; 8];
const NONE: Taken = [false; 8];

fn check(state: &str, make: impl Fn(&mut Pair) -> u32, side: Side, taken: Taken) {
    for ((kind, flags, payload), taken) in ALL.into_iter().zip(taken) {
        let mut pair = Pair::new(Limits::default());
        let stream = make(&mut pair);
        let session = if side == Side::Opener { &mut pair.opener } else { &mut pair.acceptor };
        let result = session.recv(pair.now, frame(kind, flags, stream, payload));
        let expected = if taken { Ok(()) } else { Err(Fault::OutOfPlace) };
        assert_eq!(result, expected, "{kind:?} {flags} in state {state}");
        session.assert_sound();
    }
}

#[test]
fn the_opener_takes_only_what_may_come_next() {
    let open = |pair: &mut Pair| {
        pair.open(&get("/"), &[], b"", false);
        pair.pump();
        let (stream, ..) = opened(&mut pair.acceptor);
        stream
    };
    let headed = move |pair: &mut Pair| {
        let stream = open(pair);
        pair.acceptor.send_head(stream, 200, none(), b"", false).unwrap();
        pair.pump();
        stream
    };
    let ended = move |pair: &mut Pair| {
        let stream = headed(pair);
        pair.acceptor.finish(stream).unwrap();
        pair.pump();
        stream
    };
    let cut = Cut::new(Code::Cancelled, Cause::DownstreamAborted);
    let side = Side::Opener;
    check("not opened", |_| 1, side, NONE);
    check("opened", |pair| open(pair).0, side, [true, true, false, false, false, true, true, false]);
    check("headed", |pair| headed(pair).0, side, [false, false, true, true, true, true, true, false]);
    check("ended", |pair| ended(pair).0, side, [false, false, false, false, false, true, true, false]);
    let over = [true, true, true, true, true, true, true, false];
    let reset = |pair: &mut Pair| {
        let stream = headed(pair);
        pair.opener.reset(pair.now, stream, cut);
        stream.0
    };
    check("reset here", reset, side, over);
    let reset = |pair: &mut Pair| {
        let stream = headed(pair);
        pair.acceptor.reset(pair.now, stream, cut);
        pair.pump();
        stream.0
    };
    check("reset by the peer, and not read", reset, side, over);
    let read = |pair: &mut Pair| {
        let stream = ended(pair);
        pair.opener.finish(stream).unwrap();
        read_all(&mut pair.opener, stream);
        assert_eq!(pair.opener.open_streams(), 0);
        stream.0
    };
    check("over", read, side, over);
}

#[test]
fn the_acceptor_takes_only_what_may_come_next() {
    let open = |pair: &mut Pair| {
        pair.open(&get("/"), &[], b"", false);
        pair.pump();
        opened(&mut pair.acceptor).0
    };
    let ended = move |pair: &mut Pair| {
        let stream = open(pair);
        pair.opener.finish(stream).unwrap();
        pair.pump();
        stream
    };
    let side = Side::Acceptor;
    check("not opened", |_| 1, side, [false, false, false, false, false, false, false, true]);
    check("left out", |_| 2, side, NONE);
    check("opened", |pair| open(pair).0, side, [false, false, true, true, true, true, true, false]);
    check("ended", |pair| ended(pair).0, side, [false, false, false, false, false, true, true, false]);
    let reset = |pair: &mut Pair| {
        let stream = open(pair);
        pair.acceptor.reset(pair.now, stream, Cut::new(Code::Refused, Cause::Overloaded));
        stream.0
    };
    check("reset here", reset, side, [false, false, true, true, true, true, true, false]);
    let left = |pair: &mut Pair| {
        pair.acceptor.leave(Leave::Now, Duration::ZERO, "drain");
        1
    };
    check("left", left, side, [false, false, false, false, false, false, false, true]);
    let left = |pair: &mut Pair| {
        pair.opener.leave(Leave::Now, Duration::ZERO, "drain");
        pair.pump();
        1
    };
    check("the opener opens no more", left, side, NONE);
}

#[test]
fn nothing_is_sent_out_of_order() {
    let mut pair = Pair::new(Limits::default());
    let id = pair.open(&get("/"), &[], b"", true);
    pair.pump();
    let (stream, ..) = opened(&mut pair.acceptor);
    assert_eq!(pair.opener.finish(id), Err(SendError::Gone));
    assert_eq!(pair.opener.send_head(id, 200, none(), b"", true), Err(SendError::Gone));
    assert_eq!(pair.acceptor.send_slice(stream, b"early", false), Err(SendError::Gone));
    assert_eq!(pair.acceptor.send_trailers(stream, none()), Err(SendError::Gone));
    pair.acceptor.send_head(stream, 200, none(), b"", false).unwrap();
    assert_eq!(pair.acceptor.send_head(stream, 200, none(), b"", false), Err(SendError::Gone));
    pair.acceptor.finish(stream).unwrap();
    assert_eq!(pair.acceptor.send_slice(stream, b"late", false), Err(SendError::Gone));
    let out = written(&mut pair.acceptor, usize::MAX);
    assert_eq!(out.len(), 2 * HEADER_BYTES + 4);
}
