//! The sockets that intercepted traffic is redirected to, and what it was meant for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};

/// Listeners for redirected outbound connections: on both loopback addresses, because that is where the kernel leads
/// them, and because nobody outside this namespace has any business there. Socket `i` is for worker `i % workers`.
pub fn outbound(port: u16, workers: usize) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(2 * workers);
    for address in loopback()? {
        listeners.extend(several(SocketAddr::new(address, port), workers)?);
    }
    Ok(listeners)
}

/// Listeners for redirected inbound connections: on every address, because the kernel leads a connection to the
/// address of the interface that it came in by. Socket `i` is for worker `i % workers`.
pub fn inbound(port: u16, workers: usize) -> io::Result<Vec<TcpListener>> {
    let any: IpAddr = if has_ipv6()? { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    several(SocketAddr::new(any, port), workers)
}

/// Sockets for redirected DNS queries, a pair for each loopback address. They are bound to those addresses and not to
/// the wildcard: an answer has to leave from the address that the kernel changed the query's destination to, or it is
/// not recognised as one and reaches nobody.
pub fn dns(port: u16) -> io::Result<Vec<(UdpSocket, TcpListener)>> {
    loopback()?.into_iter().map(|address| dns_on(SocketAddr::new(address, port))).collect()
}

/// Sockets for DNS queries on one address.
pub fn dns_on(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        udp.set_only_v6(true)?;
    }
    udp.set_nonblocking(true)?;
    udp.bind(&address.into())?;
    Ok((udp.into(), tcp(address)?))
}

/// A listener on `address`. On the IPv6 wildcard it takes IPv4 connections too.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener: TcpListener = bound(address, false)?.into();
    listen(&listener)?;
    Ok(listener)
}

/// `count` listeners on the same address, among which the kernel spreads connections. Nobody else has it.
pub fn several(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let (listeners, reserved) = reserve(address, count)?;
    for listener in &listeners {
        reserved.begin(listener)?;
    }
    Ok(listeners)
}

/// The same without listening yet: the address is taken, and connections to it are refused until
/// [`Reserved::begin`]. Where the system is to choose the port, all of them get the same.
pub fn reserve(address: SocketAddr, count: usize) -> io::Result<(Vec<TcpListener>, Reserved)> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = TcpListener::from(bound(address, count > 1)?);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok((listeners, Reserved { guard: Mutex::new(Some(guard(address)?)) }))
}

/// Keeps an address from others until it is listened on.
#[derive(Debug, Default)]
pub struct Reserved {
    guard: Mutex<Option<Socket>>,
}

impl Reserved {
    /// Lets connections in by one of the listeners for which the address was reserved.
    pub fn begin(&self, listener: &TcpListener) -> io::Result<()> {
        // It would be in the way of the first, and once that listens, nobody else can.
        drop(self.guard.lock().unwrap_or_else(PoisonError::into_inner).take());
        listen(listener)
    }
}

/// Proves that nobody else has `address`, and goes on seeing to that while it lives.
///
/// Linux lets sockets with SO_REUSEADDR share an address as long as none of them listens, and those of one user with
/// SO_REUSEPORT even then. This one has neither when others come. It needs the first to be bound itself beside the
/// remains of earlier connections (TIME-WAIT), and it has to listen for a moment: that alone brings to light who
/// listens already, and makes the kernel forget that the address was only used by sockets that share.
fn guard(address: SocketAddr) -> io::Result<Socket> {
    let guard = bound(address, false)?;
    guard.listen(1)?;
    guard.set_reuse_address(false)?;
    // Ends the listening; the socket stays bound.
    guard.shutdown(Shutdown::Read)?;
    Ok(guard)
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Connections inherit these as they begin, which may be before anybody accepts them: no system call each.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).listen(BACKLOG)
}

/// Has no further connection begin at `listener`: what would begin one is dropped, as if it was lost on its way, which is
/// tried again after a second. What has begun goes on. So a backlog can be emptied to the end, which a close alone does not
/// wait for. It holds for everyone who has the socket.
pub fn lets_nobody_begin(listener: &impl AsFd) -> io::Result<()> {
    /// On the bytes of a segment: those with SYN and without ACK go (RFC 9293 §3.1), all others stay as long as they are.
    const PROGRAM: [SockFilter; 5] = [
        // The byte of the flags,
        SockFilter::new(0x30, 0, 0, 13),
        // those two of them,
        SockFilter::new(0x54, 0, 0, 0x12),
        // and whether only the first is there.
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&PROGRAM)
}

/// Undoes [`lets_nobody_begin`].
pub fn lets_all_begin(listener: &impl AsFd) -> io::Result<()> {
    SockRef::from(listener).detach_filter()
}

/// Where the peer of an accepted connection wanted to go, before a redirect changed it. A connection that was not
/// redirected was meant for the address at which it arrived.
pub fn original_destination(connection: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(connection);
    let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    let original = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let meant = match original {
        Ok(address) => address.as_socket().ok_or(io::ErrorKind::Unsupported)?,
        // No entry in connection tracking (or none at all in this kernel): nothing was changed.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => local,
        Err(error) => return Err(error),
    };
    Ok(SocketAddr::new(meant.ip().to_canonical(), meant.port()))
}

/// The loopback addresses that this namespace has.
fn loopback() -> io::Result<Vec<IpAddr>> {
    let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if has_ipv6()? {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    Ok(addresses)
}

/// Whether IPv6 is there and switched on: `::1` can be bound.
fn has_ipv6() -> io::Result<bool> {
    let bound = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into()));
    match bound {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Finds peers that vanished without a word within some six minutes, for the price of a packet every five.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(300))
    .with_interval(Duration::from_secs(15))
    .with_retries(5);

/// Connections that wait to be accepted; the kernel cuts it to its own limit (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_connection_that_was_not_redirected_was_meant_for_where_it_arrived() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = tcp(address.parse().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let port = listener.local_addr().unwrap().port();
            let dialled = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let dialled =
                if address == "[::1]:0" { format!("[::1]:{port}").parse().unwrap() } else { dialled };
            let _client = TcpStream::connect(dialled).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(original_destination(&accepted).unwrap(), dialled);
        }
    }

    #[test]
    fn a_reserved_address_is_nobody_elses_before_it_is_listened_on_and_after() {
        let taken = |address| {
            for count in [1, 2] {
                let error = reserve(address, count).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                assert_eq!(several(address, count).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            }
        };
        for (address, count) in [("127.0.0.1:0", 1), ("127.0.0.1:0", 2), ("[::1]:0", 1), ("[::]:0", 2)] {
            let (listeners, reserved) = reserve(address.parse().unwrap(), count).unwrap();
            let address = listeners[0].local_addr().unwrap();
            let reachable = || match address.ip().is_unspecified() {
                true => TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())),
                false => TcpStream::connect(address),
            };
            taken(address);
            assert_eq!(reachable().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            for listener in &listeners {
                reserved.begin(listener).unwrap();
            }
            reachable().unwrap();
            taken(address);
        }
    }

    #[test]
    fn who_comes_before_anybody_accepts_has_the_options_of_those_who_come_later() {
        let (mut reserved, begins) = reserve("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        begins.begin(&reserved[0]).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        for listener in [tcp(any).unwrap(), several(any, 1).unwrap().remove(0), reserved.remove(0)] {
            let _waits = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let socket = SockRef::from(&accepted);
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(300));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
        }
    }

    #[test]
    fn who_has_begun_goes_on_where_nobody_else_begins() {
        use std::io::{Read, Write};
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = tcp(address.parse().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let address = listener.local_addr().unwrap();
            let mut waits = TcpStream::connect(address).unwrap();
            lets_nobody_begin(&listener).unwrap();
            let refused = TcpStream::connect_timeout(&address, Duration::from_millis(50));
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut);
            waits.write_all(b"a request").unwrap();
            let mut accepted = listener.accept().unwrap().0;
            let mut read = [0; 9];
            accepted.read_exact(&mut read).unwrap();
            accepted.write_all(&read).unwrap();
            waits.read_exact(&mut read).unwrap();
            listener.set_nonblocking(true).unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            lets_all_begin(&listener).unwrap();
            TcpStream::connect(address).unwrap();
        }
    }

    #[test]
    fn an_address_is_free_again_as_soon_as_its_listener_is_closed() {
        let listener = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        // Closed on this side first: what remains of it here is in TIME-WAIT.
        drop(listener.accept().unwrap());
        drop((client, listener));
        several(address, 2).unwrap();
    }

    #[test]
    fn every_worker_has_a_listener_on_each_loopback_address() {
        // The kernel chooses the port of the first, so one worker only.
        let listeners = outbound(0, 1).unwrap();
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap().ip().is_loopback()));
        assert!(listeners.iter().any(|listener| listener.local_addr().unwrap().is_ipv4()));
    }
}
