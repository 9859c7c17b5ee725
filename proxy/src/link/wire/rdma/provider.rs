//! What the wire asks of whoever moves its bytes: a queue pair, or what stands for one in tests and fuzzers.

use std::ops::Range;
use std::task::{Context, Poll};

use super::super::WireFault;

/// A queue pair, its completions, and the memory of one side: the way out, which it keeps for itself, and the way in, into
/// which the peer writes.
pub(crate) trait Provider {
    /// Bytes of each ring. A power of two.
    fn size(&self) -> usize;

    /// Copies `from` to byte `at` and those behind it of the way out. It does not wrap.
    fn put(&mut self, at: usize, from: &[u8]);

    /// Copies byte `at` and those behind it of the way out to `to`. It does not wrap. Works after
    /// [`silence`](Provider::silence).
    fn stored(&self, at: usize, to: &mut [u8]);

    /// Copies byte `at` and those behind it of the way in to `to`. It does not wrap.
    fn get(&self, at: usize, to: &mut [u8]);

    /// Writes parts of the way out to the same places in the peer's way in, in order, and tells it of each.
    fn send(&mut self, messages: &[Message]) -> Result<(), WireFault>;

    /// Posts so many requests to receive.
    fn receive(&mut self, number: usize) -> Result<(), WireFault>;

    /// Appends what has completed, and says how many that were. 0: nothing more at the moment.
    fn poll(&mut self, to: &mut Vec<Ended>) -> Result<usize, WireFault>;

    /// Asks for a notice of the next completion. What came before is not told.
    fn ask(&mut self) -> Result<(), WireFault>;

    /// Ready once there is the notice that was asked for.
    fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>>;

    /// Neither reads nor writes memory any more, and lets the peer write no more.
    fn silence(&mut self);
}

/// A part of the way out, for the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// What its completion is called.
    pub(crate) id: u64,
    /// Which part. Nothing: only the number is told.
    pub(crate) part: Range<usize>,
    /// The number.
    pub(crate) immediate: u32,
    /// Whether it completes: then it, and all before it, lie in the peer's memory.
    pub(crate) signalled: bool,
}

/// Something has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// A message that was to complete.
    Sent(u64),
    /// A message came: so many bytes, and the number.
    Came(u32, Option<u32>),
    /// A request ended badly.
    Failed(WireFault),
}
