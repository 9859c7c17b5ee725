//! The recorder behind the `metrics` façade, and beside it the typed counters that the data path holds.
//!
//! The façade serves what is counted rarely. What is counted for every request has types of its own (`RouteMetrics`,
//! `EndpointMetrics` and so on) which are registered here too, so that one scrape shows all.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lighter_config::name::ServicePort;
use metrics::{CounterFn, GaugeFn, HistogramFn, Key, KeyName, Metadata, SharedString};

use super::caller::{CallerKey, CallerMetrics};
use super::endpoint::{ClusterMetrics, EndpointMetrics};
use super::exposition::{Exposition, Family, Format, Kind, LabelValue, Unit};
use super::histogram::{BYTES, Buckets, SECONDS};
use super::identity::IdentityMetrics;
use super::link::LinkMetrics;
use super::pool::Pools;
use super::process;
use super::quic::QuicMetrics;
use super::rdma::RdmaMetrics;
use super::route::{RouteKey, RouteMetrics};
use super::shards::{self, Cells};
use super::sidecar::Sidecar;
use super::table::{self, Table};

/// Everything that is counted in this process.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) routes: Table<RouteKey, RouteMetrics>,
    pub(super) endpoints: Table<(ServicePort, SocketAddr), EndpointMetrics>,
    pub(super) clusters: Table<ServicePort, ClusterMetrics>,
    pub(super) pools: Pools,
    pub(super) sidecar: Sidecar,
    pub(super) callers: Table<CallerKey, CallerMetrics>,
    pub(super) identity: IdentityMetrics,
    pub(super) links: LinkMetrics,
    pub(super) quic: QuicMetrics,
    pub(super) rdma: RdmaMetrics,
    counters: Table<Key, Counter>,
    gauges: Table<Key, Gauge>,
    histograms: Table<Key, Histogram>,
    described: Mutex<HashMap<String, (Option<metrics::Unit>, SharedString)>>,
}

/// The recorder of this process.
pub(super) fn recorder() -> &'static Recorder {
    static RECORDER: OnceLock<Recorder> = OnceLock::new();
    RECORDER.get_or_init(Recorder::default)
}

/// Makes this the recorder of the `metrics` façade, for `workers` worker threads. What nothing counts for any more is shown
/// for `idle` longer. To be called before the first mesh is built; again does no harm.
pub fn install(workers: usize, idle: Duration) {
    shards::set_workers(workers);
    table::expire_after(idle);
    // Fails where it was installed before; there is only one that it could be.
    let _ = metrics::set_global_recorder(Facade);
}

/// Everything counted so far, as text.
pub fn render(format: Format) -> String {
    recorder().render(format, Instant::now())
}

/// Every route that is or lately was in use, with what was counted for it, in the order of direction and name.
pub fn routes() -> Vec<Arc<RouteMetrics>> {
    let mut routes = Vec::new();
    recorder().routes.each(|_, route| routes.push(route.clone()));
    routes.sort_by_cached_key(|route| (route.direction as u8, route.key.clone(), route.route.clone()));
    routes
}

/// What the counters of this name say, summed up by the values of the label `by`. `only`: of those alone that have this label.
pub(crate) fn counted(name: &str, only: Option<(&str, &str)>, by: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    recorder().counters.each(|key, counter| {
        let label = |name: &str| key.labels().find(|label| label.key() == name).map(metrics::Label::value);
        if key.name() == name && only.is_none_or(|(name, value)| label(name) == Some(value)) {
            *sums.entry(label(by).unwrap_or_default().to_owned()).or_default() += counter.0.sum(0);
        }
    });
    sums
}

impl Recorder {
    fn render(&self, format: Format, now: Instant) -> String {
        let mut out = Exposition::new(format);
        self.routes.each(|_, route| route.collect(&mut out));
        self.endpoints.each(|_, endpoint| endpoint.collect(&mut out, now));
        self.clusters.each(|_, cluster| cluster.collect(&mut out));
        self.pools.collect(&mut out);
        self.sidecar.collect(&mut out);
        self.callers.each(|_, caller| caller.collect(&mut out));
        self.identity.collect(&mut out, SystemTime::now());
        self.links.collect(&mut out);
        self.quic.collect(&mut out);
        self.rdma.collect(&mut out);
        process::collect(&mut out);
        self.counters.each(|key, counter| {
            let family = self.family(key, Kind::Counter);
            let count = counter.0.sum(0);
            match family.unit {
                Unit::Seconds | Unit::Joules => out.sample(&family, labels(key), count as f64 / PER_UNIT),
                Unit::None | Unit::Bytes => out.sample(&family, labels(key), count),
            }
        });
        self.gauges.each(|key, gauge| {
            let family = self.family(key, Kind::Gauge);
            out.sample(&family, labels(key), f64::from_bits(gauge.0.load(Relaxed)));
        });
        self.histograms.each(|key, histogram| {
            let family = self.family(key, Kind::Histogram);
            let reading = histogram.buckets.read(&histogram.cells, 0);
            out.histogram(&family, labels(key), histogram.buckets, &reading);
        });
        out.sample(&EXPIRED, "", table::expired());
        self.sweep(now);
        out.finish()
    }

    fn sweep(&self, now: Instant) {
        self.routes.sweep(now);
        self.endpoints.sweep(now);
        self.clusters.sweep(now);
        self.callers.sweep(now);
        self.counters.sweep(now);
        self.gauges.sweep(now);
        self.histograms.sweep(now);
    }

    fn family(&self, key: &Key, kind: Kind) -> Family {
        let described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        let help = described.get(key.name()).map(|(_, help)| help.to_string()).unwrap_or_default();
        let mut name = sanitize(key.name(), true);
        if kind == Kind::Counter && name.ends_with("_total") {
            name.truncate(name.len() - "_total".len());
        }
        let unit = unit(&name);
        Family { name: name.into(), kind, unit, help: help.into() }
    }

    fn describe(&self, name: KeyName, unit: Option<metrics::Unit>, help: SharedString) {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        described.insert(name.as_str().to_owned(), (unit, help));
    }
}

struct Facade;

impl metrics::Recorder for Facade {
    fn describe_counter(&self, key: KeyName, unit: Option<metrics::Unit>, description: SharedString) {
        recorder().describe(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<metrics::Unit>, description: SharedString) {
        recorder().describe(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<metrics::Unit>, description: SharedString) {
        recorder().describe(key, unit, description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(get(&recorder().counters, key, |_| Counter(Cells::new(1))))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(get(&recorder().gauges, key, |_| Gauge(AtomicU64::new(0f64.to_bits()))))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::from_arc(get(&recorder().histograms, key, |key| {
            let buckets = if unit(key.name()) == Unit::Bytes { &BYTES } else { &SECONDS };
            Histogram { buckets, cells: Cells::new(buckets.cells()) }
        }))
    }
}

/// A series without labels cannot pile up, so it is kept.
fn get<T>(table: &Table<Key, T>, key: &Key, make: impl FnOnce(&Key) -> T) -> Arc<T> {
    let now = Instant::now();
    if key.labels().len() == 0 {
        table.keep(key.clone(), now, make)
    } else {
        table.of(key.clone(), now, make)
    }
}

struct Counter(Cells);

impl CounterFn for Counter {
    fn increment(&self, value: u64) {
        self.0.add(0, value);
    }

    fn absolute(&self, value: u64) {
        let now = self.0.sum(0);
        if value > now {
            self.0.add(0, value - now);
        }
    }
}

struct Gauge(AtomicU64);

impl Gauge {
    fn change(&self, by: f64) {
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + by).to_bits()));
    }
}

impl GaugeFn for Gauge {
    fn increment(&self, value: f64) {
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.change(-value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }
}

struct Histogram {
    buckets: &'static Buckets,
    cells: Cells,
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        // A conversion to an integer saturates, and takes no number for zero.
        let value = (value * self.buckets.per_unit as f64) as u64;
        self.buckets.record(self.cells.shard(), 0, value);
    }
}

static EXPIRED: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_metrics_series_expired",
    "Groups of series that are shown no more, as what they counted was gone for long enough.",
);

/// A counter of seconds or joules counts billionths: it holds whole numbers.
pub(crate) const PER_UNIT: f64 = 1e9;

fn unit(name: &str) -> Unit {
    if name.ends_with("_seconds") {
        Unit::Seconds
    } else if name.ends_with("_bytes") {
        Unit::Bytes
    } else if name.ends_with("_joules") {
        Unit::Joules
    } else {
        Unit::None
    }
}

fn labels(key: &Key) -> String {
    let pairs = key
        .labels()
        .map(|label| format!("{}=\"{}\"", sanitize(label.key(), false), LabelValue(label.value())));
    pairs.collect::<Vec<_>>().join(",")
}

fn sanitize(name: &str, colon: bool) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || colon && c == ':';
    let mut clean: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if !clean.starts_with(|c: char| !c.is_ascii_digit()) {
        clean.insert(0, '_');
    }
    clean
}
