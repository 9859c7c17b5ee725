//! Lighter watched by a real Prometheus: what it scrapes, the alerts and the dashboard that come with Lighter.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod prometheus;
mod traces;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use prometheus::Prometheus;
use support::metrics;
use support::process::{find, free_address};
use support::raw::{Body, Peer, Upstream};
use support::sidecar::Sidecar;
use support::{test, test_where, wait_until};

fn main() {
    let watched = vec![
        test("what_is_asked_for_is_in_the_readme", known_names),
        test_where("promtool_takes_the_alerts_and_they_fire", alerts_fire),
        test_where("promtool_finds_no_fault_in_what_a_sidecar_shows", shown_is_sound),
        test_where("prometheus_scrapes_and_counts_the_same", scraped),
        test_where("prometheus_finds_a_trace_for_a_bucket", exemplars),
    ];
    support::run([watched, traces::tests()].into_iter().flatten().collect())
}

const GET: &str = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";

/// A name that nothing has gives an alert that never fires, and an empty panel.
fn known_names() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let known: BTreeSet<&str> = readme
        .lines()
        .map(|line| line.split('|').collect::<Vec<_>>())
        .filter(|row| {
            row.get(2).is_some_and(|kind| {
                ["counter", "gauge", "histogram", "info"].iter().any(|is| kind.contains(is))
            })
        })
        .flat_map(|row| row[1].split('`').skip(1).step_by(2))
        .collect();
    let is_known = |name: &str| {
        let of_control = name.strip_prefix("lighter_control_");
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        [Some(name), of_control, plain].into_iter().flatten().any(|name| known.contains(name))
    };
    let mut seen = 0;
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(monitoring(file)).unwrap();
        for name in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if name.starts_with("lighter_") || name.starts_with("process_") {
                assert!(is_known(name), "{file}: no metric of the README is called {name}");
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen} names were found");
}

fn alerts_fire() -> Result<(), String> {
    let promtool = find("promtool")?;
    tool(&promtool, &["check", "rules"], &monitoring("alerts.yaml"), None);
    tool(&promtool, &["test", "rules"], &root().join("tests/monitor/alerts.test.yaml"), None);
    Ok(())
}

fn shown_is_sound() -> Result<(), String> {
    let promtool = find("promtool")?;
    let upstream = Upstream::answering("here");
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    assert_eq!(Peer::connect(at).exchange(GET).1, Body::Whole("here".into()));
    let shown = sidecar.path("metrics.txt");
    std::fs::write(&shown, metrics::get(sidecar.admin, "/metrics").1).unwrap();
    tool(&promtool, &["check", "metrics"], Path::new(""), Some(&shown));
    Ok(())
}

fn scraped() -> Result<(), String> {
    let upstream = Upstream::answering("here");
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let prometheus = Prometheus::watch(sidecar.admin)?;
    let mut caller = Peer::connect(at);
    for _ in 0..250 {
        assert_eq!(caller.exchange(GET).0.status(), 200);
    }
    prometheus.wait_for(r#"sum(lighter_requests_total{code_class="2xx", protocol="http1"})"#, 250.0);
    prometheus.wait_for("sum(lighter_request_duration_seconds_count)", 250.0);
    prometheus.wait_for("sum(lighter_endpoint_requests_total)", 250.0);
    prometheus.wait_for(r#"up{job="lighter-sidecars"}"#, 1.0);
    assert_eq!(prometheus.alerts(), (13, 0), "alerts that it knows, and alerts that it cannot work out");
    let panels: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(monitoring("dashboard.json")).unwrap()).unwrap();
    let asked = panels["panels"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten()
        .filter_map(|target| target["expr"].as_str());
    let asked: Vec<String> =
        asked.map(|query| query.replace("$__rate_interval", "5m").replace("$service", ".*")).collect();
    // A rate needs two readings. Without links, gRPC, opaque connections, identity and a control plane some have nothing to show.
    wait_until("at least ten panels show something", || {
        asked.iter().filter(|query| prometheus.ask(query) > 0).count() >= 10
    });
    Ok(())
}

/// The collector is away meanwhile, which fails nothing.
fn exemplars() -> Result<(), String> {
    let upstream = Upstream::answering("here");
    let nobody = free_address();
    let tracing = format!("tracing: {{otlp: '{nobody}', samplingPercent: 100}}\n");
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", &tracing);
    let prometheus = Prometheus::watch(sidecar.admin)?;
    for _ in 0..10 {
        assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    }
    let seen = upstream.received();
    wait_until("an exemplar of a request is there", || {
        let found = prometheus.exemplars("lighter_request_duration_seconds_bucket");
        found.iter().any(|trace| seen.contains(&format!("traceparent: 00-{trace}-")))
    });
    wait_until("the spans are given up", || {
        sidecar.metrics().sum("lighter_trace_spans_total", &[("outcome", "failed")]) == 10.0
    });
    Ok(())
}

fn tool(promtool: &Path, words: &[&str], file: &Path, input: Option<&Path>) {
    let mut command = Command::new(promtool);
    command.args(words);
    match input {
        Some(input) => command.stdin(std::fs::File::open(input).unwrap()),
        None => command.arg(file),
    };
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {words:?}: {}", String::from_utf8_lossy(&said));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn monitoring(file: &str) -> PathBuf {
    root().join("examples/monitoring").join(file)
}
