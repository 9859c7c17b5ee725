//! What is counted per endpoint, and per port in balancing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lighter_config::name::ServicePort;

use super::exposition::{Exposition, Family, Kind, LabelValue, Unit};
use super::recorder::recorder;
use super::shards::Cells;

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

    /// It was ejected.
    pub fn ejected(&self) {
        self.cells.add(EJECTIONS, 1);
    }

    /// Requests, failures, connections, failed connections, ejections.
    pub fn read(&self) -> EndpointReading {
        EndpointReading {
            requests: self.cells.sum(REQUESTS),
            failures: self.cells.sum(FAILURES),
            connects: self.cells.sum(CONNECTS),
            connect_failures: self.cells.sum(CONNECT_FAILURES),
            ejections: self.cells.sum(EJECTIONS),
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
        out.sample(&ENDPOINT_EJECTIONS, labels, reading.ejections);
        // An endpoint that is gone from the configuration keeps its counters for a while, but has no load.
        if let Some(load) = load {
            out.sample(&ENDPOINT_IN_FLIGHT, labels, u64::from(load.in_flight()));
            out.sample(&ENDPOINT_LATENCY, labels, load.ewma(now).as_secs_f64());
            out.sample(&ENDPOINT_EJECTED, labels, u64::from(load.is_ejected(now)));
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
}

impl ClusterMetrics {
    /// The counters of `key`; the same ones for the same port.
    pub fn of(key: &ServicePort) -> Arc<Self> {
        recorder().clusters.of(key.clone(), Instant::now(), |key| ClusterMetrics {
            labels: port_labels(key),
            cells: Cells::new(2),
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

    pub(super) fn collect(&self, out: &mut Exposition) {
        if !self.cells.untouched() {
            out.sample(&BALANCER_PANICS, &self.labels, self.panics());
            out.sample(&BALANCER_FAILOVERS, &self.labels, self.failovers());
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
}

fn port_labels(key: &ServicePort) -> String {
    format!("service=\"{}\",port=\"{}\"", LabelValue(&key.service.to_string()), key.port)
}

const REQUESTS: usize = 0;
const FAILURES: usize = 1;
const CONNECTS: usize = 2;
const CONNECT_FAILURES: usize = 3;
const EJECTIONS: usize = 4;
const CELLS: usize = 5;

const PANICS: usize = 0;
const FAILOVERS: usize = 1;

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
    "How often an endpoint was ejected for its failures.",
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
