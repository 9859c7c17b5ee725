//! The ADS streams that are open, for whoever asks how the sidecars stand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lighter_config::identity::Spiffe;
use lighter_config::xds::Kind;
use lighter_config::xds::server::Standing;
use serde::Serialize;

use crate::registry::sidecars::{Id, Link, Load, Reported, Sidecars};

/// Every open stream.
#[derive(Debug, Default)]
pub struct Streams {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Connected>>>,
}

/// One open stream.
#[derive(Debug)]
pub struct Connected {
    peer: Option<SocketAddr>,
    /// Who the client proved to be.
    identity: Option<Spiffe>,
    since: SystemTime,
    /// The number of the last change of the index that it has taken in.
    seen: AtomicU64,
    /// It may have more to tell of endpoints than its client has taken in.
    is_behind: AtomicBool,
    said: Mutex<SaidSoFar>,
}

#[derive(Debug, Default)]
struct SaidSoFar {
    node: String,
    standing: Vec<Standing>,
}

/// A stream in the table of those that are open, until it is dropped.
pub struct Entry<'s> {
    streams: &'s Streams,
    number: u64,
    connected: Arc<Connected>,
}

/// All streams in numbers.
#[derive(Debug, Default)]
pub struct Reading {
    /// How many are open.
    pub open: usize,
    /// Of how many the client rejected the last answer of some kind.
    pub rejecting: usize,
    /// How long the oldest answer waits to be accepted or rejected.
    pub lag: Duration,
    /// How many clients report that they do not run by what they were told last.
    pub behind: usize,
}

/// How one client stands, as `lighter get sidecars` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Which it is, if it proved who it is: `namespace/name/instance`.
    pub id: Option<String>,
    /// What it calls itself.
    pub node: String,
    /// Where it connected from.
    pub peer: Option<SocketAddr>,
    /// When it connected, in seconds since 1970.
    pub since: u64,
    /// Kind by kind.
    pub kinds: Vec<OfKind>,
    /// How much there is to do, if it reports that.
    pub load: Option<Load>,
    /// Its links, if it reports them.
    pub links: Vec<Link>,
}

/// How a client stands with one kind of resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfKind {
    /// Which kind.
    pub kind: &'static str,
    /// Whether it asked for everything.
    pub all: bool,
    /// How many names it asked for.
    pub names: usize,
    /// How many resources it was told.
    pub told: usize,
    /// The version that it was told last.
    pub version: Arc<str>,
    /// The version that it accepted last.
    pub accepted: Arc<str>,
    /// The version that it runs by, if it reports that. Accepted means understood, and no more.
    pub in_force: Option<Arc<str>>,
    /// Why it rejected the last answer, if it did.
    pub rejected: Option<String>,
    /// How long an answer waits, in seconds, if one does.
    pub waiting: Option<f64>,
}

impl Streams {
    /// Enters a stream.
    pub fn enter(&self, peer: Option<SocketAddr>, identity: Option<Spiffe>) -> Entry<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        let connected = Connected {
            peer,
            identity,
            since: SystemTime::now(),
            seen: AtomicU64::new(0),
            is_behind: AtomicBool::new(true),
            said: Mutex::default(),
        };
        let connected = Arc::new(connected);
        self.lock().insert(number, connected.clone());
        Entry { streams: self, number, connected }
    }

    /// All of them in numbers.
    pub fn reading(&self, sidecars: &Sidecars, now: Instant) -> Reading {
        let open = self.lock();
        let mut reading = Reading { open: open.len(), ..Reading::default() };
        for connected in open.values() {
            let said = connected.said();
            reading.rejecting +=
                usize::from(said.standing.iter().any(|standing| standing.rejected.is_some()));
            let waiting = said.standing.iter().filter_map(|standing| standing.waiting_since).min();
            let lag = waiting.map(|since| now.saturating_duration_since(since)).unwrap_or_default();
            reading.lag = reading.lag.max(lag);
            let reported = connected.id(&said).and_then(|id| sidecars.reported(&id));
            let is_behind = |standing: &Standing| {
                let in_force = reported.as_ref().map(|reported| reported.in_force.get(&standing.kind));
                !standing.version.is_empty()
                    && in_force.is_some_and(|in_force| in_force != Some(&standing.version))
            };
            reading.behind += usize::from(said.standing.iter().any(is_behind));
        }
        reading
    }

    /// How many there are, and how many of them run by all that was said of endpoints up to this change of the index. One that
    /// does not say by what it runs is taken at its word that it accepted it.
    pub fn knowing(&self, change: u64, sidecars: &Sidecars) -> (usize, usize) {
        let open = self.lock();
        let knowing = open.values().filter(|connected| connected.knows(change, sidecars)).count();
        (open.len(), knowing)
    }

    /// Each of them, the oldest first.
    pub fn sidecars(&self, sidecars: &Sidecars, now: Instant) -> Vec<Sidecar> {
        self.lock().values().map(|connected| connected.sidecar(sidecars, now)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connected>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    fn said(&self) -> MutexGuard<'_, SaidSoFar> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which sidecar it is, if it proved who it is. What it calls itself ends with the name of its instance.
    fn id(&self, said: &SaidSoFar) -> Option<Id> {
        let instance = said.node.rsplit('/').next().unwrap_or_default();
        Some(Id { identity: self.identity.clone()?, instance: instance.into() })
    }

    fn knows(&self, change: u64, sidecars: &Sidecars) -> bool {
        if self.seen.load(Acquire) < change || self.is_behind.load(Acquire) {
            return false;
        }
        let said = self.said();
        let Some(standing) = said.standing.iter().find(|standing| standing.kind == Kind::Endpoints) else {
            // It asked for none so far.
            return true;
        };
        let runs_by = |id| {
            let in_force =
                |said: &Reported| said.in_force.get(&Kind::Endpoints).map(|at| *at == standing.version);
            sidecars.found(&id, in_force).flatten()
        };
        standing.rejected.is_none() && self.id(&said).and_then(runs_by).unwrap_or(true)
    }

    fn sidecar(&self, sidecars: &Sidecars, now: Instant) -> Sidecar {
        let said = self.said();
        let id = self.id(&said);
        let reported = id.as_ref().and_then(|id| sidecars.reported(id));
        let kinds = said.standing.iter().map(|standing| OfKind {
            kind: standing.kind.label(),
            all: standing.all,
            names: standing.names,
            told: standing.told,
            version: standing.version.clone(),
            accepted: standing.accepted.clone(),
            in_force: reported.as_ref().and_then(|reported| reported.in_force.get(&standing.kind).cloned()),
            rejected: standing.rejected.as_ref().map(|rejection| rejection.reason.clone()),
            waiting: standing.waiting_since.map(|since| now.saturating_duration_since(since).as_secs_f64()),
        });
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Sidecar {
            id: id.map(|id| id.to_string()),
            node: said.node.clone(),
            peer: self.peer,
            since: since.as_secs(),
            kinds: kinds.collect(),
            load: reported.as_ref().and_then(|reported| reported.load),
            links: reported.map(|reported| reported.links).unwrap_or_default(),
        }
    }
}

impl Entry<'_> {
    /// Notes what the client calls itself.
    pub fn named(&self, node: &str) {
        self.connected.said().node = node[..node.floor_char_boundary(LONGEST_NODE)].to_owned();
    }

    /// Notes which change of the index was taken in last, and whether there may be more to tell of endpoints than the client has
    /// taken in.
    pub fn has_seen(&self, change: u64, is_behind: bool) {
        self.connected.is_behind.store(is_behind, Release);
        self.connected.seen.store(change, Release);
    }

    /// Notes how it stands.
    pub fn stands(&self, standing: impl Iterator<Item = Standing>) {
        let mut said = self.connected.said();
        said.standing.clear();
        said.standing.extend(standing);
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.number);
    }
}

/// Most bytes that are kept of a client's name for itself.
const LONGEST_NODE: usize = 256;
