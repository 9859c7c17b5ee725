//! Peers that break the rules, and links that break.

use super::*;
use crate::link::frame::{END, Header};

fn raw(kind: Type, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header { len: payload.len(), kind, flags, stream }.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn acceptor(limits: Limits) -> (Session, Instant) {
    let now = Instant::now();
    (Session::new(Side::Acceptor, limits, now), now)
}

fn feed(session: &mut Session, now: Instant, frame: Vec<u8>) -> Result<(), Fault> {
    let result = session.recv(now, frame.into());
    session.assert_sound();
    result
}

const POST: &[u8] = b"\x01\0\0\0\0\0\x04POST\x01a\x01/\0\0";
const POST_OF_FIVE: &[u8] = b"\x01\0\0\0\0\0\x04POST\x01a\x01/\0\x01\x0e\x01content-length5";

#[test]
fn a_peer_that_sends_more_than_was_granted_loses_the_link_and_is_told() {
    let (mut session, now) = acceptor(Limits::default());
    feed(&mut session, now, raw(Type::Open, 0, 1, POST)).unwrap();
    feed(&mut session, now, raw(Type::Data, 0, 1, &vec![0; STREAM_CREDIT as usize])).unwrap();
    assert_eq!(feed(&mut session, now, raw(Type::Data, 0, 1, b"x")), Err(Fault::CreditExceeded));
    assert_eq!(session.fault(), Some(Fault::CreditExceeded));
    let said = written(&mut session, usize::MAX);
    assert!(said.ends_with(b"credit_exceeded"));
    // Whoever reads what was asked learns that it is not whole.
    let stream = opened(&mut session).0;
    let (body, rest) = read_all(&mut session, stream);
    assert_eq!((body.len(), &rest[..]), (0, &["cut: lost".to_owned()][..]));
    assert!(session.is_done());
}

#[test]
fn streams_that_nobody_reads_hold_what_was_granted_to_all_and_no_more() {
    let (mut session, now) = acceptor(Limits::default());
    let full = vec![0; STREAM_CREDIT as usize];
    for id in 1..=SESSION_CREDIT / STREAM_CREDIT {
        feed(&mut session, now, raw(Type::Open, 0, id, POST)).unwrap();
        feed(&mut session, now, raw(Type::Data, 0, id, &full)).unwrap();
    }
    assert_eq!(session.holds().0, SESSION_CREDIT as usize);
    let next = SESSION_CREDIT / STREAM_CREDIT + 1;
    feed(&mut session, now, raw(Type::Open, END, next, POST)).unwrap();
    let mut with_body = POST.to_vec();
    with_body.push(0);
    assert_eq!(feed(&mut session, now, raw(Type::Open, 0, next + 1, &with_body)), Err(Fault::CreditExceeded));
}

#[test]
fn a_body_that_is_longer_than_its_head_says_is_not_passed_on() {
    for frames in [
        vec![raw(Type::Open, 0, 1, POST_OF_FIVE), raw(Type::Data, 0, 1, b"GET / H")],
        vec![raw(Type::Open, 0, 1, &[POST_OF_FIVE, b"12345"].concat()), raw(Type::Data, 0, 1, b"6")],
        vec![raw(Type::Open, 0, 1, POST_OF_FIVE), raw(Type::Data, END, 1, b"1234")],
        vec![raw(Type::Open, 0, 1, POST_OF_FIVE), raw(Type::Trailers, 0, 1, b"\0\0")],
    ] {
        let (mut session, now) = acceptor(Limits::default());
        for frame in frames {
            feed(&mut session, now, frame).unwrap();
        }
        let stream = opened(&mut session).0;
        let (_, rest) = read_all(&mut session, stream);
        assert!(rest[0].starts_with("cut"), "{rest:?}");
        let said = written(&mut session, usize::MAX);
        assert_eq!(said[3], Type::Reset as u8);
        assert_eq!(session.credits().1, SESSION_CREDIT - session_owes(&session));
    }
    // In the frame that opens the stream, there is no stream at all.
    for (flags, body) in [(0, &b"123456"[..]), (END, b"1234")] {
        let (mut session, now) = acceptor(Limits::default());
        feed(&mut session, now, raw(Type::Open, flags, 1, &[POST_OF_FIVE, body].concat())).unwrap();
        assert!(session.event().is_none());
        assert_eq!(session.open_streams(), 0);
        assert_eq!(written(&mut session, usize::MAX)[3], Type::Reset as u8);
    }
}

/// What was consumed and is not granted anew yet.
fn session_owes(session: &Session) -> u32 {
    SESSION_CREDIT - session.credits().1 - session.holds().0 as u32
}

#[test]
fn an_answer_without_a_body_has_none() {
    for (method, status) in [(&b"HEAD"[..], &b"\0\xc8"[..]), (b"GET", b"\0\xcc"), (b"GET", b"\x01\x30")] {
        let mut pair = Pair::new(Limits::default());
        let id = pair.open(&Opening { method, ..get("/") }, &[], b"", true);
        let answer = raw(Type::Head, 0, 1, &[status, b"\0\0body"].concat());
        feed(&mut pair.opener, pair.now, answer).unwrap();
        let (body, rest) = read_all(&mut pair.opener, id);
        assert!(body.is_empty());
        assert!(rest.last().unwrap().starts_with("cut"), "{rest:?}");
    }
}

#[test]
fn an_upgrade_comes_only_where_it_was_asked_for() {
    let answer = |fields: &[NameValue]| {
        let mut pair = Pair::new(Limits::default());
        let id = pair.open(&get("/"), fields, b"", false);
        feed(&mut pair.opener, pair.now, raw(Type::Head, 0, 1, b"\0\x65\0\0ws")).unwrap();
        read_all(&mut pair.opener, id)
    };
    assert_eq!(answer(&[]), (vec![], vec!["cut: protocol".to_owned()]));
    assert_eq!(answer(&[("Upgrade", "websocket")]), (b"ws".to_vec(), vec!["101".to_owned()]));

    let (mut session, now) = acceptor(Limits::default());
    let head = b"\x01\0\0\0\0\0\x03GET\x01a\x01/\0\x01\x07\x02Upgradews";
    feed(&mut session, now, raw(Type::Open, 0, 1, head)).unwrap();
    let stream = opened(&mut session).0;
    session.send_head(stream, 101, none(), b"", false).unwrap();
    feed(&mut session, now, raw(Type::Data, 0, 1, b"ping")).unwrap();
    assert_eq!(read_all(&mut session, stream), (b"ping".to_vec(), vec![]));

    let (mut session, now) = acceptor(Limits::default());
    feed(&mut session, now, raw(Type::Open, 0, 1, head)).unwrap();
    feed(&mut session, now, raw(Type::Data, 0, 1, b"GET /admin")).unwrap();
    let stream = opened(&mut session).0;
    assert_eq!(read_all(&mut session, stream), (vec![], vec!["cut: protocol".to_owned()]));
}

#[test]
fn bytes_that_come_one_by_one_cost_little_more_than_themselves() {
    let (mut session, now) = acceptor(Limits::default());
    feed(&mut session, now, raw(Type::Open, 0, 1, POST)).unwrap();
    for _ in 0..STREAM_CREDIT {
        session.recv(now, raw(Type::Data, 0, 1, b"x").into()).unwrap();
    }
    let stream = opened(&mut session).0;
    let mut pieces = 0;
    while session.read(stream).is_some() {
        pieces += 1;
    }
    assert_eq!(pieces, STREAM_CREDIT / (16 * 1024));
}

#[test]
fn floods_end_the_link_and_the_next_second_begins_anew() {
    let limits = Limits::default();
    type Flood = (u32, Fault, fn(u32) -> Vec<u8>);
    let floods: [Flood; 4] = [
        (limits.pings_per_second, Fault::TooManyPings, |_| raw(Type::Ping, 0, 0, &[0; 8])),
        (limits.controls_per_second, Fault::TooManyControls, |_| raw(Type::Control, 0, 0, b"\0\x09")),
        (limits.useless_per_second, Fault::Useless, |_| raw(Type::Data, 0, 1, b"")),
        (limits.resets_per_second, Fault::TooManyResets, |at| {
            [raw(Type::Open, END, at + 2, POST), raw(Type::Reset, 0, at + 2, b"\x01")].concat()
        }),
    ];
    for (limit, fault, frame) in floods {
        let (mut session, now) = acceptor(limits);
        feed(&mut session, now, raw(Type::Open, 0, 1, POST)).unwrap();
        for at in 0..limit {
            session.recv(now, frame(at).into()).unwrap();
            events(&mut session);
        }
        let later = now + Duration::from_secs(1);
        feed(&mut session, later, frame(limit)).unwrap();
        for at in 1..limit {
            session.recv(later, frame(limit + at).into()).unwrap();
        }
        assert_eq!(feed(&mut session, later, frame(2 * limit)), Err(fault));
    }
}

#[test]
fn more_streams_than_may_be_are_refused_and_not_executed() {
    let (mut session, now) = acceptor(Limits { open_streams: 2, ..Limits::default() });
    for id in 1..=5 {
        feed(&mut session, now, raw(Type::Open, 0, id, POST)).unwrap();
    }
    assert_eq!(session.open_streams(), 4);
    let said = written(&mut session, usize::MAX);
    assert_eq!(said[..9], [0, 0, 11, Type::Reset as u8, 0, 0, 0, 5, Code::Refused as u8]);
    assert_eq!(&said[9..], b"overloaded");
}

#[test]
fn a_peer_that_reads_nothing_cannot_make_its_answers_pile_up() {
    let limits = Limits { open_streams: 1, unsent: 1000, useless_per_second: u32::MAX, ..Limits::default() };
    let (mut session, now) = acceptor(limits);
    let mut id = 0;
    let fault = loop {
        id += 1;
        assert!(id < 1000);
        if let Err(fault) = feed(&mut session, now, raw(Type::Open, 0, id, POST)) {
            break fault;
        }
    };
    assert_eq!(fault, Fault::Unread);
}

#[test]
fn resets_are_sent_no_faster_than_the_peer_takes_them() {
    let limits = Limits { open_streams: 10, resets_per_second: 8, ..Limits::default() };
    let mut pair = Pair::new(limits);
    let cut = Cut::new(Code::Cancelled, Cause::DownstreamAborted);
    let ids: Vec<_> = (0..10).map(|_| pair.open(&get("/"), &[], b"", true)).collect();
    for id in ids {
        pair.opener.reset(pair.now, id, cut);
    }
    pair.pump();
    assert_eq!((pair.opener.open_streams(), pair.acceptor.open_streams()), (0, 6));
    for _ in 0..3 {
        let at = pair.opener.timeout().unwrap_or(pair.now);
        pair.now = at;
        pair.opener.on_timeout(at).unwrap();
        pair.pump();
    }
    assert_eq!(pair.acceptor.open_streams(), 0);
    assert!(pair.opener.can_open());
}

#[test]
fn a_link_that_breaks_says_of_each_stream_whether_it_may_have_run() {
    let mut pair = Pair::new(Limits::default());
    let sent = pair.open(&get("/"), &[], b"", true);
    pair.pump();
    let unsent = pair.open(&get("/"), &[], b"", true);
    pair.opener.close(Fault::Lost);
    assert_eq!(read_all(&mut pair.opener, sent).1, ["cut: lost"]);
    assert_eq!(read_all(&mut pair.opener, unsent).1, ["cut: refused"]);
    assert!(pair.opener.is_done() && !pair.opener.can_open());
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    let mut pair = Pair::new(Limits::default());
    assert_eq!(pair.opener.timeout(), None, "an idle link needs no clock");
    let id = pair.open(&get("/"), &[], b"", true);
    pair.pump();
    let limits = Limits::default();
    let asked = pair.opener.timeout().unwrap();
    assert_eq!(asked, pair.now + limits.ping_after);
    pair.opener.on_timeout(asked - Duration::from_millis(1)).unwrap();
    assert!(!pair.opener.wants_transmit());

    pair.opener.on_timeout(asked).unwrap();
    pair.now = asked + Duration::from_millis(3);
    pair.pump();
    assert_eq!(pair.opener.round_trip(), Some(Duration::from_millis(3)));

    let again = pair.opener.timeout().unwrap();
    pair.opener.on_timeout(again).unwrap();
    let given_up = pair.opener.timeout().unwrap();
    assert_eq!(given_up, again + limits.ping_wait);
    assert_eq!(pair.opener.on_timeout(given_up), Err(Fault::Silent));
    assert_eq!(read_all(&mut pair.opener, id).1, ["cut: lost"]);
}
