//! What a control plane tells this sidecar of (DESIGN: on demand, so that it holds only what its workload dials).
//!
//! The decisions are [`Client`]'s, which knows no socket and no clock. Here is what surrounds it: the stream to the
//! server ([`stream`]), the file in which what is in force outlives the process ([`store`]), the task that drives them
//! ([`task`]), and the lookups of connections that wait for an answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::{ControlConfig, SidecarConfig};
use lighter_config::snapshot::is_virtual;
use lighter_config::xds::Kind;
use lighter_config::xds::client::{Client, Key, Standing};
use lighter_config::xds::decode::{Codec, Resource};
use lighter_config::xds::names::{self, AddressKey};
use tokio::sync::{mpsc, watch};

use crate::mesh::{self, Mesh};
use crate::worker::Shared;

mod metrics;
mod store;
mod stream;
mod task;

pub(crate) use task::{restore, run};

use metrics::Metrics;

/// This sidecar's view of its control plane. Shared by all threads; only the control thread looks at the state itself.
pub struct Discover {
    config: ControlConfig,
    state: Mutex<State>,
    /// What addresses and names are known to mean, for lookups.
    answers: ArcSwap<Answers>,
    connected: AtomicBool,
    /// The server cannot be reached, as far as is known.
    away: AtomicBool,
    /// Everything that is asked for from the start is in force, or does not exist.
    settled: AtomicBool,
    /// Nobody is let in: the server did not say yet who may call.
    barred: AtomicBool,
    asks: mpsc::UnboundedSender<Key>,
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Key>>>,
    news: watch::Sender<()>,
    metrics: Metrics,
}

/// What the control thread works on.
struct State {
    client: Client<Codec>,
    /// Why there is no stream, or why the last one ended.
    fault: Option<String>,
    /// The version of each kind that the mesh of the moment is made of.
    in_force: BTreeMap<Kind, String>,
}

impl State {
    /// The mesh of the moment is made of what is in force now. Of a kind of which something waits, an older version is.
    fn note_in_force(&mut self) {
        for kind in Kind::ALL.into_iter().filter(|kind| self.client.is_settled(*kind)) {
            let version = self.client.version(kind);
            if !version.is_empty() && self.in_force.get(&kind).is_none_or(|noted| noted != version) {
                self.in_force.insert(kind, version.to_owned());
            }
        }
    }
}

/// By the key of the Address resource: whether it is of some Service.
type Answers = HashMap<Arc<str>, bool>;

/// What became of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The mesh of the moment has it.
    Held,
    /// It is of no Service, or nobody can tell for now.
    Nothing,
    /// It is of a Service, and what that needs did not come in time.
    Late,
}

impl Discover {
    /// A view of nothing so far; none if this sidecar's file names no control plane.
    pub(crate) fn new(config: &SidecarConfig) -> Option<Self> {
        let control = config.control.clone()?;
        let absent_after = if control.own_resources { ABSENT_AFTER } else { ABSENT_AFTER_ELSEWHERE };
        let guarded = control.own_resources && config.service.is_some();
        let mut client = Client::new(Codec { own: control.own_resources }, absent_after);
        for key in roots(config, &control) {
            client.want(key);
        }
        let (asks, inbox) = mpsc::unbounded_channel();
        Some(Discover {
            config: control,
            state: Mutex::new(State { client, fault: None, in_force: BTreeMap::new() }),
            answers: ArcSwap::default(),
            connected: AtomicBool::new(false),
            away: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            barred: AtomicBool::new(guarded),
            asks,
            inbox: Mutex::new(Some(inbox)),
            news: watch::Sender::new(()),
            metrics: Metrics::new(),
        })
    }

    /// Waits until the mesh knows what `address` means, as far as anybody can tell.
    pub(crate) async fn address(&self, shared: &Shared, address: std::net::SocketAddr) -> Lookup {
        // A virtual address is of some Service, so that it is worth to wait for a server that is away.
        let must = is_virtual(address.ip());
        let is_held = |mesh: &Mesh| mesh.by_address(address).is_some();
        self.look_up(shared, &[AddressKey::Socket(address)], must, is_held).await
    }

    /// Waits until the mesh has one of these Services, as far as anybody can tell.
    pub(crate) async fn names(&self, shared: &Shared, names: &[ServiceName]) -> Lookup {
        let keys: Vec<AddressKey> = names.iter().cloned().map(AddressKey::Name).collect();
        let is_held = |mesh: &Mesh| names.iter().any(|name| mesh.config.services.contains_key(name));
        self.look_up(shared, &keys, false, is_held).await
    }

    /// Waits until `is_held` of what was asked for from the start.
    pub(crate) async fn wanted(&self, shared: &Shared, is_held: impl Fn(&Mesh) -> bool) -> Lookup {
        self.wait(shared, is_held, || self.settled.load(Ordering::Acquire)).await
    }

    /// Whether nobody is let in, since the server did not say yet who may call: it was never reached, or what it said was
    /// refused.
    pub(crate) fn bars_callers(&self) -> bool {
        self.barred.load(Ordering::Acquire)
    }

    /// Waits until everything that is asked for from the start is in force, or does not exist; not for ever.
    pub(crate) async fn settled(&self, shared: &Shared) {
        self.wanted(shared, |_| false).await;
    }

    /// Says when something of it may have changed.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// The version of each kind, by type URL, that this sidecar runs by: not only parsed, but what requests go by.
    pub(crate) fn in_force(&self) -> BTreeMap<String, String> {
        let state = self.state();
        state.in_force.iter().map(|(kind, version)| (kind.url().to_owned(), version.clone())).collect()
    }

    /// How things stand, for people.
    pub(crate) fn dump(&self) -> serde_json::Value {
        let state = self.state();
        let client = &state.client;
        let of = |kind: Kind| {
            let names = |keys: &mut dyn Iterator<Item = &Key>| -> Vec<String> {
                keys.filter(|key| key.kind == kind).map(|key| key.name.to_string()).collect()
            };
            let refused = client.refused().filter(|(key, _)| key.kind == kind);
            let refused = refused.map(|(key, why)| (key.name.to_string(), why.into())).collect();
            let value = serde_json::json!({
                "version": client.version(kind),
                "in_force": names(&mut client.in_force().map(|(key, _)| key)),
                "awaited": names(&mut client.awaited()),
                "absent": names(&mut client.absent()),
                "refused": serde_json::Value::Object(refused),
            });
            (kind.label().to_owned(), value)
        };
        serde_json::json!({
            "address": self.config.address,
            "connected": self.connected.load(Ordering::Relaxed),
            "fault": state.fault,
            "resources": serde_json::Value::Object(Kind::ALL.into_iter().map(of).collect()),
        })
    }

    async fn look_up(
        &self,
        shared: &Shared,
        keys: &[AddressKey],
        must: bool,
        is_held: impl Fn(&Mesh) -> bool,
    ) -> Lookup {
        if is_held(&shared.mesh.load()) {
            return Lookup::Held;
        }
        if keys.is_empty() || !self.config.own_resources {
            return Lookup::Nothing;
        }
        let keys: Vec<Arc<str>> = keys.iter().map(|key| key.to_string().into()).collect();
        let answers = |what: fn(Option<&bool>) -> bool| {
            let answers = self.answers.load();
            keys.iter().all(|key| what(answers.get(key)))
        };
        let nothing = || answers(|answer| answer == Some(&false));
        if nothing() {
            return Lookup::Nothing;
        }
        for name in &keys {
            // Fails only in a process that ends.
            let _ = self.asks.send(Key { kind: Kind::Address, name: name.clone() });
        }
        let unknown = || answers(|answer| answer != Some(&true));
        let hopeless = || !must && unknown() && self.away.load(Ordering::Acquire);
        let found = self.wait(shared, is_held, || nothing() || hopeless()).await;
        self.metrics.looked_up(found);
        // Nobody said that it is of a Service.
        if found == Lookup::Late && unknown() { Lookup::Nothing } else { found }
    }

    /// Waits until `is_held` or `is_over`, but only so long.
    async fn wait(
        &self,
        shared: &Shared,
        is_held: impl Fn(&Mesh) -> bool,
        is_over: impl Fn() -> bool,
    ) -> Lookup {
        let mut news = self.news.subscribe();
        let waiting = async {
            loop {
                if is_held(&shared.mesh.load()) {
                    return Lookup::Held;
                }
                if is_over() {
                    return Lookup::Nothing;
                }
                if news.changed().await.is_err() {
                    return Lookup::Late;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or(Lookup::Late)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what lookups go by up to date, and wakes them.
    fn tell(&self, state: &State) {
        let client = &state.client;
        let wanted = client.wanted().iter().filter(|key| key.kind == Kind::Address);
        let answer = |key: &Key| match client.standing(key) {
            Standing::InForce => match client.get(key)? {
                Resource::Address(address) => Some(address.found.is_some()),
                _ => None,
            },
            Standing::Absent => Some(false),
            Standing::Awaited => None,
        };
        let answers = wanted.filter_map(|key| Some((key.name.clone(), answer(key)?))).collect();
        self.answers.store(Arc::new(answers));
        self.connected.store(client.is_connected(), Ordering::Release);
        // Before the first try has ended, nobody knows.
        self.away.store(!client.is_connected() && state.fault.is_some(), Ordering::Release);
        self.settled.store(client.awaited().next().is_none(), Ordering::Release);
        if !client.awaited().any(|key| key.kind == Kind::Workload) {
            self.barred.store(false, Ordering::Release);
        }
        self.news.send_replace(());
    }
}

/// What is asked for from the start: this workload's own Service, those of explicit listeners, and those that it depends
/// on.
fn roots(config: &SidecarConfig, control: &ControlConfig) -> Vec<Key> {
    let mut services: Vec<(ServiceName, Option<u16>)> = Vec::new();
    let name = |text: &str| mesh::service_name(text, &config.namespace);
    services.extend(config.listeners.iter().map(|listener| (name(&listener.service), listener.port)));
    services.extend(control.depends_on.iter().map(|(service, port)| (name(service), *port)));
    let own = config.service.as_deref().map(name);
    let mut keys = Vec::new();
    if control.own_resources {
        services.extend(own.iter().map(|own| (own.clone(), None)));
        let workload = match &own {
            Some(own) => own.to_string(),
            None => format!("-/{}", config.namespace),
        };
        keys.push(Key { kind: Kind::Workload, name: workload.into() });
        let service = |(name, _): (ServiceName, Option<u16>)| Key {
            kind: Kind::Service,
            name: name.to_string().into(),
        };
        keys.extend(services.into_iter().map(service));
    } else {
        let inbound = config.inbound.iter().filter_map(|inbound| Some((own.clone()?, inbound.port)));
        services.extend(inbound);
        let listener = |(service, port)| {
            let port = ServicePort { service, port: port? };
            let name = names::listeners(&port).into_iter().next()?;
            Some(Key { kind: Kind::Listener, name: name.into() })
        };
        keys.extend(services.into_iter().filter_map(listener));
    }
    keys
}

/// Longest wait of a connection for what is not held yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// After so long without a word of it, a resource is taken not to exist. Lighter's own server answers every request at
/// once; this is below [`PATIENCE`], so that a route to something that is not there holds nobody up for good.
const ABSENT_AFTER: Duration = Duration::from_secs(3);

/// The same for other servers: what gRPC clients have taught them to expect.
const ABSENT_AFTER_ELSEWHERE: Duration = Duration::from_secs(15);
