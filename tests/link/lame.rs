//! Links that lose their TCP connection while they are on a ring. Each test reads at both ends what became of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::Shutdown;

use crate::anchor::anchors;
use crate::killed::rings;
use crate::links::World;
use crate::shm::{bytes, policy};
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_link_that_loses_tcp_at_the_callers_end_finishes_on_its_ring", ended_at_the_caller),
        test("a_link_that_loses_tcp_at_the_other_end_finishes_on_its_ring", reset_at_the_called),
        test("a_link_that_loses_its_ring_too_is_lost", loses_its_ring_too),
    ]
}

/// So many requests are under way,
const REQUESTS: usize = 4;

/// each with so many bytes there and back.
const BYTES: usize = 4 << 20;

/// What goes over the ring once TCP is lost, each way: the second halves of all.
const LEFT: f64 = (REQUESTS * BYTES / 2) as f64;

/// Ends a connection.
type Ends = fn(BorrowedFd<'_>);

fn lames(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_link_lame_total", &[])
}

/// An application that sends back the first half of a body, and the second one when it is let on. Other requests it answers
/// at once.
struct Halves {
    upstream: Upstream,
    waiting: Arc<AtomicUsize>,
    goes_on: Arc<AtomicBool>,
}

impl Halves {
    fn start() -> Self {
        let (waiting, goes_on) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let (waits, is_let_on) = (waiting.clone(), goes_on.clone());
        let upstream = Upstream::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                let length = head.get("content-length").map_or(0, |length| length.parse().unwrap());
                if !peer.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")) {
                    return;
                }
                for half in [length / 2, length - length / 2] {
                    let part = peer.bytes(half);
                    if part.len() < half || !peer.try_send(part) {
                        return;
                    }
                    waits.fetch_add(usize::from(length > 0), Relaxed);
                    if length > 0 {
                        wait_for(&is_let_on);
                    }
                }
            }
        });
        Halves { upstream, waiting, goes_on }
    }
}

fn wait_for(goes_on: &AtomicBool) {
    wait_until("it is let on", || goes_on.load(Relaxed));
}

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|at| (at * 13 + at / 251) as u8).collect()
}

/// A request whose second half is sent once it is let on, and which is read at the same time. Returns its answer.
fn ask(listen: SocketAddr, goes_on: &AtomicBool) -> (u16, Body) {
    let (first, second) = (pattern()[..BYTES / 2].to_vec(), pattern()[BYTES / 2..].to_vec());
    let mut peer = Peer::connect(listen);
    peer.send(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {BYTES}\r\n\r\n"));
    let mut writer = peer.another();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.send(first);
            wait_for(goes_on);
            // A link that is lost takes no more.
            writer.try_send(second);
        });
        let head = peer.expect_head();
        let body = peer.body(&head);
        (head.status(), body)
    })
}

/// Small requests one after the other, all of which are to succeed, until they are told to end.
struct Asking {
    done: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Asking {
    fn start(listen: SocketAddr) -> Self {
        let (done, count) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let (is_done, counted) = (done.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            let mut peer = Peer::connect(listen);
            while !is_done.load(Relaxed) {
                let (head, body) = peer.exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
                assert_eq!((head.status(), body), (200, Body::Whole(vec![])), "{head:?}");
                counted.fetch_add(1, Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Asking { done, count, thread }
    }

    /// So many more have succeeded.
    fn goes_on(&self, more: usize) {
        let before = self.count.load(Relaxed);
        wait_until("small requests succeed", || {
            assert!(!self.thread.is_finished(), "one failed");
            self.count.load(Relaxed) >= before + more
        });
    }

    fn end(self) {
        self.done.store(true, Relaxed);
        self.thread.join().unwrap();
    }
}

/// A link on a ring that has lost TCP, with requests half done on it, and another one for what comes.
struct Lame {
    world: World,
    halves: Halves,
    requests: Vec<JoinHandle<(u16, Body)>>,
    asking: Asking,
}

impl Lame {
    /// `ends` ends TCP at the caller's end, or the other.
    fn begin(ends: Ends, at_the_caller: bool) -> Self {
        let halves = Halves::start();
        let should = policy("wires: {shm: should}, ringBytes: 65536");
        let world = World::under("http", halves.upstream.address, &should);
        let asking = Asking::start(world.listen);
        world.goes_over();
        let requests = (0..REQUESTS).map(|_| {
            let (listen, goes_on) = (world.listen, halves.goes_on.clone());
            std::thread::spawn(move || ask(listen, &goes_on))
        });
        let requests = requests.collect();
        wait_until("half of each body is there", || halves.waiting.load(Relaxed) == REQUESTS);
        asking.goes_on(10);
        let sidecar = if at_the_caller { &world.web } else { &world.reviews };
        let [anchor] = &anchors(sidecar, world.link.port())[..] else { panic!("there is one link") };
        assert_eq!((lames(&world.web), lames(&world.reviews)), (0.0, 0.0));
        ends(anchor.as_fd());
        wait_until("both ends see it", || lames(&world.web) == 1.0 && lames(&world.reviews) == 1.0);
        wait_until("there is another link", || world.links() == (2.0, 2.0));
        asking.goes_on(10);
        Lame { world, halves, requests, asking }
    }

    /// Lets all on, and returns what came of them.
    fn finish(self) -> (World, Vec<(u16, Body)>) {
        self.halves.goes_on.store(true, Relaxed);
        let answers = self.requests.into_iter().map(|request| request.join().unwrap()).collect();
        self.asking.goes_on(10);
        self.asking.end();
        (self.world, answers)
    }
}

/// Requests under way end whole on the ring, new ones go by a new link, and nobody notices.
fn finishes_on_its_ring(ends: Ends, at_the_caller: bool) {
    let lame = Lame::begin(ends, at_the_caller);
    let carried = |world: &World, wire| [&world.web, &world.reviews].map(|sidecar| bytes(sidecar, wire));
    let before = ["shm", "tcp"].map(|wire| carried(&lame.world, wire));
    let (world, answers) = lame.finish();
    let whole = pattern();
    for (status, body) in answers {
        assert!(status == 200 && body == Body::Whole(whole.clone()), "{status}");
    }
    let after = ["shm", "tcp"].map(|wire| carried(&world, wire));
    for end in [0, 1] {
        let [shm, tcp] = [0, 1].map(|wire| after[wire][end] - before[wire][end]);
        assert!(shm > 2.0 * LEFT && tcp < LEFT / 10.0, "{shm} bytes over rings and {tcp} over TCP");
    }
    for (sidecar, side) in [(&world.web, "opener"), (&world.reviews, "acceptor")] {
        wait_until("the link without TCP is no more", || {
            sidecar.metrics().sum("lighter_link_open", &[("side", side)]) == 1.0
        });
        let metrics = sidecar.metrics();
        assert!(!metrics.has("lighter_link_faults_total", &[]), "{}", sidecar.program.said());
        // What was opened as the other side had left already was not executed, and went by the new link.
        let refused = metrics.sum("lighter_link_resets_total", &[("code", "refused")]);
        assert_eq!(metrics.sum("lighter_link_resets_total", &[]), refused);
        assert_eq!((lames(sidecar), world.links()), (1.0, (2.0, 2.0)));
    }
}

/// As if the other side had ended it.
fn ended_at_the_caller() {
    finishes_on_its_ring(|anchor| rustix::net::shutdown(anchor, Shutdown::Both).unwrap(), true);
}

/// Both ends are told by a reset.
fn reset_at_the_called() {
    finishes_on_its_ring(|anchor| rustix::net::connect_unspec(anchor).unwrap(), false);
}

fn loses_its_ring_too() {
    let lame = Lame::begin(|anchor| rustix::net::shutdown(anchor, Shutdown::Both).unwrap(), false);
    // That of the new link as well, which goes on over TCP.
    assert!(rings::end_all(lame.world.reviews.program.pid() as i32).unwrap() >= 1);
    let lost =
        |sidecar: &Sidecar| sidecar.metrics().sum("lighter_link_faults_total", &[("cause", "carrier_lost")]);
    wait_until("both ends give the link up", || {
        lost(&lame.world.web) == 1.0 && lost(&lame.world.reviews) == 1.0
    });
    let (world, answers) = lame.finish();
    for (status, body) in answers {
        let Body::Cut(came) = body else { panic!("nothing of the second half can have come") };
        assert!(status == 200 && pattern().starts_with(&came), "{status}");
    }
    for sidecar in [&world.web, &world.reviews] {
        assert_eq!(
            sidecar.metrics().sum("lighter_link_faults_total", &[]),
            1.0,
            "{}",
            sidecar.program.said()
        );
    }
    assert_eq!(world.links(), (2.0, 2.0));
}
