//! One body on its way from one socket to another.
//!
//! Bytes are held in at most one place at a time, and nothing is read before what was read is written: a slow reader
//! slows its writer down.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::AsyncWrite;

use super::wire::{Outbox, poll_fill};
use crate::buf::Buffer;
use crate::error::Cause;
use crate::http::BODY_TOO_LARGE;
use crate::http::h1::body::{Body, Framing};
use crate::http::h1::edit::Slices;
use crate::http::h1::head::Refusal;
use crate::io::{Io, Stream};
use crate::link::exchange::Exchange;
use crate::link::send::LENT;
use crate::mirror::{self, Copy};
use crate::retry::REPLAY;
use crate::tcp::{PIPE_BYTES, Pipe};

/// A run of content goes through a pipe from this size on. Below, the four system calls of a pipe cost more than the
/// two copies they save.
const SPLICE_FROM: u64 = 512 * 1024;

/// One body on its way.
pub(super) struct Flow {
    /// Where it stands.
    pub(super) body: Body,
    /// What was read and not yet written; after the end of the body, what came behind it.
    pub(super) buffer: Option<Buffer>,
    /// Bytes that were written, framing included.
    pub(super) moved: u64,
    /// Most of them. It is broken if there are more.
    pub(super) most: u64,
    /// What was written, if it may have to be written again and is all here. Then nothing is passed on unseen.
    pub(super) kept: Option<Vec<u8>>,
    /// A copy that is made of it. Then nothing is passed on unseen, either.
    pub(super) copy: Option<Box<Copy>>,
    /// Front of the buffer: may be written, and behind it what is left out.
    ready: usize,
    pub(super) omit: usize,
    decode: bool,
    /// What a link is about to take without copying it.
    lent: Bytes,
    pipe: Option<Box<Pipe>>,
    unspliced: bool,
}

/// What broke a body.
#[derive(Debug)]
pub(super) enum Broken {
    /// Where it comes from was cut.
    Source,
    /// Where it comes from ended too early.
    Truncated,
    /// Where it goes failed.
    Sink,
    /// It is not framed as it must be.
    Framing(Refusal),
}

impl Flow {
    /// A body that has ended.
    pub(super) const fn none() -> Self {
        Flow {
            body: Body::Done,
            buffer: None,
            moved: 0,
            most: u64::MAX,
            kept: None,
            copy: None,
            ready: 0,
            omit: 0,
            decode: false,
            lent: Bytes::new(),
            pipe: None,
            unspliced: false,
        }
    }

    /// Lets go of what is left of a body.
    pub(super) fn let_go(&mut self) {
        self.body = Body::Done;
        self.buffer = None;
        self.pipe = None;
        self.lent = Bytes::new();
        self.kept = None;
        self.copy = None;
        (self.ready, self.omit, self.moved) = (0, 0, 0);
    }

    /// From here on, what is written is kept, unless it is known to be too much.
    pub(super) fn keep(&mut self) {
        self.kept = (self.body.run() <= REPLAY as u64).then(Vec::new);
    }

    /// Whether somebody has to see what is passed on.
    fn is_seen(&self) -> bool {
        self.kept.is_some() || self.copy.is_some()
    }

    /// Begins a body. `decode`: passes the content on without its framing. Keeps the buffer with what is in it.
    pub(super) fn begin(&mut self, framing: Framing, decode: bool) {
        self.body = Body::new(framing);
        self.decode = decode;
        self.moved = 0;
        self.most = u64::MAX;
        self.unspliced = false;
    }

    /// Moves what can be moved. Ready when the body has ended and everything is written.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        out: &mut Outbox,
    ) -> Poll<Result<(), Broken>> {
        if let Stream::Link(exchange) = &mut from.stream
            && from.early.is_empty()
        {
            while self.passes() && ready!(self.poll_pass(cx, exchange, &mut to.stream, out))? {}
        }
        ready!(out.poll_flush(&mut to.stream, cx)).map_err(|_| Broken::Sink)?;
        let mut wants_more = false;
        loop {
            if !self.lent.is_empty() {
                ready!(self.poll_lent(cx, to))?;
                continue;
            }
            if self.pipe.is_some() {
                ready!(self.poll_splice(cx, from, to))?;
                continue;
            }
            if self.ready > 0 {
                ready!(self.poll_write(cx, to))?;
                continue;
            }
            if let Some(buffer) = &mut self.buffer {
                buffer.consume(std::mem::take(&mut self.omit));
                if buffer.is_empty() {
                    self.buffer = None;
                }
            }
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            if let Some(buffer) = &mut self.buffer
                && !wants_more
            {
                if self.decode {
                    let seen = self.body.decode(buffer.filled(), out.queue()).map_err(Broken::Framing)?;
                    self.moved += out.queue().len() as u64;
                    buffer.consume(seen);
                    wants_more = !buffer.is_empty();
                    ready!(out.poll_flush(&mut to.stream, cx)).map_err(|_| Broken::Sink)?;
                } else {
                    let pass = self.body.pass(buffer.filled()).map_err(Broken::Framing)?;
                    if self.moved + pass.pass as u64 > self.most {
                        let refusal = Refusal { cause: Cause::BodyTooLarge, detail: BODY_TOO_LARGE };
                        return Poll::Ready(Err(Broken::Framing(refusal)));
                    }
                    mirror::add(&mut self.copy, &buffer.filled()[..pass.pass]);
                    (self.ready, self.omit) = (pass.pass, pass.omit);
                    wants_more = pass.pass + pass.omit == 0;
                }
                continue;
            }
            if self.buffer.is_none() && self.splices(from, to) {
                match Pipe::take() {
                    Ok(pipe) => self.pipe = Some(Box::new(pipe)),
                    Err(_) => self.unspliced = true,
                }
                continue;
            }
            let read = ready!(poll_fill(&mut self.buffer, from, cx)).map_err(|_| Broken::Source)?;
            wants_more = false;
            if read == 0 {
                self.end()?;
            }
        }
    }

    /// Whether there is something that its receiver has not taken.
    pub(super) fn has_more(&self) -> bool {
        self.ready > 0 || !self.lent.is_empty() || self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    /// Whether its sender owes content whose length it has said.
    pub(super) fn is_owed(&self) -> bool {
        matches!(self.body, Body::Length(_)) && !self.has_more()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<Result<(), Broken>> {
        let Some(buffer) = &mut self.buffer else { return Poll::Ready(Err(Broken::Sink)) };
        let lends = matches!(to.stream, Stream::Link(_)) && self.kept.is_none();
        if lends && self.ready >= LENT && self.ready == buffer.len() {
            self.ready = 0;
            self.lent = self.buffer.take().map_or(Bytes::new(), Buffer::share);
            return Poll::Ready(Ok(()));
        }
        let front = &buffer.filled()[..self.ready];
        match ready!(Pin::new(&mut to.stream).poll_write(cx, front)) {
            Ok(written) if written > 0 => {
                if let Some(kept) = &mut self.kept {
                    kept.extend_from_slice(&front[..written]);
                    if kept.len() > REPLAY {
                        self.kept = None;
                    }
                }
                buffer.consume(written);
                self.ready -= written;
                self.moved += written as u64;
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Err(Broken::Sink)),
        }
    }

    fn poll_lent(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<Result<(), Broken>> {
        let Stream::Link(exchange) = &mut to.stream else { return Poll::Ready(Err(Broken::Sink)) };
        let taken = ready!(exchange.poll_lend(&mut self.lent, cx)).map_err(|_| Broken::Sink)?;
        self.moved += taken as u64;
        if self.lent.is_empty() {
            // Nothing of the buffer is held any longer than it has to be.
            self.lent = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether content that comes over a link can be written from where it is.
    fn passes(&self) -> bool {
        self.buffer.is_none() && !self.decode && !self.is_seen() && matches!(self.body, Body::Length(_))
    }

    /// Writes content of a link, behind what is kept in `out`. False: what comes next is to be read.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Exchange,
        to: &mut Stream,
        out: &mut Outbox,
    ) -> Poll<Result<bool, Broken>> {
        let Poll::Ready(comes) = from.poll_content(cx) else {
            ready!(out.poll_flush(to, cx)).map_err(|_| Broken::Sink)?;
            return Poll::Pending;
        };
        if !comes.map_err(|_| Broken::Source)? {
            return Poll::Ready(Ok(false));
        }
        let mut slices = Slices::new();
        if !out.is_empty() {
            slices.push(IoSlice::new(out.front()));
        }
        let most = usize::try_from(self.body.run()).unwrap_or(usize::MAX);
        from.content(most, &mut slices);
        let written = ready!(to.poll_send(&slices, cx)).map_err(|_| Broken::Sink)?;
        drop(slices);
        if written == 0 {
            return Poll::Ready(Err(Broken::Sink));
        }
        let passed = out.advance(written);
        from.passed(passed);
        self.body.skip(passed as u64);
        self.moved += passed as u64;
        Poll::Ready(Ok(true))
    }

    fn splices(&self, from: &Io, to: &Io) -> bool {
        let run = match self.body {
            // How much is to come is not known: what came tells.
            Body::UntilClose => self.moved,
            _ => self.body.run(),
        };
        run >= SPLICE_FROM
            && !self.decode
            && !self.unspliced
            && !self.is_seen()
            && from.early.is_empty()
            && is_plain(from)
            && is_plain(to)
    }

    /// Empties the pipe, fills it again, and gives it back at the end of the run.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<Result<(), Broken>> {
        let (Some(pipe), Some(from), Some(to)) = (&mut self.pipe, from.stream.plain(), to.stream.plain())
        else {
            return Poll::Ready(Ok(()));
        };
        ready!(pipe.poll_drain(cx, to)).map_err(|_| Broken::Sink)?;
        let most = usize::try_from(self.body.run()).unwrap_or(usize::MAX).min(PIPE_BYTES);
        if most == 0 || self.unspliced {
            self.pipe = None;
            return Poll::Ready(Ok(()));
        }
        match ready!(pipe.poll_fill(cx, from, most)) {
            Ok(0) => {
                self.pipe = None;
                self.end()?;
            }
            Ok(moved) => {
                self.moved += moved as u64;
                self.body.skip(moved as u64);
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                self.pipe = None;
                self.unspliced = true;
            }
            Err(_) => return Poll::Ready(Err(Broken::Source)),
        }
        Poll::Ready(Ok(()))
    }

    /// The source has ended.
    fn end(&mut self) -> Result<(), Broken> {
        if self.body.ends_with_connection() {
            self.body = Body::Done;
            Ok(())
        } else {
            Err(Broken::Truncated)
        }
    }
}

fn is_plain(io: &Io) -> bool {
    io.stream.plain().is_some()
}
