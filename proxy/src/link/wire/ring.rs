//! The cursors of two rings, one each way, in memory that both sides see: offsets, bounds, wrap, room, and who sleeps.
//!
//! Counts are 64-bit and only rise: byte `n` of a way lies at `n` modulo the ring's size, and what is not consumed is never
//! overwritten. Whatever the peer writes into the shared words is checked before it is used: a cursor that falls, or that
//! passes what it cannot pass, is a fault and never an offset.
//!
//! A side that goes to sleep sets its word, fences, and looks once more. A side that publishes a cursor fences and then
//! looks at the other's word. So at least one of the two sees the other, and no wake is lost.

pub(crate) mod local;
#[cfg(test)]
mod tests;

use super::WireFault;

/// What both sides see. Nothing in it may be trusted: the peer can write there at any time.
pub(crate) trait Memory {
    /// A word, and with it all that was written before it was stored.
    fn load(&self, of: Side, word: Word) -> u64;

    /// Stores a word, after all that was written before.
    fn store(&self, of: Side, word: Word, value: u64);

    /// Stores a word, and gives what was there.
    fn swap(&self, of: Side, word: Word, value: u64) -> u64;

    /// No load after it comes before a store before it.
    fn fence(&self);

    /// Bytes of one ring. A power of two.
    fn size(&self) -> usize;

    /// Copies `from` to byte `at` and those behind it of the ring that `of` writes. It does not wrap.
    fn put(&self, of: Side, at: usize, from: &[u8]);

    /// Copies byte `at` and those behind it of the ring that `of` writes to `to`. It does not wrap.
    fn get(&self, of: Side, at: usize, to: &mut [u8]);
}

/// Which of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one that made the memory.
    Maker,
    /// The one that was given it.
    Taker,
}

/// The words of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Bytes that it has written into its way out.
    Written,
    /// Bytes that it has consumed of its way in.
    Consumed,
    /// What it is to be woken for: [`BYTES`], [`ROOM`], or 0 while it is awake. The peer sets it to 0 when it wakes it.
    Asleep,
}

/// One side's view of both rings.
#[derive(Debug)]
pub(crate) struct Ring<M> {
    memory: M,
    side: Side,
    /// Bytes of each ring.
    size: u64,
    /// Why nothing moves any more.
    fault: Option<WireFault>,
    /// The peer is asleep no more, and has to be told.
    bell: bool,
    /// How often this side went to sleep.
    naps: u64,

    /// The way out: bytes written,
    written: u64,
    /// and consumed by the peer, when this side last looked.
    gone: u64,
    /// The last write was short: room is waited for.
    blocked: bool,
    /// Every step of what the peer consumes is waited for,
    awaits_consumed: bool,
    /// from here on.
    told_gone: u64,

    /// The way in: bytes that came, when this side last looked,
    came: u64,
    /// that were read,
    read: u64,
    /// that are needed no more,
    consumed: u64,
    /// how many of these the peer was told of,
    published: u64,
    /// and whether it was not woken for them if it waits for room.
    quiet: bool,
    /// Bytes of whose coming this side's owner knows.
    told_came: u64,
}

impl<M: Memory> Ring<M> {
    /// The rings in `memory`, in which nothing has moved yet, as `side` sees them.
    pub(crate) fn new(memory: M, side: Side) -> Self {
        let size = memory.size() as u64;
        debug_assert!(size.is_power_of_two());
        Ring {
            memory,
            side,
            size,
            fault: None,
            bell: false,
            naps: 0,
            written: 0,
            gone: 0,
            blocked: false,
            awaits_consumed: false,
            told_gone: 0,
            came: 0,
            read: 0,
            consumed: 0,
            published: 0,
            quiet: false,
            told_came: 0,
        }
    }

    /// See [`Wire::write`](super::Wire::write).
    pub(crate) fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        self.check()?;
        // The peer's line is fetched only when what is known of it is not enough.
        if self.free() < from.len() as u64 {
            self.look_out()?;
        }
        let fitting = from.len().min(self.free() as usize);
        self.blocked = fitting < from.len();
        if fitting > 0 {
            let at = self.place(self.written);
            let (front, back) = from[..fitting].split_at(fitting.min(self.size as usize - at));
            self.memory.put(self.side, at, front);
            self.memory.put(self.side, 0, back);
            self.written += fitting as u64;
            self.memory.store(self.side, Word::Written, self.written);
            self.wake(BYTES);
        }
        Ok(fitting)
    }

    /// See [`Wire::read`](super::Wire::read).
    pub(crate) fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        self.check()?;
        self.look_in()?;
        self.told_came = self.came;
        let there = (self.came - self.read) as usize;
        let fitting = to.len().min(there);
        self.copy(self.side.other(), self.read, &mut to[..fitting]);
        self.read += fitting as u64;
        Ok(fitting)
    }

    /// See [`Wire::consume`](super::Wire::consume).
    pub(crate) fn consume(&mut self, count: u64) {
        debug_assert!(self.consumed <= count && count <= self.read, "what was not read is not consumed");
        self.consumed = count.clamp(self.consumed, self.read);
        if self.consumed - self.published >= (self.size / 4).max(1) {
            self.publish();
            // A writer that is woken for little fills that and sleeps again.
            if self.size - (self.came - self.published) >= self.size / 2 {
                self.tell_room();
            }
        }
    }

    /// See [`Wire::consumed`](super::Wire::consumed).
    pub(crate) fn consumed(&mut self) -> Result<u64, WireFault> {
        match self.fault {
            None => self.look_out()?,
            Some(WireFault::Hostile) => return Err(WireFault::Hostile),
            Some(_) => {}
        }
        self.told_gone = self.gone;
        Ok(self.gone)
    }

    /// See [`Wire::await_consumed`](super::Wire::await_consumed).
    pub(crate) fn await_consumed(&mut self) {
        self.awaits_consumed = true;
    }

    /// See [`Wire::stored`](super::Wire::stored).
    pub(crate) fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        debug_assert!(
            self.gone <= from && from <= to && to <= self.written,
            "what is not stored is not replayed"
        );
        let len = to.min(self.written).saturating_sub(from.max(self.gone)) as usize;
        let start = out.len();
        out.resize(start + len, 0);
        self.copy(self.side, from, &mut out[start..]);
    }

    /// Goes to sleep. True: something is there that this side's owner does not know of, and it stays awake. False: the
    /// peer's bell will wake it.
    pub(crate) fn sleep(&mut self) -> Result<bool, WireFault> {
        self.check()?;
        if self.has_changed()? {
            return Ok(true);
        }
        self.publish();
        self.tell_room();
        let for_room = if self.blocked || self.awaits_consumed { ROOM } else { 0 };
        let asleep = BYTES | for_room;
        let before = self.memory.load(self.side, Word::Asleep);
        if before == asleep {
            // It sleeps already, and has looked since.
            return Ok(false);
        }
        self.naps += u64::from(before == 0);
        self.memory.store(self.side, Word::Asleep, asleep);
        self.memory.fence();
        if self.has_changed()? {
            self.memory.store(self.side, Word::Asleep, 0);
            return Ok(true);
        }
        Ok(false)
    }

    /// How often this side went to sleep so far. Its bell rings no more often, if the peer is honest.
    pub(crate) fn naps(&self) -> u64 {
        self.naps
    }

    /// Whether the peer was asleep and something was published that it waits for since this was last asked: then its bell
    /// has to be rung.
    #[inline]
    pub(crate) fn take_bell(&mut self) -> bool {
        std::mem::take(&mut self.bell)
    }

    /// See [`Wire::silence`](super::Wire::silence).
    pub(crate) fn silence(&mut self) {
        self.fault.get_or_insert(WireFault::Silent);
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    fn check(&self) -> Result<(), WireFault> {
        self.fault.map_or(Ok(()), Err)
    }

    /// Bytes that may be written, as far as is known.
    fn free(&self) -> u64 {
        self.size - (self.written - self.gone)
    }

    fn place(&self, count: u64) -> usize {
        (count & (self.size - 1)) as usize
    }

    /// Copies bytes from `count` on of the way that `of` writes. There are no more than the ring holds.
    fn copy(&self, of: Side, count: u64, to: &mut [u8]) {
        let at = self.place(count);
        let (front, back) = to.split_at_mut(to.len().min(self.size as usize - at));
        self.memory.get(of, at, front);
        self.memory.get(of, 0, back);
    }

    /// Looks how much the peer has consumed.
    fn look_out(&mut self) -> Result<(), WireFault> {
        let gone = self.memory.load(self.side.other(), Word::Consumed);
        if gone < self.gone || gone > self.written {
            return Err(self.hostile());
        }
        self.gone = gone;
        Ok(())
    }

    /// Looks how much the peer has written. It knows of no more room than was published.
    fn look_in(&mut self) -> Result<(), WireFault> {
        let came = self.memory.load(self.side.other(), Word::Written);
        if came < self.came || came - self.published > self.size {
            return Err(self.hostile());
        }
        self.came = came;
        Ok(())
    }

    fn hostile(&mut self) -> WireFault {
        *self.fault.insert(WireFault::Hostile)
    }

    /// Looks for what the owner does not know of. It is told of each change once.
    fn has_changed(&mut self) -> Result<bool, WireFault> {
        self.look_in()?;
        let mut changed = self.told_came != self.came;
        self.told_came = self.came;
        if self.blocked || self.awaits_consumed {
            self.look_out()?;
            let room = self.blocked && self.free() > 0;
            changed |= room || (self.awaits_consumed && self.told_gone != self.gone);
            self.told_gone = self.gone;
            self.blocked &= !room;
        }
        Ok(changed)
    }

    /// Tells the peer what is consumed, if it looks.
    fn publish(&mut self) {
        if self.published != self.consumed && self.fault.is_none() {
            self.published = self.consumed;
            self.memory.store(self.side, Word::Consumed, self.published);
            self.quiet = true;
        }
    }

    /// Wakes the peer for what it was told quietly.
    fn tell_room(&mut self) {
        if std::mem::take(&mut self.quiet) {
            self.wake(ROOM);
        }
    }

    /// After a cursor was stored: wakes the peer if it sleeps and waits for that.
    fn wake(&mut self, why: u64) {
        self.memory.fence();
        let peer = self.side.other();
        if self.memory.load(peer, Word::Asleep) & why != 0 {
            self.bell |= self.memory.swap(peer, Word::Asleep, 0) != 0;
        }
    }
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Side::Maker => Side::Taker,
            Side::Taker => Side::Maker,
        }
    }
}

/// A sleeper waits for bytes.
pub(crate) const BYTES: u64 = 1;

/// A sleeper waits for room, or for what is consumed.
pub(crate) const ROOM: u64 = 2;
