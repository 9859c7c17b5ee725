use std::net::SocketAddr;
use std::time::Duration;

use lighter_config::name::{ServiceName, ServicePort};

use super::strict::{Parsed, parse};
use super::*;
use crate::error::Cause;
use crate::retry::{Condition, Refusal};
use crate::telemetry::spans::Begun;
use crate::telemetry::{self, Direction, Record, RouteMetrics, Spoken};

const FORMATS: [(Format, bool); 2] = [(Format::Prometheus, false), (Format::OpenMetrics, true)];

fn key(name: &str) -> ServicePort {
    ServicePort { service: ServiceName::new("exposition", name), port: 80 }
}

fn record(metrics: &RouteMetrics) -> Record<'_> {
    Record {
        metrics,
        spoken: Spoken::Http1,
        caller: "",
        peer: SocketAddr::from(([192, 0, 2, 1], 1)),
        endpoint: None,
        status: 200,
        grpc_status: None,
        cause: None,
        method: b"GET",
        path: b"/",
        authority: b"a",
        request_id: b"",
        bytes_in: 10,
        bytes_out: 20,
        latency: Duration::from_micros(1500),
        duration: Duration::from_millis(3),
        retries: 0,
        span: None,
    }
}

/// The value of the one sample of `name` that has all of `labels`.
fn value(family: &Parsed, name: &str, labels: &[(&str, &str)]) -> String {
    let has = |of: &BTreeMap<String, String>| {
        labels.iter().all(|(label, value)| of.get(*label).is_some_and(|is| is == value))
    };
    let found: Vec<_> = family.samples.iter().filter(|(of, all, _)| of == name && has(all)).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
    found[0].2.clone()
}

#[test]
fn a_bucket_shows_a_request_that_was_traced_in_open_metrics_alone() {
    let metrics = RouteMetrics::of(Direction::Outbound, &key("traced"), "r");
    metrics.begin(Spoken::Http1);
    telemetry::account(&Record { span: Some(&Begun::of(0xab)), ..record(&metrics) });
    for (format, open_metrics) in FORMATS {
        let text = telemetry::render(format);
        parse(&text, open_metrics);
        let shown = format!("le=\"0.003\"}} 1 # {{trace_id=\"{}\"}} 0.003 ", "ab".repeat(16));
        assert_eq!(text.matches(&shown).count(), usize::from(open_metrics));
    }
}

#[test]
fn a_route_shows_what_was_accounted_for_in_both_formats() {
    let route = "shop/\"a\\b\n\"/0";
    let metrics = RouteMetrics::of(Direction::Outbound, &key("shown"), route);
    for _ in 0..4 {
        metrics.begin(Spoken::Http1);
    }
    telemetry::account(&record(&metrics));
    metrics.tried_again(Condition::Unread);
    metrics.tried_again(Condition::Status);
    metrics.not_tried_again(Refusal::Budget);
    telemetry::account(&Record { status: 404, retries: 2, ..record(&metrics) });
    telemetry::account(&Record { status: 503, cause: Some(Cause::NoEndpoint), ..record(&metrics) });
    metrics.begin(Spoken::Grpc);
    telemetry::account(&Record { spoken: Spoken::Grpc, grpc_status: Some(14), ..record(&metrics) });
    metrics.begin(Spoken::Tcp);
    metrics.begin(Spoken::Tcp);
    let opaque =
        Record { spoken: Spoken::Tcp, status: 0, cause: Some(Cause::IdleTimeout), ..record(&metrics) };
    telemetry::account(&opaque);
    for (format, open_metrics) in FORMATS {
        let families = parse(&telemetry::render(format), open_metrics);
        let family =
            |name: &str| &families[name.strip_suffix("_total").filter(|_| open_metrics).unwrap_or(name)];
        let is = |name: &str, more: &[(&str, &str)], expected: &str| {
            let mut labels = vec![
                ("direction", "outbound"),
                ("service", "exposition/shown"),
                ("port", "80"),
                ("route", route),
            ];
            labels.extend(more);
            let of =
                name.strip_suffix("_count").or(name.strip_suffix("_sum")).or(name.strip_suffix("_bucket"));
            assert_eq!(value(family(of.unwrap_or(name)), name, &labels), expected, "{name} {more:?}");
        };
        let http1 = ("protocol", "http1");
        is("lighter_requests_total", &[http1, ("code_class", "2xx"), ("cause", "")], "1");
        is("lighter_requests_total", &[http1, ("code_class", "4xx"), ("cause", "")], "1");
        is("lighter_requests_total", &[http1, ("code_class", "5xx"), ("cause", "no_endpoint")], "1");
        is("lighter_requests_total", &[("protocol", "grpc"), ("code_class", "2xx")], "1");
        is("lighter_grpc_responses_total", &[("grpc_status", "14")], "1");
        is("lighter_requests_in_flight", &[], "1");
        is("lighter_request_bytes_total", &[], "40");
        is("lighter_response_bytes_total", &[], "80");
        is("lighter_retries_total", &[("condition", "unread")], "1");
        is("lighter_retries_total", &[("condition", "status")], "1");
        is("lighter_retries_refused_total", &[("reason", "budget")], "1");
        is("lighter_request_duration_seconds_count", &[], "4");
        is("lighter_request_duration_seconds_sum", &[], "0.012");
        is("lighter_request_duration_seconds_bucket", &[("le", "0.002")], "0");
        is("lighter_request_duration_seconds_bucket", &[("le", "0.003")], "4");
        // Of what did not end well, the latency says nothing.
        is("lighter_response_latency_seconds_count", &[], "3");
        is("lighter_connections_total", &[("protocol", "tcp"), ("cause", "idle_timeout")], "1");
        is("lighter_connections_open", &[], "1");
        is("lighter_connection_bytes_total", &[("way", "in")], "10");
        is("lighter_connection_bytes_total", &[("way", "out")], "20");
    }
}

#[test]
fn every_cause_is_counted_under_its_own_label() {
    let metrics = RouteMetrics::of(Direction::Inbound, &key("causes"), "default");
    for (times, cause) in Cause::ALL.into_iter().enumerate() {
        for _ in 0..=times {
            metrics.begin(Spoken::Http2);
            let status = cause.status();
            telemetry::account(&Record {
                spoken: Spoken::Http2,
                cause: Some(cause),
                status,
                ..record(&metrics)
            });
        }
    }
    let families = parse(&telemetry::render(Format::Prometheus), false);
    for (times, cause) in Cause::ALL.into_iter().enumerate() {
        let labels = [("service", "exposition/causes"), ("cause", cause.label())];
        let count = value(&families["lighter_requests_total"], "lighter_requests_total", &labels);
        assert_eq!(count, (times + 1).to_string());
    }
    let reading = metrics.read();
    assert_eq!(reading.by_cause.len(), Cause::ALL.len());
    assert_eq!(reading.ended, (1..=Cause::ALL.len() as u64).sum::<u64>());
    assert_eq!(reading.open, 0);
}

#[test]
fn a_route_that_nothing_went_through_is_not_shown() {
    let _held = RouteMetrics::of(Direction::Inbound, &key("silent"), "default");
    assert!(!telemetry::render(Format::Prometheus).contains("exposition/silent"));
}

#[test]
fn what_the_facade_counts_is_shown_beside_the_rest() {
    telemetry::install(2, Duration::from_secs(600));
    metrics::describe_counter!("lighter_test_events_total", "Events of a \"test\",\nwith \\ in the text.");
    metrics::counter!("lighter_test_events_total", "kind" => "a \"b\"\n\\").increment(3);
    metrics::counter!("lighter_test_events_total", "kind" => "a \"b\"\n\\").absolute(2);
    let gauge = metrics::gauge!("lighter_test_level");
    gauge.set(1.5);
    gauge.decrement(2.0);
    metrics::histogram!("lighter_test_size_bytes").record(65.0);
    metrics::histogram!("lighter_test_wait_seconds").record(0.25);
    metrics::counter!("1 bad-name", "bad label" => "").increment(1);
    for (format, open_metrics) in FORMATS {
        let families = parse(&telemetry::render(format), open_metrics);
        let counter = if open_metrics { "lighter_test_events" } else { "lighter_test_events_total" };
        let labels = [("kind", "a \"b\"\n\\")];
        assert_eq!(value(&families[counter], "lighter_test_events_total", &labels), "3");
        assert_eq!(families[counter].help, "Events of a \"test\",\nwith \\ in the text.");
        assert_eq!(value(&families["lighter_test_level"], "lighter_test_level", &[]), "-0.5");
        let sizes = &families["lighter_test_size_bytes"];
        assert_eq!(value(sizes, "lighter_test_size_bytes_bucket", &[("le", "256.0")]), "1");
        assert_eq!(value(sizes, "lighter_test_size_bytes_bucket", &[("le", "64.0")]), "0");
        assert_eq!(sizes.unit.as_deref(), open_metrics.then_some("bytes"));
        let waits = &families["lighter_test_wait_seconds"];
        assert_eq!(value(waits, "lighter_test_wait_seconds_sum", &[]), "0.25");
        assert!(families.keys().any(|name| name.starts_with("_1_bad_name")));
    }
}

#[test]
fn the_process_and_its_build_are_shown() {
    for (format, open_metrics) in FORMATS {
        let families = parse(&telemetry::render(format), open_metrics);
        for name in
            ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_threads"]
        {
            assert!(value(&families[name], name, &[]).parse::<f64>().unwrap() >= 1.0, "{name}");
        }
        let cpu = if open_metrics { "process_cpu_seconds" } else { "process_cpu_seconds_total" };
        value(&families[cpu], "process_cpu_seconds_total", &[]);
        let build = if open_metrics { "lighter_build" } else { "lighter_build_info" };
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        assert_eq!(value(&families[build], "lighter_build_info", &version), "1");
    }
}

#[test]
fn decimals_are_exact() {
    for (value, per_unit, expected) in [
        (0, 1_000_000_000, "0.0"),
        (1, 1_000_000_000, "0.000000001"),
        (1_500_000_000, 1_000_000_000, "1.5"),
        (u64::MAX, 1_000_000_000, "18446744073.709551615"),
        (7, 1, "7.0"),
    ] {
        assert_eq!(Decimal(value, per_unit).to_string(), expected);
    }
}

#[test]
fn the_format_is_the_one_that_was_asked_for() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                      q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, expected) in [
        (prometheus, Format::OpenMetrics),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
        ("", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("text/plain", Format::Prometheus),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", Format::Prometheus),
        ("application/openmetrics-text;q=0", Format::Prometheus),
        ("application/openmetrics-text;version=9.0.0", Format::Prometheus),
        (";;;,,q=x", Format::Prometheus),
    ] {
        assert_eq!(Format::negotiate(accept), expected, "{accept}");
    }
}
