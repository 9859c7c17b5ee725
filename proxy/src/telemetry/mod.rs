//! What happened, for people and machines: metrics, access log, trace context.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::name::ServicePort;

use crate::error::Cause;

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

/// Counters of one route, resolved when a mesh is built.
pub struct RouteMetrics {}

/// Counters of one endpoint.
#[derive(Default)]
pub struct EndpointMetrics {}

/// One exchange (or one opaque connection) that ended.
pub struct Record<'a> {
    /// The route's counters.
    pub metrics: &'a RouteMetrics,
    /// What was spoken downstream.
    pub spoken: Spoken,
    /// The caller.
    pub peer: SocketAddr,
    /// Where it went, if that far.
    pub endpoint: Option<SocketAddr>,
    /// HTTP status; 0 for opaque connections and where no status was sent.
    pub status: u16,
    /// gRPC status, where there was one.
    pub grpc_status: Option<u8>,
    /// Why it did not end well.
    pub cause: Option<Cause>,
    /// Request method, target and authority; empty for opaque connections.
    pub method: &'a [u8],
    /// The request's target as received.
    pub path: &'a [u8],
    /// Host or :authority.
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
}

impl RouteMetrics {
    /// The counters of one route; the same ones for the same labels.
    pub fn of(_direction: Direction, _key: &ServicePort, _route: &str) -> Arc<Self> {
        unimplemented!()
    }

    /// An exchange began: raises the in-flight gauge until `account`.
    pub fn begin(&self) {
        unimplemented!()
    }
}

/// Counts an exchange and writes it to the access log if there is one.
pub fn account(_record: &Record<'_>) {
    unimplemented!()
}
