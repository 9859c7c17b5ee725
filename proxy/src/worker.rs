//! A worker: one thread, one runtime, its own accept sockets, pools and metric shard.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use lighter_config::sidecar::SidecarConfig;

use crate::dial::SocketFactory;
use crate::drain::Connections;
use crate::mesh::Mesh;

/// What all workers share.
pub struct Shared {
    /// The sidecar's own file.
    pub config: SidecarConfig,
    /// The mesh of the moment.
    pub mesh: ArcSwap<Mesh>,
    /// Dials endpoints (from the host's side).
    pub outside: Arc<dyn SocketFactory>,
    /// Dials this workload's application (from its own namespace).
    pub inside: Arc<dyn SocketFactory>,
}

/// What one worker thread has to itself.
pub struct Worker {
    /// Its number: the metric shard.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Its connections, and the phase of drain.
    pub connections: Rc<Connections>,
    /// Kept HTTP/1 connections to endpoints.
    pub http1: RefCell<crate::http::h1::Pool>,
    /// Open HTTP/2 connections to endpoints.
    pub http2: crate::http::h2::Pool,
}

/// Listening sockets that were made elsewhere: `lighter run` makes them inside the application's network namespace.
/// Each list has one socket for each worker (SO_REUSEPORT), or is empty.
#[derive(Default)]
pub struct Sockets {
    /// Where intercepted outbound connections arrive.
    pub outbound: Vec<std::net::TcpListener>,
    /// Where DNS queries arrive.
    pub dns: Option<(std::net::UdpSocket, std::net::TcpListener)>,
    /// Explicit inbound listeners, in the order of `SidecarConfig::inbound`, each with one socket per worker.
    pub inbound: Vec<Vec<std::net::TcpListener>>,
}

/// How to start a sidecar.
pub struct Start {
    /// Its own file.
    pub config: SidecarConfig,
    /// Sockets that exist already. What is missing here and asked for by `config` is made in this namespace.
    pub sockets: Sockets,
    /// Dials endpoints.
    pub outside: Arc<dyn SocketFactory>,
    /// Dials this workload's application.
    pub inside: Arc<dyn SocketFactory>,
    /// Called once when everything listens and the first configuration is in force.
    pub ready: Box<dyn FnOnce() + Send>,
    /// Resolves when the sidecar is to drain (beside SIGTERM, which `run` itself watches only if this is `None`).
    pub stop: Option<tokio::sync::oneshot::Receiver<()>>,
}

/// What a sidecar says when it ends.
#[derive(Debug, Default)]
pub struct Summary {
    /// Connections that were cut at the drain deadline.
    pub cut: usize,
}

/// Runs a sidecar until it has drained. Blocks the calling thread, which becomes the control runtime's.
pub fn run(_start: Start) -> Result<Summary, StartError> {
    unimplemented!()
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A resource file is faulty.
    #[error("{0}")]
    Config(String),
    /// A socket could not be made.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}
