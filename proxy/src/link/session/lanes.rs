//! A session whose streams each have a carrier of their own, a *lane*: what lies on one waits for no other.
//!
//! Frames are the same, but that a frame on a lane does not say its stream: that is the lane's. Credit is not granted
//! here: what carries the lanes says how much may be sent on each. The frames of the link itself, of stream 0, go by
//! [`Session::recv`] and [`Session::transmit`] as ever.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::credit::{STREAM_CREDIT, Window};
use super::recv::Inbox;
use super::stream::Tail;
use super::{Limits, Session, Side};
use crate::error::Cause;
use crate::link::frame::{Code, Cut, END, Fault, HEADER_BYTES, Header, MAX_PAYLOAD, Type};

/// What a peer may send where what carries the streams grants it.
pub(super) const PLENTY: u32 = 1 << 30;

/// So much of a stream waits to be read, or to be released: then nothing more is taken off its lane.
const HELD: u32 = 64 * 1024;

/// What is to be done on lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    work: VecDeque<Work>,
    /// Streams of whose lanes no more is taken as all streams together hold as much as they may.
    short: Vec<u32>,
    /// Bytes of frames on all lanes that are not whole yet, bodies aside.
    partial: usize,
    /// Bytes of frames that lanes have, or are about to, and that what carries them did not take yet.
    unsent: usize,
}

/// Something to be done on the lane of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A whole frame goes out. `ends`: it is the last one.
    Frame {
        /// The stream's number.
        stream: u32,
        /// The frame, header and all.
        bytes: Bytes,
        /// Nothing follows.
        ends: bool,
    },
    /// Nobody here has anything to do with it any more.
    Reset(u32, Cut),
    /// More of it can be taken in.
    Read(u32),
}

/// Which lane frames come by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    stream: u32,
    /// The frame that opens the stream was read; the side that opens streams reads none.
    opened: bool,
}

impl Lanes {
    pub(super) fn frame(&mut self, stream: u32, mut frame: Vec<u8>) {
        strip(&mut frame);
        let ends = frame.len() >= HEADER_BYTES && (frame[4] & END != 0 || frame[3] == Type::Trailers as u8);
        self.unsent += frame.len();
        self.work.push_back(Work::Frame { stream, bytes: frame.into(), ends });
    }

    pub(super) fn reset(&mut self, stream: u32, cut: Cut) {
        self.work.push_back(Work::Reset(stream, cut));
    }

    /// `held` bytes are left of what came on a stream, of which some were just released.
    pub(super) fn released(&mut self, stream: u32, held: u32) {
        // A frame of a body counts as held from its header on: what is still to come of it is not in the way.
        if held < HELD + MAX_PAYLOAD as u32 && self.work.back() != Some(&Work::Read(stream)) {
            self.work.push_back(Work::Read(stream));
        }
    }

    /// The streams together hold less than they may.
    fn feed_short(&mut self) {
        let Lanes { work, short, .. } = self;
        work.extend(short.drain(..).map(Work::Read));
    }

    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    pub(super) fn forget(&mut self) {
        for work in self.work.drain(..) {
            if let Work::Frame { bytes, .. } = work {
                self.unsent -= bytes.len();
            }
        }
    }
}

impl Lane {
    /// Reads a header that came by this lane.
    pub(super) fn decode(&mut self, header: [u8; HEADER_BYTES]) -> Result<Header, Fault> {
        let [a, b, c, kind, flags, 0, 0, 0] = header else { return Err(Fault::BadHeader) };
        let [_, x, y, z] = self.stream.to_be_bytes();
        let header = Header::decode([a, b, c, kind, flags, x, y, z])?;
        if header.kind == Type::Credit {
            return Err(Fault::OutOfPlace);
        }
        if self.stream != 0 {
            let opens = header.kind == Type::Open;
            // Once, and before anything else.
            if opens == self.opened {
                return Err(Fault::OutOfPlace);
            }
            self.opened = true;
        }
        Ok(header)
    }
}

impl Inbox {
    /// Of the lane of `stream`. `opened`: this side opened it.
    pub(crate) fn of_lane(stream: u32, opened: bool) -> Self {
        let mut inbox = Inbox::default();
        inbox.lane = Some(Lane { stream, opened });
        inbox
    }

    /// Whether the stream's head was read; of one that was opened here there is none.
    pub(crate) fn is_opened(&self) -> bool {
        self.lane.is_none_or(|lane| lane.opened)
    }

    /// Bytes of a frame of a body that are still to come.
    fn expects(&self) -> u32 {
        self.data.map_or(0, |(_, _, left)| left as u32)
    }
}

impl Session {
    /// A new link whose streams have lanes.
    pub(crate) fn with_lanes(side: Side, limits: Limits, now: Instant) -> Self {
        let mut session = Session::new(side, limits, now);
        session.lanes = Some(Box::default());
        session.window = Window::new(PLENTY);
        session.inbox = Inbox::of_lane(0, true);
        session
    }

    /// Takes `bytes`, which came by the lane of `inbox`. As [`Session::recv`].
    pub(crate) fn recv_lane(
        &mut self,
        now: Instant,
        inbox: &mut Inbox,
        mut bytes: Bytes,
    ) -> Result<(), Fault> {
        if self.lanes.as_ref().is_some_and(|lanes| lanes.unsent > self.limits.unsent + self.most_unsent()) {
            // Of bodies there is never so much: it goes on asking, and does not read what it is told.
            return Err(self.give_up(Fault::Unread));
        }
        std::mem::swap(&mut self.inbox, inbox);
        let before = self.inbox.partial();
        let mut result = self.take_in(now, &mut bytes);
        std::mem::swap(&mut self.inbox, inbox);
        if let Some(lanes) = &mut self.lanes {
            lanes.partial = lanes.partial + inbox.partial() - before;
            if lanes.partial > self.limits.heads {
                result = result.and(Err(Fault::CreditExceeded));
            }
        }
        result.map_err(|fault| self.give_up(fault))
    }

    /// The lane of `inbox` is over.
    pub(crate) fn lane_over(&mut self, inbox: &Inbox) {
        if let Some(lanes) = &mut self.lanes {
            lanes.partial -= inbox.partial();
        }
    }

    /// Whether more is to be taken off the lane of `stream` now. What has ended is read to its end.
    pub(crate) fn takes_more(&mut self, id: u32, inbox: &Inbox) -> bool {
        let Some(stream) = self.streams.get(&id) else { return true };
        if stream.inward.ended {
            return true;
        }
        let expects = inbox.expects();
        if stream.inward.held.saturating_sub(expects) >= HELD {
            return false;
        }
        // What is still to come of a frame is counted already.
        if expects > 0 || !self.holds_all() {
            return true;
        }
        if let Some(lanes) = &mut self.lanes
            && !lanes.short.contains(&id)
        {
            lanes.short.push(id);
        }
        false
    }

    /// Bytes of bodies that wait here at most, on all lanes together.
    fn most_unsent(&self) -> usize {
        self.limits.session_window as usize
    }

    /// What may still be sent on all streams: what the peer granted, or what may wait here for lanes.
    #[inline]
    pub(super) fn credit(&self) -> u32 {
        match &self.lanes {
            None => self.credit,
            Some(lanes) => self.most_unsent().saturating_sub(self.queued + lanes.unsent) as u32,
        }
    }

    /// What carries a lane took so many bytes of it, or never will.
    pub(crate) fn lane_took(&mut self, bytes: usize) {
        if let Some(lanes) = &mut self.lanes
            && bytes > 0
        {
            lanes.unsent -= bytes;
            self.feed_starved();
        }
    }

    /// Whether all streams together hold as much as they may.
    fn holds_all(&self) -> bool {
        self.window.held() >= u64::from(self.limits.session_window)
    }

    /// Something was released: lanes that waited for that are told.
    pub(super) fn feed_lanes(&mut self) {
        if !self.holds_all()
            && let Some(lanes) = &mut self.lanes
        {
            lanes.feed_short();
        }
    }

    /// Something came from the peer, if no bytes of a stream: what carries the lanes is heard even while nobody reads what
    /// lies on them, and the frames of the link itself wait behind that.
    pub(crate) fn heard_on_lanes(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Nothing more comes by the lane of `stream`.
    pub(crate) fn lane_ended(&mut self, now: Instant, stream: u32) {
        let whole = self.streams.get(&stream).is_none_or(|entry| entry.inward.ended || entry.cut.is_some());
        if !whole {
            let cause = match self.side {
                Side::Opener => Cause::UpstreamTruncated,
                Side::Acceptor => Cause::DownstreamAborted,
            };
            self.break_off(now, stream, Cut::new(Code::Internal, cause));
        }
    }

    /// The peer gave `stream` up.
    pub(crate) fn lane_reset(&mut self, now: Instant, stream: u32, cut: Cut) -> Result<(), Fault> {
        if stream > self.highest {
            // Given up before it was heard of.
            return Ok(());
        }
        self.reset_came(now, stream, cut).map_err(|fault| self.give_up(fault))
    }

    /// A lane ended whose stream was never opened. Who gives up what it asks for does that now and then, as what was asked
    /// may be lost on the way; more often is nobody's right.
    pub(crate) fn lane_asked_nothing(&mut self, now: Instant) -> Result<(), Fault> {
        self.useless(now).map_err(|fault| self.give_up(fault))
    }

    /// What is to be done next, before any [body](Session::body) is taken.
    pub(crate) fn work(&mut self) -> Option<Work> {
        let work = self.lanes.as_mut()?.work.pop_front();
        if work.is_none() {
            self.urgent_open = None;
        }
        work
    }

    /// A stream that has something of a body to be sent.
    pub(crate) fn with_body(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    /// Moves what waits of the body of `stream` to `lane`, and what is behind it. Returns how many bytes, of which
    /// [`Session::lane_took`] is to tell, and whether nothing follows.
    pub(crate) fn body(&mut self, id: u32, lane: &mut VecDeque<Bytes>) -> (usize, bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return (0, false) };
        let out = &mut stream.out;
        out.ready = false;
        let len = std::mem::take(&mut out.queued);
        if len == 0 {
            return (0, false);
        }
        self.queued -= len as usize;
        let mut moved = HEADER_BYTES + len as usize;
        let ends = out.is_closed();
        let flags = if matches!(out.tail, Tail::End) { END } else { 0 };
        let header = Header { len: len as usize, kind: Type::Data, flags, stream: 0 };
        lane.push_back(Bytes::copy_from_slice(&header.encode()));
        lane.extend(out.bodies.drain(..));
        if ends {
            if let Tail::Trailers(mut frame) = std::mem::replace(&mut out.tail, Tail::Sent) {
                strip(&mut frame);
                moved += frame.len();
                lane.push_back(frame.into());
            }
            match stream.let_go {
                Some(cut) => self.part(id, cut),
                None => self.settle(id),
            }
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.unsent += moved;
        }
        (moved, ends)
    }

    /// All that was to go out by the lane of `stream` was taken by what carries it.
    pub(crate) fn lane_drained(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.out.credit = STREAM_CREDIT - entry.out.queued.min(STREAM_CREDIT);
            self.wake(stream);
        }
    }

    /// Whether somebody here can still send on `stream`.
    pub(crate) fn can_end(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|entry| entry.cut.is_none())
    }
}

/// Takes the stream out of a frame's header: its lane says that.
fn strip(frame: &mut [u8]) {
    if let Some(stream) = frame.get_mut(5..HEADER_BYTES) {
        stream.fill(0);
    }
}
