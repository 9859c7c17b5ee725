//! The index: from what the mesh says and who is registered to the resources that streams carry.
//!
//! It is lazy and incremental. A resource is encoded when somebody first asks for it, and kept until something that it
//! is made of changes; a change costs what it concerns. Streams are told which names may have changed and compare
//! versions, which are hashes of contents: what comes out as it was is sent to nobody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::{EndpointSpec, Locality, Port, Service, Snapshot};
use lighter_config::xds::Kind;
use lighter_config::xds::server::{Encoded, Resources};
use tokio::sync::broadcast;

mod addresses;
mod encode;
mod touched;

use addresses::Addresses;
use touched::Touched;

/// What may have changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// These resources.
    Of(Arc<[(Kind, Arc<str>)]>),
    /// Any resource.
    Any,
}

/// Everything that streams can be told.
pub struct Index {
    trust_domain: Arc<str>,
    contents: Mutex<Contents>,
    changes: broadcast::Sender<(u64, Change)>,
    /// The number of the last change.
    told: Mutex<u64>,
}

/// What is known of a port's endpoints by registration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registered {
    /// Those that take traffic.
    pub listed: Vec<EndpointSpec>,
    /// Where instances are that take none now: not ready, or draining.
    pub unlisted: BTreeSet<SocketAddr>,
}

struct Contents {
    snapshot: Arc<Snapshot>,
    registered: BTreeMap<ServicePort, Arc<Registered>>,
    /// Endpoints of resources that do not answer their probe.
    unwell: BTreeMap<ServicePort, BTreeSet<SocketAddr>>,
    addresses: Addresses,
    /// What was encoded, by kind. Only what there is: names that clients make up cost nothing.
    encoded: [HashMap<Arc<str>, Encoded>; Kind::ALL.len()],
}

impl Index {
    /// An index of nothing, for a mesh of this trust domain.
    pub fn new(trust_domain: &str) -> Self {
        Index {
            trust_domain: trust_domain.into(),
            contents: Mutex::new(Contents {
                snapshot: Arc::default(),
                registered: BTreeMap::new(),
                unwell: BTreeMap::new(),
                addresses: Addresses::default(),
                encoded: Default::default(),
            }),
            changes: broadcast::Sender::new(KEPT_CHANGES),
            told: Mutex::new(0),
        }
    }

    /// What changes from now on, each with its number. Whoever falls behind has to look at everything.
    pub fn changes(&self) -> broadcast::Receiver<(u64, Change)> {
        self.changes.subscribe()
    }

    /// The number of the last change. Whoever has taken it in, and has nothing more to tell, has told what is so now.
    pub fn last_change(&self) -> u64 {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the mesh says now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot.clone()
    }

    /// Takes over what the mesh says from now on.
    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        let mut contents = self.lock();
        let before = std::mem::replace(&mut contents.snapshot, snapshot.clone());
        let mut touched = Touched::default();
        for (_, old, new) in before.services.changes(&snapshot.services) {
            for service in [old, new].into_iter().flatten() {
                touched.service(service, |port| contents.endpoints(port));
            }
            contents.addresses.replace(old, new);
        }
        for (port, ..) in before.authorization.changes(&snapshot.authorization) {
            touched.add(Kind::Workload, &port.service.to_string());
        }
        let everywhere = |said: &Snapshot| (said.outbound_policy, said.mtls, said.links.clone());
        if everywhere(&before) == everywhere(&snapshot) {
            return self.publish(contents, touched.into_names());
        }
        // They are in what every workload enforces.
        contents.encoded = Default::default();
        drop(contents);
        self.tell(Change::Any);
    }

    /// Takes over what is registered of a port.
    pub fn set_registered(&self, port: &ServicePort, now: Registered) {
        let mut contents = self.lock();
        let before = contents.registered.get(port).cloned().unwrap_or_default();
        if *before == now {
            return;
        }
        contents.addresses.replace_registered(port, &before.listed, &now.listed);
        let mut touched = Touched::default();
        touched.endpoints(port, before.listed.iter().chain(&now.listed));
        match now == Registered::default() {
            true => drop(contents.registered.remove(port)),
            false => drop(contents.registered.insert(port.clone(), Arc::new(now))),
        }
        self.publish(contents, touched.into_names());
    }

    /// Takes over whether an endpoint of a resource answers its probe. Until this is said, it is taken for well.
    pub fn set_well(&self, port: &ServicePort, endpoint: SocketAddr, is_well: bool) {
        let mut contents = self.lock();
        let unwell = contents.unwell.entry(port.clone()).or_default();
        let changed = if is_well { unwell.remove(&endpoint) } else { unwell.insert(endpoint) };
        if unwell.is_empty() {
            contents.unwell.remove(port);
        }
        if changed {
            let mut touched = Touched::default();
            touched.endpoints(port, []);
            self.publish(contents, touched.into_names());
        }
    }

    /// Whether an endpoint is taken for well.
    pub fn is_well(&self, port: &ServicePort, endpoint: SocketAddr) -> bool {
        !self.lock().unwell.get(port).is_some_and(|unwell| unwell.contains(&endpoint))
    }

    /// How many endpoints do not answer their probe.
    pub fn unwell(&self) -> usize {
        self.lock().unwell.values().map(BTreeSet::len).sum()
    }

    fn publish(&self, mut contents: MutexGuard<'_, Contents>, names: Arc<[(Kind, Arc<str>)]>) {
        for (kind, name) in names.iter() {
            contents.encoded[*kind as usize].remove(name);
        }
        drop(contents);
        if !names.is_empty() {
            self.tell(Change::Of(names));
        }
    }

    fn tell(&self, change: Change) {
        // Sent in the order of their numbers: whoever has taken one in has all before it.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told += 1;
        // Without a stream there is nobody to tell.
        let _ = self.changes.send((*told, change));
    }

    /// Every change of the contents is whole before anything in it can panic.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resources for Index {
    fn get(&self, kind: Kind, name: &str) -> Option<Encoded> {
        let mut contents = self.lock();
        if let Some(encoded) = contents.encoded[kind as usize].get(name) {
            return Some(encoded.clone());
        }
        let encode::Made { message, keep } = encode::resource(&contents, &self.trust_domain, kind, name)?;
        let encoded = Encoded::new(message);
        if keep {
            contents.encoded[kind as usize].insert(name.into(), encoded.clone());
        }
        Some(encoded)
    }

    fn names(&self, kind: Kind) -> Vec<Arc<str>> {
        let contents = self.lock();
        let mut touched = Touched::default();
        for service in contents.snapshot.services.values() {
            touched.service(service, |_| Vec::new());
        }
        touched.of(kind)
    }
}

impl Contents {
    fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.snapshot.services.get(name)
    }

    fn port(&self, key: &ServicePort) -> Option<&Arc<Port>> {
        self.service(&key.service)?.ports.iter().find(|port| port.key == *key)
    }

    /// The endpoints of a port: those of its resource that answer their probe, and those that are registered. An instance
    /// knows better than its resource whether it takes traffic; but what an operator wrote of an endpoint's share and priority
    /// holds. Of a Service with state nobody serves who is not registered.
    fn endpoints(&self, port: &Port) -> Vec<EndpointSpec> {
        let nobody = Arc::default();
        let registered = self.registered.get(&port.key).unwrap_or(&nobody);
        let of = |address, among: &[EndpointSpec]| among.iter().find(|one| one.address == address).cloned();
        let unwell = self.unwell.get(&port.key);
        let has_state = self.service(&port.key.service).is_some_and(|service| service.state.is_some());
        let configured = port.endpoints.iter().filter(|EndpointSpec { address, .. }| {
            let is_known =
                of(*address, &registered.listed).is_some() || registered.unlisted.contains(address);
            !has_state && !is_known && !unwell.is_some_and(|unwell| unwell.contains(address))
        });
        let listed = registered.listed.iter().map(|one| match of(one.address, &port.endpoints) {
            Some(EndpointSpec { weight, priority, locality, .. }) => {
                // Where it is, it may know better than who wrote its address down.
                let is_said = locality != Locality::default();
                let locality = if is_said { locality } else { one.locality.clone() };
                EndpointSpec { weight, priority, locality, ..one.clone() }
            }
            None => one.clone(),
        });
        configured.cloned().chain(listed).collect()
    }
}

/// How many changes a stream may fall behind.
const KEPT_CHANGES: usize = 1024;

#[cfg(test)]
mod tests;
