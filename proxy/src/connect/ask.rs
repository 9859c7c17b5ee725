//! Where a client of the proxy port wants to go, and what that means in the mesh of the moment.

use std::net::{IpAddr, SocketAddr};

use lighter_config::name::ServicePort;
use lighter_config::snapshot::OutboundPolicy;

use crate::error::Cause;
use crate::inbound::is_own;
use crate::mesh::Target;
use crate::outbound;
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
            Host::Address(ip) => return self.by_address(shared, ip.to_canonical()),
            Host::Name(name) => name,
        };
        {
            let mesh = shared.mesh.load();
            if let Some(service) = mesh.service(name, &shared.config.namespace) {
                let key = ServicePort { service, port: self.port };
                let destination = mesh.destination(&key).ok_or(Cause::NoConfig)?.clone();
                return Ok(Way::Port(Target { destination, pinned: None }));
            }
            if mesh.config.outbound_policy == OutboundPolicy::RegistryOnly {
                return Err(Cause::NotInRegistry);
            }
        }
        let found = tokio::net::lookup_host((&**name, self.port)).await.map_err(|_| Cause::ConnectFailed)?;
        let found: Vec<SocketAddr> = found.take(MOST_ADDRESSES).collect();
        match found.iter().any(|address| is_this_sidecar(shared, *address)) {
            true => Err(Cause::Loop),
            false => Ok(Way::World(found)),
        }
    }

    fn by_address(&self, shared: &Shared, ip: IpAddr) -> Result<Way, Cause> {
        let address = SocketAddr::new(ip, self.port);
        if is_this_sidecar(shared, address) {
            return Err(Cause::Loop);
        }
        match outbound::destination(&shared.mesh.load(), address)? {
            Some(target) => Ok(Way::Port(target)),
            None => Ok(Way::World(vec![address])),
        }
    }
}

/// Whether a tunnel would lead back here, or to the admin port behind the back of its checks.
fn is_this_sidecar(shared: &Shared, address: SocketAddr) -> bool {
    (address.ip().is_loopback() || address.ip().is_unspecified()) && is_own(&shared.config, address.port())
}

/// Addresses of one name that are tried in turn.
const MOST_ADDRESSES: usize = 4;
