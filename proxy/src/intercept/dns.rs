//! The sidecar's DNS server: names of Services are answered with their virtual addresses, everything else by the
//! resolvers of the host.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use crate::worker::Shared;

/// Serves DNS on one pair of sockets until the future is dropped. For the control runtime.
pub async fn serve(_udp: UdpSocket, _tcp: TcpListener, _shared: Arc<Shared>) -> io::Result<()> {
    unimplemented!()
}
