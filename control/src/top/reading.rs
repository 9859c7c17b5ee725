//! What a sidecar's metrics say at one moment, as far as `top` shows it.

use std::collections::BTreeMap;

use crate::scrape::{Histogram, Sample, samples};

/// One reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// CPU time so far.
    pub cpu_seconds: Option<f64>,
    /// When the process started, since 1970.
    pub start_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Open connections of callers.
    pub connections_open: u64,
    /// Links by the wire that they send over.
    pub links: BTreeMap<String, u64>,
    /// What was counted by route.
    pub routes: BTreeMap<Route, Counts>,
}

/// What tells a route from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// `outbound` or `inbound`.
    pub direction: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: String,
    /// The route's name.
    pub route: String,
}

/// What was counted of a route. The names are those of `/routes`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Requests and opaque connections that ended.
    pub ended: u64,
    /// Those of them that failed: answered with 5xx, or with a cause why they did not end well.
    pub failed: u64,
    /// How often a request was tried again.
    pub retries: u64,
    /// Bytes from the caller.
    pub bytes_in: u64,
    /// Bytes to the caller.
    pub bytes_out: u64,
    /// From a request's head to its answer's head, of exchanges that ended well.
    pub latency: Histogram,
    /// Requests being worked on, and open opaque connections. It rises and falls.
    pub open: u64,
}

impl Reading {
    /// What `text` says, if it is a sidecar's.
    pub fn of(text: &str) -> Option<Self> {
        let mut reading = Reading::default();
        let mut of_sidecar = false;
        for sample in samples(text, |name| NAMES.contains(&name)) {
            of_sidecar |= sample.name == "lighter_worker_connections_open";
            reading.take(&sample);
        }
        of_sidecar.then_some(reading)
    }

    fn take(&mut self, sample: &Sample<'_>) {
        match sample.name {
            "process_cpu_seconds_total" => self.cpu_seconds = sample.real(),
            "process_start_time_seconds" => self.start_seconds = sample.real(),
            "process_resident_memory_bytes" => self.resident_bytes = sample.count(),
            name => {
                let Some(count) = sample.count() else { return };
                match name {
                    "lighter_worker_connections_open" => add(&mut self.connections_open, count),
                    "lighter_link_wire" if count > 0 => {
                        add(self.links.entry(sample.label("wire").to_owned()).or_default(), count);
                    }
                    "lighter_link_wire" => {}
                    _ => self.routes.entry(Route::of(sample)).or_default().take(sample, count),
                }
            }
        }
    }
}

impl Route {
    fn of(sample: &Sample<'_>) -> Self {
        let label = |name| sample.label(name).to_owned();
        Route {
            direction: label("direction"),
            service: label("service"),
            port: label("port"),
            route: label("route"),
        }
    }
}

impl Counts {
    fn take(&mut self, sample: &Sample<'_>, count: u64) {
        match sample.name {
            "lighter_requests_total" | "lighter_connections_total" => {
                add(&mut self.ended, count);
                if sample.label("code_class") == "5xx" || !sample.label("cause").is_empty() {
                    add(&mut self.failed, count);
                }
            }
            "lighter_requests_in_flight" | "lighter_connections_open" => add(&mut self.open, count),
            "lighter_retries_total" => add(&mut self.retries, count),
            "lighter_request_bytes_total" => add(&mut self.bytes_in, count),
            "lighter_response_bytes_total" => add(&mut self.bytes_out, count),
            "lighter_connection_bytes_total" => match sample.label("way") {
                "in" => add(&mut self.bytes_in, count),
                _ => add(&mut self.bytes_out, count),
            },
            // The one name of `NAMES` that is left: a bucket.
            _ => self.latency.take(sample.label("le"), count),
        }
    }

    /// What was counted since `before`. Where anything is less than it was, the sidecar has been started anew, and all
    /// of it counts.
    pub fn since(&self, before: &Counts) -> Counts {
        let less = |of: fn(&Counts) -> u64| of(self).checked_sub(of(before));
        let all = || {
            Some(Counts {
                ended: less(|counts| counts.ended)?,
                failed: less(|counts| counts.failed)?,
                retries: less(|counts| counts.retries)?,
                bytes_in: less(|counts| counts.bytes_in)?,
                bytes_out: less(|counts| counts.bytes_out)?,
                latency: self.latency.since(&before.latency)?,
                open: self.open,
            })
        };
        all().unwrap_or_else(|| self.clone())
    }

    /// Whether there is nothing to show.
    pub fn is_nothing(&self) -> bool {
        let Counts { ended, failed, retries, bytes_in, bytes_out, latency, open } = self;
        [ended, failed, retries, bytes_in, bytes_out, open].into_iter().all(|count| *count == 0)
            && latency.count() == 0
    }
}

fn add(sum: &mut u64, count: u64) {
    // No sidecar counts that far, but text can say anything.
    *sum = sum.saturating_add(count);
}

/// What is read of all that a sidecar counts.
const NAMES: [&str; 14] = [
    "lighter_requests_total",
    "lighter_connections_total",
    "lighter_requests_in_flight",
    "lighter_connections_open",
    "lighter_retries_total",
    "lighter_request_bytes_total",
    "lighter_response_bytes_total",
    "lighter_connection_bytes_total",
    "lighter_response_latency_seconds_bucket",
    "lighter_worker_connections_open",
    "lighter_link_wire",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
];

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
process_cpu_seconds_total 1.5
process_start_time_seconds 1700000000.25
process_resident_memory_bytes 1048576
lighter_worker_connections_open{worker="0"} 2
lighter_worker_connections_open{worker="1"} 3
lighter_link_wire{side="opener",wire="shm"} 1
lighter_link_wire{side="acceptor",wire="shm"} 1
lighter_link_wire{side="acceptor",wire="tcp"} 0
lighter_requests_total{direction="outbound",service="a/b",port="80",route="r",protocol="http1",code_class="2xx",cause=""} 7
lighter_requests_total{direction="outbound",service="a/b",port="80",route="r",protocol="http1",code_class="5xx",cause=""} 2
lighter_requests_total{direction="outbound",service="a/b",port="80",route="r",protocol="http1",code_class="4xx",cause="no_route"} 1
lighter_requests_total{direction="outbound",service="a/b",port="80",route="r",protocol="http1",code_class="4xx",cause=""} 4
lighter_requests_in_flight{direction="outbound",service="a/b",port="80",route="r"} 1
lighter_retries_total{direction="outbound",service="a/b",port="80",route="r",condition="5xx"} 1
lighter_retries_total{direction="outbound",service="a/b",port="80",route="r",condition="reset"} 2
lighter_request_bytes_total{direction="outbound",service="a/b",port="80",route="r"} 10
lighter_response_bytes_total{direction="outbound",service="a/b",port="80",route="r"} 20
lighter_response_latency_seconds_bucket{direction="outbound",service="a/b",port="80",route="r",le="0.1"} 3
lighter_response_latency_seconds_bucket{direction="outbound",service="a/b",port="80",route="r",le="+Inf"} 4
lighter_connections_total{direction="outbound",service="a/b",port="80",route="r",protocol="tcp",cause=""} 1
lighter_connections_total{direction="outbound",service="a/b",port="80",route="r",protocol="tcp",cause="connect_refused"} 1
lighter_connections_open{direction="outbound",service="a/b",port="80",route="r"} 5
lighter_connection_bytes_total{direction="outbound",service="a/b",port="80",route="r",way="in"} 100
lighter_connection_bytes_total{direction="outbound",service="a/b",port="80",route="r",way="out"} 200
"#;

    #[test]
    fn a_route_has_its_requests_and_its_opaque_connections() {
        let reading = Reading::of(TEXT).unwrap();
        assert_eq!(
            (reading.cpu_seconds, reading.start_seconds, reading.resident_bytes),
            (Some(1.5), Some(1_700_000_000.25), Some(1 << 20))
        );
        assert_eq!((reading.connections_open, reading.links), (5, [("shm".to_owned(), 2)].into()));
        let [(route, counts)] = reading.routes.iter().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(
            [&route.direction, &route.service, &route.port, &route.route],
            ["outbound", "a/b", "80", "r"]
        );
        assert_eq!((counts.ended, counts.failed, counts.retries, counts.open), (16, 4, 3, 6));
        assert_eq!((counts.bytes_in, counts.bytes_out, counts.latency.count()), (110, 220, 4));
    }

    #[test]
    fn what_is_not_of_a_sidecar_is_no_reading() {
        for text in
            ["", "<html>\n", "go_goroutines 7\nprocess_cpu_seconds_total 1\n", "lighter_control_sidecars 1\n"]
        {
            assert_eq!(Reading::of(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_absurd_neither_stops_nor_overflows() {
        let most = u64::MAX;
        let text = format!(
            "lighter_worker_connections_open{{}} {most}\nlighter_worker_connections_open {most}\n\
             lighter_requests_total{{cause=\"\\u{{1b}}\"}} {most}\nlighter_requests_total{{code_class=\"5xx\"}} 1e300\n\
             lighter_requests_total NaN\nlighter_requests_total -3\nprocess_cpu_seconds_total -Inf\n\
             lighter_response_latency_seconds_bucket{{le=\"NaN\"}} 3\n\
             lighter_response_latency_seconds_bucket{{le=\"-Inf\"}} 3\n\
             lighter_response_latency_seconds_bucket 3\n"
        );
        let reading = Reading::of(&text).unwrap();
        assert_eq!((reading.connections_open, reading.cpu_seconds), (most, None));
        let counts = &reading.routes[&Route::default()];
        assert_eq!((counts.ended, counts.failed, counts.latency.count()), (most, most, 0));
    }

    #[test]
    fn counts_since_a_moment_are_differences() {
        let before = Reading::of(TEXT).unwrap().routes.into_values().next().unwrap();
        assert!(before.since(&before).ended == 0 && !before.since(&before).is_nothing(), "six are open");
        let mut after = before.clone();
        (after.ended, after.failed, after.open) = (20, 5, 0);
        let since = after.since(&before);
        assert_eq!((since.ended, since.failed, since.open, since.bytes_in), (4, 1, 0, 0));
        assert!(Counts::default().is_nothing() && after.since(&after).is_nothing());
    }

    #[test]
    fn a_counter_that_went_backwards_counts_from_zero() {
        let before = Reading::of(TEXT).unwrap().routes.into_values().next().unwrap();
        // More requests than before, and yet anew: fewer bytes.
        let after = Counts { ended: 30, bytes_in: 7, ..Counts::default() };
        assert_eq!(after.since(&before), after);
    }
}
