//! What the peer should not have sent: streams that it breaks off or makes this side break off, and frames that are late or
//! move nothing. Each is counted against its limit.

use std::time::Instant;

use super::{Connection, Cut, Fault, Side};
use crate::http::h2::frame::{Code, Kind};

/// So many streams that were reset here are remembered.
pub(super) const REMEMBERED: usize = 256;

impl Connection {
    /// A caller has broken off one of its streams: it may open another, though work for that one may go on.
    pub(super) fn count_reset(&mut self, now: Instant) -> Result<(), Fault> {
        if self.side == Side::Server && !self.resets_seen.count(now, self.limits.resets_per_second) {
            return Err(Fault::new(Code::ENHANCE_YOUR_CALM, "too many streams are reset"));
        }
        Ok(())
    }

    /// A frame for a stream that has ended. It may have been on its way when this side reset the stream; otherwise the
    /// peer is told that it is late.
    pub(super) fn stray(&mut self, now: Instant, id: u32, bytes: usize) -> Result<(), Fault> {
        if self.reset.contains(&id) {
            // Its window has paid for what comes, as long as that is more than nothing.
            return if bytes > 0 { Ok(()) } else { self.useless(now) };
        }
        self.refuse(now, id, Code::STREAM_CLOSED)
    }

    /// Resets a stream that is not open.
    pub(super) fn refuse(&mut self, now: Instant, id: u32, code: Code) -> Result<(), Fault> {
        self.useless(now)?;
        self.remember(id);
        self.reply(Kind::RstStream, 0, id, &code.0.to_be_bytes())
    }

    /// Resets a stream on which the peer broke the rules. One that was never opened cannot be reset.
    pub(super) fn break_off(&mut self, now: Instant, id: u32, code: Code) -> Result<(), Fault> {
        match self.ids.get(&id) {
            Some(&key) => self.break_off_open(now, key, code),
            None if id <= self.highest => self.refuse(now, id, code),
            None => Err(Fault::new(code, "a frame that is wrong, on a stream that was never opened")),
        }
    }

    pub(super) fn break_off_open(&mut self, now: Instant, key: usize, code: Code) -> Result<(), Fault> {
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        let id = stream.id;
        // Whoever makes this side reset streams has reset them (CVE-2025-8671).
        self.count_reset(now)?;
        self.cut_off(key, Cut::Malformed);
        self.refuse(now, id, code)
    }

    /// Remembers that this side has reset a stream.
    pub(super) fn remember(&mut self, id: u32) {
        if self.reset.len() == REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// A frame that moves nothing.
    pub(super) fn useless(&mut self, now: Instant) -> Result<(), Fault> {
        match self.useless_seen.count(now, self.limits.useless_per_second) {
            true => Ok(()),
            false => Err(Fault::new(Code::ENHANCE_YOUR_CALM, "too many frames that move nothing")),
        }
    }
}
