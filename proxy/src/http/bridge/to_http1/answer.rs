//! An answer on its way from an endpoint's HTTP/1 connection into a stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::buf::Buffer;
use crate::error::{Cause, ProxyError, Retry};
use crate::http::bridge::heads;
use crate::http::h1::body::{Body, Step};
use crate::http::h1::head::{self, Asked};
use crate::http::h1::pool::Upstream;
use crate::http::h2::exchange::aborted;
use crate::http::h2::fields::{Fields, ResponseHead};
use crate::http::stream::Stream;
use crate::link;
use crate::link::frame::{Code, Cut};
use crate::retry::Came;

/// The endpoint's connection, read side.
pub(super) struct Connection {
    pub(super) upstream: Upstream,
    /// Held only while bytes are in it.
    pub(super) buffer: Option<Buffer>,
    /// So much of the buffer was found to be no whole head.
    pub(super) scanned: usize,
    /// Most bytes of a head.
    pub(super) most: usize,
    pub(super) asked: Asked,
}

pub(super) struct Answer {
    pub(super) response: ResponseHead,
    pub(super) body: Body,
    pub(super) keep_alive: bool,
}

impl Connection {
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ProxyError>> {
        loop {
            if let Some(answer) = self.head()? {
                return Poll::Ready(Ok(answer));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                let error = ProxyError::new(Cause::UpstreamClosed, "the upstream closed before it answered");
                return Poll::Ready(Err(error.after(Came::Broken)));
            }
        }
    }

    /// The head that was read, if it is whole.
    fn head(&mut self) -> Result<Option<Answer>, ProxyError> {
        let Some(buffer) = &mut self.buffer else { return Ok(None) };
        let bytes = buffer.filled();
        if self.scanned > 0 && bytes.len() < self.most && !head::may_end(bytes, self.scanned) {
            self.scanned = bytes.len();
            return Ok(None);
        }
        let mut room = head::room();
        let parsed = head::response(bytes, &mut room, self.asked)
            .map_err(|refusal| ProxyError::new(refusal.cause, refusal.detail))?;
        match parsed {
            Some(parsed) if parsed.len <= self.most => {
                let answer = Answer {
                    response: heads::response(&parsed)?,
                    body: Body::new(parsed.framing),
                    keep_alive: parsed.keep_alive,
                };
                let len = parsed.len;
                drop(room);
                buffer.consume(len);
                self.scanned = 0;
                Ok(Some(answer))
            }
            None if bytes.len() < self.most => {
                self.scanned = bytes.len();
                Ok(None)
            }
            _ => Err(ProxyError::new(Cause::UpstreamMalformed, "the answer's head is larger than the limit")),
        }
    }

    /// Reads what is there; 0 at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ProxyError>> {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::take);
        buffer.compact();
        let read = buffer.poll_read(&mut self.upstream.io, cx);
        if !buffer.is_empty() {
            self.buffer = Some(buffer);
        }
        read.map(|read| match read {
            Ok(count) => Ok(count),
            Err(error) => {
                let detail = "the upstream broke the connection";
                Err(match link::stream::cut_in(&error) {
                    // It was not executed.
                    Some(Cut { code: Code::Refused, cause }) => {
                        ProxyError::new(cause.unwrap_or(Cause::UpstreamClosed), detail).safe()
                    }
                    _ => {
                        ProxyError::new(Cause::UpstreamClosed, detail).with_source(error).after(Came::Broken)
                    }
                })
            }
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.as_ref().is_none_or(Buffer::is_empty)
    }
}

/// The answer's body on its way to the caller.
pub(super) struct Download<'a> {
    pub(super) to: &'a Stream,
    pub(super) body: Body,
    pub(super) bytes: u64,
    /// Content that waits for the caller's window.
    pub(super) pending: Bytes,
    pub(super) trailers: Fields,
    pub(super) done: bool,
}

impl Download<'_> {
    pub(super) fn poll(
        &mut self,
        from: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ProxyError>> {
        while !self.done {
            while !self.pending.is_empty() {
                let Ok(granted) = ready!(self.to.poll_capacity(self.pending.len(), cx)) else {
                    return Poll::Ready(Err(aborted()));
                };
                let chunk = self.pending.split_to(granted);
                self.bytes += chunk.len() as u64;
                self.done = self.pending.is_empty() && self.body.is_done() && self.trailers.is_empty();
                if self.to.send_data(chunk, self.done).is_err() {
                    return Poll::Ready(Err(aborted()));
                }
            }
            if self.done {
                break;
            }
            if self.body.is_done() {
                self.done = true;
                if self.trailers.is_empty() && self.to.send_data(Bytes::new(), true).is_err() {
                    return Poll::Ready(Err(aborted()));
                }
                break;
            }
            if from.is_empty() || !self.step(from)? {
                ready!(self.fill(from, cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at what was read. False: more bytes are needed.
    fn step(&mut self, from: &mut Connection) -> Result<bool, ProxyError> {
        let Some(buffer) = &mut from.buffer else { return Ok(false) };
        let bytes = buffer.filled();
        let step = self
            .body
            .step(bytes)
            .map_err(|refusal| ProxyError::new(Cause::UpstreamMalformed, refusal.detail))?;
        let count = match step {
            Step::Data(count) => {
                self.pending = Bytes::copy_from_slice(&bytes[..count]);
                count
            }
            Step::Framing(count) | Step::End(count) => count,
            Step::Trailer(line) => {
                let (name, value) = line.split(bytes);
                if line.passes {
                    self.trailers.push_lower(name, value);
                }
                line.len
            }
            Step::More => return Ok(false),
        };
        buffer.consume(count);
        if buffer.is_empty() {
            from.buffer = None;
        }
        Ok(true)
    }

    fn fill(&mut self, from: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        let read = match ready!(from.poll_fill(cx)) {
            Ok(read) => read,
            // What has begun cannot be asked for again.
            Err(error) => {
                let error = ProxyError { cause: Cause::UpstreamTruncated, retry: Retry::Never, ..error };
                return Poll::Ready(Err(error));
            }
        };
        if read > 0 {
            return Poll::Ready(Ok(()));
        }
        if !self.body.ends_with_connection() {
            let error = ProxyError::new(Cause::UpstreamTruncated, "the upstream closed within the answer");
            return Poll::Ready(Err(error));
        }
        self.body = Body::Done;
        Poll::Ready(Ok(()))
    }
}
