//! Opaque bytes through explicit listeners, and what detection makes of first bytes.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{ErrorKind, Read, Write};

use common::*;
use lighter_config::snapshot::Protocol;

#[test]
fn half_close_survives() {
    let resources = service("echo", &[echo_at_end("echo")], "appProtocol: tcp");
    let sidecar =
        Sidecar::start(&resources, |config| config.listeners = vec![listener("echo", Protocol::Auto)]);
    let mut client = sidecar.connect(0);
    client.write_all(b"all I say").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "echo: all I say");
}

#[test]
fn a_server_that_speaks_first_is_heard_by_a_silent_client() {
    let greeter = server(|mut stream| {
        stream.write_all(b"\x4a\0\0\0\x0a11.8.3").unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).unwrap();
        stream.write_all(&heard).unwrap();
    });
    let sidecar = Sidecar::start(&service("db", &[greeter], ""), |config| {
        config.listeners = vec![listener("db", Protocol::Auto)];
    });
    // The second time it is known.
    for _ in 0..2 {
        let mut client = sidecar.connect(0);
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"\x4a\0\0\0\x0a11.8.3");
        client.write_all(b"okay").unwrap();
        let mut echo = [0; 4];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"okay");
    }
}

#[test]
fn a_dead_endpoint_is_passed_over() {
    let alive = echo_bytes(b'a');
    let resources = service("two", &[free_address(), alive], "appProtocol: tcp");
    let sidecar =
        Sidecar::start(&resources, |config| config.listeners = vec![listener("two", Protocol::Auto)]);
    for _ in 0..20 {
        assert_eq!(ask(&mut sidecar.connect(0)).unwrap(), b'a');
    }
}

#[test]
fn what_cannot_be_reached_is_a_reset_with_a_counted_cause() {
    let resources = service("dead-end", &[free_address()], "appProtocol: tcp");
    let sidecar =
        Sidecar::start(&resources, |config| config.listeners = vec![listener("dead-end", Protocol::Auto)]);
    let error = sidecar.connect(0).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let metrics = sidecar.admin("GET", "/metrics");
    let counted = metrics.lines().any(|line| {
        line.starts_with("lighter_connections_total{")
            && line.contains("service=\"default/dead-end\"")
            && line.contains("cause=\"connect_refused\"")
            && line.ends_with(" 1")
    });
    assert!(counted, "{metrics}");
}

#[test]
fn a_service_that_is_not_there_is_refused() {
    let sidecar = Sidecar::start("", |config| config.listeners = vec![listener("nobody", Protocol::Auto)]);
    assert_eq!(sidecar.connect(0).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn bulk_passes_whole_through_two_workers() {
    const BYTES: usize = 3 << 20;
    let sink = server(|mut stream| {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(&heard).unwrap();
    });
    let resources = service("bulk", &[sink], "appProtocol: tcp");
    let sidecar = Sidecar::start(&resources, |config| {
        config.listeners = vec![listener("bulk", Protocol::Auto)];
        config.workers = 2;
    });
    let sent: Vec<u8> = (0..BYTES).map(|at| (at ^ (at >> 9)) as u8).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = sidecar.connect(0);
                client.write_all(&sent).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).unwrap();
                assert!(heard == sent);
            });
        }
    });
}

#[test]
fn an_explicit_inbound_listener_leads_to_the_application() {
    let app = echo_bytes(b'i');
    let listen = free_address();
    let sidecar = Sidecar::start("", |config| {
        let protocol = Protocol::Tcp;
        config.inbound = vec![lighter_config::sidecar::InboundConfig { listen, app, port: None, protocol }];
    });
    assert_eq!(ask(&mut dial(listen)).unwrap(), b'i');
    drop(sidecar);
}

#[test]
fn connections_above_the_limit_are_shed() {
    let resources = service("few", &[echo_bytes(b'f')], "appProtocol: tcp");
    let sidecar = Sidecar::start(&resources, |config| {
        config.listeners = vec![listener("few", Protocol::Auto)];
        config.max_connections = Some(2);
    });
    let mut kept: Vec<_> = (0..2).map(|_| sidecar.connect(0)).collect();
    for client in &mut kept {
        assert_eq!(ask(client).unwrap(), b'f');
    }
    assert!(ask(&mut sidecar.connect(0)).is_err());
    kept.pop();
    eventually("room for one more", || ask(&mut sidecar.connect(0)).is_ok());
}

#[test]
fn tls_passes_through_untouched_and_is_counted_as_such() {
    // A ClientHello in two records, which name `svc`, as far as detection reads it.
    let body =
        b"\x03\x03".iter().chain(&[9; 32]).chain(b"\0\0\x02\x13\x01\x01\0\0\x0c\0\0\0\x08\0\x06\0\0\x03svc");
    let body: Vec<u8> = body.copied().collect();
    let handshake = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = |part: &[u8]| [&[22, 3, 1, 0, part.len() as u8][..], part].concat();
    let hello = [record(&handshake[..20]), record(&handshake[20..])].concat();
    let resources = service("tls", &[echo_at_end("heard")], "");
    let sidecar =
        Sidecar::start(&resources, |config| config.listeners = vec![listener("tls", Protocol::Auto)]);
    let mut client = sidecar.connect(0);
    client.write_all(&hello).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [b"heard: ", &hello[..]].concat());
    eventually("it is counted as TLS", || {
        let metrics = sidecar.admin("GET", "/metrics");
        metrics.lines().any(|line| {
            line.starts_with("lighter_connections_total{")
                && line.contains("service=\"default/tls\"")
                && line.contains("protocol=\"tls\"")
                && line.ends_with(" 1")
        })
    });
}
