use std::net::SocketAddr;
use std::time::Duration;

use lighter_config::sidecar::SidecarConfig;
use lighter_config::snapshot::Snapshot;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::dial::Here;
use crate::mesh::Mesh;
use crate::telemetry::exposition::strict;

const RESOURCES: &str = "
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: admin-page, namespace: admin}
spec:
  ports: [{name: http, port: 80, targetPort: 9080, appProtocol: http}]
  endpoints:
  - {address: 192.0.2.1, ports: {http: 9101}, weight: 3}
  - {address: 192.0.2.2, ports: {http: 9101}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: admin}
spec:
  parentRefs: [{group: \"\", kind: Service, name: admin-page}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: x, value: y}]}]
    timeouts: {request: 3s}
    backendRefs: [{name: admin-page, port: 80, weight: 9}]
";

struct Fixture {
    shared: Arc<Shared>,
    admin: SocketAddr,
    probe: SocketAddr,
}

/// A sidecar's shared part with the resources above in force, and both ports.
async fn fixture() -> Fixture {
    let here = || Arc::new(Here { mark: None });
    let shared = Arc::new(Shared::new(SidecarConfig::default(), here(), here()));
    let resources = lighter_config::load::Resources::parse("mesh.yaml", RESOURCES).unwrap();
    let snapshot = Snapshot::build(&resources).unwrap();
    shared.mesh.store(Arc::new(Mesh::build(Arc::new(snapshot), &Mesh::default())));
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, other) = (listen(), listen());
    let (admin, probe) = (one.local_addr().unwrap(), other.local_addr().unwrap());
    tokio::spawn(serve(one, shared.clone()));
    tokio::spawn(serve_probe(other, shared.clone()));
    Fixture { shared, admin, probe }
}

async fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}

async fn post(address: SocketAddr, path: &str, more: &str) -> (u16, String, String) {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n");
    ask(address, &format!("{head}{more}\r\n")).await
}

#[tokio::test]
async fn ready_says_when_traffic_is_taken_and_why_not() {
    let fixture = fixture().await;
    for port in [fixture.admin, fixture.probe] {
        let (status, _, body) = get(port, "/ready").await;
        assert_eq!(status, 503);
        assert!(body.starts_with("starting"), "{body}");
        assert_eq!(get(port, "/live").await.0, 200);
    }
    fixture.shared.set_up();
    assert_eq!(get(fixture.probe, "/ready").await.0, 200);
    // Kubernetes and old clients ask without a Host or in HTTP/1.0.
    assert_eq!(ask(fixture.probe, "GET /ready HTTP/1.0\r\n\r\n").await.0, 200);
    for (phase, why) in [(Phase::Lame, "lame"), (Phase::Draining, "draining"), (Phase::Closed, "closed")] {
        fixture.shared.set_phase(phase);
        let (status, _, body) = get(fixture.admin, "/ready").await;
        assert_eq!(status, 503);
        assert!(body.starts_with(why), "{body}");
    }
    assert_eq!(get(fixture.admin, "/live").await.0, 200);
}

#[tokio::test]
async fn the_probe_port_shows_nothing_else() {
    let fixture = fixture().await;
    for path in ["/metrics", "/config_dump", "/reload", "/"] {
        assert_eq!(get(fixture.probe, path).await.0, 404, "{path}");
        assert_eq!(post(fixture.probe, path, "").await.0, 404, "{path}");
    }
    assert_eq!(post(fixture.probe, "/ready", "").await.0, 405);
}

#[tokio::test]
async fn a_hook_drains_by_the_probe_port() {
    for method in ["GET", "POST"] {
        let fixture = fixture().await;
        let ask = async |more: &str| {
            let head = format!("{method} /drain HTTP/1.1\r\nHost: pod.example\r\nConnection: close\r\n");
            ask(fixture.probe, &format!("{head}{more}\r\n")).await.0
        };
        // An image on somebody's page must not.
        assert_eq!(ask("Sec-Fetch-Site: cross-site\r\n").await, 403);
        assert_eq!(ask("Origin: http://evil.example\r\n").await, 403);
        assert!(!fixture.shared.is_stop_asked().await);
        assert_eq!(ask("").await, 200);
        assert!(fixture.shared.is_stop_asked().await, "{method}");
    }
    let fixture = fixture().await;
    let (status, head, _) = ask(fixture.probe, "HEAD /drain HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, post"), "{head}");
    assert!(!fixture.shared.is_stop_asked().await);
}

#[tokio::test]
async fn metrics_come_in_the_format_that_was_asked_for() {
    let fixture = fixture().await;
    let (status, head, body) = get(fixture.admin, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    strict::parse(&body, false);
    let accept = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\nConnection: close\r\n\r\n";
    let (_, head, body) = ask(fixture.admin, accept).await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    strict::parse(&body, true);
}

#[tokio::test]
async fn the_configuration_and_its_endpoints_are_shown() {
    let fixture = fixture().await;
    let (status, head, body) = get(fixture.admin, "/config_dump").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let dump: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(dump["sidecar"]["admin"], "127.0.0.1:15000");
    assert_eq!(dump["snapshot"]["services"][0]["name"], "admin/admin-page");
    let port = &dump["snapshot"]["services"][0]["ports"][0];
    assert_eq!(port["endpoints"][0]["weight"], 3);
    assert_eq!(port["routes"][0]["match"]["path"]["prefix"], "/a");
    assert_eq!(port["routes"][0]["match"]["headers"][0]["exact"], "y");
    assert_eq!(port["routes"][0]["request_timeout_seconds"], 3.0);
    assert_eq!(port["routes"][0]["backends"][0]["service"], "admin/admin-page");

    let (_, _, body) = get(fixture.admin, "/clusters?format=json").await;
    let clusters: Value = serde_json::from_str(&body).unwrap();
    let endpoint = &clusters["clusters"][0]["endpoints"][0];
    assert_eq!(endpoint["address"], "192.0.2.1:9101");
    assert_eq!(endpoint["health"], "in_service");
    assert_eq!(endpoint["weight"], 3);
    let (_, _, text) = get(fixture.admin, "/clusters").await;
    assert!(
        text.starts_with("admin/admin-page:80\n  192.0.2.1:9101 in_service priority 0 weight 3 "),
        "{text}"
    );
}

#[tokio::test]
async fn drain_and_reload_are_asked_for_by_post_only() {
    let fixture = fixture().await;
    for path in ["/drain", "/reload"] {
        let (status, head, _) = get(fixture.admin, path).await;
        assert_eq!(status, 405);
        assert!(head.contains("allow: post"), "{head}");
        assert_eq!(post(fixture.admin, path, "Origin: http://evil.example\r\n").await.0, 403);
    }
    assert!(!fixture.shared.is_stop_asked().await);
    assert_eq!(post(fixture.admin, "/drain", "").await.0, 200);
    assert!(fixture.shared.is_stop_asked().await);
}

#[tokio::test]
async fn a_name_that_leads_here_by_dns_rebinding_is_refused() {
    let fixture = fixture().await;
    let request = "GET /config_dump HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(fixture.admin, request).await.0, 403);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let fixture = fixture().await;
    let request = format!("GET /live HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let mut socket = TcpStream::connect(fixture.admin).await.unwrap();
    // The server may close before it has read all.
    let _ = socket.write_all(request.as_bytes()).await;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_keep_others_away() {
    let fixture = fixture().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut socket = TcpStream::connect(fixture.admin).await.unwrap();
        socket.write_all(b"GET /li").await.unwrap();
        silent.push(socket);
    }
    assert_eq!(get(fixture.admin, "/live").await.0, 200);
    // The first of them were pushed out.
    let mut byte = [0];
    let end = tokio::time::timeout(Duration::from_secs(20), silent[0].read(&mut byte)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test]
async fn the_log_filter_can_be_read_and_changed() {
    let fixture = fixture().await;
    logging::install("off", false).unwrap();
    assert_eq!(post(fixture.admin, "/log_level", "").await.0, 400);
    assert_eq!(post(fixture.admin, "/log_level?level=loud", "").await.0, 400);
    let (status, _, body) = post(fixture.admin, "/log_level?level=warn%2Clighter_proxy%3Ddebug", "").await;
    assert_eq!((status, &*body), (200, "warn,lighter_proxy=debug\n"));
    let (_, _, body) = get(fixture.admin, "/log_level").await;
    assert!(body.contains("lighter_proxy=debug") && body.contains("warn"), "{body}");
    // So that the other tests stay quiet.
    assert_eq!(post(fixture.admin, "/log_level?level=off", "").await.0, 200);
}

#[tokio::test]
async fn a_sidecar_that_intercepts_nothing_says_so() {
    let fixture = fixture().await;
    assert_eq!(get(fixture.admin, "/intercept").await.0, 404);
    assert_eq!(get(fixture.admin, "/nowhere").await.0, 404);
    assert_eq!(get(fixture.admin, "/").await.2, INDEX);
}
