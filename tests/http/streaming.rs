//! Bodies move as they come, both ways at once, and a slow reader slows the writer.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{at_rest, http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("streaming::each_part_passes_before_the_next_is_sent", each_part_passes),
        test("streaming::both_directions_run_at_once", both_directions),
        test("streaming::http_2_parts_pass_before_the_next_is_sent", http_2_parts),
        test("streaming::a_reader_that_stops_stops_the_writer", backpressure_answer),
        test("streaming::a_service_that_stops_reading_stops_the_caller", backpressure_request),
        test("streaming::a_caller_that_goes_is_told_to_the_service", abort_is_passed_on),
    ]
}

fn each_part_passes() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Every part of the answer waits for a part of the request.
        for _ in 0..5 {
            peer.line();
            let part = peer.bytes(4);
            peer.line();
            peer.send("4\r\n").send(&part).send("\r\n");
        }
        peer.send("0\r\n\r\n");
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n");
    for number in 0..5 {
        client.send(format!("4\r\nno {number}\r\n"));
        if number == 0 {
            assert_eq!(client.expect_head().status(), 200);
        }
        assert_eq!(client.line().as_deref(), Some("4"));
        assert_eq!(client.bytes(6), format!("no {number}\r\n").as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.line().as_deref(), Some("0"));
}

fn both_directions() {
    const LENGTH: usize = 4 << 20;
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
        // An echo of more than any buffer between holds: it deadlocks where one direction waits for the other.
        let mut sent = 0;
        while sent < LENGTH {
            let part = peer.bytes((LENGTH - sent).min(64 * 1024));
            assert!(!part.is_empty());
            peer.send(&part);
            sent += part.len();
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send(format!("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for part in 0..LENGTH / 65536 {
            writer.write_all(&[part as u8; 65536]).unwrap();
        }
    });
    assert_eq!(client.expect_head().status(), 200);
    for part in 0..LENGTH / 65536 {
        assert!(client.bytes(65536).iter().all(|byte| *byte == part as u8), "part {part} came as it was");
    }
    sender.join().unwrap();
}

fn http_2_parts() {
    for protocol in ["http2", "http"] {
        let plain = Upstream::start(|mut peer, _| {
            peer.head();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while let Some(size) = peer.line() {
                let part = peer.bytes(usize::from_str_radix(&size, 16).unwrap());
                peer.line();
                if part.is_empty() {
                    peer.send("0\r\n\r\n");
                    return;
                }
                peer.send(format!("{size}\r\n")).send(&part).send("\r\n");
            }
        });
        let multiplexed = http2::Upstream::start(|request, mut respond| async move {
            let mut out = respond.send_response(http::Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while let Some(Ok(part)) = body.data().await {
                body.flow_control().release_capacity(part.len()).unwrap();
                out.send_data(part, false).unwrap();
            }
            // The client has what it wants after the fifth part, and may have left by now.
            let _ = out.send_data(bytes::Bytes::new(), true);
        });
        let upstream = if protocol == "http" { plain.address } else { multiplexed.address };
        let (_sidecar, at) = Sidecar::before(upstream, protocol);
        http2::run(async {
            let mut client = http2::connect(at).await.ready().await.unwrap();
            let request = http::Request::post("http://up/").body(()).unwrap();
            let (answer, mut out) = client.send_request(request, false).unwrap();
            out.send_data("part 0".into(), false).unwrap();
            let mut body = answer.await.unwrap().into_body();
            for number in 0..5 {
                let mut got = Vec::new();
                while got.len() < 6 {
                    got.extend_from_slice(&body.data().await.unwrap().unwrap());
                }
                assert_eq!(got, format!("part {number}").as_bytes(), "{protocol}");
                out.send_data(format!("part {}", number + 1).into(), number == 4).unwrap();
            }
        });
    }
}

fn backpressure_answer() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let upstream = Upstream::start(move |mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while peer.stream.write_all(&[0; 65536]).is_ok() {
            count.fetch_add(65536, Ordering::Relaxed);
        }
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let before = sidecar.program.held();
    let mut client = Peer::connect(at);
    client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    client.expect_head();
    let stopped = at_rest(Duration::from_millis(500), || sent.load(Ordering::Relaxed));
    assert!(stopped < 64 << 20, "the writer was stopped after {stopped} bytes");
    let grown = sidecar.program.held().saturating_sub(before);
    assert!(grown < 4 * 1024, "a stopped stream holds {grown} KiB");
}

fn backpressure_request() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        // Reads nothing more, and keeps the connection.
        std::thread::park();
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let before = sidecar.program.held();
    let mut client = Peer::connect(at);
    client.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 1000000000\r\n\r\n");
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    while sent < 64 << 20 && client.try_send([0; 65536]) {
        sent += 65536;
    }
    assert!(sent < 64 << 20, "the caller was stopped");
    let grown = sidecar.program.held().saturating_sub(before);
    assert!(grown < 4 * 1024, "a stopped stream holds {grown} KiB");
}

fn abort_is_passed_on() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let upstream = Upstream::start(move |mut peer, _| {
        peer.head();
        // No answer: only the end of the connection ends this.
        peer.rest();
        let _ = tell.lock().unwrap().send(());
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    wait_until("the request is through", || upstream.received().contains("GET / "));
    drop(client);
    told.recv_timeout(crate::support::PATIENCE).expect("the service's connection ends");
    wait_until("it is counted", || {
        sidecar.metrics().sum("lighter_requests_total", &[("cause", "downstream_aborted")]) == 1.0
    });
}
