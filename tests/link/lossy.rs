//! Links over a network that loses packets. `LIGHTER_FULL=1` also prints how long small requests take there beside a bulk
//! transfer, over links of either kind.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::apart::{Apart, Network};
use crate::quic::Done;
use crate::support::loss::Loss;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::{at_rest, full, namespace, wait_until};

pub fn tests() -> Vec<Trial> {
    let mut tests =
        vec![namespace::test("links_go_over_quic_while_the_network_loses_packets", while_packets_are_lost)];
    if full() {
        tests.push(namespace::test(
            "small_requests_beside_a_bulk_transfer_where_packets_are_lost",
            beside_bulk,
        ));
    }
    tests
}

const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

fn while_packets_are_lost() {
    for one_in in if full() { &[20, 100][..] } else { &[20] } {
        there_and_back(*one_in);
    }
}

fn there_and_back(one_in: u32) {
    let network = Network::new();
    let app = network.at_called(|| Upstream::answering("served"));
    let apart = Apart::before(&network, "http", app.address, "wires: {shm: mustNot}, quicCalm: 1s");
    assert_eq!(apart.calm(), 1.0);
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        network.at_caller(|| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut peer = Peer::connect(apart.listen);
                    // Some packets each: where few are sent, few are lost.
                    let post = format!(
                        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5000\r\n\r\n{:5000}",
                        "x"
                    );
                    while !done.load(Relaxed) {
                        let (head, body) = peer.exchange(&post);
                        assert_eq!((head.status(), body), (200, Body::Whole(b"served".into())));
                        answered.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        // Nothing else is to happen where one of these fails.
        let _done = Done(&done);
        wait_until("requests are answered", || answered.load(Relaxed) >= 500);
        assert_eq!((apart.switches("loss"), apart.over_quic()), (0.0, [0.0; 2]));

        let mut losses = network.loses(one_in);
        wait_until("requests go over QUIC", || {
            apart.switches("loss") >= 1.0 && apart.over_quic().iter().all(|streams| *streams >= 50.0)
        });
        wait_until("both ways lost some", || losses.iter_mut().all(|loss| loss.counted().1 >= 3));
        let counted = losses.each_mut().map(Loss::counted);
        println!("one in {one_in} was to be lost; of those that came at each end: {counted:?}");
        for (came, lost) in counted {
            assert!(lost > 0 && lost * u64::from(one_in) < 4 * came, "{lost} of {came}");
        }
        drop(losses);

        wait_until("requests go by TCP again", || apart.switches("calm") >= 1.0);
        let over_tcp = || apart.over_any()[1] - apart.over_quic()[1];
        let before = over_tcp();
        wait_until("many of them did", || over_tcp() >= before + 50.0);
    });
    let streams = at_rest(Duration::from_millis(100), || (apart.over_any(), apart.over_quic()));
    let answered = answered.into_inner() as f64;
    assert_eq!(streams.0, [answered; 2], "a stream each");
    assert_eq!(streams.1[0], streams.1[1]);
    for (metrics, direction) in apart.metrics().iter().zip(["outbound", "inbound"]) {
        let well = [("direction", direction), ("code_class", "2xx")];
        assert_eq!(metrics.sum("lighter_requests_total", &well), answered);
        assert_eq!(metrics.sum("lighter_requests_total", &well[..1]), answered, "none failed");
    }
    assert!(apart.metrics()[0].sum("lighter_quic_lost_packets_total", &[]) > 0.0);
    apart.is_whole();
}

/// Prints how long small requests take, and how much a bulk transfer beside them gets through.
fn beside_bulk() {
    // What TCP does by itself on this machine, and what any machine has.
    let own = std::fs::read_to_string(TCP_CONGESTION).unwrap();
    println!("| lost | link | p50 | p99 | small requests | bulk |");
    for one_in in [None, Some(100), Some(20)] {
        for (link, congestion) in [("tcp", own.trim()), ("tcp", "reno"), ("quic", "cubic"), ("quic", "bbr")] {
            let network = Network::new();
            let app = network.at_called(|| Upstream::start(|peer, _| answer(peer)));
            let spec = if link == "tcp" {
                let set = || std::fs::write(TCP_CONGESTION, congestion).unwrap();
                network.at_caller(set);
                network.at_called(set);
                "wires: {shm: mustNot, quic: mustNot}".to_owned()
            } else {
                format!("wires: {{shm: mustNot, quic: should}}, congestion: {congestion}")
            };
            let apart = Apart::before(&network, "http", app.address, &spec);
            network.at_caller(|| {
                let mut peer = Peer::connect(apart.listen);
                wait_until("requests go by that link", || {
                    assert_eq!(peer.exchange(GET).0.status(), 200);
                    link == "tcp" || apart.over_quic()[1] > 0.0
                });
            });
            let losses = one_in.map(|one_in| network.loses(one_in));
            let (mut times, bulk) = network.at_caller(|| measure(apart.listen));
            let over_quic = apart.over_quic()[1];
            assert_eq!(
                over_quic > times.len() as f64 / 2.0,
                link == "quic",
                "{over_quic} of {}",
                times.len()
            );
            drop(losses);
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
            let lost = one_in.map_or("none".into(), |one_in| format!("{} %", 100 / one_in));
            let (count, bulk) = (times.len(), bulk as f64 / f64::from(1 << 20) / SPAN.as_secs_f64());
            println!(
                "| {lost} | {link}, {congestion} | {:.1} ms | {:.1} ms | {count} | {bulk:.0} MiB/s |",
                at(50),
                at(99)
            );
        }
    }
}

/// How long each of the small requests took that one caller sent in [`SPAN`], one behind the other, and how many bytes
/// came in answers to another caller meanwhile.
fn measure(listen: SocketAddr) -> (Vec<Duration>, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            let (mut peer, mut bytes) = (Peer::connect(listen), 0);
            while !done.load(Relaxed) {
                peer.send("GET /bulk HTTP/1.1\r\nHost: reviews\r\n\r\n");
                assert_eq!(peer.expect_head().status(), 200);
                let mut left = BULK;
                while left > 0 && !done.load(Relaxed) {
                    assert_eq!(peer.skip(PART), PART);
                    (left, bytes) = (left - PART, bytes + PART);
                }
            }
            bytes
        });
        let _done = Done(&done);
        let (mut peer, mut times, began) = (Peer::connect(listen), Vec::new(), Instant::now());
        while began.elapsed() < SPAN {
            let asked = Instant::now();
            assert_eq!(peer.exchange(GET).0.status(), 200);
            times.push(asked.elapsed());
        }
        done.store(true, Relaxed);
        (times, bulk.join().unwrap())
    })
}

/// Answers with much or with little.
fn answer(mut peer: Peer) {
    let part = vec![b'x'; PART as usize];
    while let Some(head) = peer.head() {
        let bytes = if head.target() == "/bulk" { BULK } else { 100 };
        let mut left = bytes;
        if !peer.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")) {
            return;
        }
        while left > 0 {
            let next = left.min(PART);
            if !peer.try_send(&part[..next as usize]) {
                return;
            }
            left -= next;
        }
    }
}

/// How long it is measured.
const SPAN: Duration = Duration::from_secs(10);

/// Bytes of a bulk answer, and of a part of it.
const BULK: u64 = 1 << 30;
const PART: u64 = 1 << 16;

/// Of a network namespace: what new connections find out by how much they may send.
const TCP_CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
