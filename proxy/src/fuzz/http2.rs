//! HTTP/2: a connection against a peer that sends anything, and both ends of one against each other in any order.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::http::h2::conn::{Connection, Cut, Key, Limits, Read, Side};
use crate::http::h2::fields::{Fields, RequestHead, ResponseHead};
use crate::http::h2::frame::{self, Code, Kind};
use crate::link::session::Slices;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Small ones, so that they are met.
const LIMITS: Limits = Limits {
    streams: 8,
    stream_window: 65_535,
    window: 100_000,
    head_list: 16_384,
    interims: 4,
    unsent: 20_000,
    replies: 2000,
    unread: 100_000,
    resets_per_second: 50,
    settings_per_second: 20,
    pings_per_second: 50,
    useless_per_second: 100,
};

/// A connection whose peer sends `bytes`: it takes them or gives the connection up, holds no more than it granted, and sends
/// nothing but whole frames.
pub(super) fn hostile(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let side = if choice & 1 == 0 { Side::Server } else { Side::Client };
    let step = usize::from(choice >> 2) + 1;
    let mut now = Instant::now();
    let mut connection = Connection::new(side, LIMITS, now);
    let mut streams = Vec::new();
    if side == Side::Client {
        for method in [&b"GET"[..], b"HEAD", b"POST"] {
            let head = RequestHead::new(method, b"http", b"a", b"/");
            streams.extend(connection.open(&head, method != b"POST"));
        }
    } else if choice & 2 == 0 {
        connection.recv(now, &mut BytesMut::from(PREFACE));
    }
    let mut written = Vec::new();
    for part in rest.chunks(step) {
        connection.recv(now, &mut BytesMut::from(part));
        connection.assert_sound();
        let (held, unsent) = connection.holds();
        assert!(held <= LIMITS.window as usize);
        assert!(unsent <= LIMITS.unread + 20_000, "what is to be written piles up");
        while let Some(opened) = connection.accept() {
            if let Ok(head) = opened.head {
                check_request(&head);
            }
            let _ = connection.send_head(opened.key, &ResponseHead::new(200), false);
            streams.push(opened.key);
        }
        assert!(connection.woken().count() <= 2 * LIMITS.streams as usize);
        streams.retain(|key| serve(&mut connection, *key));
        connection.assert_sound();
        let count = connection.outbox().len().min(step * 8);
        take(&mut connection, count, &mut written);
        now += Duration::from_millis(5);
    }
    streams.into_iter().for_each(|key| connection.let_go(key));
    while let Some(opened) = connection.accept() {
        connection.let_go(opened.key);
    }
    connection.assert_sound();
    assert!(connection.is_empty());
    let count = connection.outbox().len();
    take(&mut connection, count, &mut written);
    check_frames(written.strip_prefix(PREFACE).unwrap_or(&written));
}

/// As [`hostile`], but the input is cut into frames first, and some of them are good.
pub(super) fn hostile_frames(bytes: &[u8]) {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let mut bytes = vec![choice & !2];
    frame::put_head(&mut bytes, 0, Kind::Settings, 0, 0);
    while let [kind, stream, len, behind @ ..] = rest {
        let (payload, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        let flags = kind >> 4 & 0xd;
        let (known, flags, block): (Kind, u8, &[u8]) = match kind % 16 {
            0 => (Kind::Data, flags & 0x9, b""),
            1 => (Kind::Headers, flags | frame::END_HEADERS, b"\x83\x86\x84\x41\x01a"),
            2 => (Kind::Headers, flags & 1 | frame::END_HEADERS, b"\x88"),
            3 => (Kind::RstStream, 0, b"\0\0\0\x08"),
            4 => (Kind::Settings, flags & 1, b""),
            5 => (Kind::Headers, flags & 1 | frame::END_HEADERS, b"\x83\x86\x84\x5c\x03100"),
            6 => (Kind::Ping, flags & 1, b""),
            7 => (Kind::Goaway, 0, b""),
            8 => (Kind::WindowUpdate, 0, b""),
            9 => (Kind::Continuation, flags & frame::END_HEADERS, b""),
            10 => (Kind::Settings, 0, b"\0\x04\0\0\x10"),
            11 => (Kind::Headers, flags & 1, b"\x83\x86\x84"),
            12 => (Kind::Headers, flags & 1 | frame::END_HEADERS, b"\x88\x5c\x02\x31\x30"),
            13 => (Kind::Headers, 5, b"\x00\x01x\x01y"),
            14 => (Kind::WindowUpdate, 0, b"\0\0\x01"),
            _ => (Kind::Priority, 0, b""),
        };
        let stream = u32::from(*stream % 32);
        frame::put_head(&mut bytes, block.len() + payload.len(), known, flags, stream);
        bytes.extend_from_slice(block);
        bytes.extend_from_slice(payload);
    }
    hostile(&bytes);
}

/// Reads what has come, on every other stream. Whether the stream is still wanted.
fn serve(connection: &mut Connection, key: Key) -> bool {
    while let Some(Ok(_)) = connection.read_head(key) {}
    let room = connection.capacity(key, 1000);
    if room > 0 {
        assert!(connection.send_data(key, vec![b'x'; room].into(), false).is_ok());
    }
    if key.index().is_multiple_of(2) {
        return true;
    }
    let (mut ended, mut parts) = (false, 0);
    while let Some(read) = connection.read(key, 700) {
        match read {
            Read::Data { part, end } => {
                assert!(!ended && !part.is_empty());
                connection.release(key, part.len());
                ended = end;
            }
            Read::Trailers(_) => parts += 1,
            Read::End | Read::Cut(_) => {
                connection.let_go(key);
                return false;
            }
        }
        assert!(parts <= 1, "trailers come once");
    }
    true
}

/// What was taken is one request for whoever is asked next.
fn check_request(head: &RequestHead) {
    let graphic = |part: &[u8]| part.iter().all(u8::is_ascii_graphic);
    assert!(!head.method().is_empty() && graphic(head.method()));
    assert!(head.method() == b"CONNECT" || !head.scheme().is_empty() && !head.target().is_empty());
    assert!(graphic(head.scheme()) && graphic(head.authority()));
    assert!(head.target().iter().all(|byte| *byte > b' ' && *byte != 0x7f));
    for field in head.fields.iter() {
        assert!(!field.name.is_empty() && !field.name.iter().any(u8::is_ascii_uppercase));
        assert!(!field.name.contains(&b':') && !field.value.iter().any(|byte| b"\r\n\0".contains(byte)));
    }
}

/// Takes the first `count` bytes of what is to be written.
fn take(connection: &mut Connection, count: usize, into: &mut Vec<u8>) {
    let mut slices = Slices::new();
    connection.outbox().slices(&mut slices);
    into.extend(slices.iter().flat_map(|slice| slice.iter()).take(count));
    drop(slices);
    connection.written(count);
}

fn check_frames(mut bytes: &[u8]) {
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let head = frame::parse(head);
        assert!(head.kind != Kind::Unknown && head.len <= rest.len(), "half a frame, or none");
        bytes = &rest[head.len..];
    }
    assert!(bytes.is_empty());
}

/// Both ends of a connection do what `choices` say, in that order; then everybody reads and sends to the end. Each byte
/// arrives once and in order, neither finds fault with the other, nothing is stuck, and no window is lost.
pub(super) fn agreement(choices: &[u8]) {
    let mut world = World::new();
    for choice in choices.chunks(2) {
        world.step(choice[0], choice.last().copied().unwrap_or_default());
        world.check();
    }
    world.finish();
}

/// Most bytes of a body.
const MOST: usize = 150_000;

/// Both ends, the caller first.
struct World {
    ends: [End; 2],
    now: Instant,
    /// Streams that one end gave up. Each has its number in its head.
    given_up: Vec<bool>,
}

struct End {
    connection: Connection,
    /// Bytes on their way to it.
    coming: VecDeque<u8>,
    streams: BTreeMap<usize, Half>,
}

/// One end of one stream.
struct Half {
    key: Key,
    sent: usize,
    interims: usize,
    headed: bool,
    /// All was sent.
    ended: bool,
    read: usize,
    /// Bytes that were read and not released.
    held: usize,
    /// All was read.
    over: bool,
    cut: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        // What both ends do of themselves is not counted against them.
        let limits = Limits {
            streams: 16,
            replies: usize::MAX,
            unread: usize::MAX,
            resets_per_second: u32::MAX,
            settings_per_second: u32::MAX,
            useless_per_second: u32::MAX,
            ..LIMITS
        };
        let end = |side| End {
            connection: Connection::new(side, limits, now),
            coming: VecDeque::new(),
            streams: BTreeMap::new(),
        };
        World { ends: [end(Side::Client), end(Side::Server)], now, given_up: Vec::new() }
    }

    fn step(&mut self, choice: u8, which: u8) {
        let side = usize::from(choice & 1);
        let (end, size) = (&mut self.ends[side], usize::from(which));
        let stream = end.streams.keys().nth(size % end.streams.len().max(1)).copied();
        match ((choice >> 1) % 16, stream) {
            (0 | 1, _) => self.open(size),
            (2 | 3, _) => self.carry(side, size + 1),
            (4 | 5, _) => self.carry(side, size * 512),
            (6..=8, Some(number)) => end.send(side, number, size * 7 + 1),
            (9, Some(number)) => end.send(side, number, size * 300 + 1),
            (10, Some(number)) => end.finish(number, size % 2 == 0),
            (11 | 12, Some(number)) => drop(end.read(side, number, size * 20 + 1)),
            (13, Some(number)) => end.release(number),
            (14, Some(number)) if size.is_multiple_of(8) => {
                end.give_up(number);
                self.given_up[number] = true;
            }
            (_, Some(number)) => drop(end.read(side, number, MOST)),
            (_, None) => {}
        }
    }

    fn open(&mut self, size: usize) {
        let End { connection, streams, .. } = &mut self.ends[0];
        let allowed = connection.allowed().map_or(1, |allowed| allowed as usize);
        if connection.open_streams() >= allowed || self.given_up.len() == 500 {
            return;
        }
        let number = self.given_up.len();
        let mut head = RequestHead::new(b"POST", b"http", b"reviews", b"/");
        head.fields.push(b"x-number", number.to_string().as_bytes());
        head.fields.push(b"x-long", &vec![b'l'; size * 50]);
        let ended = size.is_multiple_of(9);
        let Ok(key) = connection.open(&head, ended) else { panic!("a stream is not opened") };
        streams.insert(number, Half { headed: true, ended, ..Half::new(key) });
        self.given_up.push(false);
    }

    /// Bytes go over, at most so many.
    fn carry(&mut self, to: usize, most: usize) {
        let mut bytes = Vec::new();
        let from = &mut self.ends[1 - to].connection;
        let count = most.min(from.outbox().len());
        take(from, count, &mut bytes);
        let End { connection, coming, streams } = &mut self.ends[to];
        coming.extend(bytes);
        let mut bytes: BytesMut = coming.drain(..most.min(coming.len())).collect();
        connection.recv(self.now, &mut bytes);
        assert_eq!(connection.fault(), None, "a peer that keeps the rules was given up");
        while let Some(opened) = connection.accept() {
            let Ok(head) = opened.head else { panic!("a small head is too large") };
            let number = head.fields.get(b"x-number").and_then(|number| std::str::from_utf8(number).ok());
            let Some(Ok(number)) = number.map(str::parse) else { panic!("a field is lost") };
            streams.insert(number, Half::new(opened.key));
        }
        connection.woken().for_each(drop);
    }

    fn check(&self) {
        self.ends.iter().for_each(|end| end.connection.assert_sound());
    }

    /// Whatever is under way comes to its end.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            for side in [0, 1] {
                self.carry(side, usize::MAX);
                let end = &mut self.ends[side];
                for number in end.streams.keys().copied().collect::<Vec<_>>() {
                    end.send(side, number, 1);
                    end.finish(number, true);
                    while end.read(side, number, MOST) {}
                    end.release(number);
                }
            }
            self.check();
            let is_over = |half: &Half| half.cut || half.over && half.ended;
            let quiet = self.ends.iter().all(|end| {
                end.coming.is_empty()
                    && end.connection.outbox().is_empty()
                    && end.streams.values().all(is_over)
            });
            if quiet {
                return self.compare();
            }
        }
        panic!("something is stuck");
    }

    fn compare(&mut self) {
        for (number, given_up) in self.given_up.iter().enumerate() {
            let [near, far] = [0, 1].map(|side| self.ends[side].streams.get(&number));
            let (Some(near), Some(far)) = (near, far) else {
                assert!(given_up, "a stream never came");
                continue;
            };
            for (from, to) in [(near, far), (far, near)] {
                assert!(to.read <= from.sent);
                assert!(*given_up || (to.over && to.read == from.sent && !to.cut), "a stream was cut");
            }
        }
        for end in &mut self.ends {
            for half in end.streams.values() {
                end.connection.let_go(half.key);
            }
            end.connection.assert_sound();
            assert!(end.connection.is_empty());
            assert_eq!(end.connection.holds(), (0, end.connection.outbox().len()));
        }
    }
}

impl End {
    fn send(&mut self, side: usize, number: usize, length: usize) {
        let End { connection, streams, .. } = self;
        let Some(half) = streams.get_mut(&number).filter(|half| !half.ended && !half.cut) else { return };
        if !half.headed {
            let interim = length.is_multiple_of(3) && half.interims < LIMITS.interims;
            half.interims += usize::from(interim);
            let head = ResponseHead::new(if interim { 103 } else { 200 });
            half.cut = connection.send_head(half.key, &head, false).is_err();
            half.headed = !interim;
            return;
        }
        let length = length.min(MOST - half.sent);
        let room = if length > 0 { connection.capacity(half.key, length) } else { 0 };
        assert!(room <= length);
        let part: Bytes = (half.sent..half.sent + room).map(|at| byte(number, side, at)).collect();
        match connection.send_data(half.key, part, false) {
            Ok(()) => half.sent += room,
            Err(_) => half.cut = true,
        }
    }

    fn finish(&mut self, number: usize, trailers: bool) {
        let End { connection, streams, .. } = self;
        let open = |half: &&mut Half| half.headed && !half.ended && !half.cut;
        let Some(half) = streams.get_mut(&number).filter(open) else { return };
        let ended = match trailers {
            true => connection.send_trailers(half.key, &Fields::from([("grpc-status", "0")])),
            false => connection.send_data(half.key, Bytes::new(), true),
        };
        half.ended = ended.is_ok();
        half.cut = ended.is_err();
    }

    /// Reads one part. Whether there was any.
    fn read(&mut self, side: usize, number: usize, most: usize) -> bool {
        let End { connection, streams, .. } = self;
        let Some(half) = streams.get_mut(&number).filter(|half| !half.over) else { return false };
        if side == 0 && matches!(connection.read_head(half.key), Some(Ok(_))) {
            return true;
        }
        match connection.read(half.key, most) {
            Some(Read::Data { part, end }) => {
                assert!(part.len() <= most);
                let at = half.read;
                assert!(
                    part.iter()
                        .enumerate()
                        .all(|(index, found)| *found == byte(number, 1 - side, at + index))
                );
                half.read += part.len();
                half.held += part.len();
                half.over = end;
            }
            Some(Read::Trailers(trailers)) => assert_eq!(*trailers, Fields::from([("grpc-status", "0")])),
            Some(Read::End) => half.over = true,
            Some(Read::Cut(cut)) => {
                assert!(matches!(cut, Cut::Reset(Code::CANCEL) | Cut::Given), "{cut:?}");
                half.cut = true;
                return false;
            }
            None => return false,
        }
        true
    }

    fn release(&mut self, number: usize) {
        if let Some(half) = self.streams.get_mut(&number) {
            self.connection.release(half.key, std::mem::take(&mut half.held));
        }
    }

    fn give_up(&mut self, number: usize) {
        if let Some(half) = self.streams.get_mut(&number) {
            self.connection.reset(half.key, Code::CANCEL);
            half.cut = true;
        }
    }
}

impl Half {
    fn new(key: Key) -> Self {
        Half {
            key,
            sent: 0,
            interims: 0,
            headed: false,
            ended: false,
            read: 0,
            held: 0,
            over: false,
            cut: false,
        }
    }
}

/// Byte `at` of what `side` sends on a stream.
fn byte(number: usize, side: usize, at: usize) -> u8 {
    (number * 31 + side * 7 + at * 3) as u8
}
