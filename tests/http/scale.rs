//! Much of everything, in little memory. `LIGHTER_FULL=1` asks for the full counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{at_rest, full, http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("scale::a_big_answer_grows_no_memory", big_answer),
        test("scale::a_big_request_grows_no_memory", big_request),
        test("scale::big_bodies_over_http_2_grow_no_memory", big_bodies_http_2),
        test("scale::streams_against_a_zero_window_grow_no_memory", zero_window),
        test("scale::streams_against_a_zero_window_grow_no_memory_over_http_2", zero_window_http_2),
        test("scale::idle_connections_cost_little_and_disturb_nobody", idle_connections),
    ]
}

const MIB: u64 = 1 << 20;

/// Memory may grow by this much, in KiB.
const MOST: u64 = 64 * 1024;

fn big() -> u64 {
    if full() { 1024 * MIB } else { 256 * MIB }
}

/// Watches resident memory while something runs, and gives the most it grew by in KiB.
struct Watch {
    stop: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watch {
    fn start(sidecar: &Sidecar) -> Self {
        let (pid, stop) = (sidecar.program.pid(), Arc::new(AtomicUsize::new(0)));
        let stopped = stop.clone();
        let before = crate::support::process::resident(pid);
        let thread = std::thread::spawn(move || {
            let mut most = before;
            while stopped.load(Ordering::Relaxed) == 0 {
                most = most.max(crate::support::process::resident(pid));
                std::thread::sleep(Duration::from_millis(5));
            }
            most - before
        });
        Watch { stop, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(1, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// An upstream that sends `length` bytes to whoever asks, and counts what it got rid of.
fn sending(length: u64) -> (Upstream, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let upstream = Upstream::start(move |mut peer, _| {
        while peer.head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            let block = vec![b'x'; 256 * 1024];
            peer.stream.set_write_timeout(None).unwrap();
            let mut left = length;
            while left > 0 {
                let most = left.min(block.len() as u64) as usize;
                let Ok(some) = peer.stream.write(&block[..most]) else { return };
                left -= some as u64;
                count.fetch_add(some as u64, Ordering::Relaxed);
            }
        }
    });
    (upstream, sent)
}

fn big_answer() {
    let (upstream, _) = sending(big());
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    let watch = Watch::start(&sidecar);
    client.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    assert_eq!(client.expect_head().status(), 200);
    assert_eq!(client.skip(big()), big());
    let grown = watch.end();
    assert!(grown < MOST, "memory grew by {grown} KiB");
}

fn big_request() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        let got = peer.skip(big());
        peer.send(format!("HTTP/1.1 200 OK\r\nX-Got: {got}\r\nContent-Length: 0\r\n\r\n"));
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    let watch = Watch::start(&sidecar);
    client.send(format!("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: {}\r\n\r\n", big()));
    let block = vec![b'x'; 1 << 20];
    for _ in 0..big() / MIB {
        client.send(&block);
    }
    assert_eq!(client.expect_head().get("x-got"), Some(big().to_string().as_str()));
    let grown = watch.end();
    assert!(grown < MOST, "memory grew by {grown} KiB");
}

fn big_bodies_http_2() {
    let length = big() / 4;
    let upstream = http2::Upstream::start(|request, mut respond| async move {
        let mut out = respond.send_response(http::Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(part)) = body.data().await {
            let mut part = part;
            let size = part.len();
            while !part.is_empty() {
                out.reserve_capacity(part.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return };
                let _ = out.send_data(part.split_to(room.min(part.len())), false);
            }
            let _ = body.flow_control().release_capacity(size);
        }
        let _ = out.send_data(bytes::Bytes::new(), true);
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http2");
    let watch = Watch::start(&sidecar);
    http2::run(async {
        let mut client = http2::connect(at).await.ready().await.unwrap();
        let (answer, mut out) =
            client.send_request(http::Request::post("http://up/").body(()).unwrap(), false).unwrap();
        let sender = tokio::task::spawn_local(async move {
            let block = bytes::Bytes::from(vec![b'x'; 16 * 1024]);
            for _ in 0..length / block.len() as u64 {
                let mut block = block.clone();
                while !block.is_empty() {
                    out.reserve_capacity(block.len());
                    let room = std::future::poll_fn(|cx| out.poll_capacity(cx)).await.unwrap().unwrap();
                    out.send_data(block.split_to(room.min(block.len())), false).unwrap();
                }
            }
            out.send_data(bytes::Bytes::new(), true).unwrap();
        });
        let mut body = answer.await.unwrap().into_body();
        let mut got = 0;
        while let Some(part) = body.data().await {
            let part = part.unwrap();
            got += part.len() as u64;
            body.flow_control().release_capacity(part.len()).unwrap();
        }
        assert_eq!(got, length);
        sender.await.unwrap();
    });
    let grown = watch.end();
    assert!(grown < MOST, "memory grew by {grown} KiB");
}

/// A hundred callers ask for 50 MB each and grant nothing.
fn against_a_zero_window(at: SocketAddr, sidecar: &Sidecar, sent: &AtomicU64) {
    let watch = Watch::start(sidecar);
    http2::run(async {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(0).initial_max_send_streams(100);
        let client = http2::connect_with(at, &builder).await;
        let mut answers = Vec::new();
        for _ in 0..100 {
            let mut client = client.clone().ready().await.unwrap();
            let request = http::Request::get("http://up/").body(()).unwrap();
            answers.push(client.send_request(request, true).unwrap().0);
        }
        let mut bodies = Vec::new();
        for answer in answers {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            bodies.push(answer.into_body());
        }
        // Until the upstream can get rid of no more.
        let mut last = u64::MAX;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = sent.load(Ordering::Relaxed);
            if now == last {
                break;
            }
            last = now;
        }
        assert!(last < 100 * 50_000_000, "the writers were stopped");
    });
    let grown = watch.end();
    assert!(grown < MOST, "memory grew by {grown} KiB");
}

fn zero_window() {
    let (upstream, sent) = sending(50_000_000);
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    against_a_zero_window(at, &sidecar, &sent);
}

fn zero_window_http_2() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1000);
    let upstream = http2::Upstream::start_with(builder, move |_, mut respond| {
        let count = count.clone();
        async move {
            let mut out = respond.send_response(http::Response::new(()), false).unwrap();
            let mut left = 50_000_000;
            while left > 0 {
                out.reserve_capacity(left.min(16 * 1024));
                let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return };
                let some = room.min(left);
                left -= some;
                let _ = out.send_data(vec![b'x'; some].into(), left == 0);
                count.fetch_add(some as u64, Ordering::Relaxed);
            }
        }
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http2");
    against_a_zero_window(at, &sidecar, &sent);
}

fn idle_connections() {
    let upstream = Upstream::answering("hello");
    // By itself a sidecar keeps a second descriptor for each connection's upstream; these share a few.
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", "maxConnections: 12000\n");
    let count = if full() { 10_000 } else { 4_000 };
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: up\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let mut part = [0; 512];
            let got = stream.read(&mut part).unwrap();
            assert!(got > 0, "an idle connection was closed");
            answer.extend_from_slice(&part[..got]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    };
    // What the first requests cost is not what a connection costs.
    let mut first = TcpStream::connect(at).unwrap();
    (0..100).for_each(|_| ask(&mut first));
    let before = sidecar.program.resident();
    let mut idle = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(at).unwrap();
        ask(&mut stream);
        idle.push(stream);
    }
    let each = at_rest(Duration::from_millis(200), || sidecar.program.resident()).saturating_sub(before)
        as f64
        / count as f64;
    println!("{count} idle connections cost {each:.2} KiB each");
    // Without optimizations what a connection keeps between requests is larger.
    let most = if cfg!(debug_assertions) { 8.0 } else { 2.0 };
    assert!(each <= most, "an idle connection costs {each:.2} KiB");
    (0..1000).for_each(|_| ask(&mut first));
    // They are all alive.
    idle.iter_mut().step_by(97).for_each(ask);
    drop(idle);
    wait_until("they are all let go", || sidecar.metrics().sum("process_open_fds", &[]) < 200.0);
}
