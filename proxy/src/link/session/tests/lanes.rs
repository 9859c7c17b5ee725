//! Two sessions whose streams each have a lane: whatever overtakes what, each stream is whole in itself.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::link::frame::HEADER_BYTES;
use crate::link::session::recv::Inbox;

/// What is on its way in one direction.
#[derive(Default)]
struct Way {
    control: VecDeque<u8>,
    lanes: BTreeMap<u32, OnLane>,
}

#[derive(Default)]
struct OnLane {
    bytes: VecDeque<u8>,
    ended: bool,
    reset: Option<Cut>,
    inbox: Option<Inbox>,
    over: bool,
    /// No more was taken off it, until that is asked for.
    stopped: bool,
}

impl Way {
    /// Takes all that `session` has to send. `back` is what it takes in.
    fn fill(&mut self, session: &mut Session, back: &mut Way) {
        self.control.extend(written(session, usize::MAX));
        loop {
            while let Some(work) = session.work() {
                match work {
                    Work::Frame { stream, bytes, ends } => {
                        assert_eq!(bytes[5..HEADER_BYTES], [0; 3], "a lane says whose it is, and no header");
                        let lane = self.lanes.entry(stream).or_default();
                        assert!(!lane.ended, "nothing follows the end");
                        session.lane_took(bytes.len());
                        lane.bytes.extend(bytes);
                        lane.ended = ends;
                        session.lane_drained(stream);
                    }
                    Work::Reset(stream, cut) => self.lanes.entry(stream).or_default().reset = Some(cut),
                    Work::Read(stream) => {
                        if let Some(lane) = back.lanes.get_mut(&stream) {
                            lane.stopped = false;
                        }
                    }
                }
            }
            let Some(stream) = session.with_body() else { return };
            let mut parts = VecDeque::new();
            let (moved, ends) = session.body(stream, &mut parts);
            session.lane_took(moved);
            let lane = self.lanes.entry(stream).or_default();
            lane.bytes.extend(parts.into_iter().flatten());
            lane.ended |= ends;
            session.lane_drained(stream);
        }
    }

    /// Moves some bytes of some lane to `session`. False: nothing can be moved.
    fn deliver(&mut self, session: &mut Session, now: Instant, random: &mut fastrand::Rng) -> bool {
        if !self.control.is_empty() {
            let some = random.usize(1..=self.control.len());
            session.recv(now, self.control.drain(..some).collect()).unwrap();
            return true;
        }
        let open =
            |(id, lane): (&u32, &mut OnLane)| (!lane.over && lane.has_some(*id, session)).then_some(*id);
        let ready: Vec<u32> = self.lanes.iter_mut().filter_map(open).collect();
        let Some(id) = random.choice(&ready).copied() else { return false };
        let Some(lane) = self.lanes.get_mut(&id) else { return false };
        if let Some(cut) = lane.reset {
            // It overtakes what was sent.
            lane.over = true;
            session.lane_reset(now, id, cut).unwrap();
            return true;
        }
        let some = random.usize(0..=lane.bytes.len().min(9000));
        let part: Bytes = lane.bytes.drain(..some).collect();
        let inbox = lane.inbox.get_or_insert_with(|| Inbox::of_lane(id, session.side == Side::Opener));
        session.recv_lane(now, inbox, part).unwrap();
        if lane.bytes.is_empty() && lane.ended {
            lane.over = true;
            session.lane_ended(now, id);
        }
        true
    }
}

impl OnLane {
    fn has_some(&mut self, id: u32, session: &mut Session) -> bool {
        self.stopped |= self.inbox.as_ref().is_some_and(|inbox| !session.takes_more(id, inbox));
        self.reset.is_some() || (!self.stopped && (!self.bytes.is_empty() || self.ended))
    }
}

/// What comes of a stream at one end.
#[derive(Debug, Default)]
struct Got {
    bytes: usize,
    ended: bool,
    cut: bool,
}

fn pattern(stream: u32, at: usize) -> u8 {
    (at * 7 + at / 251) as u8 ^ stream as u8
}

/// Reads all there is on the streams of `session`, and releases it.
fn read(session: &mut Session, got: &mut BTreeMap<u32, Got>) {
    for (id, got) in got {
        let stream = StreamId(*id);
        while let Some(part) = session.read(stream) {
            match part {
                Read::Data(bytes) => {
                    for (at, byte) in bytes.iter().enumerate() {
                        assert_eq!(*byte, pattern(*id, got.bytes + at));
                    }
                    got.bytes += bytes.len();
                    session.release(stream, bytes.len());
                }
                Read::End => got.ended = true,
                Read::Cut(_) => got.cut = true,
                Read::Head(_) | Read::Trailers(_) => {}
            }
        }
    }
}

/// Sends as much as there is room for of a body of `length`, of which `sent` bytes went before.
fn send(session: &mut Session, id: u32, length: usize, sent: &mut usize) {
    let part: Vec<u8> = (*sent..length).map(|at| pattern(id, at)).collect();
    if let Ok(taken) = session.send_slice(StreamId(id), &part, true) {
        *sent += taken;
    }
}

fn exchanges(seed: u64) {
    let now = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut opener = Session::with_lanes(Side::Opener, Limits::default(), now);
    let mut acceptor = Session::with_lanes(Side::Acceptor, Limits::default(), now);
    let (mut there, mut back) = (Way::default(), Way::default());
    // By stream: how long its body is, how much was sent each way.
    let mut bodies: BTreeMap<u32, (usize, [usize; 2])> = BTreeMap::new();
    let (mut asked, mut answered) = (BTreeMap::<u32, Got>::new(), BTreeMap::<u32, Got>::new());
    let mut resets = Vec::new();
    for turn in 0..6000 {
        if bodies.len() < 12 && random.u8(..) < 10 {
            let head = Opening {
                protocol: Protocol::Http1,
                scheme: Scheme::Http,
                method: b"POST",
                authority: b"a",
                path: b"/",
                deadline: None,
            };
            let (stream, _) = opener.open(now, &head, [], &[], false).unwrap();
            bodies.insert(stream.number(), (random.usize(1..300_000), [0; 2]));
            answered.insert(stream.number(), Got::default());
        }
        for (id, (length, [sent, back_sent])) in &mut bodies {
            if *sent < *length {
                send(&mut opener, *id, *length, sent);
            }
            if asked.get(id).is_some_and(|got| got.ended) && *back_sent < *length {
                if *back_sent == 0 {
                    let _ = acceptor.send_head(StreamId(*id), 200, [], &[], false);
                }
                send(&mut acceptor, *id, *length, back_sent);
            }
        }
        if turn % 700 == 699 && !bodies.is_empty() {
            let id = *random.choice(&bodies.keys().copied().collect::<Vec<_>>()).unwrap();
            let session = if random.bool() { &mut opener } else { &mut acceptor };
            if session.reset(now, StreamId(id), Cut::new(Code::Cancelled, Cause::DownstreamAborted)) {
                resets.push(id);
            }
        }
        there.fill(&mut opener, &mut back);
        back.fill(&mut acceptor, &mut there);
        let moved =
            [there.deliver(&mut acceptor, now, &mut random), back.deliver(&mut opener, now, &mut random)];
        while let Some(event) = acceptor.event() {
            if let Event::Opened { stream, .. } = event {
                assert!(asked.insert(stream.number(), Got::default()).is_none(), "it is opened once");
            }
        }
        while opener.event().is_some() {}
        read(&mut acceptor, &mut asked);
        read(&mut opener, &mut answered);
        opener.assert_sound();
        acceptor.assert_sound();
        if bodies.len() == 12 && moved == [false; 2] {
            break;
        }
    }
    for (id, (length, _)) in bodies {
        if resets.contains(&id) {
            for got in [asked.get(&id), answered.get(&id)].into_iter().flatten() {
                assert!(got.bytes <= length && (!got.ended || got.bytes == length), "{id}: {got:?}");
            }
            continue;
        }
        for got in [&asked[&id], &answered[&id]] {
            assert_eq!((got.bytes, got.ended, got.cut), (length, true, false), "{id}, {seed}");
        }
    }
    assert_eq!((opener.open_streams(), acceptor.open_streams()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_overtakes_what_each_stream_is_whole(seed: u64) {
        exchanges(seed);
    }

    #[test]
    fn a_lane_takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400, opener: bool) {
        let now = Instant::now();
        let side = if opener { Side::Opener } else { Side::Acceptor };
        let mut session = Session::with_lanes(side, Limits::default(), now);
        let mut inbox = Inbox::of_lane(1, opener);
        let (front, rest) = bytes.split_at(cut.min(bytes.len()));
        if session.recv_lane(now, &mut inbox, Bytes::copy_from_slice(front)).is_ok() {
            let _ = session.recv_lane(now, &mut inbox, Bytes::copy_from_slice(rest));
        }
        session.assert_sound();
    }
}

#[test]
fn a_lane_opens_its_stream_first_and_once() {
    let now = Instant::now();
    let head = Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"GET",
        authority: b"a",
        path: b"/",
        deadline: None,
    };
    let mut opener = Session::with_lanes(Side::Opener, Limits::default(), now);
    opener.open(now, &head, [], &[], false).unwrap();
    let Some(Work::Frame { bytes: open, ends: false, .. }) = opener.work() else { panic!("it is opened") };
    let data = Bytes::from_static(&[0, 0, 0, 3, 1, 0, 0, 0]);
    let credit = Bytes::from_static(&[0, 0, 4, 6, 0, 0, 0, 0, 0, 0, 0, 1]);
    let of_another = Bytes::from_static(&[0, 0, 0, 3, 1, 0, 0, 1]);
    for (frames, fault) in [
        (vec![&open, &open], Fault::OutOfPlace),
        (vec![&data], Fault::OutOfPlace),
        (vec![&open, &credit], Fault::OutOfPlace),
        (vec![&open, &of_another], Fault::BadHeader),
    ] {
        let mut acceptor = Session::with_lanes(Side::Acceptor, Limits::default(), now);
        let mut inbox = Inbox::of_lane(1, false);
        let mut taken = frames.into_iter().map(|frame| acceptor.recv_lane(now, &mut inbox, frame.clone()));
        assert_eq!(taken.find_map(Result::err), Some(fault));
    }
    // Frames of streams have no business among those of the link.
    let mut acceptor = Session::with_lanes(Side::Acceptor, Limits::default(), now);
    assert_eq!(acceptor.recv(now, open), Err(Fault::BadHeader));
}

#[test]
fn lanes_that_ask_for_nothing_are_counted() {
    let now = Instant::now();
    let mut acceptor = Session::with_lanes(Side::Acceptor, Limits::default(), now);
    let most = Limits::default().useless_per_second as usize;
    let taken = (0..2 * most).take_while(|_| acceptor.lane_asked_nothing(now).is_ok()).count();
    assert_eq!((taken, acceptor.fault()), (most, Some(Fault::Useless)));
}

#[test]
fn a_lane_that_ends_before_its_stream_cuts_it_off() {
    let now = Instant::now();
    let mut opener = Session::with_lanes(Side::Opener, Limits::default(), now);
    let mut acceptor = Session::with_lanes(Side::Acceptor, Limits::default(), now);
    let head = Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"POST",
        authority: b"a",
        path: b"/",
        deadline: None,
    };
    let (stream, _) = opener.open(now, &head, [], b"half", false).unwrap();
    let mut inbox = Inbox::of_lane(1, false);
    while let Some(Work::Frame { bytes, .. }) = opener.work() {
        acceptor.recv_lane(now, &mut inbox, bytes).unwrap();
    }
    acceptor.lane_ended(now, stream.number());
    let cut = Cut::new(Code::Internal, Cause::DownstreamAborted);
    assert_eq!(acceptor.work(), Some(Work::Reset(1, cut)));
    assert!(matches!(acceptor.read(stream), Some(Read::Cut(said)) if said == cut));
}

#[test]
fn a_lane_that_was_held_back_is_read_on_whatever_it_ended_with() {
    let now = Instant::now();
    let head = Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"GET",
        authority: b"a",
        path: b"/",
        deadline: None,
    };
    let mut opener = Session::with_lanes(Side::Opener, Limits::default(), now);
    let (stream, _) = opener.open(now, &head, [], &[], true).unwrap();
    while opener.work().is_some() {}
    let header = [0x01, 0, 0, Type::Data as u8, 0, 0, 0, 0];
    let mut inbox = Inbox::of_lane(1, true);
    let answer = Bytes::from_static(&[0, 0, 4, Type::Head as u8, 0, 0, 0, 0, 0, 200, 0, 0]);
    opener.recv_lane(now, &mut inbox, answer).unwrap();
    // A chunk ends exactly behind the header of a frame.
    let body = [&header[..], &[7; 65536], &header].concat();
    opener.recv_lane(now, &mut inbox, body.into()).unwrap();
    assert!(!opener.takes_more(1, &inbox), "nobody has read yet");
    assert!(matches!(opener.read(stream), Some(Read::Head(_))));
    while let Some(Read::Data(bytes)) = opener.read(stream) {
        opener.release(stream, bytes.len());
    }
    assert!(opener.takes_more(1, &inbox));
    assert_eq!(opener.work(), Some(Work::Read(1)), "it is told when there is room");
}

#[test]
fn a_link_whose_streams_nobody_reads_is_kept_while_its_peer_is_heard() {
    let head = Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"GET",
        authority: b"a",
        path: b"/",
        deadline: None,
    };
    for (hears, fault) in [(true, None), (false, Some(Fault::Silent))] {
        let began = Instant::now();
        let limits = Limits { ping_wait: Duration::from_secs(15), ..Limits::default() };
        let mut opener = Session::with_lanes(Side::Opener, limits, began);
        opener.open(began, &head, [], &[], true).unwrap();
        for second in 1..120 {
            let now = began + Duration::from_secs(second);
            // No PONG gets through; what keeps a connection alive does.
            if hears && second % 10 == 0 {
                opener.heard_on_lanes(now);
            }
            let _ = opener.on_timeout(now);
        }
        assert_eq!(opener.fault(), fault);
    }
}

#[test]
fn what_all_lanes_of_a_link_hold_is_bounded() {
    let now = Instant::now();
    let head = Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"GET",
        authority: b"a",
        path: b"/",
        deadline: None,
    };
    let limits = Limits { session_window: 100_000, heads: 1000, ..Limits::default() };
    let mut opener = Session::with_lanes(Side::Opener, limits, now);
    let mut inboxes = [1, 2].map(|id| (id, Inbox::of_lane(id, true)));
    let body = [
        &[0, 0, 4, Type::Head as u8, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0xea, 0x60, 3, 0, 0, 0, 0][..],
        &[7; 60_000],
    ]
    .concat();
    for (_, inbox) in &mut inboxes {
        opener.open(now, &head, [], &[], true).unwrap();
        opener.recv_lane(now, inbox, body.clone().into()).unwrap();
    }
    while opener.work().is_some() {}
    assert!(!opener.takes_more(1, &inboxes[0].1), "both hold more than they may together");
    opener.read(StreamId(2));
    let Some(Read::Data(bytes)) = opener.read(StreamId(2)) else { panic!("there is a body") };
    opener.release(StreamId(2), bytes.len());
    let told: Vec<Work> = std::iter::from_fn(|| opener.work()).collect();
    assert_eq!(told, [Work::Read(2), Work::Read(1)]);
    assert!(opener.takes_more(1, &inboxes[0].1));
    // Of frames that are never whole.
    let part = Bytes::from([&[0, 0xea, 0x60, Type::Trailers as u8, 0, 0, 0, 0][..], &[0; 600]].concat());
    assert_eq!(opener.recv_lane(now, &mut inboxes[0].1, part.clone()), Ok(()));
    opener.lane_over(&inboxes[0].1);
    assert_eq!(opener.recv_lane(now, &mut inboxes[1].1, part.clone()), Ok(()));
    opener.open(now, &head, [], &[], true).unwrap();
    assert_eq!(opener.recv_lane(now, &mut Inbox::of_lane(3, true), part), Err(Fault::CreditExceeded));
}

#[test]
fn what_waits_for_all_lanes_of_a_link_is_bounded() {
    let now = Instant::now();
    let head = Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"GET",
        authority: b"a",
        path: b"/",
        deadline: None,
    };
    let limits = Limits { session_window: 200_000, unsent: 1000, ..Limits::default() };
    let mut opener = Session::with_lanes(Side::Opener, Limits::default(), now);
    let mut acceptor = Session::with_lanes(Side::Acceptor, limits, now);
    let mut opened = |acceptor: &mut Session| {
        let (stream, _) = opener.open(now, &head, [], &[], true).unwrap();
        let Some(Work::Frame { bytes, .. }) = opener.work() else { panic!("it is opened") };
        let mut inbox = Inbox::of_lane(stream.number(), false);
        (stream, acceptor.recv_lane(now, &mut inbox, bytes))
    };
    // Nothing of what is answered is taken by what carries it.
    let (mut waiting, mut taken) = (VecDeque::new(), 0);
    for _ in 0..10 {
        let (stream, came) = opened(&mut acceptor);
        came.unwrap();
        acceptor.send_head(stream, 200, [], &[], false).unwrap();
        taken += acceptor.send_data(stream, &mut Bytes::from(vec![7; 64 * 1024]), true).unwrap();
        while let Some(work) = acceptor.work() {
            let Work::Frame { bytes, .. } = work else { panic!("it is answered") };
            waiting.push_back(bytes);
        }
        while let Some(stream) = acceptor.with_body() {
            acceptor.body(stream, &mut waiting);
        }
        acceptor.assert_sound();
    }
    assert!((199_000..=200_000).contains(&taken), "{taken}");
    assert!(acceptor.is_starved());
    while acceptor.event().is_some() {}
    // What it takes then makes room for those that waited.
    let took: usize = waiting.iter().map(Bytes::len).sum();
    acceptor.lane_took(took);
    let told = std::iter::from_fn(|| acceptor.event()).filter(|event| matches!(event, Event::Writable(_)));
    assert_eq!(told.count(), 7);
    assert!(!acceptor.is_starved());
    // Heads are bounded too, where the peer goes on asking.
    let fault = (0..10_000).find_map(|_| {
        let (stream, came) = opened(&mut acceptor);
        let _ = acceptor.send_head(stream, 200, [(&b"x"[..], &[b'y'; 60_000][..])], &[], false);
        came.err()
    });
    assert_eq!(fault, Some(Fault::Unread));
}
