//! What is counted per endpoint, and per port in balancing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lighter_config::name::ServicePort;

use super::exposition::{Exposition, Family, Kind, LabelValue, Unit};
use super::recorder::recorder;
use super::shards::Cells;
use crate::balance::Reported;
use crate::balance::outlier::Reason;
use crate::error::Cause;

/// Counters of one endpoint of one port.
pub struct EndpointMetrics {
    labels: String,
    cells: Cells,
    load: Mutex<Weak<dyn EndpointLoad>>,
}

/// Who knows an endpoint's load. Asked at a scrape.
pub trait EndpointLoad: Send + Sync {
    /// Requests and opaque connections that are with it now.
    fn in_flight(&self) -> u32;
    /// The latency by which it is judged.
    fn ewma(&self, now: Instant) -> Duration;
    /// Whether it is kept out for its failures.
    fn is_ejected(&self, now: Instant) -> bool;
    /// Whether its health checks fail.
    fn is_unwell(&self) -> bool;
    /// The part of its share that it has, where shares rise slowly.
    fn share(&self, now: Instant) -> Option<f64>;
    /// The weight that its answers report, where that is heard and counts.
    fn reported(&self, now: Instant) -> Option<f64>;
}

impl EndpointMetrics {
    /// The counters of the endpoint at `address`; the same ones for the same labels.
    pub fn of(key: &ServicePort, address: SocketAddr) -> Arc<Self> {
        recorder().endpoints.of((key.clone(), address), Instant::now(), |(key, address)| {
            let labels = format!("{},endpoint=\"{address}\"", port_labels(key));
            EndpointMetrics { labels, cells: Cells::new(CELLS), load: Mutex::new(Weak::<Nobody>::new()) }
        })
    }

    /// Says who knows the load from now on.
    pub fn watch(&self, load: Weak<dyn EndpointLoad>) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
    }

    /// A connection to it was opened, or could not be.
    #[inline]
    pub fn dialled(&self, opened: bool) {
        self.cells.add(if opened { CONNECTS } else { CONNECT_FAILURES }, 1);
    }

    /// It was picked for a request or an opaque connection.
    #[inline]
    pub fn picked(&self) {
        self.cells.add(REQUESTS, 1);
    }

    /// It failed a request or an opaque connection.
    pub fn failed(&self) {
        self.cells.add(FAILURES, 1);
    }

    /// It was asked whether it is well.
    pub fn checked(&self, passed: bool) {
        self.cells.add(if passed { CHECKS_PASSED } else { CHECKS_FAILED }, 1);
    }

    /// An answer had a field that may be a report of its load.
    pub fn reported(&self, outcome: Reported) {
        self.cells.add(REPORTS + outcome as usize, 1);
    }

    /// It was ejected.
    pub fn ejected(&self, reason: Reason) {
        self.cells.add(EJECTIONS + reason as usize, 1);
    }

    /// Requests, failures, connections, failed connections, ejections.
    pub fn read(&self) -> EndpointReading {
        EndpointReading {
            requests: self.cells.sum(REQUESTS),
            failures: self.cells.sum(FAILURES),
            connects: self.cells.sum(CONNECTS),
            connect_failures: self.cells.sum(CONNECT_FAILURES),
            ejections: Reason::ALL.iter().map(|reason| self.cells.sum(EJECTIONS + *reason as usize)).sum(),
        }
    }

    pub(super) fn collect(&self, out: &mut Exposition, now: Instant) {
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if self.cells.untouched() && load.is_none() {
            return;
        }
        let labels = &self.labels;
        let reading = self.read();
        out.sample(&ENDPOINT_REQUESTS, labels, reading.requests);
        out.sample(&ENDPOINT_FAILURES, labels, reading.failures);
        out.sample(&ENDPOINT_CONNECTS, labels, reading.connects);
        out.sample(&ENDPOINT_CONNECT_FAILURES, labels, reading.connect_failures);
        for reason in Reason::ALL {
            let count = self.cells.sum(EJECTIONS + reason as usize);
            // What was never a reason is not worth a series at each endpoint.
            if count > 0 || reason == Reason::ConsecutiveFailures {
                out.sample(&ENDPOINT_EJECTIONS, format!("{labels},cause=\"{}\"", reason.label()), count);
            }
        }
        let checks = [("passed", CHECKS_PASSED), ("failed", CHECKS_FAILED)];
        let checks = checks.map(|(outcome, cell)| (outcome, self.cells.sum(cell)));
        let is_checked = checks.iter().any(|(_, count)| *count > 0);
        for (outcome, count) in checks.into_iter().filter(|_| is_checked) {
            out.sample(&ENDPOINT_CHECKS, format!("{labels},outcome=\"{outcome}\""), count);
        }
        for outcome in Reported::ALL {
            let count = self.cells.sum(REPORTS + outcome as usize);
            if count > 0 {
                out.sample(&ENDPOINT_REPORTS, format!("{labels},outcome=\"{}\"", outcome.label()), count);
            }
        }
        // An endpoint that is gone from the configuration keeps its counters for a while, but has no load.
        if let Some(load) = load {
            out.sample(&ENDPOINT_IN_FLIGHT, labels, u64::from(load.in_flight()));
            out.sample(&ENDPOINT_LATENCY, labels, load.ewma(now).as_secs_f64());
            out.sample(&ENDPOINT_EJECTED, labels, u64::from(load.is_ejected(now)));
            if is_checked {
                out.sample(&ENDPOINT_UNWELL, labels, u64::from(load.is_unwell()));
            }
            if let Some(share) = load.share(now) {
                out.sample(&ENDPOINT_SHARE, labels, share);
            }
            if let Some(weight) = load.reported(now) {
                out.sample(&ENDPOINT_REPORTED, labels, weight);
            }
        }
    }
}

/// An endpoint's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointReading {
    /// Requests and opaque connections that it was picked for.
    pub requests: u64,
    /// Those that it failed.
    pub failures: u64,
    /// Connections opened.
    pub connects: u64,
    /// Connections that could not be opened.
    pub connect_failures: u64,
    /// How often it was ejected.
    pub ejections: u64,
}

/// Counters of one port's balancing.
pub struct ClusterMetrics {
    labels: String,
    cells: Cells,
    standing: Mutex<Weak<dyn Standing>>,
    panicking: AtomicBool,
}

/// Who knows what stands where at a port's limits. Asked at a scrape.
pub trait Standing: Send + Sync {
    /// Requests that are let through, connections in use, and requests that wait.
    fn standing(&self) -> [u32; 3];
}

impl ClusterMetrics {
    /// The counters of `key`; the same ones for the same port.
    pub fn of(key: &ServicePort) -> Arc<Self> {
        recorder().clusters.of(key.clone(), Instant::now(), |key| ClusterMetrics {
            labels: port_labels(key),
            cells: Cells::new(PORT_CELLS),
            standing: Mutex::new(Weak::<Nobody>::new()),
            panicking: AtomicBool::new(false),
        })
    }

    /// A request went to an ejected endpoint, as there was no other.
    pub fn panicked(&self) {
        self.cells.add(PANICS, 1);
    }

    /// How often that was so.
    pub fn panics(&self) -> u64 {
        self.cells.sum(PANICS)
    }

    /// A request went to an endpoint of a lower priority, as no one of a higher was available.
    pub fn failed_over(&self) {
        self.cells.add(FAILOVERS, 1);
    }

    /// How often that was so.
    pub fn failovers(&self) -> u64 {
        self.cells.sum(FAILOVERS)
    }

    /// Health checks are not believed from now on, as too many fail, or are again.
    pub fn health_panic(&self, panics: bool) {
        self.cells.add(HEALTH_PANICS, u64::from(panics));
        self.panicking.store(panics, Relaxed);
    }

    /// A request went farther than to the nearest endpoints of the first priority.
    pub fn spilled(&self) {
        self.cells.add(SPILLS, 1);
    }

    /// Says who knows what stands at the port's limits; nobody where it has none.
    pub fn limit(&self, standing: Weak<dyn Standing>) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// A request had to wait for others to end.
    pub fn waited(&self) {
        self.cells.add(WAITS, 1);
    }

    /// A request was refused, by this cause, as others did not end.
    pub fn refused(&self, cause: Cause) {
        self.cells.add(if cause == Cause::PendingTimeout { TIMEOUTS } else { OVERFLOWS }, 1);
    }

    pub(super) fn collect(&self, out: &mut Exposition) {
        let labels = &self.labels;
        if !self.cells.untouched() {
            out.sample(&BALANCER_PANICS, labels, self.panics());
            out.sample(&BALANCER_FAILOVERS, labels, self.failovers());
        }
        if self.cells.sum(SPILLS) > 0 {
            out.sample(&BALANCER_SPILLS, labels, self.cells.sum(SPILLS));
        }
        if self.cells.sum(HEALTH_PANICS) > 0 {
            out.sample(&HEALTH_PANICS_TOTAL, labels, self.cells.sum(HEALTH_PANICS));
            out.sample(&HEALTH_PANIC, labels, u64::from(self.panicking.load(Relaxed)));
        }
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(standing) = standing {
            let [requests, connections, pending] = standing.standing();
            out.sample(&CIRCUIT_REQUESTS, labels, u64::from(requests));
            out.sample(&CIRCUIT_CONNECTIONS, labels, u64::from(connections));
            out.sample(&CIRCUIT_PENDING, labels, u64::from(pending));
            out.sample(&CIRCUIT_WAITS, labels, self.cells.sum(WAITS));
            for (cause, cell) in [(Cause::PendingOverflow, OVERFLOWS), (Cause::PendingTimeout, TIMEOUTS)] {
                let labels = format!("{labels},cause=\"{cause}\"");
                out.sample(&CIRCUIT_REFUSALS, &labels, self.cells.sum(cell));
            }
        }
    }
}

struct Nobody;

impl EndpointLoad for Nobody {
    fn in_flight(&self) -> u32 {
        0
    }

    fn ewma(&self, _: Instant) -> Duration {
        Duration::ZERO
    }

    fn is_ejected(&self, _: Instant) -> bool {
        false
    }

    fn is_unwell(&self) -> bool {
        false
    }

    fn share(&self, _: Instant) -> Option<f64> {
        None
    }

    fn reported(&self, _: Instant) -> Option<f64> {
        None
    }
}

impl Standing for Nobody {
    fn standing(&self) -> [u32; 3] {
        [0; 3]
    }
}

fn port_labels(key: &ServicePort) -> String {
    format!("service=\"{}\",port=\"{}\"", LabelValue(&key.service.to_string()), key.port)
}

const REQUESTS: usize = 0;
const FAILURES: usize = 1;
const CONNECTS: usize = 2;
const CONNECT_FAILURES: usize = 3;
const EJECTIONS: usize = 4;
const CHECKS_PASSED: usize = EJECTIONS + Reason::ALL.len();
const CHECKS_FAILED: usize = CHECKS_PASSED + 1;
const REPORTS: usize = CHECKS_FAILED + 1;
const CELLS: usize = REPORTS + Reported::ALL.len();

const PANICS: usize = 0;
const FAILOVERS: usize = 1;
const WAITS: usize = 2;
const OVERFLOWS: usize = 3;
const TIMEOUTS: usize = 4;
const HEALTH_PANICS: usize = 5;
const SPILLS: usize = 6;
const PORT_CELLS: usize = 7;

static ENDPOINT_REQUESTS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_endpoint_requests",
    "Requests and opaque connections that an endpoint was picked for, first tries and retries.",
);
static ENDPOINT_FAILURES: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_endpoint_failures",
    "Those of them that the endpoint failed: no connection, or one that broke.",
);
static ENDPOINT_CONNECTS: Family =
    Family::new(Kind::Counter, Unit::None, "lighter_endpoint_connects", "Connections opened to an endpoint.");
static ENDPOINT_CONNECT_FAILURES: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_endpoint_connect_failures",
    "Connections to an endpoint that could not be opened.",
);
static ENDPOINT_EJECTIONS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_endpoint_ejections",
    "How often an endpoint was ejected, by cause.",
);
static ENDPOINT_IN_FLIGHT: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_endpoint_in_flight",
    "Requests and opaque connections that are with an endpoint.",
);
static ENDPOINT_LATENCY: Family = Family::new(
    Kind::Gauge,
    Unit::Seconds,
    "lighter_endpoint_latency_ewma_seconds",
    "The latency by which the balancer judges an endpoint.",
);
static ENDPOINT_EJECTED: Family =
    Family::new(Kind::Gauge, Unit::None, "lighter_endpoint_ejected", "1 while an endpoint is ejected.");
static BALANCER_PANICS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_balancer_panics",
    "Picks of an ejected endpoint because a port had no other left to try.",
);
static BALANCER_FAILOVERS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_balancer_failovers",
    "Picks of an endpoint that is not of a port's first priority, because none of a higher one was available.",
);
static CIRCUIT_REQUESTS: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_circuit_requests",
    "Requests and opaque connections that are let through to a port whose policy limits them.",
);
static CIRCUIT_CONNECTIONS: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_circuit_connections",
    "Connections in use to a port whose policy limits them.",
);
static CIRCUIT_PENDING: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_circuit_pending",
    "Requests that wait until others to the port end.",
);
static CIRCUIT_WAITS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_circuit_waits",
    "Requests that had to wait until others to the port ended.",
);
static CIRCUIT_REFUSALS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_circuit_refusals",
    "Requests that were refused as others to the port did not end.",
);
static ENDPOINT_CHECKS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_endpoint_checks",
    "Health checks of an endpoint by this sidecar, by outcome.",
);
static ENDPOINT_UNWELL: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_endpoint_unwell",
    "1 while an endpoint does not pass its health checks.",
);
static ENDPOINT_SHARE: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_endpoint_share",
    "The part of its share of requests that an endpoint has, below 1 while it starts slowly.",
);
static HEALTH_PANICS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_balancer_health_panics",
    "How often so many endpoints of a port were unwell that health checks were not believed any more.",
);
static HEALTH_PANIC: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_balancer_health_panic",
    "1 while health checks of a port are not believed.",
);
static BALANCER_SPILLS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_balancer_spills",
    "Picks of an endpoint farther off than the nearest, because too few of these were in service.",
);
static ENDPOINT_REPORTS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_endpoint_load_reports",
    "Fields of answers with a report of an endpoint's load, where these are heard, by what became of them.",
);
static ENDPOINT_REPORTED: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_endpoint_reported_weight",
    "The weight that an endpoint reports: requests in a second by utilization. Absent: it has an average share.",
);
