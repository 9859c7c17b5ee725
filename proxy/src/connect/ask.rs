//! Where a client of the proxy port wants to go, and what that means in the mesh of the moment.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use lighter_config::name::ServicePort;
use lighter_config::snapshot::OutboundPolicy;

use crate::error::Cause;
use crate::inbound::is_own;
use crate::mesh::{self, Target};
use crate::outbound;
use crate::tcp::CONNECT_TIMEOUT;
use crate::worker::Shared;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// A name or an address.
    pub(crate) host: Host,
    /// The port.
    pub(crate) port: u16,
}

/// How a client named a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// By name, to be looked up here.
    Name(String),
    /// By address.
    Address(IpAddr),
}

/// Where an [`Ask`] leads.
pub(super) enum Way {
    /// To a Service.
    Port(Target),
    /// Out of the mesh, to the first of these that answers.
    World(Vec<SocketAddr>),
}

impl Host {
    /// A host as it stands in an authority; `None` if it can be none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(inside) = text.strip_prefix('[') {
            return inside
                .strip_suffix(']')?
                .parse()
                .ok()
                .map(|v6: std::net::Ipv6Addr| Host::Address(v6.into()));
        }
        if let Ok(v4) = text.parse::<std::net::Ipv4Addr>() {
            return Some(Host::Address(v4.into()));
        }
        let fits = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        fits.then(|| Host::Name(text.to_ascii_lowercase()))
    }
}

impl Ask {
    /// For the log and the counters of what was refused.
    pub(super) fn address(&self) -> SocketAddr {
        match self.host {
            Host::Address(ip) => SocketAddr::new(ip, self.port),
            Host::Name(_) => SocketAddr::new(super::UNSPECIFIED.ip(), self.port),
        }
    }

    /// Looks it up: Services first, then the world as `outboundPolicy` has it.
    pub(super) async fn way(&self, shared: &Shared) -> Result<Way, Cause> {
        let name = match &self.host {
            Host::Address(ip) => return self.by_address(shared, ip.to_canonical()).await,
            Host::Name(name) => name,
        };
        if let Some(discover) = &shared.discover {
            let meant: Vec<_> = mesh::meant(name, &shared.config.namespace).into_iter().collect();
            discover.names(shared, &meant).await;
        }
        {
            let mesh = shared.mesh.load();
            if let Some(service) = mesh.service(name, &shared.config.namespace) {
                let key = ServicePort { service, port: self.port };
                let destination = mesh.destination(&key).ok_or(Cause::NoConfig)?.clone();
                return Ok(Way::Port(Target::of(destination)));
            }
            if mesh.config.outbound_policy == OutboundPolicy::RegistryOnly {
                return Err(Cause::NotInRegistry);
            }
        }
        let wanted = (name.clone(), self.port);
        let lookup = move || Ok(wanted.to_socket_addrs()?.take(MOST_ADDRESSES).collect());
        by_name(shared, CONNECT_TIMEOUT, lookup).await
    }

    async fn by_address(&self, shared: &Shared, ip: IpAddr) -> Result<Way, Cause> {
        let address = SocketAddr::new(ip, self.port);
        if is_this_sidecar(shared, address) {
            return Err(Cause::Loop);
        }
        match outbound::find(shared, address).await? {
            Some(target) => Ok(Way::Port(target)),
            None => Ok(Way::World(vec![address])),
        }
    }
}

/// What `lookup` finds within `patience`.
///
/// The system's own way to look a name up blocks a thread and cannot be called off. So few do so at once, and each
/// counts until it ends, whether or not somebody still waits for it.
async fn by_name(
    shared: &Shared,
    patience: Duration,
    lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Way, Cause> {
    let lookups = shared.lookups.clone();
    let found = async {
        let permit = lookups.acquire_owned().await.ok()?;
        let counted = move || {
            let _permit = permit;
            lookup()
        };
        tokio::task::spawn_blocking(counted).await.ok()?.ok()
    };
    let found = tokio::time::timeout(patience, found).await.map_err(|_| Cause::ConnectTimeout)?;
    let found: Vec<SocketAddr> = (found.ok_or(Cause::ConnectFailed)?.into_iter())
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        .collect();
    match found.iter().any(|address| is_this_sidecar(shared, *address)) {
        true => Err(Cause::Loop),
        false => Ok(Way::World(found)),
    }
}

/// Whether a tunnel would lead back here, or to the admin port behind the back of its checks.
fn is_this_sidecar(shared: &Shared, address: SocketAddr) -> bool {
    (address.ip().is_loopback() || address.ip().is_unspecified()) && is_own(&shared.config, address.port())
}

/// Addresses of one name that are tried in turn.
const MOST_ADDRESSES: usize = 4;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use lighter_config::sidecar::SidecarConfig;

    use super::*;
    use crate::dial::Here;
    use crate::worker::MOST_LOOKUPS;

    /// So long that whatever waits for it never ends.
    const FOR_EVER: Duration = Duration::from_secs(1 << 20);

    fn shared() -> Shared {
        Shared::new(SidecarConfig::default(), Arc::new(Here::default()), Arc::new(Here::default()))
    }

    fn mapped(port: u16) -> SocketAddr {
        SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), port)
    }

    #[tokio::test]
    async fn an_ipv4_address_in_the_clothes_of_ipv6_is_an_ipv4_address() {
        let shared = shared();
        let admin = shared.config.admin.port();
        let way = by_name(&shared, FOR_EVER, move || Ok(vec![mapped(admin)])).await;
        assert_eq!(way.err(), Some(Cause::Loop));
        match by_name(&shared, FOR_EVER, || Ok(vec![mapped(7)])).await {
            Ok(Way::World(found)) => assert_eq!(found, ["127.0.0.1:7".parse().unwrap()]),
            other => panic!("{:?}", other.err()),
        }
    }

    #[tokio::test]
    async fn lookups_that_do_not_end_are_few_and_waited_for_only_so_long() {
        let shared = shared();
        let (begun, begins) = mpsc::channel();
        let mut ends = Vec::new();
        for _ in 0..MOST_LOOKUPS + 3 {
            let begun = begun.clone();
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let way = by_name(&shared, Duration::from_millis(20), move || {
                let _ = begun.send(());
                let _ = ended.recv();
                Ok(Vec::new())
            });
            assert_eq!(way.await.err(), Some(Cause::ConnectTimeout));
        }
        drop(begun);
        // Nobody can begin any more once those that did have ended.
        drop(ends);
        let began = tokio::task::spawn_blocking(move || begins.iter().count()).await.unwrap();
        assert_eq!(began, MOST_LOOKUPS);
        assert!(by_name(&shared, FOR_EVER, || Ok(Vec::new())).await.is_ok());
    }
}
