//! HTTP/2: relay between `h2` connections with real backpressure.
//!
//! A downstream connection is one task; so is each of its streams, and each connection to an endpoint. All of them
//! are on the worker's own thread. What a peer can make grow has a limit: streams, windows, what waits to be sent,
//! heads, resets.

pub(crate) mod answer;
pub(crate) mod body;
pub mod conn;
pub(crate) mod deadline;
pub(crate) mod exchange;
pub mod fields;
pub mod frame;
pub(crate) mod head;
pub mod hpack;
pub(crate) mod limits;
pub(crate) mod pieces;
pub(crate) mod pool;
pub(crate) mod retry;
pub(crate) mod upstream;
pub(crate) mod way;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::HeaderValue;
use http::request::Parts;
use lighter_config::name::ServicePort;
use lighter_config::snapshot::Protocol;

use self::deadline::{Deadline, Deadlines};
use self::exchange::Arrived;
pub use self::pool::Pool;
use super::stream::{Respond, Source};
use super::{Context, Scope, Vouched};
use crate::drain::Phase;
use crate::error::Cause;
use crate::io::Io;
use crate::mesh::{Destination, Mesh, Target};

/// What one stream may send before it is read on: all that a stalled stream can make this process hold.
const STREAM_WINDOW: u32 = 64 * 1024;

/// What a caller's streams may send together. Only the caller itself suffers when it is used up.
const CALLER_WINDOW: u32 = 16 * 1024 * 1024;

/// Streams of a caller at once.
const MAX_STREAMS: u32 = 1024;

/// Most bytes of one stream that wait for a slow socket, however large the peer's window is.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that a caller may reset before they were even looked at; more are taken for an attack (CVE-2023-44487).
const MAX_RESETS_UNSEEN: usize = 256;

/// How long a caller may take for the connection preface.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A caller's connection, as its streams see it.
pub(crate) struct Downstream {
    pub(crate) context: Context,
    /// Where requests go, and the mesh in which that was found; not used where each request names its own target.
    known: RefCell<Option<(Option<u64>, Target)>>,
    pub(crate) deadlines: Rc<Deadlines>,
    /// The caller's address for `x-forwarded-for`.
    peer: HeaderValue,
    vouched: Vouched,
}

/// Serves one HTTP/2 connection (prior knowledge) until it ends.
pub async fn serve(io: Io, context: Context) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CALLER_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(context.worker.shared.config.max_head_bytes.min(u32::MAX as usize) as u32)
        .max_pending_accept_reset_streams(MAX_RESETS_UNSEEN)
        .handshake::<_, Bytes>(io);
    let mut connection = match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, peer = %context.peer, "no HTTP/2 preface"),
        Err(_) => return tracing::debug!(peer = %context.peer, "no HTTP/2 preface in time"),
    };
    let downstream = Rc::new(Downstream::new(context, Rc::default()));
    let mut timer = None;
    let mut leaving = false;
    let mut rest = Rest { limit: downstream.rest(), end: None, used: false };
    poll_fn(|cx| {
        downstream.context.ticket.watch(cx.waker());
        match downstream.context.ticket.phase() {
            Phase::Serving => {}
            Phase::Closed => connection.abrupt_shutdown(Reason::NO_ERROR),
            Phase::Lame | Phase::Draining if leaving => {}
            Phase::Lame | Phase::Draining => {
                connection.graceful_shutdown();
                leaving = true;
            }
        }
        if rest.is_over(&downstream, cx) {
            if leaving {
                // Told to go, and asked for nothing since: nobody is there.
                return Poll::Ready(());
            }
            connection.graceful_shutdown();
            leaving = true;
        }
        downstream.deadlines.poll(&mut timer, cx);
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    rest.used = true;
                    let (parts, body) = request.into_parts();
                    let (body, respond) = (Source::Http2(body), Respond::Http2(respond));
                    let arrived = Arrived { parts, body, respond, left: None };
                    // Boxed: the runtime moves a task about several times before and after it runs.
                    let stream = Box::pin(exchange::serve(downstream.clone(), arrived));
                    tokio::task::spawn_local(stream);
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, peer = %downstream.context.peer, "an HTTP/2 connection ended");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
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
        let peer = HeaderValue::try_from(context.peer.ip().to_canonical().to_string())
            .unwrap_or(HeaderValue::from_static("unknown"));
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
    pub(crate) fn caller(&self) -> Option<&str> {
        self.context.caller.as_ref().map(|caller| caller.id.as_str())
    }

    /// How long the connection may rest between requests. `None`: for ever.
    pub(crate) fn rest(&self) -> Option<Duration> {
        match &*self.known.borrow() {
            Some((_, target)) => target.destination.policy().idle_timeout,
            None => Some(crate::http::REST),
        }
    }

    /// Where this request goes, by the mesh of the moment.
    pub(crate) fn target(&self, request: &Parts) -> Result<Target, Cause> {
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

    fn by_authority(&self, mesh: &Mesh, request: &Parts) -> Result<Target, Cause> {
        let authority = request.uri.authority().ok_or(Cause::BadRequest)?;
        let own = &self.context.worker.shared.config.namespace;
        let service = mesh.service(authority.host(), own).ok_or(Cause::NotInRegistry)?;
        let key = ServicePort { service, port: authority.port_u16().unwrap_or(80) };
        let destination = mesh.destination(&key).ok_or(Cause::NotInRegistry)?.clone();
        if matches!(destination.protocol(), Protocol::Tls | Protocol::Tcp) {
            return Err(Cause::Unsupported);
        }
        Ok(Target::of(destination))
    }
}
