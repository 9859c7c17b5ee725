//! The half of a stream that goes out.

use std::time::Instant;

use bytes::Bytes;

use super::credit::{STREAM_CREDIT, Window};
use super::lanes::PLENTY;
use super::stream::{Stream, Tail};
use super::{Session, StreamId};
use crate::link::frame::{Cut, END, HEADER_BYTES, Header, INFO, MAX_PAYLOAD, Type};
use crate::link::head::{
    Opening, Protocol, TooLarge, is_informational, put_fields, put_request, put_response,
};

/// Most bytes of one stream that wait for their turn, however large its credit is.
const QUEUE: u32 = 64 * 1024;

/// Most bytes of a body that go with its head or are copied into the frames that go first.
const COPIED: usize = 4 * 1024;

/// So many bytes of frames that go first are enough; bodies wait for their turn then.
const URGENT: usize = 64 * 1024;

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// This link takes no stream now: see [`Session::can_open`].
    Unavailable,
    /// The head is too large for a frame.
    TooLarge,
}

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The stream was cut off.
    Cut(Cut),
    /// The stream is over, or this was no time to send this.
    Gone,
    /// The head or the trailers are too large for a frame. The stream is as it was.
    TooLarge,
}

impl Session {
    /// Opens a stream. The front of `body` goes with the head where it fits; returns how many bytes of it did. `end`: the
    /// body is all there is; where not all of it went, the rest is to be sent with the same word.
    pub fn open<'f>(
        &mut self,
        now: Instant,
        head: &Opening<'_>,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        body: &[u8],
        end: bool,
    ) -> Result<(StreamId, usize), OpenError> {
        if !self.can_open() {
            return Err(OpenError::Unavailable);
        }
        let id = self.highest + 1;
        let room = STREAM_CREDIT.min(self.credit()) as usize;
        let mut upgrade = false;
        let start = self.urgent.len();
        let fields = fields.into_iter().inspect(|(name, _)| upgrade |= name.eq_ignore_ascii_case(b"upgrade"));
        let (taken, ended) = self
            .headed(Type::Open, 0, id, body, end, room, |payload| put_request(payload, head, fields))
            .map_err(|TooLarge| OpenError::TooLarge)?;
        self.divert(start, id);
        self.highest = id;
        self.urgent_open.get_or_insert(id);
        if self.streams.is_empty() {
            self.heard = self.heard.max(now);
        }
        let mut stream = self.new_stream(true);
        stream.head_method = head.method == b"HEAD";
        stream.connect = head.protocol == Protocol::Tunnel || head.method == b"CONNECT";
        stream.upgrade = upgrade;
        stream.out.credit -= taken as u32;
        if ended {
            stream.out.tail = Tail::Sent;
        }
        self.windows += u64::from(stream.inward.window.size());
        self.streams.insert(id, stream);
        self.mark_short(id, taken < body.len());
        Ok((StreamId(id), taken))
    }

    /// Sends an answer's head, or an informational one. `body` and `end` as with [`Session::open`]; an informational head
    /// has neither, and is left out where the peer does not read what was sent before.
    pub fn send_head<'f>(
        &mut self,
        stream: StreamId,
        status: u16,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        body: &[u8],
        end: bool,
    ) -> Result<usize, SendError> {
        let out = &self.sending(stream)?.out;
        if out.headed {
            return Err(SendError::Gone);
        }
        let credit = out.credit;
        let info = is_informational(status);
        if info && self.urgent.len() > URGENT {
            return Ok(0);
        }
        let (flags, body, end) = if info { (INFO, &[][..], false) } else { (0, body, end) };
        let room = credit.min(self.credit()) as usize;
        let start = self.urgent.len();
        let (taken, ended) = self
            .headed(Type::Head, flags, stream.0, body, end, room, |payload| {
                put_response(payload, status, fields)
            })
            .map_err(|TooLarge| SendError::TooLarge)?;
        self.divert(start, stream.0);
        let entry = self.sending(stream)?;
        if status == 101 {
            // From here on it is no message.
            entry.inward.expected = None;
            entry.connect = true;
        }
        let out = &mut entry.out;
        out.headed = !info;
        out.credit -= taken as u32;
        if ended {
            out.tail = Tail::Sent;
            self.settle(stream.0);
        }
        self.mark_short(stream.0, taken < body.len());
        Ok(taken)
    }

    /// Sends as much of the front of `data` as there is room for, without copying it; returns how many bytes. `end`:
    /// nothing follows `data`; where not all of it went, the rest is to be sent with the same word. [`Event::Writable`]
    /// tells when there is room again.
    ///
    /// [`Event::Writable`]: super::Event::Writable
    pub fn send_data(&mut self, stream: StreamId, data: &mut Bytes, end: bool) -> Result<usize, SendError> {
        let taken = self.room_of(stream)?.min(data.len());
        if taken > 0 {
            self.queue(stream, data.split_to(taken));
        }
        self.after_data(stream, !data.is_empty(), end);
        Ok(taken)
    }

    /// The same for bytes that are not the session's to keep: they are copied.
    pub fn send_slice(&mut self, stream: StreamId, data: &[u8], end: bool) -> Result<usize, SendError> {
        let taken = self.room_of(stream)?.min(data.len());
        let direct = taken > 0 && taken <= COPIED && self.urgent.len() < URGENT;
        if let Some(entry) = self.streams.get_mut(&stream.0)
            && direct
            && entry.out.queued == 0
        {
            entry.out.credit -= taken as u32;
            if self.lanes.is_none() {
                self.credit -= taken as u32;
            }
            let ends = end && taken == data.len();
            if ends {
                entry.out.tail = Tail::Sent;
            }
            let flags = if ends { END } else { 0 };
            self.frame(Type::Data, flags, stream.0, |payload| payload.extend_from_slice(&data[..taken]));
            if ends {
                self.settle(stream.0);
            } else {
                self.mark_short(stream.0, taken < data.len());
            }
            return Ok(taken);
        }
        if taken > 0 {
            self.queue(stream, Bytes::copy_from_slice(&data[..taken]));
        }
        self.after_data(stream, taken < data.len(), end);
        Ok(taken)
    }

    /// Ends this half of `stream` with trailers.
    pub fn send_trailers<'f>(
        &mut self,
        stream: StreamId,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Result<(), SendError> {
        let out = &self.sending(stream)?.out;
        if !out.headed {
            return Err(SendError::Gone);
        }
        let behind = out.queued > 0;
        let start = self.urgent.len();
        self.headed(Type::Trailers, 0, stream.0, &[], false, 0, |payload| put_fields(payload, fields))
            .map_err(|TooLarge| SendError::TooLarge)?;
        let frame = behind.then(|| self.urgent.split_off(start));
        if frame.is_none() {
            self.divert(start, stream.0);
        }
        self.sending(stream)?.out.tail = frame.map_or(Tail::Sent, Tail::Trailers);
        self.settle(stream.0);
        Ok(())
    }

    /// Ends this half of `stream`.
    pub fn finish(&mut self, stream: StreamId) -> Result<(), SendError> {
        self.send_slice(stream, &[], true).map(|_| ())
    }

    /// How many bytes [`Session::send_data`] would take now.
    pub fn can_send(&self, stream: StreamId) -> usize {
        self.streams.get(&stream.0).map_or(0, |stream| self.room(stream))
    }

    /// The same for whoever would wait where that is none: [`Event::Writable`] tells then when there is some.
    ///
    /// [`Event::Writable`]: super::Event::Writable
    pub fn ask_room(&mut self, stream: StreamId) -> usize {
        let room = self.can_send(stream);
        self.mark_short(stream.0, room == 0);
        room
    }

    /// Streams that wait for credit of the session are told that there is some.
    pub(super) fn feed_starved(&mut self) {
        while self.credit() > 0
            && let Some(id) = self.starved.pop_front()
        {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.out.starved = false;
                self.wake(id);
            }
        }
    }

    /// Tells a stream that was told that there is no room, if there is some.
    pub(super) fn wake(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        if !stream.out.blocked {
            return;
        }
        let (room, starved) = (self.room(stream) > 0, self.credit() == 0);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if room {
            stream.out.blocked = false;
            self.events.push_back(super::Event::Writable(StreamId(id)));
        } else if starved && !stream.out.starved {
            stream.out.starved = true;
            self.starved.push_back(id);
        }
    }

    /// Appends a frame to those that go first.
    pub(super) fn frame(&mut self, kind: Type, flags: u8, stream: u32, put: impl FnOnce(&mut Vec<u8>)) {
        let start = self.urgent.len();
        self.urgent.extend_from_slice(&[0; HEADER_BYTES]);
        put(&mut self.urgent);
        let len = self.urgent.len() - start - HEADER_BYTES;
        let header = Header { len, kind, flags, stream };
        self.urgent[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
        if stream != 0 {
            self.divert(start, stream);
        }
    }

    /// The frame that begins at `start` goes by the stream's own lane, if it has one.
    #[inline]
    fn divert(&mut self, start: usize, stream: u32) {
        if let Some(lanes) = &mut self.lanes {
            lanes.frame(stream, self.urgent.split_off(start));
        }
    }

    /// A stream of which nothing was sent or received but its opening.
    pub(super) fn new_stream(&self, opened_here: bool) -> Stream {
        let mut stream = Stream::new(opened_here);
        if self.lanes.is_some() {
            stream.inward.window = Window::new(PLENTY);
        }
        stream
    }

    /// Appends a frame that begins with a head, and takes as much of `body` as `room` and the frame have place for.
    /// Returns how many bytes, and whether the frame ends its half of the stream.
    #[expect(clippy::too_many_arguments, reason = "one frame has so many parts")]
    fn headed(
        &mut self,
        kind: Type,
        flags: u8,
        stream: u32,
        body: &[u8],
        end: bool,
        room: usize,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLarge>,
    ) -> Result<(usize, bool), TooLarge> {
        let start = self.urgent.len();
        self.urgent.extend_from_slice(&[0; HEADER_BYTES]);
        let put = put(&mut self.urgent);
        let head = self.urgent.len() - start - HEADER_BYTES;
        if put.is_err() || head > MAX_PAYLOAD {
            self.urgent.truncate(start);
            return Err(TooLarge);
        }
        let taken = body.len().min(room).min(COPIED).min(MAX_PAYLOAD - head);
        self.urgent.extend_from_slice(&body[..taken]);
        if self.lanes.is_none() {
            self.credit -= taken as u32;
        }
        let ended = end && taken == body.len();
        let flags = if ended { flags | END } else { flags };
        let header = Header { len: head + taken, kind, flags, stream };
        self.urgent[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
        Ok((taken, ended))
    }

    /// The stream, if something can be sent on it.
    fn sending(&mut self, stream: StreamId) -> Result<&mut Stream, SendError> {
        let entry = self.streams.get_mut(&stream.0).ok_or(SendError::Gone)?;
        match entry.cut {
            Some(cut) => Err(SendError::Cut(cut)),
            None if entry.out.is_closed() => Err(SendError::Gone),
            None => Ok(entry),
        }
    }

    /// How much of a body can be sent on `stream`.
    fn room_of(&mut self, stream: StreamId) -> Result<usize, SendError> {
        if !self.sending(stream)?.out.headed {
            return Err(SendError::Gone);
        }
        Ok(self.can_send(stream))
    }

    fn room(&self, stream: &Stream) -> usize {
        let out = &stream.out;
        if stream.cut.is_some() || out.is_closed() {
            return 0;
        }
        out.credit.min(self.credit()).min(QUEUE.saturating_sub(out.queued)) as usize
    }

    /// Puts part of a body, for which there is room, in the queue.
    fn queue(&mut self, stream: StreamId, data: Bytes) {
        let Some(entry) = self.streams.get_mut(&stream.0) else { return };
        let out = &mut entry.out;
        let length = data.len() as u32;
        out.credit -= length;
        if self.lanes.is_none() {
            self.credit -= length;
        }
        out.queued += length;
        self.queued += length as usize;
        out.bodies.push_back(data);
        if !out.ready {
            out.ready = true;
            self.ready.push_back(stream.0);
        }
    }

    /// What is to be done when data was queued: the end, or a note that there was no room for all.
    fn after_data(&mut self, stream: StreamId, short: bool, end: bool) {
        let Some(entry) = self.streams.get_mut(&stream.0) else { return };
        if short {
            self.mark_short(stream.0, true);
        } else if end && entry.out.queued > 0 {
            entry.out.tail = Tail::End;
        } else if end {
            entry.out.tail = Tail::Sent;
            self.frame(Type::Data, END, stream.0, |_| {});
            self.settle(stream.0);
        }
    }

    /// Notes that not all of what was to be sent on a stream was taken. Where that was not for want of room, it is told at
    /// once that there is some.
    fn mark_short(&mut self, id: u32, short: bool) {
        if short && let Some(stream) = self.streams.get_mut(&id) {
            stream.out.blocked = true;
            self.wake(id);
        }
    }
}
