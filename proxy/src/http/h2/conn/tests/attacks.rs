//! What a peer can do to this process, to its other streams, and to what the far side is told.

use std::time::Duration;

use super::*;

fn word(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

#[test]
fn idle_streams_keep_nothing_of_the_connections_window() {
    let mut table = Table::new(Side::Client, Limits::default());
    let keys: Vec<Key> = (0..8).map(|_| table.connection.open(&post(), false).unwrap()).collect();
    // One takes it all, and the others have to wait.
    let window = settings::WINDOW as usize;
    while let room @ 1.. = table.connection.capacity(keys[0], window) {
        table.connection.send_data(keys[0], vec![0; room].into(), false).unwrap();
    }
    for key in &keys[1..] {
        assert_eq!(table.connection.capacity(*key, 100), 0);
    }
    table.sent();
    // The peer has taken everything. Each that waited sends a little, and then nothing for hours.
    table.frame(Kind::WindowUpdate, 0, 0, &word(settings::WINDOW));
    for key in &keys[1..] {
        let room = table.connection.capacity(*key, 100);
        assert_eq!(room, 100, "a stream that waited has its turn");
        table.connection.send_data(*key, vec![0; room].into(), false).unwrap();
    }
    table.sent();
    let last = table.connection.open(&post(), false).unwrap();
    let mut sent = 0;
    while let room @ 1.. = table.connection.capacity(last, window) {
        table.connection.send_data(last, vec![0; room].into(), false).unwrap();
        sent += room;
        table.sent();
    }
    assert_eq!(sent, window - 700);
}

#[test]
fn a_body_that_is_too_short_does_not_end_with_its_trailers() {
    let mut table = Table::new(Side::Client, Limits::default());
    let key = table.connection.open(&post(), true).unwrap();
    table.fields(1, false, &[(":status", "200"), ("content-length", "10")]);
    table.frame(Kind::Data, 0, 1, b"short");
    table.fields(1, true, &[("grpc-status", "0")]);
    assert!(matches!(table.connection.read_head(key), Some(Ok(_))));
    assert!(matches!(table.connection.read(key, 100), Some(Read::Data { end: false, .. })));
    assert!(matches!(table.connection.read(key, 100), Some(Read::Cut(Cut::Malformed))));
}

#[test]
fn a_caller_that_reads_nothing_cannot_have_answers_pile_up() {
    let limits = Limits { unread: 100_000, ..Limits::default() };
    let mut table = Table::new(Side::Server, limits);
    let answer = ResponseHead::new(204);
    for count in 0..100_000 {
        table.now += Duration::from_micros(100);
        table.fields(2 * count + 1, true, &[(":method", "GET"), (":scheme", "http"), (":path", "/")]);
        if table.fault().is_some() {
            break;
        }
        let key = table.connection.accept().unwrap().key;
        table.connection.send_head(key, &answer, true).unwrap();
        table.connection.let_go(key);
        assert!(table.connection.outbox().len() <= limits.unread + 1000, "answers pile up");
    }
    assert!(table.fault().is_some());
}

#[test]
fn settings_do_not_walk_all_streams_thousands_of_times() {
    let mut table = Table::new(Side::Server, Limits::default());
    table.request(1, false);
    let settings: Vec<u8> =
        (0..2700_u16).flat_map(|count| [[0, 4, 0], [0, 4, count as u8]].concat()).collect();
    table.frame(Kind::Settings, 0, 0, &settings);
    assert_eq!(table.fault(), Some(Code::ENHANCE_YOUR_CALM));
}

#[test]
fn making_this_side_reset_streams_counts_as_resetting_them() {
    let limits = Limits { resets_per_second: 100, ..Limits::default() };
    let mut table = Table::new(Side::Server, limits);
    for count in 0..1000 {
        let key = table.request(2 * count + 1, false);
        // No window grows by nothing.
        table.frame(Kind::WindowUpdate, 0, 2 * count + 1, &word(0));
        table.connection.let_go(key);
        table.sent();
        if table.fault().is_some() {
            assert!(count >= 100);
            return;
        }
    }
    panic!("a thousand streams were reset");
}

#[test]
fn a_goodbye_never_takes_back_what_it_said() {
    let mut table = Table::new(Side::Server, Limits::default());
    table.request(1, false);
    table.connection.leave();
    table.frame(Kind::Ping, frame::ACK, 0, send::GOODBYE);
    // On its way when the goodbye came.
    table.fields(3, true, &[(":method", "GET"), (":scheme", "http"), (":path", "/")]);
    assert!(table.connection.accept().is_none());
    table.connection.close();
    let lasts: Vec<Vec<u8>> = table
        .sent()
        .into_iter()
        .filter(|(kind, ..)| *kind == Kind::Goaway)
        .map(|(.., payload)| payload[..4].to_vec())
        .collect();
    assert_eq!(lasts, [word(frame::MAX_STREAM).to_vec(), word(1).to_vec(), word(1).to_vec()]);
}

#[test]
fn frames_that_move_nothing_are_counted_whatever_they_are() {
    let frames: [(&str, Kind, u8, u32, &[u8]); 5] = [
        ("nothing but the length of no padding", Kind::Data, frame::PADDED, 1, &[0]),
        ("nothing", Kind::Data, 0, 1, &[]),
        ("a priority", Kind::Priority, 0, 1, &[0, 0, 0, 0, 16]),
        ("an acknowledgement of nothing", Kind::Settings, frame::ACK, 0, &[]),
        ("an answer to nothing", Kind::Ping, frame::ACK, 0, &[0; 8]),
    ];
    for (what, kind, flags, stream, payload) in frames {
        let limits = Limits { useless_per_second: 100, ..Limits::default() };
        let mut table = Table::new(Side::Server, limits);
        table.request(1, false);
        for _ in 0..200 {
            table.frame(kind, flags, stream, payload);
            table.sent();
        }
        assert_eq!(table.fault(), Some(Code::ENHANCE_YOUR_CALM), "{what}");
    }
}

#[test]
fn a_request_without_a_scheme_or_authority_to_pass_on_is_refused() {
    for fields in [
        [(":method", "GET"), (":scheme", ""), (":path", "/"), (":authority", "a")].as_slice(),
        &[(":method", "CONNECT"), (":authority", "")],
    ] {
        let mut table = Table::new(Side::Server, Limits::default());
        table.fields(1, true, fields);
        assert!(table.connection.accept().is_none(), "{fields:?}");
        assert_eq!(table.sent(), [(Kind::RstStream, 0, 1, word(1).to_vec())]);
        assert_eq!(table.fault(), None);
    }
}

#[test]
fn no_stream_is_reset_that_never_was() {
    let mut table = Table::new(Side::Server, Limits::default());
    table.frame(Kind::Priority, 0, 5, &[0; 4]);
    assert!(table.sent().iter().all(|(kind, ..)| *kind != Kind::RstStream));
    assert_eq!(table.fault(), Some(Code::FRAME_SIZE_ERROR));
}

#[test]
fn small_frames_of_calls_that_were_cancelled_do_not_end_the_connection() {
    let limits = Limits { useless_per_second: 100, ..Limits::default() };
    let mut table = Table::new(Side::Client, limits);
    let keys: Vec<Key> = (0..10).map(|_| table.connection.open(&post(), true).unwrap()).collect();
    keys.into_iter().for_each(|key| table.connection.let_go(key));
    for stream in 0..10 {
        table.fields(2 * stream + 1, false, &[(":status", "200")]);
        for _ in 0..50 {
            table.frame(Kind::Data, 0, 2 * stream + 1, b"a message");
        }
    }
    assert_eq!(table.fault(), None);
    assert_eq!(table.connection.window.held(), 0);
}

#[test]
fn a_small_window_of_this_side_holds_from_when_the_peer_knows_it() {
    let limits = Limits { window: 1000, stream_window: 1000, ..Limits::default() };
    let mut table = Table::new(Side::Server, limits);
    table.request(1, false);
    table.frame(Kind::Data, 0, 1, &[0; 10_000]);
    assert_eq!(table.fault(), None, "the peer has not acknowledged any SETTINGS");
}
