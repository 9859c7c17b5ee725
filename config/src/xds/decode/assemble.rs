//! From the resources that a sidecar holds to the snapshot that it runs by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Cluster, Listener, LoadAssignment, Resource, RouteConfiguration, RouteSource};
use crate::build::version;
use crate::build::virtual_ips::Addresses;
use crate::name::{ServiceName, ServicePort};
use crate::shared::SharedMap;
use crate::snapshot::filter::Mirror;
use crate::snapshot::{
    Action, Authorization, Backend, Balancing, EndpointSpec, HashOn, LinkPolicy, Mtls, Offload, Port,
    Protocol, Route, RouteTable, Service, Snapshot, TrafficPolicy, VirtualIps,
};
use crate::xds::facts::Workload;
use crate::xds::names;

/// A snapshot of `resources`, in any order.
///
/// * A Service of Lighter's own is as its control plane has it: the RouteConfiguration and Cluster of each port are
///   called as the port is.
/// * A Listener of any other name than those of such Services' ports is a port of a Service that is called as the
///   listener is ([`names::of_listener`]).
/// * A Cluster that is neither's is a backend without a name that could be dialled.
///
/// What is not there is not waited for: a port without a RouteConfiguration takes everything to its own endpoints if it is
/// Lighter's own, and has no routes otherwise; a backend whose cluster is not there does not exist.
pub fn assemble<'r>(resources: impl IntoIterator<Item = &'r Resource>) -> Snapshot {
    let parts = Parts::of(resources);
    let mut services: SharedMap<ServiceName, Arc<Service>> = SharedMap::default();
    for (name, service) in &parts.services {
        services.insert((*name).clone(), Arc::new(parts.own(service)));
    }
    let others = parts.others();
    let mut addresses = Addresses::default();
    // More than there are addresses for, nobody holds.
    others.keys().for_each(|name| drop(addresses.insert(name)));
    let taken: BTreeSet<_> = services.values().map(|service| service.virtual_ips.v4).collect();
    for (name, ports) in &others {
        let Some(virtual_ips) = addresses.of(name) else { continue };
        // An address that a Service has by its control plane's word stays that Service's.
        if !taken.contains(&virtual_ips.v4) {
            services.insert(name.clone(), Arc::new(self::service(name, virtual_ips, ports)));
        }
    }
    let outbound_policy = parts.workload.map(|workload| workload.outbound_policy).unwrap_or_default();
    let links = parts.workload.map(|workload| workload.links.clone()).unwrap_or_default();
    let (authorization, mtls) = (parts.authorization(), parts.mtls(0));
    let snapshot = Snapshot { services, authorization, outbound_policy, mtls, links, ..Snapshot::default() };
    Snapshot { version: version(&snapshot), ..snapshot }
}

fn service(name: &ServiceName, virtual_ips: VirtualIps, ports: &[Arc<Port>]) -> Service {
    Service {
        name: name.clone(),
        virtual_ips,
        ports: ports.to_vec(),
        probe: None,
        links: LinkPolicy::default(),
        state: None,
    }
}

/// Resources by what they are looked up by.
#[derive(Default)]
struct Parts<'r> {
    services: BTreeMap<&'r ServiceName, &'r Service>,
    listeners: BTreeMap<ServicePort, &'r Listener>,
    routes: BTreeMap<&'r str, &'r RouteConfiguration>,
    clusters: BTreeMap<&'r str, &'r Cluster>,
    endpoints: BTreeMap<&'r str, &'r LoadAssignment>,
    workload: Option<&'r Workload>,
}

impl<'r> Parts<'r> {
    fn of(resources: impl IntoIterator<Item = &'r Resource>) -> Self {
        let mut parts = Parts::default();
        for resource in resources {
            match resource {
                Resource::Service(service) => {
                    parts.services.insert(&service.name, service);
                }
                Resource::Listener(listener) => {
                    // Of several names of one port, one will do.
                    if let Some(port) = names::of_listener(&listener.name) {
                        parts.listeners.insert(port, listener);
                    }
                }
                Resource::Route(routes) => {
                    parts.routes.insert(&routes.name, routes);
                }
                Resource::Cluster(cluster) => {
                    parts.clusters.insert(&cluster.name, cluster);
                }
                Resource::Endpoints(assignment) => {
                    parts.endpoints.insert(&assignment.name, assignment);
                }
                Resource::Workload(workload) => parts.workload = Some(workload),
                Resource::Address(_) => {}
            }
        }
        let services = &parts.services;
        parts.listeners.retain(|port, _| !services.contains_key(&port.service));
        parts
    }

    /// A Service of Lighter's own with its routes and endpoints.
    fn own(&self, service: &Service) -> Service {
        let whole = |port: &Arc<Port>| {
            let name = port.key.to_string();
            let table = self.routes.get(&*name).and_then(|routes| routes.table(&name));
            let is_mine = self.workload.is_some_and(|workload| *workload.key == *service.name.to_string());
            Arc::new(Port {
                routes: self.table(table.unwrap_or(&port.routes)),
                tcp: self.backends(&port.tcp),
                endpoints: self.endpoints(&name),
                mtls: if is_mine { self.mtls(port.key.port) } else { Mtls::default() },
                ..Port::clone(port)
            })
        };
        Service { ports: service.ports.iter().map(whole).collect(), ..service.clone() }
    }

    /// What is no Service of Lighter's own: ports that are known as listeners, and clusters.
    fn others(&self) -> BTreeMap<ServiceName, Vec<Arc<Port>>> {
        let mut others: BTreeMap<ServiceName, Vec<Arc<Port>>> = BTreeMap::new();
        for (key, listener) in &self.listeners {
            others.entry(key.service.clone()).or_default().push(Arc::new(self.listening(key, listener)));
        }
        for (name, cluster) in &self.clusters {
            let key = self.resolve(&names::of_cluster(name));
            if names::is_foreign(&key.service) {
                let table = RouteTable::single(&key);
                let port = self.port(key.clone(), table, Some(cluster));
                others.entry(key.service).or_default().push(Arc::new(port));
            }
        }
        others
    }

    /// The port that a listener is about.
    fn listening(&self, key: &ServicePort, listener: &Listener) -> Port {
        let routes = match &listener.routes {
            RouteSource::Named(name) => self.routes.get(&**name).copied(),
            RouteSource::Inline(routes) => Some(routes),
        };
        // A client may or may not name the port.
        let host = listener.name.rsplit_once(':').map_or(&*listener.name, |(host, _)| host);
        let found = routes.and_then(|routes| routes.host(&listener.name).or_else(|| routes.host(host)));
        let table = self.table(found.map_or(&RouteTable::default(), |host| &host.table));
        let cluster = self.clusters.get(&*key.to_string()).copied();
        let mut port = self.port(key.clone(), table, cluster);
        if let Some(limit) = listener.request_timeout {
            port.policy.request_timeout = limit;
        }
        port.policy.retry = found.and_then(|host| host.retry.clone()).unwrap_or_default();
        port
    }

    fn port(&self, key: ServicePort, routes: RouteTable, cluster: Option<&Cluster>) -> Port {
        let mut policy = TrafficPolicy::default();
        policy.connect_timeout =
            cluster.and_then(|cluster| cluster.connect_timeout).unwrap_or(policy.connect_timeout);
        policy.retry_budget = cluster.and_then(|cluster| cluster.retry_budget).unwrap_or(policy.retry_budget);
        if let Some(cluster) = cluster {
            policy.balancing = Balancing { hash: self.hash(&cluster.name), ..cluster.balancing.clone() };
        }
        // Opaque bytes go where a request goes of which nothing is asked.
        let takes_all = |route: &&Route| route.matcher == Default::default();
        let tcp = routes.routes.iter().find(takes_all).map_or(Vec::new(), |route| route.backends.clone());
        Port {
            target_port: key.port,
            name: None,
            protocol: Protocol::Auto,
            routes,
            tcp,
            tcp_route: "default".into(),
            endpoints: cluster.map_or(Vec::new(), |cluster| self.endpoints(&cluster.name)),
            policy,
            mtls: Mtls::default(),
            guards: Vec::new(),
            key,
        }
    }

    /// By what requests to a cluster are told apart. Where no route says, nothing does, and they go anywhere.
    fn hash(&self, cluster: &str) -> Arc<[HashOn]> {
        let inline = self.listeners.values().filter_map(|listener| match &listener.routes {
            RouteSource::Inline(routes) => Some(routes),
            RouteSource::Named(_) => None,
        });
        let mut all = self.routes.values().copied().chain(inline);
        all.find_map(|routes| routes.hashes.get(cluster).cloned()).unwrap_or_default()
    }

    /// The table with its backends as far as they exist.
    fn table(&self, table: &RouteTable) -> RouteTable {
        let route = |route: &Route| {
            let mut route = Route { backends: self.backends(&route.backends), ..route.clone() };
            for action in &mut route.actions {
                if let Action::Mirror(Mirror { target, .. }) = action
                    && let Some(existing) = self.existing(target)
                {
                    *target = existing;
                }
            }
            if let Some(offload) = &mut route.offload {
                self.devices(offload);
            }
            route
        };
        RouteTable::new(table.routes.iter().map(route).collect())
    }

    /// Has devices be what their clusters are here. Where none is another, it stays the same memory.
    fn devices(&self, offload: &mut Arc<Offload>) {
        for place in 0..offload.devices.len() {
            let target = &offload.devices[place].target;
            if let Some(existing) = self.existing(target)
                && existing != *target
            {
                Arc::make_mut(offload).devices[place].target = existing;
            }
        }
    }

    fn backends(&self, backends: &[Backend]) -> Vec<Backend> {
        let backend = |backend: &Backend| {
            let existing = self.existing(&backend.target);
            let exists = existing.is_some();
            let target = existing.unwrap_or_else(|| backend.target.clone());
            Backend { target, exists, ..backend.clone() }
        };
        backends.iter().map(backend).collect()
    }

    /// What a route leads to, if there is such a cluster.
    fn existing(&self, target: &ServicePort) -> Option<ServicePort> {
        self.clusters.contains_key(&*names::cluster(target)).then(|| self.resolve(target))
    }

    /// The port that a cluster is of, or else the cluster itself.
    fn resolve(&self, target: &ServicePort) -> ServicePort {
        let of_service = |service: &&Service| service.ports.iter().any(|port| port.key == *target);
        let is_known =
            self.listeners.contains_key(target) || self.services.get(&target.service).is_some_and(of_service);
        if is_known || names::is_foreign(&target.service) {
            return target.clone();
        }
        ServicePort { service: ServiceName::new(names::FOREIGN, &target.to_string()), port: 0 }
    }

    fn endpoints(&self, cluster: &str) -> Vec<EndpointSpec> {
        let name = self.clusters.get(cluster).map_or(cluster, |cluster| &cluster.endpoints);
        self.endpoints.get(name).map_or(Vec::new(), |assignment| assignment.endpoints.clone())
    }

    /// Who may call what at this workload's own ports.
    fn authorization(&self) -> SharedMap<ServicePort, Arc<Authorization>> {
        let of_workload = |workload: &Workload| {
            let service = names::of_service(&workload.key)?;
            let said = workload.ports.iter().filter(|entry| !entry.authorization.is_empty());
            let by_port = said.map(|entry| {
                let key = ServicePort { service: service.clone(), port: entry.port };
                (key, entry.authorization.clone())
            });
            Some(by_port.collect())
        };
        self.workload.and_then(of_workload).unwrap_or_default()
    }

    /// What this workload asks of callers at a port; 0: at ports of which nothing is said.
    fn mtls(&self, port: u16) -> Mtls {
        let ports = self.workload.map_or(&[][..], |workload| &workload.ports);
        let of = |number: u16| ports.iter().find(|entry| entry.port == number);
        of(port).or_else(|| of(0)).map(|entry| entry.mtls).unwrap_or_default()
    }
}
