//! Accept sockets and the loops behind them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::{Admitted, Worker};
use crate::drain::{Phase, Ticket};
use crate::{connect, inbound, outbound};

/// One listening socket of one worker.
pub(super) struct Door {
    /// What comes in by it.
    pub(super) role: Role,
    /// The socket.
    pub(super) listener: std::net::TcpListener,
}

/// What comes in by a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Connections that the workload made and the kernel redirected.
    Outbound,
    /// Connections to `SidecarConfig::listeners[_]`.
    Listener(usize),
    /// Connections to the workload that the kernel redirected.
    Inbound,
    /// Connections to `SidecarConfig::inbound[_]`.
    App(usize),
    /// The explicit proxy port.
    Proxy,
}

impl Door {
    /// Accepts until the drain closes the door.
    pub(super) fn open(self, worker: Rc<Worker>) -> std::io::Result<impl Future<Output = ()>> {
        let socket = socket2::SockRef::from(&self.listener);
        // Accepted connections inherit these: no system call each.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(self.listener)?;
        Ok(accept(worker, listener, self.role))
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, role: Role) {
    while worker.connections.phase() < Phase::Draining {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.connections.reached(Phase::Draining) => break,
        };
        match accepted {
            Ok((stream, peer)) => admit(&worker, stream, peer, role),
            Err(error) => back_off(error).await,
        }
    }
    // Who got through before the door closed is served: closing the socket would reset them.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
            admit(&worker, stream, peer, role);
        }
    }
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, role: Role) {
    let Some(admitted) = worker.shared.admit() else {
        metrics::counter!("lighter_connections_shed_total", "reason" => "limit").increment(1);
        crate::io::Io::new(stream).reset_on_close();
        return;
    };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let ticket = worker.connections.enter();
    tokio::task::spawn_local(serve(worker.clone(), stream, peer, role, ticket, admitted));
}

async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    role: Role,
    ticket: Ticket,
    _admitted: Admitted,
) {
    match role {
        Role::Outbound => outbound::intercepted(worker, stream, peer, ticket).await,
        Role::Listener(index) => outbound::explicit(worker, stream, peer, ticket, index).await,
        Role::Inbound => inbound::intercepted(worker, stream, peer, ticket).await,
        Role::App(index) => inbound::explicit(worker, stream, peer, ticket, index).await,
        Role::Proxy => connect::serve(worker, stream, peer, ticket).await,
    }
}

/// A failed accept is either the peer's (it left again: go on) or ours (no descriptor: wait for one).
async fn back_off(error: std::io::Error) {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
            metrics::counter!("lighter_accept_errors_total", "reason" => "descriptors").increment(1);
            tracing::warn!(%error, "cannot accept: waiting for connections to end");
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
        }
        _ => {
            metrics::counter!("lighter_accept_errors_total", "reason" => "peer").increment(1);
            tracing::debug!(%error, "a connection was gone before it was accepted");
        }
    }
}

/// Long enough not to spin, short enough not to be noticed once descriptors are free again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// Finds peers that vanished without a word within some six minutes, for the price of a packet every five.
const KEEPALIVE: socket2::TcpKeepalive = socket2::TcpKeepalive::new()
    .with_time(Duration::from_secs(300))
    .with_interval(Duration::from_secs(15))
    .with_retries(5);
