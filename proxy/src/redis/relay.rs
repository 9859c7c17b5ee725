//! A client's connection to Redis, and the servers' connections that take turns behind it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep};

use super::attach::{AttachError, Attached, attach};
use super::counts::{Counts, Reattachment};
use super::inside::Inside;
use super::resp::{Answers, Commands};
use super::session::Session;
use crate::balance::{Endpoint, Outcome};
use crate::buf::Buffer;
use crate::drain::{Kind, Phase, Ticket};
use crate::error::Cause;
use crate::io::Io;
use crate::mesh::Target;
use crate::tcp::{Opaque, Relayed, Upstream};
use crate::telemetry::Direction;
use crate::worker::Worker;

mod back;
mod there;

/// Carries a client's connection to its end, and accounts for it. `upstream`: a connection that is there already.
pub(crate) async fn serve(
    opaque: Opaque,
    target: Target,
    down: Io,
    upstream: Option<Upstream>,
    ticket: Ticket,
) {
    ticket.carries(Kind::Tcp);
    let idle = opaque.onward.idle_timeout();
    let mut relay = Relay::new(opaque.worker.clone(), target, opaque.peer, down, upstream);
    let shared = relay.worker.shared.clone();
    let mut timer = pin!(sleep(idle.unwrap_or_default()));
    let end = loop {
        let mut changed = pin!(shared.mesh.changed());
        let next = poll_fn(|cx| {
            while changed.as_mut().poll(cx).is_ready() {
                changed.set(shared.mesh.changed());
                relay.is_other_mesh = true;
            }
            let before = relay.moved;
            if let Poll::Ready(next) = relay.poll(cx, &ticket) {
                return Poll::Ready(next);
            }
            let Some(idle) = idle else { return Poll::Pending };
            if relay.moved != before {
                relay.since = Instant::now();
            }
            while timer.as_mut().poll(cx).is_ready() {
                let end = relay.since + idle;
                if Instant::now() >= end {
                    return Poll::Ready(Next::End(End::Cut(Cause::IdleTimeout)));
                }
                timer.as_mut().reset(end);
            }
            Poll::Pending
        })
        .await;
        match next {
            Next::Attach(sent) => {
                if let Some(end) = relay.attach(sent).await {
                    break end;
                }
            }
            Next::End(end) => break end,
        }
    };
    let (address, relayed) = relay.end(end);
    drop(ticket);
    opaque.account(address, relayed, std::time::Duration::ZERO, 0);
}

/// What is to be done that takes time, or the end.
enum Next {
    Attach(Option<Arc<Endpoint>>),
    End(End),
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By itself, or once the client was told why.
    Well(Option<Cause>),
    /// In the middle of something.
    Cut(Cause),
}

/// What a look at one way came to.
enum Flow {
    Rests,
    Moved,
    Next(Next),
}

/// What becomes of the rest of a command that is larger than a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    /// There is none.
    No,
    Sent,
    Dropped,
}

struct Relay {
    worker: Rc<Worker>,
    target: Target,
    /// Of the mesh in which the target was looked up last.
    generation: u64,
    is_other_mesh: bool,
    peer: SocketAddr,
    down: Io,
    up: Option<Attached>,
    /// There was a connection to a server before.
    was_attached: bool,
    /// The endpoint of the connection is one of those that there are.
    is_current: bool,
    session: Session,
    counts: Counts,
    inside: Inside,
    /// Where the last request was to go, if not where the port leads.
    sent: Option<Arc<Endpoint>>,

    commands: Commands,
    asked: Option<Buffer>,
    /// So much at the front of `asked` goes to the server; so much was looked at.
    cleared: usize,
    scanned: usize,
    /// Behind what is cleared there is a command to be decided on: a whole one, or the beginning of one.
    at_hand: Option<bool>,
    through: Through,
    /// The client says no more.
    is_said: bool,
    /// The server knows that.
    is_passed: bool,

    answers: Answers,
    came: Option<Buffer>,
    /// So much at the front of `came` goes to the client.
    passing: usize,
    /// Goes to the client between two answers.
    said: Vec<u8>,
    /// It ends once the client has heard everything.
    closing: Option<Cause>,
    relayed: Relayed,
    moved: u64,
    since: Instant,
}

impl Relay {
    fn new(
        worker: Rc<Worker>,
        target: Target,
        peer: SocketAddr,
        down: Io,
        upstream: Option<Upstream>,
    ) -> Self {
        let counts = Counts::of(target.destination.direction, &target.destination.port.key);
        let up = upstream.map(|upstream| Attached { upstream, sent: None, replayed: 0 });
        Relay {
            generation: worker.shared.mesh.generation(),
            worker,
            target,
            is_other_mesh: false,
            peer,
            down,
            was_attached: up.is_some(),
            up,
            is_current: true,
            session: Session::default(),
            counts,
            inside: Inside::default(),
            sent: None,
            commands: Commands::default(),
            asked: None,
            cleared: 0,
            scanned: 0,
            at_hand: None,
            through: Through::No,
            is_said: false,
            is_passed: false,
            answers: Answers::default(),
            came: None,
            passing: 0,
            said: Vec::new(),
            closing: None,
            relayed: Relayed::default(),
            moved: 0,
            since: Instant::now(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, ticket: &Ticket) -> Poll<Next> {
        ticket.watch(cx.waker());
        if ticket.phase() == Phase::Closed {
            return Poll::Ready(Next::End(End::Cut(Cause::Draining)));
        }
        if self.inside.is_cut(cx) {
            let (pin, name) = (self.session.pin().map(super::session::Pin::label), self.session.name());
            tracing::warn!(peer = %self.peer, name, pin, "a session with Redis that stays here is cut, so that the state can move");
            return Poll::Ready(Next::End(End::Cut(Cause::NotServing)));
        }
        self.refresh();
        loop {
            let mut has_moved = false;
            for flow in [Self::poll_back, Self::poll_there] {
                match flow(self, cx) {
                    Flow::Rests => {}
                    Flow::Moved => has_moved = true,
                    Flow::Next(next) => return Poll::Ready(next),
                }
            }
            self.settle();
            if !has_moved {
                break;
            }
        }
        self.rest(cx, ticket).map_or(Poll::Pending, Poll::Ready)
    }

    /// What follows from what was said and answered.
    fn settle(&mut self) {
        let pin = self.session.pin();
        if self.counts.pinned(pin)
            && let Some(pin) = pin
        {
            let (cause, name) = (pin.label(), self.session.name());
            tracing::debug!(peer = %self.peer, name, cause, "a session with Redis stays where it is");
        }
        if pin.is_none() && self.session.is_even() {
            self.inside.is_free();
        }
    }

    /// What there is to do while nothing moves.
    fn rest(&mut self, cx: &mut Context<'_>, ticket: &Ticket) -> Option<Next> {
        let is_heard = self.session.is_even() && self.said.is_empty() && self.passing == 0;
        if let Some(cause) = self.closing.filter(|_| is_heard) {
            return Some(Next::End(End::Well(Some(cause))));
        }
        if !is_heard || !self.is_movable() || self.at_hand.is_some() || self.is_said {
            return None;
        }
        let is_begun = !self.commands.is_between();
        // Whoever calls goes elsewhere, and its client need not know.
        if ticket.phase() >= Phase::Draining
            && self.target.destination.direction == Direction::Inbound
            && !is_begun
        {
            return Some(Next::End(End::Well(None)));
        }
        if self.session.subscriptions() == 0 {
            if !self.is_current {
                self.detach();
            }
            return None;
        }
        // Somebody listens, and says nothing by which it would be seen that the server is another one.
        if std::mem::take(&mut self.is_other_mesh) || self.inside.asks() {
            match self.permit(cx, false, 0) {
                Poll::Ready(allowed) => {
                    self.inside.close();
                    if allowed.is_err() {
                        return None;
                    }
                }
                Poll::Pending => return None,
            }
        }
        (!self.is_home()).then(|| Next::Attach(self.sent.clone()))
    }

    /// Goes on by the mesh of the moment.
    fn refresh(&mut self) {
        let shared = &self.worker.shared;
        if shared.mesh.generation() == self.generation {
            return;
        }
        let mesh = shared.mesh.load_full();
        self.generation = mesh.generation;
        self.target.refresh(&mesh);
        self.look_where();
    }

    fn look_where(&mut self) {
        self.is_current = self.target.pinned.is_some()
            || self.target.destination.direction == Direction::Inbound
            || self.up.as_ref().and_then(|up| up.upstream.endpoint()).is_none_or(|endpoint| {
                self.target.destination.tcp.endpoints().any(|known| known.id == endpoint.id)
            });
    }

    /// Whether the connection to a server is the one that there is to be.
    fn is_home(&self) -> bool {
        let Some(up) = &self.up else { return false };
        let id = |endpoint: &Option<Arc<Endpoint>>| endpoint.as_ref().map(|endpoint| endpoint.id);
        id(&up.sent) == id(&self.sent) && self.is_current
    }

    /// Whether another connection to a server could take the place of this one.
    fn is_movable(&self) -> bool {
        self.session.is_even()
            && self.session.pin().is_none()
            && self.through == Through::No
            && self.cleared == 0
            && self.answers.is_between()
            && self.came.as_ref().is_none_or(Buffer::is_empty)
    }

    /// Whether the client may ask at this place. Pending: it is not known yet.
    fn permit(&mut self, cx: &mut Context<'_>, pins: bool, bytes: usize) -> Poll<Result<(), Cause>> {
        if self.inside.covers(pins) {
            return Poll::Ready(Ok(()));
        }
        let Some(gate) = self.target.destination.gate() else { return Poll::Ready(Ok(())) };
        let allowed = self.inside.ask(cx, gate, &self.worker.shared, self.peer, pins, bytes);
        allowed.map_ok(|to| self.sent = to)
    }

    /// The server's connection is not needed any more.
    fn detach(&mut self) {
        let Some(Attached { mut upstream, .. }) = self.up.take() else { return };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut upstream.io).poll_shutdown(&mut cx);
        upstream.finish(Outcome::Answered);
    }

    /// Has the session go on over another connection. Returns the end, if there is none.
    async fn attach(&mut self, sent: Option<Arc<Endpoint>>) -> Option<End> {
        self.detach();
        let was_attached = std::mem::replace(&mut self.was_attached, true);
        let attached =
            attach(&self.worker, &mut self.target, sent, self.peer, &self.session, &mut self.said).await;
        if was_attached {
            let (outcome, replayed) = match &attached {
                Ok(attached) => (Reattachment::Done, attached.replayed),
                Err(AttachError::Refused) => (Reattachment::Refused, 0),
                Err(_) => (Reattachment::Unreached, 0),
            };
            self.counts.reattached(outcome, replayed);
        }
        match attached {
            Ok(attached) => {
                tracing::debug!(
                    peer = %self.peer, server = %attached.upstream.address, replayed = attached.replayed, was_attached,
                    "a session with Redis goes on here"
                );
                self.up = Some(attached);
                self.look_where();
                None
            }
            Err(error) => {
                tracing::warn!(peer = %self.peer, %error, "a session with Redis has nowhere to go on");
                if self.at_hand.is_none() {
                    return Some(End::Well(Some(error.cause())));
                }
                self.refuse(error.cause());
                if !matches!(error, AttachError::Unreached(_)) || self.session.subscriptions() > 0 {
                    self.closing = Some(error.cause());
                }
                None
            }
        }
    }

    /// Ends it. Returns what is to be accounted for.
    fn end(mut self, end: End) -> (Option<SocketAddr>, Relayed) {
        let address = self.up.as_ref().map(|up| up.upstream.address);
        self.relayed.cause = match end {
            End::Well(cause) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let _ = Pin::new(&mut self.down).poll_shutdown(&mut cx);
                cause
            }
            End::Cut(cause) => {
                self.down.reset_on_close();
                if let Some(up) = &self.up {
                    up.upstream.io.reset_on_close();
                }
                Some(cause)
            }
        };
        self.detach();
        (address, self.relayed)
    }
}

/// Reads behind what is there; a connection at rest takes no buffer.
fn poll_read(io: &mut Io, into: &mut Option<Buffer>, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
    if into.is_none()
        && io.early.is_empty()
        && let Some(plain) = io.stream.plain()
    {
        std::task::ready!(plain.poll_read_ready(cx))?;
    }
    let buffer = into.get_or_insert_with(Buffer::take);
    let read = buffer.poll_read(io, cx);
    if buffer.is_empty() {
        *into = None;
    }
    read
}
