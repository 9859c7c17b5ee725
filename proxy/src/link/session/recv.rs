//! What comes in: bytes to frames, and what each frame does.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::lanes::Lane;
use super::{Event, Session, Side, StreamId};
use crate::error::Cause;
use crate::http::h1::head::Refusal;
use crate::link::frame::{Code, Cut, END, Fault, HEADER_BYTES, Header, INFO, Type, Word};
use crate::link::head::{Protocol, RequestHead, ResponseHead, Trailers, Wrong};

/// Frames that do nothing are counted if they are smaller than this.
const SMALL: usize = 256;

/// Most informational heads of one stream that wait to be read.
const INFOS: usize = 16;

/// Bytes that are not a whole frame yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Whose frames these are, where a stream has a carrier of its own.
    pub(super) lane: Option<Lane>,
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` that have come.
    have: usize,
    /// Of DATA whose header has come: the stream, the flags, and how many bytes are still to come.
    pub(super) data: Option<(u32, u8, usize)>,
    /// Of another frame: its header, and what has come of its payload.
    partial: Option<(Header, BytesMut)>,
}

impl Session {
    /// Takes `bytes`, which came from the peer. Large parts of bodies are kept as parts of that very buffer; it should be
    /// of some 16 to 64 KiB. `Err`: the link is given up; what is still to be transmitted says why, and the connection is
    /// to be closed behind it.
    pub fn recv(&mut self, now: Instant, mut bytes: Bytes) -> Result<(), Fault> {
        let result = self.take_in(now, &mut bytes);
        result.map_err(|fault| self.give_up(fault))
    }

    pub(super) fn take_in(&mut self, now: Instant, bytes: &mut Bytes) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !bytes.is_empty() {
            self.heard = now;
        }
        while !bytes.is_empty() {
            if self.urgent.len() > self.limits.unsent {
                return Err(Fault::Unread);
            }
            if let Some((stream, flags, left)) = self.inbox.data {
                self.data_bytes(now, stream, flags, left, bytes)?;
            } else if let Some((header, mut partial)) = self.inbox.partial.take() {
                let more = bytes.len().min(header.len - partial.len());
                partial.extend_from_slice(&bytes[..more]);
                bytes.advance(more);
                if partial.len() == header.len {
                    self.frame_came(now, header, &mut partial.freeze())?;
                } else {
                    self.inbox.partial = Some((header, partial));
                }
            } else if let Some(header) = self.inbox.next_header(bytes)? {
                self.header_came(now, header, bytes)?;
            }
        }
        Ok(())
    }

    fn header_came(&mut self, now: Instant, header: Header, bytes: &mut Bytes) -> Result<(), Fault> {
        if header.kind == Type::Data {
            self.data_header(now, header)?;
        } else if bytes.len() >= header.len {
            self.frame_came(now, header, bytes)?;
        } else {
            self.inbox.partial = Some((header, BytesMut::from(&bytes[..])));
            bytes.clear();
        }
        Ok(())
    }

    /// A whole frame that is not DATA: its payload is the front of `bytes`, and is taken off there.
    fn frame_came(&mut self, now: Instant, header: Header, bytes: &mut Bytes) -> Result<(), Fault> {
        let payload = &bytes[..header.len];
        match header.kind {
            Type::Open => return self.open_came(now, header, bytes),
            Type::Head => return self.head_came(now, header, bytes),
            // It has its own way.
            Type::Data => {}
            Type::Trailers => self.trailers_came(now, header.stream, payload)?,
            Type::Reset => self.reset_came(now, header.stream, Cut::decode(payload)?)?,
            Type::Credit => {
                let granted = u32::from_be_bytes(payload.try_into().map_err(|_| Fault::BadPayload)?);
                self.credit_came(now, header.stream, granted)?;
            }
            Type::Ping => {
                let number: [u8; 8] = payload.try_into().map_err(|_| Fault::BadPayload)?;
                if !self.pings.count(now, self.limits.pings_per_second) {
                    return Err(Fault::TooManyPings);
                }
                self.frame(Type::Pong, 0, 0, |payload| payload.extend_from_slice(&number));
            }
            Type::Pong => {
                let number = u64::from_be_bytes(payload.try_into().map_err(|_| Fault::BadPayload)?);
                match self.pinged {
                    Some(at) if number == self.ping => {
                        self.round_trip = Some(now.saturating_duration_since(at));
                        self.pinged = None;
                    }
                    _ => self.useless(now)?,
                }
            }
            Type::Leave => {
                self.meter_control(now)?;
                self.leave_came(payload)?;
            }
            Type::Control => {
                self.meter_control(now)?;
                let (kind, rest) = payload.split_first_chunk().ok_or(Fault::BadPayload)?;
                let bytes = Bytes::copy_from_slice(rest);
                self.events.push_back(Event::Control { kind: u16::from_be_bytes(*kind), bytes });
            }
        }
        bytes.advance(header.len);
        Ok(())
    }

    fn open_came(&mut self, now: Instant, header: Header, bytes: &mut Bytes) -> Result<(), Fault> {
        let id = header.stream;
        // Numbers are counted: one that is left out can only be a mistake, or an attempt at one.
        // Where each has a carrier of its own, one may overtake another.
        let follows = id == self.highest + 1 || self.lanes.is_some();
        if self.side == Side::Opener || !follows || id > self.peer_left {
            return Err(Fault::OutOfPlace);
        }
        self.highest = self.highest.max(id);
        let read = RequestHead::decode(&bytes[..header.len], Bytes::copy_from_slice);
        let (head, len) = match read {
            Ok(read) => read,
            Err(Wrong::Broken) => return Err(Fault::BadPayload),
            Err(Wrong::Refused(Refusal { cause, .. }, len)) => {
                bytes.advance(header.len);
                self.charge(header.len - len)?;
                return self.refuse(now, id, Cut::new(Code::Protocol, cause), header.len - len);
            }
        };
        let body = header.len - len;
        bytes.advance(len);
        let end = header.flags & END != 0;
        self.charge(body)?;
        if id > self.left {
            // The peer is told so, or was: nothing is to be answered.
            bytes.advance(body);
            self.window.release(body as u32);
            if let Some(lanes) = &mut self.lanes {
                lanes.reset(id, Cut::new(Code::Refused, Cause::Draining));
            }
            return self.useless(now);
        }
        if self.streams.len() >= 2 * self.limits.open_streams {
            bytes.advance(body);
            return self.refuse(now, id, Cut::new(Code::Refused, Cause::Overloaded), body);
        }
        let mut stream = self.new_stream(false);
        stream.head_method = head.method() == b"HEAD";
        stream.connect = head.protocol == Protocol::Tunnel || head.method() == b"CONNECT";
        let inward = &mut stream.inward;
        inward.expected = match head.length {
            // Until an upgrade is answered with 101, there is no body that was not announced.
            None if head.upgrade => Some(0),
            length => length,
        };
        let fits = inward.expect(body as u32) && !(end && inward.expected.is_some_and(|left| left > 0));
        if !fits || (stream.connect && head.length.is_some()) || !inward.window.charge(body as u32) {
            bytes.advance(body);
            return self.refuse(now, id, Cut::new(Code::Protocol, Cause::AmbiguousMessage), body);
        }
        inward.held = body as u32;
        inward.body.take(bytes, body);
        inward.ended = end;
        inward.told = body > 0;
        inward.done = end && body == 0;
        self.windows += u64::from(inward.window.size());
        self.streams.insert(id, stream);
        let stream = StreamId(id);
        self.events.push_back(Event::Opened { stream, head, end: end && body == 0 });
        if body > 0 {
            self.events.push_back(Event::Readable(stream));
        }
        Ok(())
    }

    fn head_came(&mut self, now: Instant, header: Header, bytes: &mut Bytes) -> Result<(), Fault> {
        let id = header.stream;
        self.must_answer(id)?;
        let read = ResponseHead::decode(&bytes[..header.len], Bytes::copy_from_slice);
        let (head, len) = match read {
            Ok(read) => read,
            Err(Wrong::Broken) => return Err(Fault::BadPayload),
            Err(Wrong::Refused(Refusal { cause, .. }, len)) => {
                bytes.advance(header.len);
                self.charge(header.len - len)?;
                self.window.release((header.len - len) as u32);
                self.break_off(now, id, Cut::new(Code::Protocol, cause));
                return Ok(());
            }
        };
        let body = header.len - len;
        bytes.advance(len);
        self.charge(body)?;
        let info = header.flags & INFO != 0;
        if info != head.is_informational() || (info && (body > 0 || header.flags & END != 0)) {
            return Err(Fault::BadPayload);
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.cut.is_none()) else {
            bytes.advance(body);
            self.window.release(body as u32);
            return self.useless_if(now, body < SMALL);
        };
        let inward = &mut stream.inward;
        if inward.headed {
            return Err(Fault::OutOfPlace);
        }
        let over = head.status == 101 && !stream.upgrade
            || stream.connect && (200..300).contains(&head.status) && head.length.is_some();
        let held = head.held();
        if over || inward.infos.len() >= INFOS || self.heads + held > self.limits.heads {
            let cause = if over { Cause::UpstreamMalformed } else { Cause::Overloaded };
            bytes.advance(body);
            self.window.release(body as u32);
            self.break_off(now, id, Cut::new(Code::Protocol, cause));
            return Ok(());
        }
        self.heads += held;
        if info {
            inward.infos.push_back(head);
            self.tell(id);
            return self.useless(now);
        }
        inward.headed = true;
        // What follows is no message any more.
        stream.connect |= head.status == 101;
        inward.expected = match head.status {
            101 => None,
            200..300 if stream.connect => None,
            204 | 304 => Some(0),
            _ if stream.head_method => Some(0),
            _ => head.length,
        };
        inward.head = Some(head);
        self.tell(id);
        if body > 0 && !self.body_may_come(now, id, body)? {
            bytes.advance(body);
            return Ok(());
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.inward.body.take(bytes, body);
        }
        if header.flags & END != 0 {
            self.end_came(now, id);
        }
        Ok(())
    }

    fn data_header(&mut self, now: Instant, header: Header) -> Result<(), Fault> {
        let Header { len, flags, stream: id, .. } = header;
        self.must_be_known(id)?;
        self.charge(len)?;
        match self.streams.get(&id).filter(|stream| stream.cut.is_none()) {
            None => {
                self.window.release(len as u32);
                self.useless_if(now, len < SMALL)?;
            }
            Some(stream) if stream.inward.ended || !stream.inward.headed => return Err(Fault::OutOfPlace),
            Some(_) => {
                self.useless_if(now, len == 0 && flags & END == 0)?;
                self.body_may_come(now, id, len)?;
            }
        }
        self.inbox.data = Some((id, flags, len));
        if len == 0 {
            self.data_ended(now, id, flags);
        }
        Ok(())
    }

    /// Bytes of DATA: as many as there are.
    fn data_bytes(
        &mut self,
        now: Instant,
        id: u32,
        flags: u8,
        left: usize,
        bytes: &mut Bytes,
    ) -> Result<(), Fault> {
        let length = left.min(bytes.len());
        match self.streams.get_mut(&id).filter(|stream| stream.cut.is_none()) {
            Some(stream) => {
                stream.inward.body.take(bytes, length);
                self.tell(id);
            }
            None => bytes.advance(length),
        }
        if length == left {
            self.data_ended(now, id, flags);
        } else {
            self.inbox.data = Some((id, flags, left - length));
        }
        Ok(())
    }

    fn data_ended(&mut self, now: Instant, id: u32, flags: u8) {
        self.inbox.data = None;
        if flags & END != 0 {
            self.end_came(now, id);
        }
    }

    fn trailers_came(&mut self, now: Instant, id: u32, payload: &[u8]) -> Result<(), Fault> {
        self.must_be_known(id)?;
        let trailers = match Trailers::decode(payload, Bytes::copy_from_slice) {
            Ok(trailers) => trailers,
            Err(Wrong::Broken) => return Err(Fault::BadPayload),
            Err(Wrong::Refused(Refusal { cause, .. }, _)) => {
                let cause = if self.side == Side::Opener { Cause::UpstreamMalformed } else { cause };
                self.break_off(now, id, Cut::new(Code::Protocol, cause));
                return Ok(());
            }
        };
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.cut.is_none()) else {
            return self.useless(now);
        };
        if stream.inward.ended || !stream.inward.headed {
            return Err(Fault::OutOfPlace);
        }
        let held = trailers.held();
        if stream.connect || self.heads + held > self.limits.heads {
            let cause = if stream.connect { Cause::BadRequest } else { Cause::Overloaded };
            self.break_off(now, id, Cut::new(Code::Protocol, cause));
            return Ok(());
        }
        self.heads += held;
        stream.inward.trailers = Some(Box::new(trailers));
        self.end_came(now, id);
        Ok(())
    }

    pub(super) fn reset_came(&mut self, now: Instant, id: u32, cut: Cut) -> Result<(), Fault> {
        self.must_be_known(id)?;
        if self.side == Side::Acceptor && !self.resets_seen.count(now, self.limits.resets_per_second) {
            return Err(Fault::TooManyResets);
        }
        match self.streams.get(&id) {
            Some(stream) if stream.cut.is_none() && !stream.is_over_on_the_wire() => {
                self.cut(id, cut);
                Ok(())
            }
            _ => self.useless(now),
        }
    }

    fn credit_came(&mut self, now: Instant, id: u32, granted: u32) -> Result<(), Fault> {
        if id == 0 {
            self.credit = add_credit(self.credit, granted)?;
            self.useless_if(now, (granted as usize) < SMALL)?;
            self.feed_starved();
            return Ok(());
        }
        self.must_be_known(id)?;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.cut.is_none()) else {
            return self.useless(now);
        };
        stream.out.credit = add_credit(stream.out.credit, granted)?;
        self.useless_if(now, (granted as usize) < SMALL)?;
        self.wake(id);
        Ok(())
    }

    fn leave_came(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let (front, word) = payload.split_first_chunk().ok_or(Fault::BadPayload)?;
        let [x, y, z, a, b, c, d] = *front;
        let last = u32::from_be_bytes([0, x, y, z]).min(self.peer_left);
        let deadline = Duration::from_millis(u32::from_be_bytes([a, b, c, d]).into());
        self.peer_left = last;
        self.leaving = true;
        if self.side == Side::Opener {
            let mut above: Vec<u32> = self.streams.keys().copied().filter(|id| *id > last).collect();
            above.sort_unstable();
            for id in above {
                self.cut(id, Cut::new(Code::Refused, Cause::Draining));
            }
        }
        self.events.push_back(Event::Leave { last, deadline, cause: Word::new(word) });
        Ok(())
    }

    /// A request is not taken: nothing of it was executed, or will be.
    fn refuse(&mut self, now: Instant, id: u32, cut: Cut, body: usize) -> Result<(), Fault> {
        self.window.release(body as u32);
        self.useless(now)?;
        self.send_reset(now, id, cut);
        Ok(())
    }

    /// The peer sent on a stream what it must not: the stream ends here, for both.
    pub(super) fn break_off(&mut self, now: Instant, id: u32, cut: Cut) {
        if self.streams.get(&id).is_some_and(|stream| stream.cut.is_none()) {
            self.send_reset(now, id, cut);
            self.cut(id, cut);
        }
    }

    /// So many bytes of body are to come on a stream that takes them. The link's credit was charged.
    fn body_may_come(&mut self, now: Instant, id: u32, bytes: usize) -> Result<bool, Fault> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(false) };
        let bytes = bytes as u32;
        if !stream.inward.window.charge(bytes) {
            return Err(Fault::CreditExceeded);
        }
        if stream.inward.expect(bytes) {
            stream.inward.held += bytes;
            return Ok(true);
        }
        self.window.release(bytes);
        let cause = self.malformed();
        self.break_off(now, id, Cut::new(Code::Protocol, cause));
        Ok(false)
    }

    pub(super) fn end_came(&mut self, now: Instant, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.cut.is_none()) else { return };
        if stream.inward.expected.is_some_and(|left| left > 0) {
            let cause = match self.side {
                Side::Opener => Cause::UpstreamTruncated,
                Side::Acceptor => Cause::DownstreamAborted,
            };
            return self.break_off(now, id, Cut::new(Code::Internal, cause));
        }
        stream.inward.ended = true;
        self.tell(id);
    }

    /// Tells that there is something to read.
    fn tell(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.inward.told
        {
            stream.inward.told = true;
            self.events.push_back(Event::Readable(StreamId(id)));
        }
    }

    fn malformed(&self) -> Cause {
        match self.side {
            Side::Opener => Cause::UpstreamMalformed,
            Side::Acceptor => Cause::AmbiguousMessage,
        }
    }

    /// The peer sends so many bytes of body.
    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        if self.window.charge(bytes as u32) { Ok(()) } else { Err(Fault::CreditExceeded) }
    }

    /// A frame of a stream that was never opened has no business here.
    fn must_be_known(&self, id: u32) -> Result<(), Fault> {
        if id > self.highest { Err(Fault::OutOfPlace) } else { Ok(()) }
    }

    /// Only the side that accepts streams sends answers.
    fn must_answer(&self, id: u32) -> Result<(), Fault> {
        if self.side == Side::Acceptor { Err(Fault::OutOfPlace) } else { self.must_be_known(id) }
    }

    fn meter_control(&mut self, now: Instant) -> Result<(), Fault> {
        if self.controls.count(now, self.limits.controls_per_second) {
            Ok(())
        } else {
            Err(Fault::TooManyControls)
        }
    }

    /// A frame did nothing.
    pub(super) fn useless(&mut self, now: Instant) -> Result<(), Fault> {
        if self.useless.count(now, self.limits.useless_per_second) { Ok(()) } else { Err(Fault::Useless) }
    }

    fn useless_if(&mut self, now: Instant, so: bool) -> Result<(), Fault> {
        if so { self.useless(now) } else { Ok(()) }
    }
}

impl Inbox {
    /// Whether a frame has begun and is not whole.
    pub(super) fn is_within_frame(&self) -> bool {
        self.have > 0 || self.data.is_some() || self.partial.is_some()
    }

    /// Bytes that wait here of a frame that is not one of a body.
    pub(super) fn partial(&self) -> usize {
        self.partial.as_ref().map_or(0, |(_, partial)| partial.len())
    }

    /// Takes a header off the front of `bytes`, if it is whole.
    fn next_header(&mut self, bytes: &mut Bytes) -> Result<Option<Header>, Fault> {
        if self.have == 0
            && let Some(header) = bytes.first_chunk::<HEADER_BYTES>()
        {
            let header = self.decode(*header)?;
            bytes.advance(HEADER_BYTES);
            return Ok(Some(header));
        }
        let more = bytes.len().min(HEADER_BYTES - self.have);
        self.header[self.have..self.have + more].copy_from_slice(&bytes[..more]);
        self.have += more;
        bytes.advance(more);
        if self.have < HEADER_BYTES {
            return Ok(None);
        }
        self.have = 0;
        self.decode(self.header).map(Some)
    }

    #[inline]
    fn decode(&mut self, header: [u8; HEADER_BYTES]) -> Result<Header, Fault> {
        match &mut self.lane {
            None => Header::decode(header),
            Some(lane) => lane.decode(header),
        }
    }
}

fn add_credit(credit: u32, granted: u32) -> Result<u32, Fault> {
    if granted == 0 {
        return Err(Fault::BadPayload);
    }
    credit.checked_add(granted).filter(|sum| *sum <= MOST_CREDIT).ok_or(Fault::CreditOverflow)
}

/// More credit than anybody has a reason to grant.
const MOST_CREDIT: u32 = 1 << 30;
