//! Spans as a collector gets them that is built of OpenTelemetry's own messages.

use std::process::Command;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::process::{Program, free_address, free_port, python};
use crate::support::raw::{Head, Peer, Upstream};
use crate::support::sidecar::{Sidecar, service};
use crate::support::{http2, test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("traces::both_sidecars_are_in_one_trace", one_trace),
        test_where("traces::a_trace_goes_on_as_its_caller_says", as_the_caller_says),
        test_where("traces::a_failure_is_seen_with_its_cause", failures),
    ]
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn one_trace() -> Result<(), String> {
    let world = World::new("100", "[w3c, b3, b3multi]")?;
    let head = world.ask("/books/1?secret=yes", "");
    let spans = world.spans(2);
    let of = |kind: &str| spans.iter().find(|span| span["kind"] == kind).unwrap();
    let (client, server) = (of("SPAN_KIND_CLIENT"), of("SPAN_KIND_SERVER"));
    assert_eq!(client["trace"], server["trace"]);
    assert_eq!((&client["parent"], &server["parent"]), (&"".into(), &client["span"]));
    assert_eq!(client["resource"]["service.name"], "lighter", "a pure caller has no name");
    assert_eq!(server["resource"]["service.name"], "up");
    assert_eq!(server["resource"]["service.namespace"], "default");
    for span in [client, server] {
        assert_eq!(span["name"], "GET default");
        assert_eq!(span["status"], "STATUS_CODE_UNSET");
        assert_eq!(span["attributes"]["url.path"], "/books/1", "without what may be secret");
        assert_eq!(span["attributes"]["http.response.status_code"], 200);
        assert_eq!(span["attributes"]["http.response.body.size"], 2);
        assert!(span["nanos"].as_u64().unwrap() > 0);
    }
    assert_eq!(client["attributes"]["lighter.request_id"], server["attributes"]["lighter.request_id"]);
    // The application is told by every header whose child it is.
    let [trace, span] = [&server["trace"], &server["span"]].map(|id| id.as_str().unwrap());
    assert_eq!(head.get("traceparent"), Some(&*format!("00-{trace}-{span}-01")));
    assert_eq!(head.get("b3"), Some(&*format!("{trace}-{span}-1")));
    assert_eq!(head.get("x-b3-traceid"), Some(trace));
    assert_eq!(head.get("x-b3-spanid"), Some(span));
    assert_eq!(head.get("x-b3-parentspanid"), client["span"].as_str());

    http2::run(async {
        let client = http2::connect(world.at).await;
        assert_eq!(http2::get(&client, "/two").await.unwrap().head.status, 200);
    });
    let spans = world.spans(4);
    let two: Vec<&Value> = spans.iter().filter(|span| span["attributes"]["url.path"] == "/two").collect();
    assert_eq!(two.len(), 2);
    assert_eq!(two[0]["trace"], two[1]["trace"]);
    for sidecar in [&world.caller, &world.callee] {
        wait_until("both of its spans are counted", || exported(sidecar) == 2.0);
    }
    Ok(())
}

fn as_the_caller_says() -> Result<(), String> {
    // Neither begins a trace.
    let world = World::new("0", "[w3c, b3]")?;
    assert_eq!(world.ask("/", "").get("traceparent"), None);
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let head = world.ask("/", &format!("TraceParent: {unsampled}\r\ntracestate: a=b\r\n"));
    assert_eq!((head.get("traceparent"), head.get("tracestate")), (Some(&*unsampled), Some("a=b")));
    assert_eq!(world.ask("/", "b3: 0\r\n").get("b3"), Some("0"));

    let head = world.ask("/", &format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=b\r\n"));
    assert_eq!(head.get("tracestate"), Some("a=b"));
    let spans = world.spans(2);
    assert!(spans.iter().all(|span| span["trace"] == TRACE), "{spans:?}");
    assert!(spans.iter().any(|span| span["parent"] == PARENT && span["kind"] == "SPAN_KIND_CLIENT"));

    let short = "a3ce929d0e0e4736";
    world.ask("/", &format!("b3: {short}-{PARENT}-1\r\n"));
    let spans = world.spans(4);
    assert_eq!(spans.iter().filter(|span| span["trace"] == format!("{short:0>32}")).count(), 2, "{spans:?}");
    Ok(())
}

fn failures() -> Result<(), String> {
    let world = World::new("100", "[w3c]")?;
    world.ask("/bad", "");
    let spans = world.spans(2);
    for span in &spans {
        assert_eq!(span["status"], "STATUS_CODE_ERROR", "{span}");
        assert_eq!(span["attributes"]["http.response.status_code"], 500);
    }
    drop(world.callee);
    let (head, _) = Peer::connect(world.at).exchange("GET /gone HTTP/1.1\r\nHost: up\r\n\r\n");
    assert_eq!(head.cause(), Some("connect_refused"));
    let gone = spans_of(&world.collector, 3).pop().unwrap();
    assert_eq!(
        (&gone["status"], &gone["attributes"]["error.type"]),
        (&"STATUS_CODE_ERROR".into(), &"connect_refused".into())
    );
    Ok(())
}

/// A caller's sidecar, a service's sidecar, the service, and a collector.
struct World {
    collector: Program,
    caller: Sidecar,
    callee: Sidecar,
    app: Upstream,
    at: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(sampling: &str, propagation: &str) -> Result<Self, String> {
        let python = python(MODULES)?;
        let folder = tempfile::tempdir().unwrap();
        let (port, door, at) = (free_port(), free_address(), free_address());
        let mut command = Command::new(python);
        command.arg(crate::root().join("tests/monitor/scripts/collector.py")).arg(port.to_string());
        let mut collector = Program::start(command, folder.path());
        collector.wait_until_it_says("ready");
        let app = Upstream::start(|mut peer, _| {
            while let Some(head) = peer.head() {
                let line = if head.target() == "/bad" { "500 Bad" } else { "200 OK" };
                peer.send(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok"));
            }
        });
        let tracing = format!(
            "tracing: {{otlp: '127.0.0.1:{port}', samplingPercent: {sampling}, propagation: {propagation}}}\n"
        );
        let resources = service("up", "http", &[door]);
        let inbound = format!(
            "service: up\ninbound: [{{listen: '{door}', app: '{}', port: 80}}]\n{tracing}",
            app.address
        );
        let callee = Sidecar::start(&resources, &inbound);
        let listener = format!("listeners: [{{listen: '{at}', service: up, port: 80}}]\n{tracing}");
        let caller = Sidecar::start(&resources, &listener);
        Ok(World { collector, caller, callee, app, at, _folder: folder })
    }

    /// Sends a request; gives the head as the application saw it.
    fn ask(&self, target: &str, fields: &str) -> Head {
        let (head, _) =
            Peer::connect(self.at).exchange(format!("GET {target} HTTP/1.1\r\nHost: up\r\n{fields}\r\n"));
        assert!([200, 500].contains(&head.status()), "{head:?}");
        let received = self.app.received();
        let last = received.rfind("GET ").unwrap();
        Head::parse(&received.as_bytes()[last..])
    }

    fn spans(&self, count: usize) -> Vec<Value> {
        spans_of(&self.collector, count)
    }
}

fn spans_of(collector: &Program, count: usize) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let said = collector.said();
        said.split_inclusive('\n')
            .filter(|line| line.starts_with('{') && line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    wait_until(&format!("{count} spans have come"), || read().len() >= count);
    let spans = read();
    assert_eq!(spans.len(), count, "{spans:?}");
    spans
}

fn exported(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_trace_spans_total", &[("outcome", "exported")])
}

/// What the collector needs of Python. xds-protos brings older messages to the same place, which the second line tells.
const MODULES: &str = "grpc, opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans";
