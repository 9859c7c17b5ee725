//! What goes out: heads, bodies, trailers, and goodbyes.

use bytes::Bytes;

use super::stream::Stream;
use super::{Connection, Cut, Fault, Key, Leaving, Side};
use crate::http::h2::fields::{Fields, RequestHead, ResponseHead};
use crate::http::h2::frame::{self, Code, Kind};
use crate::http::h2::hpack::Encoder;

/// What the PING says that comes with a goodbye.
pub(super) const GOODBYE: &[u8; 8] = b"lighter\n";

/// The debug data of a goodbye for ever. That of others has no meaning (RFC 9113 §6.8).
pub(super) const DRAINING: &[u8] = b"lighter: draining";

/// The stream is not open for that any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Connection {
    /// Opens a stream. `end`: with nothing behind its head. How many streams the peer allows is the caller's to keep to.
    pub fn open(&mut self, head: &RequestHead, end: bool) -> Result<Key, Closed> {
        if self.side != Side::Client || !self.is_usable() {
            return Err(Closed);
        }
        self.highest = if self.highest == 0 { 1 } else { self.highest + 2 };
        let id = self.highest;
        self.put_block(id, end, |encoder, out| {
            encoder.field(b":method", head.method(), false, out);
            if !head.scheme().is_empty() {
                encoder.field(b":scheme", head.scheme(), false, out);
            }
            if !head.authority().is_empty() {
                encoder.field(b":authority", head.authority(), false, out);
            }
            if !head.target().is_empty() {
                encoder.field(b":path", head.target(), false, out);
            }
            put_fields(encoder, &head.fields, out);
        });
        let mut stream = Stream::new(id, true, self.limits.stream_window, self.peer.window);
        stream.out.ended = end;
        stream.inward.head_only = head.method() == b"HEAD";
        let key = self.streams.insert(stream);
        self.ids.insert(id, key);
        Ok(Key(key))
    }

    /// Sends the head of an answer, or of an interim one.
    pub fn send_head(&mut self, key: Key, head: &ResponseHead, end: bool) -> Result<(), Closed> {
        let id = self.sendable(key)?;
        self.put_block(id, end, |encoder, out| {
            let mut digits = itoa::Buffer::new();
            encoder.field(b":status", digits.format(head.status).as_bytes(), false, out);
            put_fields(encoder, &head.fields, out);
        });
        if end {
            self.end_sent(key);
        }
        Ok(())
    }

    /// Sends part of a body, no more than [`Self::capacity`] said. `end`: nothing comes behind it.
    pub fn send_data(&mut self, key: Key, mut part: Bytes, end: bool) -> Result<(), Closed> {
        let id = self.sendable(key)?;
        if part.is_empty() && !end {
            // Some peers count frames that move nothing.
            return Ok(());
        }
        self.use_up(key.0, part.len());
        loop {
            let piece = if part.len() > self.peer.frame {
                part.split_to(self.peer.frame)
            } else {
                std::mem::take(&mut part)
            };
            let last = part.is_empty();
            let flags = if last && end { frame::END_STREAM } else { 0 };
            self.outbox.put(|out| frame::put_head(out, piece.len(), Kind::Data, flags, id));
            self.outbox.body(piece);
            if last {
                break;
            }
        }
        if end {
            self.end_sent(key);
        }
        Ok(())
    }

    /// Ends a stream with these fields.
    pub fn send_trailers(&mut self, key: Key, trailers: &Fields) -> Result<(), Closed> {
        let id = self.sendable(key)?;
        self.put_block(id, true, |encoder, out| put_fields(encoder, trailers, out));
        self.end_sent(key);
        Ok(())
    }

    /// Gives a stream up, and tells the peer. One that is over is left alone.
    pub fn reset(&mut self, key: Key, code: Code) {
        let Some(stream) = self.streams.get(key.0) else { return };
        if stream.closed {
            return;
        }
        let id = stream.id;
        self.cut_off(key.0, Cut::Given);
        self.remember(id);
        self.outbox.put(|out| {
            frame::put_head(out, 4, Kind::RstStream, 0, id);
            out.extend_from_slice(&code.0.to_be_bytes());
        });
    }

    /// Says goodbye: what the peer opens until it knows is still taken, and then nothing more (RFC 9113 §6.8).
    pub fn leave(&mut self) {
        if self.leaving != Leaving::Not || self.fault.is_some() {
            return;
        }
        if self.side == Side::Client {
            // The server opens no streams that could still come: it is told at the end.
            self.leaving = Leaving::Settled;
            return;
        }
        self.leaving = Leaving::Announced;
        self.send_goaway(frame::MAX_STREAM, Code::NO_ERROR);
        self.outbox.put(|out| {
            frame::put_head(out, GOODBYE.len(), Kind::Ping, 0, 0);
            out.extend_from_slice(GOODBYE);
        });
    }

    /// The same for ever: whoever reads these words in the goodbye need not come again.
    pub fn leave_for_good(&mut self) {
        if self.leaving == Leaving::Not {
            self.words = DRAINING;
        }
        self.leave();
    }

    /// The peer knows of the goodbye.
    pub(super) fn settle_goodbye(&mut self) {
        self.leaving = Leaving::Settled;
        self.settled = Some(self.highest);
        self.send_goaway(self.last_seen(), Code::NO_ERROR);
    }

    /// Ends the connection at once.
    pub fn close(&mut self) {
        if self.fault.is_none() {
            self.cut_all(Cut::Lost);
            self.send_goaway(self.last_seen(), Code::NO_ERROR);
            self.fault = Some(Fault::new(Code::NO_ERROR, "this side has closed it"));
        }
    }

    pub(super) fn send_goaway(&mut self, last: u32, code: Code) {
        let words = self.words;
        self.outbox.put(|out| {
            frame::put_head(out, 8 + words.len(), Kind::Goaway, 0, 0);
            out.extend_from_slice(&last.to_be_bytes());
            out.extend_from_slice(&code.0.to_be_bytes());
            out.extend_from_slice(words);
        });
    }

    /// Answers a frame of the peer. One that reads no answers is not answered for ever.
    pub(super) fn reply(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Fault> {
        self.replies += frame::HEAD_BYTES + payload.len();
        if self.replies > self.limits.replies {
            return Err(Fault::new(Code::ENHANCE_YOUR_CALM, "the peer reads no answers"));
        }
        self.outbox.put(|out| {
            frame::put_head(out, payload.len(), kind, flags, stream);
            out.extend_from_slice(payload);
        });
        Ok(())
    }

    /// The number of a stream on which something can be sent.
    fn sendable(&self, key: Key) -> Result<u32, Closed> {
        match self.streams.get(key.0) {
            Some(stream) if !stream.closed && !stream.out.ended => Ok(stream.id),
            _ => Err(Closed),
        }
    }

    fn end_sent(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key.0) {
            stream.out.ended = true;
        }
        self.give_back(key.0);
        self.settle(key.0);
    }

    /// Puts a header block into the outbox: HEADERS, and CONTINUATION where it is large.
    fn put_block(&mut self, id: u32, end: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let (encoder, most) = (&mut self.encoder, self.peer.frame);
        let end = if end { frame::END_STREAM } else { 0 };
        self.outbox.put(|out| {
            let start = out.len();
            frame::put_head(out, 0, Kind::Headers, end | frame::END_HEADERS, id);
            write(encoder, out);
            let length = out.len() - start - frame::HEAD_BYTES;
            if length <= most {
                frame::set_len(&mut out[start..], length);
                return;
            }
            let block = out.split_off(start + frame::HEAD_BYTES);
            out.truncate(start);
            let mut parts = block.chunks(most).peekable();
            let mut kind = (Kind::Headers, end);
            while let Some(part) = parts.next() {
                let last = if parts.peek().is_none() { frame::END_HEADERS } else { 0 };
                frame::put_head(out, part.len(), kind.0, kind.1 | last, id);
                out.extend_from_slice(part);
                kind = (Kind::Continuation, 0);
            }
        });
    }
}

fn put_fields(encoder: &mut Encoder, fields: &Fields, out: &mut Vec<u8>) {
    for field in fields.iter() {
        encoder.field(field.name, field.value, field.sensitive, out);
    }
}
