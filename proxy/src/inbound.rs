//! From a caller to this workload's application.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::{InboundConfig, SidecarConfig};
use lighter_config::snapshot::{Backend, Mtls, Port, Protocol, RouteTable, TrafficPolicy};

use crate::authorize::Guard;
use crate::carry::{Call, Engine};
use crate::device::MainTask;
use crate::error::Cause;
use crate::intercept::listen;
use crate::mesh::{Destination, Mesh, Target};
use crate::tcp::Onward;
use crate::telemetry::Direction;
use crate::worker::{Shared, Worker};

/// Serves a connection that a caller made to the workload and the kernel redirected. It goes on to the very address
/// that was meant, so that an application sees its own addresses and none that it does not listen on.
pub(crate) async fn intercepted(call: Call) -> Engine {
    let Some(Ok(meant)) = call.io.stream.socket().map(listen::original_destination) else {
        // The caller left before the kernel was asked.
        return None;
    };
    let onward = Onward::Address(Direction::Inbound, meant);
    if is_barred(&call.worker.shared) {
        return call.refuse(&onward, Cause::NoConfig);
    }
    if meant.ip().is_loopback() || is_own(&call.worker.shared.config, meant.port()) {
        return call.refuse(&onward, Cause::Loop);
    }
    let port = of_address(&call.worker.shared, meant);
    match port {
        Some(port) => {
            let mtls = port.mtls;
            let target = call.worker.apps.target(&call.worker.shared.mesh.load(), Some(port), meant, None);
            call.into_workload(target, Protocol::Auto, mtls).await
        }
        // Not said to be part of the Service: carried, counted, and never looked into.
        None => call.into_undeclared(onward).await,
    }
}

/// Serves a connection to an explicit inbound listener.
pub(crate) async fn explicit(call: Call, index: usize) -> Engine {
    let shared = &call.worker.shared;
    let config = shared.config.inbound.get(index)?;
    if is_barred(shared) {
        let onward = Onward::Address(Direction::Inbound, config.app);
        return call.refuse(&onward, Cause::NoConfig);
    }
    let port = of_listener(shared, config);
    let mtls = port.as_ref().map_or_else(|| shared.mesh.load().config.mtls, |port| port.mtls);
    let explicit = Some((config, shared.service()));
    let target = call.worker.apps.target(&shared.mesh.load(), port, config.app, explicit);
    let protocol = config.protocol;
    call.into_workload(target, protocol, mtls).await
}

/// Whether it is not known yet who may call.
pub(crate) fn is_barred(shared: &Shared) -> bool {
    shared.discover.as_ref().is_some_and(|discover| discover.bars_callers())
}

/// The port of this workload that a caller means who came in by a link, at `own`, to the endpoint at `meant`. None: there
/// is no such port. It is always this workload's: of what a caller says, only which of the ports is believed.
pub(crate) fn over_link(worker: &Worker, meant: SocketAddr, own: IpAddr) -> Option<Target> {
    let shared = &worker.shared;
    let mesh = shared.mesh.load();
    let is_meant = |config: &&InboundConfig| {
        let listen = config.listen;
        listen.port() == meant.port() && (listen.ip().is_unspecified() || listen.ip() == meant.ip())
    };
    if let Some(config) = shared.config.inbound.iter().find(is_meant) {
        let explicit = Some((config, shared.service()));
        return Some(worker.apps.target(&mesh, of_listener(shared, config), config.app, explicit));
    }
    let own = own.to_canonical();
    let intercepts = shared.config.intercept.as_ref().is_some_and(|intercept| intercept.inbound);
    if !intercepts || own.is_loopback() || is_own(&shared.config, meant.port()) {
        return None;
    }
    let app = SocketAddr::new(own, meant.port());
    Some(worker.apps.target(&mesh, Some(of_address(shared, app)?), app, None))
}

/// Whether this sidecar itself listens on `port`: nobody is led there through it.
pub(crate) fn is_own(config: &SidecarConfig, port: u16) -> bool {
    let listeners = config.listeners.iter().map(|listener| listener.listen.port());
    let inbound = config.inbound.iter().map(|inbound| inbound.listen.port());
    let others = [config.probe, config.connect, config.link, config.dns.as_ref().map(|dns| dns.listen)];
    [config.outbound_port, config.inbound_port, config.admin.port()]
        .into_iter()
        .chain(others.into_iter().flatten().map(|address| address.port()))
        .chain(listeners)
        .chain(inbound)
        .any(|own| own == port)
}

/// The port of this workload's own Service that callers mean who come for `address`.
fn of_address(shared: &Shared, address: SocketAddr) -> Option<Arc<Port>> {
    // An endpoint may listen elsewhere than its port's others.
    declared(shared, |port| port.endpoints.iter().any(|endpoint| endpoint.address == address))
        .or_else(|| declared(shared, |port| port.target_port == address.port()))
}

/// The port of this workload's own Service that an explicit listener is for.
fn of_listener(shared: &Shared, config: &InboundConfig) -> Option<Arc<Port>> {
    declared(shared, |port| match config.port {
        Some(wanted) => port.key.port == wanted,
        None => port.target_port == config.app.port(),
    })
}

/// The port of this workload's own Service that `is` is true of.
fn declared(shared: &Shared, is: impl Fn(&Port) -> bool) -> Option<Arc<Port>> {
    let mesh = shared.mesh.load();
    let service = mesh.config.services.get(shared.service()?)?;
    service.ports.iter().find(|port| is(port)).cloned()
}

/// The application's addresses that were asked for, as one worker knows them.
pub(crate) struct Apps {
    known: RefCell<HashMap<SocketAddr, Known>>,
    main_task: Option<Arc<MainTask>>,
}

struct Known {
    /// As configured when `destination` was made.
    port: Option<Arc<Port>>,
    destination: Arc<Destination>,
    guard: Option<Arc<Guard>>,
}

impl Apps {
    /// None yet. How long answers of `main_task` take is watched.
    pub(crate) fn new(main_task: Option<Arc<MainTask>>) -> Self {
        Apps { known: RefCell::default(), main_task }
    }

    /// The application at `app` as a destination, made when it is asked for first and again when its port's
    /// configuration changed. Connections to it outlive that.
    fn target(
        &self,
        mesh: &Mesh,
        port: Option<Arc<Port>>,
        app: SocketAddr,
        explicit: Option<(&InboundConfig, Option<&ServiceName>)>,
    ) -> Target {
        let mut known = self.known.borrow_mut();
        if let Some(old) = known.get_mut(&app)
            && old.port.as_ref().map(Arc::as_ptr) == port.as_ref().map(Arc::as_ptr)
            && old.destination.is_hosted_by(mesh)
        {
            old.guard = Guard::of(&mesh.config, &old.destination.port.key, old.guard.as_ref());
            return Target { guard: old.guard.clone(), ..Target::of(old.destination.clone()) };
        }
        let old = known.get(&app);
        let made = match &port {
            Some(port) => port.clone(),
            None => Arc::new(undeclared(app, explicit)),
        };
        let destination = Arc::new(Destination::inbound(&made, app, old.map(|old| &*old.destination), mesh));
        if let Some(main_task) = &self.main_task {
            main_task.watch(app, destination.routes.iter().map(|route| &route.metrics));
        }
        // A workload has few addresses and ports; more would be somebody's play.
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        let guard = Guard::of(&mesh.config, &destination.port.key, None);
        known.insert(app, Known { port, destination: destination.clone(), guard: guard.clone() });
        Target { guard, ..Target::of(destination) }
    }
}

/// What stands for the port of an explicit listener that no resource speaks of (yet).
fn undeclared(app: SocketAddr, explicit: Option<(&InboundConfig, Option<&ServiceName>)>) -> Port {
    let service = explicit.and_then(|(_, service)| service.cloned());
    let port = explicit.and_then(|(config, _)| config.port).unwrap_or(app.port());
    let protocol = explicit.map(|(config, _)| config.protocol).unwrap_or_default();
    let key = ServicePort { service: service.unwrap_or_else(ServiceName::nobody), port };
    Port {
        name: None,
        protocol,
        target_port: app.port(),
        routes: RouteTable::single(&key),
        tcp: vec![Backend { target: key.clone(), weight: 1, exists: true }],
        tcp_route: "default".into(),
        endpoints: Vec::new(),
        policy: TrafficPolicy::default(),
        mtls: Mtls::default(),
        guards: Vec::new(),
        key,
    }
}

const MOST_KNOWN: usize = 256;
