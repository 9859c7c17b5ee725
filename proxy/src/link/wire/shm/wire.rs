//! A wire of shared memory: the rings, and the socket whose bytes are its doorbell and whose end is the peer's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;

use super::memory::Shared;
use crate::link::wire::ring::{Ring, Side};
use crate::link::wire::{Wire, WireFault};

/// A wire of shared memory that was proved to work.
#[derive(Debug)]
pub(crate) struct ShmWire {
    ring: Ring<Shared>,
    socket: UnixStream,
}

impl ShmWire {
    pub(super) fn new(memory: Shared, socket: UnixStream, side: Side) -> Self {
        ShmWire { ring: Ring::new(memory, side), socket }
    }

    /// The memory, for tests that do what an honest peer does not.
    #[cfg(test)]
    pub(super) fn memory(&self) -> &Shared {
        self.ring.memory()
    }

    /// The socket, for the same.
    #[cfg(test)]
    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Wakes the peer if it has to be woken.
    #[inline]
    fn wake_peer(&mut self) {
        if self.ring.take_bell() {
            ring_bell(&self.socket);
        }
    }

    /// Goes to sleep, as [`Ring::sleep`], and says so to the peer's side of it.
    fn sleep(&mut self) -> Result<bool, WireFault> {
        let awake = self.ring.sleep();
        self.wake_peer();
        awake
    }
}

impl Wire for ShmWire {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        let written = self.ring.write(from);
        self.wake_peer();
        written
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        self.ring.read(to)
    }

    fn consume(&mut self, count: u64) {
        self.ring.consume(count);
        self.wake_peer();
    }

    fn consumed(&mut self) -> Result<u64, WireFault> {
        self.ring.consumed()
    }

    fn await_consumed(&mut self) {
        self.ring.await_consumed();
    }

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        self.ring.stored(from, to, out);
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        loop {
            if self.sleep()? {
                return Poll::Ready(Ok(()));
            }
            // Bells that were not heard yet. A peer that rings without cause gets no more of the worker's time than one that
            // sends bytes on any other socket: the runtime takes turns. What comes beside bells, descriptors too, the system
            // throws away.
            let mut bells = [0; 64];
            let mut heard = ReadBuf::new(&mut bells);
            let read = ready!(Pin::new(&mut self.socket).poll_read(cx, &mut heard));
            let fault = match read {
                Ok(()) if !heard.filled().is_empty() => continue,
                // A peer that ends with bells unheard resets the socket.
                Err(error) if error.kind() != io::ErrorKind::ConnectionReset => WireFault::Failed,
                _ => WireFault::Gone,
            };
            // What it wrote before its end still counts.
            return Poll::Ready(if self.sleep()? { Ok(()) } else { Err(fault) });
        }
    }

    fn silence(&mut self) {
        self.ring.silence();
    }
}

/// Wakes whoever sleeps at the other end of `socket`. Never waits: where there is no room for another bell, there are enough
/// that were not heard. That the other end is gone, whoever reads from it learns.
pub(super) fn ring_bell(socket: &UnixStream) {
    let _ = rustix::net::send(socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
