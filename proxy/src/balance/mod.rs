//! Which endpoint takes a request: power of two choices over peak-EWMA, among those that are not ejected.
//!
//! Two endpoints are drawn by weight, and the one that would cost less takes the request (see [`ewma`]). Where weights
//! differ, the first one drawn takes it unless it would cost more than twice as much as the second: so shares are as
//! the weights say while endpoints are alike, and one that is slow or full loses its share.
//!
//! Endpoints of one priority take requests while one of them is available, then those of the next.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use lighter_config::name::ServicePort;
use lighter_config::snapshot::{EndpointSpec, Port, Secure, TrafficPolicy};

use crate::error::Cause;
use crate::telemetry::{ClusterMetrics, EndpointLoad, EndpointMetrics};

pub mod ewma;
pub mod outlier;
mod tier;
mod weights;

use ewma::Load;
use outlier::{Health, Rules, State};
use tier::Tier;

/// The endpoints of one port.
pub struct Cluster {
    /// Which port.
    pub key: ServicePort,
    /// The first priority first.
    endpoints: Box<[Arc<Endpoint>]>,
    /// The same by priority.
    tiers: Box<[Tier]>,
    group: Arc<Group>,
}

/// Where a request can go. Shared between workers; survives configuration changes.
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The same as text: what requests that go over a link say of it.
    pub name: Arc<str>,
    /// Unique in this process: the key of connection pools.
    pub id: u32,
    /// Who it must prove to be. None: it is called in plain text.
    pub secure: Option<Secure>,
    /// Its counters.
    pub metrics: Arc<EndpointMetrics>,
    load: Load,
    health: Health,
    group: Arc<Group>,
}

impl Endpoint {
    /// Where its sidecar accepts links, and who it has to prove to be there.
    pub(crate) fn link(&self) -> Option<(&Secure, SocketAddr)> {
        self.secure.as_ref().and_then(|secure| Some((secure, secure.link?)))
    }
}

/// An endpoint that was picked, counted as in flight until this is dropped.
pub struct Picked {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    at: u64,
    probe: bool,
}

/// An endpoint at which a try failed: the next one goes elsewhere if it can.
pub struct Avoid {
    endpoint: Arc<Endpoint>,
    /// Nobody was there. Otherwise there was a connection, and another one may do.
    gone: bool,
}

/// How an exchange with an endpoint ended, as the balancer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came, whatever its status.
    Answered,
    /// The connection failed or broke: it counts towards ejection.
    Failed,
    /// The caller went away: says nothing of the endpoint.
    Abandoned,
}

impl Cluster {
    /// The endpoints of `port`, taking over the health, load and identity of those that `old` had too.
    pub fn build(port: &Port, old: Option<&Cluster>) -> Self {
        let group = old.map_or_else(|| Arc::new(Group::new(&port.key)), |old| old.group.clone());
        let known: HashMap<_, _> =
            old.iter().flat_map(|old| &old.endpoints).map(|endpoint| (endpoint.address, endpoint)).collect();
        // The same address twice is one endpoint.
        let mut seen = HashSet::new();
        let mut specs: Vec<&EndpointSpec> =
            port.endpoints.iter().filter(|spec| seen.insert(spec.address)).collect();
        specs.sort_by_key(|spec| spec.priority);
        let endpoints = specs.iter().map(|spec| match known.get(&spec.address) {
            // Connections that were made to somebody else, or in plain text, are not used any more.
            Some(endpoint) if endpoint.secure == spec.secure => Arc::clone(endpoint),
            _ => Endpoint::new(&port.key, spec.address, spec.secure.clone(), &group),
        });
        let endpoints: Box<[_]> = endpoints.collect();
        let members = specs.iter().zip(&endpoints);
        let members = members.map(|(spec, endpoint)| (spec.priority, Arc::downgrade(endpoint)));
        group.law.store(Arc::new(Law { rules: rules(&port.policy), members: members.collect() }));
        Cluster { key: port.key.clone(), endpoints, tiers: Tier::split(&specs), group }
    }

    /// The one endpoint of this workload's own application; never ejected.
    pub fn local(key: ServicePort, app: SocketAddr) -> Self {
        let group = Arc::new(Group::new(&key));
        let endpoints = Box::new([Endpoint::new(&key, app, None, &group)]);
        Cluster { key, endpoints, tiers: Box::new([Tier::of_one()]), group }
    }

    /// Every endpoint, by priority.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The weight of the endpoint at place `index` of [`Self::endpoints`].
    pub fn weight(&self, index: usize) -> u32 {
        self.tier(index).map_or(0, |tier| tier.weight(index))
    }

    /// The priority of the endpoint at place `index` of [`Self::endpoints`].
    pub fn priority(&self, index: usize) -> u32 {
        self.tier(index).map_or(0, |tier| tier.priority)
    }

    fn tier(&self, index: usize) -> Option<&Tier> {
        self.tiers.iter().find(|tier| tier.has(index))
    }

    /// Picks an endpoint, not `avoid` if there is another.
    #[inline]
    pub fn pick(&self, avoid: Option<&Avoid>, now: Instant) -> Result<Picked, Cause> {
        // One random number seeds all draws of a pick; a linear congruential step makes each next one.
        let mut state = fastrand::u64(..);
        self.pick_with(avoid, now, |below| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            ((u128::from(state) * u128::from(below)) >> 64) as u64
        })
    }

    /// The same, with `draw` giving a random number below its argument.
    pub fn pick_with(
        &self,
        avoid: Option<&Avoid>,
        now: Instant,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Result<Picked, Cause> {
        let at = self.group.clock(now);
        let gone = avoid.is_some_and(|avoid| avoid.gone);
        let avoid = avoid.and_then(|avoid| self.endpoints.iter().position(|known| avoid.is(known)));
        let available = |index: usize| Some(index) != avoid && self.endpoints[index].health.is_available(at);
        for tier in &self.tiers {
            // Again only if another worker was faster with the one request of a half-open endpoint.
            for _ in 0..3 {
                let Some(first) = tier.draw(None, &mut draw, available) else { break };
                let second = tier.draw(Some(first), &mut draw, available);
                let chosen = second.map_or(first, |second| self.better(tier, first, second, at));
                if let Some(picked) = self.endpoints[chosen].begin(at) {
                    if !tier.is_first() {
                        self.group.metrics.failed_over();
                    }
                    return Ok(picked);
                }
            }
        }
        // One that just failed, but is in service, is better than one that is ejected. Not so where nobody was there: the
        // ejected one may be back meanwhile.
        if let Some(picked) = avoid.filter(|_| !gone).and_then(|avoid| self.endpoints[avoid].begin(at)) {
            return Ok(picked);
        }
        let other = |tier: &Tier| tier.draw(None, &mut draw, |index| Some(index) != avoid);
        let first = self.tiers.iter().find_map(other).or(avoid);
        let chosen = self.endpoints.get(first.ok_or(Cause::NoEndpoint)?).ok_or(Cause::NoEndpoint)?;
        self.group.metrics.panicked();
        Ok(chosen.begin_regardless(at))
    }

    /// Takes the endpoint that a caller named itself.
    pub fn take(endpoint: &Arc<Endpoint>, now: Instant) -> Picked {
        endpoint.begin_regardless(endpoint.group.clock(now))
    }

    /// Which of two that were drawn takes the request.
    #[inline]
    fn better(&self, tier: &Tier, first: usize, second: usize, at: u64) -> usize {
        let (a, b) = (&self.endpoints[first], &self.endpoints[second]);
        // Whoever may show that it is back does so at once: it is one request, and its cost is not known.
        if a.health.state(at) == State::HalfOpen {
            return first;
        }
        if b.health.state(at) == State::HalfOpen {
            return second;
        }
        let (in_a, in_b) = (f64::from(a.load.in_flight()), f64::from(b.load.in_flight()));
        let moves = if tier.is_equal() {
            a.load.cost(at, in_a + 1.0) > b.load.cost(at, in_b + 1.0)
        } else {
            // Queues as they would be at endpoints of average weight. The first is as it is and the second as it would
            // be, so that a few requests at a heavy endpoint do not push one to an idle light one.
            let queue = |requests: f64, index: usize| (requests * tier.share(index)).max(1.0);
            a.load.cost(at, queue(in_a, first)) > 2.0 * b.load.cost(at, queue(in_b + 1.0, second))
        };
        if moves { second } else { first }
    }
}

impl Endpoint {
    /// Requests and opaque connections that are with it now.
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    /// The latency by which it is judged; zero if it never answered.
    pub fn latency(&self, now: Instant) -> Duration {
        self.load.average(self.group.clock(now))
    }

    /// Where it stands.
    pub fn state(&self, now: Instant) -> State {
        self.health.state(self.group.clock(now))
    }

    fn new(key: &ServicePort, address: SocketAddr, secure: Option<Secure>, group: &Arc<Group>) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Arc::new_cyclic(|this: &Weak<Endpoint>| {
            let metrics = EndpointMetrics::of(key, address);
            metrics.watch(this.clone());
            Endpoint {
                address,
                name: address.to_string().into(),
                id: NEXT.fetch_add(1, Relaxed),
                secure,
                metrics,
                load: Load::default(),
                health: Health::default(),
                group: group.clone(),
            }
        })
    }

    /// `None` if it is not available: ejected, or half-open with a request on its way.
    #[inline]
    fn begin(self: &Arc<Self>, at: u64) -> Option<Picked> {
        let probe = match self.health.state(at) {
            State::InService => false,
            State::Ejected => return None,
            State::HalfOpen if self.health.begin_probe(at) => true,
            State::HalfOpen => return None,
        };
        let mut picked = self.begin_regardless(at);
        picked.probe = probe;
        Some(picked)
    }

    #[inline]
    fn begin_regardless(self: &Arc<Self>, at: u64) -> Picked {
        self.load.begin();
        self.metrics.picked();
        Picked { endpoint: self.clone(), at, probe: false }
    }

    #[cold]
    fn failed(&self, probe: bool, latency: Duration, at: u64) {
        self.metrics.failed();
        self.load.observe_failure(latency, at);
        let law = self.group.law.load();
        // Held until the ejection is done, so that two at once do not pass the limit together.
        let mut deciding = None;
        let ejected = self.health.failure(probe, at, &law.rules, || {
            deciding = self.group.decide();
            deciding.is_some() && law.allows_one_more(self)
        });
        drop(deciding);
        if ejected {
            self.metrics.ejected();
            tracing::warn!(service = %self.group.key, endpoint = %self.address, "endpoint ejected");
        }
    }
}

impl Avoid {
    /// The one at which a try failed by `cause`.
    pub fn after(endpoint: Arc<Endpoint>, cause: Cause) -> Self {
        let gone = matches!(cause, Cause::ConnectRefused | Cause::ConnectTimeout | Cause::ConnectFailed);
        Avoid { endpoint, gone }
    }

    /// Whether it is this one.
    pub fn is(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.id == endpoint.id
    }
}

impl EndpointLoad for Endpoint {
    fn in_flight(&self) -> u32 {
        self.in_flight()
    }

    fn ewma(&self, now: Instant) -> Duration {
        self.latency(now)
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.state(now) != State::InService
    }
}

impl Picked {
    /// Tells how it ended. `latency` is from sending the request to the answer's head.
    #[inline]
    pub fn finish(self, outcome: Outcome, latency: Duration, now: Instant) {
        let at = self.endpoint.group.clock(now);
        self.finish_at(outcome, latency, at);
    }

    /// The same for one who knows how long ago it was picked.
    #[inline]
    pub fn finish_after(self, outcome: Outcome, latency: Duration, held: Duration) {
        let at = self.at + crate::telemetry::histogram::nanos(held);
        self.finish_at(outcome, latency, at);
    }

    #[inline]
    fn finish_at(mut self, outcome: Outcome, latency: Duration, at: u64) {
        let endpoint = &*self.endpoint;
        match outcome {
            Outcome::Answered => {
                if endpoint.health.success(self.at, at, || endpoint.group.law.load().rules) {
                    endpoint.load.restart(latency, at);
                    tracing::info!(service = %endpoint.group.key, endpoint = %endpoint.address, "endpoint is back");
                } else {
                    endpoint.load.observe(latency, at);
                }
                self.probe = false;
            }
            Outcome::Failed => {
                endpoint.failed(self.probe, latency, at);
                self.probe = false;
            }
            Outcome::Abandoned => {}
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.load.end();
        if self.probe {
            self.endpoint.health.abandon_probe();
        }
    }
}

/// What the endpoints of one port have in common. Survives configuration changes.
struct Group {
    key: ServicePort,
    epoch: Instant,
    law: ArcSwap<Law>,
    /// Held while an ejection is decided.
    deciding: Mutex<()>,
    metrics: Arc<ClusterMetrics>,
}

/// What holds since the last configuration change.
struct Law {
    rules: Rules,
    /// Each with its priority.
    members: Box<[(u32, Weak<Endpoint>)]>,
}

impl Group {
    fn new(key: &ServicePort) -> Self {
        Group {
            key: key.clone(),
            epoch: Instant::now(),
            law: ArcSwap::from_pointee(Law { rules: Rules::NEVER, members: Box::default() }),
            deciding: Mutex::new(()),
            metrics: ClusterMetrics::of(key),
        }
    }

    /// `None` if another ejection is being decided: the next failure asks again.
    fn decide(&self) -> Option<MutexGuard<'_, ()>> {
        match self.deciding.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// `now` in nanoseconds, above zero.
    #[inline]
    fn clock(&self, now: Instant) -> u64 {
        crate::telemetry::histogram::nanos(now.saturating_duration_since(self.epoch)) + 1
    }
}

impl Law {
    /// Whether `endpoint` may be ejected too. The limit is about those of one priority, and holds where there is nobody to
    /// take over: while a lower priority has an endpoint in service, all of a higher one may go.
    fn allows_one_more(&self, endpoint: &Endpoint) -> bool {
        let is_it = |member: &&(u32, Weak<Endpoint>)| std::ptr::eq(member.1.as_ptr(), endpoint);
        // One that is gone from the configuration is nobody's choice any more.
        let Some((priority, _)) = self.members.iter().find(is_it) else { return false };
        let is_out = |member: &Weak<Endpoint>| member.upgrade().is_some_and(|member| member.health.is_out());
        let mut later = self.members.iter().filter(|(other, _)| other > priority);
        if later.any(|(_, member)| !is_out(member)) {
            return true;
        }
        let alike = self.members.iter().filter(|(other, _)| other == priority);
        self.rules.allow(alike.clone().count(), alike.filter(|(_, member)| is_out(member)).count())
    }
}

fn rules(policy: &TrafficPolicy) -> Rules {
    Rules { after: policy.eject_after, length: policy.eject_for, max_percent: policy.max_ejected_percent }
}

#[cfg(test)]
mod tests;
