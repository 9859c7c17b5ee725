//! From this workload to a Service.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use crate::drain::Ticket;
use crate::worker::Worker;

/// Serves a connection that the workload made and the kernel redirected.
pub(crate) async fn intercepted(_worker: Rc<Worker>, _stream: TcpStream, _peer: SocketAddr, _ticket: Ticket) {
    unimplemented!()
}

/// Serves a connection to `SidecarConfig::listeners[index]`.
pub(crate) async fn explicit(
    _worker: Rc<Worker>,
    _stream: TcpStream,
    _peer: SocketAddr,
    _ticket: Ticket,
    _index: usize,
) {
    unimplemented!()
}
