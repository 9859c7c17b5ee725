//! What is counted once for the sidecar: detection, configuration, workers, and the access log's losses.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Direction;
use super::exposition::{Exposition, Family, Kind, LabelValue, Unit};
use super::histogram::{SECONDS, SECONDS_CELLS, nanos};
use super::recorder::recorder;
use super::shards::Cells;
use super::table::Table;
use crate::guard::Shed;

/// Everything that exists once.
#[derive(Default)]
pub(super) struct Sidecar {
    detections: Lazy<[DetectMetrics; 2]>,
    config: Lazy<ConfigMetrics>,
    workers: Table<usize, WorkerMetrics>,
    log_dropped: Lazy<Cells>,
    /// Nanoseconds.
    device_busy: Lazy<Cells>,
    /// Nanoseconds.
    device_rested: Lazy<Cells>,
    /// Microjoules, by where they are known from.
    device_energy: [Lazy<Cells>; 2],
}

/// Where it is known from how much energy a device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnergySource {
    /// The machine counts it.
    Rapl,
    /// A model of its power.
    Modelled,
}

impl EnergySource {
    const ALL: [EnergySource; 2] = [EnergySource::Rapl, EnergySource::Modelled];

    /// The label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            EnergySource::Rapl => "rapl",
            EnergySource::Modelled => "modelled",
        }
    }
}

/// Made when it is first used, so that it knows how many workers there are.
struct Lazy<T>(LazyLock<T>);

/// How protocol detection of one connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    /// Nothing had to be found out: configuration or an earlier connection said it.
    Known,
    /// The client's first bytes are HTTP/1.
    Http1,
    /// The client's first bytes are the HTTP/2 preface.
    Http2,
    /// The client's first bytes are a TLS ClientHello.
    Tls,
    /// The client's first bytes are none of these.
    Opaque,
    /// The server spoke first.
    ServerFirst,
    /// The client went away before it was clear.
    Closed,
    /// It was not clear within the limits on bytes or time.
    Limit,
    /// The client kept silent, and the upstream, which might have spoken, could not be reached.
    NoUpstream,
}

/// Counts of protocol detection.
pub struct DetectMetrics(Cells);

/// What became of a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// It is in force.
    Applied,
    /// It says what the one in force says.
    Unchanged,
    /// It is faulty; the one in force stays.
    Rejected,
}

/// Counts of configuration.
pub struct ConfigMetrics {
    cells: Cells,
    /// Of the configuration in force; zero before the first.
    services: AtomicU64,
    /// When it was applied, in milliseconds since 1970; zero before the first.
    applied_at: AtomicU64,
    /// 1 while the newest configuration is the one in force.
    current: AtomicU64,
}

/// Counts of one worker.
pub struct WorkerMetrics {
    index: usize,
    cells: Cells,
}

/// Counts of protocol detection in one direction.
pub fn detection(direction: Direction) -> &'static DetectMetrics {
    &recorder().sidecar.detections.0[direction as usize]
}

/// Counts of configuration.
pub fn config() -> &'static ConfigMetrics {
    &recorder().sidecar.config.0
}

/// Counts of the worker `index`.
pub fn worker(index: usize) -> Arc<WorkerMetrics> {
    recorder()
        .sidecar
        .workers
        .keep(index, Instant::now(), |index| WorkerMetrics { index: *index, cells: Cells::new(WORKER_CELLS) })
}

/// Lines that the access log had to drop.
pub(super) fn log_dropped(lines: u64) {
    recorder().sidecar.log_dropped.0.add(0, lines);
}

/// Functions took so much processor time.
pub(crate) fn device_busy(time: Duration) {
    recorder().sidecar.device_busy.0.add(0, nanos(time));
}

/// The processor time that functions took, in seconds.
pub(crate) fn device_busy_seconds() -> f64 {
    Duration::from_nanos(recorder().sidecar.device_busy.0.sum(0)).as_secs_f64()
}

/// Functions rested for so long, so that the device keeps its limits.
pub(crate) fn device_rested(time: Duration) {
    recorder().sidecar.device_rested.0.add(0, nanos(time));
}

/// The device took so many microjoules.
pub(crate) fn device_energy(source: EnergySource, microjoules: u64) {
    recorder().sidecar.device_energy[source as usize].0.add(0, microjoules);
}

/// The energy that the device took, in joules, and from where that is known. None: nothing was counted yet.
pub(crate) fn device_joules() -> Option<(f64, EnergySource)> {
    let taken = |source| recorder().sidecar.device_energy[source as usize].0.sum(0);
    let counted = EnergySource::ALL.into_iter().find(|source| taken(*source) > 0)?;
    Some((taken(counted) as f64 / 1e6, counted))
}

impl DetectMetrics {
    /// A detection that ended, and how long it took.
    #[inline]
    pub fn count(&self, outcome: Detected, took: Duration) {
        let shard = self.0.shard();
        shard.add(outcome as usize, 1);
        if outcome != Detected::Known {
            SECONDS.record(shard, Detected::ALL.len(), nanos(took));
        }
    }
}

impl ConfigMetrics {
    /// Resource files were loaded.
    pub fn loaded(&self, outcome: Load) {
        self.cells.add(outcome as usize, 1);
        self.current.store(u64::from(outcome != Load::Rejected), Relaxed);
    }

    /// A configuration is in force now that has so many services, wherever they come from.
    pub fn in_force(&self, services: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.services.store(services as u64, Relaxed);
        self.applied_at.store(now.as_millis() as u64, Relaxed);
    }
}

impl WorkerMetrics {
    /// A downstream connection was accepted.
    #[inline]
    pub fn accepted(&self) {
        let shard = self.cells.shard();
        shard.add(ACCEPTED, 1);
        shard.add(OPEN, 1);
    }

    /// A downstream connection that was accepted has ended.
    #[inline]
    pub fn ended(&self) {
        self.cells.shard().sub(OPEN, 1);
    }

    /// A downstream connection was refused because a limit is reached.
    pub fn shed(&self, why: Shed) {
        self.cells.add(SHED + why as usize, 1);
    }

    /// Accepting failed.
    pub fn accept_failed(&self) {
        self.cells.add(ACCEPT_FAILED, 1);
    }

    /// A connection's task panicked.
    pub fn panicked(&self) {
        self.cells.add(PANICS, 1);
    }

    /// Open downstream connections.
    pub fn open(&self) -> u64 {
        self.cells.level(OPEN)
    }
}

impl Sidecar {
    pub(super) fn collect(&self, out: &mut Exposition) {
        for (direction, detect) in Direction::ALL.iter().zip(&*self.detections.0) {
            if detect.0.untouched() {
                continue;
            }
            let labels = format!("direction=\"{}\"", direction.label());
            for outcome in Detected::ALL {
                let count = detect.0.sum(outcome as usize);
                out.sample(&DETECTIONS, format_args!("{labels},outcome=\"{}\"", outcome.label()), count);
            }
            let reading = SECONDS.read(&detect.0, Detected::ALL.len());
            out.histogram(&DETECTION_DURATION, labels, &SECONDS, &reading);
        }
        let config = &*self.config.0;
        for load in Load::ALL {
            let count = config.cells.sum(load as usize);
            out.sample(&CONFIG_LOADS, format_args!("outcome=\"{}\"", load.label()), count);
        }
        out.sample(&CONFIG_CURRENT, "", config.current.load(Relaxed));
        out.sample(&CONFIG_SERVICES, "", config.services.load(Relaxed));
        out.sample(&CONFIG_APPLIED, "", config.applied_at.load(Relaxed) as f64 / 1000.0);
        self.workers.each(|_, worker| worker.collect(out));
        out.sample(&LOG_DROPPED, "", self.log_dropped.0.sum(0));
        if !self.device_busy.0.untouched() {
            out.sample(&DEVICE_BUSY, "", Duration::from_nanos(self.device_busy.0.sum(0)).as_secs_f64());
        }
        if !self.device_rested.0.untouched() {
            out.sample(&DEVICE_RESTED, "", Duration::from_nanos(self.device_rested.0.sum(0)).as_secs_f64());
        }
        for source in EnergySource::ALL {
            let microjoules = self.device_energy[source as usize].0.sum(0);
            if microjoules > 0 {
                let source = source.label();
                let joules = microjoules as f64 / 1e6;
                out.sample(&DEVICE_ENERGY, format_args!("energy_source=\"{source}\""), joules);
            }
        }
        let version = LabelValue(env!("CARGO_PKG_VERSION"));
        out.sample(&BUILD, format_args!("version=\"{version}\""), 1u64);
    }
}

impl WorkerMetrics {
    fn collect(&self, out: &mut Exposition) {
        let labels = format!("worker=\"{}\"", self.index);
        out.sample(&WORKER_OPEN, &labels, self.cells.level(OPEN));
        out.sample(&WORKER_ACCEPTED, &labels, self.cells.sum(ACCEPTED));
        for why in Shed::ALL {
            let count = self.cells.sum(SHED + why as usize);
            out.sample(&WORKER_SHED, format_args!("{labels},cause=\"{}\"", why.label()), count);
        }
        out.sample(&WORKER_ACCEPT_FAILED, &labels, self.cells.sum(ACCEPT_FAILED));
        out.sample(&WORKER_PANICS, &labels, self.cells.sum(PANICS));
    }
}

impl Detected {
    const ALL: [Detected; 9] = [
        Detected::Known,
        Detected::Http1,
        Detected::Http2,
        Detected::Tls,
        Detected::Opaque,
        Detected::ServerFirst,
        Detected::Closed,
        Detected::Limit,
        Detected::NoUpstream,
    ];

    const fn label(self) -> &'static str {
        match self {
            Detected::Known => "known",
            Detected::Http1 => "http1",
            Detected::Http2 => "http2",
            Detected::Tls => "tls",
            Detected::Opaque => "opaque",
            Detected::ServerFirst => "server_first",
            Detected::Closed => "closed",
            Detected::Limit => "limit",
            Detected::NoUpstream => "no_upstream",
        }
    }
}

impl Load {
    const ALL: [Load; 3] = [Load::Applied, Load::Unchanged, Load::Rejected];

    const fn label(self) -> &'static str {
        match self {
            Load::Applied => "applied",
            Load::Unchanged => "unchanged",
            Load::Rejected => "rejected",
        }
    }
}

impl Default for Lazy<[DetectMetrics; 2]> {
    fn default() -> Self {
        Lazy(LazyLock::new(|| [(); 2].map(|()| DetectMetrics(Cells::new(DETECT_CELLS)))))
    }
}

impl Default for Lazy<ConfigMetrics> {
    fn default() -> Self {
        Lazy(LazyLock::new(|| ConfigMetrics {
            cells: Cells::new(Load::ALL.len()),
            services: AtomicU64::new(0),
            applied_at: AtomicU64::new(0),
            current: AtomicU64::new(0),
        }))
    }
}

impl Default for Lazy<Cells> {
    fn default() -> Self {
        Lazy(LazyLock::new(|| Cells::new(1)))
    }
}

const DETECT_CELLS: usize = Detected::ALL.len() + SECONDS_CELLS;

// Cells of a worker.
const OPEN: usize = 0;
const ACCEPTED: usize = 1;
const SHED: usize = 2;
const ACCEPT_FAILED: usize = SHED + Shed::ALL.len();
const PANICS: usize = ACCEPT_FAILED + 1;
const WORKER_CELLS: usize = PANICS + 1;

static DETECTIONS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_detections",
    "Connections whose protocol was found out, by outcome; known means that nothing had to be found out.",
);
static DETECTION_DURATION: Family = Family::new(
    Kind::Histogram,
    Unit::Seconds,
    "lighter_detection_duration_seconds",
    "Time from accepting a connection until its protocol was clear, where it was not known before.",
);
static DEVICE_BUSY: Family = Family::new(
    Kind::Counter,
    Unit::Seconds,
    "lighter_device_busy_seconds",
    "Processor time of functions. Absent until one has run.",
);
static DEVICE_RESTED: Family = Family::new(
    Kind::Counter,
    Unit::Seconds,
    "lighter_device_rested_seconds",
    "Time that functions rested, so that the device keeps its limits. Absent until one has.",
);
static DEVICE_ENERGY: Family = Family::new(
    Kind::Counter,
    Unit::Joules,
    "lighter_device_joules",
    "Energy that the device took: counted by the machine (rapl), or by a model of its power (modelled).",
);
static CONFIG_LOADS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_config_loads",
    "Configurations that were loaded, by what became of them.",
);
static CONFIG_CURRENT: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_config_current",
    "1 while the newest configuration is in force, 0 while it is faulty and an older one is, or none.",
);
static CONFIG_SERVICES: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_config_services",
    "Services of the configuration in force.",
);
static CONFIG_APPLIED: Family = Family::new(
    Kind::Gauge,
    Unit::Seconds,
    "lighter_config_applied_timestamp_seconds",
    "When the configuration in force was applied, since 1970; 0 if there is none.",
);
static WORKER_OPEN: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_worker_connections_open",
    "Open downstream connections of a worker.",
);
static WORKER_ACCEPTED: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_worker_connections_accepted",
    "Downstream connections that a worker accepted.",
);
static WORKER_SHED: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_worker_connections_shed",
    "Downstream connections that a worker refused because a limit was reached, by what was short.",
);
static WORKER_ACCEPT_FAILED: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_worker_accept_failures",
    "Failures to accept a connection, such as for want of descriptors.",
);
static WORKER_PANICS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_worker_panics",
    "Connections that ended by a fault of the sidecar itself.",
);
static LOG_DROPPED: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_access_log_dropped",
    "Lines of the access log that were dropped because they could not be written fast enough, or at all.",
);
static BUILD: Family =
    Family::new(Kind::Info, Unit::None, "lighter_build", "Which build of Lighter this is.");
