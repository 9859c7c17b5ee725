//! One connection from a client, and the exchanges on it, one after the other.
//!
//! One task owns the client's socket and that of the exchange at hand. A connection that rests holds no buffer and no
//! connection to an endpoint.

mod answer;
mod exchange;
mod flow;
mod request;
mod seat;
mod wire;

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::Bytes;
use lighter_filters::LocalAnswer;
use tokio::io::AsyncWrite;

use self::seat::Seat;
use self::wire::{Outbox, Timer, is_silent, poll_fill};
use crate::buf::Buffer;
use crate::drain::{Phase, Ticket};
use crate::error::Cause;
use crate::http::{Context, HEAD_TIMEOUT, LINGER, REST, Scope, Vouched, linger};
use crate::io::Io;
use crate::link;
use crate::link::frame::Code;
use crate::mesh::Target;
use crate::telemetry::Direction;
use crate::worker::Worker;

/// Serves one HTTP/1 connection until it ends.
pub fn serve(io: Io, context: Context) -> impl Future<Output = ()> {
    let mut connection = Connection::new(io, context);
    // Not `run(self)`: a future keeps an argument beside the variable that it becomes.
    async move { connection.run().await }
}

/// A client's connection.
struct Connection {
    down: Io,
    worker: Rc<Worker>,
    ticket: Ticket,
    peer: std::net::SocketAddr,
    direction: Direction,
    /// Each request names its own target.
    by_authority: bool,
    /// Whether an exchange was served already.
    served: bool,
    /// Whether the task went to sleep for want of a request.
    slept: bool,
    /// Where requests go, and the generation of the mesh in which that was found.
    target: Option<Target>,
    seen: Option<u64>,
    /// What was read and not used up: from the head of the exchange at hand on.
    input: Option<Buffer>,
    /// So much of the input was found to be no whole head.
    scanned: usize,
    /// What the client has not taken yet.
    out: Outbox,
    /// Who called, as far as it is this sidecar's to say: see [`crate::http::Context::vouched`].
    vouched: Vouched,
    /// The caller's address for `X-Forwarded-For`, once it was needed.
    caller: Option<Rc<[u8]>>,
    timer: Timer,
    /// Changes whenever something moves.
    progress: u64,
    exchange: Seat,
}

/// What to do next.
enum Next {
    /// The connection has ended.
    Close,
    /// A request is there, and an endpoint is picked.
    Exchange,
    /// A request that gets no further.
    Refuse(Fault),
    /// A filter answers it.
    Answer(LocalAnswer),
}

/// Why an exchange did not end well.
#[derive(Clone, Copy, Debug)]
struct Fault {
    cause: Cause,
    detail: &'static str,
    /// The endpoint never read the request.
    safe: bool,
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The next request.
    Next,
    /// It ends.
    Close,
    /// It ends, but the client may be sending still.
    Linger,
    /// It is cut.
    Reset,
    /// It is not HTTP any more.
    Tunnel,
}

impl Fault {
    const fn new(cause: Cause, detail: &'static str) -> Self {
        Fault { cause, detail, safe: false }
    }

    /// The other side of a link has refused the request: it was not executed.
    fn refused(error: &std::io::Error) -> Option<Self> {
        let cut = link::stream::cut_in(error).filter(|cut| cut.code == Code::Refused)?;
        let cause = cut.cause.unwrap_or(Cause::UpstreamReset);
        Some(Fault { cause, detail: "the sidecar of the endpoint refused the request", safe: true })
    }
}

impl Connection {
    fn new(io: Io, context: Context) -> Self {
        let vouched = context.vouched();
        let (target, by_authority) = match context.scope {
            Scope::Fixed(target) => (Some(target), false),
            Scope::Authority => (None, true),
        };
        Connection {
            down: io,
            worker: context.worker,
            ticket: context.ticket,
            peer: context.peer,
            direction: context.direction,
            by_authority,
            served: false,
            slept: false,
            target,
            seen: None,
            input: None,
            scanned: 0,
            out: Outbox::default(),
            vouched,
            caller: context.caller_text,
            timer: Timer::default(),
            progress: 0,
            exchange: Seat::empty(),
        }
    }

    async fn run(&mut self) {
        // Before anything else: what came with the connection may keep it from ever resting.
        poll_fn(|cx| {
            self.ticket.watch(cx.waker());
            Poll::Ready(())
        })
        .await;
        loop {
            let after = match poll_fn(|cx| self.poll_next(cx)).await {
                Next::Close => return,
                Next::Exchange => {
                    let result = self.exchange().await;
                    self.settle(result)
                }
                Next::Refuse(fault) => self.settle(Err(fault)),
                Next::Answer(answer) => self.answer_locally(&answer),
            };
            self.served = true;
            self.slept = false;
            match after {
                After::Next => self.exchange.leave(),
                After::Close => return Box::pin(self.close()).await,
                After::Linger => return Box::pin(self.linger()).await,
                After::Reset => return self.down.reset_on_close(),
                After::Tunnel => return Box::pin(self.tunnel()).await,
            }
        }
    }

    /// Waits for the next request.
    fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Next> {
        if ready!(self.out.poll_flush(&mut self.down.stream, cx)).is_err() {
            return Poll::Ready(Next::Close);
        }
        loop {
            if let Some(next) = self.begin(cx) {
                return Poll::Ready(next);
            }
            // Right behind an exchange, most clients have not sent the next request yet.
            if !std::mem::replace(&mut self.slept, true) && is_silent(&self.down, cx) {
                break;
            }
            match poll_fill(&mut self.input, &mut self.down, cx) {
                Poll::Ready(Ok(read)) if read > 0 => self.progress += 1,
                Poll::Ready(_) => return Poll::Ready(Next::Close),
                Poll::Pending => break,
            }
        }
        self.ticket.watch(cx.waker());
        let resting = self.input.is_none();
        let leaves = match self.ticket.phase() {
            Phase::Serving => false,
            // What asked before it could know is served.
            Phase::Lame => resting && self.served && !self.down.has_arrived(),
            Phase::Draining => resting && !self.down.has_arrived(),
            Phase::Closed => true,
        };
        let idle = match (&self.target, resting) {
            (_, false) => Some(HEAD_TIMEOUT),
            (Some(target), true) => target.destination.policy().idle_timeout,
            (None, true) => Some(REST),
        };
        if leaves || self.timer.poll(cx, None, idle, self.progress).is_some() {
            return Poll::Ready(Next::Close);
        }
        Poll::Pending
    }

    fn poll_flush(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        // First what can be had at once: past the deadline too a client is told why it gets no answer.
        if self.out.poll_flush(&mut self.down.stream, cx).is_ready()
            || self.ticket.phase() == Phase::Closed
            || self.timer.poll(cx, None, Some(HEAD_TIMEOUT), self.progress).is_some()
        {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Ends the connection. Within TLS that has to be said, or it is a cut to the other side.
    async fn close(&mut self) {
        poll_fn(|cx| self.poll_flush(cx)).await;
        if self.down.stream.plain().is_none() {
            let end = poll_fn(|cx| Pin::new(&mut self.down.stream).poll_shutdown(cx));
            let _ = tokio::time::timeout(LINGER.0, end).await;
        }
    }

    /// Says that nothing more comes, and listens for a while.
    async fn linger(&mut self) {
        poll_fn(|cx| self.poll_flush(cx)).await;
        self.input = None;
        linger(&mut self.down).await;
    }

    /// Both sides agreed on another protocol.
    async fn tunnel(&mut self) {
        poll_fn(|cx| self.poll_flush(cx)).await;
        let Some(mut up) = self.exchange.up.take() else { return };
        let ahead = |buffer: Option<Buffer>| {
            buffer.map_or(Bytes::new(), |buffer| Bytes::copy_from_slice(buffer.filled()))
        };
        if let Some(input) = &mut self.input {
            input.consume(self.exchange.head_len as usize + self.exchange.early as usize);
        }
        let early = ahead(self.input.take());
        let early = if early.is_empty() { ahead(self.exchange.upload.buffer.take()) } else { early };
        if !early.is_empty() {
            self.down.early = [early, std::mem::take(&mut self.down.early)].concat().into();
        }
        up.io.early = ahead(self.exchange.download.buffer.take());
        let idle = self.target.as_ref().and_then(|target| target.destination.policy().idle_timeout);
        let relayed = crate::tcp::relay(&mut self.down, &mut up.io, idle, &self.ticket).await;
        self.exchange.upload.moved += relayed.bytes_in;
        self.exchange.download.moved += relayed.bytes_out;
        self.account(relayed.cause, self.exchange.began.elapsed());
    }

    /// Writes `slices` to the client.
    fn send_down(&mut self, slices: &[IoSlice<'_>], cx: &mut std::task::Context<'_>) -> Result<(), Fault> {
        self.out
            .send(slices, &mut self.down.stream, cx)
            .map_err(|_| Fault::new(Cause::DownstreamAborted, "the client went away"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F: Future>(_: impl Fn(Io, Context) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_rests_is_small() {
        // What a task holds beside its sockets; ten thousand of them rest beside each other.
        assert!(size(serve) <= 640, "{}", size(serve));
    }
}
