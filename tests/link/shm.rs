//! Links that go over to memory which both sidecars share, and back. Each test reads at both ends which wire carried what.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::links::World;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, metrics, test, test_where, wait_until};
use crate::world::bodies_come_back;

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_hot_link_goes_over_to_shared_memory_by_itself", a_hot_link_goes_over),
        test("a_link_that_should_share_memory_does_from_the_beginning", from_the_beginning),
        test("a_policy_of_either_end_keeps_a_link_on_tcp", a_policy_forbids),
        test("a_ring_that_nobody_uses_is_given_up", an_idle_ring),
        test("an_operator_sends_links_back_to_tcp", an_operator_freezes),
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
            assert_eq!(self.resets(sidecar), 0.0);
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
    let mut requests = 0;
    // While it carries less, for longer than it takes to see how much that is, nobody asks for a wire.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let (head, answer) =
            peer.exchange("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 4\r\n\r\ncold");
        assert_eq!((head.status(), answer), (200, Body::Whole(b"cold".into())));
        requests += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    for sidecar in [&world.web, &world.reviews] {
        assert_eq!(sidecar.metrics().sum("lighter_link_offers_total", &[]), 0.0);
        assert_eq!(bytes(sidecar, "shm"), 0.0);
    }
    let body = "x".repeat(100_000);
    let request = format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let began = Instant::now();
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
        assert_eq!(held, 4096.0 + 2.0 * 1_048_576.0);
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
        assert_eq!(sidecar.metrics().sum("lighter_link_ring_bytes", &[]), 4096.0 + 2.0 * 65_536.0);
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
        let used = Instant::now();
        wait_until("nobody holds a ring", || {
            assert!(used.elapsed() < PATIENCE / 2, "it is held for as long as where a policy says nothing");
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
