//! The streams that an exchange is moved between, each of an HTTP/2 connection or of a link: what the engine does with
//! them, whichever they are.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response};

use crate::error::{Cause, ProxyError};
use crate::link::frame::{Code, Cut};
use crate::link::halves;

/// What comes: a body, and what is behind it.
pub(crate) enum Source {
    Http2(RecvStream),
    Link(halves::Coming),
}

/// Where a body goes.
pub(crate) enum Sink {
    Http2(SendStream<Bytes>),
    Link(halves::Going),
}

/// Whom a request is answered to.
pub(crate) enum Respond {
    Http2(SendResponse<Bytes>),
    Link(halves::Answering),
}

/// The answer that is waited for.
pub(crate) enum Awaited {
    Http2(ResponseFuture),
    Link(halves::Awaited),
}

/// How a stream was cut off.
#[derive(Debug)]
pub(crate) enum Broken {
    Http2(h2::Error),
    Link(Cut),
}

/// It takes no more. Why, what comes on the same stream tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed;

impl Source {
    /// Whether all of it was read.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Source::Http2(stream) => stream.is_end_stream(),
            Source::Link(stream) => stream.is_end(),
        }
    }

    /// The next part of the body. None: it is whole, or trailers come.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match self {
            Source::Http2(stream) => stream.poll_data(cx).map_err(Broken::Http2),
            Source::Link(stream) => stream.poll_data(cx).map_err(Broken::Link),
        }
    }

    /// What is behind the body, when that is whole.
    pub(crate) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Broken>> {
        match self {
            Source::Http2(stream) => stream.poll_trailers(cx).map_err(Broken::Http2),
            Source::Link(stream) => stream.poll_trailers(cx).map_err(Broken::Link),
        }
    }

    /// So many bytes of what was read are passed on.
    pub(crate) fn release(&mut self, bytes: usize) {
        match self {
            // An error means that the stream is gone, which the next poll tells.
            Source::Http2(stream) => drop(stream.flow_control().release_capacity(bytes)),
            Source::Link(stream) => stream.release(bytes),
        }
    }
}

impl Sink {
    /// How many of `wanted` bytes it takes now.
    pub(crate) fn room(&mut self, wanted: usize) -> usize {
        match self {
            Sink::Http2(stream) => {
                stream.reserve_capacity(wanted);
                stream.capacity()
            }
            Sink::Link(stream) => stream.room(),
        }
    }

    /// The same, once it takes any.
    pub(crate) fn poll_room(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Closed>> {
        match self {
            Sink::Http2(stream) => {
                stream.reserve_capacity(wanted);
                match stream.capacity() {
                    0 => match ready!(stream.poll_capacity(cx)) {
                        Some(Ok(granted)) => Poll::Ready(Ok(granted)),
                        _ => Poll::Ready(Err(Closed)),
                    },
                    granted => Poll::Ready(Ok(granted)),
                }
            }
            Sink::Link(stream) => stream.poll_room(cx).map_err(|_| Closed),
        }
    }

    /// Sends `content`, for which there is room, or which is short. `end`: nothing follows it.
    pub(crate) fn send(&mut self, content: Bytes, end: bool) -> Result<(), Closed> {
        match self {
            Sink::Http2(stream) => stream.send_data(content, end).map_err(|_| Closed),
            Sink::Link(stream) => stream.send(content, end).map_err(|_| Closed),
        }
    }

    /// Ends it with trailers.
    pub(crate) fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Closed> {
        match self {
            Sink::Http2(stream) => stream.send_trailers(trailers).map_err(|_| Closed),
            Sink::Link(stream) => stream.send_trailers(&trailers).map_err(|_| Closed),
        }
    }

    /// Ready if the other side has cut it off.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Sink::Http2(stream) => stream.poll_reset(cx).map(|_| ()),
            Sink::Link(stream) => stream.poll_cut(cx).map(|_| ()),
        }
    }

    /// Nobody wants its answer any more.
    pub(crate) fn cancel(&mut self) {
        match self {
            Sink::Http2(stream) => stream.send_reset(Reason::CANCEL),
            Sink::Link(stream) => stream.reset(Cut { code: Code::Cancelled, cause: None }),
        }
    }

    /// Cuts an answer whose head was sent, so that it cannot be taken for a whole one. `broken`: how it was cut where it
    /// came from.
    pub(crate) fn cut(&mut self, error: &ProxyError, broken: Option<&Broken>) {
        let late = matches!(error.cause, Cause::RequestTimeout | Cause::IdleTimeout);
        match self {
            Sink::Http2(stream) => stream.send_reset(match broken.and_then(Broken::reason) {
                // Some clients take NO_ERROR for a clean end.
                Some(reason) if reason != Reason::NO_ERROR => reason,
                _ if late => Reason::CANCEL,
                _ => Reason::INTERNAL_ERROR,
            }),
            Sink::Link(stream) => {
                let code = match broken.and_then(Broken::reason) {
                    Some(Reason::CANCEL) => Code::Cancelled,
                    _ if late => Code::TooSlow,
                    _ => Code::Internal,
                };
                stream.reset(Cut::new(code, error.cause));
            }
        }
    }
}

impl Respond {
    /// Sends an interim answer. One that cannot be sent is left out: whoever is gone is noticed elsewhere.
    pub(crate) fn interim(&mut self, answer: Response<()>) {
        match self {
            Respond::Http2(stream) => drop(stream.send_informational(answer)),
            Respond::Link(stream) => drop(stream.interim(&answer)),
        }
    }

    /// Sends the answer's head. `end`: nothing follows it.
    pub(crate) fn answer(&mut self, answer: Response<()>, end: bool) -> Result<Sink, Closed> {
        match self {
            Respond::Http2(stream) => stream.send_response(answer, end).map(Sink::Http2).map_err(|_| Closed),
            Respond::Link(stream) => stream.answer(&answer, end).map(Sink::Link).map_err(|_| Closed),
        }
    }

    /// Ready if the caller wants no answer any more.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Respond::Http2(stream) => stream.poll_reset(cx).map(|_| ()),
            Respond::Link(stream) => stream.poll_cut(cx).map(|_| ()),
        }
    }
}

impl Awaited {
    /// The next interim answer. None: the answer itself has come, or what came is told with it.
    pub(crate) fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<Option<Response<()>>> {
        match self {
            Awaited::Http2(stream) => stream.poll_informational(cx).map(|came| came.and_then(Result::ok)),
            Awaited::Link(stream) => stream.poll_interim(cx).map(|came| came.and_then(Result::ok)),
        }
    }

    /// The answer.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Source>, Broken>> {
        match self {
            Awaited::Http2(stream) => {
                let answer = ready!(Future::poll(Pin::new(stream), cx));
                Poll::Ready(answer.map(|answer| answer.map(Source::Http2)).map_err(Broken::Http2))
            }
            Awaited::Link(stream) => {
                let answer = ready!(stream.poll(cx));
                Poll::Ready(answer.map(|answer| answer.map(Source::Link)).map_err(Broken::Link))
            }
        }
    }
}

impl Broken {
    /// Why, in HTTP/2's words, if it was said in words.
    fn reason(&self) -> Option<Reason> {
        match self {
            Broken::Http2(error) => error.reason(),
            Broken::Link(Cut { code: Code::Cancelled, .. }) => Some(Reason::CANCEL),
            Broken::Link(_) => None,
        }
    }
}
