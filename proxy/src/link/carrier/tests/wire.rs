//! A wire of two ends that lie in one place: what is written at one is there at the other once both are joined.

use std::task::{Context, Poll};

use crate::link::wire::{Wire, WireFault};

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct End {
    room: usize,
    /// All that was written here.
    out: Vec<u8>,
    /// What the peer has told that it has consumed of that.
    consumed: u64,
    /// All that was written there.
    arrived: Vec<u8>,
    read: usize,
    /// What may be told of that.
    done: u64,
    silent: bool,
    /// The other end is no more.
    gone: bool,
    /// How often it was asked whether it is.
    pub(super) asked: u32,
}

impl End {
    pub(super) fn new(room: usize) -> Self {
        let (out, arrived) = (Vec::new(), Vec::new());
        End { room, out, consumed: 0, arrived, read: 0, done: 0, silent: false, gone: false, asked: 0 }
    }

    /// What was written at `other` is here.
    pub(super) fn join(&mut self, other: &End) {
        if self.arrived.len() < other.out.len() {
            self.arrived.extend_from_slice(&other.out[self.arrived.len()..]);
        }
    }

    /// Whether more was consumed at `other` than is known here.
    pub(super) fn lags(&self, other: &End) -> bool {
        !self.silent && self.consumed < other.done
    }

    /// What was consumed at `other` is known here.
    pub(super) fn learn(&mut self, other: &End) {
        if self.lags(other) {
            self.consumed = other.done;
        }
    }

    /// The peer says that it has consumed so much, whether that can be or not.
    pub(super) fn claim(&mut self, count: u64) {
        self.consumed = count;
    }

    /// Whether a write would be taken.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() - (self.consumed as usize) < self.room
    }

    /// Whether something is there to be read.
    pub(super) fn has_arrived(&self) -> bool {
        !self.silent && self.read < self.arrived.len()
    }

    /// The other end is closed.
    pub(super) fn lose(&mut self) {
        self.gone = true;
    }

    fn check(&self) -> Result<(), WireFault> {
        match self {
            End { silent: true, .. } => Err(WireFault::Silent),
            End { gone: true, .. } => Err(WireFault::Gone),
            End { .. } => Ok(()),
        }
    }
}

impl Wire for End {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        self.check()?;
        let free = self.room - (self.out.len() - self.consumed as usize);
        let taken = from.len().min(free);
        self.out.extend_from_slice(&from[..taken]);
        Ok(taken)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        self.check()?;
        let taken = to.len().min(self.arrived.len() - self.read);
        to[..taken].copy_from_slice(&self.arrived[self.read..self.read + taken]);
        self.read += taken;
        Ok(taken)
    }

    fn consume(&mut self, count: u64) {
        assert!(self.done <= count && count <= self.read as u64, "no more is consumed than was read");
        self.done = count;
    }

    fn consumed(&mut self) -> Result<u64, WireFault> {
        Ok(self.consumed)
    }

    fn await_consumed(&mut self) {}

    fn ask(&mut self) {
        self.asked += 1;
    }

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        // What the peer has consumed is overwritten.
        let is_kept = |at: u64| at >= self.consumed && at < self.out.len() as u64;
        out.extend((from..to).map(|at| if is_kept(at) { self.out[at as usize] } else { OVERWRITTEN }));
    }

    fn poll_changed(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        Poll::Pending
    }

    fn silence(&mut self) {
        self.silent = true;
    }
}

/// A byte that nobody writes.
pub(super) const OVERWRITTEN: u8 = 0xEE;
