use std::time::UNIX_EPOCH;

use lighter_config::name::{ServiceName, ServicePort};
use proptest::prelude::*;

use super::*;
use crate::error::Cause;
use crate::telemetry::{Direction, RouteMetrics, Spoken};

fn metrics() -> Arc<RouteMetrics> {
    let key = ServicePort { service: ServiceName::new("shop", "reviews"), port: 80 };
    RouteMetrics::of(Direction::Outbound, &key, "shop/\"split\"/0")
}

fn record<'a>(metrics: &'a RouteMetrics, path: &'a [u8]) -> Record<'a> {
    Record {
        metrics,
        spoken: Spoken::Http1,
        caller: "",
        peer: "192.0.2.1:5000".parse().unwrap(),
        endpoint: Some("[2001:db8::1]:9080".parse().unwrap()),
        status: 503,
        grpc_status: None,
        cause: Some(Cause::NoEndpoint),
        method: b"GET",
        path,
        authority: b"reviews",
        request_id: b"id",
        bytes_in: 0,
        bytes_out: 17,
        latency: Duration::from_micros(1500),
        duration: Duration::from_millis(2500),
        retries: 1,
        span: None,
    }
}

#[test]
fn a_line_of_json_has_the_documented_fields() {
    let metrics = metrics();
    let mut line = Vec::new();
    let now = UNIX_EPOCH + Duration::from_micros(1_795_651_200_000_001);
    format::json(&mut line, &record(&metrics, b"/a?b=\"c\""), now, 100);
    let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "time": "2026-11-26T00:00:00.000001Z", "direction": "outbound", "service": "shop/reviews", "port": 80,
            "route": "shop/\"split\"/0", "protocol": "http1", "method": "GET", "path": "/a?b=\"c\"",
            "authority": "reviews", "status": 503, "request_id": "id", "cause": "no_endpoint",
            "peer": "192.0.2.1:5000", "endpoint": "[2001:db8::1]:9080", "bytes_in": 0, "bytes_out": 17,
            "latency_seconds": 0.0015, "duration_seconds": 2.5, "retries": 1
        })
    );
}

#[test]
fn a_line_of_text_has_the_documented_fields() {
    let metrics = metrics();
    let mut line = Vec::new();
    format::text(&mut line, &record(&metrics, b"/a\r\n\"x"), UNIX_EPOCH, 100);
    assert_eq!(
        std::str::from_utf8(&line).unwrap(),
        "1970-01-01T00:00:00.000000Z outbound \"shop/reviews:80\" \"shop/\\x22split\\x22/0\" http1 \
         \"GET /a\\x0d\\x0a\\x22x\" \"reviews\" 503 - no_endpoint 192.0.2.1:5000 [2001:db8::1]:9080 0 17 0.001500 \
         2.500000 1 \"id\" -\n"
    );
}

#[test]
fn dates_are_right_at_the_edges() {
    for (seconds, expected) in [
        (951_782_399, "2000-02-28T23:59:59.000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000Z"),
        (951_868_800, "2000-03-01T00:00:00.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
    ] {
        assert_eq!(format::time_text(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
    }
}

proptest! {
    #[test]
    fn whatever_a_caller_sends_stays_one_line_and_valid_json(path: Vec<u8>, authority in "\\PC*|.*") {
        let metrics = metrics();
        for (json, limit) in [(true, 64), (false, 64), (true, 4096), (false, 4096)] {
            let mut record = record(&metrics, &path);
            record.authority = authority.as_bytes();
            let mut line = Vec::new();
            if json {
                format::json(&mut line, &record, UNIX_EPOCH, limit);
                let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
                if !path.is_empty() && path.len() <= limit {
                    prop_assert_eq!(value["path"].as_str().unwrap(), &*String::from_utf8_lossy(&path));
                }
            } else {
                format::text(&mut line, &record, UNIX_EPOCH, limit);
                prop_assert!(line.is_ascii());
                // The quotes that are there are those of the five quoted fields.
                prop_assert_eq!(
                    line.iter().filter(|byte| **byte == b'"').count(),
                    if authority.is_empty() { 8 } else { 10 }
                );
            }
            let controls = line.iter().filter(|byte| byte.is_ascii_control()).count();
            prop_assert_eq!(controls, 1);
            prop_assert_eq!(line.last(), Some(&b'\n'));
        }
    }
}

#[test]
fn a_full_buffer_drops_lines_and_counts_them() {
    let metrics = metrics();
    let log = Log::new(true);
    let buffer = Buffer::default();
    let path = vec![b'x'; 100_000];
    let mut taken = 0;
    while log.append(&buffer, &record(&metrics, &path), UNIX_EPOCH) {
        taken += 1;
    }
    let size = buffer.lock().len();
    assert!((LIMIT..LIMIT + 2 * FIELD_LIMIT).contains(&size), "{size} bytes");
    assert!(taken > 200);
    let dropped = crate::telemetry::render(crate::telemetry::exposition::Format::Prometheus);
    let dropped = dropped.lines().find_map(|line| line.strip_prefix("lighter_access_log_dropped_total "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() >= 1);
}

#[test]
fn lines_of_many_threads_are_written_whole_and_a_rotated_file_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = Arc::new(Log::new(true));
    let sink = Sink::open(Some(path.clone())).unwrap();
    // The writing thread runs for as long as the process, as it does in production.
    std::thread::spawn({
        let log = log.clone();
        move || log.run(sink)
    });
    let metrics = metrics();
    let write = |lines: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let buffer = log.add_buffer();
                    for _ in 0..lines {
                        assert!(log.append(&buffer, &record(&metrics, b"/"), UNIX_EPOCH));
                        log.tell();
                    }
                });
            }
        });
    };
    let flush = || {
        let wanted = log.wake(|state| {
            state.flushes_wanted += 1;
            state.flushes_wanted
        });
        let mut state = log.state();
        while state.flushes_done < wanted {
            state = log.flushed.wait(state).unwrap();
        }
    };
    write(500);
    flush();
    let moved = folder.path().join("access.log.1");
    std::fs::rename(&path, &moved).unwrap();
    log.wake(|state| state.reopen = true);
    flush();
    write(1);
    flush();
    assert_eq!(log.state().buffers.len(), 0, "buffers of ended threads are let go");
    let lines = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        text.lines().count()
    };
    assert_eq!(lines(&moved), 2000);
    assert_eq!(lines(&path), 4);
}
