//! From a caller to this workload's application.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use crate::drain::Ticket;
use crate::worker::Worker;

/// Serves a connection that callers made to the workload and the kernel redirected.
pub(crate) async fn intercepted(_worker: Rc<Worker>, _stream: TcpStream, _peer: SocketAddr, _ticket: Ticket) {
    unimplemented!()
}

/// Serves a connection to `SidecarConfig::inbound[index]`.
pub(crate) async fn explicit(
    _worker: Rc<Worker>,
    _stream: TcpStream,
    _peer: SocketAddr,
    _ticket: Ticket,
    _index: usize,
) {
    unimplemented!()
}
