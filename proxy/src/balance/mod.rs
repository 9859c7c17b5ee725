//! Which endpoint takes a request, among those that are not ejected: by power of two choices over peak-EWMA, or as its
//! TrafficPolicy says (see [`choice`]).
//!
//! Two endpoints are drawn by weight, and the one that would cost less takes the request (see [`ewma`]). Where weights
//! differ, the first one drawn takes it unless it would cost more than twice as much as the second: so shares are as
//! the weights say while endpoints are alike, and one that is slow or full loses its share.
//!
//! Endpoints of one priority take requests while one of them is available, then those of the next.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use lighter_config::name::ServicePort;
use lighter_config::snapshot::{Balancing, EndpointSpec, HashOn, Locality, Nearness, Port, RequestParts};

use crate::stateful::held::Holding;

pub(crate) mod check;
mod choice;
mod circuit;
mod endpoint;
pub mod ewma;
mod group;
mod hash;
pub mod outlier;
mod pick;
mod picked;
pub mod rates;
mod report;
mod rotation;
mod tier;
mod weights;

use circuit::Circuit;
pub use endpoint::Endpoint;
use group::Group;
pub(crate) use picked::Held;
pub use picked::{Avoid, Outcome, Picked};
pub(crate) use report::LOAD_FIELD;
pub(crate) use report::OfDevice;
pub use report::Reported;
use tier::Tier;

/// The endpoints of one port.
pub struct Cluster {
    /// Which port.
    pub key: ServicePort,
    /// The first priority first.
    endpoints: Box<[Arc<Endpoint>]>,
    /// The same by priority.
    tiers: Arc<[Tier]>,
    balancing: Balancing,
    nearness: Option<Nearness>,
    /// Where there is a limit.
    circuit: Option<Arc<Circuit>>,
    group: Arc<Group>,
}

impl Cluster {
    /// The endpoints of `port` for callers that are `here`, taking over the health, load and identity of those that `old`
    /// had too.
    pub fn build(port: &Port, here: &Locality, old: Option<&Cluster>) -> Self {
        let group = old.map_or_else(|| Arc::new(Group::new(&port.key)), |old| old.group.clone());
        let known: HashMap<_, _> =
            old.iter().flat_map(|old| &old.endpoints).map(|endpoint| (endpoint.address, endpoint)).collect();
        // The same address twice is one endpoint.
        let mut seen = HashSet::new();
        let mut specs: Vec<&EndpointSpec> =
            port.endpoints.iter().filter(|spec| seen.insert(spec.address)).collect();
        let nearness = port.policy.nearness;
        let distance = |spec: &EndpointSpec| {
            nearness.map_or(0, |nearness| nearness.within.saturating_sub(spec.locality.common(here)))
        };
        specs.sort_by_key(|spec| (spec.priority, distance(spec)));
        let endpoints = specs.iter().map(|spec| match known.get(&spec.address) {
            // Connections that were made to somebody else, or in plain text, are not used any more.
            Some(endpoint) if endpoint.secure == spec.secure => Arc::clone(endpoint),
            _ => Endpoint::new(&port.key, spec.address, spec.secure.clone(), &group),
        });
        let endpoints: Box<[_]> = endpoints.collect();
        let members = specs.iter().zip(&endpoints);
        let members = members.map(|(spec, endpoint)| (spec.priority, Arc::downgrade(endpoint)));
        group.follow(&port.policy, members.collect());
        let circuit = port.policy.circuit.limits().then(|| group.circuit.clone());
        let balancing = port.policy.balancing.clone();
        // A large table takes a while to make, and turns go on where they were.
        let tiers = match old.filter(|old| old.balancing == balancing && old.has(&specs, distance)) {
            Some(old) => old.tiers.clone(),
            None => Tier::split(&specs, &balancing, distance),
        };
        Cluster { key: port.key.clone(), endpoints, tiers, balancing, nearness, circuit, group }
    }

    /// The one endpoint of this workload's own application; never ejected.
    pub fn local(key: ServicePort, app: SocketAddr) -> Self {
        let group = Arc::new(Group::new(&key));
        let endpoints = Box::new([Endpoint::new(&key, app, None, &group)]);
        let (tiers, balancing) = (Arc::new([Tier::of_one()]), Balancing::default());
        Cluster { key, endpoints, tiers, balancing, nearness: None, circuit: None, group }
    }

    /// Every endpoint, by priority.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Has requests that are picked an endpoint for ask there whether they wait, or not any more.
    pub(crate) fn hold(&self, holding: Option<Arc<Holding>>) {
        self.group.hold(holding);
    }

    /// Whether its Service has state, so that requests which are picked an endpoint for are kept, from here on.
    pub(crate) fn keep(&self, has_state: bool) {
        self.group.keep(has_state);
    }

    /// The weight of the endpoint at place `index` of [`Self::endpoints`].
    pub fn weight(&self, index: usize) -> u32 {
        self.tier(index).map_or(0, |tier| tier.weight(index))
    }

    /// The priority of the endpoint at place `index` of [`Self::endpoints`].
    pub fn priority(&self, index: usize) -> u32 {
        self.tier(index).map_or(0, |tier| tier.priority)
    }

    /// What says where a request of `caller` goes, if that is hashed.
    #[inline]
    pub fn hash(&self, request: &(impl RequestParts + ?Sized), caller: IpAddr) -> Option<u64> {
        hash::of_request(self.hashed()?, request, caller)
    }

    /// The same of an opaque connection.
    pub fn hash_connection(&self, caller: IpAddr) -> Option<u64> {
        hash::of_connection(self.hashed()?, caller)
    }

    #[inline]
    fn hashed(&self) -> Option<&[HashOn]> {
        self.balancing.balancer.hashes().then_some(&*self.balancing.hash)
    }

    /// Whether these are its endpoints, as they are.
    fn has(&self, specs: &[&EndpointSpec], distance: impl Fn(&EndpointSpec) -> u8) -> bool {
        let is = |(index, spec): (usize, &&EndpointSpec)| {
            let known = (self.endpoints[index].address, self.weight(index), self.priority(index));
            known == (spec.address, spec.weight, spec.priority)
                && self.tier(index).is_some_and(|tier| tier.distance == distance(spec))
        };
        specs.len() == self.endpoints.len() && specs.iter().enumerate().all(is)
    }

    fn tier(&self, index: usize) -> Option<&Tier> {
        self.tiers.iter().find(|tier| tier.has(index))
    }

    /// Takes the endpoint that a caller named itself.
    pub fn take(endpoint: &Arc<Endpoint>, now: Instant) -> Picked {
        endpoint.begin_regardless(endpoint.group.clock(now))
    }
}

#[cfg(test)]
mod tests;
