//! What keeps an application's name lookups from becoming DNS queries that can be redirected, taken out of its sight.
//!
//! Programs look names up by files in /etc and by sockets in the file system, and those are the host's. Most hosts need
//! nothing here: a query to any name server is redirected, even where no name server is named (resolvers then ask
//! 127.0.0.1).

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use super::namespace::WORKLOAD;

/// What has to be covered on this host.
pub(super) struct Cover {
    sockets: Vec<PathBuf>,
    resolv_conf: Option<String>,
}

impl Cover {
    /// Looks at this host. `ipv6`: whether the application will have it.
    pub(super) fn needed(ipv6: bool) -> Self {
        let resolv_conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let sockets = SOCKETS.iter().map(PathBuf::from).filter(|path| path.exists());
        Cover {
            sockets: sockets.filter_map(|path| path.canonicalize().ok()).collect(),
            resolv_conf: replacement(&resolv_conf, ipv6),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.resolv_conf.is_none()
    }

    /// Covers it in this process's own mount namespace; the host sees nothing of it, but what the host mounts later is
    /// seen here.
    pub(super) fn apply(&self) -> io::Result<()> {
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)?;
        for socket in &self.sockets {
            // Connecting to what is no socket is refused, and the lookup goes on to DNS.
            mount_bind(Path::new("/dev/null"), socket)?;
        }
        if let Some(text) = &self.resolv_conf {
            let own = std::env::temp_dir().join(format!("lighter-resolv-{}", std::process::id()));
            let bound = File::create_new(&own).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                mount_bind(&own, &Path::new(RESOLV_CONF).canonicalize()?)?;
                Ok(())
            });
            // What is mounted stays without its name.
            let _ = std::fs::remove_file(&own);
            bound?;
        }
        Ok(())
    }
}

/// What /etc/resolv.conf has to be replaced with, if no name server in it can be sent a query from inside.
fn replacement(text: &str, ipv6: bool) -> Option<String> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default().to_owned())
    };
    let servers: Vec<String> = text.lines().filter_map(server).collect();
    let usable = |server: &String| match server.parse() {
        Ok(IpAddr::V4(_)) => true,
        Ok(IpAddr::V6(v6)) => ipv6 && !is_link_local(v6),
        // With an interface (`fe80::1%eth0`) that is not there inside.
        Err(_) => false,
    };
    if servers.is_empty() || servers.iter().any(usable) {
        return None;
    }
    let others = text.lines().filter(|line| server(line).is_none());
    let own = format!("nameserver {}", WORKLOAD[0]);
    Some(others.chain([own.as_str()]).flat_map(|line| [line, "\n"]).collect())
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// By which nss-resolve and nscd answer for the host, whatever the namespace.
const SOCKETS: [&str; 3] =
    ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"];

const RESOLV_CONF: &str = "/etc/resolv.conf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_left_alone_while_a_query_can_be_sent() {
        for text in ["", "# none\nsearch a.example\n", "nameserver 127.0.0.53\n", "nameserver ::1\n"] {
            assert_eq!(replacement(text, true), None, "{text}");
        }
        assert_eq!(replacement("nameserver fe80::1%eth0\nnameserver 10.0.0.1\n", true), None);
    }

    #[test]
    fn servers_that_are_out_of_reach_inside_are_replaced() {
        let text = "nameserver fe80::1%eth0\nsearch a.example\n";
        let expected = "search a.example\nnameserver 198.18.0.1\n";
        assert_eq!(replacement(text, true).as_deref(), Some(expected));
        assert_eq!(replacement("nameserver ::1", false).as_deref(), Some("nameserver 198.18.0.1\n"));
    }
}
