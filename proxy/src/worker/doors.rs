//! The sockets on which a sidecar listens.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use lighter_config::sidecar::SidecarConfig;

use super::{Sockets, StartError};
use crate::handover::Book;
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
pub(super) fn all(
    config: &SidecarConfig,
    sockets: Sockets,
    book: &mut Book,
) -> Result<Vec<Vec<Door>>, StartError> {
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
        let mut reserved = Reserved::default();
        let listeners = match given.next() {
            Some(listeners) if !listeners.is_empty() => listeners,
            _ => book.listeners(&format!("inbound {}", inbound.listen), workers, || {
                let (listeners, free) = on(inbound.listen, workers, listen::reserve)?;
                reserved = free;
                Ok::<_, StartError>(listeners)
            })?,
        };
        deal_after(Role::App(index), listeners, Some((inbound.app, reserved)));
    }
    let mut deal = |role, listeners| deal_after(role, listeners, None);
    let intercept = config.intercept.as_ref();
    let given = book.listeners("given outbound", workers, || Ok::<_, StartError>(sockets.outbound))?;
    if !given.is_empty() {
        deal(Role::Outbound, given);
    } else if intercept.is_some_and(|intercept| intercept.outbound) {
        let port = config.outbound_port;
        let make = || listen::outbound(port, workers).map_err(|source| on_port(port, source));
        deal(Role::Outbound, book.listeners(&format!("intercepted outbound {port}"), workers, make)?);
    }
    if intercept.is_some_and(|intercept| intercept.inbound) {
        let port = config.inbound_port;
        let make = || listen::inbound(port, workers).map_err(|source| on_port(port, source));
        deal(Role::Inbound, book.listeners(&format!("intercepted inbound {port}"), workers, make)?);
    }
    let listeners = config.listeners.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| (Role::Listener(index), "outbound", listener.listen));
    let connect = config.connect.map(|address| (Role::Proxy, "connect", address));
    let link = config.link.map(|address| (Role::Link, "link", address));
    for (role, what, address) in listeners.chain(connect).chain(link) {
        let make = || on(address, workers, listen::several);
        deal(role, book.listeners(&format!("{what} {address}"), workers, make)?);
    }
    Ok(dealt)
}

/// The sockets of the DNS server: handed over, or where the configuration says, or where redirected queries arrive.
pub(super) fn dns(
    config: &SidecarConfig,
    given: Vec<(UdpSocket, TcpListener)>,
    book: &mut Book,
) -> Result<Vec<(UdpSocket, TcpListener)>, StartError> {
    let given = book.pairs("given dns", || Ok::<_, StartError>(given))?;
    if !given.is_empty() {
        return Ok(given);
    }
    let redirected = config.intercept.as_ref().is_some_and(|intercept| intercept.dns);
    let port = match &config.dns {
        // Redirected queries arrive at both loopback addresses, whichever one is named.
        Some(dns) if redirected && dns.listen.ip().is_loopback() => dns.listen.port(),
        Some(dns) => {
            let address = dns.listen;
            return book.pairs(&format!("dns {address}"), || {
                let pair =
                    listen::dns_on(address).map_err(|source| StartError::Listen { address, source })?;
                Ok(vec![pair])
            });
        }
        None if redirected => nft::DNS_PORT,
        None => return Ok(Vec::new()),
    };
    let make = || listen::dns(port).map_err(|source| on_port(port, source));
    book.pairs(&format!("intercepted dns {port}"), make)
}

/// The one listener on an address, for `what`, unless it is `given`.
pub(super) fn one(
    what: &str,
    address: SocketAddr,
    given: Option<TcpListener>,
    book: &mut Book,
) -> Result<TcpListener, StartError> {
    let made = || listen::tcp(address).map_err(|source| StartError::Listen { address, source });
    let make = || Ok(vec![given.map_or_else(made, Ok)?]);
    let made: Result<_, StartError> = book.listeners(&format!("{what} {address}"), 1, make);
    // There is one for the one who accepts.
    made?.pop().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound).into())
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
