//! A sidecar with a great many links, few of which are on rings. `LIGHTER_FULL=1` makes them a thousand.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::links::World;
use crate::shm::{on_shm, policy};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{at_rest, full, metrics, test, wait_until};
use crate::world::{REVIEWS, Root, WEB};

pub fn tests() -> Vec<Trial> {
    vec![test("of_many_links_those_in_use_have_the_rings_that_there_are", those_in_use_have_the_rings)]
}

/// Rings that there is memory for, with the page that both sides share of each.
const RINGS: usize = 16;
const RING_BYTES: u64 = 1 << 20;
const BUDGET: u64 = RINGS as u64 * (2 * RING_BYTES + 4096);

/// Memory that a link may take at either end in KiB. It takes some 20.
const MOST_KIB: u64 = 64;

/// One sidecar has an address for each link, all of which are endpoints of `reviews`. `early` and `late` are `RINGS` of them
/// each, and what is asked of those makes their links hot.
fn those_in_use_have_the_rings() {
    let links = if full() { 1000 } else { 64 };
    let app = Upstream::echoing();
    let (endpoint, link, root) = (free_address(), free_address(), Root::new());
    let addresses: Vec<_> =
        (0..links).map(|at| Ipv4Addr::new(127, 1, (at / 250) as u8, (at % 250) as u8 + 1)).collect();
    let services =
        [("reviews", &addresses[..]), ("early", &addresses[..RINGS]), ("late", &addresses[RINGS..2 * RINGS])];
    let resources: String =
        services.iter().map(|(name, of)| service(name, of, endpoint.port(), link.port())).collect();
    let resources = resources + &policy("hotBytesPerSecond: 50000, backOff: 50ms");
    let own = format!(
        "service: reviews\nworkers: 1\nlink: '0.0.0.0:{}'\ninbound: [{{listen: '0.0.0.0:{}', app: '{}', port: 80}}]\n{}",
        link.port(),
        endpoint.port(),
        app.address,
        root.identity(REVIEWS)
    );
    let reviews = Sidecar::start(&resources, &own);
    let listens = services.map(|(name, _)| (name, free_address()));
    let listeners: Vec<_> =
        listens.iter().map(|(name, at)| format!("{{listen: '{at}', service: {name}, port: 80}}")).collect();
    let own = format!(
        "workers: 1\nmaxRingBytes: {BUDGET}\nlisteners: [{}]\n{}",
        listeners.join(", "),
        root.identity(WEB)
    );
    let web = Sidecar::start(&resources, &own);
    let [(_, listen), (_, early), (_, late)] = listens;
    let world = World { root, web, listen, reviews, endpoint, link, resources, wire: "tcp" };

    let ends = [("caller", &world.web.program), ("service", &world.reviews.program)];
    // Of its own, and all that is resident: that has pages of code and rings beside it.
    let memory = || at_rest(Duration::from_millis(500), || ends.map(|(_, end)| (end.held(), end.resident())));
    let get = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let mut peer = Peer::connect(listen);
    assert_eq!(peer.exchange(get).0.status(), 200);
    let with_one = memory();
    let all = (links as f64, links as f64);
    for turn in 1.. {
        assert_eq!(peer.exchange(get).0.status(), 200);
        if turn % 50 == 0 && world.links() == all {
            break;
        }
        assert!(turn < 4 * links, "{:?}", world.links());
    }
    assert_eq!((on_shm(&world.web), on_shm(&world.reviews)), (0.0, 0.0));
    let with_all = memory();
    for ((end, _), (one, all)) in ends.iter().zip(with_one.iter().zip(&with_all)) {
        let each = (all.0.saturating_sub(one.0)) / (links as u64 - 1);
        println!(
            "{links} links at the {end}'s end: {} KiB are resident, {each} KiB of them for each link",
            all.1
        );
        assert!(each < MOST_KIB, "{one:?} KiB with one, {all:?} with all");
    }

    world.makes_hot(early, &addresses[..RINGS]);
    println!("with {RINGS} of them on rings: {:?} KiB are resident", memory().map(|(_, resident)| resident));
    assert_eq!(world.evictions(), 0.0);
    world.makes_hot(late, &addresses[RINGS..2 * RINGS]);
    // Each of the late ones found no room, until one of the early ones had made some.
    assert!(world.evictions() >= RINGS as f64);
    assert_eq!(world.links(), all);
    world.is_whole();
}

impl World {
    /// Asks a Service at `listen` until the links to its `addresses`, and no others, are on rings at both ends.
    fn makes_hot(&self, listen: SocketAddr, addresses: &[Ipv4Addr]) {
        let wanted: BTreeSet<_> = addresses.iter().map(|at| format!("{at}:{}", self.link.port())).collect();
        let body = "x".repeat(100_000);
        let request =
            format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut peer = Peer::connect(listen);
        wait_until("its links have the rings", || {
            for _ in 0..RINGS {
                let (head, answer) = peer.exchange(&request);
                assert_eq!((head.status(), answer), (200, Body::Whole(body.clone().into_bytes())));
            }
            let held = self.web.metrics().sum("lighter_link_ring_bytes", &[]);
            assert!(held <= BUDGET as f64, "{held} bytes of rings");
            self.on_rings() == wanted && on_shm(&self.reviews) == RINGS as f64
        });
        assert_eq!(self.web.metrics().sum("lighter_link_ring_bytes", &[]), BUDGET as f64);
    }

    /// Where the links lead that are on shared memory in both directions.
    fn on_rings(&self) -> BTreeSet<String> {
        let links: Value = serde_json::from_str(&metrics::get(self.web.admin, "/links").1).unwrap();
        let links = links["links"].as_array().unwrap().iter();
        let links = links.filter(|link| link["sends_over"] == "shm" && link["receives_over"] == "shm");
        links.map(|link| link["address"].as_str().unwrap().to_owned()).collect()
    }

    /// Rings that were asked to make room for others.
    fn evictions(&self) -> f64 {
        self.web.metrics().sum("lighter_link_evictions_total", &[])
    }
}

/// A Service whose endpoints, which take turns, are `addresses` of one sidecar.
fn service(name: &str, addresses: &[Ipv4Addr], port: u16, link: u16) -> String {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|at| {
            format!("{{address: {at}, port: {port}, secure: {{identity: '{REVIEWS}', link: '{at}:{link}'}}}}")
        })
        .collect();
    format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80, \
         appProtocol: http}}], endpoints: [{}]}}\n---\napiVersion: mesh.lighter.dev/v1\nkind: TrafficPolicy\nmetadata: \
         {{name: {name}}}\nspec: {{targetRefs: [{{kind: Service, name: {name}}}], balancing: {{policy: roundRobin}}}}\n",
        endpoints.join(", ")
    )
}
