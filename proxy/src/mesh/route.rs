//! A route with its state: what its requests meet before they are sent, and where they go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::name::ServicePort;
use lighter_config::snapshot::{Backend, RequestParts};
use lighter_filters::Chain;

use super::destination::Destination;
use crate::balance::{Cluster, Endpoint, Held};
use crate::error::Cause;
use crate::offload::OfRoute;
use crate::overload::Admission;
use crate::retry::budget::Budget;
use crate::retry::{Came, Request, Rules, Tries, Verdict};
use crate::session::Sessions;
use crate::stateful::entry::Came as Arrives;
use crate::stateful::gate::{Gate, LetIn};
use crate::telemetry::RouteMetrics;
use crate::worker::Shared;

/// A route with its state.
pub struct RouteState {
    /// What it does to a request. Empty: the request goes straight through.
    pub chain: Chain,
    /// Where it sends a request.
    pub backends: Backends,
    /// Longest time for an exchange.
    pub request_timeout: Option<Duration>,
    /// What is tried again.
    pub retries: Rules,
    /// What keeps this workload from more requests than it can work on.
    pub(super) admission: Option<Admission>,
    /// What has them wait, or sends them on, where this workload's Service has state.
    pub(crate) gate: Option<Arc<Gate>>,
    /// Where requests of one session go to one endpoint.
    pub(crate) sessions: Option<Sessions>,
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
    /// Where its requests may run beside its backends.
    pub(crate) offload: Option<OfRoute>,
    /// Where copies of its requests go, in the order of its actions; none where that does not exist.
    pub(crate) mirrors: Box<[Option<Arc<Destination>>]>,
}

impl RouteState {
    /// Lets a request in as far as the workload can work on it, and where its state is here. `came` is asked only if that
    /// matters.
    #[inline]
    pub(crate) fn admit<'a, R: RequestParts + ?Sized>(
        &self,
        request: &R,
        came: impl FnOnce() -> (&'a Arc<Shared>, Arrives),
    ) -> Result<Held, Cause> {
        let admit = || self.admission.as_ref().map(|admission| admission.ask(request)).transpose();
        let Some(gate) = &self.gate else { return Ok(admit()?.map_or(Held::Nothing, Held::Admitted)) };
        let (shared, came) = came();
        gate.ask(shared, came, admit).map(|let_in| Held::LetIn(Box::new(let_in)))
    }

    /// The same for another try of one that was let in before, which may have `kept` what it holds.
    pub(crate) fn admit_again(&self, kept: Option<Box<LetIn>>) -> Held {
        let admitted = || self.admission.as_ref().map(Admission::again);
        match kept {
            Some(kept) => Held::LetIn(kept),
            None => admitted().map_or(Held::Nothing, Held::Admitted),
        }
    }

    /// How long to wait before another try of a request of this route; none if it had its last one. Counted.
    #[cold]
    pub(crate) fn again(&self, tries: &mut Tries, came: Came, request: Request<'_>) -> Option<Duration> {
        if came == Came::Late {
            self.metrics.try_timed_out();
        }
        let (now, seen) = (Instant::now(), || self.metrics.begun());
        match self.retries.decide(tries, came, request, now, seen, |most| fastrand::u64(..=most)) {
            Verdict::Again(pause, condition) => {
                self.metrics.tried_again(condition);
                Some(pause)
            }
            Verdict::Refused(refusal) => {
                self.metrics.not_tried_again(refusal);
                None
            }
            Verdict::Last => None,
        }
    }
}

/// Weighted backends.
#[derive(Default)]
pub struct Backends {
    /// Cumulated weight, and the cluster; none where the backend does not exist.
    shares: Box<[(u32, Option<Arc<Cluster>>)]>,
}

impl Backends {
    pub(super) fn new(backends: &[Backend], clusters: &HashMap<ServicePort, Arc<Cluster>>) -> Self {
        let mut sum = 0u32;
        let shares = backends
            .iter()
            .filter(|backend| backend.weight > 0)
            .map(|backend| {
                sum = sum.saturating_add(backend.weight);
                (sum, clusters.get(&backend.target).cloned())
            })
            .collect();
        Backends { shares }
    }

    /// Every endpoint that a request can be sent to.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.clusters().flat_map(|cluster| cluster.endpoints())
    }

    /// Every cluster that a request can be sent to.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.shares.iter().filter_map(|(_, cluster)| cluster.as_ref())
    }

    /// Picks a cluster by weight.
    pub fn pick(&self) -> Result<&Arc<Cluster>, Cause> {
        let chosen = match &*self.shares {
            [] => None,
            [(_, only)] => only.as_ref(),
            many => {
                let ticket = fastrand::u32(0..many[many.len() - 1].0);
                many.iter().find(|(upto, _)| ticket < *upto).and_then(|(_, cluster)| cluster.as_ref())
            }
        };
        chosen.ok_or(Cause::NoBackend)
    }
}

/// The budgets of routes, by their counters: those of one name have one, whatever the configuration.
pub(super) struct Budgets(HashMap<*const RouteMetrics, Arc<Budget>>);

impl Budgets {
    pub(super) fn of(old: Option<&Destination>) -> Self {
        let routes = old.iter().flat_map(|old| &old.routes);
        Budgets(routes.map(|state| (Arc::as_ptr(&state.metrics), state.retries.budget.clone())).collect())
    }

    pub(super) fn of_route(&mut self, metrics: &Arc<RouteMetrics>) -> Arc<Budget> {
        let new = || Arc::new(Budget::new(Instant::now(), metrics.begun()));
        self.0.entry(Arc::as_ptr(metrics)).or_insert_with(new).clone()
    }
}
