//! Connections to endpoints: which network namespace they are made from, how they are marked, how long they may take.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::error::ProxyError;

/// Makes sockets. A sidecar of `lighter run` has two: one that dials from the host, one that dials from inside the
/// application's network namespace.
pub trait SocketFactory: Send + Sync {
    /// A TCP socket for `address`'s family, not connected, non-blocking, close-on-exec.
    fn tcp(&self, address: SocketAddr) -> std::io::Result<socket2::Socket>;
}

/// Connects to `address` within `timeout`. Fails as `connect_refused`, `connect_timeout` or `connect_failed`, all
/// marked safe to retry. TCP_NODELAY is on.
pub async fn connect(
    _factory: &dyn SocketFactory,
    _address: SocketAddr,
    _timeout: Duration,
) -> Result<TcpStream, ProxyError> {
    unimplemented!()
}
