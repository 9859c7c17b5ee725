//! The sockets on which a sidecar listens.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use lighter_config::sidecar::SidecarConfig;

use super::{Sockets, StartError};
use crate::intercept::listen::Reserved;
use crate::intercept::{listen, nft};

/// One listening socket of one worker.
pub(super) struct Door {
    /// What comes in by it.
    pub(super) role: Role,
    /// The socket.
    pub(super) listener: std::net::TcpListener,
    /// What has to be before anybody is let in.
    pub(super) after: Option<After>,
}

/// Nobody is let in before the application listens: as long as it does not, callers are refused as they would be
/// without a sidecar.
pub(super) struct After {
    /// Where it will listen.
    pub(super) app: SocketAddr,
    /// Keeps the door's address until then.
    pub(super) reserved: Arc<Reserved>,
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
    /// Links that callers' sidecars open.
    Link,
}

impl Role {
    /// Whether callers of this workload come in by it, and not the workload itself.
    pub(super) fn is_inbound(self) -> bool {
        matches!(self, Role::Inbound | Role::App(_) | Role::Link)
    }
}

/// Makes what has to listen and was not handed over, and deals it out to the workers.
pub(super) fn all(config: &SidecarConfig, sockets: Sockets) -> Result<Vec<Vec<Door>>, StartError> {
    let mut dealt: Vec<Vec<Door>> = (0..config.workers.max(1)).map(|_| Vec::new()).collect();
    let workers = dealt.len();
    let mut deal_after = |role: Role, listeners: Vec<TcpListener>, after: Option<(SocketAddr, Reserved)>| {
        let after = after.map(|(app, reserved)| (app, Arc::new(reserved)));
        for (at, listener) in listeners.into_iter().enumerate() {
            let after = after.clone().map(|(app, reserved)| After { app, reserved });
            dealt[at % workers].push(Door { role, listener, after });
        }
    };
    let mut given = sockets.inbound.into_iter();
    for (index, inbound) in config.inbound.iter().enumerate() {
        let (listeners, reserved) = match given.next() {
            Some(listeners) if !listeners.is_empty() => (listeners, Reserved::default()),
            _ => on(inbound.listen, workers, listen::reserve)?,
        };
        deal_after(Role::App(index), listeners, Some((inbound.app, reserved)));
    }
    let mut deal = |role, listeners| deal_after(role, listeners, None);
    let intercept = config.intercept.as_ref();
    if !sockets.outbound.is_empty() {
        deal(Role::Outbound, sockets.outbound);
    } else if intercept.is_some_and(|intercept| intercept.outbound) {
        let port = config.outbound_port;
        deal(Role::Outbound, listen::outbound(port, workers).map_err(|source| on_port(port, source))?);
    }
    if intercept.is_some_and(|intercept| intercept.inbound) {
        let port = config.inbound_port;
        deal(Role::Inbound, listen::inbound(port, workers).map_err(|source| on_port(port, source))?);
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        deal(Role::Listener(index), on(listener.listen, workers, listen::several)?);
    }
    if let Some(address) = config.connect {
        deal(Role::Proxy, on(address, workers, listen::several)?);
    }
    if let Some(address) = config.link {
        deal(Role::Link, on(address, workers, listen::several)?);
    }
    Ok(dealt)
}

/// The sockets of the DNS server: handed over, or where the configuration says, or where redirected queries arrive.
pub(super) fn dns(
    config: &SidecarConfig,
    given: Vec<(UdpSocket, TcpListener)>,
) -> Result<Vec<(UdpSocket, TcpListener)>, StartError> {
    if !given.is_empty() {
        return Ok(given);
    }
    let redirected = config.intercept.as_ref().is_some_and(|intercept| intercept.dns);
    let (port, made) = match &config.dns {
        // Redirected queries arrive at both loopback addresses, whichever one is named.
        Some(dns) if redirected && dns.listen.ip().is_loopback() => {
            (dns.listen.port(), listen::dns(dns.listen.port()))
        }
        Some(dns) => {
            let address = dns.listen;
            let pair = listen::dns_on(address).map_err(|source| StartError::Listen { address, source })?;
            return Ok(vec![pair]);
        }
        None if redirected => (nft::DNS_PORT, listen::dns(nft::DNS_PORT)),
        None => return Ok(Vec::new()),
    };
    made.map_err(|source| on_port(port, source))
}

/// The one listener on an address.
pub(super) fn one(address: SocketAddr) -> Result<TcpListener, StartError> {
    listen::tcp(address).map_err(|source| StartError::Listen { address, source })
}

/// One listener for every worker on the same address.
fn on<T>(
    address: SocketAddr,
    workers: usize,
    make: fn(SocketAddr, usize) -> std::io::Result<T>,
) -> Result<T, StartError> {
    make(address, workers).map_err(|source| StartError::Listen { address, source })
}

fn on_port(port: u16, source: std::io::Error) -> StartError {
    StartError::Listen { address: SocketAddr::from(([0, 0, 0, 0], port)), source }
}
