//! The snapshot as the data path uses it: configuration joined with what is alive, which is endpoints with their
//! health and load, filter chains, and metric handles.
//!
//! A mesh is immutable and stands behind an atomic pointer. What lives longer than one configuration (an endpoint's
//! health, load and counters) is carried over from the mesh before it, by key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::filter::Mirror;
use lighter_config::snapshot::{
    Backend, Locality, Mtls, Port, Protocol, RequestParts, Retry, Route, RouteTable, Snapshot, TrafficPolicy,
};
use lighter_filters::{Chain, Memory};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::authorize::Guard;
use crate::balance::{Cluster, Endpoint, Held};
use crate::error::Cause;
use crate::offload::{self, OfRoute};
use crate::overload::{Admission, Limiter};
use crate::retry::budget::Budget;
use crate::retry::{Came, Request, Rules, Tries, Verdict};
use crate::session::Sessions;
use crate::stateful::Hosted;
use crate::stateful::entry::Came as Arrives;
use crate::stateful::gate::{self, Gate, LetIn};
use crate::telemetry::{Direction, RouteMetrics};
use crate::worker::Shared;

/// Everything a request can be sent to at one moment.
#[derive(Default)]
pub struct Mesh {
    /// What it was made from.
    pub config: Arc<Snapshot>,
    /// Higher than that of the mesh before it: tells a connection whether it has looked at this one already. The
    /// pointer cannot tell, as a later mesh may stand where an earlier one stood.
    pub generation: u64,
    /// What filters remember. Outlives configurations.
    memory: Arc<Memory>,
    /// Where this sidecar is.
    here: Arc<Locality>,
    /// This workload's place, where its own Service has state.
    pub(crate) hosted: Option<Arc<Hosted>>,
    /// For ports whose workloads are kept from more than they can do.
    limiters: HashMap<ServicePort, Arc<Limiter>>,
    destinations: HashMap<ServicePort, Arc<Destination>>,
    by_virtual_ip: HashMap<SocketAddr, Arc<Destination>>,
    by_endpoint: HashMap<SocketAddr, (Arc<Destination>, Arc<Endpoint>)>,
}

/// The mesh of the moment.
#[derive(Default)]
pub struct InForce {
    mesh: ArcSwap<Mesh>,
    /// Of `mesh`: to see that nothing changed takes no more than to read this.
    generation: AtomicU64,
    changed: Notify,
}

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

/// A route with its state.
pub struct RouteState {
    /// What it does to a request. Empty: the request goes straight through.
    pub chain: Chain,
    /// Where it sends a request.
    pub backends: Backends,
    /// Longest time for an exchange.
    pub request_timeout: Option<Duration>,
    /// What is tried again.
    pub retries: Rules,
    /// What keeps this workload from more requests than it can work on.
    admission: Option<Admission>,
    /// What has them wait, or sends them on, where this workload's Service has state.
    pub(crate) gate: Option<Arc<Gate>>,
    /// Where requests of one session go to one endpoint.
    pub(crate) sessions: Option<Sessions>,
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
    /// Where its requests may run beside its backends.
    pub(crate) offload: Option<OfRoute>,
    /// Where copies of its requests go, in the order of its actions; none where that does not exist.
    pub(crate) mirrors: Box<[Option<Arc<Destination>>]>,
}

impl RouteState {
    /// Lets a request in as far as the workload can work on it, and where its state is here. `came` is asked only if that
    /// matters.
    #[inline]
    pub(crate) fn admit<'a, R: RequestParts + ?Sized>(
        &self,
        request: &R,
        came: impl FnOnce() -> (&'a Arc<Shared>, Arrives),
    ) -> Result<Held, Cause> {
        let admit = || self.admission.as_ref().map(|admission| admission.ask(request)).transpose();
        let Some(gate) = &self.gate else { return Ok(admit()?.map_or(Held::Nothing, Held::Admitted)) };
        let (shared, came) = came();
        gate.ask(shared, came, admit).map(|let_in| Held::LetIn(Box::new(let_in)))
    }

    /// The same for another try of one that was let in before, which may have `kept` what it holds.
    pub(crate) fn admit_again(&self, kept: Option<Box<LetIn>>) -> Held {
        let admitted = || self.admission.as_ref().map(Admission::again);
        match kept {
            Some(kept) => Held::LetIn(kept),
            None => admitted().map_or(Held::Nothing, Held::Admitted),
        }
    }

    /// How long to wait before another try of a request of this route; none if it had its last one. Counted.
    #[cold]
    pub(crate) fn again(&self, tries: &mut Tries, came: Came, request: Request<'_>) -> Option<Duration> {
        if came == Came::Late {
            self.metrics.try_timed_out();
        }
        let (now, seen) = (Instant::now(), || self.metrics.begun());
        match self.retries.decide(tries, came, request, now, seen, |most| fastrand::u64(..=most)) {
            Verdict::Again(pause, condition) => {
                self.metrics.tried_again(condition);
                Some(pause)
            }
            Verdict::Refused(refusal) => {
                self.metrics.not_tried_again(refusal);
                None
            }
            Verdict::Last => None,
        }
    }
}

/// The budgets of routes, by their counters: those of one name have one, whatever the configuration.
struct Budgets(HashMap<*const RouteMetrics, Arc<Budget>>);

impl Budgets {
    fn of(old: Option<&Destination>) -> Self {
        let routes = old.iter().flat_map(|old| &old.routes);
        Budgets(routes.map(|state| (Arc::as_ptr(&state.metrics), state.retries.budget.clone())).collect())
    }

    fn of_route(&mut self, metrics: &Arc<RouteMetrics>) -> Arc<Budget> {
        let new = || Arc::new(Budget::new(Instant::now(), metrics.begun()));
        self.0.entry(Arc::as_ptr(metrics)).or_insert_with(new).clone()
    }
}

/// Weighted backends.
#[derive(Default)]
pub struct Backends {
    /// Cumulated weight, and the cluster; none where the backend does not exist.
    shares: Box<[(u32, Option<Arc<Cluster>>)]>,
}

impl Backends {
    fn new(backends: &[Backend], clusters: &HashMap<ServicePort, Arc<Cluster>>) -> Self {
        let mut sum = 0u32;
        let shares = backends
            .iter()
            .filter(|backend| backend.weight > 0)
            .map(|backend| {
                sum = sum.saturating_add(backend.weight);
                (sum, clusters.get(&backend.target).cloned())
            })
            .collect();
        Backends { shares }
    }

    /// Every endpoint that a request can be sent to.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.clusters().flat_map(|cluster| cluster.endpoints())
    }

    /// Every cluster that a request can be sent to.
    fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.shares.iter().filter_map(|(_, cluster)| cluster.as_ref())
    }

    /// Picks a cluster by weight.
    pub fn pick(&self) -> Result<&Arc<Cluster>, Cause> {
        let chosen = match &*self.shares {
            [] => None,
            [(_, only)] => only.as_ref(),
            many => {
                let ticket = fastrand::u32(0..many[many.len() - 1].0);
                many.iter().find(|(upto, _)| ticket < *upto).and_then(|(_, cluster)| cluster.as_ref())
            }
        };
        chosen.ok_or(Cause::NoBackend)
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
    fn admits_as(&self, port: &Port) -> bool {
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
        let came = Arrives {
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

    fn outbound(
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

/// Where a connection's requests go. Held by a connection; found again when the mesh changes.
#[derive(Clone)]
pub struct Target {
    /// The port that was asked for.
    pub destination: Arc<Destination>,
    /// The endpoint that the caller named itself; it is honoured, never balanced away.
    pub pinned: Option<Arc<Endpoint>>,
    /// Who may come in; of this workload's own ports only, since it is the callee that guards itself.
    pub(crate) guard: Option<Arc<Guard>>,
    /// Whether callers have to prove who they are by now. Only ever set on a connection that came in before.
    pub(crate) strict: bool,
    /// It is not found again when the mesh changes.
    pub(crate) lasting: bool,
}

impl Target {
    /// Every endpoint of `destination`, which nobody guards here.
    pub(crate) fn of(destination: Arc<Destination>) -> Self {
        Target { destination, pinned: None, guard: None, strict: false, lasting: false }
    }

    /// Whether a request of a caller that did not prove who it is (`proven`) is refused.
    pub(crate) fn bars(&self, proven: bool) -> bool {
        self.strict && !proven
    }

    /// The same target in `mesh`; the old one stays in use where it is gone from there, so that open connections
    /// end by themselves.
    pub fn refresh(&mut self, mesh: &Mesh) {
        if self.lasting {
            return;
        }
        if self.destination.direction == Direction::Inbound {
            let key = &self.destination.port.key;
            self.guard = Guard::of(&mesh.config, key, self.guard.as_ref());
            self.strict = mesh.config.mtls_of(key) == Mtls::Strict;
            self.refresh_guards(mesh);
            return;
        }
        if let Some(now) = mesh.destinations.get(&self.destination.port.key)
            && !Arc::ptr_eq(now, &self.destination)
        {
            self.destination = now.clone();
            // The same address can have to prove another identity by now.
            if let Some(pinned) = &mut self.pinned
                && let Some((_, now)) = mesh.by_endpoint.get(&pinned.address)
            {
                *pinned = now.clone();
            }
        }
    }
}

impl Target {
    /// Has requests of this workload's own port meet the limits of the moment. They change rarely, so that each open
    /// connection may make itself a destination of its own then.
    fn refresh_guards(&mut self, mesh: &Mesh) {
        let old = &*self.destination;
        let is_other = |now: &&Arc<Port>| {
            now.guards != old.port.guards || !old.admits_as(now) || !old.is_hosted_by(mesh)
        };
        let Some(now) = mesh.config.port(&old.port.key).filter(is_other) else { return };
        // Of what has its cluster already, the address is not asked for.
        let Some(app) = old.cluster.endpoints().first().map(|endpoint| endpoint.address) else { return };
        self.destination = Arc::new(Destination::inbound(now, app, Some(old), mesh));
    }
}

impl InForce {
    /// Of a sidecar that is `here`: all meshes that follow are seen from there.
    pub fn at(here: Locality) -> Self {
        let mesh = Mesh { here: Arc::new(here), ..Mesh::default() };
        InForce { mesh: ArcSwap::from_pointee(mesh), ..InForce::default() }
    }

    /// The mesh, for a moment.
    pub fn load(&self) -> arc_swap::Guard<Arc<Mesh>> {
        self.mesh.load()
    }

    /// The mesh, to keep.
    pub fn load_full(&self) -> Arc<Mesh> {
        self.mesh.load_full()
    }

    /// The generation of the mesh; whoever sees a new one loads that mesh or a later one.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts a mesh in force.
    pub fn store(&self, mesh: Arc<Mesh>) {
        let generation = mesh.generation;
        self.mesh.store(mesh);
        self.generation.store(generation, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Resolves with the next mesh that is put in force after this was called.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Mesh {
    /// Joins `config` with what `before` holds alive.
    pub fn build(config: Arc<Snapshot>, before: &Mesh) -> Self {
        let mut clusters = HashMap::new();
        for port in config.services.values().flat_map(|service| &service.ports) {
            let old = before.destination(&port.key).map(|destination| &*destination.cluster);
            clusters.insert(port.key.clone(), Arc::new(Cluster::build(port, &before.here, old)));
        }
        let limiters = config.services.values().flat_map(|service| &service.ports).filter_map(|port| {
            let said = port.policy.overload.as_ref()?;
            let limiter = match before.limiters.get(&port.key) {
                Some(known) => known.clone(),
                None => Arc::new(Limiter::new(port, said, Instant::now())),
            };
            limiter.set(port, said);
            Some((port.key.clone(), limiter))
        });
        let limiters = limiters.collect();
        let generation = before.generation + 1;
        let (memory, here) = (before.memory.clone(), before.here.clone());
        let mut mesh = Mesh { config: config.clone(), generation, memory, here, limiters, ..Mesh::default() };
        for service in config.services.values() {
            for port in &service.ports {
                let old = before.destination(&port.key).map(|old| &**old);
                let Some(destination) = Destination::outbound(port, &clusters, old, &mesh) else {
                    continue;
                };
                destination.cluster.keep(service.state.is_some());
                let destination = Arc::new(destination);
                for ip in [service.virtual_ips.v4.into(), service.virtual_ips.v6.into()] {
                    mesh.by_virtual_ip.insert(SocketAddr::new(ip, port.key.port), destination.clone());
                }
                for endpoint in destination.cluster.endpoints() {
                    mesh.by_endpoint
                        .entry(endpoint.address)
                        .or_insert_with(|| (destination.clone(), endpoint.clone()));
                }
                mesh.destinations.insert(port.key.clone(), destination);
            }
        }
        mesh
    }

    /// This workload's place, if `key` is of its Service and that has state.
    fn hosts(&self, key: &ServicePort) -> Option<&Arc<Hosted>> {
        let hosted = self.hosted.as_ref()?;
        self.config.services.get(&key.service)?.state.is_some().then_some(hosted)
    }

    /// A port by its name.
    pub fn destination(&self, key: &ServicePort) -> Option<&Arc<Destination>> {
        self.destinations.get(key)
    }

    /// Every port, in no order.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.destinations.values()
    }

    /// `those` endpoints say themselves that they leave: they get nothing more, of any worker.
    pub(crate) fn leave(&self, those: impl Fn(&Endpoint) -> bool) {
        let now = Instant::now();
        let endpoints = self.destinations().flat_map(|destination| destination.cluster.endpoints());
        endpoints.filter(|endpoint| those(endpoint)).for_each(|endpoint| endpoint.leave(now));
    }

    /// What an original destination means: a virtual address, or an endpoint that the caller chose itself.
    pub fn by_address(&self, address: SocketAddr) -> Option<Target> {
        if let Some(destination) = self.by_virtual_ip.get(&address) {
            return Some(Target::of(destination.clone()));
        }
        let (destination, endpoint) = self.by_endpoint.get(&address)?;
        Some(Target { pinned: Some(endpoint.clone()), ..Target::of(destination.clone()) })
    }

    /// What a name means (see [`meant`]), if there is such a Service.
    pub fn service(&self, host: &str, own: &str) -> Option<ServiceName> {
        meant(host, own).filter(|name| self.config.services.contains_key(name))
    }
}

/// The Service that a name can mean: `reviews`, `reviews.ns`, `reviews.ns.svc`, `reviews.ns.svc.cluster.local`, with or
/// without a dot at the end. `own` is the namespace of short names.
pub(crate) fn meant(host: &str, own: &str) -> Option<ServiceName> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
    let (name, namespace) = host.split_once('.').unwrap_or((host, own));
    let is_label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let both = is_label(name) && is_label(namespace);
    both.then(|| ServiceName::new(&namespace.to_ascii_lowercase(), &name.to_ascii_lowercase()))
}

/// The Service that a sidecar's own file means by `name` or `namespace/name`.
pub(crate) fn service_name(text: &str, own: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').unwrap_or((own, text));
    ServiceName::new(namespace, name)
}
