//! Rings that die at any moment under everything that links carry. Each test reads at both ends what the rings carried.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::links::World;
use crate::shm::policy;
use crate::support::metrics::Metrics;
use crate::support::process::{Program, free_address, python};
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{self, echoed, http2, test, test_where, wait_until};
use crate::world::{REVIEWS, Root, WEB};

/// As the demo breaks them.
#[path = "../../control/src/demo/rings.rs"]
pub mod rings;

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_ring_that_is_killed_costs_no_request", killed_under_http),
        test("a_ring_that_is_killed_costs_no_call_in_http2", killed_under_http2),
        test("a_ring_that_is_killed_costs_no_opaque_byte", killed_under_opaque),
        test_where("a_ring_that_is_killed_costs_nothing_of_all_that_shares_it", killed_under_all),
        test_where("a_link_over_quic_carries_all_that_shares_it", all_over_quic),
    ]
}

/// So many bytes go over rings each way, at least.
const LEAST: f64 = 1e6;

const SHOULD: &str = "wires: {shm: should}, ringBytes: 65536, backOff: 1ms";

/// While bodies go there and back in HTTP/1, and bytes on an upgraded connection.
fn killed_under_http() {
    let app = Upstream::start(|peer, _| serve_http(peer.another(), &|_| {}));
    killed_under("http", app.address, &[post_comes_back, upgraded_comes_back]);
}

/// While calls go there and back in HTTP/2, many on one connection.
fn killed_under_http2() {
    killed_under("grpc", http2::Upstream::echo().address, &[calls_come_back]);
}

/// While opaque bytes go there and back.
fn killed_under_opaque() {
    let app = Upstream::start(|peer, _| peer.echo());
    killed_under("tcp", app.address, &[opaque_comes_back, opaque_comes_back]);
}

fn killed_under(protocol: &str, app: SocketAddr, transfers: &[Transfer]) {
    let world = World::under(protocol, app, &policy(SHOULD));
    let transfers = Transfers::start(transfers.iter().map(|transfer| (*transfer, world.listen)));
    kill(&world, if support::full() { 334 } else { 10 }, LEAST, || {
        assert!(transfers.are_going_on());
        true
    });
    let carried: usize = transfers.end().into_iter().map(|(_, bytes)| bytes).sum();
    println!("{protocol}: {carried} bytes there and back");
    world.is_accounted_for(LEAST);
}

/// While all of that goes over one link.
fn killed_under_all() -> Result<(), String> {
    let (kills, least) = if support::full() { (1000, 2.5e8) } else { (10, LEAST) };
    let world = under_all(&policy(SHOULD), |world, is_enough| {
        println!("{} rings killed under:", kill(world, kills, least, is_enough));
    })?;
    world.is_accounted_for(least);
    Ok(())
}

/// The same without rings, where it begins over TCP and goes on over QUIC.
fn all_over_quic() -> Result<(), String> {
    let world = under_all(&policy("wires: {quic: should}"), |world, is_enough| {
        wait_until("it went over QUIC", || {
            std::thread::sleep(Duration::from_millis(50));
            let came = |sidecar: &Sidecar| over(sidecar, "quic", "received") > LEAST;
            is_enough() && came(&world.web) && came(&world.reviews)
        });
    })?;
    let world = World { wire: "quic", ..world };
    let (opened, accepted) = world.streams();
    // A stream that is opened in a moment in which nobody reads gets a link of its own.
    let links = world.links();
    assert!(opened == accepted && links.0 == links.1 && links.0 >= 1.0, "{opened} {accepted} {links:?}");
    world.is_whole();
    Ok(())
}

/// Everything at once over one link under a `policy`: requests, opaque bytes, upgraded connections, and streams of gRPC and
/// WebSockets of programs that know nothing of Lighter. It goes on until `go_on` is done, to which is told whether all have
/// begun.
fn under_all(policy: &str, go_on: impl FnOnce(&World, &mut dyn FnMut() -> bool)) -> Result<World, String> {
    let python = python("grpc, websockets")?;
    let folder = tempfile::tempdir().unwrap();
    let program = |script: &str, arguments: &[&str]| program(&folder, &python, script, arguments);
    let posts = Arc::new(Mutex::new(Vec::new()));
    let known = posts.clone();
    let http = Upstream::start(move |peer, _| {
        serve_http(peer.another(), &|path| known.lock().unwrap().push(path.to_owned()));
    });
    let opaque = Upstream::start(|peer, _| peer.echo());
    let servers = ["grpc_streams.py", "websocket_streams.py"].map(|script| {
        let address = free_address();
        let mut server = program(script, &["serve", &address.port().to_string()]);
        server.wait_until_it_says("ready");
        (server, address)
    });
    let [(_, grpc), (_, websockets)] = &servers;
    let ports = [("http", http.address), ("tcp", opaque.address), ("grpc", *grpc), ("http", *websockets)];
    let (world, [http, opaque_bytes, grpc, websockets]) = of_ports(ports, policy);
    let size = length().to_string();
    let call = |script, listen: SocketAddr| program(script, &["call", &listen.to_string(), &size]);
    let mut clients = [call("grpc_streams.py", grpc), call("websocket_streams.py", websockets)];
    let transfers = Transfers::start([
        (post_comes_back as Transfer, http),
        (post_comes_back, http),
        (upgraded_comes_back, http),
        (opaque_comes_back, opaque_bytes),
    ]);
    go_on(&world, &mut || {
        let said = clients.each_mut().map(|client| {
            assert!(!client.has_ended(), "{}", client.said());
            !client.said().is_empty()
        });
        assert!(transfers.are_going_on());
        said.into_iter().all(|said| said)
    });
    // What has begun is to end well.
    let done = transfers.end();
    let streams = clients.each_mut().map(|client| {
        client.signal(Signal::TERM);
        assert!(client.wait().success(), "{}", client.said());
        client.said().lines().last().unwrap().to_owned()
    });
    let [first, second, upgraded, opaque_transfers] = done[..] else { unreachable!() };
    let mut came = std::mem::take(&mut *posts.lock().unwrap());
    came.sort_unstable();
    let mut sent: Vec<String> = [first.0, second.0]
        .into_iter()
        .zip(0..)
        .flat_map(|(count, seed)| (0..count).map(move |number| format!("/{seed}/{number}")))
        .collect();
    sent.sort_unstable();
    assert_eq!(came, sent, "each request came once");
    assert_eq!(opaque.connections(), opaque_transfers.0, "each connection came once");
    println!(
        "{} requests and answers of {size} bytes, {} upgraded connections and {} opaque ones \
         of as many, gRPC {}, WebSocket {}",
        sent.len(),
        upgraded.0,
        opaque_transfers.0,
        streams[0],
        streams[1],
    );
    Ok(world)
}

/// Ends live rings until so many have failed in use by that, `least` bytes came over them each way, some went out once more
/// because they were on their way when a ring ended, and `is_enough`. Returns how many failed.
fn kill(world: &World, kills: usize, least: f64, mut is_enough: impl FnMut() -> bool) -> usize {
    let began = Instant::now();
    let limit = Duration::from_secs(if support::full() { 3600 } else { 300 });
    let (mut ended, mut seen) = (0, Seen::default());
    while !is_enough() || seen.failed < kills || seen.came <= least || seen.again == 0.0 {
        assert!(began.elapsed() < limit, "{ended} rings were ended: {seen:?}");
        // At any moment, so that also one dies on which nobody is yet. Once enough have, those that are left may carry more.
        let longest = if seen.failed < kills { 100 } else { 1000 };
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..longest)));
        ended += rings::end_all(world.reviews.program.pid() as i32).unwrap();
        seen = Seen::at(world);
        assert!(seen.failed <= ended, "of rings of which {ended} were ended, more failed: {seen:?}");
    }
    println!("{ended} rings were ended: {seen:?}");
    seen.failed
}

/// What the sidecars say of rings that were ended.
#[derive(Debug, Default)]
struct Seen {
    /// Rings in use that were given up because their wire had failed, at least.
    failed: usize,
    /// Bytes that came over rings to the one to which fewer came.
    came: f64,
    /// Bytes that went into rings, and then out once more over TCP.
    again: f64,
}

impl Seen {
    fn at(world: &World) -> Self {
        // What the caller's sidecar says is taken away from what the other says, and may only grow: it is asked last.
        let [reviews, web] = [&world.reviews, &world.web].map(Sidecar::metrics);
        // One end finds that a wire has failed, and the other may hear it from that one before it does. So these are all that
        // were given up but for those for which either had another reason, or which failed before they were in use.
        let otherwise = |metrics: &Metrics| {
            let of = |cause| metrics.sum("lighter_link_fallbacks_total", &[("cause", cause)]);
            metrics.sum("lighter_link_fallbacks_total", &[]) - of("fault") - of("peer")
                + metrics.sum("lighter_link_attach_failures_total", &[])
        };
        let given_up = reviews.sum("lighter_link_fallbacks_total", &[]);
        let came = [("wire", "shm"), ("direction", "received")];
        let [came, again] =
            [("lighter_link_bytes_total", &came[..]), ("lighter_link_replayed_bytes_total", &[])]
                .map(|(name, labels)| [&web, &reviews].map(|metrics| metrics.sum(name, labels)));
        Seen {
            failed: (given_up - otherwise(&web) - otherwise(&reviews)).max(0.0) as usize,
            came: came[0].min(came[1]),
            again: again[0] + again[1],
        }
    }
}

/// Bytes that went over rings, as one sidecar counts them.
fn over_rings(sidecar: &Sidecar, direction: &str) -> f64 {
    over(sidecar, "shm", direction)
}

fn over(sidecar: &Sidecar, wire: &str, direction: &str) -> f64 {
    sidecar.metrics().sum("lighter_link_bytes_total", &[("wire", wire), ("direction", direction)])
}

impl World {
    /// At rest: no link went over to QUIC, nothing was lost or cut, and every byte that went into a ring came out of it at the other end, or
    /// went out once more.
    fn is_accounted_for(&self, least: f64) {
        let replayed = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_link_replayed_bytes_total", &[]);
        for (from, to) in [(&self.web, &self.reviews), (&self.reviews, &self.web)] {
            wait_until("all that went into rings came out", || {
                over_rings(from, "sent") - replayed(from) == over_rings(to, "received")
            });
            let (sent, came, again) = (over_rings(from, "sent"), over_rings(to, "received"), replayed(from));
            println!("{sent} bytes into rings and {came} out of them, {again} once more over TCP");
            assert!(sent > least && came > least);
        }
        let switched = self.web.metrics().sum("lighter_quic_switches_total", &[]);
        // A stream that is opened in a moment in which nobody reads gets a link of its own.
        let (opened, accepted) = self.links();
        assert!(opened == accepted && opened >= 1.0 && switched == 0.0, "{opened} {accepted} {switched}");
        self.is_whole();
    }
}

/// A pair of sidecars for several ports of one workload, and where the caller reaches each. All share one link.
fn of_ports<const N: usize>(ports: [(&str, SocketAddr); N], policy: &str) -> (World, [SocketAddr; N]) {
    let root = Root::new();
    let link = free_address();
    let (mut declared, mut endpoints, mut inbound, mut listeners) =
        <(String, String, String, String)>::default();
    let reached = ports.map(|(protocol, app)| {
        let (endpoint, listen) = (free_address(), free_address());
        let port = endpoint.port();
        declared += &format!("{{name: p{port}, port: {port}, appProtocol: {protocol}}}, ");
        endpoints += &format!("p{port}: {port}, ");
        inbound += &format!("{{listen: '{endpoint}', app: '{app}', port: {port}}}, ");
        listeners += &format!("{{listen: '{listen}', service: reviews, port: {port}}}, ");
        (endpoint, listen)
    });
    let resources = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: reviews}}\nspec:\n  ports: [{declared}]\n  \
         endpoints: [{{address: 127.0.0.1, ports: {{{endpoints}}}, secure: {{identity: '{REVIEWS}', link: '{link}'}}}}]\n{policy}"
    );
    let own = |identity, more: String| format!("workers: 1\n{more}\n{}", root.identity(identity));
    let called = format!("service: reviews\nlink: '{link}'\ninbound: [{inbound}]");
    let reviews = Sidecar::start(&resources, &own(REVIEWS, called));
    let web = Sidecar::start(&resources, &own(WEB, format!("listeners: [{listeners}]")));
    let [(endpoint, listen), ..] = reached[..] else { panic!("no port") };
    (
        World { root, web, listen, reviews, endpoint, link, resources, wire: "tcp" },
        reached.map(|(_, listen)| listen),
    )
}

/// A program in Python that ends with this process.
fn program(folder: &TempDir, python: &std::path::Path, script: &str, arguments: &[&str]) -> Program {
    let mut command = Command::new(python);
    command.arg(format!("{}/../tests/link/scripts/{script}", env!("CARGO_MANIFEST_DIR"))).args(arguments);
    // Nothing is left beside the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Program::start(command, folder.path())
}

/// Something that goes to a listener and comes back, made from a seed and a number. Returns how many bytes.
type Transfer = fn(SocketAddr, u8, usize) -> usize;

/// Transfers that go on one after the other until they are told to end.
struct Transfers {
    done: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<(usize, usize)>>,
}

impl Transfers {
    /// Each to an address of its own.
    fn start(transfers: impl IntoIterator<Item = (Transfer, SocketAddr)>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let start = |((transfer, listen), seed): ((Transfer, SocketAddr), u8)| {
            let done = done.clone();
            std::thread::spawn(move || {
                let (mut count, mut bytes) = (0, 0);
                while !done.load(Relaxed) {
                    bytes += transfer(listen, seed, count);
                    count += 1;
                }
                (count, bytes)
            })
        };
        let threads = transfers.into_iter().zip(0..).map(start).collect();
        Transfers { done, threads }
    }

    fn are_going_on(&self) -> bool {
        self.threads.iter().all(|transfer| !transfer.is_finished())
    }

    /// Ends them when what has begun is done. Returns how many there were of each, and how many bytes.
    fn end(self) -> Vec<(usize, usize)> {
        self.done.store(true, Relaxed);
        self.threads.into_iter().map(|transfer| transfer.join().unwrap()).collect()
    }
}

/// Sends back bodies, and bytes on connections that are upgraded. `sees` gets the path of each request with a body.
fn serve_http(mut peer: Peer, sees: &dyn Fn(&str)) {
    while let Some(head) = peer.head() {
        if head.get("upgrade").is_some() {
            peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
            return peer.echo();
        }
        sees(head.target());
        let Body::Whole(body) = peer.body(&head) else { return };
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).send(body);
    }
}

fn length() -> usize {
    if support::full() { 64 << 20 } else { 2 << 20 }
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at * 13 + at / 251) as u8 ^ seed).collect()
}

/// A request and its answer.
fn post_comes_back(listen: SocketAddr, seed: u8, number: usize) -> usize {
    let sent = pattern(length(), seed);
    echoed::post_comes_back(listen, ["reviews", &format!("/{seed}/{number}")], &sent);
    sent.len()
}

/// Bytes on a connection that began with HTTP, as those of a WebSocket.
fn upgraded_comes_back(listen: SocketAddr, seed: u8, _: usize) -> usize {
    let mut peer = Peer::connect(listen);
    peer.send("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 101);
    bytes_come_back(peer, seed)
}

fn opaque_comes_back(listen: SocketAddr, seed: u8, _: usize) -> usize {
    bytes_come_back(Peer::connect(listen), seed)
}

/// Sends and reads at the same time.
fn bytes_come_back(peer: Peer, seed: u8) -> usize {
    let sent = pattern(length(), seed);
    echoed::bytes_come_back(peer, &sent);
    sent.len()
}

/// Calls in HTTP/2, eight at a time.
fn calls_come_back(listen: SocketAddr, seed: u8, _: usize) -> usize {
    let sent = pattern(length() / 8, seed);
    echoed::calls_come_back(listen, 8, &sent);
    8 * sent.len()
}
