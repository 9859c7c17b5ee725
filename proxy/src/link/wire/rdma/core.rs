//! What an RDMA wire decides: how much is sent when, what may be read, and what the peer is told.
//!
//! Byte `n` of a way lies at `n` modulo the ring's size, in the sender's memory and in the receiver's. The sender keeps a
//! byte until the peer has consumed it *and* the device is done with it. Every message tells both of the sender's counts
//! ([`Immediate`]), so nothing that the peer says is ever read from memory.
//!
//! A message takes one of the peer's requests to receive. [`KEPT`] of them are for messages without bytes: with those
//! each side tells the other of room. Neither side can use up its own while the other waits for it: between two messages
//! that come, a side has room to tell of four quarters of a ring and once of half of its requests; what is told only so that
//! the peer knows each step leaves [`STEPS`] for these.

use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use super::super::{Wire, WireFault};
use super::immediate::Immediate;
use super::provider::{Ended, Message, Provider};
use crate::telemetry;

/// One side of a wire over `P`.
#[derive(Debug)]
pub(crate) struct Core<P> {
    provider: P,
    /// Bytes of each ring.
    size: u64,
    /// Why nothing moves any more.
    fault: Option<WireFault>,
    /// What completed and was not looked at yet.
    ended: Vec<Ended>,
    /// A notice of the next completion was asked for, and has not come.
    asked: bool,

    /// The way out: bytes written,
    written: u64,
    /// and what the peer has said last.
    heard: Immediate,
    /// Bytes with which the device is done.
    done: u64,
    /// Requests to receive that the peer has for messages.
    free: u64,
    /// Messages that the device may still hold,
    under_way: usize,
    /// of which so many,
    silent: usize,
    /// with so many bytes, came behind the last that is to complete.
    silent_bytes: u64,
    /// Those that are to complete: how many messages, and the way out up to where.
    batches: VecDeque<(usize, u64)>,
    /// The last write was short: room is waited for.
    blocked: bool,
    /// Every step of what the peer consumes is waited for,
    awaits_consumed: bool,
    /// and known up to here.
    told_gone: u64,

    /// The way in: bytes that came,
    came: u64,
    /// that were read,
    read: u64,
    /// that are needed no more.
    consumed: u64,
    /// Requests to receive that were posted, beyond those of the beginning,
    posted: u64,
    /// and those that were used up since.
    used: usize,
    /// What the peer was told last.
    said: Immediate,
    /// Bytes of whose coming this side's owner knows.
    told_came: u64,
}

/// Why a message without bytes would be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// It is owed.
    Now,
    /// The peer waits for it, as far as is known.
    Step,
    /// It can wait.
    Not,
}

impl<P: Provider> Core<P> {
    /// A side on whose wire nothing has moved yet. [`QUEUE`] requests to receive are posted on both sides.
    pub(crate) fn new(provider: P) -> Self {
        let size = provider.size() as u64;
        debug_assert!(size.is_power_of_two());
        Core {
            provider,
            size,
            fault: None,
            ended: Vec::with_capacity(16),
            asked: false,
            written: 0,
            heard: Immediate::default(),
            done: 0,
            free: QUEUE as u64,
            under_way: 0,
            silent: 0,
            silent_bytes: 0,
            batches: VecDeque::with_capacity(SENDS / BATCH + 2),
            blocked: false,
            awaits_consumed: false,
            told_gone: 0,
            came: 0,
            read: 0,
            consumed: 0,
            posted: 0,
            used: 0,
            said: Immediate::default(),
            told_came: 0,
        }
    }

    /// Takes in what has completed, posts again what was used up, and tells the peer what is owed to it.
    fn pump(&mut self) -> Result<(), WireFault> {
        self.check()?;
        // There is an end to this: what is used up is posted again only behind it.
        while self.provider.poll(&mut self.ended).map_err(|fault| self.broke(fault))? > 0 {
            for at in 0..self.ended.len() {
                self.end(self.ended[at]).map_err(|fault| self.broke(fault))?;
            }
            self.ended.clear();
        }
        if self.used > 0 {
            let used = std::mem::take(&mut self.used);
            self.provider.receive(used).map_err(|fault| self.broke(fault))?;
            self.posted += used as u64;
        }
        self.tell(Due::Now)
    }

    fn end(&mut self, ended: Ended) -> Result<(), WireFault> {
        match ended {
            Ended::Sent(id) => {
                let Some((messages, upto)) = self.batches.pop_front().filter(|(_, upto)| *upto == id) else {
                    return Err(WireFault::Failed);
                };
                self.under_way -= messages;
                self.done = upto;
            }
            Ended::Came(bytes, immediate) => {
                let most = QUEUE as u64 - self.free;
                let heard = immediate.ok_or(WireFault::Hostile)?;
                let heard = self.heard.follow(heard, self.written, most)?;
                self.free += heard.posted - self.heard.posted;
                self.heard = heard;
                self.came += u64::from(bytes);
                // It knows of no more room than it was told.
                if self.came - self.said.consumed > self.size {
                    return Err(WireFault::Hostile);
                }
                self.used += 1;
            }
            Ended::Failed(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Sends a message without bytes, if one is `due` and there is a request for it.
    fn tell(&mut self, due: Due) -> Result<(), WireFault> {
        let (is_due, leaves) = match self.due() {
            Due::Now => (true, 0),
            Due::Step => (due == Due::Step, STEPS),
            Due::Not => (false, 0),
        };
        if is_due && self.free > leaves && self.under_way < SENDS {
            self.post(std::slice::from_ref(&(0..0)))?;
        }
        Ok(())
    }

    fn due(&self) -> Due {
        let untold = self.consumed - self.said.consumed;
        let is_full = self.came - self.said.consumed == self.size;
        if untold >= (self.size / 4).max(1) || self.posted - self.said.posted >= QUEUE as u64 / 2 {
            Due::Now
        } else if untold > 0 && (is_full || self.heard.urgent) || self.awaits_consumed != self.said.urgent {
            Due::Step
        } else {
            Due::Not
        }
    }

    /// Posts messages with these parts of the way out, the bytes of which were counted as written.
    fn post(&mut self, parts: &[Range<usize>]) -> Result<(), WireFault> {
        let said = Immediate { consumed: self.consumed, posted: self.posted, urgent: self.awaits_consumed };
        let mut messages: [Message; 2] = Default::default();
        for (message, part) in messages.iter_mut().zip(parts) {
            self.free -= 1;
            self.under_way += 1;
            self.silent += 1;
            self.silent_bytes += part.len() as u64;
            *message =
                Message { id: self.written, part: part.clone(), immediate: said.encode(), signalled: false };
        }
        if self.silent >= BATCH || self.silent_bytes >= self.size / 4 {
            self.batches.push_back((self.silent, self.written));
            (self.silent, self.silent_bytes) = (0, 0);
            messages[parts.len() - 1].signalled = true;
        }
        self.said = said;
        self.provider.send(&messages[..parts.len()]).map_err(|fault| self.broke(fault))
    }

    fn check(&self) -> Result<(), WireFault> {
        self.fault.map_or(Ok(()), Err)
    }

    fn broke(&mut self, fault: WireFault) -> WireFault {
        *self.fault.get_or_insert(fault)
    }

    /// Bytes that may be written, as far as is known.
    fn room(&self) -> u64 {
        self.size - (self.written - self.heard.consumed.min(self.done))
    }

    /// Messages with bytes that may be sent, as far as is known.
    fn messages(&self) -> usize {
        (self.free.saturating_sub(KEPT) as usize).min(SENDS - self.under_way)
    }

    fn place(&self, count: u64) -> usize {
        (count & (self.size - 1)) as usize
    }

    /// Looks for what the owner does not know of. It is told of each change once.
    fn has_changed(&mut self) -> bool {
        let mut changed = self.told_came != self.came;
        self.told_came = self.came;
        if self.blocked && self.room() > 0 && self.messages() > 0 {
            self.blocked = false;
            changed = true;
        }
        changed |= self.awaits_consumed && self.told_gone != self.heard.consumed;
        self.told_gone = self.heard.consumed;
        changed
    }
}

impl<P: Provider> Wire for Core<P> {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        self.check()?;
        if self.room() < from.len() as u64 || self.messages() < 2 {
            self.pump()?;
        }
        let at = self.place(self.written);
        let most = if self.messages() > 0 { from.len().min(self.room() as usize) } else { 0 };
        let front = most.min(self.size as usize - at);
        // What wraps are two messages.
        let fitting = if self.messages() > 1 { most } else { front };
        if fitting < from.len() && !self.blocked {
            telemetry::rdma().stalled(self.messages() == 0);
        }
        self.blocked = fitting < from.len();
        if fitting > 0 {
            self.provider.put(at, &from[..front]);
            self.provider.put(0, &from[front..fitting]);
            self.written += fitting as u64;
            let parts = [at..at + front, 0..fitting - front];
            self.post(&parts[..if fitting > front { 2 } else { 1 }])?;
        }
        Ok(fitting)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        self.check()?;
        if self.came - self.read < to.len() as u64 {
            self.pump()?;
        }
        self.told_came = self.came;
        let fitting = to.len().min((self.came - self.read) as usize);
        let at = self.place(self.read);
        let (front, back) = to[..fitting].split_at_mut(fitting.min(self.size as usize - at));
        self.provider.get(at, front);
        self.provider.get(0, back);
        self.read += fitting as u64;
        Ok(fitting)
    }

    fn consume(&mut self, count: u64) {
        debug_assert!(self.consumed <= count && count <= self.read, "what was not read is not consumed");
        self.consumed = count.clamp(self.consumed, self.read);
        if self.fault.is_none() {
            // Whatever is wrong, the next call tells.
            let _ = self.tell(Due::Now);
        }
    }

    fn consumed(&mut self) -> Result<u64, WireFault> {
        if self.fault.is_none() {
            // As above, but for a peer that lies.
            let _ = self.pump();
        }
        if self.fault == Some(WireFault::Hostile) {
            return Err(WireFault::Hostile);
        }
        self.told_gone = self.heard.consumed;
        Ok(self.heard.consumed)
    }

    fn await_consumed(&mut self) {
        self.awaits_consumed = true;
        if self.fault.is_none() {
            let _ = self.tell(Due::Step);
        }
    }

    fn ask(&mut self) {
        // The device of a peer that is there takes it. Without a request for it, or behind others, those ask.
        if self.fault.is_none() && self.free > STEPS && self.under_way < SENDS {
            let _ = self.post(std::slice::from_ref(&(0..0)));
        }
    }

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        debug_assert!(
            self.heard.consumed <= from && from <= to && to <= self.written,
            "what is not stored is not replayed"
        );
        let len = to.min(self.written).saturating_sub(from.max(self.heard.consumed)) as usize;
        let start = out.len();
        out.resize(start + len, 0);
        let at = self.place(from);
        let (front, back) = out[start..].split_at_mut(len.min(self.size as usize - at));
        self.provider.stored(at, front);
        self.provider.stored(0, back);
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        loop {
            self.pump()?;
            if self.has_changed() {
                return Poll::Ready(Ok(()));
            }
            // A side that goes to sleep says how far it has got to whoever waits for it.
            self.tell(Due::Step)?;
            if !self.asked {
                self.provider.ask().map_err(|fault| self.broke(fault))?;
                self.asked = true;
                // What came before the asking is not told.
                continue;
            }
            let noticed = ready!(self.provider.poll_notice(cx));
            self.asked = false;
            noticed.map_err(|fault| self.broke(fault))?;
        }
    }

    fn silence(&mut self) {
        self.fault.get_or_insert(WireFault::Silent);
        self.provider.silence();
    }
}

/// Requests to receive that each side has posted.
pub(crate) const QUEUE: usize = 48;

/// So many of them are for messages without bytes,
const KEPT: u64 = 12;

/// and so many of those for what is owed.
const STEPS: u64 = 6;

/// Messages under way at most.
pub(crate) const SENDS: usize = 2 * QUEUE;

/// One message in so many completes.
const BATCH: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_a_peer_cannot_have_said_is_found(choices in vec(any::<u8>(), 1..300)) {
            crate::fuzz::rdma(&choices);
        }
    }
}
