//! The streams that an exchange is moved between, each of an HTTP/2 connection or of a link: what the engine does with
//! them, whichever they are.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::h2::conn;
use super::h2::fields::{Fields, ResponseHead};
use super::h2::frame::Code;
use super::h2::wire;
use crate::error::{Cause, ProxyError};
use crate::link::frame::{self, Cut};
use crate::link::halves::Half;

/// One end of a stream: what comes on it, and what goes. Dropping it gives up what is left of it.
pub(crate) enum Stream {
    Http2(wire::Stream),
    Link(Half),
}

/// What comes next on a stream.
#[derive(Debug)]
pub(crate) enum Read {
    /// Part of the body, to be released when it is no longer held. `end`: nothing comes behind it.
    Data { part: Bytes, end: bool },
    /// Fields behind the body. Nothing comes behind them.
    Trailers(Box<Fields>),
    /// It has ended well.
    End,
    /// It was cut off: what came is not whole.
    Cut(Broken),
}

/// How a stream was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Http2(conn::Cut),
    Link(Cut),
}

/// It takes no more. Why, what comes on the same stream tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed;

impl Stream {
    /// The next head of the answer; interim ones come before the one of the answer.
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        match self {
            Stream::Http2(stream) => stream.poll_head(cx).map_err(Broken::Http2),
            Stream::Link(stream) => stream.poll_head(cx).map_err(Broken::Link),
        }
    }

    /// Bytes of body that can be read now. Those of a link are looked for, so that this task is woken where there are
    /// none.
    pub(crate) fn readable(&self, cx: &Context<'_>) -> usize {
        match self {
            Stream::Http2(stream) => stream.readable(),
            Stream::Link(stream) => stream.readable(cx),
        }
    }

    /// What comes next behind the head, at most `most` bytes of a body, which is not zero.
    pub(crate) fn poll_read(&self, most: usize, cx: &Context<'_>) -> Poll<Read> {
        match self {
            Stream::Http2(stream) => stream.poll_read(most, cx).map(|read| match read {
                conn::Read::Data { part, end } => Read::Data { part, end },
                conn::Read::Trailers(trailers) => Read::Trailers(trailers),
                conn::Read::End => Read::End,
                conn::Read::Cut(cut) => Read::Cut(Broken::Http2(cut)),
            }),
            Stream::Link(stream) => stream.poll_read(most, cx),
        }
    }

    /// Whether all was read, and has ended well.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Stream::Http2(stream) => stream.is_end(),
            Stream::Link(stream) => stream.is_end(),
        }
    }

    /// So many bytes of what was read are passed on.
    pub(crate) fn release(&self, bytes: usize) {
        match self {
            Stream::Http2(stream) => stream.release(bytes),
            Stream::Link(stream) => stream.release(bytes),
        }
    }

    /// Ready if the other side has cut it off.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Stream::Http2(stream) => stream.poll_cut(cx).map(|_| ()),
            Stream::Link(stream) => stream.poll_cut(cx).map(|_| ()),
        }
    }

    /// How much of a body may be sent, at most `want`, which is not zero; once that is any.
    pub(crate) fn poll_capacity(&self, want: usize, cx: &Context<'_>) -> Poll<Result<usize, Closed>> {
        match self {
            Stream::Http2(stream) => stream.poll_capacity(want, cx).map_err(|_| Closed),
            Stream::Link(stream) => stream.poll_capacity(want, cx).map_err(|_| Closed),
        }
    }

    /// Whether so much of a body may be sent now.
    pub(crate) fn has_capacity(&self, want: usize) -> bool {
        match self {
            Stream::Http2(stream) => stream.has_capacity(want),
            Stream::Link(stream) => stream.has_capacity(want),
        }
    }

    /// Sends the head of an answer, or of an interim one.
    pub(crate) fn send_head(&self, head: &ResponseHead, end: bool) -> Result<(), Closed> {
        match self {
            Stream::Http2(stream) => stream.send_head(head, end).map_err(|_| Closed),
            Stream::Link(stream) => stream.send_head(head, end).map_err(|_| Closed),
        }
    }

    /// Sends part of a body, no more than there is capacity for. `end`: nothing follows it.
    pub(crate) fn send_data(&self, part: Bytes, end: bool) -> Result<(), Closed> {
        match self {
            Stream::Http2(stream) => stream.send_data(part, end).map_err(|_| Closed),
            Stream::Link(stream) => stream.send_data(part, end).map_err(|_| Closed),
        }
    }

    /// Ends it with trailers.
    pub(crate) fn send_trailers(&self, trailers: &Fields) -> Result<(), Closed> {
        match self {
            Stream::Http2(stream) => stream.send_trailers(trailers).map_err(|_| Closed),
            Stream::Link(stream) => stream.send_trailers(trailers).map_err(|_| Closed),
        }
    }

    /// Whether it is one of a link.
    pub(crate) fn is_link(&self) -> bool {
        matches!(self, Stream::Link(_))
    }

    /// Where it is one of a link, cuts it off as not executed, for `cause`. Returns whether it is.
    pub(crate) fn refuse(&self, cause: Cause) -> bool {
        let Stream::Link(stream) = self else { return false };
        stream.reset(Cut::new(frame::Code::Refused, cause));
        true
    }

    /// Nobody wants its answer any more.
    pub(crate) fn cancel(&self) {
        match self {
            Stream::Http2(stream) => stream.reset(Code::CANCEL),
            Stream::Link(stream) => stream.reset(Cut { code: frame::Code::Cancelled, cause: None }),
        }
    }

    /// Cuts an answer whose head was sent, so that it cannot be taken for a whole one. `broken`: how it was cut where it
    /// came from.
    pub(crate) fn cut(&self, error: &ProxyError, broken: Option<Broken>) {
        let late = matches!(error.cause, Cause::RequestTimeout | Cause::IdleTimeout);
        let said = broken.and_then(Broken::code);
        match self {
            Stream::Http2(stream) => stream.reset(match said {
                // Some clients take NO_ERROR for a clean end.
                Some(code) if code != Code::NO_ERROR => code,
                _ if late => Code::CANCEL,
                _ => Code::INTERNAL_ERROR,
            }),
            Stream::Link(stream) => {
                let code = match said {
                    Some(Code::CANCEL) => frame::Code::Cancelled,
                    _ if late => frame::Code::TooSlow,
                    _ => frame::Code::Internal,
                };
                stream.reset(Cut::new(code, error.cause));
            }
        }
    }
}

impl Broken {
    /// Why, in HTTP/2's words, if it was said in words.
    fn code(self) -> Option<Code> {
        match self {
            Broken::Http2(conn::Cut::Reset(code)) => Some(code),
            Broken::Link(Cut { code: frame::Code::Cancelled, .. }) => Some(Code::CANCEL),
            Broken::Http2(_) | Broken::Link(_) => None,
        }
    }
}
