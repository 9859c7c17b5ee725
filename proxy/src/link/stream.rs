//! One end of a stream of a link.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::connection::{For, Link};
use super::frame::{Code, Cut};
use super::session::{Read, SendError, Session, StreamId};
use crate::telemetry;

/// One end of a stream. Dropped before both halves have ended, the stream is cut off.
pub(crate) struct End {
    link: Rc<Link>,
    stream: StreamId,
}

impl End {
    pub(super) fn new(link: Rc<Link>, stream: StreamId) -> Self {
        End { link, stream }
    }

    /// What came next. What was cut off is an error that tells how; see [`cut_in`].
    pub(super) fn poll_read(&self, cx: &Context<'_>) -> Poll<io::Result<Read>> {
        self.poll_next(cx).map_err(broken)
    }

    /// What came next, or how it was cut off.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Result<Read, Cut>> {
        let read = self.link.session.borrow_mut().read(self.stream);
        match read {
            Some(Read::Cut(cut)) => Poll::Ready(Err(cut)),
            Some(read) => Poll::Ready(Ok(read)),
            None => self.poll_cut(cx).map(Err),
        }
    }

    /// The next part of the body, if that is what comes next and if it came.
    pub(super) fn next_data(&self) -> Option<Bytes> {
        self.link.session.borrow_mut().read_data(self.stream)
    }

    /// Ready if it was cut off.
    pub(super) fn poll_cut(&self, cx: &Context<'_>) -> Poll<Cut> {
        if let Some(cut) = self.link.cut_of(self.stream) {
            return Poll::Ready(cut);
        }
        self.link.wait(self.stream, For::Read, cx);
        Poll::Pending
    }

    /// Whether nothing more is to be read than that it has ended well.
    pub(super) fn is_at_end(&self) -> bool {
        self.link.session.borrow().is_at_end(self.stream)
    }

    /// `bytes` of what was read are passed on.
    pub(super) fn release(&self, bytes: usize) {
        let mut session = self.link.session.borrow_mut();
        session.release(self.stream, bytes);
        let grants = session.wants_transmit();
        drop(session);
        if grants {
            self.link.wake();
        }
    }

    /// Sends an answer's head.
    pub(super) fn send_head<'f>(
        &self,
        status: u16,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        end: bool,
    ) -> io::Result<()> {
        let sent = self.link.session.borrow_mut().send_head(self.stream, status, fields, &[], end);
        self.sent(sent).map(|_| ())
    }

    /// Sends as much of the front of `content` as there is room for. `end`: nothing follows it.
    pub(super) fn send(&self, content: &[u8], end: bool) -> io::Result<usize> {
        let sent = self.link.session.borrow_mut().send_slice(self.stream, content, end);
        self.sent(sent)
    }

    /// The same for bytes that are shared and not copied: what is taken is split off.
    pub(super) fn send_bytes(&self, content: &mut Bytes, end: bool) -> io::Result<usize> {
        let sent = self.link.session.borrow_mut().send_data(self.stream, content, end);
        self.sent(sent)
    }

    /// How many bytes can be sent now.
    pub(super) fn room(&self) -> usize {
        self.link.session.borrow().can_send(self.stream)
    }

    /// How many bytes can be sent, once that is any. `Err`: it was cut off.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, Cut>> {
        let room = self.link.session.borrow_mut().ask_room(self.stream);
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        if let Some(cut) = self.link.cut_of(self.stream) {
            return Poll::Ready(Err(cut));
        }
        self.wait_for_room(cx);
        Poll::Pending
    }

    /// Ends this half with fields behind the body.
    pub(super) fn send_trailers<'f>(
        &self,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    ) -> io::Result<()> {
        let sent = self.link.session.borrow_mut().send_trailers(self.stream, fields);
        self.sent(sent)
    }

    /// Ends this half.
    pub(super) fn finish(&self) -> io::Result<()> {
        let sent = self.link.session.borrow_mut().finish(self.stream);
        self.sent(sent)
    }

    /// Wakes this task when there is room again.
    pub(super) fn wait_for_room(&self, cx: &Context<'_>) {
        self.link.wait(self.stream, For::Write, cx);
    }

    /// Cuts it off, so that neither side takes this for an end. One that has ended is left alone.
    pub(super) fn reset(&self, cut: Cut) {
        self.over(|session, stream| session.reset(Instant::now(), stream, cut).then_some(cut));
    }

    /// Ends it by `how`, which says what is to be counted.
    fn over(&self, how: impl FnOnce(&mut Session, StreamId) -> Option<Cut>) {
        let cut = how(&mut self.link.session.borrow_mut(), self.stream);
        if let Some(cut) = cut {
            telemetry::links().stream_cut(cut.code);
        }
        // Credit may be free again.
        self.link.wake();
    }

    fn sent<T>(&self, sent: Result<T, SendError>) -> io::Result<T> {
        self.link.write_much();
        self.link.wake();
        sent.map_err(|error| match error {
            SendError::Cut(cut) => broken(cut),
            SendError::Gone => io::ErrorKind::BrokenPipe.into(),
            SendError::TooLarge => {
                io::Error::new(io::ErrorKind::InvalidData, "the head is too large for a link")
            }
        })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let cut = Cut { code: Code::Cancelled, cause: None };
        self.over(|session, stream| session.let_go(Instant::now(), stream, cut).then_some(cut));
        self.link.forget(self.stream);
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// How a stream of a link was cut off, if it is that what `error` says.
pub(crate) fn cut_in(error: &io::Error) -> Option<Cut> {
    error.get_ref()?.downcast_ref::<Broken>().map(|broken| broken.0)
}

pub(super) fn broken(cut: Cut) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, Broken(cut))
}

#[derive(Debug)]
struct Broken(Cut);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stream was cut off: {}", self.0.code.label())
    }
}

impl std::error::Error for Broken {}
