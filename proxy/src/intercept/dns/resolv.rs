//! What `/etc/resolv.conf` says (resolv.conf(5)), as far as a forwarder needs it.

use std::net::{IpAddr, SocketAddr};

/// Who answers, and what is appended to short names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolv {
    /// Name servers in order, three at most, as in every resolver.
    pub(super) servers: Vec<SocketAddr>,
    /// Search domains in lower case, without a dot at either end.
    pub(super) search: Vec<String>,
}

impl Resolv {
    /// Reads the text of a file. What is not understood is passed over, as resolvers do.
    pub(super) fn parse(text: &str) -> Self {
        let mut resolv = Resolv::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(address);
                    resolv.servers.extend(address.filter(|_| resolv.servers.len() < 3));
                }
                // The last line of either kind counts.
                Some("search" | "domain") => resolv.search = words.filter_map(domain).collect(),
                _ => {}
            }
        }
        resolv
    }
}

fn address(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 53));
    }
    // A link-local server with its interface: `fe80::1%eth0`.
    let (address, interface) = word.split_once('%')?;
    let scope = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok()?;
    let address = std::net::SocketAddrV6::new(address.parse().ok()?, 53, 0, scope.trim().parse().ok()?);
    Some(address.into())
}

fn domain(word: &str) -> Option<String> {
    let domain = word.trim_matches('.');
    (!domain.is_empty()).then(|| domain.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_search_domains_are_read() {
        let text = "# comment\nnameserver 10.0.0.2\nnameserver ::1\n domain one.example\n\
                    search Corp.Example. . two.example\nnameserver nonsense\nnameserver 10.0.0.3\n\
                    nameserver 10.0.0.4\noptions ndots:5\n";
        let resolv = Resolv::parse(text);
        let servers = ["10.0.0.2:53", "[::1]:53", "10.0.0.3:53"].map(|server| server.parse().unwrap());
        assert_eq!(resolv.servers, servers);
        assert_eq!(resolv.search, ["corp.example", "two.example"]);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(Resolv::parse("\n;\n#\nnameserver\n"), Resolv::default());
    }
}
