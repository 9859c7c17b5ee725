//! The snapshot as the data path uses it: configuration joined with what is alive, which is endpoints with their
//! health and load, filter chains, and metric handles.
//!
//! A mesh is immutable and stands behind an atomic pointer. What lives longer than one configuration (an endpoint's
//! health, load and counters) is carried over from the mesh before it, by key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::{Locality, Snapshot};
use lighter_filters::Memory;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub use self::destination::Destination;
pub(crate) use self::destination::{Learned, Speech};
pub use self::route::{Backends, RouteState};
pub use self::target::Target;
use crate::balance::{Cluster, Endpoint};
use crate::overload::Limiter;
use crate::stateful::Hosted;

mod destination;
mod route;
mod target;

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

    /// This workload's place, if `key` is a port of its Service and that has state. What else this workload listens for, as its own
    /// metrics or checks, is no part of the Service: it is there wherever the state is.
    fn hosts(&self, key: &ServicePort) -> Option<&Arc<Hosted>> {
        let hosted = self.hosted.as_ref()?;
        let service = self.config.services.get(&key.service)?;
        let is_its = service.state.is_some() && service.ports.iter().any(|port| port.key == *key);
        is_its.then_some(hosted)
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
