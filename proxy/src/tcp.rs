//! Opaque bytes: pick an endpoint, connect, pass everything on, account.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use lighter_config::snapshot::Secure;

use crate::balance::{Avoid, Cluster, Endpoint, Outcome, Picked};
use crate::dial;
use crate::drain::{Kind, Ticket};
use crate::error::{Cause, ProxyError, Retry};
use crate::http::unpicked;
use crate::io::Io;
use crate::mesh::Target;
use crate::telemetry::{self, Direction, Record, RouteMetrics, Spoken};
use crate::worker::Worker;

mod pipe;
mod relay;
mod websocket;

pub(crate) use pipe::{PIPE_BYTES, Pipe};
pub(crate) use relay::{Relayed, Talk, relay};

/// Where a connection goes.
#[derive(Clone)]
pub(crate) enum Onward {
    /// To a port of a Service.
    Port(Target),
    /// To where it wanted to go itself, untouched.
    Address(Direction, SocketAddr),
}

/// A connection to an upstream.
pub(crate) struct Upstream {
    /// The connection, and what was heard of the upstream already.
    pub(crate) io: Io,
    /// The other end.
    pub(crate) address: SocketAddr,
    /// The endpoint, counted as in flight. `None` where no Service was asked.
    picked: Option<Picked>,
    /// How long connecting took.
    took: Duration,
    retries: u8,
}

/// An opaque connection, as far as it is accounted for.
pub(crate) struct Opaque {
    /// The worker whose thread this is.
    pub(crate) worker: Rc<Worker>,
    /// Where it goes.
    pub(crate) onward: Onward,
    /// The caller.
    pub(crate) peer: SocketAddr,
    /// Bytes, or TLS that is passed through.
    pub(crate) spoken: Spoken,
    /// The server name that the client gave in TLS; otherwise empty.
    pub(crate) name: String,
    /// When it began.
    pub(crate) began: Instant,
}

#[cfg(test)]
impl Upstream {
    /// An upstream that no Service was asked for.
    pub(crate) fn to(tcp: tokio::net::TcpStream) -> Self {
        let io = Io::new(tcp);
        Upstream { address: io.peer(), io, picked: None, took: Duration::ZERO, retries: 0 }
    }
}

impl Upstream {
    /// The endpoint, where a Service was asked.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.picked.as_ref().map(|picked| &*picked.endpoint)
    }

    /// Tells its endpoint how it ended.
    pub(crate) fn finish(self, outcome: Outcome) {
        if let Some(picked) = self.picked {
            picked.finish(outcome, self.took, Instant::now());
        }
    }

    /// Passes everything on until it ends, or is to be cut.
    async fn relay_unless_cut(
        &mut self,
        downstream: &mut Io,
        idle: Option<Duration>,
        ticket: &Ticket,
    ) -> Relayed {
        let mut cut = self.picked.as_ref().and_then(Picked::cut);
        let is_cut = |cx: &mut Context<'_>| cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready());
        relay(Talk::Opaque, downstream, &mut self.io, idle, ticket, is_cut).await
    }
}

impl Opaque {
    /// Counts the connection as begun and connects it, unless that is done. If no upstream can be reached, the client
    /// gets a reset, and `None` comes back.
    pub(crate) async fn connect(&self, downstream: &Io, upstream: Option<Upstream>) -> Option<Upstream> {
        if let Some(upstream) = upstream {
            self.metrics().begin(self.spoken);
            return Some(upstream);
        }
        let reached = self.reach().await;
        if reached.is_err() {
            downstream.reset_on_close();
        }
        reached.ok()
    }

    /// Counts it as begun, where it is connected later.
    pub(crate) fn begin(&self) {
        self.metrics().begin(self.spoken);
    }

    /// Counts it as begun and connects it. Why that failed is accounted for.
    pub(crate) async fn reach(&self) -> Result<Upstream, Cause> {
        self.metrics().begin(self.spoken);
        let dialled = match self.worker.shared.guard.is_short() {
            true => Err(ProxyError::new(Cause::MemoryLimit, unpicked(Cause::MemoryLimit))),
            false => dial(&self.worker, &self.onward, self.peer).await,
        };
        dialled.map_err(|error| {
            tracing::debug!(peer = %self.peer, %error, "no upstream for an opaque connection");
            let relayed = Relayed { cause: Some(error.cause), ..Relayed::default() };
            self.account(error.peer, relayed, self.began.elapsed(), 0);
            error.cause
        })
    }

    /// Passes everything on until it ends, and accounts for it.
    pub(crate) async fn carry(self, mut downstream: Io, mut upstream: Upstream, ticket: Ticket) {
        ticket.carries(Kind::Tcp);
        let idle = self.onward.idle_timeout();
        let relayed = match upstream.picked.as_ref().is_some_and(Picked::is_let_in) {
            false => relay(Talk::Opaque, &mut downstream, &mut upstream.io, idle, &ticket, |_| false).await,
            // Few are: the others rest in less memory.
            true => Box::pin(upstream.relay_unless_cut(&mut downstream, idle, &ticket)).await,
        };
        let outcome = match relayed.cause {
            Some(Cause::UpstreamReset) if relayed.bytes_out == 0 => Outcome::Failed,
            _ => Outcome::Answered,
        };
        if let Some(picked) = upstream.picked {
            picked.finish(outcome, upstream.took, Instant::now());
        }
        self.account(Some(upstream.address), relayed, upstream.took, upstream.retries);
    }

    /// Closes a connection with a reset and counts why.
    pub(crate) fn refuse(&self, downstream: &Io, cause: Cause) {
        downstream.reset_on_close();
        self.count_refusal(cause);
    }

    /// Counts a connection that was refused in words of its own.
    pub(crate) fn count_refusal(&self, cause: Cause) {
        self.metrics().begin(self.spoken);
        let relayed = Relayed { cause: Some(cause), ..Relayed::default() };
        let wanted = match self.onward {
            Onward::Port(_) => None,
            Onward::Address(_, address) => Some(address),
        };
        self.account(wanted, relayed, Duration::ZERO, 0);
    }

    fn metrics(&self) -> &RouteMetrics {
        match &self.onward {
            Onward::Port(target) => &target.destination.tcp_metrics,
            Onward::Address(direction, _) => self.worker.passthrough(*direction),
        }
    }

    /// Accounts for what has ended.
    pub(crate) fn account(
        &self,
        endpoint: Option<SocketAddr>,
        relayed: Relayed,
        latency: Duration,
        retries: u8,
    ) {
        telemetry::account(&Record {
            metrics: self.metrics(),
            spoken: self.spoken,
            peer: self.peer,
            caller: "",
            endpoint,
            status: 0,
            grpc_status: None,
            cause: relayed.cause,
            method: b"",
            path: b"",
            authority: self.name.as_bytes(),
            request_id: b"",
            span: None,
            bytes_in: relayed.bytes_in,
            bytes_out: relayed.bytes_out,
            latency,
            duration: self.began.elapsed(),
            retries,
        });
    }
}

/// Connects `caller` to where `onward` leads; once more to another endpoint if the first cannot be reached.
pub(crate) async fn dial(
    worker: &Rc<Worker>,
    onward: &Onward,
    caller: SocketAddr,
) -> Result<Upstream, ProxyError> {
    let factory = match onward.direction() {
        Direction::Outbound => &worker.shared.outside,
        Direction::Inbound => &worker.shared.inside,
    };
    let target = match onward {
        Onward::Port(target) => target,
        Onward::Address(_, address) => {
            let began = Instant::now();
            let tcp = dial::connect(&**factory, *address, CONNECT_TIMEOUT).await?;
            let took = began.elapsed();
            return Ok(Upstream { io: Io::new(tcp), address: *address, picked: None, took, retries: 0 });
        }
    };
    let policy = target.destination.policy();
    let mut failed: Option<(Avoid, ProxyError)> = None;
    loop {
        let began = Instant::now();
        let mut picked = match (pick(target, caller, failed.as_ref().map(|(avoid, _)| avoid), began), &failed)
        {
            (Ok(picked), None) => picked,
            // Nobody else is there: what went wrong first is what went wrong.
            (Ok(again), Some((first, _))) if !first.is(&again.endpoint) => again,
            (_, Some(_)) => break,
            (Err(cause), None) => return Err(ProxyError::new(cause, "no endpoint to connect to")),
        };
        let admitted = async {
            picked.hold(target.destination.admit_opaque(&worker.shared, caller)?);
            picked.needs_connection()?;
            picked.admitted().await
        };
        admitted.await.map_err(|cause| ProxyError::new(cause, "too many connections to this port"))?;
        let address = picked.endpoint.address;
        let timeout = policy.connect_timeout;
        let dialled = match &picked.endpoint.secure {
            None => dial::connect(&**factory, address, timeout).await.map(Io::new),
            Some(secure @ Secure { link: Some(link), .. }) => {
                worker.links.tunnel(worker, secure, *link, address, timeout).await
            }
            Some(_) => {
                let detail =
                    "the endpoint must prove who it is, and accepts no links: it carries nothing but HTTP so";
                return Err(ProxyError::new(Cause::Unsupported, detail).at(address));
            }
        };
        picked.endpoint.metrics.dialled(dialled.is_ok());
        match dialled {
            Ok(io) => {
                let (took, retries) = (began.elapsed(), u8::from(failed.is_some()));
                return Ok(Upstream { io, address, picked: Some(picked), took, retries });
            }
            Err(error) => {
                let endpoint = picked.endpoint.clone();
                picked.finish(dial::outcome(&error), began.elapsed(), Instant::now());
                let again = failed.is_none()
                    && policy.safe_retry
                    && target.pinned.is_none()
                    && error.retry == Retry::Safe;
                failed = Some((Avoid::after(endpoint, error.cause), error));
                if !again {
                    break;
                }
            }
        }
    }
    Err(failed.map_or_else(|| ProxyError::new(Cause::Internal, "no endpoint was tried"), |(_, error)| error))
}

fn pick(target: &Target, caller: SocketAddr, avoid: Option<&Avoid>, now: Instant) -> Result<Picked, Cause> {
    if let Some(endpoint) = &target.pinned {
        return Ok(Cluster::take(endpoint, now));
    }
    let cluster = target.destination.tcp.pick()?;
    cluster.pick(avoid, cluster.hash_connection(caller.ip()), now)
}

impl Onward {
    /// Which way it goes.
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Onward::Port(target) => target.destination.direction,
            Onward::Address(direction, _) => *direction,
        }
    }

    /// Longest silence.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        match self {
            Onward::Port(target) => target.destination.policy().idle_timeout,
            Onward::Address(..) => Some(IDLE_TIMEOUT),
        }
    }
}

/// For destinations that no policy speaks of; the defaults of TrafficPolicy.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lighter_config::sidecar::SidecarConfig;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::dial::Here;
    use crate::worker::Shared;

    #[tokio::test]
    async fn a_connection_at_rest_takes_little_memory() {
        let here = Arc::new(Here::default());
        let worker = Worker::new(0, Arc::new(Shared::new(SidecarConfig::default(), here.clone(), here)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(address), TcpStream::connect(address));
        let ticket = worker.connections.enter();
        let onward = Onward::Address(Direction::Outbound, address);
        let (peer, began) = (address, Instant::now());
        let opaque = Opaque { worker, onward, peer, spoken: Spoken::Tcp, name: String::new(), began };
        let upstream = Upstream::to(other.unwrap());
        let size = size_of_val(&opaque.carry(Io::new(one.unwrap()), upstream, ticket));
        assert!(size <= 1304, "{size} bytes");
    }
}
