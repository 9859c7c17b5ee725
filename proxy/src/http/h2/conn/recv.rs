//! What comes in: bytes to frames, and what each frame does.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::heads::{self, Taken, Wrong};
use super::limits::{CONTINUATIONS, longest_block};
use super::settings::{FRAME, PREFACE};
use super::stream::Stream;
use super::{Connection, Cut, Fault, Key, Leaving, Opened, Side, TooLarge};
use crate::http::h2::fields::{RequestHead, ResponseHead};
use crate::http::h2::frame::{self, Code, Head, Kind};

/// Bytes that are not a whole frame yet, and what the frames before them began.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Bytes of the client's preface that are still to come.
    preface: &'static [u8],
    /// The peer's SETTINGS have come.
    greeted: bool,
    header: [u8; frame::HEAD_BYTES],
    /// Bytes of `header` that have come.
    have: usize,
    /// DATA whose header has come.
    data: Option<Data>,
    /// Another frame: its header, and what has come of its payload.
    partial: Option<(Head, BytesMut)>,
    /// A header block whose end has not come.
    block: Option<Block>,
}

/// A DATA frame that is being read.
#[derive(Clone, Copy, Debug)]
struct Data {
    stream: u32,
    end: bool,
    /// The length of the padding is still to come.
    padded: bool,
    /// Bytes of content that are still to come; with the padding as long as its length is not known.
    content: usize,
    /// Bytes of padding that are still to come.
    padding: usize,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    frames: u32,
}

impl Inbox {
    pub(super) fn new(side: Side) -> Self {
        Inbox {
            preface: if side == Side::Server { PREFACE } else { &[] },
            greeted: false,
            header: [0; frame::HEAD_BYTES],
            have: 0,
            data: None,
            partial: None,
            block: None,
        }
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    pub(super) fn is_amid_frame(&self) -> bool {
        self.have > 0 || self.partial.is_some() || self.block.is_some()
    }

    /// Bytes that are still to come of a DATA frame.
    pub(super) fn coming(&self) -> usize {
        self.data.map_or(0, |data| data.content + data.padding)
    }

    /// The next frame's header, when all of it has come.
    fn next_head(&mut self, bytes: &mut BytesMut) -> Option<Head> {
        if self.have == 0
            && let Some((whole, _)) = bytes.split_first_chunk()
        {
            let head = frame::parse(whole);
            bytes.advance(frame::HEAD_BYTES);
            return Some(head);
        }
        let more = bytes.len().min(frame::HEAD_BYTES - self.have);
        self.header[self.have..self.have + more].copy_from_slice(&bytes[..more]);
        self.have += more;
        bytes.advance(more);
        if self.have < frame::HEAD_BYTES {
            return None;
        }
        self.have = 0;
        Some(frame::parse(&self.header))
    }
}

impl Connection {
    /// Takes all of `bytes`, which came from the peer. Parts of bodies are kept as parts of that very buffer. When the
    /// connection is given up, the outbox says why, and it is to be closed behind that.
    pub fn recv(&mut self, now: Instant, bytes: &mut BytesMut) {
        if self.fault.is_none()
            && let Err(fault) = self.take_in(now, bytes)
        {
            self.give_up(fault);
        }
        bytes.clear();
    }

    fn take_in(&mut self, now: Instant, bytes: &mut BytesMut) -> Result<(), Fault> {
        while !self.inbox.preface.is_empty() && !bytes.is_empty() {
            let common = self.inbox.preface.len().min(bytes.len());
            let (wanted, rest) = self.inbox.preface.split_at(common);
            if bytes[..common] != *wanted {
                return Err(Fault::new(Code::PROTOCOL_ERROR, "no HTTP/2 preface"));
            }
            self.inbox.preface = rest;
            bytes.advance(common);
        }
        while !bytes.is_empty() {
            if self.outbox.len() > self.limits.unread {
                return Err(Fault::new(Code::ENHANCE_YOUR_CALM, "the peer reads nothing"));
            }
            if let Some(data) = self.inbox.data.take() {
                self.data_bytes(now, data, bytes)?;
            } else if let Some((head, mut partial)) = self.inbox.partial.take() {
                let more = bytes.len().min(head.len - partial.len());
                partial.extend_from_slice(&bytes[..more]);
                bytes.advance(more);
                if partial.len() == head.len {
                    self.frame_came(now, head, &partial)?;
                } else {
                    self.inbox.partial = Some((head, partial));
                }
            } else if let Some(head) = self.inbox.next_head(bytes) {
                self.head_came(now, head, bytes)?;
            }
        }
        Ok(())
    }

    fn head_came(&mut self, now: Instant, head: Head, bytes: &mut BytesMut) -> Result<(), Fault> {
        if head.len > FRAME {
            return Err(Fault::new(Code::FRAME_SIZE_ERROR, "a frame larger than was asked for"));
        }
        if !self.inbox.greeted {
            if head.kind != Kind::Settings || head.flags & frame::ACK != 0 {
                return Err(Fault::new(Code::PROTOCOL_ERROR, "the first frame is not SETTINGS"));
            }
            self.inbox.greeted = true;
        }
        let within = self.inbox.block.as_ref().map(|block| block.stream);
        if within != (head.kind == Kind::Continuation).then_some(head.stream) {
            return Err(Fault::new(
                Code::PROTOCOL_ERROR,
                "a header block is broken off, or none is continued",
            ));
        }
        if head.kind == Kind::Data {
            return self.data_head(now, head);
        }
        if bytes.len() >= head.len {
            self.frame_came(now, head, &bytes[..head.len])?;
            bytes.advance(head.len);
            return Ok(());
        }
        self.inbox.partial = Some((head, BytesMut::from(&bytes[..])));
        bytes.clear();
        Ok(())
    }

    /// A whole frame that is not DATA.
    fn frame_came(&mut self, now: Instant, head: Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            // It has its own way.
            Kind::Data => Ok(()),
            Kind::Headers => self.headers_came(now, head, payload),
            Kind::Continuation => self.continuation_came(now, head, payload),
            Kind::Priority if head.stream == 0 => Err(out_of_place()),
            Kind::Priority if head.len != 5 => self.break_off(now, head.stream, Code::FRAME_SIZE_ERROR),
            Kind::Priority => self.useless(now),
            Kind::RstStream => self.reset_came(now, head.stream, word(payload)?),
            Kind::Settings if head.stream != 0 => Err(out_of_place()),
            Kind::Settings => self.settings_came(now, head.flags, payload),
            Kind::PushPromise => Err(Fault::new(Code::PROTOCOL_ERROR, "a push that nobody wants")),
            Kind::Ping if head.stream != 0 => Err(out_of_place()),
            Kind::Ping => self.ping_came(now, head.flags, payload),
            Kind::Goaway if head.stream != 0 => Err(out_of_place()),
            Kind::Goaway => self.goaway_came(payload),
            Kind::WindowUpdate => self.window_update_came(now, head.stream, word(payload)?),
            Kind::Unknown => self.useless(now),
        }
    }

    fn headers_came(&mut self, now: Instant, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream == 0 {
            return Err(out_of_place());
        }
        let block = fragment(head, payload)?;
        let end = head.flags & frame::END_STREAM != 0;
        if head.flags & frame::END_HEADERS != 0 {
            return self.block_came(now, head.stream, end, block);
        }
        let bytes = block.to_vec();
        self.inbox.block = Some(Block { stream: head.stream, end, bytes, frames: 0 });
        Ok(())
    }

    fn continuation_came(&mut self, now: Instant, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut block) = self.inbox.block.take() else { return Err(out_of_place()) };
        block.frames += 1;
        // Most of a block of the largest size can be in frames of the usual size.
        let most = CONTINUATIONS + (longest_block(self.limits.head_list) / FRAME) as u32;
        if block.frames > most || block.bytes.len() + payload.len() > longest_block(self.limits.head_list) {
            return Err(Fault::new(Code::ENHANCE_YOUR_CALM, "a header block without end"));
        }
        block.bytes.extend_from_slice(payload);
        if head.flags & frame::END_HEADERS != 0 {
            return self.block_came(now, block.stream, block.end, &block.bytes);
        }
        self.inbox.block = Some(block);
        Ok(())
    }

    /// A whole header block.
    fn block_came(&mut self, now: Instant, id: u32, end: bool, block: &[u8]) -> Result<(), Fault> {
        if let Some(&key) = self.ids.get(&id) {
            return self.later_block_came(now, key, end, block);
        }
        if self.is_past(id)? {
            heads::skip(&mut self.decoder, block)?;
            return self.stray(now, id, 0);
        }
        // Only a client's stream can be one that was not there before.
        self.highest = id;
        let read = heads::request(&mut self.decoder, block, self.limits.head_list)?;
        if self.leaving == Leaving::Settled {
            // The peer is told so, or was: nothing is to be answered, nor is what follows it.
            self.remember(id);
            return self.useless(now);
        }
        if self.streams.len() >= 2 * self.limits.streams as usize
            || self.ids.len() >= self.limits.streams as usize
        {
            return self.refuse(now, id, Code::REFUSED_STREAM);
        }
        let (head, length) = match read {
            Ok(Taken { head, length }) => (Ok(head), length),
            Err(Wrong::TooLarge(too_large)) => (Err(too_large), None),
            Err(Wrong::Malformed) => return self.refuse(now, id, Code::PROTOCOL_ERROR),
        };
        if end && length.is_some_and(|length| length > 0) {
            return self.refuse(now, id, Code::PROTOCOL_ERROR);
        }
        self.open_for_peer(id, end, head, length);
        Ok(())
    }

    fn open_for_peer(
        &mut self,
        id: u32,
        end: bool,
        head: Result<RequestHead, TooLarge>,
        length: Option<u64>,
    ) {
        let mut stream = Stream::new(id, false, self.limits.stream_window, self.peer.window);
        stream.inward.ended = end;
        stream.inward.expected = length;
        let key = self.streams.insert(stream);
        self.ids.insert(id, key);
        self.opened.push_back(Opened { key: Key(key), head });
    }

    /// A header block on a stream that is open: trailers, or on the client's side a head.
    fn later_block_came(&mut self, now: Instant, key: usize, end: bool, block: &[u8]) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        if stream.inward.ended {
            heads::skip(&mut self.decoder, block)?;
            return self.break_off_open(now, key, Code::STREAM_CLOSED);
        }
        if !stream.inward.headed {
            let read = heads::response(&mut self.decoder, block, self.limits.head_list)?;
            return match read.map(|taken| self.answer_came(key, end, taken)) {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => self.break_off_open(now, key, Code::PROTOCOL_ERROR),
            };
        }
        let read = heads::trailers(&mut self.decoder, block, self.limits.head_list)?;
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        match read {
            // Not before the body is whole: whoever reads them takes it for that.
            Ok(trailers) if end && stream.inward.expected.is_none_or(|left| left == 0) => {
                stream.inward.trailers = (!trailers.is_empty()).then(|| Box::new(trailers));
                let id = stream.id;
                self.end_came(now, id)
            }
            // Trailers without an end (§8.1), or fields that are not allowed there.
            _ => self.break_off_open(now, key, Code::PROTOCOL_ERROR),
        }
    }

    /// An answer's head has come. Whether there may be such a one.
    fn answer_came(&mut self, key: usize, end: bool, taken: Taken<ResponseHead>) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return true };
        let Taken { head, length } = taken;
        let inward = &mut stream.inward;
        if head.status < 200 {
            if end || inward.interims.len() >= self.limits.interims {
                return false;
            }
            inward.interims.push_back(head);
            self.wake(key);
            return true;
        }
        let bodiless = inward.head_only || head.status == 204 || head.status == 304;
        inward.expected = if bodiless { Some(0) } else { length };
        inward.headed = true;
        if end && inward.expected.is_some_and(|length| length > 0) {
            return false;
        }
        inward.head = Some(head);
        inward.ended = end;
        self.wake(key);
        if end {
            self.settle(key);
        }
        true
    }

    fn data_head(&mut self, now: Instant, head: Head) -> Result<(), Fault> {
        if head.stream == 0 {
            return Err(out_of_place());
        }
        let padded = head.flags & frame::PADDED != 0;
        if padded && head.len == 0 {
            return Err(Fault::new(Code::FRAME_SIZE_ERROR, "padding without its length"));
        }
        if !self.window.charge(head.len as u32) {
            return Err(Fault::new(Code::FLOW_CONTROL_ERROR, "more than the connection's window"));
        }
        match self.ids.get(&head.stream) {
            Some(&key) => {
                if let Some(code) = self.charge(key, head.len as u32) {
                    self.break_off_open(now, key, code)?;
                }
            }
            None if self.is_past(head.stream)? => self.stray(now, head.stream, head.len)?,
            None => return Err(Fault::new(Code::PROTOCOL_ERROR, "DATA before HEADERS")),
        }
        let end = head.flags & frame::END_STREAM != 0;
        if head.len > 0 {
            self.inbox.data = Some(Data { stream: head.stream, end, padded, content: head.len, padding: 0 });
            return Ok(());
        }
        if end { self.end_came(now, head.stream) } else { self.useless(now) }
    }

    /// `bytes` are about to come on an open stream. Which error of that stream it is, if it is one.
    fn charge(&mut self, key: usize, bytes: u32) -> Option<Code> {
        let inward = &mut self.streams.get_mut(key)?.inward;
        match () {
            () if inward.ended => Some(Code::STREAM_CLOSED),
            () if !inward.headed => Some(Code::PROTOCOL_ERROR),
            () if !inward.window.charge(bytes) => Some(Code::FLOW_CONTROL_ERROR),
            () => None,
        }
    }

    /// The next bytes of a DATA frame.
    fn data_bytes(&mut self, now: Instant, mut data: Data, bytes: &mut BytesMut) -> Result<(), Fault> {
        if std::mem::take(&mut data.padded) {
            data.padding = usize::from(bytes.get_u8());
            let content = (data.content - 1).checked_sub(data.padding);
            data.content = content.ok_or(Fault::new(Code::PROTOCOL_ERROR, "more padding than payload"))?;
            self.padding_came(data.stream, 1);
            if data.content == 0 && !data.end {
                self.useless(now)?;
            }
        }
        let part = data.content.min(bytes.len());
        if part > 0 {
            data.content -= part;
            self.content_came(now, data.stream, bytes.split_to(part).freeze())?;
        }
        let padding = data.padding.min(bytes.len());
        if padding > 0 {
            data.padding -= padding;
            bytes.advance(padding);
            self.padding_came(data.stream, padding);
        }
        if data.content + data.padding > 0 {
            self.inbox.data = Some(data);
            return Ok(());
        }
        if data.end { self.end_came(now, data.stream) } else { Ok(()) }
    }

    /// Part of a body has come.
    fn content_came(&mut self, now: Instant, id: u32, part: Bytes) -> Result<(), Fault> {
        let length = part.len();
        let key = self.ids.get(&id).copied();
        let Some((key, stream)) = key.and_then(|key| Some((key, self.streams.get_mut(key)?))) else {
            self.release_unread(length);
            return Ok(());
        };
        if !stream.inward.expect(length) {
            self.release_unread(length);
            return self.break_off_open(now, key, Code::PROTOCOL_ERROR);
        }
        stream.inward.held += length as u32;
        stream.inward.body.push(part);
        self.wake(key);
        Ok(())
    }

    fn padding_came(&mut self, id: u32, bytes: usize) {
        let key = self.ids.get(&id).copied();
        match key.and_then(|key| Some((key, self.streams.get_mut(key)?))) {
            Some((key, stream)) => {
                stream.inward.held += bytes as u32;
                self.release(Key(key), bytes);
            }
            None => self.release_unread(bytes),
        }
    }

    /// A stream's last frame has come.
    fn end_came(&mut self, now: Instant, id: u32) -> Result<(), Fault> {
        let key = self.ids.get(&id).copied();
        let Some((key, stream)) = key.and_then(|key| Some((key, self.streams.get_mut(key)?))) else {
            return Ok(());
        };
        if stream.inward.expected.is_some_and(|left| left > 0) {
            return self.break_off_open(now, key, Code::PROTOCOL_ERROR);
        }
        stream.inward.ended = true;
        self.wake(key);
        self.settle(key);
        Ok(())
    }

    fn reset_came(&mut self, now: Instant, id: u32, code: u32) -> Result<(), Fault> {
        if id == 0 {
            return Err(out_of_place());
        }
        let Some(&key) = self.ids.get(&id) else {
            return match self.is_past(id)? {
                true => self.useless(now),
                false => Err(Fault::new(Code::PROTOCOL_ERROR, "RST_STREAM before HEADERS")),
            };
        };
        self.count_reset(now)?;
        self.cut_off(key, Cut::Reset(Code(code)));
        Ok(())
    }

    fn ping_came(&mut self, now: Instant, flags: u8, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 8 {
            return Err(Fault::new(Code::FRAME_SIZE_ERROR, "a PING that has not eight bytes"));
        }
        if flags & frame::ACK == 0 {
            if !self.pings_seen.count(now, self.limits.pings_per_second) {
                return Err(Fault::new(Code::ENHANCE_YOUR_CALM, "too many PINGs"));
            }
            return self.reply(Kind::Ping, frame::ACK, 0, payload);
        }
        if self.leaving == Leaving::Announced && payload == super::send::GOODBYE {
            self.settle_goodbye();
            return Ok(());
        }
        self.useless(now)
    }

    fn goaway_came(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let Some((last, rest)) = payload.split_first_chunk::<4>().filter(|(_, rest)| rest.len() >= 4) else {
            return Err(Fault::new(Code::FRAME_SIZE_ERROR, "a GOAWAY that is too short"));
        };
        self.peer_drains |= rest[4..] == *super::send::DRAINING;
        let last = u32::from_be_bytes(*last) & frame::MAX_STREAM;
        let last = self.peer_last.map_or(last, |before| before.min(last));
        self.peer_last = Some(last);
        if self.side == Side::Client {
            let unread: Vec<usize> =
                self.ids.iter().filter(|(id, _)| **id > last).map(|(_, key)| *key).collect();
            unread.into_iter().for_each(|key| self.cut_off(key, Cut::Unread));
        }
        Ok(())
    }

    fn window_update_came(&mut self, now: Instant, id: u32, more: u32) -> Result<(), Fault> {
        let more = more & frame::MAX_STREAM;
        if id == 0 {
            return self.window_grows(more);
        }
        match self.ids.get(&id) {
            Some(&key) => match self.stream_window_grows(key, more) {
                Some(code) => self.break_off_open(now, key, code),
                None => Ok(()),
            },
            // It may have been on its way when the stream ended.
            None if self.is_past(id)? => Ok(()),
            None => Err(Fault::new(Code::PROTOCOL_ERROR, "WINDOW_UPDATE before HEADERS")),
        }
    }

    /// Whether a stream that is not open was open once. A number that the peer must not use is a fault.
    fn is_past(&self, id: u32) -> Result<bool, Fault> {
        if id.is_multiple_of(2) || (self.side == Side::Client && id > self.highest) {
            return Err(Fault::new(Code::PROTOCOL_ERROR, "a stream that was never opened"));
        }
        Ok(id <= self.highest)
    }
}

/// The part of a HEADERS frame that belongs to the block: without padding and priority.
fn fragment(head: Head, mut payload: &[u8]) -> Result<&[u8], Fault> {
    let short = Fault::new(Code::FRAME_SIZE_ERROR, "HEADERS that are too short");
    let mut padding = 0;
    if head.flags & frame::PADDED != 0 {
        let (first, rest) = payload.split_first().ok_or(short)?;
        padding = usize::from(*first);
        payload = rest;
    }
    if head.flags & frame::PRIORITY != 0 {
        payload = payload.get(5..).ok_or(short)?;
    }
    let length = payload.len().checked_sub(padding);
    let length = length.ok_or(Fault::new(Code::PROTOCOL_ERROR, "more padding than payload"))?;
    Ok(&payload[..length])
}

/// A payload of four bytes.
fn word(payload: &[u8]) -> Result<u32, Fault> {
    let wrong = Fault::new(Code::FRAME_SIZE_ERROR, "a frame that has not four bytes");
    payload.try_into().map(u32::from_be_bytes).map_err(|_| wrong)
}

fn out_of_place() -> Fault {
    Fault::new(Code::PROTOCOL_ERROR, "a frame on a stream that it cannot be about")
}
