//! What is counted per route.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use lighter_config::name::ServicePort;

use super::exemplar::Exemplars;
use super::exposition::{Exposition, Family, Kind, LabelValue, Unit};
use super::histogram::{self, Reading, SECONDS, SECONDS_CELLS, nanos};
use super::latencies::Latencies;
use super::recorder::recorder;
use super::retry::RetryCells;
use super::session::SessionCells;
use super::shards::Cells;
use super::{Direction, Record, Spoken};
use crate::error::Cause;
use crate::retry::{Condition, Refusal};
use crate::session::Joined;

/// Counters of one route, resolved when a mesh is built.
pub struct RouteMetrics {
    /// Which way.
    pub direction: Direction,
    /// Which Service and port.
    pub key: ServicePort,
    /// The route's name.
    pub route: Arc<str>,
    /// The labels above, as a scrape shows them.
    labels: String,
    cells: Cells,
    /// By protocol, code class and cause. Most routes never need it.
    failed: OnceLock<Cells>,
    /// Of the histogram of durations.
    exemplars: Exemplars,
    retries: RetryCells,
    sessions: SessionCells,
    /// Who looks at how long its answers take. Hardly any route has one.
    watched: OnceLock<Arc<Latencies>>,
}

/// What tells one route's counters from another's.
pub(super) type RouteKey = (Direction, ServicePort, Arc<str>);

/// A route's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteReading {
    /// Requests that have ended, and opaque connections.
    pub ended: u64,
    /// Those by code class: none sent, 1xx to 5xx.
    pub by_class: [u64; CLASSES],
    /// Those that did not end well, by cause.
    pub by_cause: Vec<(Cause, u64)>,
    /// Requests being worked on, and open opaque connections.
    pub open: u64,
    /// Bytes of bodies and opaque connections from the caller.
    pub bytes_in: u64,
    /// Bytes of bodies and opaque connections to the caller.
    pub bytes_out: u64,
    /// How often a request was tried again.
    pub retries: u64,
    /// From a request's head to the end of its answer.
    pub duration: Reading,
    /// From a request's head to its answer's head.
    pub latency: Reading,
}

/// What became of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// It is on its way.
    Sent,
    /// The body is larger than what is copied.
    TooLarge,
    /// Too many copies are on their way.
    Busy,
}

impl Mirrored {
    /// All of them, in the order of their counters.
    const ALL: [Mirrored; 3] = [Mirrored::Sent, Mirrored::TooLarge, Mirrored::Busy];

    const fn label(self) -> &'static str {
        match self {
            Mirrored::Sent => "sent",
            Mirrored::TooLarge => "too_large",
            Mirrored::Busy => "busy",
        }
    }
}

/// Code classes: none sent, then by first digit.
pub(super) const CLASSES: usize = 6;

impl RouteMetrics {
    /// The counters of one route; the same ones for the same labels.
    pub fn of(direction: Direction, key: &ServicePort, route: &str) -> Arc<Self> {
        let key = (direction, key.clone(), route.into());
        recorder().routes.of(key, Instant::now(), RouteMetrics::new)
    }

    /// An exchange or an opaque connection (`Tcp`, `Tls`) began: raises its gauge until it is accounted for.
    #[inline]
    pub fn begin(&self, spoken: Spoken) {
        self.cells.add(if spoken.is_http() { BEGUN } else { OPEN }, 1);
    }

    /// How many requests have begun.
    pub fn begun(&self) -> u64 {
        self.cells.sum(BEGUN)
    }

    /// How many requests have ended.
    pub(crate) fn ended(&self) -> u64 {
        self.cells.sum(ENDED)
    }

    /// Requests being worked on; never below zero, which a scrape in the middle of a change could see.
    pub(crate) fn in_flight(&self) -> u64 {
        self.cells.sum(BEGUN).wrapping_sub(self.cells.sum(ENDED)).cast_signed().max(0).cast_unsigned()
    }

    /// From now on every latency goes to `latencies` too, if none did before.
    pub(crate) fn watch(&self, latencies: &Arc<Latencies>) {
        self.watched.get_or_init(|| latencies.clone());
    }

    /// A request was tried again, since `condition` called for it.
    pub fn tried_again(&self, condition: Condition) {
        self.retries.again(condition);
    }

    /// A request was not tried again although that was called for.
    pub fn not_tried_again(&self, refusal: Refusal) {
        self.retries.refused(refusal);
    }

    /// A try took longer than it may.
    pub fn try_timed_out(&self) {
        self.retries.late();
    }

    /// What became of a request's session when an endpoint was picked.
    pub fn joined(&self, joined: Joined) {
        self.sessions.joined(joined);
    }

    /// A request waits because its route says so.
    #[cold]
    pub fn delayed(&self) {
        self.cells.add(DELAYED, 1);
    }

    /// So many copies of a request were sent to other Services, or were not.
    pub fn mirrored(&self, outcome: Mirrored, copies: usize) {
        self.cells.add(MIRRORED + outcome as usize, copies as u64);
    }

    /// What was counted so far.
    pub fn read(&self) -> RouteReading {
        let mut reading = RouteReading {
            open: self.in_flight() + self.cells.level(OPEN),
            bytes_in: self.cells.sum(BYTES_IN) + self.cells.sum(CONNECTION_IN),
            bytes_out: self.cells.sum(BYTES_OUT) + self.cells.sum(CONNECTION_OUT),
            retries: self.retries.tries(),
            duration: SECONDS.read(&self.cells, DURATION),
            latency: SECONDS.read(&self.cells, LATENCY),
            ..RouteReading::default()
        };
        for spoken in Spoken::ALL {
            for class in 0..CLASSES {
                reading.by_class[class] += self.cells.sum(good_cell(spoken, class));
            }
        }
        if let Some(failed) = self.failed.get() {
            for cause in Cause::ALL {
                let mut count = 0;
                for spoken in Spoken::ALL {
                    for class in 0..CLASSES {
                        let n = failed.sum(failed_cell(spoken, class, cause));
                        reading.by_class[class] += n;
                        count += n;
                    }
                }
                if count > 0 {
                    reading.by_cause.push((cause, count));
                }
            }
        }
        reading.ended = reading.by_class.iter().sum();
        reading
    }

    /// Counts an exchange or an opaque connection that ended.
    #[inline]
    pub(super) fn account(&self, record: &Record<'_>) {
        let shard = self.cells.shard();
        let class = class(record.status);
        match record.cause {
            None => shard.add(good_cell(record.spoken, class), 1),
            Some(cause) => self.account_failure(record.spoken, class, cause),
        }
        if record.spoken.is_http() {
            shard.add(ENDED, 1);
            if record.bytes_in > 0 {
                shard.add(BYTES_IN, record.bytes_in);
            }
            shard.add(BYTES_OUT, record.bytes_out);
            SECONDS.record(shard, DURATION, nanos(record.duration));
            if let Some(span) = record.span {
                self.exemplars.put(&SECONDS, nanos(record.duration), span.trace_id());
            }
            if record.cause.is_none() {
                SECONDS.record(shard, LATENCY, nanos(record.latency));
            }
            if let Some(latencies) = self.watched.get() {
                watch(latencies, record);
            }
            if let Some(status) = record.grpc_status {
                shard.add(GRPC + usize::from(status).min(GRPC_CODES - 1), 1);
            }
        } else {
            shard.sub(OPEN, 1);
            shard.add(CONNECTION_IN, record.bytes_in);
            shard.add(CONNECTION_OUT, record.bytes_out);
        }
    }

    pub(super) fn collect(&self, out: &mut Exposition) {
        if self.cells.untouched() && self.failed.get().is_none() {
            return;
        }
        let labels = &self.labels;
        let mut http = 0;
        let mut opaque = 0;
        let mut ended = |spoken: Spoken, class: usize, cause: &str, count: u64| {
            if count == 0 {
                return;
            }
            let protocol = spoken.label();
            if spoken.is_http() {
                http += count;
                let class = class_label(class);
                out.sample(
                    &REQUESTS,
                    format_args!("{labels},protocol=\"{protocol}\",code_class=\"{class}\",cause=\"{cause}\""),
                    count,
                );
            } else {
                opaque += count;
                out.sample(
                    &CONNECTIONS,
                    format_args!("{labels},protocol=\"{protocol}\",cause=\"{cause}\""),
                    count,
                );
            }
        };
        for spoken in Spoken::ALL {
            let classes = if spoken.is_http() { CLASSES } else { 1 };
            for class in 0..classes {
                ended(spoken, class, "", self.cells.sum(good_cell(spoken, class)));
                let Some(failed) = self.failed.get() else { continue };
                for cause in Cause::ALL {
                    ended(spoken, class, cause.label(), failed.sum(failed_cell(spoken, class, cause)));
                }
            }
        }
        let in_flight = self.in_flight();
        if http + in_flight > 0 {
            out.sample(&REQUESTS_IN_FLIGHT, labels, in_flight);
            out.sample(&REQUEST_BYTES, labels, self.cells.sum(BYTES_IN));
            out.sample(&RESPONSE_BYTES, labels, self.cells.sum(BYTES_OUT));
            self.retries.collect(labels, out);
            self.sessions.collect(labels, out);
            let delayed = self.cells.sum(DELAYED);
            if delayed > 0 {
                out.sample(&REQUESTS_DELAYED, labels, delayed);
            }
            let durations = SECONDS.read(&self.cells, DURATION);
            out.histogram_with(&REQUEST_DURATION, labels, &SECONDS, &durations, &self.exemplars.read());
            out.histogram(&RESPONSE_LATENCY, labels, &SECONDS, &SECONDS.read(&self.cells, LATENCY));
            for outcome in Mirrored::ALL {
                let count = self.cells.sum(MIRRORED + outcome as usize);
                if count > 0 {
                    let outcome = outcome.label();
                    out.sample(&REQUESTS_MIRRORED, format_args!("{labels},outcome=\"{outcome}\""), count);
                }
            }
            for code in 0..GRPC_CODES {
                let count = self.cells.sum(GRPC + code);
                if count > 0 {
                    let code = if code == GRPC_CODES - 1 { "other".into() } else { code.to_string() };
                    out.sample(&GRPC_RESPONSES, format_args!("{labels},grpc_status=\"{code}\""), count);
                }
            }
        }
        let open = self.cells.level(OPEN);
        if opaque + open > 0 {
            out.sample(&CONNECTIONS_OPEN, labels, open);
            for (way, cell) in [("in", CONNECTION_IN), ("out", CONNECTION_OUT)] {
                out.sample(&CONNECTION_BYTES, format_args!("{labels},way=\"{way}\""), self.cells.sum(cell));
            }
        }
    }

    fn new(key: &RouteKey) -> Self {
        let (direction, key, route) = key;
        let labels = format!(
            "direction=\"{}\",service=\"{}\",port=\"{}\",route=\"{}\"",
            direction.label(),
            LabelValue(&key.service.to_string()),
            key.port,
            LabelValue(route)
        );
        RouteMetrics {
            direction: *direction,
            key: key.clone(),
            route: route.clone(),
            labels,
            cells: Cells::new(CELLS),
            failed: OnceLock::new(),
            exemplars: Exemplars::default(),
            retries: RetryCells::default(),
            watched: OnceLock::new(),
            sessions: SessionCells::default(),
        }
    }

    #[cold]
    fn account_failure(&self, spoken: Spoken, class: usize, cause: Cause) {
        let cells = self.failed.get_or_init(|| Cells::new(Spoken::ALL.len() * CLASSES * Cause::ALL.len()));
        cells.add(failed_cell(spoken, class, cause), 1);
    }
}

/// Passes on how long an answer took, or how long it was waited for in vain.
#[cold]
fn watch(latencies: &Latencies, record: &Record<'_>) {
    match record.cause {
        None => latencies.record(record.latency),
        Some(Cause::DownstreamAborted | Cause::RequestTimeout | Cause::IdleTimeout) => {
            latencies.record(record.duration);
        }
        Some(_) => {}
    }
}

/// `2xx` and so on; empty where no status was sent.
pub fn class_label(class: usize) -> &'static str {
    ["", "1xx", "2xx", "3xx", "4xx", "5xx"].get(class).copied().unwrap_or("")
}

#[inline]
fn class(status: u16) -> usize {
    let class = usize::from(status / 100);
    if class < CLASSES { class } else { 0 }
}

#[inline]
fn good_cell(spoken: Spoken, class: usize) -> usize {
    GOOD + spoken as usize * CLASSES + class
}

fn failed_cell(spoken: Spoken, class: usize, cause: Cause) -> usize {
    (spoken as usize * CLASSES + class) * Cause::ALL.len() + cause as usize
}

// A request touches the first line, one of the next, and one or two lines of each histogram.
const BEGUN: usize = 0;
const BYTES_IN: usize = 1;
const BYTES_OUT: usize = 2;
const ENDED: usize = 3;
const OPEN: usize = 4;
const CONNECTION_IN: usize = 5;
const CONNECTION_OUT: usize = 6;
const DELAYED: usize = 7;
const GOOD: usize = 8;
const DURATION: usize = GOOD + Spoken::ALL.len() * CLASSES;
const LATENCY: usize = DURATION + SECONDS_CELLS;
const GRPC: usize = LATENCY + histogram::SECONDS_CELLS;
const GRPC_CODES: usize = 18;
const MIRRORED: usize = GRPC + GRPC_CODES;
const CELLS: usize = MIRRORED + Mirrored::ALL.len();

static REQUESTS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_requests",
    "Requests that ended, by protocol, class of status code, and cause where they did not end well.",
);
static REQUESTS_IN_FLIGHT: Family =
    Family::new(Kind::Gauge, Unit::None, "lighter_requests_in_flight", "Requests being worked on.");
static REQUEST_DURATION: Family = Family::new(
    Kind::Histogram,
    Unit::Seconds,
    "lighter_request_duration_seconds",
    "Time from a request's head to the end of its answer.",
);
static RESPONSE_LATENCY: Family = Family::new(
    Kind::Histogram,
    Unit::Seconds,
    "lighter_response_latency_seconds",
    "Time from a request's head to its answer's head, of exchanges that ended well.",
);
static REQUEST_BYTES: Family =
    Family::new(Kind::Counter, Unit::Bytes, "lighter_request_bytes", "Bytes of request bodies.");
static RESPONSE_BYTES: Family =
    Family::new(Kind::Counter, Unit::Bytes, "lighter_response_bytes", "Bytes of response bodies.");
static REQUESTS_DELAYED: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_delayed_requests",
    "Requests that a fault of their route had wait.",
);
static REQUESTS_MIRRORED: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_mirrored_requests",
    "Copies of requests for other Services: sent, or not, as the body was too large or too many were on their way.",
);
static GRPC_RESPONSES: Family =
    Family::new(Kind::Counter, Unit::None, "lighter_grpc_responses", "gRPC answers by status code.");
static CONNECTIONS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_connections",
    "Opaque connections that ended, by protocol, and cause where they did not end well.",
);
static CONNECTIONS_OPEN: Family =
    Family::new(Kind::Gauge, Unit::None, "lighter_connections_open", "Open opaque connections.");
static CONNECTION_BYTES: Family = Family::new(
    Kind::Counter,
    Unit::Bytes,
    "lighter_connection_bytes",
    "Bytes of opaque connections that ended: in is from the caller, out is to the caller.",
);
