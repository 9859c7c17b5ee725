//! Requests of this sidecar's callers to Services whose state is about to move: they wait here, within bounds, until the Service
//! is reached elsewhere, and go there. What has no room, or waits for too long, goes where the Service was, and waits there.
//!
//! [`Holder`] decides. Workers ask it about each request that would go where the state leaves from, and about no other: whether
//! that is so of a port is a flag beside its endpoints, which picking one reads anyway. The control thread has it follow what the
//! control plane says and what endpoints there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::xds::wire::lighter::registry::v1 as proto;
use lighter_migrate::{Bounds, Call, HoldAction, HoldOrder, Holder, RequestId, SourceId, Stamp};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::entry::Came;
use crate::balance::{Cluster, Picked};
use crate::error::Cause;
use crate::mesh::{InForce, Mesh};
use crate::telemetry::{HeldMetrics, LetGo};
use crate::worker::Shared;

pub mod wire;

use wire::{Said, What};

/// What waits of requests to Services whose state moves.
#[derive(Default)]
pub(crate) struct Holds {
    all: Mutex<BTreeMap<ServiceName, Arc<Holding>>>,
    /// Something is due, perhaps earlier than before.
    due: Arc<Notify>,
}

/// What waits of requests to one Service.
pub(crate) struct Holding {
    inner: Mutex<Inner>,
    /// Moments of the holder are counted from here.
    began: Instant,
    due: Arc<Notify>,
    metrics: HeldMetrics,
}

struct Inner {
    holder: Holder,
    /// Those that wait, by the numbers that the holder has them by.
    waiting: HashMap<RequestId, Waiting>,
    /// The last number that was given.
    last: u64,
    /// Where the state leaves from.
    from: BTreeSet<SocketAddr>,
    /// Their requests ask.
    clusters: Vec<Arc<Cluster>>,
}

struct Waiting {
    tell: oneshot::Sender<Told>,
    since: Instant,
}

/// What is said to one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It goes where the Service is, as far as is known.
    Go,
    /// Its own time is over.
    Late,
}

/// Does what is due, and lets go what waits once its Service is reached elsewhere, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Shared { holds, mesh, .. } = &*shared;
    loop {
        let changed = mesh.changed();
        let more = holds.due.notified();
        let next = holds.look(&mesh.load());
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = more => {}
            () = due => {}
        }
    }
}

impl Holds {
    /// Follows what the control plane says.
    pub(crate) fn follow(&self, mesh: &InForce, said: proto::Hold) {
        let Said { service, stamp, what } = match wire::decode(said) {
            Ok(said) => said,
            Err(fault) => {
                tracing::warn!(%fault, "what the control plane says of requests that are to wait is malformed");
                HeldMetrics::ordered("malformed");
                return;
            }
        };
        let mesh = mesh.load();
        let clusters = clusters(&mesh, &service);
        let mut all = self.lock();
        let outcome = match what {
            What::Hold { longest, epoch, from, bounds } => {
                if !reaches(&clusters, &from) {
                    "elsewhere"
                } else {
                    let holding = || Holding::new(&service, &self.due, bounds);
                    let holding = all.entry(service.clone()).or_insert_with(holding);
                    let order = HoldOrder::Hold(longest, epoch);
                    let is_held = holding.hold(stamp, order, from, (clusters, bounds));
                    if is_held { "held" } else { "late" }
                }
            }
            What::Release => {
                if let Some(holding) = all.get(&service) {
                    holding.step(LetGo::Stayed, |inner, now, out| {
                        inner.holder.command(stamp, HoldOrder::Release, now, out);
                    });
                }
                "released"
            }
        };
        HeldMetrics::ordered(outcome);
    }

    /// Nobody says any more when it is over: nothing waits here.
    pub(crate) fn let_go(&self) {
        for holding in self.lock().values() {
            holding.step(LetGo::Unheard, |inner, _, out| inner.holder.let_go(out));
        }
    }

    /// Does what is due, as endpoints are now. Returns when something is due next.
    fn look(&self, mesh: &Mesh) -> Option<Instant> {
        let mut all = self.lock();
        for (service, holding) in all.iter() {
            holding.look(&clusters(mesh, service));
        }
        // A Service that nobody knows any more may come back as another one.
        all.retain(|service, holding| {
            mesh.config.services.contains_key(service) || holding.timeout().is_some()
        });
        all.values().filter_map(|holding| holding.timeout()).min()
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().values().map(|holding| holding.lock().waiting.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Arc<Holding>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    fn new(service: &ServiceName, due: &Arc<Notify>, bounds: Bounds) -> Arc<Self> {
        let inner = Inner {
            holder: Holder::new(bounds),
            waiting: HashMap::new(),
            last: 0,
            from: BTreeSet::new(),
            clusters: Vec::new(),
        };
        Arc::new(Holding {
            inner: Mutex::new(inner),
            began: Instant::now(),
            due: due.clone(),
            metrics: HeldMetrics::new(service),
        })
    }

    /// New requests to `from` wait from here on, unless a later order has come. Returns whether they do.
    fn hold(
        self: &Arc<Self>,
        stamp: Stamp,
        order: HoldOrder,
        from: BTreeSet<SocketAddr>,
        (clusters, bounds): (Vec<Arc<Cluster>>, Bounds),
    ) -> bool {
        self.step(LetGo::Expired, |inner, now, out| {
            inner.holder.bound(bounds);
            let is_held = inner.holder.command(stamp, order, now, out);
            if is_held {
                tracing::debug!(?from, "requests wait while the state moves");
                inner.from = from;
                inner.clusters.drain(..).for_each(|cluster| cluster.hold(None));
                clusters.iter().for_each(|cluster| cluster.hold(Some(self.clone())));
                inner.clusters = clusters;
            }
            is_held
        })
    }

    /// A request is about to go to `endpoint`. Returns something to wait for if it has to.
    pub(crate) fn ask(self: &Arc<Self>, came: Came, endpoint: SocketAddr) -> Option<Waits> {
        let (id, told) = self.step(LetGo::Full, |inner, now, out| {
            if !inner.holder.is_holding() || !inner.from.contains(&endpoint) {
                return None;
            }
            inner.last += 1;
            let id = RequestId(inner.last);
            let (tell, told) = oneshot::channel();
            inner.waiting.insert(id, Waiting { tell, since: Instant::now() });
            self.metrics.came();
            let call = Call {
                id,
                source: SourceId(came.source),
                bytes: came.bytes,
                deadline: came.deadline.map(|deadline| deadline.saturating_duration_since(self.began)),
            };
            inner.holder.call(call, now, out);
            Some((id, told))
        })?;
        Some(Waits { holding: self.clone(), id, told: Some(told) })
    }

    /// Does what is due. The Service is reached by `clusters`.
    fn look(&self, clusters: &[Arc<Cluster>]) {
        self.step(LetGo::Moved, |inner, _, out| {
            // What is not ready for a moment has not moved, and nobody else is there to go to. Which epoch the Service has elsewhere
            // is not known here, and not guessed: the next order to hold may be about the same one.
            let is_somewhere = clusters.iter().any(|cluster| !cluster.endpoints().is_empty());
            if inner.holder.is_holding() && is_somewhere && !reaches(clusters, &inner.from) {
                inner.holder.let_go(out);
            }
        });
        self.step(LetGo::Expired, |inner, now, out| inner.holder.on_timeout(now, out));
    }

    fn timeout(&self) -> Option<Instant> {
        self.lock().holder.timeout().map(|after| self.began + after)
    }

    /// Nobody waits for it any more.
    fn withdrawn(&self, id: RequestId) {
        self.step(LetGo::Left, |inner, _, _| {
            inner.holder.withdrawn(id);
            if let Some(waiting) = inner.waiting.remove(&id) {
                self.metrics.let_go(LetGo::Left, waiting.since.elapsed());
            }
        });
    }

    /// Does something with the holder; then tells whom it concerns. What is let go by that is let go for this reason.
    fn step<T>(&self, why: LetGo, what: impl FnOnce(&mut Inner, Duration, &mut Vec<HoldAction>) -> T) -> T {
        let mut out = Vec::new();
        let mut lock = self.lock();
        let inner = &mut *lock;
        let (due, before) = (inner.holder.timeout(), inner.holder.held().len());
        let done = what(inner, self.began.elapsed(), &mut out);
        let mut told = Vec::new();
        for action in out {
            let (id, verdict, why) = match action {
                HoldAction::Go(id) => (id, Told::Go, why),
                HoldAction::Late(id) => (id, Told::Late, LetGo::Late),
            };
            if let Some(waiting) = inner.waiting.remove(&id) {
                self.metrics.let_go(why, waiting.since.elapsed());
                told.push((waiting.tell, verdict));
            }
        }
        self.metrics.waiting(inner.holder.held(), before);
        if !inner.holder.is_holding() {
            inner.clusters.drain(..).for_each(|cluster| cluster.hold(None));
        }
        let is_due = inner.holder.timeout() != due;
        drop(lock);
        if is_due {
            self.due.notify_one();
        }
        for (tell, verdict) in told {
            // Whoever is gone does not need to know.
            let _ = tell.send(verdict);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The endpoints of a Service, by its ports.
fn clusters(mesh: &Mesh, service: &ServiceName) -> Vec<Arc<Cluster>> {
    let ports = mesh.config.services.get(service).into_iter().flat_map(|service| &service.ports);
    ports.filter_map(|port| Some(mesh.destination(&port.key)?.cluster.clone())).collect()
}

/// Whether requests would go to one of these.
fn reaches(clusters: &[Arc<Cluster>], those: &BTreeSet<SocketAddr>) -> bool {
    clusters.iter().flat_map(|cluster| cluster.endpoints()).any(|endpoint| those.contains(&endpoint.address))
}

/// Resolves once a request may go on. Dropped before that, it goes nowhere.
#[must_use]
pub(crate) struct Waits {
    holding: Arc<Holding>,
    id: RequestId,
    /// Gone once it has said what becomes of the request.
    told: Option<oneshot::Receiver<Told>>,
}

impl Future for Waits {
    type Output = Result<(), Cause>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = match &mut self.told {
            Some(told) => ready!(Pin::new(told).poll(cx)).unwrap_or(Told::Go),
            None => Told::Go,
        };
        self.told = None;
        Poll::Ready(match told {
            Told::Go => Ok(()),
            Told::Late => Err(Cause::RequestTimeout),
        })
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if self.told.take().is_some() {
            self.holding.withdrawn(self.id);
        }
    }
}

/// A request that waits, and where it goes then.
pub(crate) struct Awaits {
    waits: Waits,
    shared: Arc<Shared>,
    key: ServicePort,
    /// It needs a connection of its own.
    connects: bool,
}

impl Awaits {
    pub(crate) fn new(waits: Waits, shared: &Arc<Shared>, key: &ServicePort, connects: bool) -> Self {
        Awaits { waits, shared: shared.clone(), key: key.clone(), connects }
    }

    /// Waits, and picks an endpoint of those that there are then.
    pub(crate) async fn over(self) -> Result<Picked, Cause> {
        self.waits.await?;
        let mesh = self.shared.mesh.load_full();
        let known = mesh.destination(&self.key).ok_or(Cause::NoBackend)?;
        let mut picked = known.cluster.pick(None, None, std::time::Instant::now())?;
        if self.connects {
            picked.needs_connection()?;
        }
        Ok(picked)
    }
}
