//! Every sample of a sidecar's `/metrics`, to be asked for.

use std::collections::BTreeMap;

use crate::scrape::{self, Histogram};

/// Every sample of one scrape.
#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

/// One line.
#[derive(Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label's value; empty where it has none, as Prometheus has it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Samples {
    /// Reads a scrape. A line that is not understood is an error that names it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| sample(line).ok_or_else(|| format!("not a sample: {line}")))
            .collect::<Result<_, _>>()
            .map(Samples)
    }

    /// The samples of `name` that have every one of `labels`.
    pub fn with<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        let has_all = |sample: &Sample| labels.iter().all(|(label, value)| sample.label(label) == *value);
        self.0.iter().filter(move |sample| sample.name == name && has_all(sample))
    }

    /// Their sum.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).map(|sample| sample.value).sum()
    }

    /// The same of a counter.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        // Counters are whole, never negative, and far from where an f64 skips whole numbers.
        self.sum(name, labels) as u64
    }

    /// The value below which `share` of a histogram's observations lie, by linear interpolation within a bucket.
    /// None where there is no observation. Above the last finite bound it is that bound.
    pub fn quantile(&self, name: &str, labels: &[(&str, &str)], share: f64) -> Option<f64> {
        let mut histogram = Histogram::default();
        for sample in self.with(&format!("{name}_bucket"), labels) {
            histogram.take(sample.label("le"), sample.value as u64);
        }
        histogram.quantile(share)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let read = scrape::sample(line)?;
    let labels = read.labels.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
    Some(Sample { name: read.name.to_owned(), labels, value: read.value()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = r#"
# HELP lighter_requests_total Requests.
# TYPE lighter_requests_total counter
lighter_requests_total{service="default/reviews",code_class="2xx",cause=""} 7
lighter_requests_total{service="default/reviews",code_class="5xx",cause="no_route"} 2 1700000000
lighter_requests_total{service="a \"b\" \\ c,}\n",code_class="2xx"} 1
process_open_fds 12
lighter_request_duration_seconds_bucket{le="0.001"} 10
lighter_request_duration_seconds_bucket{le="0.002"} 90
lighter_request_duration_seconds_bucket{le="+Inf"} 100
"#;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let samples = Samples::parse(SCRAPE).unwrap();
        assert_eq!(samples.sum("lighter_requests_total", &[("service", "default/reviews")]), 9.0);
        assert_eq!(samples.sum("lighter_requests_total", &[("cause", "no_route")]), 2.0);
        assert_eq!(samples.sum("lighter_requests_total", &[("cause", "")]), 8.0);
        assert_eq!(samples.count("process_open_fds", &[]), 12);
        assert_eq!(samples.sum("absent", &[]), 0.0);
    }

    #[test]
    fn escapes_and_braces_in_label_values_are_read() {
        let samples = Samples::parse(SCRAPE).unwrap();
        let odd = samples.with("lighter_requests_total", &[("service", "a \"b\" \\ c,}\n")]);
        assert_eq!(odd.count(), 1);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let samples = Samples::parse(SCRAPE).unwrap();
        let quantile = |share| samples.quantile("lighter_request_duration_seconds", &[], share).unwrap();
        assert!((quantile(0.5) - 0.0015).abs() < 1e-9);
        assert_eq!(quantile(0.99), 0.002, "the last finite bound");
        assert_eq!(samples.quantile("absent", &[], 0.5), None);
    }

    #[test]
    fn a_line_that_is_no_sample_is_named() {
        for bad in ["lonely", "open{a=\"b\" 1", "name notanumber"] {
            assert!(Samples::parse(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
