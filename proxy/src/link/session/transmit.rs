//! What goes out, and in which order.

use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::stream::Tail;
use super::{Session, Side, Word};
use crate::link::frame::{Cut, END, HEADER_BYTES, Header, Type};

/// What is gathered is cut by the TLS layer into records of so many bytes. A stream sends one when it is its turn, with
/// its frame's header: so a frame comes out of the other side's TLS in one piece.
pub(super) const RECORD: usize = 16 * 1024;

/// So many bytes are gathered for one write, unless the frames that go first are more. It is what the TLS layer takes at
/// once.
const GATHERED: usize = 4 * RECORD;

/// A body that could only begin so near the end of a record goes on into the next one.
const SLIVER: usize = 512;

impl Session {
    /// Gathers what can go out now, once all that was gathered before is written: control and heads first, then bodies
    /// in turn. Whoever writes it says how much by [`Outbox::advance`], and asks again until it is empty.
    pub fn transmit(&mut self) -> &mut Outbox {
        if self.outbox.is_empty() {
            self.gather();
        }
        &mut self.outbox
    }

    /// Whether so much waits that it fills a write.
    pub fn fills_write(&self) -> bool {
        self.outbox.len() + self.queued >= GATHERED
    }

    /// Whether there is anything to be written.
    pub fn wants_transmit(&self) -> bool {
        !self.outbox.is_empty()
            || !self.urgent.is_empty()
            || !self.ready.is_empty()
            || !self.due.is_empty()
            || (self.fault.is_none() && self.window.is_due())
            || self.lanes.as_ref().is_some_and(|lanes| lanes.has_work())
    }

    fn gather(&mut self) {
        self.grant();
        self.outbox.begin(&mut self.urgent);
        if self.lanes.is_some() {
            // Bodies go by their own lanes.
            return;
        }
        self.urgent_open = None;
        while let Some(room) = frame_room(self.outbox.len())
            && let Some(id) = self.ready.pop_front()
        {
            self.turn(id, room);
        }
        if self.ready.is_empty() && self.ready.capacity() > KEPT {
            self.ready = Default::default();
        }
    }

    /// One stream's turn, in which it sends at most `room` bytes.
    fn turn(&mut self, id: u32, room: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let out = &mut stream.out;
        out.ready = false;
        let len = room.min(out.queued as usize);
        if len == 0 {
            return;
        }
        out.queued -= len as u32;
        self.queued -= len;
        let last = out.queued == 0;
        let flags = if last && matches!(out.tail, Tail::End) { END } else { 0 };
        self.outbox.copy(&Header { len, kind: Type::Data, flags, stream: id }.encode());
        let mut left = len;
        while left > 0
            && let Some(body) = out.bodies.front_mut()
        {
            let piece = if body.len() > left { body.split_to(left) } else { std::mem::take(body) };
            if body.is_empty() {
                out.bodies.pop_front();
            }
            left -= piece.len();
            self.outbox.body(piece);
        }
        if !last {
            out.ready = true;
            self.ready.push_back(id);
        } else if out.is_closed() {
            if let Tail::Trailers(frame) = std::mem::replace(&mut out.tail, Tail::Sent) {
                self.outbox.copy(&frame);
            }
            match stream.let_go {
                Some(cut) => self.part(id, cut),
                None => self.settle(id),
            }
        }
        self.wake(id);
    }

    /// All was sent on a stream that nobody reads.
    pub(super) fn part(&mut self, id: u32, cut: Cut) {
        if self.streams.get(&id).is_some_and(|stream| !stream.inward.ended) {
            self.put_reset(id, cut);
        }
        self.remove(id);
    }

    /// Grants what is due, to streams and to the link. Windows that were used up grow, as far as the link's own allows.
    fn grant(&mut self) {
        if self.fault.is_some() {
            return;
        }
        if self.lanes.is_some() {
            // What a stream may send is said by what carries it.
            self.window.grant();
            return;
        }
        for id in std::mem::take(&mut self.due) {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let inward = &mut stream.inward;
            inward.due = false;
            if inward.ended || stream.cut.is_some() {
                continue;
            }
            let window = &mut inward.window;
            if window.is_used() && self.windows + u64::from(window.size()) <= u64::from(self.window.size()) {
                self.windows += u64::from(window.grow(self.limits.stream_window));
            }
            let granted = window.grant();
            self.frame(Type::Credit, 0, id, |payload| payload.extend_from_slice(&granted.to_be_bytes()));
        }
        if self.window.is_due() {
            if self.window.is_used() && 2 * self.windows > u64::from(self.window.size()) {
                self.window.grow(self.limits.session_window);
            }
            let granted = self.window.grant();
            self.frame(Type::Credit, 0, 0, |payload| payload.extend_from_slice(&granted.to_be_bytes()));
        }
    }

    /// Sends RESET, or lets it wait where this side would come near the peer's limit.
    pub(super) fn send_reset(&mut self, now: Instant, id: u32, cut: Cut) {
        if self.fault.is_some() {
            return;
        }
        if self.side == Side::Opener {
            self.resets.push_back((id, cut));
            self.send_waiting_resets(now);
        } else {
            self.put_reset(id, cut);
        }
    }

    fn put_reset(&mut self, id: u32, cut: Cut) {
        match &mut self.lanes {
            Some(lanes) => lanes.reset(id, cut),
            None => self.frame(Type::Reset, 0, id, |payload| cut.encode(payload)),
        }
    }

    /// Sends the resets that had to wait, as many as may go in this second.
    pub(super) fn send_waiting_resets(&mut self, now: Instant) {
        while !self.resets.is_empty() && self.resets_sent.count(now, self.limits.resets_per_second / 2) {
            if let Some((id, cut)) = self.resets.pop_front() {
                self.put_reset(id, cut);
            }
        }
    }

    pub(super) fn send_leave(&mut self, last: u32, deadline: Duration, cause: &str) {
        let millis = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        let word = Word::new(cause.as_bytes());
        self.frame(Type::Leave, 0, 0, |payload| {
            payload.extend_from_slice(&last.to_be_bytes()[1..]);
            payload.extend_from_slice(&millis.to_be_bytes());
            payload.extend_from_slice(word.as_str().as_bytes());
        });
    }
}

/// How many bytes of body the next frame may have behind `gathered` bytes, so that it ends with a record. None: it is to
/// wait for the next write.
fn frame_room(gathered: usize) -> Option<usize> {
    let within = gathered % RECORD;
    let room = match RECORD - within {
        rest if rest < SLIVER => rest + RECORD,
        rest => rest,
    };
    (gathered + room <= GATHERED).then_some(room - HEADER_BYTES)
}

/// Places in a queue that an idle link keeps.
const KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_with_records_and_a_write_with_its_fourth() {
        let whole = RECORD - HEADER_BYTES;
        assert_eq!(frame_room(0), Some(whole));
        assert_eq!(frame_room(100), Some(whole - 100));
        assert_eq!(frame_room(3 * RECORD), Some(whole));
        assert_eq!(frame_room(RECORD - 10), Some(10 + whole));
        for full in [4 * RECORD - 10, 4 * RECORD, 9 * RECORD] {
            assert_eq!(frame_room(full), None);
        }
    }
}
