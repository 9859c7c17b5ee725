//! HTTP on the data path: the codecs of HTTP/1 and HTTP/2 are our own, and one module owns the hop-by-hop rules of
//! both.

pub(crate) mod bridge;
pub(crate) mod cookie;
pub mod h1;
pub mod h2;
pub mod hop;
pub mod local;
pub(crate) mod stream;

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use lighter_config::snapshot::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::drain::Ticket;
use crate::error::Cause;
use crate::io::Io;
use crate::link::accept::Caller;
use crate::mesh::Target;
use crate::telemetry::Direction;
use crate::worker::Worker;

/// What a connection that speaks HTTP is served by.
pub struct Context {
    /// The worker whose thread this is.
    pub worker: Rc<Worker>,
    /// Which way it goes.
    pub direction: Direction,
    /// Where its requests go.
    pub scope: Scope,
    /// The caller.
    pub peer: SocketAddr,
    /// Who that is, where it has proved it.
    pub caller: Option<Rc<Caller>>,
    /// Its address for `X-Forwarded-For`, where that was made already.
    pub caller_text: Option<Rc<[u8]>>,
    /// Counts this connection, and wakes its task when drain moves on.
    pub ticket: Ticket,
    /// Fixed by configuration where the port says `http`, `http2` or `grpc`: what the upstream speaks. `None`: what
    /// the caller speaks.
    pub upstream: Option<Protocol>,
}

/// What is said of a request that the limits of its port do not let through.
pub(crate) const CROWDED: &str = "as many requests as this port's policy allows are under way";

/// What is said of a request for which no endpoint was picked.
pub(crate) fn unpicked(cause: Cause) -> &'static str {
    match cause {
        Cause::PendingOverflow | Cause::PendingTimeout => CROWDED,
        Cause::ConcurrencyLimit => "the service has as many requests as it can work on",
        Cause::NotServing => "the state of the service is not at this instance",
        Cause::Moved => "the state of the service has moved from this instance",
        Cause::ParkOverflow => "the state of the service is moving, and too many requests wait for that",
        Cause::ParkTimeout => "the state of the service is moving, and that took too long",
        Cause::NoStandby => "no other instance keeps the journal of the service's state",
        Cause::OutcomeUnknown => "the request may have run, and what it changed may be lost",
        Cause::RequestTimeout => "the request's time was over before it could run",
        Cause::MemoryLimit => "this sidecar has no memory to spare",
        _ => "no endpoint can take this request",
    }
}

/// What is said of a body that is too large.
pub(crate) const BODY_TOO_LARGE: &str = "the body is larger than the route allows";

/// A number at random below a million.
pub(crate) fn dice() -> u32 {
    fastrand::u32(..1_000_000)
}

/// What an application is told of who calls it. None: what the caller says itself is passed on, as no identity is known
/// here by which it could be judged.
pub(crate) type Vouched = Option<Option<Rc<Caller>>>;

impl Context {
    /// What the application is told of the caller.
    pub(crate) fn vouched(&self) -> Vouched {
        let ours = self.direction == Direction::Inbound && self.worker.shared.identity.get().is_some();
        ours.then(|| self.caller.clone())
    }
}

/// A caller's address as fields name it.
pub(crate) fn address_text(peer: SocketAddr) -> Rc<[u8]> {
    peer.ip().to_canonical().to_string().into_bytes().into()
}

/// Serves one HTTP/1 connection until it ends, by what its upstream speaks.
pub(crate) fn serve_http1(io: Io, context: Context) -> Pin<Box<dyn Future<Output = ()>>> {
    match context.upstream {
        Some(Protocol::Http2 | Protocol::Grpc) => Box::pin(bridge::to_http2::serve(io, context)),
        _ => Box::pin(h1::serve(io, context)),
    }
}

/// Ends what goes out, and listens for a while to a peer that has its last words, as [`LINGER`] says.
pub(crate) async fn linger(io: &mut Io) {
    let listening = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(LINGER.1 as u64), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER.0, listening).await;
}

/// Where a connection's requests go.
pub enum Scope {
    /// All to one port.
    Fixed(Target),
    /// Each to the Service that its authority names (the explicit proxy port).
    Authority,
}

/// Longest wait for the rest of a head.
pub(crate) const HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// Longest rest of a client's connection where no policy says.
pub(crate) const REST: std::time::Duration = std::time::Duration::from_secs(3600);

/// How long, and for how many bytes, a client that has its last answer is listened to, so that the close does not
/// destroy that answer on its way (RFC 9112 §9.6, RFC 9113 §5.4.1).
pub(crate) const LINGER: (std::time::Duration, usize) = (std::time::Duration::from_secs(2), 1024 * 1024);
