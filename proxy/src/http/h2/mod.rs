//! HTTP/2: relay between connections with real backpressure, by a codec of our own.
//!
//! [`conn`] is one connection without a socket, [`wire`] puts it on one. A downstream connection is one task; so is each
//! of its streams, and each connection to an endpoint. All of them are on the worker's own thread. What a peer can make grow has a limit: streams, windows, what waits to be sent,
//! heads, resets.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod call;
pub mod conn;
pub(crate) mod deadline;
pub(crate) mod exchange;
pub mod fields;
pub mod frame;
pub(crate) mod head;
pub mod hpack;
pub(crate) mod limits;
mod patience;
pub(crate) mod pieces;
pub(crate) mod pool;
pub(crate) mod retry;
pub(crate) mod upstream;
pub(crate) mod way;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use http::uri::Authority;
use lighter_config::identity::Spiffe;
use lighter_config::name::ServicePort;
use lighter_config::snapshot::Protocol;

use self::conn::{Connection, Fault, Limits, Side};
use self::deadline::{Deadline, Deadlines};
use self::exchange::Arrived;
use self::fields::RequestHead;
use self::frame::Code;
use self::patience::Patience;
pub use self::pool::Pool;
use self::wire::Wire;
use super::stream::Stream;
use super::{Context, Scope, Vouched, hop, linger};
use crate::drain::{Kind, Phase};
use crate::error::Cause;
use crate::io::Io;
use crate::mesh::{Destination, Mesh, Target};
use crate::stateful::gate;

/// What one stream may send before it is read on: all that a stalled stream can make this process hold.
const STREAM_WINDOW: u32 = 64 * 1024;

/// What a caller's streams may send together. Only the caller itself suffers when it is used up.
const CALLER_WINDOW: u32 = 16 * 1024 * 1024;

/// Streams of a caller at once.
const MAX_STREAMS: u32 = 1024;

/// A caller's connection, as its streams see it.
pub(crate) struct Downstream {
    pub(crate) context: Context,
    /// Where requests go, and the mesh in which that was found; not used where each request names its own target.
    known: RefCell<Option<(Option<u64>, Target)>>,
    pub(crate) deadlines: Rc<Deadlines>,
    /// The caller's address for `x-forwarded-for`.
    peer: Box<str>,
    vouched: Vouched,
}

/// Serves one HTTP/2 connection (prior knowledge) until it ends.
pub async fn serve(io: Io, context: Context) {
    let limits = Limits {
        streams: MAX_STREAMS,
        stream_window: STREAM_WINDOW,
        window: CALLER_WINDOW,
        head_list: context.worker.shared.config.max_head_bytes.min(u32::MAX as usize) as u32,
        ..Limits::default()
    };
    context.ticket.carries(Kind::Http2);
    let mut io = io;
    let wire = Wire::new(Side::Server, limits);
    let downstream = Rc::new(Downstream::new(context, Rc::default()));
    let mut timer = None;
    let mut patience = Patience::default();
    let mut rest = Rest { limit: downstream.rest(), end: None, used: false };
    let ended = poll_fn(|cx| {
        downstream.context.ticket.watch(cx.waker());
        match downstream.context.ticket.phase() {
            Phase::Serving => {}
            Phase::Lame | Phase::Draining if downstream.context.ticket.tells_of_drain() => {
                wire.leave_for_good()
            }
            Phase::Lame | Phase::Draining => wire.leave(),
            Phase::Closed => wire.close(),
        }
        if rest.is_over(&downstream, cx) {
            if wire.ask(Connection::is_leaving) {
                // Told to go, and asked for nothing since: nobody is there.
                return Poll::Ready(None);
            }
            wire.leave();
        }
        // Every open stream has its share of this.
        let rests = || Rc::strong_count(&downstream) == 1 && !wire.ask(Connection::is_leaving);
        if downstream.context.ticket.is_let_go(rests) {
            wire.leave();
        }
        let mut ended = wire.poll(&mut io, cx);
        while let Some((stream, head)) = wire.accept() {
            rest.used = true;
            // Boxed: the runtime moves a task about several times before and after it runs.
            let arrived = Arrived { head, stream: Stream::Http2(stream), left: None };
            tokio::task::spawn_local(Box::pin(exchange::serve(downstream.clone(), arrived)));
        }
        let worker = &downstream.context.worker;
        if ended.is_pending() && patience.is_over(worker, &wire, &downstream.deadlines, cx) {
            io.reset_on_close();
            wire.close();
            ended = Poll::Ready(None);
        }
        downstream.deadlines.poll(&mut timer, cx);
        ended
    })
    .await;
    if let Some(fault) = ended {
        count_fault("caller", fault, &downstream.context.peer);
        // It is to read why.
        linger(&mut io).await;
    }
}

/// Counts a connection that this side gave up for what the peer did. `end`: which one the peer is at.
fn count_fault(end: &'static str, fault: Fault, peer: &dyn std::fmt::Display) {
    if fault.code == Code::NO_ERROR {
        return;
    }
    static DESCRIBED: Once = Once::new();
    DESCRIBED.call_once(|| {
        metrics::describe_counter!(
            "lighter_http2_faults_total",
            "HTTP/2 connections that were given up for what the peer did, by the end at which it is, and by what it was told."
        );
    });
    metrics::counter!("lighter_http2_faults_total", "peer" => end, "code" => fault.code.label()).increment(1);
    tracing::debug!(code = fault.code.label(), detail = fault.detail, %peer, "an HTTP/2 connection was given up");
}

/// Finds out that a caller has asked for nothing for as long as its connection may rest.
struct Rest {
    limit: Option<Duration>,
    end: Option<Deadline>,
    /// Whether a stream was open since the time was set.
    used: bool,
}

impl Rest {
    /// Whether the connection has rested long enough; found between once and twice that time after its last stream.
    fn is_over(&mut self, downstream: &Rc<Downstream>, cx: &mut Task<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        let until = || tokio::time::Instant::now().into_std() + limit;
        let Some(end) = &self.end else {
            self.end = Some(downstream.deadlines.add(until(), cx.waker()));
            return false;
        };
        if !end.is_due() {
            return false;
        }
        end.set(until());
        // Every open stream has its share of this.
        let open = Rc::strong_count(downstream) > 1;
        !std::mem::replace(&mut self.used, open) && !open
    }
}

impl Downstream {
    /// `deadlines`: those of its streams, which its task has to poll.
    pub(crate) fn new(context: Context, deadlines: Rc<Deadlines>) -> Self {
        let known = match &context.scope {
            Scope::Fixed(target) => Some((None, target.clone())),
            Scope::Authority => None,
        };
        let peer = context.peer.ip().to_canonical().to_string().into();
        let vouched = context.vouched();
        Downstream { vouched, context, known: RefCell::new(known), deadlines, peer }
    }

    /// Whether its requests go to `destination`, whatever they say.
    pub(crate) fn leads_to(&self, destination: &Arc<Destination>) -> bool {
        matches!(&self.context.scope, Scope::Fixed(target) if Arc::ptr_eq(&target.destination, destination))
    }

    /// What the endpoints of `destination` are spoken to in.
    fn upstream(&self, destination: &Destination) -> Protocol {
        match &self.context.scope {
            Scope::Fixed(_) => self.context.upstream.unwrap_or_default(),
            Scope::Authority => self.context.upstream.unwrap_or(destination.protocol()),
        }
    }

    /// The SPIFFE ID that the caller has proved.
    pub(crate) fn caller(&self) -> Option<&Spiffe> {
        self.context.caller.as_ref().map(|caller| &caller.id)
    }

    /// Whether another instance of this workload's Service has sent this request on.
    #[cold]
    pub(crate) fn is_forwarded(&self, request: &RequestHead) -> bool {
        let said = request.fields.get(hop::FORWARDED_FIELD.as_bytes());
        gate::is_forwarded(&self.context.worker.shared, self.caller(), said)
    }

    /// How long the connection may rest between requests. `None`: for ever.
    pub(crate) fn rest(&self) -> Option<Duration> {
        match &*self.known.borrow() {
            Some((_, target)) => target.destination.policy().idle_timeout,
            None => Some(crate::http::REST),
        }
    }

    /// Where this request goes, by the mesh of the moment.
    pub(crate) fn target(&self, request: &RequestHead) -> Result<Target, Cause> {
        let mesh = self.context.worker.shared.mesh.load();
        let Some((seen, target)) = &mut *self.known.borrow_mut() else {
            return self.by_authority(&mesh, request);
        };
        if *seen != Some(mesh.generation) {
            target.refresh(&mesh);
            *seen = Some(mesh.generation);
        }
        Ok(target.clone())
    }

    fn by_authority(&self, mesh: &Mesh, request: &RequestHead) -> Result<Target, Cause> {
        let authority = Authority::try_from(request.authority()).map_err(|_| Cause::BadRequest)?;
        let own = &self.context.worker.shared.config.namespace;
        let service = mesh.service(authority.host(), own).ok_or(Cause::NotInRegistry)?;
        let key = ServicePort { service, port: authority.port_u16().unwrap_or(80) };
        let destination = mesh.destination(&key).ok_or(Cause::NotInRegistry)?.clone();
        if matches!(destination.protocol(), Protocol::Tls | Protocol::Tcp | Protocol::Redis) {
            return Err(Cause::Unsupported);
        }
        Ok(Target::of(destination))
    }
}
