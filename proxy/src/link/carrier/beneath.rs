//! What moves the bytes: the carrier of a link between its TLS, its TCP connection and its wire.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::ReadBuf;
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::anchor::Anchor;
use super::fatal::Fatal;
use super::generation::Cause;
use super::keys::Keys;
use super::machine::{Counts, Event, Finish, In, Machine, Out};
use super::outward::front;
use super::record::RECORD_BYTES;
use super::walk::Walk;
use crate::link::session::Side;
use crate::link::wire::Wire;

/// What lies beneath the TLS of a link.
pub struct Beneath {
    machine: Machine<Box<dyn Wire>, Keys>,
    /// What was read of the connection before it was known to be a link.
    early: Bytes,
    /// What was read ahead for TLS, while a write was blocked.
    held: BytesMut,
    /// TCP gives nothing more.
    deaf: bool,
    /// The last write found no room on the wire.
    full: bool,
    /// Why the link was given up was said.
    noted: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Beneath {
    /// Of a connection of which `early` was read already.
    pub fn new(side: Side, early: Bytes) -> Self {
        Beneath {
            machine: Machine::new(side),
            early,
            held: BytesMut::new(),
            deaf: false,
            full: false,
            noted: false,
            timer: None,
        }
    }

    /// The handshake is done.
    pub fn establish(&mut self, keys: Keys) {
        self.machine.establish(keys);
    }

    /// The generation that may be offered, if one may.
    pub fn next(&self) -> Option<u32> {
        self.machine.next()
    }

    /// It was offered, or is about to be accepted. False: that is too late, or too early, and nobody is to hear of it.
    /// From now on both directions have three seconds to switch.
    pub fn open(&mut self, generation: u32) -> bool {
        self.machine.open(generation)
    }

    /// It was declined: its number may be offered again. Nothing happens once either side has used it.
    pub fn withdraw(&mut self, generation: u32) {
        self.machine.withdraw(generation);
    }

    /// The wire is proved from this side: the way out goes over to it as soon as a record of TLS ends and TCP holds little.
    /// False: that is too late. The other side may have switched before.
    pub fn switch(&mut self, generation: u32, wire: Box<dyn Wire>) -> bool {
        self.machine.switch(generation, wire)
    }

    /// Goes back to TCP. What comes of it, the connection tells with its next read or write.
    pub fn freeze(&mut self, generation: u32, cause: Cause) {
        // Once fatal, always fatal: whoever reads or writes next is told.
        let _ = self.machine.freeze(generation, cause);
    }

    /// What happened since it was asked for. To be asked after each turn of whoever reads and writes.
    pub fn event(&mut self) -> Option<Event> {
        self.machine.event()
    }

    /// Why the link was given up, if the carrier did that.
    pub fn fatal(&self) -> Option<Fatal> {
        self.machine.fatal()
    }

    /// Bytes that were carried since the link began.
    pub fn counts(&self) -> Counts {
        self.machine.counts()
    }

    /// Where the bytes go and come from now.
    pub fn ways(&self) -> (Out, In) {
        (self.machine.way_out(), self.machine.way_in())
    }

    /// Where TLS is in the records of the way in. None: something was read ahead of it.
    pub(crate) fn walk_in(&self) -> Option<Walk> {
        self.held.is_empty().then(|| self.machine.walk_in())
    }

    /// Reads for TLS.
    pub(crate) fn poll_read(
        &mut self,
        tcp: &mut impl Anchor,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        loop {
            if !self.held.is_empty() {
                let fitting = self.held.len().min(buf.remaining());
                buf.put_slice(&self.held[..fitting]);
                self.held.advance(fitting);
                return Poll::Ready(Ok(()));
            }
            if self.machine.is_ended() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            if self.poll_take(tcp, cx, buf)?.is_pending() {
                // What is wrong with writing, the next write tells, or the end of reading: what had come is read before.
                let _ = self.transmit(tcp, cx);
                ready!(self.poll_wait(cx))?;
                if self.full {
                    // It may have been room, and whoever writes is not told twice.
                    cx.waker().wake_by_ref();
                }
            } else if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes for TLS.
    pub(crate) fn poll_write(
        &mut self,
        tcp: &mut impl Anchor,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        loop {
            // What the carrier has to say goes before.
            let said = self.transmit(tcp, cx)?;
            match self.machine.way_out() {
                Out::Tcp if !said => return Poll::Pending,
                Out::Tcp if !self.machine.asks_unsent() => return self.poll_write_tcp(tcp, cx, slices),
                Out::Tcp => {}
                Out::Ring => {
                    let written = self.machine.write_slices(slices)?;
                    self.full = written == 0;
                    if written > 0 {
                        return Poll::Ready(Ok(written));
                    }
                }
                Out::Frozen if self.machine.is_cut_off() => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Out::Frozen => {}
            }
            ready!(self.poll_blocked(tcp, cx))?;
        }
    }

    /// Writes what the carrier itself has to say.
    pub(crate) fn poll_flush(&mut self, tcp: &mut impl Anchor, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.machine.is_ended() && self.machine.wire().is_some() {
            // TLS reads no more, and the peer may have something to say of the wire.
            let mut bytes = [0; RECORD_BYTES];
            while self.poll_take(tcp, cx, &mut ReadBuf::new(&mut bytes))?.is_ready() {}
        }
        if self.transmit(tcp, cx)? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ends the way out, and waits until the peer needs nothing more of this side for it.
    pub(crate) fn poll_shutdown(
        &mut self,
        tcp: &mut impl Anchor,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        loop {
            match self.machine.finish()? {
                Finish::Shut => return Pin::new(tcp).poll_shutdown(cx),
                Finish::Done => return Poll::Ready(Ok(())),
                Finish::Wait => {}
            }
            let waits = !self.machine.transmit().is_empty();
            if !(self.transmit(tcp, cx)? && waits) {
                ready!(self.poll_blocked(tcp, cx))?;
            }
        }
    }

    /// Takes what there is for TLS into `buf`, or does what the peer says. Ready: there was something.
    fn poll_take(
        &mut self,
        tcp: &mut impl Anchor,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.machine.way_in() == In::Ring {
            // As on TCP, nobody goes on for ever within one turn.
            let turn = ready!(coop::poll_proceed(cx));
            let read = self.machine.read(buf.initialize_unfilled())?;
            if read > 0 {
                turn.made_progress();
                buf.advance(read);
                return Poll::Ready(Ok(()));
            }
        }
        if self.deaf {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if self.early.is_empty() {
            if let Err(error) = ready!(Pin::new(tcp).poll_read(cx, buf)) {
                self.deaf = true;
                return Poll::Ready(self.machine.lose().map_err(|_| error));
            }
        } else {
            let fitting = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(fitting));
        }
        let fresh = &mut buf.filled_mut()[before..];
        if fresh.is_empty() {
            self.deaf = true;
            self.machine.recv_end()?;
            return Poll::Ready(Ok(()));
        }
        let kept = self.machine.recv(fresh)?;
        buf.set_filled(before + kept);
        Poll::Ready(Ok(()))
    }

    /// Ready once the wire changed, or something that was due has been done.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fatal>> {
        if let Some(wire) = self.machine.wire()
            && let Poll::Ready(changed) = wire.poll_changed(cx)
        {
            // A peer that does nothing but ring is heard so often a turn.
            ready!(coop::poll_proceed(cx)).made_progress();
            return Poll::Ready(match changed {
                Ok(()) => self.machine.learn_consumed(),
                Err(fault) => self.machine.fault(fault),
            });
        }
        self.poll_time(cx)
    }

    /// Ready once something that was due has been done.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fatal>> {
        let Some(due) = self.machine.timeout(|| Instant::now().into_std()) else {
            self.timer = None;
            return Poll::Pending;
        };
        let due = Instant::from_std(due);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(self.machine.on_timeout(Instant::now().into_std()))
    }

    /// Waits for what lets a write go on. Reading does not wait meanwhile, whether TLS asks or not: what the peer says may
    /// be what is waited for.
    fn poll_blocked(&mut self, tcp: &mut impl Anchor, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.len() >= AHEAD {
            return self.poll_time(cx).map_err(io::Error::from);
        }
        let mut bytes = [0; READ];
        let mut buf = ReadBuf::new(&mut bytes);
        if self.poll_take(tcp, cx, &mut buf)?.is_pending() {
            // That the wire has just been left the peer hears at once: nobody may ask again before it has to have answered.
            self.transmit(tcp, cx)?;
            return self.poll_wait(cx).map_err(io::Error::from);
        }
        if !buf.filled().is_empty() {
            self.held.extend_from_slice(buf.filled());
            // Whoever reads was told that there is nothing.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the carrier itself has to say. False: TCP takes no more at the moment.
    fn transmit(&mut self, tcp: &mut impl Anchor, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.machine.asks_unsent() {
            self.machine.learn_unsent(tcp.unsent());
        }
        while !self.machine.transmit().is_empty() {
            let unsaid = self.machine.transmit();
            let all = unsaid.len();
            match Pin::new(&mut *tcp).poll_write(cx, unsaid) {
                Poll::Ready(Ok(written @ 1..)) => self.machine.transmitted(written),
                Poll::Ready(failed) => {
                    // Nobody will hear it.
                    self.machine.transmitted(all);
                    failed?;
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    fn poll_write_tcp(
        &mut self,
        tcp: &mut impl Anchor,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else { return Poll::Ready(Ok(0)) };
        let written = match self.machine.allowance(first) {
            None => ready!(Pin::new(tcp).poll_write_vectored(cx, slices))?,
            Some(most) => ready!(Pin::new(tcp).poll_write(cx, &first[..most]))?,
        };
        self.machine.sent(front(slices, written))?;
        Poll::Ready(Ok(written))
    }

    /// An error once the link is given up. Why, is said once, unless whoever lost the connection says it.
    fn check(&mut self) -> Result<(), Fatal> {
        let Some(fatal) = self.machine.fatal() else { return Ok(()) };
        if !std::mem::replace(&mut self.noted, true) && !fatal.is_loss() {
            tracing::warn!(%fatal, "a link was given up beneath its TLS");
        }
        Err(fatal)
    }
}

impl fmt::Debug for Beneath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (out, inward) = self.ways();
        f.debug_struct("Beneath").field("out", &out).field("in", &inward).finish_non_exhaustive()
    }
}

/// Most that is read ahead of TLS.
const AHEAD: usize = 1024 * 1024;

/// Room for one read ahead.
const READ: usize = 4096;
