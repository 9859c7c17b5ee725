//! What the carrier decides: on which way each direction goes, and how it comes from one to the other whole.
//!
//! Offsets count the bytes of TLS in one direction, from the first byte of the handshake on, and never the carrier's own
//! records. A generation goes through four states, as each side sees it: open; on the wire, each direction for itself;
//! frozen, when this side is done with it; and closed, when both are.

use std::collections::VecDeque;
use std::time::Instant;

use super::alarm::{Alarm, Alarms};
use super::fatal::Fatal;
use super::generation::{Cause, Generation};
use super::inward::Inward;
use super::outward::Outward;
use super::record::{Prove, Record};
use crate::link::session::Side;
use crate::link::wire::{Wire, WireFault};

/// The carrier of one end of a link. `W` is the wire beside TCP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine<W, K> {
    pub(super) side: Side,
    /// Once the handshake is done.
    pub(super) keys: Option<K>,
    pub(super) outward: Outward,
    pub(super) inward: Inward,
    pub(super) generation: Option<Generation<W>>,
    /// The last generation that is over, for both sides.
    pub(super) closed: u32,
    /// There was a generation.
    used: bool,
    /// The TCP connection carries nothing more.
    pub(super) lost: bool,
    pub(super) fatal: Option<Fatal>,
    pub(super) alarms: Alarms,
    pub(super) events: VecDeque<Event>,
    pub(super) counts: Counts,
    #[cfg(test)]
    pub(super) planted: Option<Planted>,
}

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The way out is on the wire of this generation.
    SwitchedOut(u32),
    /// The way in is.
    SwitchedIn(u32),
    /// This side is done with the generation: what was on its wire goes back to TCP.
    Frozen(u32, Cause),
    /// Both sides are. Another may be offered.
    Closed(u32),
    /// The TCP connection is lost, and the link lives by its wire: it is to be left.
    Lame,
}

/// Where the bytes of the way out go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Over TCP, as they are.
    Tcp,
    /// Over the wire.
    Ring,
    /// Nowhere, until the peer has said how much it got from the wire.
    Frozen,
}

/// Where the bytes of the way in come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// From TCP.
    Tcp,
    /// From the wire.
    Ring,
    /// From nowhere, until the peer is done with the wire too.
    Wait,
}

/// How the end of the way out stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The peer has not all of it yet.
    Wait,
    /// It needs nothing more of this side; TCP's way out is to be shut.
    Shut,
    /// It needs nothing more of this side; the rest is for whoever closes the connection.
    Done,
}

/// Bytes of TLS that were carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Written to TCP for the first time.
    pub tcp_out: u64,
    /// Taken from TCP.
    pub tcp_in: u64,
    /// Written to wires.
    pub ring_out: u64,
    /// Taken from wires.
    pub ring_in: u64,
    /// Written to wires, and to TCP again.
    pub replayed: u64,
}

impl<W: Wire, K: Prove> Machine<W, K> {
    /// The carrier of a connection on which nothing was said yet.
    pub fn new(side: Side) -> Self {
        Machine {
            side,
            keys: None,
            outward: Outward::default(),
            inward: Inward::default(),
            generation: None,
            closed: 0,
            used: false,
            lost: false,
            fatal: None,
            alarms: Alarms::default(),
            events: VecDeque::new(),
            counts: Counts::default(),
            #[cfg(test)]
            planted: None,
        }
    }

    /// The handshake is done. Before this no generation can be.
    pub fn establish(&mut self, keys: K) {
        self.keys = Some(keys);
    }

    /// The generation that may be offered, if one may.
    pub fn next(&self) -> Option<u32> {
        let can = self.keys.is_some() && self.generation.is_none();
        let lives = self.fatal.is_none() && !self.lost && !self.outward.is_finished();
        self.closed.checked_add(1).filter(|_| can && lives)
    }

    /// It was offered, or is about to be accepted. False: that is too late, or too early, and nobody is to hear of it.
    pub fn open(&mut self, generation: u32) -> bool {
        if self.next() != Some(generation) {
            return false;
        }
        self.begin(generation);
        self.alarms.set(Alarm::Switch);
        true
    }

    /// It was declined: its number may be offered again. Nothing happens once either side has used it.
    pub fn withdraw(&mut self, generation: u32) {
        if self.current(generation).is_some_and(|open| open.is_unsaid()) {
            self.generation = None;
            self.alarms.clear(Alarm::Switch);
        }
    }

    /// The wire is proved from this side: the way out goes over to it as soon as a record of TLS ends and TCP holds little:
    /// see [`learn_unsent`](Machine::learn_unsent). False: that is too late.
    pub fn switch(&mut self, generation: u32, wire: W) -> bool {
        let may = self.has(Planted::SwitchAfterResume);
        let over = self.lost || self.outward.is_finished();
        match self.current(generation) {
            Some(open) if open.wire.is_none() && !over && (open.frozen.is_none() || may) => {
                open.wire = Some(wire);
                open.wanted = true;
                true
            }
            _ => false,
        }
    }

    /// This side is done with `generation`: nothing is written to its wire or read from it any more.
    ///
    /// Fails where the link cannot do without the wire.
    pub fn freeze(&mut self, generation: u32, cause: Cause) -> Result<(), Fatal> {
        if self.current(generation).is_some_and(|open| open.frozen.is_none()) {
            self.let_go(cause)?;
        }
        Ok(())
    }

    /// What happened since it was asked for.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What was carried.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Why the link is given up, if it is.
    pub fn fatal(&self) -> Option<Fatal> {
        self.fatal
    }

    /// Where the way out goes.
    pub fn way_out(&self) -> Out {
        match &self.generation {
            Some(Generation { out_from: Some(_), frozen: None, .. }) => Out::Ring,
            Some(Generation { out_from: Some(_), .. }) => Out::Frozen,
            _ => Out::Tcp,
        }
    }

    /// Where the way in comes from.
    pub fn way_in(&self) -> In {
        match &self.generation {
            Some(Generation { in_from: Some(_), frozen: None, .. }) => In::Ring,
            Some(Generation { in_from: Some(_), .. }) if self.has(Planted::ReadAfterFreeze) => In::Ring,
            Some(Generation { in_from: Some(_), .. }) => In::Wait,
            _ => In::Tcp,
        }
    }

    /// The wire that is in use, to wait for.
    pub fn wire(&mut self) -> Option<&mut W> {
        self.generation.as_mut().filter(|open| open.frozen.is_none())?.wire.as_mut()
    }

    /// The wire failed.
    ///
    /// Fails where the link cannot do without it.
    pub fn fault(&mut self, fault: WireFault) -> Result<(), Fatal> {
        match fault {
            WireFault::Hostile => Err(self.give_up(Fatal::Hostile)),
            WireFault::Gone | WireFault::Failed | WireFault::Silent => match &self.generation {
                Some(open) if open.frozen.is_none() => self.let_go(Cause::Fault),
                _ => Ok(()),
            },
        }
    }

    /// When [`on_timeout`](Machine::on_timeout) is to be called. `now` is asked for only if there is something to wait for.
    pub fn timeout(&mut self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        self.alarms.first(now)
    }

    /// Does what is due.
    ///
    /// Fails where the link ends by it.
    pub fn on_timeout(&mut self, now: Instant) -> Result<(), Fatal> {
        while let Some(alarm) = self.alarms.take_due(now) {
            match (alarm, &self.generation) {
                (Alarm::Switch, Some(open)) if open.frozen.is_none() => self.let_go(Cause::Deadline)?,
                (Alarm::Stall, Some(open)) if open.frozen.is_none() => self.let_go(Cause::Stall)?,
                // Whoever moves the bytes is asked again.
                (Alarm::Switch | Alarm::Stall | Alarm::Unsent, _) => {}
                (Alarm::Resume, _) => return Err(self.give_up(Fatal::Unanswered)),
                (Alarm::Lame, _) => return Err(self.give_up(Fatal::Lost)),
                (Alarm::Ask, _) => self.ask(),
                (Alarm::Finish, _) => self.outward.waited = true,
            }
        }
        Ok(())
    }

    /// Whether the peer may have to hear that this direction ends, as the end of TCP does not say it.
    pub(super) fn was_used(&self) -> bool {
        self.used
    }

    /// A generation begins.
    pub(super) fn begin(&mut self, number: u32) {
        self.used = true;
        self.generation = Some(Generation::new(number));
    }

    /// Leaves the wire of the generation that is open.
    pub(super) fn let_go(&mut self, cause: Cause) -> Result<(), Fatal> {
        if self.lost {
            return Err(self.give_up(Fatal::Lost));
        }
        // Where the peer is now, so that it cannot say later that it was not.
        self.learn_consumed()?;
        let silent = !self.has(Planted::ReadAfterFreeze);
        let Some(open) = &mut self.generation else { return Ok(()) };
        if let Some(wire) = &mut open.wire
            && silent
        {
            wire.silence();
        }
        open.frozen = Some(cause);
        open.wanted = false;
        self.events.push_back(Event::Frozen(open.number, cause));
        self.alarms.clear(Alarm::Switch);
        self.alarms.clear(Alarm::Stall);
        self.alarms.set(Alarm::Resume);
        self.say();
        Ok(())
    }

    /// Says what is to be said as soon as it may be: between records of TLS.
    pub(super) fn say(&mut self) {
        let may = self.may_say();
        let (Some(open), Some(keys), true) = (&mut self.generation, &self.keys, may) else { return };
        if let (Some(cause), false) = (open.frozen, open.told) {
            let record = Record::resume(open.number, cause, self.inward.taken);
            self.outward.queue.extend(&record.encode(self.side, keys));
            open.told = true;
        }
    }

    /// Ends the generation if both sides are done with it: the bytes that the peer did not get from the wire go over TCP,
    /// as they are stored.
    ///
    /// Fails as [`Fatal::Replay`].
    pub(super) fn close(&mut self) -> Result<(), Fatal> {
        let Some(Generation { number, told: true, peer_has: Some(has), out_from, consumed, .. }) =
            self.generation
        else {
            return Ok(());
        };
        if let Some(base) = out_from {
            let base = if self.has(Planted::NoBase) { 0 } else { base };
            let (first, end) = (has.max(base), self.outward.accepted);
            let fits = base + consumed <= first && first <= end;
            if !fits && !self.has(Planted::NoBounds) {
                return Err(self.give_up(Fatal::Replay));
            }
            let lost = self.has(Planted::FinCancelsReplay) && self.outward.is_finished();
            if let Some(wire) = self.generation.as_ref().and_then(|open| open.wire.as_ref())
                && !lost
            {
                self.counts.replayed += end.saturating_sub(first);
                self.outward.queue.extend_by(|out| wire.stored(first - base, end - base, out));
            }
        }
        self.closed = number;
        self.generation = None;
        self.alarms.clear(Alarm::Resume);
        self.events.push_back(Event::Closed(number));
        self.say_end();
        Ok(())
    }

    /// Asks the wire how much of the way out the peer has consumed.
    pub(super) fn learn_consumed(&mut self) -> Result<(), Fatal> {
        let Some(Generation { out_from: Some(base), frozen: None, wire: Some(wire), consumed, .. }) =
            &mut self.generation
        else {
            return Ok(());
        };
        match wire.consumed() {
            Ok(count) if (*consumed..=self.outward.accepted - *base).contains(&count) => {
                *consumed = count;
                Ok(())
            }
            Ok(_) | Err(WireFault::Hostile) => Err(self.give_up(Fatal::Hostile)),
            // Whatever else is wrong with it, writing and reading tell.
            Err(_) => Ok(()),
        }
    }

    /// The link ends here.
    pub(super) fn give_up(&mut self, fatal: Fatal) -> Fatal {
        self.generation = None;
        self.outward.queue.clear();
        self.alarms = Alarms::default();
        *self.fatal.get_or_insert(fatal)
    }

    /// The generation of this number.
    fn current(&mut self, number: u32) -> Option<&mut Generation<W>> {
        self.generation.as_mut().filter(|open| open.number == number)
    }

    /// Whether the model check has planted this fault. Outside of tests there is none.
    #[inline]
    pub(super) fn has(&self, planted: Planted) -> bool {
        #[cfg(test)]
        return self.planted == Some(planted);
        #[cfg(not(test))]
        {
            let _ = planted;
            false
        }
    }
}

/// Faults that the model check plants, to show that it finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Planted {
    /// What is replayed is looked for as if the wire had begun with the link.
    NoBase,
    /// The wire is read after the peer was told up to where it was.
    ReadAfterFreeze,
    /// The way out goes to a wire that is over.
    SwitchAfterResume,
    /// A direction that has ended is not replayed.
    FinCancelsReplay,
    /// Whatever the peer says it has is believed.
    NoBounds,
    /// The end is said between RESUME and the bytes that follow it.
    FinBeforeReplay,
    /// Records of the carrier are said wherever TLS is.
    NoBoundary,
    /// The end of TCP is taken for the end of a direction that was on a wire.
    NoFin,
}
