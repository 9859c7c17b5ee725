//! From the client to the server.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::{End, Flow, Next, Relay, Through, poll_read};
use crate::buf::Buffer;
use crate::error::Cause;
use crate::redis::resp::Command;
use crate::redis::{protocol_error, refusal};

/// What became of what was at hand.
pub(super) enum Decided {
    Sent,
    Dropped,
    Waits,
}

impl Relay {
    /// From the client to the server.
    pub(super) fn poll_there(&mut self, cx: &mut Context<'_>) -> Flow {
        let mut has_moved = false;
        loop {
            match self.decide(cx) {
                Ok(dropped) => has_moved |= dropped,
                Err(next) => return Flow::Next(next),
            }
            match self.poll_ask(cx) {
                Poll::Ready(Ok(true)) => {
                    has_moved = true;
                    continue;
                }
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(_)) => return self.broken(Some(Cause::UpstreamReset)),
                Poll::Pending => break,
            }
            // What is full goes on once answers have been passed back: the relay comes here after each.
            if self.at_hand.is_some() || self.closing.is_some() || self.is_said || self.is_held() {
                break;
            }
            if let Some(buffer) = &mut self.asked
                && !buffer.is_empty()
            {
                buffer.compact();
            }
            match poll_read(&mut self.down, &mut self.asked, cx) {
                Poll::Ready(Ok(0)) => self.is_said = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Flow::Next(Next::End(End::Cut(Cause::DownstreamAborted))),
                Poll::Pending => break,
            }
            has_moved = true;
        }
        if self.is_said && !self.is_passed && self.at_hand.is_none() && self.cleared == 0 {
            match &mut self.up {
                Some(up) => {
                    // What does not go out now goes with the connection.
                    let _ = Pin::new(&mut up.upstream.io).poll_shutdown(cx);
                    self.is_passed = true;
                }
                None if self.session.is_even() && self.said.is_empty() => {
                    return Flow::Next(Next::End(End::Well(self.closing)));
                }
                None => {}
            }
        }
        if has_moved { Flow::Moved } else { Flow::Rests }
    }

    /// Writes what is cleared. Returns whether there was something.
    fn poll_ask(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        let Some(up) = &mut self.up else { return Poll::Ready(Ok(false)) };
        let mut asked = false;
        while self.cleared > 0
            && let Some(buffer) = &mut self.asked
        {
            let io = &mut up.upstream.io;
            let written = ready!(Pin::new(io).poll_write(cx, &buffer.filled()[..self.cleared]))?;
            buffer.consume(written);
            self.cleared -= written;
            self.scanned -= written;
            self.relayed.bytes_in += written as u64;
            self.moved += written as u64;
            asked = true;
        }
        if self.asked.as_ref().is_some_and(Buffer::is_empty) {
            self.asked = None;
        }
        // What is not flushed now is flushed with the next read.
        if let Poll::Ready(flushed) = Pin::new(&mut up.upstream.io).poll_flush(cx) {
            flushed?;
        }
        Poll::Ready(Ok(asked))
    }

    /// Decides what becomes of what the client has said, as far as that can be told now. Returns whether something of it is gone.
    fn decide(&mut self, cx: &mut Context<'_>) -> Result<bool, Next> {
        let mut has_dropped = false;
        while self.closing.is_none() && !self.is_held() {
            if let Some(is_whole) = self.at_hand {
                match self.decide_one(cx, is_whole)? {
                    Decided::Sent => {}
                    Decided::Dropped => has_dropped = true,
                    Decided::Waits => return Ok(has_dropped),
                }
                continue;
            }
            let Some(buffer) = &mut self.asked else { break };
            if self.session.is_raw() {
                (self.cleared, self.scanned) = (buffer.len(), buffer.len());
                break;
            }
            let unseen = &buffer.filled()[self.scanned..];
            if unseen.is_empty() {
                break;
            }
            match self.commands.advance(unseen) {
                Ok((used, ended)) => {
                    self.scanned += used;
                    match self.through {
                        Through::No if ended => self.at_hand = Some(true),
                        Through::No if self.cleared == 0 => {
                            buffer.compact();
                            // It fills all that there is: the rest follows its beginning.
                            self.at_hand = (buffer.room() == 0).then_some(false);
                        }
                        Through::No => {}
                        Through::Sent => self.cleared = self.scanned,
                        Through::Dropped => {
                            buffer.consume(self.scanned);
                            self.scanned = 0;
                            has_dropped = true;
                        }
                    }
                    if self.through != Through::No && ended {
                        self.through = Through::No;
                    }
                }
                Err(malformed) => {
                    tracing::debug!(peer = %self.peer, %malformed, "a client of Redis says what is no RESP");
                    self.counts.malformed("client");
                    self.session.owe(protocol_error(malformed));
                    self.closing = Some(Cause::BadRequest);
                    buffer.truncate(self.cleared);
                    self.scanned = self.cleared;
                    has_dropped = true;
                }
            }
        }
        self.inside.close();
        Ok(has_dropped)
    }

    /// Whether no other command is looked at now. The rest of one that has begun adds nothing.
    fn is_held(&self) -> bool {
        self.through == Through::No && self.session.is_full()
    }

    /// Decides on what is at hand.
    fn decide_one(&mut self, cx: &mut Context<'_>, is_whole: bool) -> Result<Decided, Next> {
        let Some(buffer) = &self.asked else {
            self.at_hand = None;
            return Ok(Decided::Sent);
        };
        let bytes = self.scanned - self.cleared;
        let look =
            self.session.look(&Command { bytes: &buffer.filled()[self.cleared..self.scanned], is_whole });
        let Some(look) = look else { return Ok(self.drop_at_hand()) };
        match self.permit(cx, look.pins, bytes) {
            Poll::Ready(Ok(())) => {}
            // Where it was sent on to, somebody knows better: the state may be on its way back from there.
            Poll::Ready(Err(Cause::NotServing)) if self.sent.is_some() => {}
            Poll::Ready(Err(cause)) => return Ok(self.refuse(cause)),
            Poll::Pending => return Ok(Decided::Waits),
        }
        // One that stays stays with what it has.
        let stays = self.session.pin().is_some() && self.up.is_some();
        if !stays && !self.is_home() {
            return match self.is_movable() {
                true => Err(Next::Attach(self.sent.clone())),
                false => Ok(Decided::Waits),
            };
        }
        let Some(buffer) = &self.asked else { return Ok(Decided::Waits) };
        let command = Command { bytes: &buffer.filled()[self.cleared..self.scanned], is_whole };
        let number = self.session.sent(look, &command);
        self.inside.went(number);
        self.counts.command();
        self.cleared = self.scanned;
        self.at_hand = None;
        if !is_whole {
            self.through = Through::Sent;
        }
        Ok(Decided::Sent)
    }

    /// What is at hand is answered here, in its turn.
    pub(super) fn refuse(&mut self, cause: Cause) -> Decided {
        if self.cleared > 0 {
            return Decided::Waits;
        }
        tracing::debug!(peer = %self.peer, %cause, "a command of Redis is not executed");
        self.counts.refused();
        self.session.owe(refusal(cause));
        self.drop_at_hand()
    }

    fn drop_at_hand(&mut self) -> Decided {
        // What is before it goes first.
        if self.cleared > 0 {
            return Decided::Waits;
        }
        if let Some(buffer) = &mut self.asked {
            buffer.consume(self.scanned);
        }
        self.scanned = 0;
        if self.at_hand.take() == Some(false) {
            self.through = Through::Dropped;
        }
        Decided::Dropped
    }
}
