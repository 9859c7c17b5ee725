//! Open connections of one worker to endpoints, and who waits for one.
//!
//! A stream takes the first connection with room. Where none has, it queues, first come first served, and one more
//! connection is dialled, one at a time: a thousand requests at once make one dial, not a thousand. So an endpoint's
//! MAX_CONCURRENT_STREAMS makes requests wait, and never fail.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use lighter_config::snapshot::{Secure, TrafficPolicy};
use tokio::sync::oneshot;

use super::upstream::{self, Upstream};
use super::wire::Stream;
use crate::balance::Endpoint;
use crate::error::{Cause, ProxyError, Retry};
use crate::telemetry::{Direction, EndpointMetrics};
use crate::worker::{Shared, Worker};

/// Most connections to one endpoint from one worker.
const MAX_CONNECTIONS: usize = 64;

/// Most requests that wait for one endpoint in one worker.
const MAX_WAITING: usize = 16 * 1024;

/// Below this length a queue is not swept.
const SWEEP_FROM: usize = 64;

/// Open HTTP/2 connections of one worker, by endpoint.
#[derive(Default)]
pub struct Pool {
    groups: Rc<Groups>,
}

type Groups = RefCell<HashMap<u32, Rc<Group>>>;

/// The connections to one endpoint.
pub(crate) struct Group {
    id: u32,
    address: SocketAddr,
    /// Where it stands as long as it has connections or somebody waits for one.
    groups: Weak<Groups>,
    /// Those that take new streams, in the order in which they are filled.
    connections: RefCell<Vec<Rc<Upstream>>>,
    /// Who waits, and who has given up since.
    queue: RefCell<VecDeque<oneshot::Sender<Granted>>>,
    /// How many do wait.
    waiting: Cell<usize>,
    dialing: Cell<bool>,
    dial: Dial,
}

/// How the group's connections are made.
pub(crate) struct Dial {
    pub(crate) shared: Arc<Shared>,
    pub(crate) direction: Direction,
    pub(crate) secure: Option<Secure>,
    pub(crate) metrics: Arc<EndpointMetrics>,
    pub(crate) connect_timeout: Cell<Duration>,
    pub(crate) keep_alive: Cell<Duration>,
}

/// The right to one stream on one connection. Dropping it lets the next one in.
pub(crate) struct Lease {
    group: Rc<Group>,
    upstream: Rc<Upstream>,
}

type Granted = Result<Lease, (Cause, &'static str)>;

impl Pool {
    /// A place for one stream to `endpoint`. Waits while every connection is full.
    pub(crate) async fn lease(
        &self,
        worker: &Worker,
        direction: Direction,
        endpoint: &Endpoint,
        policy: &TrafficPolicy,
    ) -> Result<Lease, ProxyError> {
        let group = self.group(worker, direction, endpoint, policy);
        if group.queue.borrow().is_empty()
            && let Some(lease) = group.room()
        {
            return Ok(lease);
        }
        if group.waiting.get() >= MAX_WAITING {
            return Err(ProxyError::new(Cause::Overloaded, "too many requests wait for this endpoint")
                .at(group.address));
        }
        let (grant, granted) = oneshot::channel();
        let _waits = Waits::new(&group);
        group.enqueue(grant);
        group.serve();
        match granted.await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err((cause, detail))) => {
                Err(ProxyError { retry: Retry::Safe, ..ProxyError::new(cause, detail).at(group.address) })
            }
            Err(_) => Err(ProxyError::new(Cause::Internal, "the pool is gone").at(group.address)),
        }
    }

    /// How many endpoints it knows of.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.groups.borrow().len()
    }

    fn group(
        &self,
        worker: &Worker,
        direction: Direction,
        endpoint: &Endpoint,
        policy: &TrafficPolicy,
    ) -> Rc<Group> {
        let mut groups = self.groups.borrow_mut();
        let group = groups.entry(endpoint.id).or_insert_with(|| {
            Rc::new(Group {
                id: endpoint.id,
                address: endpoint.address,
                groups: Rc::downgrade(&self.groups),
                connections: RefCell::default(),
                queue: RefCell::default(),
                waiting: Cell::new(0),
                dialing: Cell::new(false),
                dial: Dial {
                    shared: worker.shared.clone(),
                    direction,
                    secure: endpoint.secure.clone(),
                    metrics: endpoint.metrics.clone(),
                    connect_timeout: Cell::new(policy.connect_timeout),
                    keep_alive: Cell::new(policy.keep_alive),
                },
            })
        });
        group.dial.connect_timeout.set(policy.connect_timeout);
        group.dial.keep_alive.set(policy.keep_alive);
        group.clone()
    }
}

impl Group {
    /// Where the endpoint listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How connections are made.
    pub(crate) fn dial(&self) -> &Dial {
        &self.dial
    }

    /// Lets in who waits, as far as there is room, and dials if that is not enough.
    pub(crate) fn serve(self: &Rc<Self>) {
        loop {
            if !self.is_awaited() {
                return;
            }
            let Some(lease) = self.room() else { break };
            let Some(next) = self.queue.borrow_mut().pop_front() else { return };
            // Who gave up in this moment drops the lease, which comes back here.
            let _ = next.send(Ok(lease));
        }
        let connections = self.connections.borrow();
        let settled = connections.iter().all(|upstream| upstream.is_settled());
        if settled && !self.dialing.get() && connections.len() < MAX_CONNECTIONS {
            self.dialing.set(true);
            tokio::task::spawn_local(self.clone().dial_one());
        }
    }

    /// The sidecar at the endpoint says that it drains. Said by others, it says nothing of the endpoint.
    pub(crate) fn endpoint_drains(&self) {
        if self.dial.secure.is_some() {
            self.dial.shared.mesh.load().leave(|endpoint| endpoint.id == self.id);
        }
    }

    /// This connection takes no more streams.
    pub(crate) fn retire(self: &Rc<Self>, upstream: &Rc<Upstream>) {
        self.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, upstream));
        upstream.retire();
    }

    /// Whether anybody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        let mut queue = self.queue.borrow_mut();
        while queue.front().is_some_and(oneshot::Sender::is_closed) {
            queue.pop_front();
        }
        !queue.is_empty()
    }

    /// Leaves the pool where nothing is left to share.
    pub(crate) fn leave_if_unused(self: &Rc<Self>) {
        if self.dialing.get() || !self.connections.borrow().is_empty() || self.is_awaited() {
            return;
        }
        let Some(groups) = self.groups.upgrade() else { return };
        let mut groups = groups.borrow_mut();
        if groups.get(&self.id).is_some_and(|known| Rc::ptr_eq(known, self)) {
            groups.remove(&self.id);
        }
    }

    fn enqueue(&self, grant: oneshot::Sender<Granted>) {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= SWEEP_FROM && queue.len() >= 2 * self.waiting.get() {
            queue.retain(|other| !other.is_closed());
        }
        queue.push_back(grant);
    }

    async fn dial_one(self: Rc<Self>) {
        let made = upstream::dial(&self).await;
        self.dialing.set(false);
        match made {
            Ok(upstream) => self.connections.borrow_mut().push(upstream),
            Err(error) => {
                tracing::debug!(%error, "cannot open an HTTP/2 connection");
                // Where other connections work, requests wait for those.
                self.retire_unusable();
                if self.connections.borrow().is_empty() {
                    let waiting = std::mem::take(&mut *self.queue.borrow_mut());
                    for grant in waiting {
                        let _ = grant.send(Err((error.cause, error.detail)));
                    }
                }
                return self.leave_if_unused();
            }
        }
        self.serve();
    }

    /// Forgets connections that are full and will never take another stream.
    fn retire_unusable(self: &Rc<Self>) {
        let connections = self.connections.borrow().clone();
        for upstream in connections.iter().filter(|upstream| !upstream.is_usable()) {
            self.retire(upstream);
        }
    }

    fn room(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let found = self.connections.borrow().iter().find(|upstream| upstream.has_room()).cloned()?;
            if found.is_usable() {
                return Some(Lease::new(self.clone(), found));
            }
            self.retire(&found);
        }
    }
}

impl Lease {
    fn new(group: Rc<Group>, upstream: Rc<Upstream>) -> Self {
        upstream.enter();
        Lease { group, upstream }
    }

    /// The connection.
    pub(crate) fn upstream(&self) -> &Rc<Upstream> {
        &self.upstream
    }

    /// The stream was refused unread. Whether that says more of the connection than of the stream; then others come
    /// before this connection from now on.
    pub(crate) fn was_crowded(&self) -> bool {
        let crowded = self.upstream.was_crowded();
        if crowded {
            let mut connections = self.group.connections.borrow_mut();
            if let Some(at) = connections.iter().position(|other| Rc::ptr_eq(other, &self.upstream)) {
                connections[at..].rotate_left(1);
            }
        }
        crowded
    }

    /// Gives the stream up, in a pace that the peer does not take for an attack.
    pub(crate) fn cancel(self, stream: Stream) {
        let (group, upstream) = (self.group.clone(), self.upstream.clone());
        if upstream.cancel(stream, self) {
            group.retire(&upstream);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.leave();
        if !self.group.queue.borrow().is_empty() {
            self.group.serve();
        }
    }
}

/// One who waits, or has given up: then the place in the queue may stay, but does not count.
struct Waits<'a>(&'a Group);

impl<'a> Waits<'a> {
    fn new(group: &'a Group) -> Self {
        group.waiting.set(group.waiting.get() + 1);
        Waits(group)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
