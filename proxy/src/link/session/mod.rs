//! The session: requests, tunnels and control over one connection. No socket and no clock of its own.
//!
//! Bytes that came go into [`Session::recv`]; what is to go out comes from [`Session::transmit`]. What happened is told
//! by [`Session::event`]. Bodies wait here until they are [read](Session::read), and what was read counts against the
//! peer's credit until it is [released](Session::release), so that a slow reader slows its own sender only.
//!
//! A stream is over when both of its halves are: its end was sent, and [`Read::End`] was read; or [`Read::Cut`] was
//! read; or it was [reset](Session::reset) here. Whoever gives a stream up must reset it.

mod check;
pub(crate) mod credit;
mod lanes;
mod limits;
mod outbox;
mod recv;
mod send;
mod stream;
mod transmit;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::credit::Window;
pub use self::credit::{SESSION_CREDIT, STREAM_CREDIT};
use self::lanes::Lanes;
pub(crate) use self::lanes::Work;
pub use self::limits::Limits;
pub(crate) use self::limits::Meter;
pub use self::outbox::{Outbox, Slices};
pub(crate) use self::recv::Inbox;
pub use self::send::{OpenError, SendError};
use self::stream::Stream;
use super::frame::{Code, Cut, Fault, MAX_STREAM, Type, Word};
use super::head::{RequestHead, ResponseHead, Trailers};

/// Which side of a link this is. Only the side that opened the link opens streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// It dialled.
    Opener,
    /// It was called.
    Acceptor,
}

/// A stream of one link. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u32);

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// The peer opened a stream. `end`: with nothing behind its head, and nothing is to be read from it.
    Opened {
        /// The stream.
        stream: StreamId,
        /// Its head.
        head: RequestHead,
        /// Nothing follows.
        end: bool,
    },
    /// There is something to [read](Session::read). Told once; again only after there was nothing.
    Readable(StreamId),
    /// A stream for which there was no room has some again.
    Writable(StreamId),
    /// A stream was cut off: what was to be sent on it is forgotten. What came before is still to be read.
    Cut(StreamId, Cut),
    /// A message of the link itself.
    Control {
        /// What it is; unknown ones are to be ignored.
        kind: u16,
        /// What it says.
        bytes: Bytes,
    },
    /// The peer wants the link to be left.
    Leave {
        /// Streams above this one were not executed; [`Event::Cut`] has said so of each.
        last: u32,
        /// How long the others have.
        deadline: Duration,
        /// Why.
        cause: Word,
    },
}

/// The next part of what came on a stream.
#[derive(Debug)]
pub enum Read {
    /// An answer's head; informational ones may come before it.
    Head(ResponseHead),
    /// Part of the body. To be [released](Session::release) when it is no longer held.
    Data(Bytes),
    /// Fields behind the body. The end comes next.
    Trailers(Trailers),
    /// It has ended well; nothing more comes.
    End,
    /// It was cut off: what came is not whole. Nothing more comes.
    Cut(Cut),
}

/// How much is asked of the peer by [`Session::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It is to go elsewhere, but what it opens until it does is still taken.
    Soon,
    /// What it opens from now on is not executed.
    Now,
}

/// One end of a link.
#[derive(Debug)]
pub struct Session {
    side: Side,
    limits: Limits,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    /// The highest stream that was opened, by either side.
    highest: u32,
    events: VecDeque<Event>,
    inbox: Inbox,
    outbox: Outbox,
    /// Whole frames that go out before any body.
    urgent: Vec<u8>,
    /// The first stream whose OPEN is in `urgent`.
    urgent_open: Option<u32>,
    /// Streams with bodies to be sent, in turn.
    ready: VecDeque<u32>,
    /// Bytes of body that wait for their turn on all streams together.
    queued: usize,
    /// Streams that wait for credit of the session.
    starved: VecDeque<u32>,
    /// What the peer still takes on all streams together.
    credit: u32,
    /// What the peer may send on all streams together.
    window: Window,
    /// The windows of all streams together.
    windows: u64,
    /// Streams to which credit is to be granted.
    due: Vec<u32>,
    /// Resets that are to be sent when their second comes.
    resets: VecDeque<(u32, Cut)>,
    /// Bytes of heads and trailers that wait to be read.
    heads: usize,
    resets_sent: Meter,
    resets_seen: Meter,
    pings: Meter,
    controls: Meter,
    useless: Meter,
    /// Above this one the peer's streams are not taken any more.
    left: u32,
    /// Above this one the peer takes no streams, or opens none.
    peer_left: u32,
    /// One of the sides wants the link to be left.
    leaving: bool,
    /// When something was heard, or the first stream was opened.
    heard: Instant,
    /// When the PING that was not answered was sent, and its number.
    pinged: Option<Instant>,
    ping: u64,
    round_trip: Option<Duration>,
    fault: Option<Fault>,
    /// Where each stream has a carrier of its own.
    lanes: Option<Box<Lanes>>,
}

impl Session {
    /// A new link.
    pub fn new(side: Side, limits: Limits, now: Instant) -> Self {
        let meter = Meter::new(now);
        Session {
            side,
            limits,
            streams: HashMap::default(),
            highest: 0,
            events: VecDeque::new(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            urgent: Vec::new(),
            urgent_open: None,
            ready: VecDeque::new(),
            queued: 0,
            starved: VecDeque::new(),
            credit: SESSION_CREDIT,
            window: Window::new(SESSION_CREDIT),
            windows: 0,
            due: Vec::new(),
            resets: VecDeque::new(),
            heads: 0,
            resets_sent: meter,
            resets_seen: meter,
            pings: meter,
            controls: meter,
            useless: meter,
            left: MAX_STREAM,
            peer_left: MAX_STREAM,
            leaving: false,
            heard: now,
            pinged: None,
            ping: 0,
            round_trip: None,
            fault: None,
            lanes: None,
        }
    }

    /// What happened next.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What came next on `stream`, if anything did. Nothing comes after [`Read::End`] and [`Read::Cut`].
    pub fn read(&mut self, stream: StreamId) -> Option<Read> {
        let entry = self.streams.get_mut(&stream.0)?;
        let inward = &mut entry.inward;
        if let Some(head) = inward.infos.pop_front().or_else(|| inward.head.take()) {
            self.heads -= head.held();
            return Some(Read::Head(head));
        }
        if let Some(bytes) = inward.body.pop() {
            return Some(Read::Data(bytes));
        }
        if let Some(trailers) = inward.trailers.take() {
            self.heads -= trailers.held();
            return Some(Read::Trailers(*trailers));
        }
        if inward.done {
            return None;
        }
        let last = match (inward.ended, entry.cut) {
            (true, _) => Read::End,
            (false, Some(cut)) => Read::Cut(cut),
            (false, None) => {
                inward.told = false;
                return None;
            }
        };
        inward.done = true;
        self.settle(stream.0);
        Some(last)
    }

    /// The next part of the body, if that is what comes next and if it came.
    pub fn read_data(&mut self, stream: StreamId) -> Option<Bytes> {
        let inward = &mut self.streams.get_mut(&stream.0)?.inward;
        if !inward.infos.is_empty() || inward.head.is_some() {
            return None;
        }
        inward.body.pop()
    }

    /// Whether nothing more is to be read from `stream` than that it has ended well.
    pub fn is_at_end(&self, stream: StreamId) -> bool {
        self.streams.get(&stream.0).is_some_and(|entry| entry.inward.is_at_end())
    }

    /// `bytes` of what was read are no longer held. Of a stream that is over nothing is.
    pub fn release(&mut self, stream: StreamId, bytes: usize) {
        let Some(entry) = self.streams.get_mut(&stream.0) else { return };
        let inward = &mut entry.inward;
        debug_assert!(bytes <= inward.held as usize);
        let bytes = inward.held.min(u32::try_from(bytes).unwrap_or(u32::MAX));
        inward.held -= bytes;
        self.window.release(bytes);
        inward.window.release(bytes);
        if let Some(lanes) = &mut self.lanes {
            if !inward.ended && entry.cut.is_none() {
                inward.window.grant();
                lanes.released(stream.0, inward.held);
            }
            return self.feed_lanes();
        }
        if inward.ended || entry.cut.is_some() {
            return;
        }
        if inward.window.is_due() && !inward.due {
            inward.due = true;
            self.due.push(stream.0);
        }
    }

    /// Ends `stream` here, whatever of it is left: neither side may expect anything more of it. A stream that is over is
    /// left alone. Returns whether that cut it off.
    pub fn reset(&mut self, now: Instant, stream: StreamId, cut: Cut) -> bool {
        let Some(entry) = self.streams.get(&stream.0) else { return false };
        let is_cut = entry.cut.is_none() && !entry.is_over_on_the_wire();
        if is_cut {
            self.send_reset(now, stream.0, cut);
        }
        self.remove(stream.0);
        is_cut
    }

    /// Nobody here reads or sends on `stream` any more. What was ended is still sent to its end; anything else is a
    /// [reset](Session::reset). Returns whether it was one.
    pub fn let_go(&mut self, now: Instant, stream: StreamId, cut: Cut) -> bool {
        let Some(entry) = self.streams.get_mut(&stream.0) else { return false };
        let is_sending = entry.cut.is_none() && entry.out.queued > 0 && entry.out.is_closed();
        if is_sending && (self.side == Side::Acceptor || entry.inward.ended) {
            entry.let_go = Some(cut);
            return false;
        }
        self.reset(now, stream, cut)
    }

    /// Sends a message of the link itself.
    pub fn send_control(&mut self, kind: u16, bytes: &[u8]) {
        debug_assert!(bytes.len() + 2 <= super::frame::MAX_PAYLOAD);
        if self.fault.is_none() {
            self.frame(Type::Control, 0, 0, |payload| {
                payload.extend_from_slice(&kind.to_be_bytes());
                payload.extend_from_slice(bytes);
            });
        }
    }

    /// Asks the peer to leave this link within `deadline`; `cause` is a word for its log. No stream is opened here any
    /// more.
    pub fn leave(&mut self, how: Leave, deadline: Duration, cause: &str) {
        if self.fault.is_some() {
            return;
        }
        self.leaving = true;
        let last = match (self.side, how) {
            (Side::Acceptor, Leave::Soon) => self.left,
            _ => self.left.min(self.highest),
        };
        self.left = last;
        self.send_leave(last, deadline, cause);
    }

    /// Whether a stream can be opened now.
    pub fn can_open(&self) -> bool {
        self.side == Side::Opener
            && self.fault.is_none()
            && !self.leaving
            && self.streams.len() + self.resets.len() < self.limits.open_streams
            && self.highest < MAX_STREAM
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether streams that nobody reads hold so much that the others can send nothing.
    pub fn is_starved(&self) -> bool {
        self.credit() == 0
    }

    /// Whether one of the sides wants the link to be left, or no more numbers are left for streams.
    pub fn is_leaving(&self) -> bool {
        self.leaving || self.highest == MAX_STREAM
    }

    /// Whether the link was left and nothing is to be done on it any more.
    pub fn is_done(&self) -> bool {
        (self.leaving || self.fault.is_some()) && self.streams.is_empty() && !self.wants_transmit()
    }

    /// Why the link was given up, if it was.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// How long the last PING took.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// When [`Session::on_timeout`] is to be called. It may be later than what was said before.
    pub fn timeout(&self) -> Option<Instant> {
        if self.fault.is_some() {
            return None;
        }
        let waiting = !self.streams.is_empty() || self.inbox.is_within_frame();
        let silence = waiting.then(|| match self.pinged {
            Some(at) => at.max(self.heard) + self.limits.ping_wait,
            None => self.heard + self.limits.ping_after,
        });
        let resets = (!self.resets.is_empty()).then(|| self.resets_sent.turn());
        silence.into_iter().chain(resets).min()
    }

    /// Does what is due: resets that had to wait, a PING, or giving up a peer that is silent.
    pub fn on_timeout(&mut self, now: Instant) -> Result<(), Fault> {
        if self.timeout().is_none_or(|at| now < at) {
            return Ok(());
        }
        self.send_waiting_resets(now);
        match self.pinged {
            Some(at) if now >= at.max(self.heard) + self.limits.ping_wait => {
                return Err(self.give_up(Fault::Silent));
            }
            None if now >= self.heard + self.limits.ping_after => self.send_ping(now),
            _ => {}
        }
        Ok(())
    }

    /// Asks the peer whether it is there.
    pub fn send_ping(&mut self, now: Instant) {
        if self.fault.is_none() && self.pinged.is_none() {
            self.pinged = Some(now);
            self.ping += 1;
            let number = self.ping.to_be_bytes();
            self.frame(Type::Ping, 0, 0, |payload| payload.extend_from_slice(&number));
        }
    }

    /// The connection beneath is gone, or is to be closed. Streams that are open are cut off; what of them never left is
    /// known not to have been executed.
    pub fn close(&mut self, fault: Fault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.cut_all();
        }
    }

    /// The peer broke the protocol. It is told why, as far as it listens.
    fn give_up(&mut self, fault: Fault) -> Fault {
        if let Some(before) = self.fault {
            return before;
        }
        self.cut_all();
        let last = self.left.min(self.highest);
        self.send_leave(last, Duration::ZERO, fault.label());
        self.fault = Some(fault);
        fault
    }

    fn cut_all(&mut self) {
        let never_left = self.urgent_open.take();
        // Of what went over the wire whole, and was not read yet, nothing is lost.
        let open = self.streams.iter().filter(|(_, stream)| !stream.is_over_on_the_wire());
        let streams: Vec<u32> = open.map(|(id, _)| *id).collect();
        for id in streams {
            let code = if never_left.is_some_and(|first| id >= first) { Code::Refused } else { Code::Lost };
            self.cut(id, Cut { code, cause: None });
        }
        self.urgent.clear();
        if let Some(lanes) = &mut self.lanes {
            lanes.forget();
        }
        self.ready.clear();
        self.due.clear();
        self.resets.clear();
    }

    /// Notes that a stream is cut off, and tells it.
    fn cut(&mut self, id: u32, cut: Cut) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.cut.is_some() {
            return;
        }
        stream.cut = Some(cut);
        let unsent = stream.drop_out();
        self.queued -= unsent as usize;
        if self.lanes.is_none() {
            self.credit += unsent;
        }
        // What was asked for is not wanted any more; what was answered may be.
        if self.side == Side::Acceptor && !stream.inward.done {
            let held = stream.inward.heads_held();
            self.heads -= held;
            stream.inward.forget();
        }
        if stream.let_go.is_some() {
            self.feed_starved();
            return self.remove(id);
        }
        self.events.push_back(Event::Cut(StreamId(id), cut));
        if !stream.inward.done && !stream.inward.told {
            stream.inward.told = true;
            self.events.push_back(Event::Readable(StreamId(id)));
        }
        self.feed_starved();
        self.settle(id);
    }

    /// Forgets a stream if it is over.
    fn settle(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(Stream::is_over) {
            self.remove(id);
        }
    }

    /// Forgets a stream. What it held is the peer's again.
    fn remove(&mut self, id: u32) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        self.heads -= stream.inward.heads_held();
        self.window.release(stream.inward.held);
        if self.lanes.is_some() {
            self.feed_lanes();
        }
        self.windows -= u64::from(stream.inward.window.size());
        let unsent = stream.drop_out();
        if unsent > 0 {
            self.queued -= unsent as usize;
            if self.lanes.is_none() {
                self.credit += unsent;
            }
            self.feed_starved();
        }
        if self.streams.is_empty() && self.streams.capacity() > KEPT_STREAMS {
            self.streams = HashMap::default();
        }
    }
}

/// Places for streams that an idle link keeps.
const KEPT_STREAMS: usize = 128;

impl StreamId {
    /// Its number on the link.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Numbers of streams are counted upwards and never chosen: a multiplication spreads them.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte) ^ self.0 as u32);
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
