//! HTTP through the shell: which engine gets a connection, and what reload and drain do to requests.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};

use common::*;
use lighter_config::snapshot::Protocol;

/// A server that answers every request with `name`, once `allow` lets it.
fn web_when(name: &'static str, allow: impl Fn() + Send + Sync + 'static) -> SocketAddr {
    server(move |stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        loop {
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                line.clear();
            }
            if line.is_empty() {
                return;
            }
            allow();
            let length = name.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn web(name: &'static str) -> SocketAddr {
    web_when(name, || {})
}

/// Sends a request and reads the whole answer: its head, and its body by Content-Length.
fn get(stream: &mut TcpStream, target: &str, host: &str) -> (String, String) {
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    answer(stream)
}

fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "cut after {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn start(resources: &str) -> Sidecar {
    Sidecar::start(resources, |config| config.listeners = vec![listener("web", Protocol::Auto)])
}

#[test]
fn http_is_recognised_and_each_request_follows_a_reload() {
    let sidecar = start(&service("web", &[web("old")], ""));
    let mut client = sidecar.connect(0);
    assert_eq!(get(&mut client, "/", "web").1, "old");
    sidecar.replace(&service("web", &[web("new")], ""));
    // The very same connection: routes are those of each request's moment.
    eventually("requests go to the new endpoint", || get(&mut client, "/", "web").1 == "new");
}

#[test]
fn a_drain_finishes_the_request_that_runs() {
    let (go, may_go) = mpsc::channel();
    let (asked, is_asked) = mpsc::channel();
    let (may_go, asked) = (Mutex::new(may_go), Mutex::new(asked));
    let slow = web_when("done", move || {
        asked.lock().unwrap().send(()).unwrap();
        may_go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
    });
    let mut sidecar = start(&service("web", &[slow], "appProtocol: http"));
    let mut client = sidecar.connect(0);
    write!(client, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    sidecar.drain();
    let address = sidecar.config.listeners[0].listen;
    eventually("the door is closed", || TcpStream::connect(address).is_err());
    go.send(()).unwrap();
    let (head, body) = answer(&mut client);
    assert_eq!(body, "done");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(sidecar.end().cut.total(), 0);
}

#[test]
fn a_drain_does_not_wait_for_connections_that_rest() {
    let sidecar = start(&service("web", &[web("x")], "appProtocol: http"));
    let mut rests = sidecar.connect(0);
    assert_eq!(get(&mut rests, "/", "web").1, "x");
    let mut never_asked = sidecar.connect(0);
    assert_eq!(sidecar.end().cut.total(), 0);
    assert_eq!(rests.read(&mut [0]).unwrap(), 0);
    assert_eq!(never_asked.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_dead_endpoint_costs_no_request() {
    let resources = service("web", &[free_address(), web("alive")], "appProtocol: http");
    let sidecar = start(&resources);
    for _ in 0..20 {
        let (head, body) = get(&mut sidecar.connect(0), "/", "web");
        assert_eq!(body, "alive", "{head}");
    }
}

#[test]
fn opaque_bytes_do_not_pass_a_port_that_routes() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  \
                 parentRefs: [{kind: Service, group: mesh.lighter.dev, name: web}]\n  rules:\n  - backendRefs: \
                 [{kind: Service, group: mesh.lighter.dev, name: web, port: 80}]\n";
    let sidecar = start(&(service("web", &[echo_bytes(b'e')], "") + route));
    let mut client = sidecar.connect(0);
    client.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    let (head, _) = answer(&mut client);
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[test]
fn the_proxy_port_takes_absolute_form_and_carries_http_in_tunnels() {
    let proxy = free_address();
    let resources = service("reviews", &[web("reviews")], "") + &service("ratings", &[web("ratings")], "");
    let sidecar = Sidecar::start(&resources, |config| config.connect = Some(proxy));
    // One connection, each request by its own authority.
    let mut client = dial(proxy);
    for name in ["reviews", "ratings", "reviews"] {
        let (head, body) = get(&mut client, &format!("http://{name}/"), name);
        assert_eq!(body, name, "{head}");
    }
    let mut tunnel = dial(proxy);
    write!(tunnel, "CONNECT ratings:80 HTTP/1.1\r\nHost: ratings:80\r\n\r\n").unwrap();
    assert!(answer(&mut tunnel).0.starts_with("HTTP/1.1 200 "));
    assert_eq!(get(&mut tunnel, "/", "ratings").1, "ratings");
    let counted = |name: &str| {
        let metrics = sidecar.admin("GET", "/metrics");
        let line = metrics.lines().find(|line| {
            line.starts_with("lighter_requests_total{")
                && line.contains(&format!("service=\"default/{name}\""))
                && line.contains("code_class=\"2xx\"")
        });
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    // A request is counted when it is over, which is after its answer was read.
    eventually("both ways are counted", || {
        (counted("reviews"), counted("ratings")) == (Some(2.0), Some(2.0))
    });
}
