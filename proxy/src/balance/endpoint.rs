//! One endpoint: who it is, what it has to do, and how it does.

use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use lighter_config::name::ServicePort;
use lighter_config::snapshot::Secure;

use super::ewma::Load;
use super::group::{Group, Law};
use super::outlier::{Fault, Health, Reason, State};
use super::picked::{Held, Outcome, Picked};
use super::rates::Tally;
use super::report::{self, Reported, Standing};
use crate::http::h2::fields::Fields;
use crate::telemetry::{EndpointLoad, EndpointMetrics};

/// Where a request can go. Shared between workers; survives configuration changes.
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The same as text: what requests that go over a link say of it.
    pub name: Arc<str>,
    /// Unique in this process: the key of connection pools.
    pub id: u32,
    /// Who it must prove to be. None: it is called in plain text.
    pub secure: Option<Secure>,
    /// Its counters.
    pub metrics: Arc<EndpointMetrics>,
    pub(super) load: Load,
    pub(super) health: Health,
    /// What it did since endpoints were last compared, if they are.
    pub(super) tally: Tally,
    /// What its answers report of its load, if that is heard.
    pub(super) reported: Standing,
    /// Health checks say so.
    pub(super) unwell: AtomicBool,
    /// When it came, or came back.
    pub(super) entered: AtomicU64,
    pub(super) group: Arc<Group>,
}

impl Endpoint {
    /// Where its sidecar accepts links, and who it has to prove to be there.
    pub(crate) fn link(&self) -> Option<(&Secure, SocketAddr)> {
        self.secure.as_ref().and_then(|secure| Some((secure, secure.link?)))
    }

    /// The port whose it is.
    pub(crate) fn key(&self) -> &ServicePort {
        &self.group.key
    }

    /// Requests and opaque connections that are with it now.
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    /// The latency by which it is judged; zero if it never answered.
    pub fn latency(&self, now: Instant) -> Duration {
        self.load.average(self.group.clock(now))
    }

    /// It says itself that it leaves, so that it gets nothing more before the control plane says so.
    pub(crate) fn leave(&self, now: Instant) {
        if self.health.leave(self.group.clock(now), AWAY) {
            metrics::counter!("lighter_balancer_notices_total", "service" => self.group.key.service.to_string())
                .increment(1);
            tracing::info!(service = %self.group.key, endpoint = %self.address, "an endpoint says that it leaves");
        }
    }

    /// Whether the load that its answers report says its share.
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        self.group.hears()
    }

    /// Takes in what these fields of an answer report of its load, where that is heard, and takes away what callers are not to see.
    #[inline]
    pub(crate) fn hear_all(&self, fields: &mut Fields) {
        if self.is_heard() {
            fields.retain(|field| !self.hear(field.name, field.value));
        }
    }

    /// Takes in a field of an answer, where that is a report of its load. Returns whether callers are not to see it.
    #[cold]
    pub(crate) fn hear(&self, name: &[u8], value: &[u8]) -> bool {
        if !report::is_report(name) {
            return false;
        }
        let law = self.group.law.load();
        let Some(rules) = &law.reports else { return false };
        let outcome = match report::weight(name, value, rules) {
            Ok(weight) => {
                self.reported.report(weight, self.group.clock(Instant::now()));
                Reported::Taken
            }
            Err(outcome) => outcome,
        };
        self.metrics.reported(outcome);
        !rules.pass_on
    }

    /// Where it stands.
    pub fn state(&self, now: Instant) -> State {
        self.health.state(self.group.clock(now))
    }

    pub(super) fn new(
        key: &ServicePort,
        address: SocketAddr,
        secure: Option<Secure>,
        group: &Arc<Group>,
    ) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Arc::new_cyclic(|this: &Weak<Endpoint>| {
            let metrics = EndpointMetrics::of(key, address);
            metrics.watch(this.clone());
            Endpoint {
                address,
                name: address.to_string().into(),
                id: NEXT.fetch_add(1, Relaxed),
                secure,
                metrics,
                load: Load::default(),
                health: Health::default(),
                tally: Tally::default(),
                reported: Standing::default(),
                unwell: AtomicBool::new(false),
                entered: AtomicU64::new(group.clock(Instant::now())),
                group: group.clone(),
            }
        })
    }

    /// `None` if it is not available: ejected, or half-open with a request on its way.
    #[inline]
    pub(super) fn begin(self: &Arc<Self>, at: u64) -> Option<Picked> {
        let probe = match self.health.state(at) {
            State::InService => false,
            State::Ejected => return None,
            State::HalfOpen if self.health.begin_probe(at) => true,
            State::HalfOpen => return None,
        };
        let mut picked = self.begin_regardless(at);
        picked.probe = probe;
        Some(picked)
    }

    #[inline]
    pub(super) fn begin_regardless(self: &Arc<Self>, at: u64) -> Picked {
        self.load.begin();
        self.metrics.picked();
        Picked { endpoint: self.clone(), at, probe: false, held: ManuallyDrop::new(Held::Nothing) }
    }

    #[cold]
    pub(super) fn failed(&self, probe: bool, latency: Duration, at: u64) {
        self.metrics.failed();
        self.load.observe_failure(latency, at);
        let law = self.group.law.load();
        self.fault(Outcome::Failed.faults(), probe, at, &law);
        if self.group.counts() {
            self.tally.failed();
            self.group.compare(&law, at);
        }
    }

    /// Counts an answer where answers count. Returns whether it is a fault by the port's rules, so that it is no sign of
    /// the endpoint's health.
    #[cold]
    pub(super) fn judge(&self, outcome: Outcome, probe: bool, latency: Duration, at: u64) -> bool {
        let law = self.group.law.load();
        let faults = outcome.faults();
        self.tally.answered(faults.is_empty(), latency);
        for fault in [Fault::Error, Fault::Gateway].iter().filter(|fault| !faults.contains(fault)) {
            self.health.clear(*fault);
        }
        let is_fault = faults.iter().any(|fault| law.rules.after[*fault as usize] != 0);
        if is_fault {
            self.health.clear(Fault::Connection);
            self.fault(faults, probe, at, &law);
        }
        self.group.compare(&law, at);
        is_fault
    }

    /// An answer after `latency` brought it back.
    #[cold]
    pub(super) fn came_back(&self, latency: Duration, at: u64) {
        self.load.restart(latency, at);
        self.entered.store(at, Relaxed);
        self.reported.forget();
        tracing::info!(service = %self.group.key, endpoint = %self.address, "endpoint is back");
    }

    /// What its health checks say.
    pub(crate) fn is_well(&self, well: bool) {
        self.unwell.store(!well, Relaxed);
        self.group.weigh();
    }

    fn fault(&self, faults: &[Fault], probe: bool, at: u64, law: &Law) {
        // Held until the ejection is done, so that two at once do not pass the limit together.
        let mut deciding = None;
        let ejected = self.health.failure(faults, probe, at, &law.rules, || {
            deciding = self.group.decide();
            deciding.is_some() && law.allows_one_more(self)
        });
        drop(deciding);
        if let Some(fault) = ejected {
            self.ejected(fault.into());
        }
    }

    pub(super) fn ejected(&self, reason: Reason) {
        self.metrics.ejected(reason);
        let cause = reason.label();
        tracing::warn!(service = %self.group.key, endpoint = %self.address, cause, "endpoint ejected");
    }
}

impl EndpointLoad for Endpoint {
    fn in_flight(&self) -> u32 {
        self.in_flight()
    }

    fn ewma(&self, now: Instant) -> Duration {
        self.latency(now)
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.state(now) != State::InService && !self.health.is_shunned()
    }

    fn is_unwell(&self) -> bool {
        self.unwell.load(Relaxed)
    }

    fn share(&self, now: Instant) -> Option<f64> {
        self.group.share(self.entered.load(Relaxed), self.group.clock(now))
    }

    fn reported(&self, now: Instant) -> Option<f64> {
        let law = self.group.law.load();
        self.reported.weight(law.reports.as_ref()?, self.group.clock(now))
    }
}

/// How long an endpoint that said that it leaves gets nothing: by then the control plane has said so too, or another
/// process may be there.
const AWAY: Duration = Duration::from_secs(5);
