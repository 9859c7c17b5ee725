//! What the endpoints of one port have in common.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use lighter_config::name::ServicePort;
use lighter_config::snapshot::{Balancer, LoadReports, Outliers, SlowStart, TrafficPolicy};

use super::Endpoint;
use super::circuit::Circuit;
use super::outlier::{Reason, Rules};
use super::rates::{self, Sample};
use crate::stateful::held::Holding;
use crate::telemetry::ClusterMetrics;
use crate::telemetry::histogram::nanos;

/// What the endpoints of one port have in common. Survives configuration changes.
pub(super) struct Group {
    pub(super) key: ServicePort,
    epoch: Instant,
    pub(super) law: ArcSwap<Law>,
    /// Whether answers are counted, so that nobody has to ask the law who does not.
    counts: AtomicBool,
    /// Whether load that answers report says shares; likewise.
    hears: AtomicBool,
    /// [`HAS_STATE`], and [`MOVES`]; likewise.
    state: AtomicU8,
    /// Where they do.
    holding: Mutex<Option<Arc<Holding>>>,
    /// When endpoints are compared next; zero: not yet known.
    compare_at: AtomicU64,
    /// So many are unwell that all get requests.
    panicking: AtomicBool,
    /// Held while an ejection is decided.
    pub(super) deciding: Mutex<()>,
    pub(super) metrics: Arc<ClusterMetrics>,
    pub(super) circuit: Arc<Circuit>,
}

/// The Service has state, which may leave from where requests go.
pub(super) const HAS_STATE: u8 = 1;

/// Requests may have to wait, as it moves.
pub(super) const MOVES: u8 = 2;

/// What holds since the last configuration change.
pub(super) struct Law {
    pub(super) rules: Rules,
    outliers: Outliers,
    slow_start: Option<SlowStart>,
    /// What is made of reports. None: they are not heard.
    pub(super) reports: Option<LoadReports>,
    panic_percent: u8,
    /// Each with its priority.
    members: Box<[(u32, Weak<Endpoint>)]>,
}

impl Group {
    pub(super) fn new(key: &ServicePort) -> Self {
        let law = Law {
            rules: Rules::NEVER,
            outliers: Outliers::default(),
            slow_start: None,
            reports: None,
            panic_percent: 0,
            members: Box::default(),
        };
        let metrics = ClusterMetrics::of(key);
        Group {
            key: key.clone(),
            epoch: Instant::now(),
            law: ArcSwap::from_pointee(law),
            counts: AtomicBool::new(false),
            hears: AtomicBool::new(false),
            state: AtomicU8::new(0),
            holding: Mutex::default(),
            compare_at: AtomicU64::new(0),
            panicking: AtomicBool::new(false),
            deciding: Mutex::new(()),
            circuit: Arc::new(Circuit::new(metrics.clone())),
            metrics,
        }
    }

    /// Puts a policy in force for `members`, each with its priority.
    pub(super) fn follow(&self, policy: &TrafficPolicy, members: Box<[(u32, Weak<Endpoint>)]>) {
        let outliers = policy.outliers.clone();
        self.circuit.set(&policy.circuit);
        let circuit = Arc::downgrade(&self.circuit);
        self.metrics.limit(if policy.circuit.limits() { circuit } else { Weak::<Circuit>::new() });
        self.counts.store(outliers.count(), Relaxed);
        let panic_percent = policy.health_check.as_ref().map_or(0, |check| check.panic_percent);
        let slow_start = policy.balancing.slow_start;
        let rules = rules(policy);
        let hears = policy.balancing.balancer == Balancer::WeightedRoundRobin;
        self.hears.store(hears, Relaxed);
        let reports = hears.then(|| policy.balancing.reports.clone());
        self.law.store(Arc::new(Law { rules, outliers, slow_start, reports, panic_percent, members }));
        self.weigh();
    }

    /// Takes those out of service that are unwell, and brings those back that are not; all of them where so few are well
    /// that the question is more probably at fault.
    pub(super) fn weigh(&self) {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let law = self.law.load();
        let members: Vec<_> = law.members.iter().filter_map(|(_, member)| member.upgrade()).collect();
        let well = members.iter().filter(|member| !member.unwell.load(Relaxed)).count();
        let panics = well * 100 < members.len() * usize::from(law.panic_percent);
        if self.panicking.swap(panics, Relaxed) != panics {
            self.metrics.health_panic(panics);
            let (service, of) = (&self.key, members.len());
            tracing::warn!(%service, well, of, panics, "health checks are believed or not, by how many are well");
        }
        let now = self.clock(Instant::now());
        for member in &members {
            if member.unwell.load(Relaxed) && !panics {
                member.health.shun();
            } else if member.health.admit(now) {
                member.entered.store(now, Relaxed);
            }
        }
    }

    /// The part of its share that an endpoint has which came, or came back, at `entered`. None: shares do not rise slowly.
    pub(super) fn share(&self, entered: u64, now: u64) -> Option<f64> {
        self.law.load().slow_start.map(|start| warmth(&start, entered, now))
    }

    /// Whether answers are counted.
    #[inline]
    pub(super) fn counts(&self) -> bool {
        self.counts.load(Relaxed)
    }

    /// Whether load that answers report says shares.
    #[inline]
    pub(super) fn hears(&self) -> bool {
        self.hears.load(Relaxed)
    }

    /// [`HAS_STATE`], and [`MOVES`] while it does. Mostly neither.
    #[inline]
    pub(super) fn state(&self) -> u8 {
        self.state.load(Relaxed)
    }

    /// Whether the Service has state, so that its requests are kept, from here on.
    pub(super) fn keep(&self, has_state: bool) {
        self.set_state(HAS_STATE, has_state);
    }

    fn set_state(&self, flag: u8, is_set: bool) {
        match is_set {
            true => self.state.fetch_or(flag, Relaxed),
            false => self.state.fetch_and(!flag, Relaxed),
        };
    }

    /// Where they do.
    #[cold]
    pub(super) fn holding(&self) -> Option<Arc<Holding>> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has requests ask there from here on whether they wait, or not any more.
    pub(super) fn hold(&self, holding: Option<Arc<Holding>>) {
        let mut at = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_state(MOVES, holding.is_some());
        *at = holding;
    }

    /// `None` if another ejection is being decided: the next failure asks again.
    pub(super) fn decide(&self) -> Option<MutexGuard<'_, ()>> {
        match self.deciding.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Compares the endpoints with each other if it is time, and ejects those that do worse.
    pub(super) fn compare(&self, law: &Law, at: u64) {
        let due = self.compare_at.load(Relaxed);
        let next = at.saturating_add(nanos(law.outliers.interval)).max(1);
        // An interval that is shorter by now is kept from now on.
        let is_early = due != 0 && at < due && due <= next;
        let is_mine = !is_early && self.compare_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok();
        // The first interval has only begun.
        if !is_mine || due == 0 {
            return;
        }
        let members: Vec<_> = law.members.iter().map(|(_, member)| member.upgrade()).collect();
        let samples: Vec<Sample> = members
            .iter()
            .map(|member| member.as_ref().map_or(Sample::default(), |member| member.tally.take()))
            .collect();
        for (place, reason) in rates::compare(&samples, &law.outliers) {
            if let Some(endpoint) = &members[place] {
                self.expel(endpoint, reason, law, at);
            }
        }
    }

    #[cold]
    fn expel(&self, endpoint: &Endpoint, reason: Reason, law: &Law, at: u64) {
        let mut deciding = None;
        let expelled = endpoint.health.expel(at, &law.rules, || {
            deciding = self.decide();
            deciding.is_some() && law.allows_one_more(endpoint)
        });
        drop(deciding);
        if expelled {
            endpoint.ejected(reason);
        }
    }

    /// `now` in nanoseconds, above zero.
    #[inline]
    pub(super) fn clock(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch)) + 1
    }

    /// When it was so late.
    pub(super) fn instant(&self, at: u64) -> Instant {
        self.epoch + Duration::from_nanos(at)
    }
}

impl Law {
    /// Whether `endpoint` may be ejected too. The limit is about those of one priority, and holds where there is nobody to
    /// take over: while a lower priority has an endpoint in service, all of a higher one may go.
    pub(super) fn allows_one_more(&self, endpoint: &Endpoint) -> bool {
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

/// The part of its share that an endpoint has which came, or came back, at `entered`.
pub(super) fn warmth(start: &SlowStart, entered: u64, now: u64) -> f64 {
    let part = now.saturating_sub(entered) as f64 / nanos(start.window).max(1) as f64;
    part.clamp(f64::from(start.min_percent) / 100.0, 1.0)
}

fn rules(policy: &TrafficPolicy) -> Rules {
    Rules {
        after: [policy.eject_after, policy.outliers.errors, policy.outliers.gateway_errors],
        length: policy.eject_for,
        max_percent: policy.max_ejected_percent,
    }
}
