//! Links over QUIC: sessions whose streams have lanes, against a peer that sends anything by them, and two of them against
//! each other in any order.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::link::{OPENING, byte, heard};
use crate::error::Cause;
use crate::link::frame::{Code, Cut, HEADER_BYTES};
use crate::link::session::{Event, Inbox, Limits, Read, Session, Side, StreamId, Work};

/// Lanes of one end.
const LANES: u32 = 8;

fn limits() -> Limits {
    Limits { open_streams: LANES as usize, session_window: 300_000, heads: 200_000, ..Limits::default() }
}

/// A session whose peer does what `bytes` say on its lanes: it takes that or gives the link up, holds no more than it may
/// and a frame, and passes on no head that the codec of HTTP/1 would not take.
pub(super) fn hostile(bytes: &[u8]) {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let side = if choice & 1 == 0 { Side::Acceptor } else { Side::Opener };
    let mut now = Instant::now();
    let mut session = Session::with_lanes(side, limits(), now);
    if side == Side::Opener {
        for at in 0..LANES / 2 {
            assert!(session.open(now, &OPENING, [], b"", at % 2 == 0).is_ok());
        }
    }
    let mut inboxes: Vec<_> = (1..=LANES).map(|id| Some(Inbox::of_lane(id, side == Side::Opener))).collect();
    while let [what, length, behind @ ..] = rest {
        let lane = u32::from(*what % LANES as u8) + 1;
        let (part, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = behind;
        let place = &mut inboxes[lane as usize - 1];
        let given_up = match (what / LANES as u8, place.as_mut()) {
            (0..=15, Some(inbox)) => {
                // Only what it asks for.
                session.takes_more(lane, inbox) && session.recv_lane(now, inbox, framed(*what, part)).is_err()
            }
            (16..=19, Some(inbox)) => {
                session.takes_more(lane, inbox)
                    && session.recv_lane(now, inbox, Bytes::copy_from_slice(part)).is_err()
            }
            (20 | 21, Some(inbox)) => {
                let asked = inbox.is_opened();
                session.lane_ended(now, lane);
                let ended = over(&mut session, place);
                ended || !asked && session.lane_asked_nothing(now).is_err()
            }
            (22 | 23, Some(inbox)) => {
                let cut = Cut::new(Code::Cancelled, Cause::DownstreamAborted);
                let asked = inbox.is_opened();
                let ended = over(&mut session, place);
                ended
                    || match asked {
                        true => session.lane_reset(now, lane, cut).is_err(),
                        false => session.lane_asked_nothing(now).is_err(),
                    }
            }
            (24..=26, _) => session.recv(now, Bytes::copy_from_slice(part)).is_err(),
            _ => {
                now += Duration::from_millis((*length).into());
                session.heard_on_lanes(now);
                session.on_timeout(now).is_err()
            }
        };
        session.assert_sound();
        let (held, _) = session.holds();
        // Each lane may end with a frame that began when there was room for it.
        assert!(held <= limits().session_window as usize + LANES as usize * (64 << 10), "{held}");
        happened(&mut session, now);
        taken(&mut session, *length % 3 > 0);
        session.assert_sound();
        if given_up {
            assert!(session.fault().is_some());
            return;
        }
    }
}

/// The lane of `place` is over. Never true.
fn over(session: &mut Session, place: &mut Option<Inbox>) -> bool {
    if let Some(inbox) = place.take() {
        session.lane_over(&inbox);
    }
    false
}

/// A frame around `part` whose kind and flags are `what` says. Some have heads in front of it.
fn framed(what: u8, part: &[u8]) -> Bytes {
    let (kind, head): (u8, &[u8]) = match what / LANES as u8 {
        0 | 1 => (1, b"\x01\x00\0\0\0\0\x04POST\x01a\x01/\0\0"),
        2 => (1, b"\x01\x00\0\0\0\0\x04POST\x01a\x01/\0\x01\x0e\x01content-length5"),
        3 | 4 => (2, b"\x00\xc8\0\0"),
        5 => (2, b"\x00\xc8\0\x01\x0e\x01content-length5"),
        6 => (2, b"\x00\x67\0\0"),
        7..=10 => (3, b""),
        11 => (4, b"\0\0"),
        12 => (5, b""),
        kind => (kind - 7, b""),
    };
    let flags = match (kind, part.first().copied().unwrap_or_default() % 4) {
        (2, _) if what / LANES as u8 == 6 => 2,
        (1..=3, 0) => 1,
        _ => 0,
    };
    // A large one: what it says of its length is true.
    let repeated = if part.len() > 200 { 250 } else { 1 };
    let len = ((head.len() + part.len() * repeated) as u32).to_be_bytes();
    let header = [len[1], len[2], len[3], kind, flags, 0, 0, 0];
    [&header[..], head, &part.repeat(repeated)].concat().into()
}

/// What happened is heard: some is read and answered, and some is left alone.
fn happened(session: &mut Session, now: Instant) {
    for stream in heard(session) {
        let _ = session.send_head(stream, 200, [], b"answer", stream.number() % 3 == 0);
        let _ = session.send_data(stream, &mut Bytes::from(vec![7; 40_000]), false);
        if stream.number() % 5 == 0 {
            session.reset(now, stream, Cut::new(Code::Cancelled, Cause::DownstreamAborted));
        }
    }
}

/// Does the work on lanes; `all` is taken by what carries them, or nothing is.
fn taken(session: &mut Session, all: bool) {
    let mut lane = VecDeque::new();
    let mut took = 0;
    while let Some(work) = session.work() {
        if let Work::Frame { bytes, .. } = work {
            assert_eq!(bytes[5..HEADER_BYTES], [0; 3], "a lane says whose it is, and no header");
            took += bytes.len();
        }
    }
    while let Some(stream) = session.with_body() {
        took += session.body(stream.to_owned(), &mut lane).0;
        if all {
            session.lane_drained(stream);
        }
    }
    if all {
        session.lane_took(took);
    }
    let outbox = session.transmit();
    outbox.advance(outbox.len());
}

/// Both ends of a link whose streams have lanes do what `choices` say, in that order; then everybody reads and sends to the
/// end. Each byte arrives once and in order, whatever overtakes what, and nothing is stuck.
pub(super) fn agreement(choices: &[u8]) {
    let mut world = World::new();
    for pair in choices.chunks_exact(2) {
        world.step(pair[0], pair[1]);
    }
    world.finish();
}

/// Both ends, and what is under way between them.
struct World {
    now: Instant,
    ends: [End; 2],
    streams: Vec<StreamId>,
}

struct End {
    session: Session,
    /// Lanes that lead to it.
    lanes: BTreeMap<u32, OnLane>,
    /// Of each stream: what was sent, and what was read.
    out: BTreeMap<u32, (usize, bool)>,
    inward: BTreeMap<u32, (usize, bool)>,
}

#[derive(Default)]
struct OnLane {
    bytes: VecDeque<u8>,
    inbox: Option<Inbox>,
    /// Nothing follows.
    ends: bool,
    over: bool,
    /// No more was taken off it, until that is asked for.
    held: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let end = |side| End {
            session: Session::with_lanes(side, limits(), now),
            lanes: BTreeMap::new(),
            out: BTreeMap::new(),
            inward: BTreeMap::new(),
        };
        World { now, ends: [end(Side::Opener), end(Side::Acceptor)], streams: Vec::new() }
    }

    fn step(&mut self, choice: u8, which: u8) {
        let side = usize::from(choice & 1);
        let stream = self.streams.get(usize::from(which) % self.streams.len().max(1)).copied();
        match ((choice >> 1) % 8, stream) {
            (0, _) if self.streams.len() < 2 * LANES as usize => self.open(),
            (1 | 2, Some(stream)) => self.send(side, stream, usize::from(which) * 500, which == 255),
            (3 | 4, Some(stream)) => self.carry(side, stream, usize::from(which) * 400),
            (5, Some(stream)) => self.read(side, stream),
            _ => self.distribute(side),
        }
        for end in &self.ends {
            end.session.assert_sound();
        }
    }

    fn open(&mut self) {
        let [opener, _] = &mut self.ends;
        if let Ok((stream, _)) = opener.session.open(self.now, &OPENING, [], b"", false) {
            opener.out.insert(stream.number(), (0, false));
            opener.inward.insert(stream.number(), (0, false));
            self.streams.push(stream);
        }
    }

    fn send(&mut self, side: usize, stream: StreamId, length: usize, ends: bool) {
        let End { session, out, .. } = &mut self.ends[side];
        let Some((sent, ended)) = out.get_mut(&stream.number()).filter(|(_, ended)| !ended) else { return };
        if side == 1 && *sent == 0 {
            let _ = session.send_head(stream, 200, [], b"", false);
        }
        let body: Bytes = (*sent..*sent + length).map(|at| byte(stream.number(), side, at)).collect();
        let taken = match length % 2 {
            0 => session.send_data(stream, &mut body.clone(), ends),
            _ => session.send_slice(stream, &body, ends),
        };
        let Ok(taken) = taken else { panic!("nobody gave it up: {taken:?}") };
        *sent += taken;
        *ended = ends && taken == length;
    }

    /// What `side` has to send goes on its lanes.
    fn distribute(&mut self, side: usize) {
        let [a, b] = &mut self.ends;
        let (from, to) = if side == 0 { (a, b) } else { (b, a) };
        while let Some(work) = from.session.work() {
            match work {
                Work::Frame { stream, bytes, ends } => {
                    let lane = to.lanes.entry(stream).or_default();
                    lane.bytes.extend(bytes);
                    lane.ends |= ends;
                }
                Work::Read(stream) => {
                    if let Some(lane) = from.lanes.get_mut(&stream) {
                        lane.held = false;
                    }
                }
                Work::Reset(..) => panic!("nobody gave it up"),
            }
        }
        while let Some(stream) = from.session.with_body() {
            let mut parts = VecDeque::new();
            let (moved, ends) = from.session.body(stream, &mut parts);
            let lane = to.lanes.entry(stream).or_default();
            let before = lane.bytes.len();
            lane.bytes.extend(parts.into_iter().flatten());
            assert_eq!(lane.bytes.len() - before, moved);
            lane.ends |= ends;
        }
        let outbox = from.session.transmit();
        outbox.advance(outbox.len());
    }

    /// Bytes arrive at `to`, at most so many, if it takes any.
    fn carry(&mut self, to: usize, stream: StreamId, most: usize) {
        let id = stream.number();
        let [a, b] = &mut self.ends;
        let (to, from, is_opener) = if to == 0 { (a, b, true) } else { (b, a, false) };
        let Some(lane) = to.lanes.get_mut(&id).filter(|lane| !lane.over) else { return };
        let inbox = lane.inbox.get_or_insert_with(|| Inbox::of_lane(id, is_opener));
        lane.held |= !to.session.takes_more(id, inbox);
        if lane.held {
            return;
        }
        let some: Bytes = lane.bytes.drain(..most.min(lane.bytes.len())).collect();
        from.session.lane_took(some.len());
        if let Err(fault) = to.session.recv_lane(self.now, inbox, some) {
            panic!("a peer that keeps the rules was given up: {fault}");
        }
        if lane.bytes.is_empty() {
            from.session.lane_drained(id);
            if lane.ends {
                lane.over = true;
                to.session.lane_over(inbox);
                to.session.lane_ended(self.now, id);
            }
        }
        while let Some(event) = to.session.event() {
            if let Event::Opened { stream, .. } = event {
                to.out.insert(stream.number(), (0, false));
                assert!(to.inward.insert(stream.number(), (0, false)).is_none(), "it is opened once");
            }
        }
    }

    fn read(&mut self, side: usize, stream: StreamId) {
        let End { session, inward, .. } = &mut self.ends[side];
        let Some((seen, ended)) = inward.get_mut(&stream.number()) else { return };
        match session.read(stream) {
            Some(Read::Data(bytes)) => {
                for (at, found) in bytes.iter().enumerate() {
                    assert_eq!(*found, byte(stream.number(), 1 - side, *seen + at));
                }
                *seen += bytes.len();
                session.release(stream, bytes.len());
            }
            Some(Read::End) => *ended = true,
            Some(Read::Cut(cut)) => panic!("nobody gave it up: {cut:?}"),
            Some(Read::Head(_) | Read::Trailers(_)) | None => {}
        }
    }

    fn finish(mut self) {
        for round in 0.. {
            assert!(round < 2000, "nothing is stuck");
            for side in [0, 1] {
                for stream in self.streams.clone() {
                    self.send(side, stream, 100, true);
                    self.distribute(side);
                    self.carry(1 - side, stream, 100_000);
                    for _ in 0..20 {
                        self.read(1 - side, stream);
                    }
                }
                self.distribute(side);
                self.ends[side].session.assert_sound();
            }
            if self.ends.iter().all(|end| end.session.open_streams() == 0) {
                break;
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            for (stream, (sent, _)) in &self.ends[from].out {
                assert_eq!(self.ends[to].inward[stream], (*sent, true), "{stream}");
            }
            assert_eq!(self.ends[from].session.holds(), (0, 0));
        }
    }
}
