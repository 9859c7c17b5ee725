//! Load reports: how busy an endpoint says that it is, beside an answer (ORCA, as gRPC and Envoy have it).
//!
//! A report stands in a field of the answer's head or of its trailers: `endpoint-load-metrics`, whose value begins with `TEXT`,
//! `JSON` or `BIN`, or `endpoint-load-metrics-bin`, a message in base64. What is said in another way, or makes no sense, is no
//! report: an endpoint can say what share it wants to have, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use lighter_config::snapshot::LoadReports;
use lighter_config::xds::wire::xds::data::orca::v3::OrcaLoadReport;
use prost::Message;
use serde_json::Value;

use super::rotation::Rotation;
use crate::telemetry::histogram::nanos;

/// What became of a field that may be a report: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It says a weight.
    Taken,
    /// It says nothing of which a weight could be made.
    Empty,
    /// It cannot be read.
    Malformed,
}

impl Reported {
    /// Every one, in the order of its number.
    pub const ALL: [Reported; 3] = [Reported::Taken, Reported::Empty, Reported::Malformed];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Reported::Taken => "taken",
            Reported::Empty => "empty",
            Reported::Malformed => "malformed",
        }
    }
}

/// Whether a field of this name may have a report. Case does not matter.
pub(crate) fn is_report(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(FIELD) || name.eq_ignore_ascii_case(FIELD_BIN)
}

/// The weight that a field says by `rules`: requests in a second, by the utilization that they make.
pub(super) fn weight(name: &[u8], value: &[u8], rules: &LoadReports) -> Result<f64, Reported> {
    let mut load = Load::default();
    read(name, value, &mut |name, value| load.add(name, value, rules)).ok_or(Reported::Malformed)?;
    load.weight(rules).ok_or(Reported::Empty)
}

/// What a device says beside an answer, as far as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OfDevice {
    /// How long a request that comes now would wait, in seconds.
    pub(crate) queue_seconds: Option<f64>,
    /// How long its processor was at work for this answer, in seconds.
    pub(crate) processor_seconds: Option<f64>,
}

/// What a field says that a device wrote.
pub(super) fn of_device(name: &[u8], value: &[u8]) -> Result<OfDevice, Reported> {
    let mut said = OfDevice::default();
    // What is no amount is not there.
    let amount = |value: f64, most: f64| Some(value).filter(|value| (0.0..=most).contains(value));
    read(name, value, &mut |name, value| match name {
        QUEUE_SECONDS => said.queue_seconds = amount(value, f64::MAX),
        PROCESSOR_SECONDS => said.processor_seconds = amount(value, MOST_PROCESSOR_SECONDS),
        _ => {}
    })
    .ok_or(Reported::Malformed)?;
    Ok(said)
}

/// What one endpoint reported of late. Workers share it without a lock; times are nanoseconds of a clock that begins above zero.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// As the bits of a float.
    weight: AtomicU64,
    /// Since when it reports; zero: it does not.
    since: AtomicU64,
    last: AtomicU64,
}

impl Standing {
    /// It reported a weight.
    pub(super) fn report(&self, weight: f64, now: u64) {
        self.weight.store(weight.to_bits(), Relaxed);
        self.last.store(now, Relaxed);
        // What is kept by another worker at the same time is as good.
        if self.since.load(Relaxed) == 0 {
            self.since.store(now, Relaxed);
        }
    }

    /// It was away: what it was like before does not count.
    pub(super) fn forget(&self) {
        self.since.store(0, Relaxed);
    }

    /// The weight as it counts at `now`. None: it has an average share.
    pub(super) fn weight(&self, rules: &LoadReports, now: u64) -> Option<f64> {
        let since = self.since.load(Relaxed);
        if since == 0 {
            return None;
        }
        if now.saturating_sub(self.last.load(Relaxed)) >= nanos(rules.expiration) {
            // It begins anew with its next report, unless that came in this moment.
            let _ = self.since.compare_exchange(since, 0, Relaxed, Relaxed);
            return None;
        }
        let is_new = now.saturating_sub(since) < nanos(rules.blackout);
        (!is_new).then(|| f64::from_bits(self.weight.load(Relaxed)))
    }
}

/// Turns by what endpoints reported, worked out now and then.
pub(super) struct Turns {
    rotation: ArcSwap<Rotation>,
    /// By the weights that are configured, for where too few report.
    configured: Box<[u32]>,
    next: AtomicU64,
    interval: u64,
}

impl Turns {
    pub(super) fn new(configured: impl Iterator<Item = u32>, rules: &LoadReports) -> Self {
        let configured: Box<[u32]> = configured.collect();
        let rotation = Rotation::new(configured.iter().copied());
        Turns {
            rotation: ArcSwap::from_pointee(rotation),
            configured,
            next: AtomicU64::new(0),
            interval: nanos(rules.interval),
        }
    }

    /// The next one that is `available`; `None` only if there is hardly one. `weight` gives what each reported.
    pub(super) fn next(
        &self,
        now: u64,
        weight: impl Fn(usize) -> Option<f64>,
        available: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let due = self.next.load(Relaxed);
        let is_mine = now >= due
            && self.next.compare_exchange(due, now.saturating_add(self.interval), Relaxed, Relaxed).is_ok();
        if is_mine {
            let reported: Vec<_> = (0..self.configured.len()).map(weight).collect();
            let turns = turns(&reported).unwrap_or_else(|| self.configured.to_vec());
            // Where nothing has changed turns go on: who begins anew gives some a turn too many.
            if !self.rotation.load().is_by(&turns) {
                self.rotation.store(Arc::new(Rotation::new(turns.into_iter())));
            }
        }
        self.rotation.load().next(available)
    }
}

/// So many turns of each, where at least two reported; who did not has as many as the others have on average.
fn turns(reported: &[Option<f64>]) -> Option<Vec<u32>> {
    let known = || reported.iter().flatten().copied();
    let count = known().count();
    if count < 2 {
        return None;
    }
    let (mean, most) = (known().sum::<f64>() / count as f64, known().fold(0.0, f64::max));
    // Nobody is left without a turn: he would never report again. Weights may be so large that their sum is no number.
    let turns = |weight: &Option<f64>| {
        (weight.unwrap_or(mean) / most * MOST_TURNS).round().clamp(1.0, MOST_TURNS) as u32
    };
    Some(reported.iter().map(turns).collect())
}

/// What a weight is made of.
#[derive(Default)]
struct Load {
    application: f64,
    processor: f64,
    named: f64,
    requests: f64,
    errors: f64,
}

impl Load {
    fn add(&mut self, name: &str, value: f64, rules: &LoadReports) {
        // Anything may be reported; what is no amount is not there.
        if !value.is_finite() || value < 0.0 {
            return;
        }
        match name {
            "application_utilization" => self.application = value,
            "cpu_utilization" => self.processor = value,
            "rps_fractional" => self.requests = value,
            "eps" => self.errors = value,
            _ => {}
        }
        if rules.metrics.iter().any(|known| **known == *name) {
            self.named = self.named.max(value);
        }
    }

    /// As gRPC has it (A58).
    fn weight(&self, rules: &LoadReports) -> Option<f64> {
        let candidates = [self.application, self.named, self.processor];
        let used = candidates.into_iter().find(|used| *used > 0.0)?;
        if self.requests <= 0.0 {
            return None;
        }
        let penalty = self.errors / self.requests * f64::from(rules.error_penalty_percent) / 100.0;
        let weight = self.requests / (used + penalty);
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }
}

/// Shows every amount that a field reports, under its name. None: it is no report.
fn read(name: &[u8], value: &[u8], see: &mut dyn FnMut(&str, f64)) -> Option<()> {
    if name.eq_ignore_ascii_case(FIELD_BIN) {
        return binary(value, see);
    }
    let (form, rest) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
    let rest = rest.trim_ascii();
    match form {
        b"TEXT" => text(std::str::from_utf8(rest).ok()?, see),
        b"JSON" => json(&serde_json::from_slice(rest).ok()?, see),
        b"BIN" => binary(rest, see),
        _ => None,
    }
}

/// `cpu_utilization=0.3, named_metrics.queue=7`.
fn text(text: &str, see: &mut dyn FnMut(&str, f64)) -> Option<()> {
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=')?;
        see(name.trim(), value.trim().parse().ok()?);
    }
    Some(())
}

/// Names as in the message, or as JSON likes them.
fn json(report: &Value, see: &mut dyn FnMut(&str, f64)) -> Option<()> {
    for (name, value) in report.as_object()? {
        let name = match name.as_str() {
            "applicationUtilization" => "application_utilization",
            "cpuUtilization" => "cpu_utilization",
            "memUtilization" => "mem_utilization",
            "rpsFractional" => "rps_fractional",
            "namedMetrics" => "named_metrics",
            name => name,
        };
        match value {
            Value::Object(values) => {
                for (key, value) in values {
                    see(&format!("{name}.{key}"), value.as_f64()?);
                }
            }
            value => see(name, value.as_f64()?),
        }
    }
    Some(())
}

fn binary(value: &[u8], see: &mut dyn FnMut(&str, f64)) -> Option<()> {
    let report = OrcaLoadReport::decode(&*BASE64.decode(value).ok()?).ok()?;
    for (name, value) in [
        ("application_utilization", report.application_utilization),
        ("cpu_utilization", report.cpu_utilization),
        ("mem_utilization", report.mem_utilization),
        ("rps_fractional", report.rps_fractional),
        ("eps", report.eps),
    ] {
        see(name, value);
    }
    for (map, values) in [("utilization", report.utilization), ("named_metrics", report.named_metrics)] {
        values.iter().for_each(|(key, value)| see(&format!("{map}.{key}"), *value));
    }
    Some(())
}

/// The field in which a report is told as text.
pub(crate) const LOAD_FIELD: &str = "endpoint-load-metrics";
/// What a device's report calls its queue.
const QUEUE_SECONDS: &str = "named_metrics.queue_seconds";
/// And what it took for one answer.
const PROCESSOR_SECONDS: &str = "named_metrics.processor_seconds";
/// No answer takes longer.
const MOST_PROCESSOR_SECONDS: f64 = 24.0 * 3600.0;
const FIELD: &[u8] = LOAD_FIELD.as_bytes();
const FIELD_BIN: &[u8] = b"endpoint-load-metrics-bin";

/// Clients and servers of gRPC leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Turns of the heaviest in a round of all.
const MOST_TURNS: f64 = 1000.0;

#[cfg(test)]
mod tests;
