//! The way out: bytes from TLS to TCP or to the wire, and the carrier's own records between them.

use std::io::IoSlice;

use super::alarm::Alarm;
use super::fatal::Fatal;
use super::machine::{Event, Finish, Machine, Out, Planted};
use super::record::{Prove, Record};
use super::walk::Walk;
use crate::link::wire::Wire;

/// How far the way out has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Outward {
    /// Bytes that TLS has got rid of: P.
    pub(super) accepted: u64,
    walk: Walk,
    /// What the carrier itself has to write on TCP, before anything of TLS.
    pub(super) queue: Queue,
    end: End,
    /// The peer was waited for long enough.
    pub(super) waited: bool,
}

/// Whether more comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum End {
    #[default]
    Open,
    /// TLS has ended; the peer is to be told.
    Owed,
    /// The peer is being told.
    Said,
    /// It is not told: it is to see how TCP ends.
    Cut,
    /// TCP's way out is, or is to be, shut.
    Shut,
}

/// Bytes in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    at: usize,
}

impl Outward {
    /// Whether TLS has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.end != End::Open
    }

    /// Whether nothing more may be written on TCP.
    pub(super) fn is_shut(&self) -> bool {
        self.end == End::Shut
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.accepted += bytes.len() as u64;
        self.walk.pass(bytes);
    }
}

impl<W: Wire, K: Prove> Machine<W, K> {
    /// What is to be written on TCP before anything else.
    pub fn transmit(&self) -> &[u8] {
        &self.outward.queue.bytes[self.outward.queue.at..]
    }

    /// So much of it was written.
    pub fn transmitted(&mut self, bytes: usize) {
        self.outward.queue.advance(bytes);
    }

    /// Whether the way out is to go over now, and it matters how much TCP holds. Until it goes over, nothing of TLS may be
    /// written.
    #[inline]
    pub fn asks_unsent(&self) -> bool {
        self.generation.as_ref().is_some_and(|open| open.wanted) && self.may_say()
    }

    /// So many bytes lie in TCP that were not sent yet. The way out goes over to the wire if that is little: what
    /// is written there would have to wait for the rest. Otherwise it is looked again in a millisecond.
    pub fn learn_unsent(&mut self, bytes: usize) {
        if !self.asks_unsent() {
            return;
        }
        if bytes > MOST_UNSENT {
            return self.alarms.set(Alarm::Unsent);
        }
        let (Some(open), Some(keys)) = (&mut self.generation, &self.keys) else { return };
        let record = Record::switch(open.number, self.outward.accepted);
        self.outward.queue.extend(&record.encode(self.side, keys));
        open.wanted = false;
        open.out_from = Some(self.outward.accepted);
        self.events.push_back(Event::SwitchedOut(open.number));
        self.alarms.clear(Alarm::Unsent);
        if open.in_from.is_some() {
            self.alarms.clear(Alarm::Switch);
        }
    }

    /// How much of `bytes` TCP may be given next, if the carrier waits for the end of the record that they begin in. `None`:
    /// as much as there is.
    pub fn allowance(&self, bytes: &[u8]) -> Option<usize> {
        let open = self.generation.as_ref()?;
        let waits = open.wanted || open.frozen.is_some() && !open.told;
        waits.then(|| self.outward.walk.to_boundary(bytes))
    }

    /// TCP has taken `parts` of TLS, one after the other.
    ///
    /// Fails as [`Fatal::Replay`].
    pub fn sent<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Fatal> {
        let before = self.outward.accepted;
        parts.into_iter().for_each(|part| self.outward.pass(part));
        self.counts.tcp_out += self.outward.accepted - before;
        self.say();
        self.close()
    }

    /// Writes the front of `from` to the wire. 0: it takes no more, or is in use no more.
    ///
    /// Fails where the link ends by it.
    pub fn write(&mut self, from: &[u8]) -> Result<usize, Fatal> {
        self.write_slices(&[IoSlice::new(from)])
    }

    /// The same of `slices`, one behind the other.
    ///
    /// Fails where the link ends by it.
    pub fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, Fatal> {
        let (Out::Ring, Some(wire)) = (self.way_out(), self.wire()) else { return Ok(0) };
        match wire.write_slices(slices) {
            Ok(0) => {
                // Who is not on it yet makes no room, and has its own deadline.
                if !self.alarms.is_set(Alarm::Switch) {
                    self.alarms.set(Alarm::Stall);
                }
                Ok(0)
            }
            Ok(written) => {
                self.alarms.clear(Alarm::Stall);
                front(slices, written).for_each(|part| self.outward.pass(part));
                self.counts.ring_out += written as u64;
                Ok(written)
            }
            Err(fault) => self.fault(fault).map(|()| 0),
        }
    }

    /// Whether nothing can be written any more: the peer is gone, and has not said how much it got.
    pub fn is_cut_off(&self) -> bool {
        self.lost && self.way_out() == Out::Frozen
    }

    /// TLS has ended: its last byte was written. Says whether the peer needs this end any more; until it does not, this is
    /// asked again.
    ///
    /// Fails as [`Fatal::Hostile`].
    pub fn finish(&mut self) -> Result<Finish, Fatal> {
        if self.outward.end == End::Open {
            self.outward.end = if self.was_used() { End::Owed } else { End::Cut };
            if let Some(open) = &mut self.generation {
                open.wanted = false;
            }
            if let Some(wire) = self.wire() {
                wire.await_consumed();
            }
            self.alarms.set(Alarm::Finish);
            self.say_end();
        }
        if self.outward.waited || self.fatal.is_some() {
            return Ok(Finish::Done);
        }
        if !self.outward.queue.is_empty() {
            return Ok(Finish::Wait);
        }
        self.learn_consumed()?;
        let done = match (self.way_out(), &self.generation) {
            (Out::Tcp, None) => Finish::Shut,
            // The other direction may still need TCP.
            (Out::Tcp, Some(_)) => Finish::Done,
            (Out::Ring, Some(open))
                if open.out_from.map(|base| base + open.consumed) == Some(self.outward.accepted) =>
            {
                Finish::Done
            }
            // What was not said by now never is.
            (Out::Frozen, _) if self.lost => Finish::Done,
            (Out::Ring | Out::Frozen, _) => Finish::Wait,
        };
        if done == Finish::Shut {
            self.outward.end = End::Shut;
        }
        if done != Finish::Wait {
            self.alarms.clear(Alarm::Finish);
        }
        Ok(done)
    }

    /// Whether the carrier may say something on TCP: between two records of TLS, or while there are none.
    pub(super) fn may_say(&self) -> bool {
        self.way_out() != Out::Tcp || self.outward.walk.is_at_boundary() || self.has(Planted::NoBoundary)
    }

    /// Says that TLS has ended, once it may.
    pub(super) fn say_end(&mut self) {
        if self.outward.end != End::Owed {
            return;
        }
        if self.way_out() == Out::Frozen && !self.has(Planted::FinBeforeReplay) {
            // The peer takes what follows RESUME for the bytes that it lacks.
            return;
        }
        let may = self.may_say() && !(self.lost && self.way_out() == Out::Ring);
        let Some(keys) = self.keys.as_ref().filter(|_| may) else {
            // Cut off within a record, or without TCP: there is no end to be told.
            self.outward.end = End::Cut;
            return;
        };
        let number = self.generation.as_ref().map_or(self.closed, |open| open.number);
        let record = Record::fin(number, self.outward.accepted);
        self.outward.queue.extend(&record.encode(self.side, keys));
        self.outward.end = End::Said;
    }
}

/// The first `bytes` of `slices`, part by part.
pub(super) fn front<'a>(slices: &'a [IoSlice<'_>], bytes: usize) -> impl Iterator<Item = &'a [u8]> {
    let mut left = bytes;
    slices.iter().map(move |slice| {
        let part = &slice[..left.min(slice.len())];
        left -= part.len();
        part
    })
}

impl Queue {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn extend_by(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Queue::default();
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        if self.is_empty() {
            // A ring's worth is not kept for the next time.
            self.clear();
        }
    }
}

/// A direction goes over with at most so much in TCP, bytes.
pub(super) const MOST_UNSENT: usize = 64 * 1024;
