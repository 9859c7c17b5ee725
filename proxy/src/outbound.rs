//! From this workload to a Service.

use std::net::SocketAddr;

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::ListenerConfig;
use lighter_config::snapshot::{OutboundPolicy, Protocol, is_virtual};

use crate::carry::{Call, Engine};
use crate::error::Cause;
use crate::intercept::{listen, probe};
use crate::mesh::{self, Mesh, Target};
use crate::tcp::Onward;
use crate::telemetry::Direction;
use crate::worker::Shared;

/// Serves a connection that the workload made and the kernel redirected.
pub(crate) async fn intercepted(call: Call) -> Engine {
    let Some(Ok(meant)) = call.io.stream.socket().map(listen::original_destination) else {
        // The client left before the kernel was asked.
        return None;
    };
    if probe::is_probe(meant) {
        let _ = probe::answer(call.io).await;
        return None;
    }
    let onward = Onward::Address(Direction::Outbound, meant);
    // Nobody redirected it: it was made to this very socket, and would come back for ever.
    if call.io.stream.socket().and_then(|socket| socket.local_addr().ok()) == Some(meant) {
        return call.refuse(&onward, Cause::Loop);
    }
    match find(&call.worker.shared, meant).await {
        Ok(Some(target)) => call.into_port(target, Protocol::Auto).await,
        Ok(None) => call.into_address(onward).await,
        Err(cause) => call.refuse(&onward, cause),
    }
}

/// Serves a connection to an explicit listener.
pub(crate) async fn explicit(call: Call, index: usize) -> Engine {
    let shared = call.worker.shared.clone();
    let listener = shared.listeners().get(index)?;
    let mut target = listener.target(&shared.mesh.load());
    if target.is_none()
        && let Some(discover) = &shared.discover
    {
        discover.wanted(&shared, |mesh| listener.target(mesh).is_some()).await;
        target = listener.target(&shared.mesh.load());
    }
    match target {
        Some(target) => call.into_port(target, listener.protocol).await,
        None => call.refuse(&Onward::Address(Direction::Outbound, listener.address), Cause::NoConfig),
    }
}

/// The same as [`destination`], with what a control plane has to say of an address that was not asked for before.
pub(crate) async fn find(shared: &Shared, meant: SocketAddr) -> Result<Option<Target>, Cause> {
    if let Some(discover) = &shared.discover
        && shared.mesh.load().by_address(meant).is_none()
    {
        // Whatever came of it shows in the mesh.
        discover.address(shared, meant).await;
    }
    destination(&shared.mesh.load(), meant)
}

/// The port of a Service that an address means; `None` for an address of the world that may be reached.
pub(crate) fn destination(mesh: &Mesh, meant: SocketAddr) -> Result<Option<Target>, Cause> {
    match mesh.by_address(meant) {
        Some(target) => Ok(Some(target)),
        // A virtual address leads nowhere but through a Service.
        None if is_virtual(meant.ip()) => Err(Cause::NoConfig),
        None => match mesh.config.outbound_policy {
            OutboundPolicy::Passthrough => Ok(None),
            OutboundPolicy::RegistryOnly => Err(Cause::NotInRegistry),
        },
    }
}

/// An explicit listener, with its names parsed once.
pub(crate) struct Listener {
    address: SocketAddr,
    service: ServiceName,
    port: Option<u16>,
    protocol: Protocol,
}

impl Listener {
    /// As configured, by a sidecar whose short names mean `namespace`.
    pub(crate) fn new(config: &ListenerConfig, namespace: &str) -> Self {
        Listener {
            address: config.listen,
            service: mesh::service_name(&config.service, namespace),
            port: config.port,
            protocol: config.protocol,
        }
    }

    fn target(&self, mesh: &Mesh) -> Option<Target> {
        let service = mesh.config.services.get(&self.service)?;
        let port = self.port.or_else(|| Some(service.ports.first()?.key.port))?;
        let key = ServicePort { service: self.service.clone(), port };
        Some(Target::of(mesh.destination(&key)?.clone()))
    }
}
