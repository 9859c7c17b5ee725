//! A wire of shared memory: the rings, and the socket whose bytes are its doorbell and whose end is the peer's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::memory::Shared;
use crate::link::wire::ring::{Ring, Side};
use crate::link::wire::{Wire, WireFault, each_slice};

/// A wire of shared memory that was proved to work.
#[derive(Debug)]
pub(crate) struct ShmWire {
    ring: Ring<Shared>,
    socket: UnixStream,
    /// This side has gone to sleep, and has not seen yet why it was woken.
    asleep: bool,
    /// It has seen that, and its bell must have rung for it.
    rung: bool,
    /// How often it had gone to sleep when it last read its bells.
    heard: u64,
}

impl ShmWire {
    pub(super) fn new(memory: Shared, socket: UnixStream, side: Side) -> Self {
        ShmWire { ring: Ring::new(memory, side), socket, asleep: false, rung: false, heard: 0 }
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
        match awake {
            Ok(true) => self.woken(),
            Ok(false) => self.asleep = true,
            Err(_) => {}
        }
        awake
    }

    /// There is something that it may have been woken for.
    fn woken(&mut self) {
        self.rung |= std::mem::take(&mut self.asleep);
    }
}

impl Wire for ShmWire {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        let written = self.ring.write(from);
        self.wake_peer();
        written
    }

    fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, WireFault> {
        let written = each_slice(slices, |slice| self.ring.write(slice));
        self.wake_peer();
        written
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        let read = self.ring.read(to)?;
        if read > 0 {
            self.woken();
        }
        Ok(read)
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

    fn ask(&mut self) {
        // The socket that rings ends with the peer.
    }

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        self.ring.stored(from, to, out);
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        loop {
            if self.sleep()? {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(Err(WireFault::Failed));
            }
            // What a bell says is known by now: it stays unread, until so many may lie there that it pays. One that says
            // nothing is read, as it may be the peer's end.
            if std::mem::take(&mut self.rung) && self.ring.naps() - self.heard < MOST_UNREAD {
                let _ =
                    self.socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                continue;
            }
            // A peer that rings without cause gets no more of the worker's time than one that sends bytes on any other
            // socket: the runtime takes turns. What comes beside bells, descriptors too, the system throws away.
            let mut bells = [0; 2 * MOST_UNREAD as usize];
            let mut heard = ReadBuf::new(&mut bells);
            self.heard = self.ring.naps();
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

/// So many bells may lie unread. The socket holds many times as many.
const MOST_UNREAD: u64 = 32;
