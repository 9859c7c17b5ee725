//! Wires: ways beside TCP on which the bytes of one link go. A wire knows nothing of records, TLS or where in the link's
//! stream its bytes belong: its counts begin at 0 with it. Whoever drives it keeps the link whole when it fails.

pub(crate) mod rdma;
pub(crate) mod ring;
pub(crate) mod shm;

use std::fmt;
use std::io::IoSlice;
use std::task::{Context, Poll};

/// Both directions of one wire, as one side has them.
pub trait Wire {
    /// Copies the front of `from` into the way out, as much as is free, and wakes the peer if it sleeps. 0: full. After
    /// less than all of `from` this side waits for room, and [`poll_changed`](Wire::poll_changed) tells of it.
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault>;

    /// The same of `slices`, one behind the other. A wire that can wakes the peer once for all of them. What goes wrong
    /// behind bytes that were written, the next call tells.
    fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, WireFault> {
        each_slice(slices, |slice| self.write(slice))
    }

    /// Copies the front of what came, and was not read yet, into `to`. 0: nothing there. Less than `to` holds: nothing more
    /// is there. What was read keeps its room until [`consume`](Wire::consume) gives it back.
    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault>;

    /// All bytes of the way in up to this count are needed no more: their room is the peer's again. It is told at each
    /// quarter of the ring, woken for it at half of it, and both when this side goes to sleep.
    fn consume(&mut self, count: u64);

    /// How many bytes of the way out the peer has consumed. Never falls, never passes what was written: that is
    /// [`WireFault::Hostile`]. After [`silence`](Wire::silence) what was known then.
    fn consumed(&mut self) -> Result<u64, WireFault>;

    /// This side waits from now on until the peer has consumed everything: [`poll_changed`](Wire::poll_changed) tells of
    /// each step. For the end of the way out.
    fn await_consumed(&mut self);

    /// Asks the peer whether it is there. That it is not, [`poll_changed`](Wire::poll_changed) tells.
    fn ask(&mut self);

    /// Appends bytes `from..to` of the way out, none of which the peer has consumed, to `out`. Works after
    /// [`silence`](Wire::silence).
    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>);

    /// Ready once there is something that no call has seen yet: bytes that came since the last [`read`](Wire::read), room
    /// or consumption that this side waits for since the last [`write`](Wire::write) or [`consumed`](Wire::consumed), or a
    /// peer that is gone, as an error. Tells the peer that this side sleeps, looks once more, and then waits.
    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>>;

    /// Stops reading and writing for good: both give [`WireFault::Silent`] from now on. The peer learns it from the link's
    /// TCP connection. What is stored stays until the wire is dropped.
    fn silence(&mut self);
}

impl<W: Wire + ?Sized> Wire for Box<W> {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        (**self).write(from)
    }

    fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, WireFault> {
        (**self).write_slices(slices)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        (**self).read(to)
    }

    fn consume(&mut self, count: u64) {
        (**self).consume(count);
    }

    fn consumed(&mut self) -> Result<u64, WireFault> {
        (**self).consumed()
    }

    fn await_consumed(&mut self) {
        (**self).await_consumed();
    }

    fn ask(&mut self) {
        (**self).ask();
    }

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        (**self).stored(from, to, out);
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        (**self).poll_changed(cx)
    }

    fn silence(&mut self) {
        (**self).silence();
    }
}

/// Writes `slices` one by one, as far as it goes.
fn each_slice(
    slices: &[IoSlice<'_>],
    mut write: impl FnMut(&[u8]) -> Result<usize, WireFault>,
) -> Result<usize, WireFault> {
    let mut total = 0;
    for slice in slices.iter().filter(|slice| !slice.is_empty()) {
        match write(slice) {
            Ok(written) => {
                total += written;
                if written < slice.len() {
                    break;
                }
            }
            Err(fault) if total == 0 => return Err(fault),
            Err(_) => break,
        }
    }
    Ok(total)
}

/// Why a wire carries no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFault {
    /// The peer's cursors say what cannot be. The link with it is closed, and gets no wire again for a while.
    Hostile,
    /// The peer's end is closed: it let go of the wire, or its process ended.
    Gone,
    /// The system refused what the wire needs.
    Failed,
    /// This side has silenced it.
    Silent,
}

impl WireFault {
    /// The label, in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            WireFault::Hostile => "hostile",
            WireFault::Gone => "gone",
            WireFault::Failed => "failed",
            WireFault::Silent => "silent",
        }
    }
}

impl fmt::Display for WireFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for WireFault {}
