//! Open connections of one worker to endpoints, and who waits for one.
//!
//! A stream takes the first connection with room. Where none has, it queues, first come first served, and one more
//! connection is dialled, one at a time: a thousand requests at once make one dial, not a thousand. So an endpoint's
//! MAX_CONCURRENT_STREAMS makes requests wait, and never fail.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::snapshot::TrafficPolicy;
use tokio::sync::oneshot;

use super::upstream::{self, Upstream};
use crate::balance::Endpoint;
use crate::error::{Cause, ProxyError, Retry};
use crate::telemetry::{Direction, EndpointMetrics};
use crate::worker::{Shared, Worker};

/// Most connections to one endpoint from one worker.
const MAX_CONNECTIONS: usize = 64;

/// Most requests that wait for one endpoint in one worker.
const MAX_WAITING: usize = 16 * 1024;

/// Open HTTP/2 connections of one worker, by endpoint.
#[derive(Default)]
pub struct Pool {
    groups: RefCell<HashMap<u32, Rc<Group>>>,
}

/// The connections to one endpoint.
pub(crate) struct Group {
    address: SocketAddr,
    /// Those that take new streams, in the order in which they are filled.
    connections: RefCell<Vec<Rc<Upstream>>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Granted>>>,
    dialing: Cell<bool>,
    dial: Dial,
}

/// How the group's connections are made.
pub(crate) struct Dial {
    pub(crate) shared: Arc<Shared>,
    pub(crate) direction: Direction,
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
        if group.waiting.borrow().is_empty()
            && let Some(lease) = group.room()
        {
            return Ok(lease);
        }
        if group.waiting.borrow().len() >= MAX_WAITING {
            return Err(ProxyError::new(Cause::Overloaded, "too many requests wait for this endpoint")
                .at(group.address));
        }
        let (grant, granted) = oneshot::channel();
        group.waiting.borrow_mut().push_back(grant);
        group.serve();
        match granted.await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err((cause, detail))) => {
                Err(ProxyError { retry: Retry::Safe, ..ProxyError::new(cause, detail).at(group.address) })
            }
            Err(_) => Err(ProxyError::new(Cause::Internal, "the pool is gone").at(group.address)),
        }
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
                address: endpoint.address,
                connections: RefCell::default(),
                waiting: RefCell::default(),
                dialing: Cell::new(false),
                dial: Dial {
                    shared: worker.shared.clone(),
                    direction,
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
            self.waiting.borrow_mut().retain_front();
            if self.waiting.borrow().is_empty() {
                return;
            }
            let Some(lease) = self.room() else { break };
            let Some(next) = self.waiting.borrow_mut().pop_front() else { return };
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

    /// This connection takes no more streams.
    pub(crate) fn retire(self: &Rc<Self>, upstream: &Rc<Upstream>) {
        self.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, upstream));
        upstream.retire();
    }

    async fn dial_one(self: Rc<Self>) {
        let made = upstream::dial(&self).await;
        self.dialing.set(false);
        match made {
            Ok(upstream) => self.connections.borrow_mut().push(upstream),
            Err(error) => {
                tracing::debug!(%error, "cannot open an HTTP/2 connection");
                // Where other connections work, requests wait for those.
                if self.connections.borrow().is_empty() {
                    let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
                    for grant in waiting {
                        let _ = grant.send(Err((error.cause, error.detail)));
                    }
                }
                return;
            }
        }
        self.serve();
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
    pub(crate) fn cancel(self, handles: upstream::Handles) {
        let (group, upstream) = (self.group.clone(), self.upstream.clone());
        if upstream.cancel(handles, self) {
            group.retire(&upstream);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.leave();
        if !self.group.waiting.borrow().is_empty() {
            self.group.serve();
        }
    }
}

/// Forgets those at the front of the queue that gave up.
trait RetainFront {
    fn retain_front(&mut self);
}

impl<T> RetainFront for VecDeque<oneshot::Sender<T>> {
    fn retain_front(&mut self) {
        while self.front().is_some_and(oneshot::Sender::is_closed) {
            self.pop_front();
        }
    }
}
