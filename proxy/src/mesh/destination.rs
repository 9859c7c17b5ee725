//! One port of one Service, made from what is configured and what the one before it has alive.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lighter_config::name::ServicePort;
use lighter_config::snapshot::filter::Mirror;
use lighter_config::snapshot::{
    Backend, Port, Protocol, RequestParts, Retry, Route, RouteTable, TrafficPolicy,
};
use lighter_filters::{Chain, Memory};

use super::Mesh;
use super::route::{Backends, Budgets, RouteState};
use crate::balance::{Cluster, Held};
use crate::error::Cause;
use crate::offload::{self, OfRoute};
use crate::overload::Admission;
use crate::retry::Rules;
use crate::session::Sessions;
use crate::stateful::entry::Came;
use crate::stateful::gate::{self, Gate};
use crate::telemetry::{Direction, RouteMetrics};
use crate::worker::Shared;

/// One port of one Service: routes with their state.
pub struct Destination {
    /// As configured.
    pub port: Arc<Port>,
    /// Outbound (towards a Service) or inbound (towards this workload's application).
    pub direction: Direction,
    /// Beside `port.routes.routes`, by `Route::index`.
    pub routes: Box<[RouteState]>,
    /// Where opaque connections go.
    pub tcp: Backends,
    /// Counts opaque connections.
    pub tcp_metrics: Arc<RouteMetrics>,
    /// Counts requests that no route took.
    pub unrouted: Arc<RouteMetrics>,
    /// This port's own endpoints.
    pub cluster: Arc<Cluster>,
    /// What its connections taught.
    pub(crate) learned: Arc<Learned>,
}

/// Who speaks first on a port's connections, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// The client, in HTTP. Nothing else is carried.
    Http,
    /// The client, in TLS.
    Tls,
    /// Nobody asks: the bytes are passed on from the first.
    Opaque,
    /// To be found out.
    Unknown,
}

impl From<Protocol> for Speech {
    fn from(said: Protocol) -> Self {
        match said {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => Speech::Http,
            Protocol::Tls => Speech::Tls,
            Protocol::Tcp | Protocol::Redis => Speech::Opaque,
            Protocol::Auto => Speech::Unknown,
        }
    }
}

/// What a port's connections taught. Outlives configurations.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    server_first: AtomicBool,
}

impl Learned {
    /// Whether its servers speak first, so that a connection is dialled before its client says anything.
    pub(crate) fn server_first(&self) -> bool {
        self.server_first.load(Ordering::Relaxed)
    }

    /// Notes who spoke first.
    pub(crate) fn set_server_first(&self, first: bool) {
        // Mostly known already: then the cache line stays shared between workers.
        if self.server_first() != first {
            self.server_first.store(first, Ordering::Relaxed);
        }
    }
}

impl Destination {
    /// The route that takes `request`, with its state.
    pub fn route<R: RequestParts + ?Sized>(&self, request: &R) -> Option<(&Route, &RouteState)> {
        let route = self.port.routes.select(request)?;
        Some((route, &self.routes[route.index]))
    }

    /// How callers treat this port.
    pub fn policy(&self) -> &TrafficPolicy {
        &self.port.policy
    }

    /// What this port speaks.
    pub fn protocol(&self) -> Protocol {
        self.port.protocol
    }

    /// Who speaks first here. A port that routes by HTTP carries nothing but HTTP, or routes could be walked around.
    pub(crate) fn speech(&self) -> Speech {
        match self.port.protocol {
            Protocol::Auto if self.is_routed() => Speech::Http,
            said => said.into(),
        }
    }

    /// Whether an HTTPRoute or GRPCRoute is attached.
    fn is_routed(&self) -> bool {
        !matches!(&*self.port.routes.routes, [only] if *only.name == *"default")
    }

    /// Whether requests to this workload are let in as `port` says.
    pub(super) fn admits_as(&self, port: &Port) -> bool {
        let admission = self.routes.first().and_then(|route| route.admission.as_ref());
        admission.is_some() == port.policy.overload.is_some()
            && admission.is_none_or(|admission| admission.has_routes_of(port))
    }

    /// Whether requests to this workload meet the place of `mesh`, or none where that has none.
    pub(crate) fn is_hosted_by(&self, mesh: &Mesh) -> bool {
        match (self.gate(), mesh.hosts(&self.port.key)) {
            (None, None) => true,
            (Some(gate), Some(hosted)) => gate.leads_to(hosted),
            _ => false,
        }
    }

    /// What requests to this workload meet where its Service has state.
    pub(crate) fn gate(&self) -> Option<&Arc<Gate>> {
        self.routes.first()?.gate.as_ref()
    }

    /// Lets an opaque connection in. None waits: its bytes would have to. Those of Redis ask for each command instead.
    pub(crate) fn admit_opaque(&self, shared: &Arc<Shared>, caller: SocketAddr) -> Result<Held, Cause> {
        let Some(gate) = self.gate().filter(|_| self.protocol() != Protocol::Redis) else {
            return Ok(Held::Nothing);
        };
        let came = Came {
            source: gate::source(caller),
            bytes: 0,
            deadline: None,
            is_stream: true,
            waits: false,
            is_kept: false,
            is_forwarded: false,
        };
        match gate.ask(shared, came, || Ok(None))? {
            // The state has moved, and nothing says to what is there who calls.
            let_in if let_in.waits() => Err(Cause::NotServing),
            let_in => Ok(Held::LetIn(Box::new(let_in))),
        }
    }

    pub(super) fn outbound(
        port: &Arc<Port>,
        clusters: &HashMap<ServicePort, Arc<Cluster>>,
        old: Option<&Destination>,
        mesh: &Mesh,
    ) -> Option<Self> {
        let cluster = clusters.get(&port.key)?.clone();
        let learned = old.map(|old| old.learned.clone()).unwrap_or_default();
        let backends = |backends: &[Backend]| Backends::new(backends, clusters);
        let known = (old, &*mesh.memory);
        let mut own = Self::with(port, Direction::Outbound, cluster, learned, known, backends);
        let placements = offload::placements(port, old);
        for (route, state) in port.routes.routes.iter().zip(&mut own.routes) {
            state.offload = OfRoute::of(route, &placements, state.backends.clusters().next(), clusters);
            let mirror = |said: &Mirror| Self::mirror(&said.target, clusters, mesh).map(Arc::new);
            state.mirrors = route.mirrors().map(mirror).collect();
        }
        Some(own)
    }

    /// A port as copies of requests find it: past its routes, so that a copy is never copied again.
    fn mirror(
        target: &ServicePort,
        clusters: &HashMap<ServicePort, Arc<Cluster>>,
        mesh: &Mesh,
    ) -> Option<Self> {
        let (port, cluster) = (mesh.config.port(target)?, clusters.get(target)?);
        let mut plain = (**port).clone();
        plain.routes = RouteTable::single(target);
        plain.routes.routes.iter_mut().for_each(|route| route.name = "mirror".into());
        let own = [Backend { target: target.clone(), weight: 1, exists: true }];
        let backends = |_: &[Backend]| Backends::new(&own, clusters);
        let (port, known) = (Arc::new(plain), (None, &*mesh.memory));
        Some(Self::with(&port, Direction::Outbound, cluster.clone(), Arc::default(), known, backends))
    }

    /// This workload's own port in `mesh`: every route leads to the application. What `old`, the same port before a change
    /// of configuration, has alive (connections, what was learned) is taken over.
    pub fn inbound(port: &Arc<Port>, app: SocketAddr, old: Option<&Destination>, mesh: &Mesh) -> Self {
        let (cluster, learned) = match old {
            Some(old) if old.port.key == port.key => (old.cluster.clone(), old.learned.clone()),
            _ => (Arc::new(Cluster::local(port.key.clone(), app)), Arc::default()),
        };
        let clusters = HashMap::from([(port.key.clone(), cluster.clone())]);
        let own = [Backend { target: port.key.clone(), weight: 1, exists: true }];
        // A callee does not route: its callers did. One route takes everything.
        let mut plain = (**port).clone();
        plain.routes = RouteTable::with_actions(&port.key, port.guards.clone());
        plain.tcp_route = "default".into();
        // The deadline of a request is its caller's.
        plain.policy.request_timeout = None;
        // So is what of it may run twice.
        plain.policy.retry = Retry::default();
        let backends = |_: &[Backend]| Backends::new(&own, &clusters);
        let kept = (old, &*mesh.memory);
        let mut made = Self::with(&Arc::new(plain), Direction::Inbound, cluster, learned, kept, backends);
        if let Some(limiter) = mesh.limiters.get(&port.key) {
            for route in &mut made.routes {
                route.admission = Some(Admission::new(limiter.clone(), port.clone()));
            }
        }
        if let Some(hosted) = mesh.hosts(&port.key) {
            for route in &mut made.routes {
                route.gate = Some(Gate::new(hosted, &port.key, route.admission.as_ref()));
            }
        }
        made
    }

    fn with(
        port: &Arc<Port>,
        direction: Direction,
        cluster: Arc<Cluster>,
        learned: Arc<Learned>,
        (old, memory): (Option<&Destination>, &Memory),
        backends: impl Fn(&[Backend]) -> Backends,
    ) -> Self {
        let mut budgets = Budgets::of(old);
        let routes = port.routes.routes.iter().map(|route| {
            let metrics = RouteMetrics::of(direction, &port.key, &route.name);
            let backends = backends(&route.backends);
            // Beside its own application there is no other one.
            let elsewhere = direction == Direction::Outbound
                && backends.clusters().map(|cluster| cluster.endpoints().len()).sum::<usize>() > 1;
            let sessions = |said| Sessions::new(said, &route.name, backends.clusters(), &metrics);
            RouteState {
                sessions: route.session.as_ref().map(sessions),
                chain: match &*route.actions {
                    [] => Chain::default(),
                    actions => {
                        let scope = format!("{} {} {}", direction.label(), port.key, route.name);
                        Chain::new(actions, &scope, memory)
                    }
                },
                backends,
                request_timeout: route.request_timeout.unwrap_or(port.policy.request_timeout),
                retries: Rules::new(
                    &port.policy,
                    route.retry.as_ref(),
                    budgets.of_route(&metrics),
                    elsewhere,
                )
                .returning(route.offload.is_some()),
                admission: None,
                gate: None,
                offload: None,
                metrics,
                mirrors: Box::default(),
            }
        });
        Destination {
            direction,
            routes: routes.collect(),
            tcp: backends(&port.tcp),
            tcp_metrics: RouteMetrics::of(direction, &port.key, &port.tcp_route),
            unrouted: RouteMetrics::of(direction, &port.key, "none"),
            cluster,
            learned,
            port: port.clone(),
        }
    }
}
