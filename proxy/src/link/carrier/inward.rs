//! The way in: bytes from TCP or from the wire to TLS, and the peer's records between them.

use super::alarm::Alarm;
use super::fatal::Fatal;
use super::generation::Cause;
use super::machine::{Event, In, Machine, Out, Planted};
use super::record::{Kind, Prove, RECORD_BYTES, RECORD_TYPE, Record};
use super::walk::Walk;
use crate::link::session::Side;
use crate::link::wire::Wire;

/// How far the way in has got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Inward {
    /// Bytes that were taken for TLS, from whatever way: D.
    pub(super) taken: u64,
    walk: Walk,
    /// A record of the carrier of which a part has come.
    record: [u8; RECORD_BYTES],
    filled: usize,
    /// It was on a wire once: the end of TCP is not its end.
    switched: bool,
    /// Where it ends, as the peer has said.
    end: Option<u64>,
    /// TCP has ended where the direction may.
    closed: bool,
}

impl Default for Inward {
    fn default() -> Self {
        Inward {
            taken: 0,
            walk: Walk::default(),
            record: [0; RECORD_BYTES],
            filled: 0,
            switched: false,
            end: None,
            closed: false,
        }
    }
}

impl Inward {
    fn pass(&mut self, bytes: &[u8]) {
        self.taken += bytes.len() as u64;
        self.walk.pass(bytes);
    }

    /// Whether it was ever on a wire.
    #[cfg(test)]
    pub(super) fn has_switched(&self) -> bool {
        self.switched
    }

    /// How many bytes may come yet.
    fn room(&self) -> u64 {
        let end = if self.closed { self.taken } else { self.end.unwrap_or(u64::MAX) };
        end - self.taken
    }
}

impl<W: Wire, K: Prove> Machine<W, K> {
    /// Takes what came over TCP: leaves what is for TLS at the front of `bytes`, and says how much that is.
    ///
    /// Fails where the peer does what it must not.
    pub fn recv(&mut self, bytes: &mut [u8]) -> Result<usize, Fatal> {
        if let Some(fatal) = self.fatal {
            return Err(fatal);
        }
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            let on_tcp = self.way_in() == In::Tcp;
            let between = !on_tcp || self.inward.walk.is_at_boundary();
            if self.inward.filled > 0 || between && bytes[at] == RECORD_TYPE {
                at += self.recv_record(&bytes[at..])?;
                continue;
            }
            let passed = if on_tcp { self.inward.walk.pass_tls(&bytes[at..]) } else { 0 };
            if passed == 0 || passed as u64 > self.inward.room() {
                return Err(self.give_up(Fatal::Stray));
            }
            self.inward.taken += passed as u64;
            if kept < at {
                bytes.copy_within(at..at + passed, kept);
            }
            (at, kept) = (at + passed, kept + passed);
        }
        self.counts.tcp_in += kept as u64;
        Ok(kept)
    }

    /// TCP has come to its end.
    ///
    /// Fails where the direction has not.
    pub fn recv_end(&mut self) -> Result<(), Fatal> {
        let ended = match self.inward.end {
            Some(end) => end == self.inward.taken,
            None => !self.inward.switched || self.has(Planted::NoFin),
        };
        match self.way_in() {
            _ if self.inward.filled > 0 => Err(self.give_up(Fatal::Truncated)),
            _ if ended => {
                // Nothing is answered any more, and nothing can be left any more.
                self.lost = true;
                self.inward.closed = true;
                self.alarms.clear(Alarm::Resume);
                if let Some(open) = self.generation.take_if(|open| open.out_from.is_none()) {
                    self.alarms.clear(Alarm::Switch);
                    self.events.push_back(Event::Closed(open.number));
                }
                Ok(())
            }
            In::Ring => self.lose(),
            In::Wait => Err(self.give_up(Fatal::Lost)),
            In::Tcp => Err(self.give_up(Fatal::Truncated)),
        }
    }

    /// TCP has failed.
    ///
    /// Fails unless the link can live by its wire.
    pub fn lose(&mut self) -> Result<(), Fatal> {
        self.outward.queue.clear();
        if std::mem::replace(&mut self.lost, true) {
            return Ok(());
        }
        if self.way_out() != Out::Ring || self.way_in() != In::Ring {
            return Err(self.give_up(Fatal::Lost));
        }
        self.alarms.set(Alarm::Lame);
        self.events.push_back(Event::Lame);
        self.ask();
        Ok(())
    }

    /// Asks a peer whose TCP connection is lost whether it is there, again and again: the wire of one that is about to end may
    /// be the last thing that it lets go of.
    pub(super) fn ask(&mut self) {
        if let Some(wire) = self.wire() {
            wire.ask();
            self.alarms.set(Alarm::Ask);
        }
    }

    /// Reads from the wire. 0: there is nothing, or it is in use no more.
    ///
    /// Fails where the link ends by it.
    pub fn read(&mut self, to: &mut [u8]) -> Result<usize, Fatal> {
        let (In::Ring, Some(open)) = (self.way_in(), &mut self.generation) else { return Ok(0) };
        let (Some(wire), Some(base)) = (&mut open.wire, open.in_from) else { return Ok(0) };
        let most = usize::try_from(self.inward.room()).unwrap_or(usize::MAX).min(to.len());
        match wire.read(&mut to[..most]) {
            Ok(0) => Ok(0),
            Ok(read) => {
                self.inward.pass(&to[..read]);
                wire.consume(self.inward.taken - base);
                self.counts.ring_in += read as u64;
                Ok(read)
            }
            Err(fault) => self.fault(fault).map(|()| 0),
        }
    }

    /// Where what was taken ends among the records.
    pub(super) fn walk_in(&self) -> Walk {
        self.inward.walk.clone()
    }

    /// Whether nothing more comes: the peer has ended its direction, and all of it was taken.
    pub fn is_ended(&self) -> bool {
        self.inward.closed || self.inward.end == Some(self.inward.taken)
    }

    /// Takes a part of a record, and does what the record says once it is whole.
    fn recv_record(&mut self, bytes: &[u8]) -> Result<usize, Fatal> {
        let Some(keys) = &self.keys else { return Err(self.give_up(Fatal::Early)) };
        let inward = &mut self.inward;
        let part = bytes.len().min(RECORD_BYTES - inward.filled);
        inward.record[inward.filled..inward.filled + part].copy_from_slice(&bytes[..part]);
        inward.filled += part;
        if inward.filled == RECORD_BYTES {
            inward.filled = 0;
            let whole = std::mem::replace(&mut inward.record, [0; RECORD_BYTES]);
            let peer = match self.side {
                Side::Opener => Side::Acceptor,
                Side::Acceptor => Side::Opener,
            };
            Record::decode(&whole, peer, keys)
                .and_then(|record| self.obey(record))
                .map_err(|fatal| self.give_up(fatal))?;
        }
        Ok(part)
    }

    fn obey(&mut self, record: Record) -> Result<(), Fatal> {
        match record.kind {
            Kind::Switch => self.on_switch(record),
            Kind::Resume => self.on_resume(record),
            Kind::Fin => self.on_fin(record),
        }
    }

    /// What follows of the way in comes on the wire.
    fn on_switch(&mut self, Record { generation, offset, .. }: Record) -> Result<(), Fatal> {
        let open =
            self.generation.as_mut().filter(|open| open.number == generation).ok_or(Fatal::Generation)?;
        if open.in_from.is_some() || open.peer_has.is_some() || self.inward.end.is_some() {
            return Err(Fatal::Order);
        }
        if offset != self.inward.taken {
            return Err(Fatal::Offset);
        }
        open.in_from = Some(offset);
        self.inward.switched = true;
        if open.frozen.is_none() {
            self.events.push_back(Event::SwitchedIn(generation));
        }
        if open.out_from.is_some() {
            self.alarms.clear(Alarm::Switch);
        }
        Ok(())
    }

    /// The peer is done with the generation.
    fn on_resume(&mut self, Record { generation, offset, cause, .. }: Record) -> Result<(), Fatal> {
        if offset > self.outward.accepted {
            return Err(Fatal::Offset);
        }
        match &self.generation {
            Some(open) if open.number == generation && open.peer_has.is_none() => {}
            Some(open) if open.number == generation => return Err(Fatal::Order),
            // It was offered or accepted, and this side has yet to hear of it: then it need not.
            None if self.closed.checked_add(1) == Some(generation) => {
                if self.outward.is_shut() {
                    // That TCP has ended says as much, and there is no other way to say it.
                    self.closed = generation;
                    return Ok(());
                }
                self.begin(generation);
            }
            _ => return Err(Fatal::Generation),
        }
        if let Some(open) = &mut self.generation {
            open.peer_has = Some(offset);
            if open.frozen.is_none() {
                self.let_go(if cause == Cause::Room as u8 { Cause::Room } else { Cause::Peer })?;
            }
        }
        self.close()
    }

    /// The way in ends.
    fn on_fin(&mut self, Record { offset, .. }: Record) -> Result<(), Fatal> {
        if self.inward.end.is_some() {
            return Err(Fatal::Order);
        }
        if offset < self.inward.taken {
            return Err(Fatal::Offset);
        }
        self.inward.end = Some(offset);
        Ok(())
    }
}
