//! A sidecar's `/metrics`, read as any scraper would: the Prometheus text format.

use std::collections::BTreeMap;

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
        let mut buckets = Vec::<(f64, f64)>::new();
        for sample in self.with(&format!("{name}_bucket"), labels) {
            let bound = number(sample.label("le"))?;
            match buckets.iter_mut().find(|(high, _)| *high == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
        let rank = share * total;
        let (mut low, mut below) = (0.0, 0.0);
        for (high, upto) in buckets {
            if upto >= rank {
                let within = if upto > below { (rank - below) / (upto - below) } else { 1.0 };
                return Some(if high.is_finite() { low + (high - low) * within } else { low });
            }
            (low, below) = (high, upto);
        }
        None
    }
}

/// `name{label="value",…} value [timestamp]`.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.trim().to_owned(), value);
            rest = after;
        }
    }
    let value = number(rest.split_ascii_whitespace().next()?)?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        other => other.parse().ok(),
    }
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
