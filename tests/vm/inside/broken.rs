//! What goes wrong while links are on RDMA, in the middle of transfers: each time they go on over TCP, and over RDMA again
//! once it is well, and nothing is lost or doubled.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cable::Harm;
use super::hosts::{Far, Near};
use super::mesh::{Mesh, Transfers, pattern, post_comes_back};
use crate::support::raw::Peer;
use crate::support::{echoed, wait_until};

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("whatever_breaks_beneath_a_transfer_costs_no_byte", whatever_breaks),
        ("a_sidecar_that_is_killed_cuts_what_it_carried_and_nothing_else", killed),
        ("a_sidecar_that_is_killed_costs_no_request_that_may_run_again", spared),
    ]
}

/// What breaks, how, and how it is mended.
type Fault = (&'static str, fn(&Mesh), fn(&Mesh));

const FAULTS: [Fault; 7] = [
    ("a wrong key", |mesh| mesh.cable().harm(Harm::WrongKey), |mesh| mesh.cable().heal()),
    ("a dead path", |mesh| mesh.cable().harm(Harm::Lost), |mesh| mesh.cable().heal()),
    ("an operation that fails", |mesh| mesh.cable().harm(Harm::Refused), |mesh| mesh.cable().heal()),
    ("no request to receive", |mesh| mesh.cable().harm(Harm::NotReady), |mesh| mesh.cable().heal()),
    ("a port that is down", |_| Near.port(0).lower(), |_| Near.port(0).raise()),
    ("a peer that stands still", stop, |_| ()),
    ("a device that is removed", |_| Far.port(0).remove_device(), |_| Far.port(0).add_device()),
];

/// All in one mesh and under the same transfers, since those take most of the time.
fn whatever_breaks() {
    let mesh = Mesh::under(POLICY);
    let transfers = Transfers::start(mesh.listen);
    for (what, harm, heal) in FAULTS {
        mesh.goes_over("rdma");
        let carried = [Near, Far].map(|host| mesh.bytes(host, "rdma"));
        wait_until("RDMA carries the transfers", || {
            [Near, Far].iter().all(|&host| mesh.bytes(host, "rdma") > carried[host as usize] + ENOUGH)
        });
        let fell = [Near, Far].map(|host| mesh.fallbacks(host));
        let harmed = mesh.cable().harmed();
        let began = Instant::now();
        harm(&mesh);
        wait_until(&format!("both ends have left RDMA because of {what}"), || {
            [Near, Far].iter().all(|&host| mesh.fallbacks(host) > fell[host as usize])
        });
        in_time(&format!("{what}: both ends are on TCP"), began);
        transfers.go_on();
        let harmed = mesh.cable().harmed() - harmed;
        println!("{what}: {harmed} packets were harmed");
        heal(&mesh);
    }
    let posts = transfers.end();
    assert_eq!(mesh.posts_received(), posts, "each request came once");
    assert!(mesh.cable().harmed() > 4, "the cable did its part");
    mesh.is_whole();
}

/// It goes on before its peer has lost patience with the link. There is more to be written meanwhile than its ring holds: one
/// that stands still while nobody writes does not harm.
fn stop(mesh: &Mesh) {
    let (fell, listen) = (mesh.fallbacks(Near), mesh.listen.http);
    // Each no more than a stream may have sent. A tunnel would carry nothing before the other side has answered.
    let sent = pattern(60_000, 9);
    mesh.reviews.program.signal(Signal::STOP);
    let send = |sent: Vec<u8>| {
        std::thread::spawn(move || echoed::post_comes_back(listen, ["reviews", "/more"], &sent))
    };
    let more = Near.does(|| [send(sent.clone()), send(sent)]);
    wait_until("the other end has noticed", || mesh.fallbacks(Near) > fell);
    mesh.reviews.program.signal(Signal::CONT);
    more.into_iter().for_each(|more| more.join().unwrap());
}

/// The one thing that no wire can help: whoever was to answer is no more. What it had begun to answer is cut, and never taken
/// for whole; the sidecar that comes in its place is reached over RDMA again.
fn killed() {
    let mut mesh = Mesh::under(POLICY);
    let sent = pattern(200_000, 1);
    let listen = mesh.listen;
    Near.does(|| post_comes_back(listen.http, &sent));
    mesh.goes_over("rdma");
    Near.does(|| post_comes_back(listen.http, &sent));
    let carried = mesh.bytes(Near, "rdma");
    assert!(carried > 400_000.0);
    // One that is under way: all of it was sent but for its end.
    let mut peer = Near.does(|| Peer::connect(listen.http));
    peer.send(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n", sent.len()));
    peer.send(&sent[1..]);
    wait_until("it is on its way", || mesh.bytes(Near, "rdma") > carried + 190_000.0);
    let began = Instant::now();
    mesh.reviews.program.signal(Signal::KILL);
    let head = peer.expect_head();
    in_time("a peer that is killed: the caller is told", began);
    assert_eq!(head.status() / 100, 5);
    mesh.restart_reviews();
    Near.does(|| {
        wait_until("the other one is reached over RDMA", || {
            post_comes_back(listen.http, &sent);
            mesh.bytes(Near, "rdma") > carried + 1_000_000.0
        });
    });
}

/// Where there is another one, and what was asked may be asked again, whoever asks sees nothing of it, and waits no longer
/// than for what breaks in the middle of a transfer.
fn spared() {
    let mesh = Mesh::under(POLICY);
    let (_other, its_endpoint) = mesh.double_reviews(AGAIN);
    let (is_killed, is_enough) = (AtomicBool::new(false), AtomicBool::new(false));
    let sent = pattern(3000, 1);
    let listen = mesh.listen.http;
    Near.does(|| {
        std::thread::scope(|scope| {
            let asks = || {
                let mut longest = Duration::ZERO;
                while !is_enough.load(Relaxed) {
                    let began = Instant::now();
                    post_comes_back(listen, &sent);
                    // Before, the first ones wait for handshakes of TLS, which take this machine a second.
                    if is_killed.load(Relaxed) {
                        longest = longest.max(began.elapsed());
                    }
                }
                longest
            };
            let asking = [(); 4].map(|()| scope.spawn(asks));
            wait_until("both are reached over RDMA", || {
                let labels = [("endpoint", &*its_endpoint.to_string())];
                mesh.sum(Near, "lighter_endpoint_requests_total", &labels) > 0.0
                    && mesh.sum(Near, "lighter_link_wire", &[("wire", "rdma")]) >= 2.0
            });
            let goes_on = || {
                let before = mesh.bytes(Near, "rdma");
                wait_until("RDMA carries requests", || mesh.bytes(Near, "rdma") > before + ENOUGH);
            };
            goes_on();
            is_killed.store(true, Relaxed);
            mesh.reviews.program.signal(Signal::KILL);
            goes_on();
            is_enough.store(true, Relaxed);
            let longest = asking.map(|asking| asking.join().unwrap()).into_iter().max().unwrap();
            println!("a peer that is killed: a request took {} ms at most", longest.as_millis());
            assert!(longest > Duration::ZERO && longest < LIMIT, "{longest:?}");
        });
    });
}

/// By the machine's clock, which goes by instructions: nothing is late because this host is busy.
fn in_time(what: &str, began: Instant) {
    let took = began.elapsed();
    println!("{what} after {} ms", took.as_millis());
    assert!(took < LIMIT, "{what} after {took:?}");
}

/// Whatever is wrong, links are on TCP by then.
const LIMIT: Duration = Duration::from_secs(2);

/// What may be asked again, and how often.
const AGAIN: &str = "apiVersion: mesh.lighter.dev/v1
kind: TrafficPolicy
metadata: {name: again}
spec:
  targetRefs: [{kind: Service, name: reviews}]
  retry: {on: [reset], attempts: 2, methods: [POST], budget: {minPerSecond: 100}}
";

/// Bytes of a wire after which it is in the middle of something.
pub const ENOUGH: f64 = 50_000.0;

pub const POLICY: &str =
    "wires: {shm: mustNot, rdma: should}, devices: [DEVICES], ringBytes: 65536, backOff: 20ms";
