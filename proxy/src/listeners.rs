//! Who listens in a network namespace, as the kernel says.
//!
//! It is asked over netlink, which looks at those that listen alone. Its tables of text are of all sockets: to read them takes
//! milliseconds where there is room for many, however few there are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_domain, socket_protocol};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// The sockets in the network namespace of the calling thread that take connections to `address`, by the numbers that the kernel
/// gives them, which a program that begins again does not get again. None: that cannot be told.
pub fn here(address: SocketAddr) -> Option<Vec<u64>> {
    match Kernel::open().and_then(|kernel| kernel.listeners(address)) {
        Ok(listeners) => Some(listeners),
        // Not every kernel answers that.
        Err(_) => at(Path::new("/proc/thread-self/net"), address),
    }
}

/// The same in the namespace of a process of which `net` is `/proc/PID/net`. None: that cannot be read.
pub fn at(net: &Path, address: SocketAddr) -> Option<Vec<u64>> {
    // Without IPv6 there is no second table.
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(net.join(table)).ok());
    if tables.iter().all(Option::is_none) {
        return None;
    }
    let lines = tables.iter().flatten().flat_map(|table| table.lines());
    Some(lines.filter_map(|line| listener(line, address)).collect())
}

/// The number of the socket of a line of `/proc/net/tcp` or `tcp6`, if it listens and takes connections to `address`.
fn listener(line: &str, address: SocketAddr) -> Option<u64> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, _remote, LISTEN) = (words.next()?, words.next()?, words.next()?) else { return None };
    // Behind queues, timers, the user and how often it was asked.
    let number = words.nth(5)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    if u16::from_str_radix(port, 16) != Ok(address.port()) {
        return None;
    }
    // Words of four bytes in the machine's own order, written as numbers.
    let words: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|at| u32::from_str_radix(&ip[8 * at..8 * at + 8], 16).ok())
        .collect::<Option<Vec<u32>>>()
        .map(|words| words.into_iter().flat_map(u32::to_ne_bytes).collect());
    let listening = match words.as_deref() {
        Some(bytes @ [_, _, _, _]) => <[u8; 4]>::try_from(bytes).map(IpAddr::from),
        Some(bytes) => <[u8; 16]>::try_from(bytes).map(IpAddr::from),
        None => return None,
    };
    listening.is_ok_and(|ip| takes(ip, address)).then_some(number)
}

/// Whether a socket that listens at `ip` takes connections to `address`, which has its port.
fn takes(ip: IpAddr, address: SocketAddr) -> bool {
    // The IPv6 wildcard takes IPv4 connections too, unless the program forbade that, which is not said.
    ip.is_unspecified() || ip.to_canonical() == address.ip()
}

/// Whom to ask over netlink who listens: the kernel, of the network namespace in which the socket was opened, whichever process has
/// it.
#[derive(Debug)]
pub struct Kernel(OwnedFd);

impl Kernel {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        Self::with(socket_with(kind.0, kind.1, kind.2, Some(netlink::SOCK_DIAG))?)
    }

    /// Takes over one that was opened elsewhere. Fails where it is another kind of socket.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        let is_one = socket_domain(&socket)? == AddressFamily::NETLINK
            && socket_protocol(&socket)? == Some(netlink::SOCK_DIAG);
        if is_one { Self::with(socket) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Gives the socket away, to be passed to another process.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    fn with(socket: OwnedFd) -> io::Result<Self> {
        // It answers within the call that asks. A limit all the same, so that nothing hangs.
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Kernel(socket))
    }

    /// The sockets that take connections to `address`. After a failure it is not to be asked again: an answer may be left.
    pub fn listeners(&self, address: SocketAddr) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        let mut datagram = vec![0; DATAGRAM];
        for family in [libc::AF_INET, libc::AF_INET6] {
            let sequence = fastrand::u32(1..);
            send(&self.0, &question(family as u8, address.port(), sequence), SendFlags::empty())?;
            loop {
                let length = match recv(&self.0, &mut datagram[..], RecvFlags::empty()) {
                    Err(Errno::INTR) => continue,
                    received => received?.0,
                };
                match heard(&datagram[..length], sequence, address, &mut found) {
                    Ok(true) => break,
                    Ok(false) => {}
                    // Without IPv6 nobody listens there.
                    Err(error) if family == libc::AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

/// Asks for all sockets of a family that listen at a port: a `struct nlmsghdr` and a `struct inet_diag_req_v2`.
fn question(family: u8, port: u16, sequence: u32) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut said = Vec::with_capacity(QUESTION);
    said.extend((QUESTION as u32).to_ne_bytes());
    said.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    said.extend(flags.to_ne_bytes());
    said.extend(sequence.to_ne_bytes());
    // Whoever asks, by the kernel's own number.
    said.extend(0u32.to_ne_bytes());
    said.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    said.extend((1u32 << TCP_LISTEN).to_ne_bytes());
    said.extend(port.to_be_bytes());
    // Any address, any interface, any socket.
    said.resize(QUESTION, 0);
    said
}

/// Takes over what a datagram of the answer to `sequence` says. Returns whether that was its end.
fn heard(mut datagram: &[u8], sequence: u32, address: SocketAddr, found: &mut Vec<u64>) -> io::Result<bool> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    while !datagram.is_empty() {
        let length = u32_at(datagram, 0).ok_or_else(short)? as usize;
        let message = datagram.get(..length).filter(|message| message.len() >= HEAD).ok_or_else(short)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, flags) = (u16_at(message, 4), u16_at(message, 6));
        let body = &message[HEAD..];
        if u32_at(message, 8) != Some(sequence) {
            continue;
        }
        if flags.is_some_and(|flags| i32::from(flags) & NLM_F_DUMP_INTR != 0) {
            // Somebody came or went meanwhile, and others may have been left out.
            return Err(io::ErrorKind::Interrupted.into());
        }
        match kind.map(i32::from) {
            // What breaks off amid a listing is said at its end.
            Some(end @ (libc::NLMSG_DONE | libc::NLMSG_ERROR)) => {
                let errno = u32_at(body, 0).ok_or_else(short)?.cast_signed();
                if end == libc::NLMSG_DONE && errno >= 0 {
                    return Ok(true);
                }
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            _ => found.extend(told(body, address)),
        }
    }
    Ok(false)
}

/// The number of the socket of a `struct inet_diag_msg`, if it listens and takes connections to `address`.
fn told(body: &[u8], address: SocketAddr) -> Option<u64> {
    let (family, state) = (i32::from(*body.first()?), *body.get(1)?);
    let port = u16::from_be_bytes(body.get(4..6)?.try_into().ok()?);
    let ip = match family {
        libc::AF_INET => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(8..12)?).ok()?)),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(body.get(8..24)?).ok()?)),
        _ => return None,
    };
    let number = u32_at(body, 68)?;
    (state == TCP_LISTEN && port == address.port() && takes(ip, address)).then_some(number.into())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// `TCP_LISTEN`, as the table writes it.
const LISTEN: &str = "0A";
const TCP_LISTEN: u8 = 10;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_DUMP_INTR: i32 = 0x10;
/// The bytes of a `struct nlmsghdr`.
const HEAD: usize = 16;
/// And with the question behind it.
const QUESTION: usize = HEAD + 56;
/// The kernel fills no larger ones.
const DATAGRAM: usize = 32 << 10;

const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_kernels_table() {
        let (v4, v6) = ("198.18.0.1:9080".parse().unwrap(), "[fd00:11:6874:e6::1]:9080".parse().unwrap());
        let any = "   0: 00000000:2378 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 76 1 0 100 0";
        let any6 = "   0: 00000000000000000000000000000000:2378 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1";
        let loopback = any.replace("00000000:2378", "0100007F:2378");
        let own = any.replace("00000000:2378", "010012C6:2378");
        let connected = any.replace(" 0A ", " 01 ");
        let other = any.replace("2378", "2379");
        assert_eq!([listener(any, v4), listener(any6, v4)], [Some(76), Some(77)]);
        assert_eq!([listener(any6, v6), listener(&own, v4)], [Some(77), Some(76)]);
        for line in
            [&*loopback, &connected, &other, "", "  sl  local_address rem_address   st", "0: zz:2378 x 0A"]
        {
            assert_eq!(listener(line, v4), None, "{line}");
        }
        assert_eq!(listener(&own, v6), None);
    }

    #[test]
    fn what_the_kernel_says_over_netlink_is_read() {
        let address: SocketAddr = "198.18.0.1:9080".parse().unwrap();
        let message = |kind: u16, sequence: u32, body: &[u8]| {
            let mut said = ((HEAD + body.len()) as u32).to_ne_bytes().to_vec();
            said.extend(kind.to_ne_bytes());
            said.extend([0, 0]);
            said.extend(sequence.to_ne_bytes());
            said.extend([0; 4]);
            said.extend(body);
            said
        };
        let socket = |family: i32, state: u8, port: u16, ip: &[u8], number: u32| {
            let mut said = vec![0; 72];
            (said[0], said[1]) = (family as u8, state);
            said[4..6].copy_from_slice(&port.to_be_bytes());
            said[8..8 + ip.len()].copy_from_slice(ip);
            said[68..].copy_from_slice(&number.to_ne_bytes());
            message(SOCK_DIAG_BY_FAMILY, 1, &said)
        };
        let (own, other) = ([198, 18, 0, 1], [127, 0, 0, 1]);
        let all = [
            socket(libc::AF_INET, TCP_LISTEN, 9080, &own, 70),
            socket(libc::AF_INET, TCP_LISTEN, 9080, &other, 71),
            socket(libc::AF_INET, 1, 9080, &own, 72),
            socket(libc::AF_INET, TCP_LISTEN, 9081, &own, 73),
            socket(libc::AF_INET6, TCP_LISTEN, 9080, &[0; 16], 74),
            message(SOCK_DIAG_BY_FAMILY, 2, &[0; 72]),
        ]
        .concat();
        let mut found = Vec::new();
        assert!(!heard(&all, 1, address, &mut found).unwrap());
        assert_eq!(found, [70, 74]);
        assert!(heard(&message(libc::NLMSG_DONE as u16, 1, &[0; 4]), 1, address, &mut found).unwrap());
        for kind in [libc::NLMSG_ERROR, libc::NLMSG_DONE] {
            let refused = message(kind as u16, 1, &(-libc::ENOENT).to_ne_bytes());
            let error = heard(&refused, 1, address, &mut found).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        }
        // Of what is cut short nothing is taken for the whole.
        assert!(heard(&all[..HEAD + 20], 1, address, &mut found).is_err());
        let mut torn = message(libc::NLMSG_DONE as u16, 1, &[0; 4]);
        torn[6] = NLM_F_DUMP_INTR as u8;
        assert!(heard(&torn, 1, address, &mut found).is_err());
    }

    #[test]
    fn who_listens_again_is_another_socket() {
        let net = Path::new("/proc/thread-self/net");
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let one = at(net, address).unwrap();
        assert_eq!(one.len(), 1);
        assert_eq!(here(address).as_ref(), Some(&one), "however it is asked");
        if let Ok(kernel) = Kernel::open() {
            assert_eq!(kernel.listeners(address).unwrap(), one);
            let kernel = Kernel::from_fd(kernel.into_fd()).unwrap();
            assert_eq!(kernel.listeners(address).unwrap(), one);
        }
        assert!(Kernel::from_fd(first.try_clone().unwrap().into()).is_err(), "another socket");
        drop(first);
        assert_eq!(at(net, address), Some(Vec::new()));
        assert_eq!(here(address), Some(Vec::new()));
        let again = std::net::TcpListener::bind(address).unwrap();
        let other = at(net, address).unwrap();
        assert!(other.len() == 1 && other != one, "{one:?} {other:?}");
        drop(again);
        assert_eq!(at(Path::new("/nowhere"), address), None);
    }
}
