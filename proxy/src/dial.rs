//! Connections to endpoints: which network namespace they are made from, how they are marked, how long they may take.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};

use crate::balance::Outcome;
use crate::error::{Cause, ProxyError};
use crate::listeners;

/// Makes sockets. A sidecar of `lighter run` has two: one that dials from the host, one that dials from inside the
/// application's network namespace.
pub trait SocketFactory: Send + Sync {
    /// A TCP socket for `address`'s family, not connected, non-blocking, close-on-exec. `EAGAIN` where there is none
    /// for the moment.
    fn tcp(&self, address: SocketAddr) -> io::Result<socket2::Socket>;

    /// A UDP socket for `address`'s family, not bound, non-blocking, close-on-exec. `Unsupported` where none is made.
    fn udp(&self, _address: SocketAddr) -> io::Result<socket2::Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether something listens at `address` there, where that can be told without connecting to it; otherwise true.
    fn listens(&self, _address: SocketAddr) -> bool {
        true
    }

    /// The sockets that listen at `address` there, as the kernel numbers them, where that can be told: see [`listeners::here`].
    fn listeners(&self, _address: SocketAddr) -> Option<Vec<u64>> {
        None
    }
}

/// Makes sockets in the network namespace of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here {
    /// SO_MARK of every socket, by which interception rules know the sidecar's own traffic. Needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

impl SocketFactory for Here {
    fn tcp(&self, address: SocketAddr) -> io::Result<socket2::Socket> {
        self.socket(address, socket2::Type::STREAM, socket2::Protocol::TCP)
    }

    fn udp(&self, address: SocketAddr) -> io::Result<socket2::Socket> {
        self.socket(address, socket2::Type::DGRAM, socket2::Protocol::UDP)
    }

    fn listeners(&self, address: SocketAddr) -> Option<Vec<u64>> {
        listeners::here(address)
    }
}

impl Here {
    fn socket(
        &self,
        address: SocketAddr,
        kind: socket2::Type,
        protocol: socket2::Protocol,
    ) -> io::Result<socket2::Socket> {
        let kind = kind.nonblocking().cloexec();
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, Some(protocol))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        Ok(socket)
    }
}

/// Connects to `address` within `timeout`. TCP_NODELAY is on.
///
/// Fails as `connect_refused`, `connect_timeout` or `connect_failed`, or as `overloaded` when this process has no
/// descriptor or memory left for a socket, or none at hand. All are marked safe to retry: the endpoint never read a byte.
pub async fn connect(
    factory: &dyn SocketFactory,
    address: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ProxyError> {
    let dialled = match socket(factory, address) {
        Ok(socket) => tokio::time::timeout(timeout, socket.connect(address)).await,
        Err(error) => Ok(Err(error)),
    };
    let failure = match dialled {
        Ok(Ok(stream)) if is_itself(&stream, address) => {
            ProxyError::new(Cause::ConnectRefused, "nothing listens there")
        }
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => classify(error),
        Err(_elapsed) => ProxyError::new(Cause::ConnectTimeout, "no answer to the connection in time"),
    };
    Err(failure.at(address).safe())
}

/// What a failed [`connect`] says of the endpoint: nothing, if the fault is this process's own.
pub fn outcome(error: &ProxyError) -> Outcome {
    match error.cause {
        Cause::Overloaded => Outcome::Abandoned,
        _ => Outcome::Failed,
    }
}

fn socket(factory: &dyn SocketFactory, address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = factory.tcp(address)?;
    socket.set_tcp_nodelay(true)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn classify(error: io::Error) -> ProxyError {
    let (cause, detail) = match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => (Cause::ConnectRefused, "nothing listens there"),
        Some(Errno::TIMEDOUT) => (Cause::ConnectTimeout, "no answer to the connection in time"),
        Some(Errno::MFILE | Errno::NFILE) => (Cause::Overloaded, "no descriptor left"),
        Some(Errno::AGAIN) => (Cause::Overloaded, "no socket is ready"),
        Some(Errno::NOBUFS | Errno::NOMEM) => (Cause::Overloaded, "no memory left for a socket"),
        // Another endpoint may still be reached: ports are used up per destination.
        Some(Errno::ADDRNOTAVAIL) => (Cause::ConnectFailed, "no local port left towards this endpoint"),
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => (Cause::ConnectFailed, "no route to the endpoint"),
        Some(Errno::PERM | Errno::ACCESS) => (Cause::ConnectFailed, "the system forbids the connection"),
        _ => (Cause::ConnectFailed, "the connection failed"),
    };
    ProxyError::new(cause, detail).with_source(error)
}

/// A dial to a dead port of this host's ephemeral range can meet itself (simultaneous open, RFC 9293 §3.5): the
/// kernel chooses the destination as the source. That is no answer.
fn is_itself(stream: &TcpStream, address: SocketAddr) -> bool {
    /// No system hands out ports below this by itself.
    const LOWEST_EPHEMERAL: u16 = 10_000;
    address.port() >= LOWEST_EPHEMERAL
        && address.ip().is_loopback()
        && stream.local_addr().is_ok_and(|own| own == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(Errno);

    impl SocketFactory for Broken {
        fn tcp(&self, _address: SocketAddr) -> io::Result<socket2::Socket> {
            Err(self.0.into())
        }
    }

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_listening_endpoint_is_reached_without_nagle() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect(&Here::default(), address, LONG).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(stream.peer_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn a_dead_port_is_refused_and_safe_to_retry() {
        // Bound but not listening, so that nobody else can take the port.
        let bound = TcpSocket::new_v4().unwrap();
        bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.local_addr().unwrap();
        let error = connect(&Here::default(), address, LONG).await.unwrap_err();
        assert_eq!(error.cause, Cause::ConnectRefused);
        assert_eq!(error.retry, crate::error::Retry::Safe);
        assert_eq!(error.peer, Some(address));
        assert_eq!(outcome(&error), Outcome::Failed);
    }

    #[tokio::test]
    async fn a_full_backlog_times_out() {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let _fills = std::net::TcpStream::connect(address).unwrap();
        // The kernel now drops every SYN: the backlog of zero holds one connection.
        let error = connect(&Here::default(), address, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.cause, Cause::ConnectTimeout);
    }

    #[tokio::test]
    async fn a_process_without_descriptors_does_not_blame_the_endpoint() {
        let address = "127.0.0.1:1".parse().unwrap();
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::AGAIN] {
            let error = connect(&Broken(errno), address, LONG).await.unwrap_err();
            assert_eq!(error.cause, Cause::Overloaded);
            assert_eq!(error.retry, crate::error::Retry::Safe);
            assert_eq!(outcome(&error), Outcome::Abandoned);
        }
        let error = connect(&Broken(Errno::ADDRNOTAVAIL), address, LONG).await.unwrap_err();
        assert_eq!(error.cause, Cause::ConnectFailed);
    }
}
