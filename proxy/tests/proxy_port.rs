//! The explicit proxy port.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use common::*;

const REGISTRY_ONLY: &str = "---\napiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {name: mesh}\n\
                             spec: {outboundPolicy: registryOnly}\n";

fn start(resources: &str) -> (Sidecar, SocketAddr) {
    let address = free_address();
    (Sidecar::start(resources, |config| config.connect = Some(address)), address)
}

fn http_connect(proxy: SocketAddr, target: &str) -> (TcpStream, String) {
    let mut stream = dial(proxy);
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

fn socks_connect(proxy: SocketAddr, kind: u8, host: &[u8], port: u16) -> (TcpStream, u8) {
    let mut stream = dial(proxy);
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, [5, 0]);
    stream.write_all(&[&[5, 1, 0, kind], host, &port.to_be_bytes()].concat()).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    (stream, reply[1])
}

#[test]
fn connect_leads_to_a_service_by_name_and_into_the_world_by_address() {
    let (inside, outside) = (echo_bytes(b's'), echo_bytes(b'w'));
    let (_sidecar, proxy) = start(&service("reviews", &[inside], "appProtocol: tcp"));
    for target in ["reviews:80", "reviews.default.svc.cluster.local:80", &inside.to_string()] {
        let (mut tunnel, head) = http_connect(proxy, target);
        assert!(head.starts_with("HTTP/1.1 200 "), "{target}: {head}");
        assert_eq!(ask(&mut tunnel).unwrap(), b's', "{target}");
    }
    for target in [outside.to_string(), format!("localhost:{}", outside.port())] {
        let (mut tunnel, head) = http_connect(proxy, &target);
        assert!(head.starts_with("HTTP/1.1 200 "), "{target}: {head}");
        assert_eq!(ask(&mut tunnel).unwrap(), b'w', "{target}");
    }
}

#[test]
fn socks_leads_to_the_same_places() {
    let (inside, outside) = (echo_bytes(b's'), echo_bytes(b'w'));
    let (_sidecar, proxy) = start(&service("reviews", &[inside], "appProtocol: tcp"));
    let (mut tunnel, reply) = socks_connect(proxy, 3, b"\x07reviews", 80);
    assert_eq!(reply, 0);
    assert_eq!(ask(&mut tunnel).unwrap(), b's');
    let (mut tunnel, reply) = socks_connect(proxy, 1, &[127, 0, 0, 1], outside.port());
    assert_eq!(reply, 0);
    assert_eq!(ask(&mut tunnel).unwrap(), b'w');
}

#[test]
fn a_tunnel_that_cannot_stand_says_why() {
    let outside = echo_bytes(b'w');
    let dead = free_address();
    let resources = service("dead", &[dead], "appProtocol: tcp") + REGISTRY_ONLY;
    let (sidecar, proxy) = start(&resources);
    let admin = sidecar.config.admin;
    for (target, status, cause) in [
        (outside.to_string(), "502", "not_in_registry"),
        ("elsewhere:80".into(), "502", "not_in_registry"),
        ("dead:80".into(), "503", "connect_refused"),
        ("dead:81".into(), "503", "no_config"),
        (admin.to_string(), "508", "loop"),
    ] {
        let (_, head) = http_connect(proxy, &target);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
        assert!(head.contains(&format!("x-lighter-error: {cause}\r\n")), "{target}: {head}");
    }
    assert_eq!(socks_connect(proxy, 3, b"\x09elsewhere", 80).1, 2);
    assert_eq!(socks_connect(proxy, 3, b"\x04dead", 80).1, 5);
}

#[test]
fn half_a_preface_does_not_hold_a_drain_up() {
    let (mut sidecar, proxy) = start(&service("reviews", &[echo_bytes(b's')], ""));
    let mut client = dial(proxy);
    client.set_read_timeout(Some(PATIENCE / 2)).unwrap();
    client.write_all(b"PRI").unwrap();
    // Told to be heard: the answer to a second client comes after it.
    assert!(http_connect(proxy, "reviews:81").1.starts_with("HTTP/1.1 "));
    sidecar.drain();
    let ended = client.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{ended:?}");
}

#[test]
fn a_port_that_speaks_something_else_is_not_sent_http() {
    for protocol in ["tcp", "tls", "grpc"] {
        let endpoint = echo_bytes(b's');
        let (_sidecar, proxy) = start(&service("reviews", &[endpoint], &format!("appProtocol: {protocol}")));
        let mut stream = dial(proxy);
        stream
            .write_all(b"GET http://reviews/ HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 501 "), "{protocol}: {answer}");
        assert!(answer.contains("\r\nx-lighter-error: unsupported\r\n"), "{protocol}: {answer}");
    }
}
