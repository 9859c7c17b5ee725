//! Credit, turns, and leaving.

use super::*;

/// A stream whose answer's head was sent.
fn answering(pair: &mut Pair) -> (StreamId, StreamId) {
    let id = pair.open(&get("/"), &[], b"", true);
    pair.pump();
    let (stream, ..) = opened(&mut pair.acceptor);
    pair.acceptor.send_head(stream, 200, none(), b"", false).unwrap();
    (id, stream)
}

#[test]
fn a_stalled_stream_stops_only_itself() {
    let mut pair = Pair::new(Limits::default());
    let (stalled, stalled_there) = answering(&mut pair);
    let (read, read_there) = answering(&mut pair);
    let mut endless = bytes(1_000_000);
    assert_eq!(pair.acceptor.send_data(stalled_there, &mut endless, false), Ok(STREAM_CREDIT as usize));
    pair.pump();
    assert_eq!(pair.acceptor.send_data(stalled_there, &mut endless, false), Ok(0));

    let body = bytes(3_000_000);
    let mut rest = body.clone();
    let mut arrived = Vec::new();
    while !rest.is_empty() {
        assert!(pair.acceptor.send_data(read_there, &mut rest, true).unwrap() > 0);
        pair.pump();
        arrived.extend(read_all(&mut pair.opener, read).0);
        pair.pump();
    }
    assert!(arrived == body);

    // As soon as it is read, it goes on.
    events(&mut pair.acceptor);
    assert_eq!(read_all(&mut pair.opener, stalled).0.len(), STREAM_CREDIT as usize);
    pair.pump();
    let told = events(&mut pair.acceptor);
    assert!(told.iter().any(|event| matches!(event, Event::Writable(id) if *id == stalled_there)));
    assert!(pair.acceptor.can_send(stalled_there) > 0);
}

#[test]
fn a_body_that_did_not_fit_beside_its_head_may_go_on_at_once() {
    let mut pair = Pair::new(Limits::default());
    let body = bytes(10_000);
    let (id, taken) = pair.opener.open(pair.now, &get("/"), none(), &body, true).unwrap();
    assert!(taken < body.len());
    let told = events(&mut pair.opener);
    assert!(matches!(told[..], [Event::Writable(stream)] if stream == id));
    assert_eq!(pair.opener.send_data(id, &mut body.slice(taken..), true), Ok(body.len() - taken));
    pair.pump();
    let (stream, ..) = opened(&mut pair.acceptor);
    assert!(read_all(&mut pair.acceptor, stream) == (body.to_vec(), vec!["end".to_owned()]));
}

#[test]
fn what_was_read_and_is_still_held_counts() {
    let mut pair = Pair::new(Limits::default());
    let (id, stream) = answering(&mut pair);
    pair.acceptor.send_data(stream, &mut bytes(STREAM_CREDIT as usize), false).unwrap();
    pair.pump();
    let mut held = 0;
    while let Some(read) = pair.opener.read(id) {
        if let Read::Data(bytes) = read {
            held += bytes.len();
        }
    }
    pair.pump();
    assert_eq!(pair.acceptor.can_send(stream), 0);
    pair.opener.release(id, held);
    pair.pump();
    assert!(pair.acceptor.can_send(stream) > 0);
}

#[test]
fn a_window_grows_with_use_and_to_its_limit() {
    let mut pair = Pair::new(Limits::default());
    let (id, stream) = answering(&mut pair);
    let mut unread = Vec::new();
    for _ in 0..40 {
        // The sender's queue is smaller than the window: it is filled again and again.
        let mut sum = 0;
        loop {
            let sent = pair.acceptor.send_data(stream, &mut bytes(100_000), false).unwrap();
            if sent == 0 {
                break;
            }
            sum += sent;
            pair.pump();
        }
        unread.push(sum);
        read_all(&mut pair.opener, id);
        pair.pump();
    }
    assert_eq!(unread[0], STREAM_CREDIT as usize);
    assert_eq!(*unread.iter().max().unwrap(), Limits::default().stream_window as usize);
    assert!(pair.opener.credits().1 <= Limits::default().session_window);
}

#[test]
fn a_link_that_stalled_streams_have_used_up_says_so_and_recovers() {
    let mut pair = Pair::new(Limits::default());
    let streams: Vec<_> = (0..20).map(|_| answering(&mut pair)).collect();
    for (_, stream) in &streams {
        pair.acceptor.send_data(*stream, &mut bytes(100_000), false).unwrap();
        pair.pump();
    }
    assert!(pair.acceptor.is_starved());
    let (last, last_there) = streams[19];
    assert_eq!(pair.acceptor.can_send(last_there), 0);
    events(&mut pair.acceptor);
    read_all(&mut pair.opener, streams[0].0);
    pair.pump();
    let told = events(&mut pair.acceptor);
    assert!(told.iter().any(|event| matches!(event, Event::Writable(id) if *id == last_there)));
    assert!(pair.acceptor.send_data(last_there, &mut bytes(1000), true).unwrap() > 0);
    pair.pump();
    assert!(!read_all(&mut pair.opener, last).0.is_empty());
}

#[test]
fn bodies_take_turns_and_heads_go_first() {
    let mut pair = Pair::new(Limits::default());
    let (_, first) = answering(&mut pair);
    let (_, second) = answering(&mut pair);
    written(&mut pair.acceptor, usize::MAX);
    pair.acceptor.send_data(first, &mut bytes(40_000), true).unwrap();
    pair.acceptor.send_data(second, &mut bytes(40_000), true).unwrap();
    let third = pair.open(&get("/"), &[], b"", true);
    let asked = written(&mut pair.opener, usize::MAX);
    pair.acceptor.recv(pair.now, asked.clone()).unwrap();
    let (third_there, ..) = opened(&mut pair.acceptor);
    assert_eq!(third, third_there);
    pair.acceptor.send_head(third_there, 204, none(), b"", true).unwrap();

    let out = written(&mut pair.acceptor, usize::MAX);
    let (mut at, mut order) = (0, Vec::new());
    while at < out.len() {
        let header = crate::link::frame::Header::decode(out[at..at + 8].try_into().unwrap()).unwrap();
        order.push((header.stream, header.len, header.flags));
        at += 8 + header.len;
    }
    // Each ends with a record.
    let whole = transmit::RECORD - 8;
    let (first, rest) = (whole - 12, 40_000 - 2 * whole);
    assert_eq!(
        order,
        [
            (3, 4, 1),
            (1, first, 0),
            (2, whole, 0),
            (1, whole, 0),
            (2, whole, 0),
            (1, rest + 12, 1),
            (2, rest, 1)
        ]
    );
}

#[test]
fn what_was_ended_is_sent_after_it_was_let_go() {
    let cut = Cut { code: Code::Internal, cause: None };
    for request_ended in [true, false] {
        let mut pair = Pair::new(Limits::default());
        let id = pair.open(&get("/"), &[], b"", request_ended);
        pair.pump();
        let (stream, ..) = opened(&mut pair.acceptor);
        pair.acceptor.send_head(stream, 200, none(), b"", false).unwrap();
        assert_eq!(pair.acceptor.send_data(stream, &mut bytes(40_000), true), Ok(40_000));
        assert!(!pair.acceptor.let_go(pair.now, stream, cut));
        pair.pump();
        let (body, rest) = read_all(&mut pair.opener, id);
        assert_eq!((body.len(), rest), (40_000, vec!["200".to_owned(), "end".to_owned()]));
        // A request that was not whole has nobody who takes the rest of it.
        let over = events(&mut pair.opener).iter().any(|event| matches!(event, Event::Cut(..)));
        assert_eq!(over, !request_ended);
        assert_eq!((pair.opener.open_streams(), pair.acceptor.open_streams()), (0, 0));
        pair.acceptor.assert_sound();
    }
    // What was not ended is cut off.
    let mut pair = Pair::new(Limits::default());
    let (id, stream) = answering(&mut pair);
    pair.acceptor.send_data(stream, &mut bytes(40_000), false).unwrap();
    assert!(pair.acceptor.let_go(pair.now, stream, cut));
    pair.pump();
    assert_eq!(read_all(&mut pair.opener, id).1.last().map(String::as_str), Some("cut: internal"));
}

#[test]
fn what_came_whole_is_not_lost_with_the_connection() {
    let mut pair = Pair::new(Limits::default());
    let (id, stream) = answering(&mut pair);
    let (other, _) = answering(&mut pair);
    pair.acceptor.send_slice(stream, b"whole", true).unwrap();
    pair.pump();
    pair.opener.close(Fault::Lost);
    let cut = |event: &Event| matches!(event, Event::Cut(..));
    assert_eq!(events(&mut pair.opener).iter().filter(|event| cut(event)).count(), 1);
    assert_eq!(read_all(&mut pair.opener, id).1, ["200", "end"]);
    assert_eq!(read_all(&mut pair.opener, other).1, ["200", "cut: lost"]);
    assert_eq!(pair.opener.open_streams(), 0);
}

#[test]
fn a_cancelled_request_frees_what_it_held() {
    let mut pair = Pair::new(Limits::default());
    let (id, stream) = answering(&mut pair);
    pair.acceptor.send_data(stream, &mut bytes(60_000), false).unwrap();
    pair.opener.reset(pair.now, id, Cut::new(Code::Cancelled, Cause::DownstreamAborted));
    pair.pump();
    let told = events(&mut pair.acceptor);
    assert!(told.iter().any(|event| matches!(event, Event::Cut(at, cut) if *at == stream
        && *cut == Cut::new(Code::Cancelled, Cause::DownstreamAborted))));
    assert!(pair.acceptor.send_slice(stream, b"x", false).is_err());
    assert_eq!((pair.opener.open_streams(), pair.acceptor.open_streams()), (0, 0));
    assert_eq!(pair.acceptor.credits().0, pair.opener.credits().1);
    assert_eq!(pair.opener.holds(), (0, 0));
}

#[test]
fn an_answer_that_is_whole_outlives_the_reset_behind_it() {
    let mut pair = Pair::new(Limits::default());
    let id = pair.open(&get("/"), &[], b"part", false);
    pair.pump();
    let (stream, ..) = opened(&mut pair.acceptor);
    pair.acceptor.send_head(stream, 413, none(), b"no more", true).unwrap();
    pair.acceptor.reset(pair.now, stream, Cut::new(Code::Cancelled, Cause::Unsupported));
    pair.pump();
    assert_eq!(read_all(&mut pair.opener, id), (b"no more".to_vec(), vec!["413".into(), "end".into()]));
    assert_eq!(pair.opener.open_streams(), 0);
}

#[test]
fn an_answer_that_is_cut_is_delivered_as_far_as_it_came() {
    let mut pair = Pair::new(Limits::default());
    let (id, stream) = answering(&mut pair);
    pair.acceptor.send_slice(stream, b"half", false).unwrap();
    pair.acceptor.reset(pair.now, stream, Cut::new(Code::Internal, Cause::UpstreamTruncated));
    pair.pump();
    let (body, rest) = read_all(&mut pair.opener, id);
    assert_eq!((&body[..], &rest[..]), (&b"half"[..], &["200".to_owned(), "cut: internal".into()][..]));
}

#[test]
fn a_link_is_left_in_two_steps_and_nothing_runs_behind_the_second() {
    let mut pair = Pair::new(Limits::default());
    let first = pair.open(&get("/"), &[], b"", true);
    pair.pump();
    let (first_there, ..) = opened(&mut pair.acceptor);
    pair.acceptor.leave(Leave::Soon, Duration::from_secs(30), "drain");
    // This one crosses with it, and is taken.
    let second = pair.open(&get("/"), &[], b"", true);
    pair.pump();
    assert!(matches!(opened(&mut pair.acceptor), (stream, ..) if stream == second));
    assert!(!pair.opener.can_open() && pair.opener.is_leaving());
    let told = events(&mut pair.opener);
    assert!(matches!(told[..], [Event::Leave { last: MAX_STREAM, cause, .. }] if cause.as_str() == "drain"));

    pair.acceptor.leave(Leave::Now, Duration::from_secs(1), "drain");
    for stream in [first_there, second] {
        pair.acceptor.send_head(stream, 200, none(), b"", true).unwrap();
    }
    pair.pump();
    for stream in [first, second] {
        assert_eq!(read_all(&mut pair.opener, stream).1, ["200", "end"]);
    }
    assert!(pair.opener.is_done() && pair.acceptor.is_done());
}

#[test]
fn what_crosses_with_the_last_leave_was_not_executed() {
    let mut pair = Pair::new(Limits::default());
    pair.acceptor.leave(Leave::Now, Duration::ZERO, "drain");
    let id = pair.open(&get("/"), &[], b"body", true);
    let asked = written(&mut pair.opener, usize::MAX);
    pair.acceptor.recv(pair.now, asked.clone()).unwrap();
    assert!(pair.acceptor.event().is_none());
    pair.pump();
    assert_eq!(read_all(&mut pair.opener, id).1, ["cut: refused"]);
    assert!(pair.opener.is_done() && pair.acceptor.is_done());
}

#[test]
fn idle_streams_and_links_are_small() {
    assert!(size_of::<Stream>() <= 400, "{}", size_of::<Stream>());
    assert!(size_of::<Session>() <= 900, "{}", size_of::<Session>());
    let mut pair = Pair::new(Limits::default());
    for _ in 0..500 {
        let (id, stream) = answering(&mut pair);
        pair.acceptor.send_data(stream, &mut bytes(50_000), true).unwrap();
        pair.pump();
        read_all(&mut pair.opener, id);
    }
    for session in [&pair.opener, &pair.acceptor] {
        assert!(session.streams.capacity() <= 2 * KEPT_STREAMS);
        assert!(session.urgent.capacity() + session.ready.capacity() * 4 <= 16 * 1024);
    }
}
