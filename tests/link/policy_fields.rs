//! What is said of rings by those who run the sidecars: that it is done, and not what is done where nobody says anything. Each
//! test reads at both ends what became of the rings.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::killed::rings;
use crate::links::World;
use crate::shm::{on_shm, policy};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{metrics, test, wait_until};
use crate::world::{REVIEWS, Root, WEB};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_ring_that_rests_makes_room_where_the_caller_has_no_more", room_at_the_caller),
        test("a_ring_that_rests_makes_room_where_the_called_has_no_more", room_at_the_called),
        test("a_wire_that_failed_is_left_alone_for_as_long_as_the_policy_says", left_alone),
        test("a_caller_that_asks_again_too_soon_is_refused", too_soon),
    ]
}

/// The smallest of rings, but for one.
const SHOULD: &str = "wires: {shm: should}, ringBytes: 65536";

/// Memory of one of them.
const RING: f64 = 4096.0 + 2.0 * 65_536.0;

/// Where one sidecar is reached, by a link for each.
const PLACES: [&str; 2] = ["127.0.0.2", "127.0.0.3"];

fn fallbacks(sidecar: &Sidecar, labels: &[(&str, &str)]) -> f64 {
    sidecar.metrics().sum("lighter_link_fallbacks_total", labels)
}

fn offers(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_link_offers_total", &[])
}

/// A request and its answer, each of so many bytes.
fn comes_back(peer: &mut Peer, bytes: usize) {
    let body = "x".repeat(bytes);
    let (head, answer) =
        peer.exchange(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {bytes}\r\n\r\n{body}"));
    assert_eq!((head.status(), answer), (200, Body::Whole(body.into_bytes())));
}

fn room_at_the_caller() {
    let (world, _) = makes_room([format!("maxRingBytes: {RING}"), String::new()]);
    for sidecar in [&world.web, &world.reviews] {
        let refused = sidecar.metrics().sum("lighter_link_declines_total", &[]);
        assert_eq!(refused, 0.0, "nobody is asked for what there is no memory for");
    }
}

fn room_at_the_called() {
    let (world, evicted) = makes_room([String::new(), format!("maxRingBytes: {RING}")]);
    assert_eq!(evicted, [0.0, 1.0]);
    for (sidecar, by) in [(&world.web, "peer"), (&world.reviews, "this")] {
        let metrics = sidecar.metrics();
        let refused = |labels: &[_]| metrics.sum("lighter_link_declines_total", labels);
        let all = refused(&[]);
        assert!(all >= 1.0 && all == refused(&[("by", by), ("cause", "budget")]), "{all}");
    }
}

/// Two links between the same sidecars, and memory for one ring: that of the link that rests goes to the one that does not.
/// `own` is what the file of each side says. Returns how many rings each asked to make room.
fn makes_room(own: [String; 2]) -> (World, [f64; 2]) {
    let app = Upstream::echoing();
    let (world, [resting, busy]) = with_two_links(app.address, own);
    let mut peers = [resting, busy].map(Peer::connect);
    let [resting, busy] = PLACES.map(|at| [format!("{at}:{}", world.link.port())]);
    comes_back(&mut peers[0], 4);
    wait_until("it has the ring", || on_rings(&world) == resting && on_shm(&world.reviews) == 1.0);
    wait_until("the link in use has the ring", || {
        // Less is what the two sides say to each other about wires.
        comes_back(&mut peers[1], 10_000);
        on_rings(&world) == busy && on_shm(&world.reviews) == 1.0
    });
    for sidecar in [&world.web, &world.reviews] {
        wait_until("that of the other is given up, and its memory too", || {
            let held = sidecar.metrics().sum("lighter_link_ring_bytes", &[]);
            (fallbacks(sidecar, &[("cause", "room")]), held) == (1.0, RING)
        });
        assert_eq!(fallbacks(sidecar, &[]), 1.0, "and nothing else");
    }
    // Both links stand.
    for peer in &mut peers {
        comes_back(peer, 4);
    }
    assert_eq!(world.links(), (2.0, 2.0));
    world.is_whole();
    let evicted = [&world.web, &world.reviews]
        .map(|sidecar| sidecar.metrics().sum("lighter_link_evictions_total", &[]));
    assert_eq!(evicted[0] + evicted[1], 1.0);
    (world, evicted)
}

/// A caller of two Services that one sidecar is before, each at an address of its own and so by a link of its own, and where
/// each is reached.
fn with_two_links(app: SocketAddr, [callers, called]: [String; 2]) -> (World, [SocketAddr; 2]) {
    let (endpoint, link, root) = (free_address(), free_address(), Root::new());
    let (port, link_port) = (endpoint.port(), link.port());
    let services = [("reviews", &PLACES[..]), ("first", &PLACES[..1]), ("second", &PLACES[1..])];
    let services = services.map(|(name, places)| {
        let endpoint = |at: &&str| {
            format!("{{address: {at}, port: {port}, secure: {{identity: '{REVIEWS}', link: '{at}:{link_port}'}}}}")
        };
        let endpoints: Vec<String> = places.iter().map(endpoint).collect();
        format!(
            "---\napiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80, \
             appProtocol: http}}], endpoints: [{}]}}\n",
            endpoints.join(", ")
        )
    });
    let resources = services.concat() + &policy(&format!("{SHOULD}, backOff: 10ms"));
    let own = format!(
        "service: reviews\nworkers: 1\nlink: '0.0.0.0:{link_port}'\ninbound: [{{listen: '0.0.0.0:{port}', app: '{app}', \
         port: 80}}]\n{called}\n{}",
        root.identity(REVIEWS)
    );
    let reviews = Sidecar::start(&resources, &own);
    let listens = [free_address(), free_address()];
    let own = format!(
        "workers: 1\nlisteners: [{{listen: '{}', service: first, port: 80}}, {{listen: '{}', service: second, port: \
         80}}]\n{callers}\n{}",
        listens[0],
        listens[1],
        root.identity(WEB)
    );
    let web = Sidecar::start(&resources, &own);
    (World { root, web, listen: listens[0], reviews, endpoint, link, resources, wire: "tcp" }, listens)
}

/// Where the links lead that are on shared memory in both directions, as the caller's sidecar says.
fn on_rings(world: &World) -> Vec<String> {
    let links: Value = serde_json::from_str(&metrics::get(world.web.admin, "/links").1).unwrap();
    let links = links["links"].as_array().unwrap().iter();
    let links = links.filter(|link| link["sends_over"] == "shm" && link["receives_over"] == "shm");
    links.map(|link| link["address"].as_str().unwrap().to_owned()).collect()
}

/// The only ring is ended, as if by the system. Returns once both sides are back on TCP.
fn lose_the_ring(world: &World) {
    world.goes_over();
    assert_eq!(rings::end_all(world.reviews.program.pid() as i32).unwrap(), 1);
    wait_until("both ends gave it up", || {
        fallbacks(&world.web, &[]) == 1.0 && fallbacks(&world.reviews, &[]) == 1.0
    });
}

fn left_alone() {
    let app = Upstream::echoing();
    let under = |back_off: &str| {
        let world = World::under("http", app.address, &policy(&format!("{SHOULD}, backOff: {back_off}")));
        let mut peer = Peer::connect(world.listen);
        comes_back(&mut peer, 4);
        lose_the_ring(&world);
        (world, peer)
    };
    // For longer than where the policy says nothing, it carries as much as it can.
    let (world, mut peer) = under("1h");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        comes_back(&mut peer, 100_000);
    }
    for sidecar in [&world.web, &world.reviews] {
        assert_eq!((offers(sidecar), on_shm(sidecar)), (1.0, 0.0));
    }
    world.is_whole();
    let (world, mut peer) = under("10ms");
    wait_until("it is asked for again", || {
        comes_back(&mut peer, 4);
        offers(&world.web) >= 2.0 && offers(&world.reviews) >= 2.0
    });
    world.goes_over();
    world.is_whole();
}

/// Who was asked says how soon that may be done again, whoever asks.
fn too_soon() {
    let app = Upstream::echoing();
    let [soon, late] = ["10ms", "1h"].map(|back_off| policy(&format!("{SHOULD}, backOff: {back_off}")));
    let world = World::under_each("http", app.address, &soon, &late);
    let mut peer = Peer::connect(world.listen);
    comes_back(&mut peer, 4);
    lose_the_ring(&world);
    // So often for longer than where the policy says nothing, with a pause twice as long each time.
    for (by, sidecar) in [("this", &world.reviews), ("peer", &world.web)] {
        wait_until("it is refused again and again, and for nothing else", || {
            comes_back(&mut peer, 4);
            let metrics = sidecar.metrics();
            let refused = |labels: &[_]| metrics.sum("lighter_link_declines_total", labels);
            let all = refused(&[]);
            assert_eq!(all, refused(&[("by", by), ("cause", "too_soon")]));
            all >= 8.0
        });
        assert_eq!((on_shm(sidecar), fallbacks(sidecar, &[])), (0.0, 1.0));
    }
    world.is_whole();
}
