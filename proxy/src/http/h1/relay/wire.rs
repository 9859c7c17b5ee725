//! Sockets and buffers: what is read, what a socket has not taken yet, and a timer that is rarely touched.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};

use crate::buf::Buffer;
use crate::io::{Io, Stream};

/// Reads once into `slot`, which holds a buffer only while there is something in it. Zero: the stream's end. The
/// buffer must have room.
pub(super) fn poll_fill(
    slot: &mut Option<Buffer>,
    io: &mut Io,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let buffer = slot.get_or_insert_with(Buffer::take);
    if buffer.room() == 0 {
        buffer.compact();
    }
    debug_assert!(buffer.room() > 0);
    let polled = match io.stream.plain() {
        Some(tcp) if io.early.is_empty() => buffer.poll_recv(tcp, cx),
        _ => buffer.poll_read(io, cx),
    };
    if buffer.is_empty() {
        *slot = None;
    }
    polled
}

/// Whether nothing is there to be read; if so, the task is woken when there is. For where that is likely: a read would
/// take a buffer to find out. Of TLS it is not known: a read has to tell.
pub(super) fn is_silent(io: &Io, cx: &mut Context<'_>) -> bool {
    io.early.is_empty() && io.stream.plain().is_some_and(|tcp| tcp.poll_read_ready(cx).is_pending())
}

/// What a socket has not taken yet of something that is written in one piece: a head, and what was read behind it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Whether everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what is kept, and gives its memory back.
    pub(super) fn clear(&mut self) {
        if !self.is_empty() {
            *self = Outbox::default();
        }
    }

    /// Writes `slices`, and keeps what the socket does not take at once.
    pub(super) fn send(
        &mut self,
        slices: &[IoSlice<'_>],
        to: &mut Stream,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        let mut written = 0;
        if self.is_empty()
            && let Poll::Ready(result) = to.poll_send(slices, cx)
        {
            written = result?;
        }
        if written < slices.iter().map(|slice| slice.len()).sum() {
            self.keep(slices, written);
        }
        Ok(())
    }

    /// Keeps what is behind the first `written` bytes.
    #[cold]
    fn keep(&mut self, slices: &[IoSlice<'_>], mut written: usize) {
        for slice in slices {
            let skipped = written.min(slice.len());
            written -= skipped;
            self.bytes.extend_from_slice(&slice[skipped..]);
        }
    }

    /// Keeps `slices` behind what is kept already.
    pub(super) fn hold(&mut self, slices: &[IoSlice<'_>]) {
        self.keep(slices, 0);
    }

    /// Bytes of what is kept that the socket has taken.
    pub(super) fn taken(&self) -> u64 {
        self.sent as u64
    }

    /// What is kept, to be written before something else.
    pub(super) fn front(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The first `written` bytes of what is kept and of what was written behind it were taken. Returns how many of them
    /// were not kept here.
    pub(super) fn advance(&mut self, written: usize) -> usize {
        let kept = written.min(self.front().len());
        self.sent += kept;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
        written - kept
    }

    /// What is kept, to add to.
    pub(super) fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes what is kept, and what a TLS stream keeps.
    #[inline]
    pub(super) fn poll_flush(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() && to.plain().is_some() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush_kept(to, cx)
    }

    #[inline(never)]
    fn poll_flush_kept(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.bytes[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        *self = Outbox::default();
        Pin::new(to).poll_flush(cx)
    }
}

/// Which limit has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The fixed deadline.
    Deadline,
    /// Nothing moved for as long as is allowed.
    Idle,
    /// As much time has passed, and so much moved in it. It is watched on.
    Moved(u64),
}

/// One timer for a connection's whole life. It is armed for the first limit that could pass and looked at only when
/// it fires: a request that ends in time touches neither clock nor timer wheel.
#[derive(Default)]
pub(super) struct Timer {
    armed: Option<Armed>,
}

struct Armed {
    sleep: Pin<Box<Sleep>>,
    at: Instant,
    idle: Option<Duration>,
    /// The progress when it was armed; none where a deadline comes first, which says nothing about silence.
    mark: Option<u64>,
}

impl Timer {
    /// Whether a limit has passed. `progress` changes whenever something moves; silence is found between once and
    /// twice `idle` after it began.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
        idle: Option<Duration>,
        progress: u64,
    ) -> Option<Expired> {
        if deadline.is_none() && idle.is_none() {
            return None;
        }
        let Some(armed) = &mut self.armed else {
            self.arm(cx, deadline, idle, progress);
            return None;
        };
        let shorter = match (idle, armed.idle) {
            (Some(now), Some(before)) => now < before,
            (now, before) => now.is_some() && before.is_none(),
        };
        if shorter || deadline.is_some_and(|deadline| deadline < armed.at) {
            self.arm(cx, deadline, idle, progress);
            return None;
        }
        if !armed.sleep.is_elapsed() {
            return None;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Some(Expired::Deadline);
        }
        let moved = match armed.mark {
            Some(mark) if armed.idle == idle => Some(progress.wrapping_sub(mark)),
            _ => None,
        };
        if moved == Some(0) {
            return Some(Expired::Idle);
        }
        self.arm(cx, deadline, idle, progress);
        moved.map(Expired::Moved)
    }

    /// Whether a limit has passed behind which nothing more is waited for.
    pub(super) fn is_over(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
        idle: Option<Duration>,
        progress: u64,
    ) -> bool {
        matches!(self.poll(cx, deadline, idle, progress), Some(Expired::Deadline | Expired::Idle))
    }

    /// Watches from now on.
    #[cold]
    pub(super) fn arm(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
        idle: Option<Duration>,
        progress: u64,
    ) {
        let silent = idle.map(|idle| Instant::now() + idle);
        let Some(at) = deadline.into_iter().chain(silent).min() else { return };
        let mark = (silent == Some(at)).then_some(progress);
        let mut sleep = match self.armed.take() {
            Some(mut armed) => {
                armed.sleep.as_mut().reset(at);
                armed.sleep
            }
            None => Box::pin(tokio::time::sleep_until(at)),
        };
        // Polled once, so that it wakes this task.
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.armed = Some(Armed { sleep, at, idle, mark });
    }
}
