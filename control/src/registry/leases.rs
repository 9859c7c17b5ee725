//! Who is there, and for how long that holds without a word from them. No socket, no clock.
//!
//! An instance is registered by a stream. While that is open, its lease does not run; once it is lost, the instance stays
//! for one lease, and whoever takes it up again in time, by whatever stream, has never been away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::build::RegisteredDevice;
use lighter_config::identity::Spiffe;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::DeviceClass;
use lighter_config::snapshot::{EndpointSpec, Secure, Wires};

use super::device;
use super::instance::{Instance, Presence};
use super::sidecars::Id;
use crate::index::Registered;

/// All instances.
#[derive(Debug)]
pub struct Leases {
    lease: Duration,
    instances: BTreeMap<Key, Leased>,
    /// The instances of each Service.
    services: BTreeMap<ServiceName, BTreeSet<Arc<str>>>,
    /// Which instance each stream speaks for.
    streams: BTreeMap<u64, Key>,
    /// The ends of leases that run, soonest first.
    ends: BTreeSet<(Instant, Key)>,
    /// The services whose instances are reached at an address and do not drain, with how often each says so.
    addresses: BTreeMap<SocketAddr, BTreeMap<ServiceName, usize>>,
    /// Instances that callers are not told of, as a migration took their work from them.
    withdrawn: BTreeMap<ServiceName, BTreeSet<Arc<str>>>,
    /// Of Services with state: the only instance that callers are told of, if there is one.
    alone: BTreeMap<ServiceName, Option<Arc<str>>>,
}

/// Which instance: each service gives its own names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Of which Service.
    pub service: ServiceName,
    /// Its name.
    pub name: Arc<str>,
}

impl std::fmt::Display for Key {
    /// No other instance's: a Service's name has no space.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.service, self.name)
    }
}

#[derive(Debug)]
struct Leased {
    instance: Instance,
    held: Held,
}

/// How an instance stands that is a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfInstance {
    /// What it calls itself.
    pub name: Arc<str>,
    /// Who it proved to be.
    pub identity: Arc<str>,
    /// Whether it takes requests.
    pub standing: Standing,
    /// How many runs there may be at once.
    pub slots: u32,
    /// What kind of machine it is, and behind which port: of those of one Service that differ, only some count.
    pub kind: (DeviceClass, u16),
}

impl OfInstance {
    /// Which sidecar that is, among those that report.
    pub fn id(&self) -> Option<Id> {
        Some(Id { identity: Spiffe::parse(&self.identity).ok()?, instance: self.name.clone() })
    }
}

/// Whether an instance takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does.
    Ready,
    /// Its application does not answer its probe.
    Unready,
    /// It finishes what runs, or has left.
    Draining,
    /// It has not been heard of since its stream was lost, and its lease is not over.
    Lost,
}

impl Standing {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Standing::Ready => "ready",
            Standing::Unready => "unready",
            Standing::Draining => "draining",
            Standing::Lost => "lost",
        }
    }
}

/// What keeps an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Its stream.
    By(u64),
    /// Its lease.
    Until(Instant),
}

/// Why a registration is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address belongs to an instance of another service.
    #[error("an instance of another service is registered at {0}")]
    Taken(SocketAddr),
    /// One stream speaks for one instance.
    #[error("this stream speaks for another instance")]
    AnotherInstance,
    /// There is no room.
    #[error("there are {MOST_INSTANCES} instances of this service already")]
    TooMany,
}

impl Leases {
    /// Nobody, with leases of this length.
    pub fn new(lease: Duration) -> Self {
        Leases {
            lease,
            instances: BTreeMap::new(),
            services: BTreeMap::new(),
            streams: BTreeMap::new(),
            ends: BTreeSet::new(),
            addresses: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            alone: BTreeMap::new(),
        }
    }

    /// Takes an instance over from before a restart. It has one full lease from now on.
    pub fn restore(&mut self, name: Arc<str>, instance: Instance, now: Instant) {
        let held = Held::Until(now + self.lease);
        let key = Key { service: instance.service.clone(), name };
        self.put(key, Leased { instance, held });
    }

    /// Takes a registration in. Returns the ports whose endpoints may be others now.
    pub fn register(
        &mut self,
        stream: u64,
        name: &Arc<str>,
        instance: Instance,
    ) -> Result<BTreeSet<ServicePort>, Refused> {
        let key = Key { service: instance.service.clone(), name: name.clone() };
        if self.streams.get(&stream).is_some_and(|other| *other != key) {
            return Err(Refused::AnotherInstance);
        }
        let before = self.instances.get(&key);
        let siblings = self.services.get(&instance.service).map_or(0, BTreeSet::len);
        if before.is_none() && siblings >= MOST_INSTANCES {
            return Err(Refused::TooMany);
        }
        if let Some(address) = self.taken(&instance) {
            return Err(Refused::Taken(address));
        }
        let mut ports = instance.service_ports();
        ports.extend(before.map(|before| before.instance.service_ports()).unwrap_or_default());
        if let Some(Leased { held: Held::By(other), .. }) = before {
            // It is not known to be lost yet, and speaks for nobody any more.
            self.streams.remove(other);
        }
        self.streams.insert(stream, key.clone());
        self.put(key, Leased { instance, held: Held::By(stream) });
        Ok(ports)
    }

    /// Whether this stream has said just that already.
    pub fn is_known(&self, stream: u64, key: &Key, instance: &Instance) -> bool {
        let known = self.instances.get(key);
        known.is_some_and(|leased| leased.held == Held::By(stream) && leased.instance == *instance)
    }

    /// A stream was lost: the lease of its instance begins to run.
    pub fn lost(&mut self, stream: u64, now: Instant) {
        let Some(key) = self.streams.remove(&stream) else { return };
        let Some(leased) = self.take(&key) else { return };
        self.put(key, Leased { held: Held::Until(now + self.lease), ..leased });
    }

    /// Ends every lease that is over. Returns whose it was, and the ports whose endpoints are others now.
    pub fn expire(&mut self, now: Instant) -> (Vec<Key>, BTreeSet<ServicePort>) {
        let (mut keys, mut ports) = (Vec::new(), BTreeSet::new());
        while let Some((end, key)) = self.ends.first().cloned().filter(|(end, _)| *end <= now) {
            self.ends.remove(&(end, key.clone()));
            if let Some(leased) = self.take(&key) {
                ports.extend(leased.instance.service_ports());
                keys.push(key);
            }
        }
        (keys, ports)
    }

    /// From now on callers are told of none of these instances of a Service, and of all the others. Returns the ports whose
    /// endpoints may be others now.
    pub fn withdraw(&mut self, service: &ServiceName, names: BTreeSet<Arc<str>>) -> BTreeSet<ServicePort> {
        match names.is_empty() {
            true => drop(self.withdrawn.remove(service)),
            false => drop(self.withdrawn.insert(service.clone(), names)),
        }
        self.of(service).flat_map(|(_, leased)| leased.instance.service_ports()).collect()
    }

    /// How many instances that are there callers are not told of as a migration took their work.
    pub fn withdrawn(&self) -> usize {
        let names =
            self.withdrawn.iter().flat_map(|(service, names)| names.iter().map(move |name| (service, name)));
        let is_there = |(service, name): &(&ServiceName, &Arc<str>)| {
            self.services.get(*service).is_some_and(|there| there.contains(*name))
        };
        names.filter(is_there).count()
    }

    /// From now on callers are told of this instance of a Service alone, or of none. Returns the ports whose endpoints may be
    /// others now.
    pub fn list_alone(&mut self, service: &ServiceName, name: Option<Arc<str>>) -> BTreeSet<ServicePort> {
        if self.alone.get(service) == Some(&name) {
            return BTreeSet::new();
        }
        self.alone.insert(service.clone(), name);
        self.of(service).flat_map(|(_, leased)| leased.instance.service_ports()).collect()
    }

    /// From now on they are told of one alone of these Services only: of all others, of every instance again.
    pub fn alone_are(&mut self, is_alone: impl Fn(&ServiceName) -> bool) -> BTreeSet<ServicePort> {
        let mut ports = BTreeSet::new();
        for (service, _) in self.alone.extract_if(.., |service, _| !is_alone(service)).collect::<Vec<_>>() {
            ports.extend(self.of(&service).flat_map(|(_, leased)| leased.instance.service_ports()));
        }
        ports
    }

    /// How an instance stands for a migration. None: it is not there.
    pub fn presence(&self, key: &Key) -> Option<Presence> {
        self.instances.get(key).map(present)
    }

    /// How each instance of a Service stands.
    pub fn presences(&self, service: &ServiceName) -> BTreeMap<Arc<str>, Presence> {
        self.of(service).map(|(name, leased)| (name.clone(), present(leased))).collect()
    }

    /// When the next lease ends, if one runs.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// The endpoints of a port: of every instance that is ready and does not drain, and where the others are. Those that are
    /// withdrawn are among them only where there would be none: before nobody, whoever had the work has it again. Of a Service
    /// with state it is the one that serves, or none.
    pub fn endpoints(&self, port: &ServicePort) -> Registered {
        let (mut listed, mut withdrawn) = (BTreeMap::new(), BTreeMap::new());
        let mut unlisted = BTreeSet::new();
        let names = self.withdrawn.get(&port.service);
        let alone = self.alone.get(&port.service);
        for (name, Leased { instance, .. }) in self.of(&port.service) {
            let is_other = alone.is_some_and(|alone| alone.as_ref() != Some(name));
            let is_withdrawn = alone.is_none() && names.is_some_and(|names| names.contains(name));
            for one in instance.ports.iter().filter(|one| one.port == port.port) {
                if is_other || !instance.is_listed() {
                    unlisted.insert(one.address);
                    continue;
                }
                let secure = Some(Secure { identity: instance.identity.clone(), link: one.link });
                let (priority, locality) = (instance.priority, instance.locality.clone());
                let said = instance.wires.iter().map(String::as_str);
                // Every sidecar that says something of it has TCP.
                let wires = (!instance.wires.is_empty()).then(|| Wires::of(said));
                let spec =
                    EndpointSpec { address: one.address, weight: 1, priority, locality, secure, wires };
                if is_withdrawn { &mut withdrawn } else { &mut listed }.insert(one.address, spec);
            }
        }
        match listed.is_empty() {
            true => listed = withdrawn,
            false => unlisted.extend(withdrawn.into_keys()),
        }
        // Whoever drains may have left its address to another already.
        unlisted.retain(|address| !listed.contains_key(address));
        Registered { listed: listed.into_values().collect(), unlisted }
    }

    /// What the instances of a Service come to as a device: those that take traffic; if none does, those that do not drain, and
    /// else all of them. One that is away keeps what it had until its lease is over, so that nothing changes while it comes back.
    pub fn device(&self, service: &ServiceName) -> Option<RegisteredDevice> {
        let all: Vec<&Instance> = self.of(service).map(|(_, leased)| &leased.instance).collect();
        let which: [fn(&Instance) -> bool; 3] =
            [Instance::is_listed, |instance| !instance.draining, |_| true];
        which.into_iter().find_map(|which| {
            let those = all.iter().filter(|instance| which(instance));
            device::together(those.filter_map(|instance| instance.device.as_ref()))
        })
    }

    /// How the instances of a Service stand that are devices.
    pub fn devices(&self, service: &ServiceName) -> Vec<OfInstance> {
        let of_instance = |(name, leased): (&Arc<str>, &Leased)| {
            let Instance { identity, device, draining, .. } = &leased.instance;
            let is_lost = matches!(leased.held, Held::Until(_));
            let standing = match (leased.instance.is_listed(), draining, is_lost) {
                (_, true, _) => Standing::Draining,
                (_, false, true) => Standing::Lost,
                (true, false, false) => Standing::Ready,
                (false, false, false) => Standing::Unready,
            };
            let device = device.as_ref()?;
            Some(OfInstance {
                name: name.clone(),
                identity: identity.clone(),
                standing,
                slots: device.slots,
                kind: (device.class, device.port),
            })
        };
        self.of(service).filter_map(of_instance).collect()
    }

    /// The Services of which an instance is a device.
    pub fn with_devices(&self) -> BTreeSet<ServiceName> {
        let with = self.instances.iter().filter(|(_, leased)| leased.instance.device.is_some());
        with.map(|(key, _)| key.service.clone()).collect()
    }

    /// Whether this instance is a device.
    pub fn is_device(&self, key: &Key) -> bool {
        self.instances.get(key).is_some_and(|leased| leased.instance.device.is_some())
    }

    fn of(&self, service: &ServiceName) -> impl Iterator<Item = (&Arc<str>, &Leased)> {
        let names = self.services.get(service).into_iter().flatten();
        names.filter_map(|name| {
            let key = Key { service: service.clone(), name: name.clone() };
            self.instances.get(&key).map(|leased| (name, leased))
        })
    }

    /// How many instances there are.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// The first address of an instance at which one of another service is already. Whoever drains makes room, and needs
    /// none.
    fn taken(&self, instance: &Instance) -> Option<SocketAddr> {
        let is_taken = |address: &SocketAddr| {
            let mut services = self.addresses.get(address).into_iter().flat_map(BTreeMap::keys);
            services.any(|service| *service != instance.service)
        };
        held(instance).find(is_taken)
    }

    fn put(&mut self, key: Key, leased: Leased) {
        self.take(&key);
        if let Held::Until(end) = leased.held {
            self.ends.insert((end, key.clone()));
        }
        for address in held(&leased.instance) {
            *self.addresses.entry(address).or_default().entry(key.service.clone()).or_default() += 1;
        }
        self.services.entry(key.service.clone()).or_default().insert(key.name.clone());
        self.instances.insert(key, leased);
    }

    fn take(&mut self, key: &Key) -> Option<Leased> {
        let leased = self.instances.remove(key)?;
        if let Held::Until(end) = leased.held {
            self.ends.remove(&(end, key.clone()));
        }
        for address in held(&leased.instance) {
            let Some(services) = self.addresses.get_mut(&address) else { continue };
            if let Some(times) = services.get_mut(&key.service) {
                *times -= 1;
            }
            services.retain(|_, times| *times > 0);
            if services.is_empty() {
                self.addresses.remove(&address);
            }
        }
        if let Some(siblings) = self.services.get_mut(&key.service) {
            siblings.remove(&key.name);
            if siblings.is_empty() {
                self.services.remove(&key.service);
            }
        }
        Some(leased)
    }
}

fn present(Leased { instance, held }: &Leased) -> Presence {
    Presence {
        identity: instance.identity.clone(),
        ready: instance.is_listed(),
        draining: instance.draining,
        leaving: instance.leaving,
        is_heard: matches!(held, Held::By(_)),
        ports: instance.ports.iter().map(|one| one.port).collect(),
        addresses: instance.ports.iter().map(|one| (one.port, one.address)).collect(),
        link: instance.ports.iter().find_map(|one| one.link),
        remembering: instance.remembering.clone(),
    }
}

/// The addresses that an instance keeps from other services.
fn held(instance: &Instance) -> impl Iterator<Item = SocketAddr> {
    instance.ports.iter().filter(|_| !instance.draining).map(|port| port.address)
}

/// Most instances of one service.
const MOST_INSTANCES: usize = 10_000;

#[cfg(test)]
mod tests;
