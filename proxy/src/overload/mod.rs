//! Keeps this workload's application from more requests than it can work on at once: what is more is refused before it queues.
//!
//! One limit for a port and all workers. What is let through is a number that they raise and lower without a lock. What an
//! answer says goes to the [`Gradient`], unless another worker is just there: the next answer says the same.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lighter_config::name::ServicePort;
use lighter_config::snapshot::{Overload, Port, Priority, RequestParts};

use crate::error::Cause;
use crate::telemetry::OverloadMetrics;

mod gradient;

use gradient::{Answer, Gradient};

/// The limit of one port. Survives configuration changes.
pub(crate) struct Limiter {
    key: ServicePort,
    inside: AtomicU32,
    /// The most that were inside since an interval began.
    peak: AtomicU32,
    /// How many may be inside.
    limit: AtomicU32,
    /// How many may be inside when one of the default priority comes.
    open: AtomicU32,
    /// How many there are at rest.
    few: AtomicU32,
    /// In percent.
    reserve: AtomicU32,
    gradient: Mutex<Gradient>,
    /// Only where somebody comes by: callers' sidecars know the policy too.
    metrics: OnceLock<Arc<OverloadMetrics>>,
}

/// What lets requests of a route in.
#[derive(Clone)]
pub(crate) struct Admission {
    limiter: Arc<Limiter>,
    /// Its routes say which requests go first.
    port: Arc<Port>,
}

/// A request that is let through, until this is dropped.
pub(crate) struct Admitted(Arc<Limiter>);

impl Admission {
    /// For requests to this port.
    pub(crate) fn new(limiter: Arc<Limiter>, port: Arc<Port>) -> Self {
        Admission { limiter, port }
    }

    /// Whether `port` has the same routes.
    pub(crate) fn has_routes_of(&self, port: &Port) -> bool {
        self.port.routes == port.routes
    }

    /// Lets a request in, or refuses it.
    pub(crate) fn ask<R: RequestParts + ?Sized>(&self, request: &R) -> Result<Admitted, Cause> {
        // As it was when its caller's sidecar chose a route, but for what that changed.
        let priority = || self.port.routes.select(request).map_or(Priority::Default, |route| route.priority);
        self.limiter.enter(priority)
    }

    /// Another try of a request that was let in.
    pub(crate) fn again(&self) -> Admitted {
        let before = self.limiter.inside.fetch_add(1, Relaxed);
        self.limiter.admitted(before)
    }
}

impl Limiter {
    /// Of `port`, whose policy this is, once that is [set](Self::set).
    pub(crate) fn new(port: &Port, said: &Overload, now: Instant) -> Self {
        Limiter {
            key: port.key.clone(),
            inside: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            limit: AtomicU32::new(0),
            open: AtomicU32::new(0),
            few: AtomicU32::new(0),
            reserve: AtomicU32::new(0),
            gradient: Mutex::new(Gradient::new(*said, now)),
            metrics: OnceLock::new(),
        }
    }

    /// Goes on by what the port's policy says now.
    pub(crate) fn set(&self, port: &Port, said: &Overload) {
        let has_high = port.routes.routes.iter().any(|route| route.priority == Priority::High);
        self.few.store(said.min_concurrency, Relaxed);
        self.reserve.store(if has_high { said.reserve_percent.into() } else { 0 }, Relaxed);
        let mut gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        gradient.set(*said);
        self.publish(&gradient);
    }

    fn enter(self: &Arc<Self>, priority: impl FnOnce() -> Priority) -> Result<Admitted, Cause> {
        let below = |most: u32| move |inside: u32| (inside < most).then_some(inside + 1);
        let open = self.inside.fetch_update(Relaxed, Relaxed, below(self.open.load(Relaxed)));
        let priority = match open {
            Ok(before) => return Ok(self.admitted(before)),
            Err(_) => priority(),
        };
        if priority == Priority::High
            && let Ok(before) = self.inside.fetch_update(Relaxed, Relaxed, below(self.limit.load(Relaxed)))
        {
            return Ok(self.admitted(before));
        }
        self.metrics().refused(priority);
        Err(Cause::ConcurrencyLimit)
    }

    fn admitted(self: &Arc<Self>, before: u32) -> Admitted {
        let inside = before + 1;
        if inside > self.peak.load(Relaxed) {
            self.peak.fetch_max(inside, Relaxed);
        }
        Admitted(self.clone())
    }

    fn publish(&self, gradient: &Gradient) {
        let limit = gradient.limit();
        let reserved = u64::from(limit) * u64::from(self.reserve.load(Relaxed)) / 100;
        self.limit.store(limit, Relaxed);
        self.open.store((limit - reserved as u32).max(self.few.load(Relaxed)), Relaxed);
    }

    fn metrics(&self) -> &OverloadMetrics {
        self.metrics.get_or_init(|| OverloadMetrics::of(&self.key))
    }
}

impl Admitted {
    /// The application has answered a request that came at `began`, and its answer's head came so long after that.
    pub(crate) fn answered(&self, began: Instant, latency: Duration, now: Instant) {
        let limiter = &*self.0;
        let Ok(mut gradient) = limiter.gradient.try_lock() else { return };
        let few = limiter.inside.load(Relaxed) <= limiter.few.load(Relaxed);
        let asked = gradient.is_asking();
        let answer = Answer { began, latency, few, peak: limiter.peak.load(Relaxed), now };
        if gradient.answered(answer, fastrand::f64) {
            limiter.peak.store(limiter.inside.load(Relaxed), Relaxed);
        }
        limiter.publish(&gradient);
        let metrics = limiter.metrics();
        metrics.found(limiter.limit.load(Relaxed), gradient.baseline());
        if gradient.is_asking() && !asked {
            metrics.asked();
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
