//! A sidecar that runs short of memory or of descriptors.

use std::net::TcpStream;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::process::cpu;
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::{Sidecar, policy, service};
use crate::support::{at_rest, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("guard::without_descriptors_the_sidecar_waits_and_recovers", descriptors),
        test("guard::close_to_the_limit_what_rests_is_closed", resting),
        test("guard::short_of_memory_what_matters_less_is_refused", memory),
        test("guard::at_the_limit_of_memory_everything_is_refused", full),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";

/// A sidecar that may have so many descriptors, and where callers reach it.
fn limited(descriptors: u32, upstream: &Upstream, own: &str) -> (Sidecar, std::net::SocketAddr) {
    let listen = crate::support::process::free_address();
    // The hard limit as well: the soft one is raised at the start.
    let wrap = ["sh", "-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")];
    let own = format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\nworkers: 1\n{own}");
    (Sidecar::start_in(&wrap, &service("up", "http", &[upstream.address]), &own), listen)
}

fn shed(sidecar: &Sidecar, cause: &str) -> f64 {
    sidecar.metrics().sum("lighter_worker_connections_shed_total", &[("cause", cause)])
}

fn descriptors() {
    let upstream = Upstream::answering("there");
    // More connections are asked for than there can be descriptors.
    let (sidecar, at) = limited(64, &upstream, "maxConnections: 1000\nguard: {refusePercent: 95}\n");
    assert_eq!(sidecar.metrics().sum("process_max_fds", &[]), 64.0);
    // Who is refused may see it as soon as he connects.
    let mut crowd: Vec<TcpStream> = (0..100).filter_map(|_| TcpStream::connect(at).ok()).collect();
    wait_until("some are refused", || shed(&sidecar, "descriptors") >= 3.0);
    assert_eq!(shed(&sidecar, "connections"), 0.0);
    assert!(sidecar.metrics().sum("process_open_fds", &[]) <= 64.0);
    // It waits, and does not spin.
    let before = cpu(sidecar.program.pid());
    std::thread::sleep(Duration::from_millis(500));
    let spent = cpu(sidecar.program.pid()) - before;
    assert!(spent < Duration::from_millis(250), "{spent:?} in half a second");
    crowd.clear();
    wait_until("it has room again", || {
        sidecar.metrics().sum("lighter_guard_level", &[("of", "descriptors")]) == 0.0
    });
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    // With the limit on connections as it is by default, descriptors never run out.
    let (sidecar, at) = limited(64, &upstream, "");
    let crowd: Vec<TcpStream> = (0..60).filter_map(|_| TcpStream::connect(at).ok()).collect();
    wait_until("some are refused", || shed(&sidecar, "connections") >= 1.0);
    assert_eq!(shed(&sidecar, "descriptors"), 0.0);
    drop(crowd);
}

fn resting() {
    let upstream = Upstream::answering("there");
    // How many it has without clients differs from machine to machine, some twenty: half of them all is passed by far.
    let (sidecar, at) = limited(100, &upstream, "maxConnections: 1000\nguard: {shrinkPercent: 50}\n");
    // Each leaves a connection to the service behind, and rests itself.
    let mut clients: Vec<Peer> = Vec::new();
    for _ in 0..36 {
        let mut client = Peer::connect(at);
        if client.try_send(GET) && client.head().is_some_and(|head| head.status() == 200) {
            clients.push(client);
        }
    }
    let closed = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_guard_clients_closed_total", &[]);
    let pressed = |sidecar: &Sidecar| {
        sidecar.metrics().sum("lighter_pool_connections_closed_total", &[("reason", "pressed")])
    };
    // One after the other, they share one connection to the service: clients alone come close to the limit.
    wait_until("some are closed", || closed(&sidecar) >= 1.0 && pressed(&sidecar) >= 1.0);
    assert_eq!(shed(&sidecar, "descriptors"), 0.0, "before anybody is refused");
    at_rest(Duration::from_millis(400), || closed(&sidecar));
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    // Where there is room for all of them, nothing is closed.
    let (sidecar, at) = limited(1000, &upstream, "maxConnections: 1000\nguard: {shrinkPercent: 50}\n");
    let mut clients: Vec<Peer> = (0..36).map(|_| Peer::connect(at)).collect();
    for client in &mut clients {
        assert_eq!(client.exchange(GET).0.status(), 200);
    }
    assert_eq!((closed(&sidecar), pressed(&sidecar)), (0.0, 0.0));
}

/// Two routes, of which one goes first, before a service that answers more than sockets take.
fn mesh(upstream: &Upstream) -> String {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: up}\nspec:\n  \
         parentRefs: [{kind: Service, group: '', name: up}]\n  rules:\n  \
         - {name: first, matches: [{path: {value: /first}}], backendRefs: [{name: up, port: 80}]}\n  \
         - {name: rest, backendRefs: [{name: up, port: 80}]}\n";
    let first = "apiVersion: mesh.lighter.dev/v1\nkind: TrafficPolicy\nmetadata: {name: first}\nspec: {targetRefs: \
         [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: up, sectionName: first}], priority: High}\n";
    let keep = policy("up", "maxIdleConnections: 1000");
    [service("up", "http", &[upstream.address]), route.to_owned(), first.to_owned(), keep].join("---\n")
}

fn memory() {
    let upstream = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            if head.target() != "/large" {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
                continue;
            }
            // In chunks, of which each passes through a buffer.
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
            while peer.try_send(&chunk) {}
        }
    });
    let listen = crate::support::process::free_address();
    let own = |guard: &str| {
        format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\nworkers: 1\n{guard}")
    };
    // What it has at rest is not known beforehand.
    let at_rest = Sidecar::start(&mesh(&upstream), &own("")).program.held() * 1024;
    // The limit itself is far from where requests are refused: a busy machine may look late.
    let most = at_rest + (24 << 20);
    let guard = format!("guard: {{maxMemoryBytes: {most}, shrinkPercent: 35, refusePercent: 40}}\n");
    let sidecar = Sidecar::start(&mesh(&upstream), &own(&guard));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: up\r\n\r\n");
    let level = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_guard_level", &[("of", "memory")]);
    let mut kept = Peer::connect(listen);
    assert_eq!(kept.exchange(get("/")).0.status(), 200);
    assert_eq!(sidecar.metrics().sum("lighter_guard_memory_limit_bytes", &[]), most as f64);
    // Answers that nobody takes, each with a buffer.
    let mut readers = Vec::new();
    while level(&sidecar) < 2.0 {
        for _ in 0..8 {
            let mut reader = Peer::connect(listen);
            reader.send(get("/large"));
            readers.push(reader);
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(readers.len() < 400, "{} bytes are held", sidecar.program.held() * 1024);
    }
    let (head, _) = Peer::connect(listen).exchange(get("/"));
    assert_eq!((head.status(), head.cause()), (503, Some("memory_limit")));
    assert!(sidecar.metrics().sum("lighter_requests_total", &[("cause", "memory_limit")]) >= 1.0);
    // What goes first still goes, but its connection is not kept.
    let (head, _) = Peer::connect(listen).exchange(get("/first"));
    assert_eq!((head.status(), head.get("connection")), (200, Some("close")));
    // Who rested was let go to make room.
    assert!(kept.head().is_none());
    drop(readers);
    wait_until("there is enough again", || level(&sidecar) == 0.0);
    assert_eq!(Peer::connect(listen).exchange(get("/")).0.status(), 200);
}

fn full() {
    let upstream = Upstream::answering("there");
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", "guard: {maxMemoryBytes: 4096}\n");
    wait_until("it is refused", || {
        // It may be reset before whoever connects has noticed that it is there.
        if let Ok(stream) = TcpStream::connect(at) {
            Peer::over(stream).try_send(GET);
        }
        shed(&sidecar, "memory") >= 1.0
    });
    assert_eq!(upstream.received(), "");
    // No limit at all.
    let (sidecar, at) = Sidecar::before_with(upstream.address, "http", "", "guard: {maxMemoryBytes: 0}\n");
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    assert!(!sidecar.metrics().has("lighter_guard_memory_limit_bytes", &[]));
}
