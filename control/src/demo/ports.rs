//! Ports of this machine that nobody has.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Ports of the loopback that were free a moment ago, and that no caller takes for its own end of a connection: whoever
/// listens there can be started again.
pub fn free(count: usize) -> io::Result<Vec<SocketAddr>> {
    let range = FIRST..callers_ports().unwrap_or(u16::MAX).max(FIRST + 1);
    // All at once, so that no port is given out twice.
    let mut listeners: Vec<TcpListener> = Vec::new();
    for _ in 0..TRIES {
        if listeners.len() == count {
            break;
        }
        listeners.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(range.clone()))).ok());
    }
    while listeners.len() < count {
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// The first of the ports that the system gives to callers.
fn callers_ports() -> Option<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_ascii_whitespace().next()?.parse().ok()
}

/// Below are those of well-known services.
const FIRST: u16 = 10_000;

/// Enough where most ports are free.
const TRIES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn free_ports_are_all_different_and_no_callers() {
        let ports = free(16).unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 16);
        if let Some(callers) = callers_ports().filter(|first| *first > 20_000) {
            assert!(ports.iter().all(|address| address.port() < callers), "{ports:?}");
        }
    }
}
