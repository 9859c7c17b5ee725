//! One connection from a client, and the exchanges on it, one after the other.
//!
//! One task owns the client's socket and that of the exchange at hand. A connection that rests holds no buffer and no
//! connection to an endpoint.

mod answer;
mod exchange;
mod flow;
mod request;
mod seat;
mod tries;
mod wire;

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use lighter_filters::LocalAnswer;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use self::seat::Seat;
use self::wire::{Expired, Outbox, Timer, is_silent, poll_fill};
use crate::buf::Buffer;
use crate::drain::{Kind, Phase, Ticket};
use crate::error::Cause;
use crate::guard::client::{self, Slow};
use crate::http::{Context, HEAD_TIMEOUT, LINGER, REST, Scope, Vouched, linger};
use crate::io::Io;
use crate::link;
use crate::link::frame::Code;
use crate::mesh::Target;
use crate::retry::Came;
use crate::tcp::{self, Talk};
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
    /// Whether the task went to sleep for want of a request.
    slept: bool,
    /// Where requests go, and the generation of the mesh in which that was found.
    target: Option<Target>,
    seen: Option<u64>,
    /// What was read and not used up: from the head of the exchange at hand on.
    input: Option<Buffer>,
    /// So much of the input was found to be no whole head.
    scanned: usize,
    /// When a head that has begun has to be whole.
    head_end: Option<Instant>,
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
    /// A filter has it wait, and then answers it or lets it go on.
    Delay(Option<LocalAnswer>),
}

/// Why an exchange did not end well.
#[derive(Clone, Copy, Debug)]
struct Fault {
    cause: Cause,
    detail: &'static str,
    /// What came of the try, where that can call for another one.
    came: Option<Came>,
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
        Fault { cause, detail, came: None }
    }

    /// The other side of a link has refused the request: it was not executed.
    fn refused(error: &std::io::Error) -> Option<Self> {
        let cut = link::stream::cut_in(error).filter(|cut| cut.code == Code::Refused)?;
        let cause = cut.cause.unwrap_or(Cause::UpstreamReset);
        let detail = "the sidecar of the endpoint refused the request";
        Some(Fault::new(cause, detail).after(Came::Unread))
    }

    /// Whether it was refused so as the state of the Service has left where it went.
    fn has_moved(&self) -> bool {
        self.cause == Cause::Moved && self.came == Some(Came::Unread)
    }

    /// The same, and what came of the try.
    const fn after(self, came: Came) -> Self {
        Fault { came: Some(came), ..self }
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
            slept: false,
            target,
            seen: None,
            input: None,
            scanned: 0,
            head_end: None,
            out: Outbox::default(),
            vouched,
            caller: context.caller_text,
            timer: Timer::default(),
            progress: 0,
            exchange: Seat::empty(),
        }
    }

    async fn run(&mut self) {
        self.ticket.carries(Kind::Http1);
        // Before anything else: what came with the connection may keep it from ever resting.
        poll_fn(|cx| {
            self.ticket.watch(cx.waker());
            Poll::Ready(())
        })
        .await;
        loop {
            let mut next = poll_fn(|cx| self.poll_next(cx)).await;
            let after = loop {
                break match next {
                    Next::Close => return,
                    Next::Exchange => {
                        let result = self.exchange().await;
                        self.settle(result)
                    }
                    Next::Refuse(fault) => self.settle(Err(fault)),
                    Next::Answer(answer) => self.answer_locally(&answer),
                    Next::Delay(answer) => {
                        next = Box::pin(self.delayed(answer)).await;
                        continue;
                    }
                };
            };
            self.slept = false;
            match after {
                After::Next => self.leave(),
                After::Close => return Box::pin(self.close()).await,
                After::Linger => return Box::pin(self.linger()).await,
                After::Reset => return self.down.reset_on_close(),
                After::Tunnel => return Box::pin(self.tunnel()).await,
            }
        }
    }

    /// The exchange has ended. What it moved counts for good: progress never stands again where it stood.
    fn leave(&mut self) {
        let moved = self.exchange.upload.moved.wrapping_add(self.exchange.download.moved);
        self.progress = self.progress.wrapping_add(moved).wrapping_add(1);
        self.head_end = None;
        self.exchange.leave();
    }

    /// Holds a request, and says what to do then.
    async fn delayed(&mut self, answer: Option<LocalAnswer>) -> Next {
        match (self.hold().await, answer) {
            (Ok(()), None) => Next::Exchange,
            (Ok(()), Some(answer)) => Next::Answer(answer),
            (Err(fault), _) => Next::Refuse(fault),
        }
    }

    /// Waits for the next request.
    fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Next> {
        match self.out.poll_flush(&mut self.down.stream, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Next::Close),
            Poll::Pending => return self.poll_reader(cx),
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
            // Whoever asks now is told with its answer. To close meanwhile would cross what it is about to ask.
            Phase::Serving | Phase::Lame => self.ticket.is_let_go(|| resting && !self.down.has_arrived()),
            // What asked before it could know is served.
            Phase::Draining => resting && !self.down.has_arrived(),
            Phase::Closed => true,
        };
        if leaves {
            return Poll::Ready(Next::Close);
        }
        if !resting {
            let patience = self.worker.shared.config.guard.head_timeout;
            let end = *self.head_end.get_or_insert_with(|| Instant::now() + patience);
            if self.timer.is_over(cx, Some(end), None, self.progress) {
                Slow::Head.count();
                return Poll::Ready(self.refuse(Cause::ClientTimeout, Slow::Head.detail()));
            }
            return Poll::Pending;
        }
        let idle = match &self.target {
            Some(target) => target.destination.policy().idle_timeout,
            None => Some(REST),
        };
        match self.timer.is_over(cx, None, idle, self.progress) {
            true => Poll::Ready(Next::Close),
            false => Poll::Pending,
        }
    }

    /// The client has an answer that it does not take.
    #[cold]
    fn poll_reader(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Next> {
        self.ticket.watch(cx.waker());
        let guard = &self.worker.shared.config.guard;
        let taken = self.progress.wrapping_add(self.out.taken());
        let slow = match self.timer.poll(cx, None, Some(guard.client_timeout), taken) {
            None | Some(Expired::Deadline) => false,
            Some(Expired::Idle) => true,
            Some(Expired::Moved(moved)) => client::is_too_little(guard, moved, guard.client_timeout),
        };
        if slow {
            Slow::Answer.count();
            self.out.clear();
            self.down.reset_on_close();
        }
        match slow || self.ticket.phase() == Phase::Closed {
            true => Poll::Ready(Next::Close),
            false => Poll::Pending,
        }
    }

    fn poll_flush(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        // First what can be had at once: past the deadline too a client is told why it gets no answer.
        if self.out.poll_flush(&mut self.down.stream, cx).is_ready()
            || self.ticket.phase() == Phase::Closed
            || self.timer.is_over(cx, None, Some(HEAD_TIMEOUT), self.progress)
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
        self.ticket.carries(Kind::Upgraded);
        let talk = if self.exchange.websocket { Talk::WebSocket } else { Talk::Opaque };
        let kept = self.exchange.kept.take();
        let mut cut = kept.as_deref().map(|kept| Box::pin(kept.cut()));
        let is_cut = |cx: &mut std::task::Context<'_>| {
            cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready())
        };
        let relayed = tcp::relay(talk, &mut self.down, &mut up.io, idle, &self.ticket, is_cut).await;
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
