//! What a scrape sees: the Prometheus text format (version 0.0.4) and OpenMetrics 1.0.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

use super::exemplar::Exemplar;
use super::histogram::{Buckets, Reading};

/// Which text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by bucket.
    Histogram,
    /// Says something in its labels; its value is 1.
    Info,
}

/// The base unit, which is also the end of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Joules.
    Joules,
}

/// A metric's name and what it means.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without `_total`, `_bucket` or `_info`.
    pub name: Cow<'static, str>,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// One sentence for people.
    pub help: Cow<'static, str>,
}

/// Collects samples family by family.
pub struct Exposition {
    format: Format,
    families: BTreeMap<Cow<'static, str>, (Family, String)>,
}

impl Family {
    /// A family of Lighter's own.
    pub const fn new(kind: Kind, unit: Unit, name: &'static str, help: &'static str) -> Self {
        Family { name: Cow::Borrowed(name), kind, unit, help: Cow::Borrowed(help) }
    }

    /// The name as samples and queries have it.
    pub fn sample_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Info => format!("{}_info", self.name),
            Kind::Gauge | Kind::Histogram => self.name.to_string(),
        }
    }
}

impl Format {
    /// The value of Content-Type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that an Accept header asks for: OpenMetrics where it is named with a quality that is not below that
    /// of `text/plain`, otherwise Prometheus.
    pub fn negotiate(accept: &str) -> Self {
        let mut open_metrics = 0.0;
        let mut plain = 0.0f32;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let mut quality = 1.0f32;
            let mut known = true;
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => known = matches!(value.trim(), "1.0.0" | "0.0.1" | "0.0.4"),
                    _ => {}
                }
            }
            match media {
                "application/openmetrics-text" if known => open_metrics = quality.max(open_metrics),
                "text/plain" | "text/*" if known => plain = plain.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain { Format::OpenMetrics } else { Format::Prometheus }
    }
}

impl Exposition {
    /// Nothing collected yet.
    pub fn new(format: Format) -> Self {
        Exposition { format, families: BTreeMap::new() }
    }

    /// A sample of a counter, a gauge or an info. `labels` is `name="value"` pairs with commas between, or empty.
    pub fn sample(&mut self, family: &Family, labels: impl Display, value: impl Number) {
        let lines = self.lines(family);
        // Writing to a String does not fail.
        let _ = write!(lines, "{}", family.sample_name());
        braces(lines, format_args!("{labels}"), None);
        let _ = writeln!(lines, " {}", Value(value.number()));
    }

    /// A histogram.
    pub fn histogram(&mut self, family: &Family, labels: impl Display, buckets: &Buckets, reading: &Reading) {
        self.histogram_with(family, labels, buckets, reading, &[]);
    }

    /// The same with a request for some of its buckets, which only OpenMetrics can say.
    pub fn histogram_with(
        &mut self,
        family: &Family,
        labels: impl Display,
        buckets: &Buckets,
        reading: &Reading,
        exemplars: &[Option<Exemplar>],
    ) {
        let exemplars = if self.format == Format::OpenMetrics { exemplars } else { &[] };
        let lines = self.lines(family);
        let labels = labels.to_string();
        let mut cumulated = 0;
        for (at, count) in reading.counts.iter().enumerate() {
            cumulated += count;
            let bound = match buckets.bounds.get(at) {
                Some(bound) => Bound::At(*bound, buckets.per_unit),
                None => Bound::Infinite,
            };
            let _ = write!(lines, "{}_bucket", family.name);
            braces(lines, format_args!("{labels}"), Some(bound));
            let _ = write!(lines, " {cumulated}");
            if let Some(Exemplar { trace, value, at }) = exemplars.get(at).and_then(Option::as_ref) {
                let (value, at) = (Decimal(*value, buckets.per_unit), Decimal(*at, 1000));
                let _ = write!(lines, " # {{trace_id=\"{trace}\"}} {value} {at}");
            }
            lines.push('\n');
        }
        let _ = write!(lines, "{}_sum", family.name);
        braces(lines, format_args!("{labels}"), None);
        let _ = writeln!(lines, " {}", Decimal(reading.sum, buckets.per_unit));
        let _ = write!(lines, "{}_count", family.name);
        braces(lines, format_args!("{labels}"), None);
        let _ = writeln!(lines, " {cumulated}");
    }

    /// The whole text.
    pub fn finish(self) -> String {
        let size: usize = self.families.values().map(|(_, lines)| lines.len() + 200).sum();
        let mut text = String::with_capacity(size);
        let open_metrics = self.format == Format::OpenMetrics;
        for (family, lines) in self.families.values() {
            let sample_name = family.sample_name();
            let name = if open_metrics { &*family.name } else { &*sample_name };
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Histogram => "histogram",
                Kind::Info if open_metrics => "info",
                Kind::Gauge | Kind::Info => "gauge",
            };
            let _ = writeln!(text, "# HELP {name} {}", Help(&family.help, open_metrics));
            let _ = writeln!(text, "# TYPE {name} {kind}");
            if open_metrics && let Some(unit) = family.unit.name() {
                let _ = writeln!(text, "# UNIT {name} {unit}");
            }
            text.push_str(lines);
        }
        if open_metrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn lines(&mut self, family: &Family) -> &mut String {
        &mut self.families.entry(family.name.clone()).or_insert_with(|| (family.clone(), String::new())).1
    }
}

impl Unit {
    const fn name(self) -> Option<&'static str> {
        match self {
            Unit::None => None,
            Unit::Seconds => Some("seconds"),
            Unit::Bytes => Some("bytes"),
            Unit::Joules => Some("joules"),
        }
    }
}

/// A label's value between quotes: backslash, quote and line feed are escaped, as both formats ask.
pub struct LabelValue<'a>(pub &'a str);

impl Display for LabelValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, true)
    }
}

/// What can be a sample's value.
pub trait Number {
    /// The value: a whole number stays exact.
    fn number(self) -> Sample;
}

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub enum Sample {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
}

impl Number for u64 {
    fn number(self) -> Sample {
        Sample::Whole(self)
    }
}

impl Number for f64 {
    fn number(self) -> Sample {
        Sample::Real(self)
    }
}

struct Value(Sample);

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Sample::Whole(n) => write!(f, "{n}"),
            Sample::Real(n) if n.is_nan() => f.write_str("NaN"),
            Sample::Real(f64::INFINITY) => f.write_str("+Inf"),
            Sample::Real(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Sample::Real(n) => write!(f, "{n}"),
        }
    }
}

/// `.0 / .1` with every digit and no more; `.1` is a power of ten.
struct Decimal(u64, u64);

impl Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal(value, per_unit) = *self;
        if per_unit == 1 {
            return write!(f, "{value}.0");
        }
        let width = per_unit.ilog10() as usize;
        let fraction = format!("{:0width$}", value % per_unit);
        let fraction = fraction.trim_end_matches('0');
        write!(f, "{}.{}", value / per_unit, if fraction.is_empty() { "0" } else { fraction })
    }
}

enum Bound {
    At(u64, u64),
    Infinite,
}

fn braces(lines: &mut String, labels: fmt::Arguments<'_>, bound: Option<Bound>) {
    lines.push('{');
    let before = lines.len();
    let _ = lines.write_fmt(labels);
    if let Some(bound) = bound {
        if lines.len() > before {
            lines.push(',');
        }
        let _ = match bound {
            Bound::At(bound, per_unit) => write!(lines, "le=\"{}\"", Decimal(bound, per_unit)),
            Bound::Infinite => write!(lines, "le=\"+Inf\""),
        };
    }
    if lines.len() == before {
        lines.pop();
    } else {
        lines.push('}');
    }
}

struct Help<'a>(&'a str, bool);

impl Display for Help<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, self.1)
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str, quotes: bool) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(|c| matches!(c, '\\' | '\n') || quotes && c == '"') {
        f.write_str(&rest[..at])?;
        f.write_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            _ => "\\\"",
        })?;
        rest = &rest[at + 1..];
    }
    f.write_str(rest)
}

#[cfg(test)]
pub(crate) mod strict;
#[cfg(test)]
mod tests;
