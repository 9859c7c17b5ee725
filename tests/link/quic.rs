//! Links over QUIC, where UDP does not pass, where policy forbids it, where addresses change, and where somebody floods it.
//! What links carry is tested beside what they carry over TCP: see `over_quic`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use lighter_proxy::identity::ALPN_LINK;
use quinn::crypto::rustls::QuicClientConfig;
use rustix::process::Signal;

use crate::hostile::{identity, identity_of};
use crate::links::{World, resources};
use crate::relay::Relay;
use crate::shm::policy;
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, at_rest, http2, test, wait_until};
use crate::world::{RATINGS, REVIEWS, Root, WEB, caller_file, heard, large_answers};

pub fn tests() -> Vec<Trial> {
    vec![
        test("links_over_quic_lead_to_nobody_else_and_from_nobody_else", somebody_else),
        test("a_link_over_quic_is_tried_again_where_udp_did_not_pass", udp_does_not_pass),
        test("requests_go_by_tcp_while_nothing_comes_back_over_quic", nothing_comes_back),
        test("a_workload_that_is_killed_is_missed_on_links_over_quic_too", a_workload_is_killed),
        test("a_policy_of_either_end_keeps_links_off_quic", a_policy_forbids),
        test("links_leave_quic_when_a_policy_says_so_and_come_back", a_policy_changes),
        test("a_policy_holds_on_links_over_quic", a_policy_holds),
        test("a_caller_whose_address_changes_keeps_its_link_over_quic", an_address_changes),
        test("a_flood_of_handshakes_over_quic_keeps_nobody_out", a_flood),
        test("callers_that_read_nothing_hold_up_no_others_over_quic", nobody_reads),
        test("a_link_over_quic_is_refused_where_there_is_no_room", no_room),
        test("a_link_over_quic_that_is_left_brings_slow_readers_all", left_while_read),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

fn should() -> String {
    policy("wires: {quic: should}")
}

/// A caller and a workload of so many workers, between which all goes through a relay.
fn through_relay(app: SocketAddr, workers: usize) -> (World, Relay) {
    let link = free_address();
    relayed(app, workers, Root::new(), link, Relay::to(link))
}

/// The same through this `relay`, for a workload that takes links at `link`.
fn relayed(app: SocketAddr, workers: usize, root: Root, link: SocketAddr, relay: Relay) -> (World, Relay) {
    let endpoint = free_address();
    let resources = resources("http", endpoint, relay.address, REVIEWS) + &should();
    let own = format!(
        "service: reviews\nworkers: {workers}\nlink: '{link}'\ninbound: [{{listen: '{endpoint}', app: '{app}', port: \
         80}}]\n{}",
        root.identity(REVIEWS)
    );
    let reviews = Sidecar::start(&resources, &own);
    let listen = free_address();
    let web = Sidecar::start(&resources, &caller_file(listen, &root.identity(WEB)));
    (World { root, web, listen, reviews, endpoint, link, resources, wire: "quic" }, relay)
}

/// Sends requests until new ones go over QUIC; each of them is answered.
fn until_over_quic(world: &World) {
    wait_until("new requests go over QUIC", || {
        assert_eq!(Peer::connect(world.listen).exchange(GET).0.status(), 200);
        world.switches("quic") >= 1.0
    });
}

fn handshakes(sidecar: &Sidecar, side: &str, outcome: &str) -> f64 {
    sidecar.metrics().sum("lighter_quic_handshakes_total", &[("side", side), ("outcome", outcome)])
}

fn somebody_else() {
    let (app, other) = (Upstream::answering("served"), Upstream::answering("never"));
    let (root, link, theirs) = (Root::new(), free_address(), free_address());
    // Where UDP leads is somebody whom the same root vouches for.
    let endpoint = free_address();
    let own = format!(
        "service: reviews\nworkers: 1\nlink: '{theirs}'\ninbound: [{{listen: '{endpoint}', app: '{}', port: 80}}]\n{}",
        other.address,
        root.identity(RATINGS)
    );
    let ratings = Sidecar::start(&(resources("http", endpoint, theirs, RATINGS) + &should()), &own);
    let (world, _relay) = relayed(app.address, 1, root, link, Relay::between(link, theirs));
    wait_until("it was tried", || {
        assert_eq!(Peer::connect(world.listen).exchange(GET).1, Body::Whole(b"served".into()));
        handshakes(&world.web, "opener", "failed") >= 1.0
    });
    assert_eq!((world.switches("quic"), other.connections()), (0.0, 0));
    let refused = [("reason", "wrong_identity")];
    assert!(world.web.metrics().sum("lighter_identity_refusals_total", &refused) >= 1.0);
    assert_eq!(ratings.metrics().sum("lighter_quic_streams_total", &[]), 0.0);
    // And a caller whom nobody vouches for.
    let foreign = Root::new();
    let (chain, key) = foreign.issue(WEB);
    let stranger = identity_of(chain, key, world.root.bundle());
    let tls = stranger.client_config(&REVIEWS.parse().unwrap(), &[ALPN_LINK]);
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    http2::run(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        // To the caller the handshake is over before its certificate is looked at.
        if let Ok(connection) = endpoint.connect_with(config, world.link, "127.0.0.1").unwrap().await {
            tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is closed");
        }
    });
    wait_until("it is counted", || {
        let foreign = [("reason", "foreign")];
        handshakes(&world.reviews, "acceptor", "failed") >= 1.0
            && world.reviews.metrics().sum("lighter_identity_refusals_total", &foreign) >= 1.0
    });
    assert_eq!(world.reviews.metrics().sum("lighter_quic_streams_total", &[]), 0.0);
}

fn udp_does_not_pass() {
    let app = Upstream::answering("all the same");
    let (world, relay) = through_relay(app.address, 1);
    relay.block(true);
    let began = Instant::now();
    let mut requests = 0;
    // Two tries: what is known is not found out with each request.
    wait_until("it is known, and tried once more", || {
        for _ in 0..10 {
            assert_eq!(Peer::connect(world.listen).exchange(GET).1, Body::Whole(b"all the same".into()));
        }
        requests += 10;
        handshakes(&world.web, "opener", "late") == 2.0
    });
    // A second each, and one between them.
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert!(requests >= 20);
    assert_eq!((world.switches("quic"), world.switches("tcp")), (0.0, 0.0));
    relay.block(false);
    until_over_quic(&world);
    let before = world.streams();
    assert_eq!(Peer::connect(world.listen).exchange(GET).0.status(), 200);
    assert_eq!(world.streams(), (before.0 + 1.0, before.1 + 1.0));
    world.is_whole();
}

fn nothing_comes_back() {
    let app = Upstream::answering("served");
    let (world, relay) = through_relay(app.address, 1);
    until_over_quic(&world);
    relay.block(true);
    // What was begun waits.
    let mut waits = Peer::connect(world.listen);
    waits.send(GET);
    wait_until("others go by TCP", || world.switches("tcp") == 1.0);
    let over_quic = world.streams().0;
    for _ in 0..5 {
        assert_eq!(Peer::connect(world.listen).exchange(GET).1, Body::Whole(b"served".into()));
    }
    assert_eq!(world.streams().0, over_quic, "none of them was sent where nothing comes back");
    relay.block(false);
    let head = waits.expect_head();
    assert_eq!((head.status(), waits.body(&head)), (200, Body::Whole(b"served".into())));
    wait_until("new requests go over QUIC again", || {
        let before = world.streams().0;
        assert_eq!(Peer::connect(world.listen).exchange(GET).0.status(), 200);
        world.streams().0 > before
    });
    assert_eq!(handshakes(&world.web, "opener", "done"), 1.0);
    world.is_whole();
}

fn a_workload_is_killed() {
    let app = Upstream::start(|mut peer, _| {
        // Never answers.
        if peer.head().is_some() {
            peer.rest();
        }
    });
    let mut world = World::quic_with("http", app.address, "");
    let mut peer = Peer::connect(world.listen);
    peer.send("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 2\r\n\r\nok");
    wait_until("the request arrived", || app.received().contains("POST"));
    assert_eq!(world.streams(), (1.0, 1.0));
    world.reviews.program.signal(Signal::KILL);
    world.reviews.program.wait();
    let head = peer.expect_head();
    assert_eq!(head.status(), 502, "{:?}", head.cause());
    assert_eq!(Peer::connect(world.listen).exchange(GET).0.status() / 100, 5);
    let web = world.web.metrics();
    assert_eq!(web.sum("lighter_link_faults_total", &[("cause", "silent")]), 1.0);
    assert_eq!(web.sum("lighter_link_resets_total", &[("code", "lost")]), 1.0);
    wait_until("no link is left", || world.web.metrics().sum("lighter_link_open", &[]) == 0.0);
}

fn a_policy_forbids() {
    let app = Upstream::answering("by TCP");
    let must_not = policy("wires: {quic: mustNot}");
    for (caller, called, refused) in [(must_not.clone(), should(), false), (should(), must_not, true)] {
        let world = World::under_each("http", app.address, &caller, &called);
        let (mut peer, began) = (Peer::connect(world.listen), Instant::now());
        wait_until("it was tried, or would have been", || {
            assert_eq!(peer.exchange(GET).1, Body::Whole(b"by TCP".into()));
            match refused {
                true => handshakes(&world.web, "opener", "refused") >= 1.0,
                false => began.elapsed() > Duration::from_secs(1),
            }
        });
        let tried = world.web.metrics().has("lighter_quic_handshakes_total", &[]);
        assert_eq!(tried, refused);
        assert_eq!(handshakes(&world.reviews, "acceptor", "refused") >= 1.0, refused);
        assert!(
            !world.reviews.metrics().has("lighter_link_wire", &[("wire", "quic")])
                || world.reviews.metrics().sum("lighter_link_wire", &[("wire", "quic")]) == 0.0
        );
        world.is_whole();
    }
}

fn a_policy_changes() {
    let app = Upstream::answering("served");
    let (world, _relay) = through_relay(app.address, 1);
    until_over_quic(&world);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut peer = Peer::connect(world.listen);
                while !done.load(Relaxed) {
                    assert_eq!(peer.exchange(GET).1, Body::Whole(b"served".into()));
                }
            });
        }
        // Nothing else is to happen where one of these fails.
        let _done = Done(&done);
        // At either end: the caller's first.
        for (sidecar, switches) in [(&world.web, 2.0), (&world.reviews, 3.0)] {
            for (uses, links) in [("mustNot", 0.0), ("should", 1.0)] {
                let said = world.resources.replace("{quic: should}", &format!("{{quic: {uses}}}"));
                sidecar.apply(&said);
                wait_until("links do as they should", || {
                    let on = |end: &Sidecar| end.metrics().sum("lighter_link_wire", &[("wire", "quic")]);
                    on(&world.web) == links && on(&world.reviews) == links
                });
            }
            wait_until("requests go over QUIC again", || world.switches("quic") == switches);
        }
    });
    let why = [("to", "tcp"), ("cause", "forbidden")];
    assert_eq!(world.web.metrics().sum("lighter_quic_switches_total", &why), 1.0);
    world.is_whole();
}

/// Says so when it is dropped.
pub struct Done<'d>(pub &'d AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn a_policy_holds() {
    let app = Upstream::answering("not for web");
    let only = |id: &str| {
        format!(
            "---\napiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: only}}\nspec: \
             {{targetRefs: [{{kind: Service, name: reviews}}], rules: [{{from: [{{principals: ['{id}']}}]}}]}}\n"
        )
    };
    for protocol in ["http", "tcp"] {
        for (admitted, id) in [(false, RATINGS), (true, WEB)] {
            let before = app.connections();
            let world = World::quic_with(protocol, app.address, &only(id));
            if admitted {
                assert_eq!(Peer::connect(world.listen).exchange(GET).1, Body::Whole(b"not for web".into()));
            } else {
                let heard = heard(world.listen);
                assert!(!heard.contains("not for web"), "{heard}");
                assert_eq!(heard.contains("denied"), protocol == "http", "{heard}");
            }
            assert_eq!(app.connections() > before, admitted);
            assert_eq!(world.streams(), (1.0, 1.0));
        }
    }
}

fn an_address_changes() {
    let app = Upstream::echoing();
    let (world, relay) = through_relay(app.address, 2);
    let mut peer = Peer::connect(world.listen);
    let mut echo = |bytes: usize| {
        let body = "x".repeat(bytes);
        peer.send(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {bytes}\r\n\r\n{body}"));
        let head = peer.expect_head();
        assert_eq!((head.status(), peer.body(&head)), (200, Body::Whole(body.into_bytes())));
    };
    wait_until("new requests go over QUIC", || {
        echo(10);
        world.switches("quic") == 1.0
    });
    let strays = || world.reviews.metrics().sum("lighter_quic_strays_total", &[("outcome", "handed_on")]);
    // The kernel leads each new address to one worker or the other.
    wait_until("some came to the other worker", || {
        relay.change_address();
        echo(10);
        strays() >= 1.0
    });
    // In mid-stream.
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(20));
                relay.change_address();
            }
        });
        while !changes.is_finished() {
            echo(1 << 20);
        }
    });
    assert_eq!(world.links(), (1.0, 1.0), "it is one link all the time");
    let moves = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_quic_moves_total", &[]);
    // A link looks after itself once a second.
    wait_until("a change of the address is counted", || moves(&world.reviews) >= 1.0);
    assert_eq!(moves(&world.web), 0.0);
    let (opened, accepted) = world.streams();
    assert_eq!(opened, accepted);
    world.is_whole();
}

fn a_flood() {
    let app = Upstream::answering("served");
    let world = World::quic_with("http", app.address, "");
    let initials = initials(&world.root, 100);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |bytes: &[u8]| {
        stranger.send_to(bytes, world.link).unwrap();
    };
    for (turn, initial) in initials.iter().enumerate() {
        send(initial);
        // Once more; cut short; with a byte that is not what was sealed; and what is nothing at all.
        send(initial);
        send(&initial[..turn * initial.len() / initials.len()]);
        let mut other = initial.clone();
        other[turn * 7 % initial.len()] ^= 0x55;
        send(&other);
        send(&vec![turn as u8; turn * 5]);
    }
    let retried = || world.reviews.metrics().sum("lighter_quic_retries_total", &[]);
    wait_until("who comes late has to prove its address", || retried() >= 1.0);
    // The link that stands goes on; so does a new one, whose handshake is one among many.
    let (head, body) = Peer::connect(world.listen).exchange(GET);
    assert_eq!((head.status(), body), (200, Body::Whole(b"served".into())));
    let listen = free_address();
    let web = Sidecar::start(
        &(world.resources.clone() + &should()),
        &caller_file(listen, &world.root.identity(WEB)),
    );
    wait_until("somebody else gets a link", || {
        assert_eq!(Peer::connect(listen).exchange(GET).0.status(), 200);
        handshakes(&web, "opener", "done") == 1.0
    });
    assert!(!world.reviews.metrics().has("lighter_link_faults_total", &[]));
}

/// The first datagrams of so many handshakes, as a caller of `root` would begin them.
fn initials(root: &Root, count: usize) -> Vec<Vec<u8>> {
    let tls = identity(root, WEB).client_config(&REVIEWS.parse().unwrap(), &[ALPN_LINK]);
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    http2::run(async {
        let deaf = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = deaf.local_addr().unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        // Whoever is let go says so; and what is not answered comes again.
        let (mut begun, mut taken) = (Vec::new(), Vec::<Vec<u8>>::new());
        while taken.len() < count {
            begun.push(endpoint.connect_with(config.clone(), to, "127.0.0.1").unwrap());
            let mut room = [0; 2048];
            let came = tokio::time::timeout(PATIENCE, deaf.recv_from(&mut room)).await;
            let (length, _) = came.expect("what is not answered comes again").unwrap();
            // Behind four bytes of version comes the ID that the caller chose.
            if taken.iter().all(|known| known[5..14] != room[5..14]) {
                taken.push(room[..length].to_vec());
            }
        }
        taken
    })
}

fn nobody_reads() {
    const BYTES: u64 = 16 << 20;
    let app = large_answers(BYTES);
    let world = World::quic_with("http", app.address, "");
    let mut slow: Vec<Peer> = (0..40).map(|_| Peer::connect(world.listen)).collect();
    for peer in &mut slow {
        peer.send(GET);
        assert_eq!(peer.expect_head().status(), 200);
    }
    at_rest(Duration::from_millis(500), || world.web.program.resident() + world.reviews.program.resident());
    let over_quic = world.streams().0;
    let mut other = Peer::connect(world.listen);
    for _ in 0..5 {
        let small = other.exchange("GET /small HTTP/1.1\r\nHost: reviews\r\n\r\n");
        assert_eq!(small.1, Body::Whole(b"ok".into()));
    }
    assert_eq!(world.streams().0, over_quic, "none of them was sent where nobody reads");
    slow.truncate(1);
    assert_eq!(slow[0].skip(BYTES), BYTES);
    wait_until("new requests go over QUIC again", || {
        assert_eq!(
            Peer::connect(world.listen).exchange("GET /small HTTP/1.1\r\nHost: reviews\r\n\r\n").0.status(),
            200
        );
        world.streams().0 > over_quic
    });
}

/// A workload with room for one connection has none for a link over QUIC beside the one over TCP.
fn no_room() {
    let app = Upstream::answering("by TCP");
    let (root, endpoint, link) = (Root::new(), free_address(), free_address());
    let resources = resources("http", endpoint, link, REVIEWS) + &should();
    let own = format!(
        "service: reviews\nworkers: 1\nlink: '{link}'\nmaxConnections: 1\ninbound: [{{listen: '{endpoint}', app: '{}', \
         port: 80}}]\n{}",
        app.address,
        root.identity(REVIEWS)
    );
    let reviews = Sidecar::start(&resources, &own);
    let listen = free_address();
    let web = Sidecar::start(&resources, &caller_file(listen, &root.identity(WEB)));
    wait_until("it was refused, and others know why", || {
        assert_eq!(Peer::connect(listen).exchange(GET).1, Body::Whole(b"by TCP".into()));
        let shed =
            reviews.metrics().sum("lighter_worker_connections_shed_total", &[("cause", "connections")]);
        handshakes(&web, "opener", "refused") >= 1.0 && shed >= 1.0
    });
    assert_eq!(handshakes(&reviews, "acceptor", "done"), 0.0);
}

fn left_while_read() {
    // Less than QUIC lets a stream send unread.
    const BYTES: u64 = 500 << 10;
    let app = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            let bytes = if head.target() == "/large" { BYTES } else { 2 };
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
            peer.try_send(vec![b'x'; bytes as usize]);
        }
    });
    let (world, _relay) = through_relay(app.address, 1);
    until_over_quic(&world);
    let family = socket2::Domain::for_address(world.listen);
    let socket = socket2::Socket::new(family, socket2::Type::STREAM, None).unwrap();
    // What waits here does not wait there.
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.set_tcp_mss(1000).unwrap();
    socket.connect(&world.listen.into()).unwrap();
    let mut peer = Peer::over(socket.into());
    peer.send("GET /large HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 200);
    world.web.apply(&world.resources.replace("{quic: should}", "{quic: mustNot}"));
    wait_until("the link is left", || world.switches("tcp") == 1.0);
    // Longer than the other side waits for the link to be closed, once all was sent.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(peer.skip(BYTES), BYTES);
    world.is_whole();
}
