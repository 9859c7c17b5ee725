//! Links: a session against a peer that sends anything, and two of them against each other in any order.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Cause;
use crate::http::h1::head;
use crate::link::frame::{Code, Cut, HEADER_BYTES};
use crate::link::head::{Opening, Protocol, RequestHead, Scheme};
use crate::link::negotiate::message::Message;
use crate::link::session::{
    Event, Leave, Limits, Read, STREAM_CREDIT, SendError, Session, Side, Slices, StreamId,
};

/// A session whose peer sends `bytes`: it takes them or gives the link up, holds no more than it granted, and passes on no
/// head that the codec of HTTP/1 would not take.
pub(super) fn hostile(bytes: &[u8]) {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let side = if choice & 1 == 0 { Side::Acceptor } else { Side::Opener };
    let step = usize::from(choice >> 2) + 1;
    let mut now = Instant::now();
    let mut session = Session::new(side, Limits { open_streams: 8, ..Limits::default() }, now);
    if side == Side::Opener {
        for method in [&b"GET"[..], b"HEAD", b"CONNECT"] {
            let head = Opening { method, path: if method == b"CONNECT" { b"" } else { b"/" }, ..OPENING };
            assert!(session.open(now, &head, [], b"", method == b"GET").is_ok());
        }
    }
    while !rest.is_empty() {
        let (front, behind) = rest.split_at(step.min(rest.len()));
        rest = behind;
        let given_up = session.recv(now, Bytes::copy_from_slice(front)).is_err();
        session.assert_sound();
        assert!(session.holds().0 <= Limits::default().session_window as usize);
        for stream in heard(&mut session) {
            let _ = session.send_head(stream, 200, [], b"answer", stream.number() % 3 == 0);
        }
        session.assert_sound();
        let outbox = session.transmit();
        outbox.advance(outbox.len());
        if given_up {
            assert!(session.fault().is_some() && session.recv(now, Bytes::copy_from_slice(front)).is_err());
            return;
        }
        now += Duration::from_millis(50);
        let _ = session.on_timeout(now);
    }
}

/// A message about wires is read whole or not at all, and as it is written.
pub(super) fn check_control(kind: u16, bytes: &[u8]) {
    if let Some(message) = Message::read(kind, bytes) {
        let (kind, bytes) = message.write();
        assert_eq!(Message::read(kind, &bytes), Some(message));
    }
}

/// As [`hostile`], but the input is cut into frames first, so that each has a header that may be.
pub(super) fn hostile_frames(bytes: &[u8]) {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let mut frames = vec![*choice];
    while let [kind, stream, len, behind @ ..] = rest {
        let (payload, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        let (head, flags): (&[u8], u8) = match kind % 16 {
            1 => (b"\x01\x00\0\0\0\0\x03GET\x01a\x01/\0\0", kind >> 7),
            11 => (b"\x01\x00\0\0\0\0\x04POST\x01a\x01/\0\x01\x0e\x01content-length5", kind >> 7),
            2 => (b"\x00\xc8\0\0", kind >> 7),
            12 => (b"\x00\xc8\0\x01\x0e\x01content-length5", kind >> 7),
            13 => (b"\x00\x67\0\0", 2),
            _ => (b"", kind >> 6),
        };
        let kind = match kind % 16 {
            11 => 1,
            12 | 13 => 2,
            kind => kind,
        };
        let len = ((head.len() + payload.len()) as u32).to_be_bytes();
        frames.extend_from_slice(&[len[1], len[2], len[3], kind, flags, 0, 0, *stream % 16]);
        frames.extend_from_slice(head);
        frames.extend_from_slice(payload);
    }
    hostile(&frames);
}

/// What happened is heard, and every other stream is read. Returns the streams that were opened.
pub(super) fn heard(session: &mut Session) -> Vec<StreamId> {
    let mut opened = Vec::new();
    while let Some(event) = session.event() {
        match event {
            Event::Opened { stream, head, .. } => {
                check_request(&head);
                opened.push(stream);
            }
            // A reader that takes all, on every other stream.
            Event::Readable(stream) if stream.number() % 2 == 0 => {
                while let Some(read) = session.read(stream) {
                    if let Read::Data(bytes) = read {
                        session.release(stream, bytes.len());
                    }
                }
            }
            Event::Control { kind, bytes } => check_control(kind, &bytes),
            _ => {}
        }
    }
    opened
}

/// What the link took is one request for whoever reads HTTP/1 behind it.
pub(super) fn check_request(request: &RequestHead) {
    if request.protocol == Protocol::Tunnel {
        return;
    }
    let target =
        if request.path_and_query().is_empty() { request.authority() } else { request.path_and_query() };
    let mut text = Vec::new();
    for part in [request.method(), b" ", target, b" HTTP/1.1\r\nHost: ", request.authority(), b"\r\n"] {
        text.extend_from_slice(part);
    }
    for field in request.fields() {
        for part in [field.name, b": ", field.value, b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    let mut room = head::room();
    match head::request(&text, &mut room) {
        Ok(Some(read)) => {
            assert_eq!(read.len, text.len(), "one head, and nothing behind it");
            assert_eq!((read.method, read.target), (request.method(), target));
            assert_eq!(read.fields.list.len(), request.fields().count() + 1);
            assert!(request.fields().zip(&read.fields.list[1..]).all(|(sent, read)| sent.name == read.name));
        }
        // With Host there is one more field than may be.
        refused => assert_eq!(request.fields().count(), head::MAX_FIELDS, "{refused:?}"),
    }
}

/// Two ends of a link do what `choices` say, in that order; then everybody reads and sends to the end. Each byte arrives
/// once and in order, nobody holds more than was granted, nothing is stuck, and no credit is lost.
pub(super) fn agreement(choices: &[u8]) {
    let mut world = World::new();
    let mut choices = choices.iter().copied();
    while let Some(choice) = choices.next() {
        let which = choices.next().unwrap_or_default();
        world.step(choice, which);
        world.check();
    }
    world.finish();
}

pub(super) const OPENING: Opening<'static> = Opening {
    protocol: Protocol::Http1,
    scheme: Scheme::Http,
    method: b"POST",
    authority: b"reviews",
    path: b"/",
    deadline: None,
};

/// Most bytes of a body.
const MOST: usize = 300_000;

/// Both ends, what is under way between them, and what of each stream was sent and seen.
struct World {
    ends: [End; 2],
    now: Instant,
    streams: BTreeMap<u32, StreamId>,
}

struct End {
    session: Session,
    /// Bytes on their way to it.
    coming: VecDeque<u8>,
    /// Where each stream's half that goes out stands.
    out: BTreeMap<u32, Sent>,
    /// And each that comes in.
    inward: BTreeMap<u32, Seen>,
}

#[derive(Default)]
struct Sent {
    bytes: usize,
    headed: bool,
    ended: bool,
    cut: bool,
}

#[derive(Default)]
struct Seen {
    bytes: usize,
    held: usize,
    ended: bool,
    cut: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let end = |side| End {
            session: Session::new(side, Limits { open_streams: 40, ..Limits::default() }, now),
            coming: VecDeque::new(),
            out: BTreeMap::new(),
            inward: BTreeMap::new(),
        };
        World { ends: [end(Side::Opener), end(Side::Acceptor)], now, streams: BTreeMap::new() }
    }

    fn step(&mut self, choice: u8, which: u8) {
        let side = usize::from(choice & 1);
        let stream = self.streams.values().nth(usize::from(which) % self.streams.len().max(1)).copied();
        match (choice >> 1) % 16 {
            0 | 1 => self.open(usize::from(which) * 24),
            2 | 3 => self.carry(side, usize::from(which) + 1),
            4 | 5 => self.carry(side, usize::from(which) * 1024),
            6 => self.now += Duration::from_millis(which.into()),
            _ => {
                let Some(stream) = stream else { return };
                match (choice >> 1) % 16 {
                    7 | 8 => self.send(side, stream, usize::from(which) * 7),
                    9 => self.send(side, stream, usize::from(which) * 700),
                    10 => self.end(side, stream, which),
                    11..=13 => self.read(side, stream),
                    14 => self.release(side, stream),
                    _ if which.is_multiple_of(8) => self.reset(side, stream),
                    _ => self.read(side, stream),
                }
            }
        }
    }

    fn open(&mut self, body: usize) {
        let opener = &mut self.ends[0];
        let number = opener.out.len() as u32 + 1;
        let body: Vec<u8> = (0..body).map(|at| byte(number, 0, at)).collect();
        let Ok((stream, taken)) = opener.session.open(self.now, &OPENING, [], &body, false) else { return };
        assert_eq!(stream.number(), number);
        opener.out.insert(number, Sent { bytes: taken, headed: true, ..Sent::default() });
        opener.inward.insert(number, Seen::default());
        self.streams.insert(number, stream);
    }

    /// Bytes go over, at most so many.
    fn carry(&mut self, to: usize, most: usize) {
        let from = &mut self.ends[1 - to].session;
        let outbox = from.transmit();
        let mut slices = Slices::new();
        outbox.slices(&mut slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
        drop(slices);
        outbox.advance(bytes.len());
        self.ends[to].coming.extend(bytes);
        let end = &mut self.ends[to];
        let most = most.min(end.coming.len());
        let bytes: Bytes = end.coming.drain(..most).collect();
        if let Err(fault) = end.session.recv(self.now, bytes) {
            panic!("a peer that keeps the rules was given up: {fault}");
        }
        while let Some(event) = end.session.event() {
            match event {
                Event::Opened { stream, .. } => {
                    end.out.insert(stream.number(), Sent::default());
                    end.inward.insert(stream.number(), Seen::default());
                }
                Event::Cut(stream, _) => {
                    if let Some(sent) = end.out.get_mut(&stream.number()) {
                        sent.cut = true;
                    }
                }
                Event::Leave { .. } | Event::Control { .. } => panic!("nobody sent this"),
                Event::Readable(_) | Event::Writable(_) => {}
            }
        }
    }

    fn send(&mut self, side: usize, stream: StreamId, length: usize) {
        let end = &mut self.ends[side];
        let Some(sent) = end.out.get_mut(&stream.number()) else { return };
        if sent.ended || sent.cut {
            return;
        }
        if !sent.headed {
            let info = length.is_multiple_of(3);
            match end.session.send_head(stream, if info { 103 } else { 200 }, [], b"", false) {
                Ok(_) => sent.headed = !info,
                Err(SendError::Cut(_) | SendError::Gone) => sent.cut = true,
                Err(SendError::TooLarge) => panic!("a small head is too large"),
            }
            return;
        }
        let length = length.min(MOST - sent.bytes);
        let body: Bytes =
            (sent.bytes..sent.bytes + length).map(|at| byte(stream.number(), side, at)).collect();
        let room = end.session.can_send(stream);
        let taken = if length.is_multiple_of(2) {
            end.session.send_data(stream, &mut body.clone(), false)
        } else {
            end.session.send_slice(stream, &body, false)
        };
        match taken {
            Ok(taken) => {
                assert_eq!(taken, length.min(room));
                sent.bytes += taken;
            }
            Err(_) => sent.cut = true,
        }
    }

    fn end(&mut self, side: usize, stream: StreamId, how: u8) {
        let end = &mut self.ends[side];
        let Some(sent) = end.out.get_mut(&stream.number()) else { return };
        if sent.ended || sent.cut || !sent.headed {
            return;
        }
        let ended = match how % 2 {
            0 => end.session.finish(stream),
            _ => end.session.send_trailers(stream, [(&b"grpc-status"[..], &b"0"[..])]),
        };
        sent.ended = ended.is_ok();
        sent.cut = ended.is_err();
    }

    /// Reads one part.
    fn read(&mut self, side: usize, stream: StreamId) {
        let end = &mut self.ends[side];
        let Some(seen) = end.inward.get_mut(&stream.number()) else { return };
        match end.session.read(stream) {
            Some(Read::Data(bytes)) => {
                for (at, found) in bytes.iter().enumerate() {
                    assert_eq!(*found, byte(stream.number(), 1 - side, seen.bytes + at));
                }
                seen.bytes += bytes.len();
                seen.held += bytes.len();
                assert!(!seen.ended && !seen.cut);
            }
            Some(Read::End) => seen.ended = true,
            Some(Read::Cut(_)) => seen.cut = true,
            Some(Read::Head(_) | Read::Trailers(_)) | None => {}
        }
    }

    fn release(&mut self, side: usize, stream: StreamId) {
        let end = &mut self.ends[side];
        if let Some(seen) = end.inward.get_mut(&stream.number()) {
            end.session.release(stream, std::mem::take(&mut seen.held));
        }
    }

    fn reset(&mut self, side: usize, stream: StreamId) {
        let end = &mut self.ends[side];
        let (Some(sent), Some(seen)) =
            (end.out.get_mut(&stream.number()), end.inward.get_mut(&stream.number()))
        else {
            return;
        };
        end.session.reset(self.now, stream, Cut::new(Code::Cancelled, Cause::DownstreamAborted));
        sent.cut = true;
        seen.cut |= !seen.ended;
    }

    fn check(&self) {
        for end in &self.ends {
            end.session.assert_sound();
            let (held, queued) = end.session.holds();
            let (credit, granted) = end.session.credits();
            assert!(held as u64 + u64::from(granted) <= u64::from(Limits::default().session_window));
            assert!(queued <= self.streams.len() * STREAM_CREDIT as usize);
            assert!(u64::from(credit) <= u64::from(Limits::default().session_window));
        }
    }

    /// Everybody reads, releases, sends what is left and ends.
    fn finish(mut self) {
        let streams: Vec<StreamId> = self.streams.values().copied().collect();
        for round in 0.. {
            assert!(round < 400, "nothing is stuck");
            self.now += Duration::from_secs(1);
            for end in &mut self.ends {
                assert!(end.session.on_timeout(self.now).is_ok());
            }
            for side in [0, 1] {
                while self.ends[1 - side].session.wants_transmit() || !self.ends[side].coming.is_empty() {
                    self.carry(side, 40_000);
                }
                for stream in &streams {
                    // Twice: the first may have sent an informational head only.
                    self.send(side, *stream, 1000);
                    self.send(side, *stream, 1000);
                    self.end(side, *stream, stream.number() as u8);
                    for _ in 0..200 {
                        self.read(side, *stream);
                    }
                    self.release(side, *stream);
                }
            }
            self.check();
            let idle = |end: &End| end.session.open_streams() == 0 && !end.session.wants_transmit();
            if self.ends.iter().all(|end| idle(end) && end.coming.is_empty()) {
                break;
            }
        }
        for stream in streams.iter().map(|stream| stream.number()) {
            for side in [0, 1] {
                let (sent, seen) =
                    (self.ends[side].out.get(&stream), self.ends[1 - side].inward.get(&stream));
                let (Some(sent), Some(seen)) = (sent, seen) else { continue };
                assert!(seen.bytes <= sent.bytes);
                assert!(!seen.ended || (sent.ended && seen.bytes == sent.bytes), "what ended well is whole");
                assert!(seen.ended || seen.cut, "each half ends");
            }
        }
        // All that was taken is known to both ends as free again.
        for side in [0, 1] {
            assert_eq!(self.ends[side].session.credits().0, self.ends[1 - side].session.credits().1);
            assert_eq!(self.ends[side].session.holds(), (0, 0));
        }
        self.leave();
    }

    /// A link without streams is left at once.
    fn leave(&mut self) {
        self.ends[1].session.leave(Leave::Now, Duration::from_secs(1), "drain");
        let outbox = self.ends[1].session.transmit();
        assert_eq!(outbox.len(), HEADER_BYTES + 7 + "drain".len());
        let mut slices = Slices::new();
        outbox.slices(&mut slices);
        let bytes: Bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        drop(slices);
        outbox.advance(bytes.len());
        let opener = &mut self.ends[0].session;
        assert!(opener.recv(self.now, bytes).is_ok());
        assert!(!opener.can_open() && opener.is_done() && self.ends[1].session.is_done());
    }
}

/// Byte `at` of a stream's half.
pub(super) fn byte(stream: u32, side: usize, at: usize) -> u8 {
    (stream as usize * 31 + side * 17 + at + at / 251) as u8
}
