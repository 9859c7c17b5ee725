//! Who listens in a network namespace, as the kernel's tables of sockets say.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The sockets that take connections to `address`, by the numbers that the kernel gives them, which a program that begins again
/// does not get again. `net`: the `/proc/PID/net` of a process there. None: that cannot be read.
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
    // The IPv6 wildcard takes IPv4 connections too, unless the program forbade that, which the table does not say.
    let takes = listening.is_ok_and(|ip| ip.is_unspecified() || ip.to_canonical() == address.ip());
    takes.then_some(number)
}

/// `TCP_LISTEN`, as the table writes it.
const LISTEN: &str = "0A";

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
    fn who_listens_again_is_another_socket() {
        let net = Path::new("/proc/thread-self/net");
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let one = at(net, address).unwrap();
        assert_eq!(one.len(), 1);
        drop(first);
        assert_eq!(at(net, address), Some(Vec::new()));
        let again = std::net::TcpListener::bind(address).unwrap();
        let other = at(net, address).unwrap();
        assert!(other.len() == 1 && other != one, "{one:?} {other:?}");
        drop(again);
        assert_eq!(at(Path::new("/nowhere"), address), None);
    }
}
