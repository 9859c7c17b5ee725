//! Whoever gets at the memory of a ring, or at the door where rings are handed out: what they see, and how far they get.
//! Each test reads at both ends which wire carried what.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::links::World;
use crate::outside::{CONSUMED, Capture, MAKER, RingMemory, TAKER, UNUSED, WRITTEN, door};
use crate::shm::{bytes, on_shm, policy};
use crate::support::process::cpu;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, at_rest, metrics, test, test_where, wait_until};
use crate::world::bodies_come_back;

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("nothing_is_in_plain_text_in_shared_memory_or_on_the_network", no_plain_text),
        test_where("a_byte_that_changed_in_a_ring_on_the_way_there_reaches_nobody", changed_on_the_way_there),
        test_where("a_byte_that_changed_in_a_ring_on_the_way_back_reaches_nobody", changed_on_the_way_back),
        test_where("cursors_that_cannot_be_cost_the_link_and_no_more", hostile_cursors),
        test_where("strangers_at_the_door_of_rings_get_nothing", strangers_at_the_door),
        test("a_ring_that_carries_nothing_takes_no_processor_time", an_idle_ring_is_idle),
    ]
}

const SHOULD: &str = "wires: {shm: should}, ringBytes: 65536, backOff: 10ms";

fn only_root() -> Result<(), String> {
    let is_root = rustix::process::geteuid().is_root();
    is_root.then_some(()).ok_or_else(|| "only root sees the memory of others".into())
}

fn faults(sidecar: &Sidecar, cause: &str) -> f64 {
    sidecar.metrics().sum("lighter_link_faults_total", &[("cause", cause)])
}

fn all_faults(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_link_faults_total", &[])
}

fn holds(within: &[u8], what: &str) -> bool {
    within.windows(what.len()).any(|part| part == what.as_bytes())
}

fn no_plain_text() -> Result<(), String> {
    only_root()?;
    let app = Upstream::echoing();
    let world = World::under("http", app.address, &policy("hotBytesPerSecond: 100000, ringBytes: 65536"));
    let (on_link, on_app) = (Capture::of(world.link.port()), Capture::of(app.address.port()));
    let marker = format!("{:032x}", fastrand::u128(..));
    let body = marker.repeat(1000);
    let request = format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut peer = Peer::connect(world.listen);
    let mut post = || {
        assert_eq!(peer.exchange(&request).1, Body::Whole(body.clone().into_bytes()));
    };
    // First over TCP, then by itself over the ring.
    let began = Instant::now();
    while on_shm(&world.web) == 0.0 || on_shm(&world.reviews) == 0.0 {
        assert!(began.elapsed() < PATIENCE);
        post();
    }
    let memory = [&world.web, &world.reviews].map(|sidecar| RingMemory::of(sidecar.program.pid()));
    for _ in 0..20 {
        post();
        for memory in &memory {
            assert!(!holds(&memory.all(), &marker));
        }
    }
    for sidecar in [&world.web, &world.reviews] {
        assert!(bytes(sidecar, "shm") > 1e6, "{}", bytes(sidecar, "shm"));
    }
    // What was looked through was the ring: both are full of what is sealed. And what is put in there is found there.
    for memory in &memory {
        assert!(memory.all().iter().filter(|byte| **byte != 0).count() > 120_000);
    }
    memory[0].write(UNUSED, marker.as_bytes());
    assert!(holds(&memory[1].all(), &marker), "both have the same memory");
    let over_tcp = bytes(&world.web, "tcp");
    assert!(over_tcp > 1e5);
    let (on_link, on_app) = (on_link.end(), on_app.end());
    assert!(on_link.len() as f64 > over_tcp, "everything was captured: {} of {over_tcp}", on_link.len());
    assert!(!holds(&on_link, &marker));
    assert!(holds(&on_app, &marker), "to the application it goes as it is");
    world.is_whole();
    Ok(())
}

/// So much goes over a ring while something is done to it.
const PARTS: usize = 512;
pub const PART: usize = 1_000_003;

pub fn part() -> Vec<u8> {
    (0..PART).map(|at| (at * 13 + at / 251) as u8).collect()
}

/// Whether it is the beginning of what is sent.
fn is_beginning(came: &[u8], part: &[u8]) -> bool {
    came.len() < PARTS * PART && came.chunks(PART).all(|one| part.starts_with(one))
}

/// Answers with its own body, or with much; and tells what it got of much.
fn app() -> (Upstream, mpsc::Receiver<Body>) {
    let (tell, told) = mpsc::channel();
    let app = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            if head.target() == "/much" && head.get("content-length").is_none() {
                let part = part();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PARTS * PART));
                if !(0..PARTS).all(|_| peer.try_send(&part)) {
                    return;
                }
                continue;
            }
            let body = peer.body(&head);
            if head.target() == "/much" {
                let _ = tell.send(body);
                return;
            }
            let Body::Whole(body) = body else { return };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if !peer.try_send(head) || !peer.try_send(body) {
                return;
            }
        }
    });
    (app, told)
}

fn changed_on_the_way_there() -> Result<(), String> {
    only_root()?;
    let (app, told) = app();
    let world = World::under("http", app.address, &policy(SHOULD));
    world.starts_on_shm();
    let listen = world.listen;
    let caller = std::thread::spawn(move || {
        let mut peer = Peer::connect(listen);
        let part = part();
        peer.send(format!(
            "POST /much HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n",
            PARTS * PART
        ));
        let _ = (0..PARTS).all(|_| peer.try_send(&part));
        peer.head().map(|head| head.status())
    });
    flip_unread(&world.reviews, TAKER);
    let Body::Cut(came) = told.recv_timeout(PATIENCE).unwrap() else { panic!("it was not cut") };
    assert!(is_beginning(&came, &part()), "nothing else than what was sent");
    let status = caller.join().unwrap();
    assert!(status.is_none_or(|status| status / 100 == 5), "{status:?}");
    wait_until("both ends count it", || {
        faults(&world.reviews, "harmed") == 1.0 && all_faults(&world.web) == 1.0
    });
    world.goes_on_over_tcp();
    // The caller's end has asked again, and the other one has refused.
    for (sidecar, by) in [(&world.web, "peer"), (&world.reviews, "this")] {
        let refused = [("by", by), ("cause", "barred")];
        assert_eq!(sidecar.metrics().sum("lighter_link_declines_total", &refused), 1.0);
    }
    Ok(())
}

fn changed_on_the_way_back() -> Result<(), String> {
    only_root()?;
    let (app, _told) = app();
    let world = World::under("http", app.address, &policy(SHOULD));
    world.starts_on_shm();
    let listen = world.listen;
    let caller = std::thread::spawn(move || {
        let mut peer = Peer::connect(listen);
        peer.send("GET /much HTTP/1.1\r\nHost: reviews\r\n\r\n");
        let head = peer.expect_head();
        (head.status(), peer.body(&head))
    });
    flip_unread(&world.web, MAKER);
    let (200, Body::Cut(came)) = caller.join().unwrap() else { panic!("it was not cut") };
    assert!(is_beginning(&came, &part()), "nothing else than what was sent");
    wait_until("both ends count it", || {
        faults(&world.web, "harmed") == 1.0 && all_faults(&world.reviews) == 1.0
    });
    world.goes_on_over_tcp();
    // Who was harmed asks no more.
    assert_eq!(world.web.metrics().sum("lighter_link_offers_total", &[("by", "this")]), 1.0);
    assert_eq!(world.reviews.metrics().sum("lighter_link_offers_total", &[("by", "peer")]), 1.0);
    Ok(())
}

/// Changes a byte that `writer` has put into its ring and `reader` has not read. While the reader stands still, what is
/// written is not read.
fn flip_unread(reader: &Sidecar, writer: u64) {
    const LAST: u64 = 100;
    let memory = RingMemory::of(reader.program.pid());
    let mut is_changed = false;
    wait_until("something is written that is not read", || {
        reader.program.signal(Signal::STOP);
        wait_until("it stands still", || state(reader.program.pid()) == "T");
        let read_at_most = memory.word(writer + WRITTEN);
        let written = at_rest(Duration::from_millis(20), || memory.word(writer + WRITTEN));
        is_changed = written > read_at_most + LAST;
        if is_changed {
            memory.flip(writer, written - LAST);
        }
        reader.program.signal(Signal::CONT);
        is_changed
    });
}

/// What a process does, in a letter.
fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap_or_default().chars().take(1).collect()
}

impl World {
    /// A request goes over, and then the link does.
    fn starts_on_shm(&self) {
        bodies_come_back(self.listen);
        self.goes_over();
    }

    /// A ring did harm. Requests go by another link that gets none.
    fn goes_on_over_tcp(&self) {
        let both = [&self.web, &self.reviews];
        wait_until("nobody holds the ring", || {
            both.iter().all(|sidecar| sidecar.metrics().sum("lighter_link_ring_bytes", &[]) == 0.0)
        });
        let before = both.map(|sidecar| (bytes(sidecar, "shm"), bytes(sidecar, "tcp")));
        bodies_come_back(self.listen);
        for (sidecar, (shm, tcp)) in both.into_iter().zip(before) {
            assert_eq!(bytes(sidecar, "shm"), shm, "{}", sidecar.program.said());
            assert!(bytes(sidecar, "tcp") > tcp + 2.5e7);
            assert_eq!(sidecar.metrics().sum("lighter_link_ring_bytes", &[]), 0.0);
        }
        assert_eq!(self.links(), (2.0, 2.0));
    }
}

/// What somebody writes into the memory of a ring. Before that: what it is, and whether TLS may be given of it.
type Attack = fn(&RingMemory);

fn hostile_cursors() -> Result<(), String> {
    only_root()?;
    let attacks: [(&str, bool, Attack); 5] = [
        ("more is written than there is room for", false, |memory| {
            for side in [MAKER, TAKER] {
                memory.set_word(side + WRITTEN, memory.word(side + WRITTEN) + 2 * memory.ring_bytes);
            }
        }),
        ("more is written than was", true, |memory| {
            for side in [MAKER, TAKER] {
                memory.set_word(side + WRITTEN, memory.word(side + WRITTEN) + 1);
            }
        }),
        ("what is written falls", false, |memory| {
            for side in [MAKER, TAKER] {
                memory.set_word(side + WRITTEN, memory.word(side + WRITTEN) / 2);
            }
        }),
        ("what is consumed falls", false, |memory| {
            for side in [MAKER, TAKER] {
                memory.set_word(side + CONSUMED, memory.word(side + CONSUMED) / 2);
            }
        }),
        ("anything", true, |memory| {
            for side in [MAKER, TAKER] {
                memory.set_word(side + WRITTEN, fastrand::u64(..));
                memory.set_word(side + CONSUMED, fastrand::u64(..));
            }
        }),
    ];
    for (what, is_read, attack) in attacks {
        let app = Upstream::echoing();
        let world = World::under("http", app.address, &policy(SHOULD));
        world.starts_on_shm();
        let memory = RingMemory::of(world.web.program.pid());
        let done = Arc::new(AtomicBool::new(false));
        let (listen, is_done) = (world.listen, done.clone());
        let caller = std::thread::spawn(move || {
            while !is_done.load(Relaxed) {
                comes_back_or_is_cut(listen);
            }
        });
        let both = |cause| faults(&world.web, cause) + faults(&world.reviews, cause);
        // What was never written is not what was sealed.
        let found = || both("carrier_hostile") + if is_read { both("harmed") } else { 0.0 };
        let began = Instant::now();
        while found() == 0.0 {
            assert!(began.elapsed() < PATIENCE, "{what}: the link lives on");
            let next = Instant::now() + Duration::from_millis(20);
            while Instant::now() < next {
                attack(&memory);
            }
        }
        done.store(true, Relaxed);
        caller.join().unwrap();
        world.goes_on_over_tcp();
        let used = || [&world.web, &world.reviews].map(|sidecar| cpu(sidecar.program.pid()));
        let before = used();
        std::thread::sleep(Duration::from_secs(1));
        for (after, before) in used().into_iter().zip(before) {
            assert!(after - before < Duration::from_millis(100), "{what}: it spins: {:?}", after - before);
        }
    }
    Ok(())
}

/// A body comes back as it was, or it is seen that it does not.
fn comes_back_or_is_cut(listen: SocketAddr) {
    let sent = &part()[..200_000];
    let mut peer = Peer::connect(listen);
    peer.try_send(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n", sent.len()));
    peer.try_send(sent);
    let Some(head) = peer.head() else { return };
    if head.status() != 200 {
        assert_eq!(head.status() / 100, 5);
        return;
    }
    match peer.body(&head) {
        Body::Whole(back) => assert!(back == sent),
        Body::Cut(back) => assert!(sent.starts_with(&back)),
    }
}

/// Comes to a door with a token. Returns what is said there, and nothing once the door is closed; and the way in.
fn knock(door: &Path, token: &[u8]) -> (Vec<u8>, UnixStream) {
    let mut stranger = UnixStream::connect(door).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(token).unwrap();
    let mut said = [0; 64];
    let count = stranger.read(&mut said).unwrap_or(0);
    (said[..count].to_vec(), stranger)
}

/// Whoever comes to a door with a token. Sidecars that start look whether somebody is there, and go.
pub fn take_in(door: &UnixListener) -> (UnixStream, [u8; 32]) {
    loop {
        let (mut guest, _) = door.accept().unwrap();
        guest.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut token = [0; 32];
        if guest.read_exact(&mut token).is_ok() {
            return (guest, token);
        }
    }
}

fn random_token() -> [u8; 32] {
    std::array::from_fn(|_| fastrand::u8(..))
}

fn strangers_at_the_door() -> Result<(), String> {
    only_root()?;
    let app = Upstream::echoing();
    let world = World::under("http", app.address, &policy(SHOULD));
    let door = door(world.reviews.program.pid());
    let aside = door.with_extension("aside");
    // Somebody sits in the place of the door: gets a token, and has none to show.
    std::fs::rename(&door, &aside).unwrap();
    let squatter = UnixListener::bind(&door).unwrap();
    let listen = world.listen;
    let requests = std::thread::spawn(move || bodies_come_back(listen));
    let (mut guest, token) = take_in(&squatter);
    // It was a real one, and is good for once.
    let turned_away =
        |cause| world.reviews.metrics().sum("lighter_link_strangers_total", &[("cause", cause)]);
    let (said, thief) = knock(&aside, &token);
    assert_eq!((said.len(), turned_away("token")), (32, 0.0));
    assert!(knock(&aside, &token).0.is_empty());
    wait_until("it is counted", || turned_away("token") == 1.0);
    guest.write_all(&random_token()).unwrap();
    wait_until("the caller's end does not believe it", || {
        world.web.metrics().sum("lighter_link_attach_failures_total", &[("cause", "token")]) == 1.0
    });
    drop((guest, squatter, thief));
    std::fs::rename(&aside, &door).unwrap();
    requests.join().unwrap();
    world.goes_over();

    // Once there is a ring, nobody else gets anything.
    let fell = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_link_fallbacks_total", &[]);
    let before = (fell(&world.web), fell(&world.reviews));
    for _ in 0..20 {
        assert!(knock(&door, &random_token()).0.is_empty());
        assert!(knock(&door, &token).0.is_empty());
    }
    wait_until("all of them are counted", || turned_away("token") == 41.0);
    let gone = turned_away("gone");
    drop(UnixStream::connect(&door).unwrap());
    wait_until("who goes without a word is counted", || turned_away("gone") > gone);
    let crowd =
        |count| -> Vec<UnixStream> { (0..count).map(|_| UnixStream::connect(&door).unwrap()).collect() };
    let standing = crowd(300);
    bodies_come_back(world.listen);
    assert_eq!((fell(&world.web), fell(&world.reviews)), before);
    wait_until("nobody stays at the door", || {
        turned_away("crowd") > 0.0 && turned_away("crowd") + turned_away("timed_out") >= 300.0
    });

    // Requests go on while a crowd is at the door and there is to be another ring; and it comes when they are gone.
    assert_eq!(metrics::ask(world.web.admin, "POST", "/links/freeze").0, 200);
    let requests = std::thread::spawn(move || bodies_come_back(listen));
    let began = Instant::now();
    while !requests.is_finished() {
        assert!(began.elapsed() < PATIENCE);
        drop(crowd(100));
    }
    requests.join().unwrap();
    drop(standing);
    world.goes_over();
    bodies_come_back(world.listen);
    for sidecar in [&world.web, &world.reviews] {
        assert!(bytes(sidecar, "shm") > 1e7);
    }
    assert_eq!(world.links(), (1.0, 1.0));
    world.is_whole();
    Ok(())
}

fn an_idle_ring_is_idle() {
    let app = Upstream::echoing();
    let shm = World::under("http", app.address, &policy("wires: {shm: should}, idleTimeout: 0s"));
    let tcp = World::under("http", app.address, &policy("wires: {shm: mustNot}"));
    for world in [&shm, &tcp] {
        bodies_come_back(world.listen);
    }
    shm.goes_over();
    bodies_come_back(shm.listen);
    let used = |world: &World| cpu(world.web.program.pid()) + cpu(world.reviews.program.pid());
    let before = (used(&shm), used(&tcp));
    std::thread::sleep(Duration::from_secs(3));
    let (on_shm_used, on_tcp_used) = (used(&shm) - before.0, used(&tcp) - before.1);
    println!("in three seconds: {on_shm_used:?} with a ring, {on_tcp_used:?} without");
    assert!(on_shm_used < on_tcp_used + Duration::from_millis(30), "{on_shm_used:?} {on_tcp_used:?}");
    for sidecar in [&shm.web, &shm.reviews] {
        assert!(on_shm(sidecar) == 1.0 && bytes(sidecar, "shm") > 1e7);
    }
    for sidecar in [&tcp.web, &tcp.reviews] {
        assert!(on_shm(sidecar) == 0.0 && bytes(sidecar, "shm") == 0.0);
    }
    shm.is_whole();
}
