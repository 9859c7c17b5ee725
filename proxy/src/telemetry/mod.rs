//! What happened, for people and machines: metrics, access log, spans.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::error::Cause;

pub mod access_log;
mod caller;
mod endpoint;
mod exemplar;
pub mod exposition;
mod held;
pub mod histogram;
mod identity;
mod latencies;
mod link;
pub mod logging;
mod moved;
mod overload;
mod pool;
mod process;
mod quic;
mod rdma;
mod recorder;
mod retry;
mod route;
mod session;
pub mod shards;
mod sidecar;
pub(crate) mod spans;
mod stateful;
mod table;
pub(crate) mod tap;
pub mod trace;

pub use caller::{CallerMetrics, Welcome};
pub use endpoint::{ClusterMetrics, EndpointLoad, EndpointMetrics, EndpointReading, Standing};
pub(crate) use held::{HeldMetrics, LetGo};
pub use identity::{IdentityMetrics, Request, RequestOutcome, identity};
pub(crate) use latencies::{Counted, Latencies};
pub use link::{LinkMetrics, LinkOpen, LinkWire, links};
pub(crate) use moved::{Moved, MovedMetrics};
pub use overload::OverloadMetrics;
pub use pool::{PoolClosed, Pooled};
pub use process::cpu_seconds;
pub use quic::{QuicHandshake, QuicMetrics, QuicSwitch, quic};
pub(crate) use rdma::Registered;
pub use rdma::{RdmaMetrics, rdma};
pub(crate) use recorder::{PER_UNIT, counted};
pub use recorder::{install, render, routes};
pub use route::{Mirrored, RouteMetrics, RouteReading, class_label};
pub use shards::set_worker;
pub use sidecar::{ConfigMetrics, DetectMetrics, Detected, Load, WorkerMetrics, config, detection, worker};
pub(crate) use sidecar::{
    EnergySource, device_busy, device_busy_seconds, device_energy, device_joules, device_rested,
};
pub(crate) use stateful::StateMetrics;

/// Which way a connection goes, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From this workload to a Service.
    Outbound,
    /// From a caller to this workload.
    Inbound,
}

/// What was spoken, as the `protocol` label says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spoken {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes, and everything inside a tunnel or after an upgrade.
    Tcp,
    /// TLS passed through by server name.
    Tls,
}

/// One exchange (or one opaque connection) that ended.
pub struct Record<'a> {
    /// The route's counters.
    pub metrics: &'a RouteMetrics,
    /// What was spoken downstream.
    pub spoken: Spoken,
    /// The caller.
    pub peer: SocketAddr,
    /// The SPIFFE ID that the caller proved; empty where it proved none.
    pub caller: &'a str,
    /// Where it went, if that far; where it wanted to go, if it was refused for that.
    pub endpoint: Option<SocketAddr>,
    /// HTTP status; 0 for opaque connections and where no status was sent.
    pub status: u16,
    /// gRPC status, where there was one.
    pub grpc_status: Option<u8>,
    /// Why it did not end well.
    pub cause: Option<Cause>,
    /// The request's method; empty for opaque connections.
    pub method: &'a [u8],
    /// The request's target as received.
    pub path: &'a [u8],
    /// Host or :authority; for TLS that is passed through, the server name.
    pub authority: &'a [u8],
    /// `x-request-id`.
    pub request_id: &'a [u8],
    /// Body bytes from downstream.
    pub bytes_in: u64,
    /// Body bytes to downstream.
    pub bytes_out: u64,
    /// From the request's head to the answer's head.
    pub latency: Duration,
    /// From the request's head to the end.
    pub duration: Duration,
    /// How often it was tried again.
    pub retries: u8,
    /// Its span, where one is recorded.
    pub(crate) span: Option<&'a spans::Begun>,
}

/// Who reads the texts of records: the access log, and taps.
static LISTENERS: AtomicUsize = AtomicUsize::new(0);

/// Whether anybody reads the texts of a [`Record`].
#[inline]
pub(crate) fn is_heard() -> bool {
    LISTENERS.load(Relaxed) != 0
}

/// There is one more who reads them.
fn listens() {
    LISTENERS.fetch_add(1, Relaxed);
}

/// There is one less.
fn listens_no_more() {
    LISTENERS.fetch_sub(1, Relaxed);
}

#[cold]
#[inline(never)]
fn tell(record: &Record<'_>) {
    access_log::write(record);
    tap::show(record);
}

/// Counts an exchange and writes it to the access log if there is one. To be called once for each
/// [`RouteMetrics::begin`], with the same kind of protocol (an exchange or an opaque connection).
#[inline]
pub fn account(record: &Record<'_>) {
    record.metrics.account(record);
    if is_heard() {
        tell(record);
    }
    if let Some(begun) = record.span {
        spans::end(begun, record);
    }
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Outbound, Direction::Inbound];

    /// The `direction` label.
    pub const fn label(self) -> &'static str {
        match self {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        }
    }
}

impl Spoken {
    /// Every protocol, in the order of its number.
    pub const ALL: [Spoken; 5] = [Spoken::Http1, Spoken::Http2, Spoken::Grpc, Spoken::Tcp, Spoken::Tls];

    /// The `protocol` label.
    pub const fn label(self) -> &'static str {
        match self {
            Spoken::Http1 => "http1",
            Spoken::Http2 => "http2",
            Spoken::Grpc => "grpc",
            Spoken::Tcp => "tcp",
            Spoken::Tls => "tls",
        }
    }

    /// Whether there are requests and answers in it.
    #[inline]
    pub const fn is_http(self) -> bool {
        matches!(self, Spoken::Http1 | Spoken::Http2 | Spoken::Grpc)
    }
}
