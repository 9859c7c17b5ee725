//! From the server to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::{End, Flow, Next, Relay, Through, poll_read};
use crate::balance::Outcome;
use crate::buf::Buffer;
use crate::error::Cause;

impl Relay {
    /// From the server to the client.
    pub(super) fn poll_back(&mut self, cx: &mut Context<'_>) -> Flow {
        let mut has_moved = false;
        loop {
            match self.poll_tell(cx) {
                Poll::Ready(Ok(told)) => has_moved |= told,
                Poll::Ready(Err(_)) => return Flow::Next(Next::End(End::Cut(Cause::DownstreamAborted))),
                Poll::Pending => break,
            }
            if self.answers.is_between()
                && let Some(text) = self.session.local()
            {
                self.said.extend_from_slice(text.as_bytes());
                has_moved = true;
                continue;
            }
            match self.look_through() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(next) => return Flow::Next(next),
            }
            let Some(up) = &mut self.up else { break };
            match poll_read(&mut up.upstream.io, &mut self.came, cx) {
                Poll::Ready(Ok(0)) => return self.broken(None),
                Poll::Ready(Ok(_)) => has_moved = true,
                Poll::Ready(Err(_)) => return self.broken(Some(Cause::UpstreamReset)),
                Poll::Pending => break,
            }
        }
        if has_moved { Flow::Moved } else { Flow::Rests }
    }

    /// Writes what is there for the client. Returns whether there was something.
    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        let mut told = false;
        while self.passing > 0
            && let Some(buffer) = &mut self.came
        {
            let written = ready!(Pin::new(&mut self.down).poll_write(cx, &buffer.filled()[..self.passing]))?;
            buffer.consume(written);
            self.passing -= written;
            self.count_out(written);
            told = true;
        }
        if self.came.as_ref().is_some_and(Buffer::is_empty) {
            self.came = None;
        }
        while !self.said.is_empty() {
            let written = ready!(Pin::new(&mut self.down).poll_write(cx, &self.said))?;
            self.said.drain(..written);
            self.count_out(written);
            told = true;
        }
        ready!(Pin::new(&mut self.down).poll_flush(cx))?;
        Poll::Ready(Ok(told))
    }

    fn count_out(&mut self, bytes: usize) {
        self.relayed.bytes_out += bytes as u64;
        self.moved += bytes as u64;
    }

    /// Looks through what the server has said. Returns whether there is something to pass on.
    fn look_through(&mut self) -> Result<bool, Next> {
        let Some(buffer) = &self.came else { return Ok(false) };
        let filled = buffer.filled();
        let mut at = 0;
        if self.session.is_raw() {
            at = filled.len();
        }
        while at < filled.len() {
            if self.answers.is_between() && self.session.is_local_next() {
                break;
            }
            match self.answers.advance(&filled[at..]) {
                Ok((used, ended)) => {
                    at += used;
                    if ended && let Some(number) = self.session.answered(self.answers.last()) {
                        self.inside.answered(number);
                    }
                }
                Err(malformed) => {
                    tracing::debug!(peer = %self.peer, %malformed, "a server of Redis says what is no RESP");
                    self.counts.malformed("server");
                    return Err(Next::End(End::Cut(Cause::UpstreamMalformed)));
                }
            }
        }
        self.passing = at;
        Ok(at > 0)
    }

    /// The server's connection has ended.
    pub(super) fn broken(&mut self, cause: Option<Cause>) -> Flow {
        if let Some(up) = self.up.take() {
            up.upstream.finish(if cause.is_some() { Outcome::Failed } else { Outcome::Answered });
        }
        if self.session.is_over() || self.is_passed || (self.session.is_raw() && cause.is_none()) {
            return Flow::Next(Next::End(End::Well(None)));
        }
        if self.session.is_raw() || !self.answers.is_between() {
            let cause = cause.unwrap_or(Cause::UpstreamTruncated);
            return Flow::Next(Next::End(End::Cut(cause)));
        }
        self.counts.unknown(self.session.broken(UNKNOWN));
        self.inside.answered(self.session.count());
        if let Some(buffer) = &mut self.asked {
            buffer.consume(self.cleared);
            self.scanned -= self.cleared;
            self.cleared = 0;
        }
        if self.through == Through::Sent {
            self.through = Through::Dropped;
        }
        if self.session.pin().is_some() {
            // What it was in is gone.
            self.closing = Some(cause.unwrap_or(Cause::UpstreamClosed));
        }
        Flow::Moved
    }
}

/// To the client, in the place of an answer that did not come.
const UNKNOWN: &str =
    "-ERR lighter: outcome unknown: the connection to the server ended before it answered\r\n";
