use std::future::poll_fn;
use std::time::Duration;

use lighter_config::name::{ServiceName, ServicePort};

use super::*;
use crate::error::Cause;
use crate::telemetry::{RouteMetrics, Spoken};

/// Each test has a route of its own, as all of them share the process.
fn route(name: &str) -> Arc<RouteMetrics> {
    let key = ServicePort { service: ServiceName::new("shop", "taps"), port: 80 };
    RouteMetrics::of(Direction::Outbound, &key, name)
}

fn record<'a>(metrics: &'a RouteMetrics, path: &'a [u8]) -> Record<'a> {
    Record {
        metrics,
        spoken: Spoken::Http1,
        caller: "spiffe://mesh/ns/shop/sa/web",
        peer: "192.0.2.1:5000".parse().unwrap(),
        endpoint: None,
        status: 200,
        grpc_status: None,
        cause: None,
        method: b"GET",
        path,
        authority: b"taps",
        request_id: b"",
        bytes_in: 0,
        bytes_out: 0,
        latency: Duration::ZERO,
        duration: Duration::ZERO,
        retries: 0,
        span: None,
    }
}

fn filter(said: &[(&str, &str)]) -> Result<Filter, FilterError> {
    Filter::parse(said.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
}

#[test]
fn all_that_is_said_must_hold() {
    let metrics = route("filters");
    let well = record(&metrics, b"/a/b");
    let takes = |said: &[(&str, &str)]| filter(said).unwrap().takes(&well);
    assert!(takes(&[]));
    let holding = [
        ("direction", "outbound"),
        ("service", "taps"),
        ("service", "shop/taps"),
        ("route", "filters"),
        ("method", "GET"),
        ("path", "/a"),
        ("authority", "taps"),
        ("caller", "spiffe://mesh/ns/shop/"),
        ("status", "200"),
        ("status", "2xx"),
        ("failed", "false"),
    ];
    for said in holding {
        assert!(takes(&[said]), "{said:?}");
    }
    let not_holding = [
        ("direction", "inbound"),
        ("service", "tap"),
        ("service", "other/taps"),
        ("route", "filter"),
        ("method", "get"),
        ("path", "/b"),
        ("authority", "tap"),
        ("caller", "spiffe://mesh/ns/shopping/"),
        ("status", "201"),
        ("status", "5xx"),
        ("failed", "true"),
    ];
    for said in not_holding {
        assert!(!takes(&[said]), "{said:?}");
        assert!(!takes(&[("method", "GET"), said]), "{said:?}");
    }
    let failed = filter(&[("failed", "true")]).unwrap();
    assert!(failed.takes(&Record { status: 503, ..record(&metrics, b"/") }));
    assert!(failed.takes(&Record { cause: Some(Cause::DownstreamAborted), ..record(&metrics, b"/") }));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    assert_eq!(filter(&[("pth", "/")]), Err(FilterError::Unknown("pth".to_owned())));
    for said in [
        ("direction", "up"),
        ("status", ""),
        ("status", "99"),
        ("status", "600"),
        ("status", "6xx"),
        ("status", "xx"),
        ("failed", "yes"),
    ] {
        let error = filter(&[said]).unwrap_err();
        assert!(matches!(&error, FilterError::Value { name, .. } if *name == said.0), "{error}");
    }
}

#[tokio::test]
async fn who_does_not_read_misses_lines_and_is_told_how_many() {
    let metrics = route("missed");
    let mut tap = Tap::open(filter(&[("route", "missed")]).unwrap()).unwrap();
    let path = vec![b'x'; 2000];
    let count = 2 * LIMIT / path.len();
    for _ in 0..count {
        show(&record(&metrics, &path));
    }
    let missed = tap.listener.missed.load(Relaxed);
    assert!(missed > 0);
    assert!(tap.listener.waiting.load(Relaxed) <= LIMIT);
    let first = poll_fn(|cx| tap.poll_line(cx)).await.unwrap();
    assert_eq!(first, format!("{{\"missed\":{missed}}}\n"));
    let mut shown = 0;
    while tap.listener.waiting.load(Relaxed) > 0 {
        let line = poll_fn(|cx| tap.poll_line(cx)).await.unwrap();
        assert!(line.starts_with(b"{\"time\":"), "{line:?}");
        shown += 1;
    }
    assert_eq!(shown + missed, count as u64);
    // There is room again.
    show(&record(&metrics, b"/last"));
    let line = poll_fn(|cx| tap.poll_line(cx)).await.unwrap();
    assert!(String::from_utf8_lossy(&line).contains("\"path\":\"/last\""));
}

#[test]
fn nobody_is_left_behind_who_looked() {
    let route = "nobody";
    let tap = Tap::open(filter(&[("route", route)]).unwrap()).unwrap();
    let is_known = || TAPS.load().iter().any(|tap| tap.filter.route.as_deref() == Some(route));
    assert!(is_known() && super::super::is_heard());
    drop(tap);
    assert!(!is_known());
}
