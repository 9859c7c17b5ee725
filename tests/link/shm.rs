//! Links that go over to memory which both sidecars share, and back. Each test reads at both ends which wire carried what.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Request;
use libtest_mimic::Trial;
use sha2::{Digest, Sha256};

use crate::links::World;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{self, http2, metrics, test, test_where, wait_until};
use crate::world::bodies_come_back;

/// As the demo breaks them.
#[path = "../../control/src/demo/rings.rs"]
mod rings;

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_hot_link_goes_over_to_shared_memory_by_itself", a_hot_link_goes_over),
        test("a_link_that_should_share_memory_does_from_the_beginning", from_the_beginning),
        test("a_policy_of_either_end_keeps_a_link_on_tcp", a_policy_forbids),
        test("a_ring_that_nobody_uses_is_given_up", an_idle_ring),
        test("an_operator_sends_links_back_to_tcp", an_operator_freezes),
        test("a_ring_that_is_killed_costs_no_request", killed_under_http),
        test("a_ring_that_is_killed_costs_no_call_in_http2", killed_under_grpc),
        test("a_ring_that_is_killed_costs_no_opaque_byte", killed_under_opaque),
        test_where("a_sidecar_on_another_host_declines_shared_memory", another_host),
    ]
}

/// A LinkPolicy for the whole mesh; `spec` is YAML on one line without its braces.
pub fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: LinkPolicy\nmetadata: {{name: links}}\nspec: {{{spec}}}\n"
    )
}

/// Bytes that went over a wire in both directions, as one sidecar counts them.
pub fn bytes(sidecar: &Sidecar, wire: &str) -> f64 {
    sidecar.metrics().sum("lighter_link_bytes_total", &[("wire", wire)])
}

/// Links on which a sidecar sends over shared memory.
pub fn on_shm(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_link_wire", &[("wire", "shm")])
}

impl World {
    /// Nothing was lost or cut on the way.
    pub fn is_whole(&self) {
        for sidecar in [&self.web, &self.reviews] {
            let metrics = sidecar.metrics();
            assert!(!metrics.has("lighter_link_faults_total", &[]), "{}", sidecar.program.said());
            assert_eq!(metrics.sum("lighter_link_resets_total", &[]), 0.0);
        }
    }

    pub fn goes_over(&self) {
        wait_until("both ends send over shared memory", || {
            on_shm(&self.web) == 1.0 && on_shm(&self.reviews) == 1.0
        });
    }
}

fn a_hot_link_goes_over() {
    let app = Upstream::echoing();
    let world = World::under("http", app.address, &policy("hotBytesPerSecond: 1000000"));
    let mut peer = Peer::connect(world.listen);
    let body = "x".repeat(100_000);
    let request = format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let began = Instant::now();
    let mut requests = 0;
    while bytes(&world.web, "shm") < 1e7 || bytes(&world.reviews, "shm") < 1e7 {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", world.web.program.said());
        for _ in 0..10 {
            let (head, answer) = peer.exchange(&request);
            assert_eq!((head.status(), answer), (200, Body::Whole(body.clone().into_bytes())));
            requests += 1;
        }
    }
    assert_eq!((world.streams(), world.links()), ((requests.into(), requests.into()), (1.0, 1.0)));
    for (sidecar, by) in [(&world.web, "this"), (&world.reviews, "peer")] {
        let metrics = sidecar.metrics();
        assert_eq!(metrics.sum("lighter_link_offers_total", &[("by", by)]), 1.0);
        assert_eq!(metrics.sum("lighter_link_switches_total", &[]), 2.0);
        assert_eq!(metrics.sum("lighter_link_fallbacks_total", &[]), 0.0);
        // It began on TCP, with the handshake at least.
        assert!(bytes(sidecar, "tcp") > 1000.0);
        let held = metrics.sum("lighter_link_ring_bytes", &[]);
        assert_eq!(held, 4096.0 + 2.0 * 262_144.0);
    }
    world.is_whole();
}

fn from_the_beginning() {
    let app = Upstream::echoing();
    let world = World::under("http", app.address, &policy("wires: {shm: should}, ringBytes: 65536"));
    bodies_come_back(world.listen);
    world.goes_over();
    bodies_come_back(world.listen);
    for sidecar in [&world.web, &world.reviews] {
        assert!(bytes(sidecar, "shm") > 1.5e7, "{}", bytes(sidecar, "shm"));
    }
    world.is_whole();
}

fn a_policy_forbids() {
    let app = Upstream::echoing();
    let (should, must_not) = (policy("wires: {shm: should}"), policy("wires: {shm: mustNot}"));
    for (caller, called, offers) in [(&must_not, &should, 0.0), (&should, &must_not, 1.0)] {
        let world = World::under_each("http", app.address, caller, called);
        bodies_come_back(world.listen);
        let metrics = world.web.metrics();
        assert_eq!(metrics.sum("lighter_link_offers_total", &[("by", "this")]), offers);
        let declined = [("by", "peer"), ("cause", "policy")];
        assert_eq!(metrics.sum("lighter_link_declines_total", &declined), offers);
        assert_eq!((bytes(&world.web, "shm"), bytes(&world.reviews, "shm")), (0.0, 0.0));
        world.is_whole();
    }
}

fn an_idle_ring() {
    let app = Upstream::echoing();
    let spec = "hotBytesPerSecond: 1000000, idleTimeout: 500ms, backOff: 10ms";
    let world = World::under("http", app.address, &policy(spec));
    for sidecar in [&world.web, &world.reviews] {
        assert_eq!(bytes(sidecar, "shm"), 0.0);
    }
    for round in 1..=2 {
        while bytes(&world.web, "shm") < 1e7 * f64::from(round) {
            bodies_come_back(world.listen);
        }
        wait_until("nobody holds a ring", || {
            [&world.web, &world.reviews].iter().all(|sidecar| {
                sidecar.metrics().sum("lighter_link_ring_bytes", &[]) == 0.0 && on_shm(sidecar) == 0.0
            })
        });
        assert_eq!(world.links(), (1.0, 1.0));
    }
    world.is_whole();
}

fn an_operator_freezes() {
    let app = Upstream::echoing();
    let spec = "wires: {shm: should}, ringBytes: 65536, backOff: 10ms";
    let world = World::under("http", app.address, &policy(spec));
    let transfer = {
        let listen = world.listen;
        std::thread::spawn(move || (0..5).for_each(|_| bodies_come_back(listen)))
    };
    let mut freezes = 0;
    while !transfer.is_finished() {
        world.goes_over();
        let sidecar = if freezes % 2 == 0 { &world.web } else { &world.reviews };
        assert_eq!(metrics::ask(sidecar.admin, "POST", "/links/freeze").0, 200);
        wait_until("it went back", || {
            world.web.metrics().sum("lighter_link_fallbacks_total", &[]) > f64::from(freezes)
        });
        freezes += 1;
    }
    transfer.join().unwrap();
    assert!(freezes > 1);
    assert_eq!(world.links(), (1.0, 1.0));
    world.is_whole();
}

/// Rings die at any moment, while bodies go there and back in HTTP/1, and bytes on an upgraded connection.
fn killed_under_http() {
    let app = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            if head.get("upgrade").is_some() {
                peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
                return peer.echo();
            }
            let Body::Whole(body) = peer.body(&head) else { return };
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).send(body);
        }
    });
    killed_under("http", app.address, &[post_comes_back, upgraded_comes_back]);
}

/// While calls go there and back in HTTP/2, many on one connection.
fn killed_under_grpc() {
    killed_under("grpc", http2::Upstream::echo().address, &[calls_come_back]);
}

/// While opaque bytes go there and back.
fn killed_under_opaque() {
    let app = Upstream::start(|peer, _| peer.echo());
    killed_under("tcp", app.address, &[opaque_comes_back, opaque_comes_back]);
}

/// Something that goes to a listener and comes back, made from a number. Returns how many bytes.
type Transfer = fn(SocketAddr, u8) -> usize;

fn killed_under(protocol: &str, app: SocketAddr, transfers: &[Transfer]) {
    let kills = if support::full() { 334.0 } else { 10.0 };
    let spec = "wires: {shm: should}, ringBytes: 65536, backOff: 1ms";
    let world = World::under(protocol, app, &policy(spec));
    let done = Arc::new(AtomicBool::new(false));
    let transfers: Vec<_> = transfers
        .iter()
        .zip(0u8..)
        .map(|(transfer, seed)| {
            let (transfer, listen, done) = (*transfer, world.listen, done.clone());
            std::thread::spawn(move || {
                let mut bytes = 0;
                while !done.load(Relaxed) {
                    bytes += transfer(listen, seed);
                }
                bytes
            })
        })
        .collect();
    let fell = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_link_fallbacks_total", &[]);
    let is_enough = || fell(&world.reviews) >= kills && bytes(&world.reviews, "shm") > 1e6;
    while !is_enough() && transfers.iter().all(|transfer| !transfer.is_finished()) {
        // At any moment, so that also one dies on which nobody is yet.
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..100)));
        rings::end_all(world.reviews.program.pid() as i32).unwrap();
    }
    done.store(true, Relaxed);
    let carried: usize = transfers.into_iter().map(|transfer| transfer.join().unwrap()).sum();
    for sidecar in [&world.web, &world.reviews] {
        let (shm, fell) = (bytes(sidecar, "shm"), fell(sidecar));
        let replayed = sidecar.metrics().sum("lighter_link_replayed_bytes_total", &[]);
        println!(
            "{protocol}: {carried} bytes there and back, {fell} rings killed, {shm} bytes over shared memory, {replayed} \
             once more over TCP"
        );
        assert!(shm > 1e6 && fell >= kills);
    }
    assert_eq!(world.links(), (1.0, 1.0));
    world.is_whole();
}

fn length() -> usize {
    if support::full() { 64 << 20 } else { 2 << 20 }
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at * 13 + at / 251) as u8 ^ seed).collect()
}

fn assert_same(back: &[u8], sent: &[u8]) {
    assert_eq!((back.len(), Sha256::digest(back)), (sent.len(), Sha256::digest(sent)));
}

/// A request and its answer.
fn post_comes_back(listen: SocketAddr, seed: u8) -> usize {
    let sent = pattern(length(), seed);
    let mut peer = Peer::connect(listen);
    peer.send(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n", sent.len()));
    let head = peer.send(&sent).expect_head();
    let Body::Whole(back) = peer.body(&head) else { panic!("it came back cut") };
    assert_same(&back, &sent);
    sent.len()
}

/// Bytes on a connection that began with HTTP, as those of a WebSocket.
fn upgraded_comes_back(listen: SocketAddr, seed: u8) -> usize {
    let mut peer = Peer::connect(listen);
    peer.send("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 101);
    bytes_come_back(peer, seed)
}

fn opaque_comes_back(listen: SocketAddr, seed: u8) -> usize {
    bytes_come_back(Peer::connect(listen), seed)
}

/// Sends and reads at the same time.
fn bytes_come_back(mut peer: Peer, seed: u8) -> usize {
    let sent = pattern(length(), seed);
    let mut writer = peer.another();
    let body = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.send(body);
        writer.finish();
    });
    let back = peer.rest();
    writing.join().unwrap();
    assert_same(&back, &sent);
    sent.len()
}

/// Calls in HTTP/2, eight at a time.
fn calls_come_back(listen: SocketAddr, seed: u8) -> usize {
    let sent = pattern(length() / 8, seed);
    http2::run(async {
        let client = http2::connect(listen).await;
        let call = async || {
            let request = Request::post("http://reviews/").header("content-type", "application/grpc");
            let answer = http2::exchange(&client, request.body(sent.clone()).unwrap()).await.unwrap();
            assert_eq!((answer.head.status.as_u16(), answer.cut), (200, None));
            assert!(answer.trailers.is_some());
            assert_same(&answer.body, &sent);
        };
        tokio::join!(call(), call(), call(), call(), call(), call(), call(), call());
    });
    8 * sent.len()
}

/// Two sidecars whose kernels were not started together have no memory in common.
fn another_host() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can make a sidecar believe that it is elsewhere".into());
    }
    let app = Upstream::echoing();
    let world = World::elsewhere("http", app.address, &policy("wires: {shm: should}"));
    for _ in 0..2 {
        bodies_come_back(world.listen);
    }
    let declined = [("by", "peer"), ("cause", "other_host")];
    let metrics = world.web.metrics();
    assert_eq!(metrics.sum("lighter_link_declines_total", &declined), 1.0);
    assert_eq!(metrics.sum("lighter_link_offers_total", &[("by", "this")]), 1.0, "an answer is remembered");
    assert_eq!((bytes(&world.web, "shm"), bytes(&world.reviews, "shm")), (0.0, 0.0));
    world.is_whole();
    Ok(())
}
