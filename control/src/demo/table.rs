//! Per-route metrics of several sidecars, as a table for people.

use std::collections::BTreeMap;

use super::samples::{Sample, Samples};

/// One row for each route of each sidecar that took a request. Columns are as wide as they need to be.
pub fn routes(sidecars: &[(String, Samples)]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for (name, samples) in sidecars {
        let mut routes = BTreeMap::<[&str; KEYS.len()], Route>::new();
        for sample in samples.with("lighter_requests_total", &[]) {
            routes.entry(KEYS.map(|key| sample.label(key))).or_default().add(sample);
        }
        for (key, route) in routes.into_iter().filter(|(_, route)| route.requests > 0.0) {
            rows.push(route.row(name, key, samples));
        }
    }
    align(&rows)
}

const HEAD: [&str; 11] = [
    "sidecar",
    "way",
    "service:port",
    "route",
    "protocol",
    "requests",
    "2xx",
    "errors",
    "retries",
    "p50 ms",
    "p99 ms",
];

/// The labels that make a row.
const KEYS: [&str; 5] = ["direction", "service", "port", "route", "protocol"];

#[derive(Default)]
struct Route {
    requests: f64,
    good: f64,
    causes: BTreeMap<String, f64>,
}

impl Route {
    fn add(&mut self, sample: &Sample) {
        self.requests += sample.value;
        if sample.label("code_class") == "2xx" {
            self.good += sample.value;
        }
        if !sample.label("cause").is_empty() && sample.value > 0.0 {
            *self.causes.entry(sample.label("cause").to_owned()).or_default() += sample.value;
        }
    }

    fn row(&self, sidecar: &str, key: [&str; KEYS.len()], samples: &Samples) -> [String; HEAD.len()] {
        let [direction, service, port, route, protocol] = key;
        let causes: Vec<_> = self.causes.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        let labels: Vec<_> = KEYS.into_iter().zip(key).collect();
        // Retries and times are counted by route, whatever was spoken.
        let by_route = &labels[..KEYS.len() - 1];
        let milliseconds = |share| match samples.quantile("lighter_request_duration_seconds", by_route, share)
        {
            Some(seconds) => format!("{:.1}", seconds * 1e3),
            None => "–".to_owned(),
        };
        [
            sidecar.to_owned(),
            direction.to_owned(),
            format!("{service}:{port}"),
            route.to_owned(),
            protocol.to_owned(),
            self.requests.to_string(),
            self.good.to_string(),
            if causes.is_empty() { "0".to_owned() } else { causes.join(" ") },
            samples.count("lighter_retries_total", by_route).to_string(),
            milliseconds(0.5),
            milliseconds(0.99),
        ]
    }
}

/// Text to the left, numbers to the right.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let numeric: [bool; N] = std::array::from_fn(|column| {
        rows.iter().skip(1).all(|row| row[column].starts_with(|c: char| c.is_ascii_digit() || c == '–'))
    });
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).zip(numeric).map(|((cell, width), numeric)| match numeric {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = r#"
lighter_requests_total{direction="outbound",service="default/reviews",port="80",route="default/reviews/0",protocol="http1",code_class="2xx",cause=""} 100
lighter_requests_total{direction="outbound",service="default/reviews",port="80",route="default/reviews/0",protocol="http1",code_class="5xx",cause="no_backend"} 2
lighter_requests_total{direction="inbound",service="default/web",port="80",route="default",protocol="http1",code_class="2xx",cause=""} 0
lighter_retries_total{direction="outbound",service="default/reviews",port="80",route="default/reviews/0"} 3
lighter_request_duration_seconds_bucket{direction="outbound",service="default/reviews",port="80",route="default/reviews/0",le="0.001"} 102
lighter_request_duration_seconds_bucket{direction="outbound",service="default/reviews",port="80",route="default/reviews/0",le="+Inf"} 102
"#;

    #[test]
    fn each_route_that_took_requests_is_one_row() {
        let table = routes(&[("web".to_owned(), Samples::parse(SCRAPE).unwrap())]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        let cells: Vec<_> = lines[1].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "web",
                "outbound",
                "default/reviews:80",
                "default/reviews/0",
                "http1",
                "102",
                "100",
                "no_backend 2",
                "3",
                "0.5",
                "1.0"
            ]
        );
    }
}
