//! How long links live between two sidecars: no longer than what was proved on them.

use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::links::World;
use crate::over::{self, over_quic};
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{test, wait_until};
use crate::world::{RATINGS, REVIEWS, Root, WEB, caller};

pub fn tests() -> Vec<Trial> {
    vec![
        test("another_certificate_gets_another_link_and_fails_no_request", another_certificate),
        test("a_link_to_somebody_who_is_no_longer_trusted_is_left", no_longer_trusted),
        test("a_link_ends_with_the_certificate_on_it", ends_with_its_certificate),
        test("a_sidecar_that_stops_leaves_its_links", a_sidecar_that_stops),
        over_quic("another_certificate_gets_another_link_and_fails_no_request", another_certificate),
        over_quic("a_link_to_somebody_who_is_no_longer_trusted_is_left", no_longer_trusted),
        over_quic("a_link_ends_with_the_certificate_on_it", ends_with_its_certificate),
        over_quic("a_sidecar_that_stops_leaves_its_links", a_sidecar_that_stops),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

fn open(sidecar: &Sidecar, side: &str) -> f64 {
    sidecar.metrics().sum("lighter_link_open", &[("side", side)])
}

/// Those of them that carry requests.
fn carrying(sidecar: &Sidecar, side: &str) -> f64 {
    sidecar.metrics().sum("lighter_link_wire", &[("side", side), ("wire", over::wire())])
}

fn another_certificate() {
    let app = Upstream::answering("again");
    let world = World::before("http", app.address);
    let mut peer = Peer::connect(world.listen);
    // The called one's, then the caller's: either side asks the other to come by another link.
    for (id, links) in [(REVIEWS, 2.0), (WEB, 3.0)] {
        assert_eq!(peer.exchange(GET).1, Body::Whole(b"again".into()));
        world.root.issue(id);
        wait_until("a new link has taken over", || {
            let (head, body) = peer.exchange(GET);
            assert_eq!((head.status(), body), (200, Body::Whole(b"again".into())));
            let labels = [("side", "acceptor"), ("wire", world.wire)];
            let open = world.reviews.metrics().sum("lighter_link_wire", &labels);
            world.links() == (links, links) && open == 1.0
        });
    }
    assert_eq!(world.resets(&world.web), 0.0);
    let web = world.web.metrics();
    assert!(
        !web.has("lighter_link_faults_total", &[])
            && !world.reviews.metrics().has("lighter_link_faults_total", &[])
    );
}

fn no_longer_trusted() {
    let app = Upstream::answering("again");
    let world = World::before("http", app.address);
    // Another one than the caller of this world, whose link is to stay as it is.
    let (certificate, key) = world.root.issue(RATINGS);
    let bundle = world.root.folder().join("of-web.pem");
    std::fs::copy(world.root.bundle(), &bundle).unwrap();
    let identity = format!(
        "identity: {{certificate: {}, key: {}, bundle: {}}}\n",
        certificate.display(),
        key.display(),
        bundle.display()
    );
    let others = carrying(&world.reviews, "acceptor");
    let (web, listen) = caller(&(world.resources.clone() + &over::policy()), &identity);
    let mut peer = Peer::connect(listen);
    over::until_linked(&web, 1, || assert_eq!(peer.exchange(GET).0.status(), 200));
    assert_eq!(peer.exchange(GET).0.status(), 200);
    assert_eq!((carrying(&web, "opener"), carrying(&world.reviews, "acceptor")), (1.0, others + 1.0));
    // Another root takes the place of the one that vouches for the endpoint.
    std::fs::copy(Root::new().bundle(), &bundle).unwrap();
    wait_until("nobody is reached any more", || {
        let (head, _) = Peer::connect(listen).exchange(GET);
        assert!(head.status() == 200 || head.cause() == Some("tls_identity"), "{:?}", head.cause());
        head.status() != 200
    });
    wait_until("the link is gone at both ends", || {
        open(&web, "opener") == 0.0 && carrying(&world.reviews, "acceptor") == others
    });
}

fn ends_with_its_certificate() {
    let app = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            if head.get("upgrade").is_none() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello",
            );
            peer.rest();
            return;
        }
    });
    let world = World::before("http", app.address);
    let others = carrying(&world.reviews, "acceptor");
    // Over QUIC there is a link over TCP before.
    let lives = if over::is_over_quic() { 9 } else { 6 };
    let (certificate, key) = world.root.issue_for(RATINGS, Duration::from_secs(lives));
    let identity = format!(
        "identity: {{certificate: {}, key: {}, bundle: {}}}\n",
        certificate.display(),
        key.display(),
        world.root.bundle().display()
    );
    let (web, listen) = caller(&(world.resources.clone() + &over::policy()), &identity);
    let mut peer = Peer::connect(listen);
    over::until_linked(&web, 1, || assert_eq!(peer.exchange(GET).0.status(), 200));
    let streams = (over::streams(&web, "opener"), over::streams(&world.reviews, "acceptor"));
    peer.send("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 101);
    assert_eq!(peer.bytes(5), b"hello");
    let now = (over::streams(&web, "opener"), over::streams(&world.reviews, "acceptor"));
    assert_eq!(now, (streams.0 + 1.0, streams.1 + 1.0));
    // It would go on for ever.
    assert_eq!(peer.rest(), b"");
    assert_eq!(web.metrics().sum("lighter_link_resets_total", &[("code", "lost")]), 1.0);
    wait_until("the link is gone at both ends", || {
        open(&web, "opener") == 0.0 && carrying(&world.reviews, "acceptor") == others
    });
}

fn a_sidecar_that_stops() {
    let app = Upstream::answering("served");
    let mut world = World::before("http", app.address);
    assert_eq!(Peer::connect(world.listen).exchange(GET).0.status(), 200);
    let links = open(&world.reviews, "acceptor");
    assert!(links >= 1.0);
    world.web.program.signal(Signal::TERM);
    assert!(world.web.program.wait().success());
    wait_until("it is gone", || open(&world.reviews, "acceptor") == 0.0);
    let reviews = world.reviews.metrics();
    assert!(!reviews.has("lighter_link_faults_total", &[]));
    assert_eq!(world.resets(&world.reviews), 0.0);
    // It was told, and did not have to guess.
    assert_eq!(reviews.sum("lighter_link_left_total", &[("side", "acceptor"), ("by", "peer")]), links);
}
