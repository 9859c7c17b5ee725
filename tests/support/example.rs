//! The policies under `examples/`, with real endpoints in place of those in the file.

use std::net::SocketAddr;
use std::path::Path;

use super::process::free_address;
use super::raw::{Body, Peer};
use super::sidecar::Sidecar;

/// `examples/policies/NAME.yaml`, whose endpoints have the ports 9401, 9402 and so on of 127.0.0.1.
pub fn policy(name: &str, endpoints: &[SocketAddr]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    for (number, endpoint) in (9401..).zip(endpoints) {
        let place = format!("{{address: 127.0.0.1, port: {number}");
        assert!(text.contains(&place), "{name} has an endpoint at {number}");
        text = text.replace(&place, &format!("{{address: {}, port: {}", endpoint.ip(), endpoint.port()));
    }
    text
}

/// A sidecar that runs by such a file, and where callers of its Service `shop` reach it.
pub fn sidecar(name: &str, endpoints: &[SocketAddr]) -> (Sidecar, SocketAddr) {
    running(&policy(name, endpoints))
}

/// The same by resources that are given.
pub fn running(resources: &str) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let own = format!("listeners: [{{listen: '{listen}', service: shop, port: 80}}]\nworkers: 2\n");
    (Sidecar::start(resources, &own), listen)
}

/// What an endpoint of `shop` answers to a request with these fields, each with its end of line.
pub fn ask(client: &mut Peer, fields: &str) -> String {
    let (head, body) = client.exchange(format!("GET / HTTP/1.1\r\nHost: shop\r\n{fields}\r\n"));
    assert_eq!(head.status(), 200, "{head:?}");
    let Body::Whole(body) = body else { panic!("a whole body") };
    String::from_utf8(body).unwrap()
}
