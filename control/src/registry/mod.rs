//! Registration: who is there, kept over restarts of the control plane, told to the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lighter_config::build::RegisteredDevice;
use lighter_config::name::{ServiceName, ServicePort};
use tokio::sync::Notify;

use crate::index::Index;
use crate::migrate;
use crate::state::State;
use crate::store::{Store, StoreError};

mod device;
mod instance;
mod leases;
mod service;
pub mod sidecars;

pub use instance::{Instance, Presence, Remembering};
pub use leases::{Key, Leases, OfInstance, Refused, Standing};
pub use service::{Reports, Server};
use sidecars::Sidecars;

/// Everyone who is there.
pub struct Registry {
    leases: Mutex<Leases>,
    streams: AtomicU64,
    /// What sidecars report beside where they are.
    pub sidecars: Sidecars,
    /// What has yet to be written to the store.
    unwritten: Mutex<Facts>,
    /// A lease began to run, or there is something to write.
    woken: Notify,
    /// Services whose instances may come to another device, which has yet to be told.
    untold: Mutex<BTreeSet<ServiceName>>,
    /// There are some.
    devices_changed: Notify,
}

/// Instances by what they are, [`Key`] in words, as they are kept. None: no more.
type Facts = BTreeMap<String, Option<Vec<u8>>>;

impl Registry {
    /// Takes over who was there before a restart, with a full lease from `now`, and tells the index of it.
    pub fn open(lease: Duration, store: &Store, index: &Index, now: Instant) -> Result<Self, StoreError> {
        let mut leases = Leases::new(lease);
        let mut ports = BTreeSet::new();
        for (key, bytes) in store.facts(FACTS)? {
            match Instance::kept(&bytes) {
                Some((name, instance)) => {
                    ports.extend(instance.service_ports());
                    leases.restore(name, instance, now);
                }
                None => tracing::warn!(%key, "a registration in the store cannot be read"),
            }
        }
        for (service, names) in migrate::withdrawn(store)? {
            leases.withdraw(&service, names);
        }
        for (service, name) in migrate::alone(store)? {
            leases.list_alone(&service, name);
        }
        let registry = Registry {
            leases: Mutex::new(leases),
            streams: AtomicU64::new(0),
            sidecars: Sidecars::default(),
            unwritten: Mutex::default(),
            woken: Notify::new(),
            untold: Mutex::default(),
            devices_changed: Notify::new(),
        };
        registry.tell(&registry.lock(), &ports, index);
        let services = registry.lock().with_devices();
        // Before anybody listens: who was a device before the restart is one after it.
        match store.set_registered(&registry.devices_of(&services)) {
            Ok(true) => index.set_snapshot(store.snapshot()),
            Ok(false) => {}
            Err(errors) => tracing::error!(%errors, "what devices registered is not used"),
        }
        Ok(registry)
    }

    /// How many instances are there.
    pub fn instances(&self) -> usize {
        self.lock().len()
    }

    /// The number of a new stream.
    pub(crate) fn stream(&self) -> u64 {
        self.streams.fetch_add(1, Relaxed)
    }

    pub(crate) fn register(
        &self,
        stream: u64,
        name: &Arc<str>,
        instance: Instance,
        index: &Index,
    ) -> Result<(), Refused> {
        let key = Key { service: instance.service.clone(), name: name.clone() };
        let mut leases = self.lock();
        if leases.is_known(stream, &key, &instance) {
            return Ok(());
        }
        let fact = instance.keep(name);
        let is_device = instance.device.is_some() || leases.is_device(&key);
        let ports = leases.register(stream, name, instance)?;
        self.tell(&leases, &ports, index);
        if is_device {
            self.changed([key.service.clone()]);
        }
        self.write([(key.to_string(), Some(fact))]);
        Ok(())
    }

    pub(crate) fn lost(&self, stream: u64, now: Instant) {
        self.lock().lost(stream, now);
        self.woken.notify_one();
    }

    /// Ends what is over. Returns how many leases that were.
    pub fn expire(&self, now: Instant, index: &Index) -> usize {
        let mut leases = self.lock();
        let (keys, ports) = leases.expire(now);
        self.tell(&leases, &ports, index);
        if !keys.is_empty() {
            self.changed(keys.iter().map(|key| key.service.clone()));
            self.write(keys.iter().map(|key| (key.to_string(), None)));
        }
        keys.len()
    }

    /// Tells the index, while the lock is held: what it is told last is what is so.
    fn tell(&self, leases: &MutexGuard<'_, Leases>, ports: &BTreeSet<ServicePort>, index: &Index) {
        for port in ports {
            index.set_registered(port, leases.endpoints(port));
        }
    }

    fn write(&self, facts: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) {
        self.unwritten().extend(facts);
        self.woken.notify_one();
    }

    /// Has callers told of none of these instances of a Service, and of all the others. In one step: whoever is told of the one is
    /// told of the other.
    pub fn withdraw(&self, service: &ServiceName, names: BTreeSet<Arc<str>>, index: &Index) {
        let mut leases = self.lock();
        let ports = leases.withdraw(service, names);
        self.tell(&leases, &ports, index);
    }

    /// How many instances that are there callers are not told of as a migration took their work.
    pub fn withdrawn(&self) -> usize {
        self.lock().withdrawn()
    }

    /// Has callers told of this instance of a Service alone, or of none.
    pub fn list_alone(&self, service: &ServiceName, name: Option<Arc<str>>, index: &Index) {
        let mut leases = self.lock();
        let ports = leases.list_alone(service, name);
        self.tell(&leases, &ports, index);
    }

    /// Has callers told of one alone of these Services only: of all others, of every instance again.
    pub fn alone_are(&self, is_alone: impl Fn(&ServiceName) -> bool, index: &Index) {
        let mut leases = self.lock();
        let ports = leases.alone_are(is_alone);
        self.tell(&leases, &ports, index);
    }

    /// What the index is told of a port.
    #[cfg(test)]
    pub fn endpoints(&self, port: &ServicePort) -> crate::index::Registered {
        self.lock().endpoints(port)
    }

    /// How each instance of a Service stands.
    pub fn presences(&self, service: &ServiceName) -> BTreeMap<Arc<str>, Presence> {
        self.lock().presences(service)
    }

    /// How an instance stands for a migration. None: it is not there.
    pub fn presence(&self, key: &Key) -> Option<Presence> {
        self.lock().presence(key)
    }

    /// Of how many Services an instance is a device.
    pub fn devices_registered(&self) -> usize {
        self.lock().with_devices().len()
    }

    /// How the instances of a Service stand that are devices.
    pub fn devices(&self, service: &ServiceName) -> Vec<OfInstance> {
        self.lock().devices(service)
    }

    /// What the instances of a Service come to as a device.
    pub fn device(&self, service: &ServiceName) -> Option<RegisteredDevice> {
        self.lock().device(service)
    }

    /// What the instances of these Services come to as devices.
    fn devices_of(&self, services: &BTreeSet<ServiceName>) -> Vec<(ServiceName, Option<RegisteredDevice>)> {
        let leases = self.lock();
        services.iter().map(|service| (service.clone(), leases.device(service))).collect()
    }

    fn changed(&self, services: impl IntoIterator<Item = ServiceName>) {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).extend(services);
        self.devices_changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwritten(&self) -> MutexGuard<'_, Facts> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends leases in time and writes what changed, until the control plane stops.
pub async fn keep(state: Arc<State>) {
    let registry = &state.registry;
    let mut stopping = state.stopping();
    let mut again = None;
    loop {
        let end = registry.lock().next_end().into_iter().chain(again).min();
        let ended = async {
            match end {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        let stop = tokio::select! {
            () = stopping.asked() => true,
            () = registry.woken.notified() => false,
            () = ended => false,
        };
        let over = registry.expire(Instant::now(), &state.index);
        if over > 0 {
            state.metrics.expired_leases.fetch_add(over as u64, Relaxed);
            tracing::info!(instances = over, "leases ended: they have not been heard of");
        }
        again = (!write(&state).await).then(|| Instant::now() + RETRY);
        if stop {
            return;
        }
        // Many who register at once are one write.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes Devices of what is registered, until the control plane stops. Judging it is not the business of those who register.
pub async fn keep_devices(state: Arc<State>) {
    let mut stopping = state.stopping();
    loop {
        tokio::select! {
            () = stopping.asked() => return,
            () = state.registry.devices_changed.notified() => {}
        }
        let judged = tokio::task::spawn_blocking({
            let state = state.clone();
            move || {
                let untold = &state.registry.untold;
                let services = std::mem::take(&mut *untold.lock().unwrap_or_else(PoisonError::into_inner));
                state.store.set_registered(&state.registry.devices_of(&services))
            }
        });
        match judged.await {
            Ok(Ok(true)) => tracing::info!("other devices are registered"),
            Ok(Ok(false)) => {}
            Ok(Err(errors)) => tracing::error!(%errors, "what devices registered is not used"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        // Many who register at once are one change.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes what has yet to be written. Returns whether nothing is left of it.
async fn write(state: &Arc<State>) -> bool {
    let facts = std::mem::take(&mut *state.registry.unwritten());
    if facts.is_empty() {
        return true;
    }
    let facts: Vec<_> = facts.into_iter().collect();
    let store = state.store.clone();
    let written =
        tokio::task::spawn_blocking(move || store.set_facts(FACTS, &facts).map_err(|error| (error, facts)));
    match written.await {
        Ok(Ok(())) => true,
        Ok(Err((error, facts))) => {
            // What was said meanwhile is newer.
            tracing::error!(%error, "registrations are not written: after a restart they would be missing");
            let mut unwritten = state.registry.unwritten();
            for (key, fact) in facts {
                unwritten.entry(key).or_insert(fact);
            }
            false
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What the store calls them.
const FACTS: &str = "instance";

/// The least time between two writes.
const PAUSE: Duration = Duration::from_millis(100);

/// When what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
