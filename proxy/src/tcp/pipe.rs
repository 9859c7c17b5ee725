//! Kernel pipes between sockets: bytes that pass through one are never copied to this process.
//!
//! A worker keeps a short free list. A connection takes a pipe when it moves bulk and gives it back, empty, when it
//! rests.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that a pipe is asked to hold. Twice what one socket usually has ready; small enough that many pipes stay
/// below the kernel's limit per user (`fs.pipe-user-pages-soft`).
pub(crate) const PIPE_BYTES: usize = 256 * 1024;

/// Pipes kept for reuse by one worker.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// A pipe that one connection has for a while.
pub(crate) struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// Takes a pipe from this worker's free list, or makes one. Fails where there is no descriptor left.
    pub(crate) fn take() -> io::Result<Self> {
        let ends = match FREE.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None => Ends::make()?,
        };
        Ok(Pipe { ends: Some(ends), held: 0 })
    }

    /// Bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `most` bytes from a socket into the pipe, which has to be empty: into a full one nothing goes, and
    /// that cannot be told from a socket without bytes. Zero is the socket's end.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0);
        let Some(ends) = &self.ends else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved =
                from.try_io(Interest::READABLE, || Ok(splice(from, None, &ends.write, None, most, FLAGS)?));
            match moved {
                Ok(bytes) => {
                    self.held += bytes;
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Moves what is in the pipe to a socket, until it is empty.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(())) };
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            let moved =
                to.try_io(Interest::WRITABLE, || Ok(splice(&ends.read, None, to, None, self.held, FLAGS)?));
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => self.held -= bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // What a cut connection left in it must never reach another one.
        if self.held > 0 {
            return;
        }
        let Some(ends) = self.ends.take() else { return };
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(ends);
            }
        });
    }
}

impl Ends {
    fn make() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Past the user's limit the kernel's default (64 KiB, later one page) has to do.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Ends { read, write })
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
