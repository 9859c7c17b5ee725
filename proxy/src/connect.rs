//! The explicit proxy port: HTTP CONNECT, absolute-form requests, SOCKS5.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use crate::drain::Ticket;
use crate::worker::Worker;

/// Serves a connection to the explicit proxy port.
pub(crate) async fn serve(_worker: Rc<Worker>, _stream: TcpStream, _peer: SocketAddr, _ticket: Ticket) {
    unimplemented!()
}
