//! Between two sidecars that open links to each other. Each test reads at both ends that it was the link that carried it.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use libtest_mimic::Trial;
use rustix::process::Signal;

pub use crate::over::over_quic;
use crate::over::{self, OverQuic};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{self, http2, test, wait_until};
use crate::world::{
    RATINGS, REVIEWS, Root, WEB, bodies_come_back, caller, caller_file, heard, large_answers,
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_link_carries_requests_of_many_callers", a_link_carries_requests),
        test("a_link_tells_the_application_who_calls", a_link_tells_who_calls),
        test("a_link_carries_heads_as_they_were_said", heads_as_they_were_said),
        test("a_link_carries_bodies_whole_both_ways", bodies_pass_whole),
        test("a_link_holds_a_sender_back_and_nobody_else", a_sender_is_held_back),
        test("a_link_carries_a_cut_answer_as_cut", a_cut_answer_stays_cut),
        test("a_link_carries_a_cut_request_as_cut", a_cut_request_stays_cut),
        test("a_link_gives_up_what_its_caller_gives_up", a_caller_gives_up),
        test("a_link_carries_what_ends_with_its_connection", an_answer_that_ends_with_its_connection),
        test("a_link_carries_an_upgraded_connection", an_upgraded_connection),
        test("a_link_carries_on_when_the_called_ends_first", called_ends_first),
        test("a_link_carries_opaque_bytes_as_a_tunnel", opaque_bytes),
        test("a_link_serves_callers_in_http2", callers_in_http2),
        test("a_link_to_somebody_else_carries_nothing", somebody_else),
        test("a_link_leads_to_declared_ports_only", declared_ports_only),
        test("a_policy_holds_on_links_too", a_policy_holds),
        test("a_link_is_left_in_a_drain_without_a_loss", a_drain_without_a_loss),
        over_quic("a_link_carries_requests_of_many_callers", a_link_carries_requests),
        over_quic("a_link_tells_the_application_who_calls", a_link_tells_who_calls),
        over_quic("a_link_carries_heads_as_they_were_said", heads_as_they_were_said),
        over_quic("a_link_carries_bodies_whole_both_ways", bodies_pass_whole),
        over_quic("a_link_holds_a_sender_back_and_nobody_else", a_sender_is_held_back),
        over_quic("a_link_carries_a_cut_answer_as_cut", a_cut_answer_stays_cut),
        over_quic("a_link_carries_a_cut_request_as_cut", a_cut_request_stays_cut),
        over_quic("a_link_gives_up_what_its_caller_gives_up", a_caller_gives_up),
        over_quic("a_link_carries_what_ends_with_its_connection", an_answer_that_ends_with_its_connection),
        over_quic("a_link_carries_an_upgraded_connection", an_upgraded_connection),
        over_quic("a_link_carries_on_when_the_called_ends_first", called_ends_first),
        over_quic("a_link_carries_opaque_bytes_as_a_tunnel", opaque_bytes),
        over_quic("a_link_serves_callers_in_http2", callers_in_http2),
        over_quic("a_link_leads_to_declared_ports_only", declared_ports_only),
        over_quic("a_link_is_left_in_a_drain_without_a_loss", a_drain_without_a_loss),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

/// A caller and a workload whose sidecar accepts links.
pub struct World {
    pub root: Root,
    pub web: Sidecar,
    pub listen: SocketAddr,
    pub reviews: Sidecar,
    /// Where the workload's sidecar takes connections, and links.
    pub endpoint: SocketAddr,
    pub link: SocketAddr,
    pub resources: String,
    /// What carries requests.
    pub wire: &'static str,
}

impl World {
    pub fn before(protocol: &str, app: SocketAddr) -> Self {
        World::with(protocol, app, REVIEWS, "")
    }

    /// `identity`: who the endpoint has to be. `more`: resources beside the Service.
    fn with(protocol: &str, app: SocketAddr, identity: &str, more: &str) -> Self {
        World::with_each(protocol, app, identity, "", more)
    }

    /// Where links go over QUIC, with `more` at the workload's end.
    pub fn quic_with(protocol: &str, app: SocketAddr, more: &str) -> Self {
        let _over = OverQuic::begin();
        World::with(protocol, app, REVIEWS, more)
    }

    /// With `policy` at both ends.
    pub fn under(protocol: &str, app: SocketAddr, policy: &str) -> Self {
        World::under_each(protocol, app, policy, policy)
    }

    /// With a policy at the caller's end, and one at the other.
    pub fn under_each(protocol: &str, app: SocketAddr, caller: &str, called: &str) -> Self {
        World::with_each(protocol, app, REVIEWS, caller, called)
    }

    /// With `policy` at both ends, and the caller's sidecar in a mount namespace where its kernel says that it was started
    /// another time.
    pub fn elsewhere(protocol: &str, app: SocketAddr, policy: &str) -> Self {
        World::of(protocol, app, REVIEWS, policy, policy, |resources, own, root| {
            let boot_id = root.folder().join("boot_id");
            std::fs::write(&boot_id, "00000000-0000-4000-8000-000000000000\n").unwrap();
            let mount = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
            let wrap = ["unshare", "--mount", "sh", "-c", mount, boot_id.to_str().unwrap()];
            Sidecar::start_in(&wrap, resources, own)
        })
    }

    fn with_each(protocol: &str, app: SocketAddr, identity: &str, callers: &str, more: &str) -> Self {
        World::of(protocol, app, identity, callers, more, |resources, own, _| Sidecar::start(resources, own))
    }

    fn of(
        protocol: &str,
        app: SocketAddr,
        identity: &str,
        callers: &str,
        more: &str,
        start_caller: impl FnOnce(&str, &str, &Root) -> Sidecar,
    ) -> Self {
        let root = Root::new();
        let (endpoint, link) = (free_address(), free_address());
        let resources = resources(protocol, endpoint, link, identity);
        let (quic, policy) = (over::is_over_quic(), over::policy());
        let own = format!(
            "service: reviews\nworkers: 1\nlink: '{link}'\ndrainDeadline: 5s\ninbound: [{{listen: '{endpoint}', app: \
             '{app}', port: 80}}]\n{}",
            root.identity(REVIEWS)
        );
        let reviews = Sidecar::start(&(resources.clone() + more + &policy), &own);
        let (listen, warm) = (free_address(), free_address());
        let own = caller_file(listen, &root.identity(WEB));
        let (other, own) = if quic { with_another(&own, warm, link, identity) } else { (String::new(), own) };
        let web = start_caller(&(resources.clone() + callers + &policy + &other), &own, &root);
        let world = World { root, web, listen, reviews, endpoint, link, resources, wire: over::wire() };
        if quic {
            // Whom it asks for is not there: what matters is that it opened a link.
            assert_eq!(Peer::connect(warm).exchange(GET).0.status() / 100, 5);
            wait_until("new requests go over QUIC", || world.is_on("quic") && world.switches("quic") == 1.0);
        }
        world
    }

    /// How often new requests went over to links of this kind.
    pub fn switches(&self, to: &str) -> f64 {
        self.web.metrics().sum("lighter_quic_switches_total", &[("to", to)])
    }

    /// Whether both ends have one link over `wire`.
    pub fn is_on(&self, wire: &str) -> bool {
        let on = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_link_wire", &[("wire", wire)]);
        on(&self.web) == 1.0 && on(&self.reviews) == 1.0
    }

    /// Streams that the caller's sidecar opened, and those that the workload's accepted.
    pub fn streams(&self) -> (f64, f64) {
        let streams =
            if self.wire == "quic" { "lighter_quic_streams_total" } else { "lighter_link_streams_total" };
        let of = |sidecar: &Sidecar, side| sidecar.metrics().sum(streams, &[("side", side)]);
        (of(&self.web, "opener"), of(&self.reviews, "acceptor"))
    }

    /// Links that either opened or accepted.
    pub fn links(&self) -> (f64, f64) {
        let of = |sidecar: &Sidecar, side| match self.wire {
            "quic" => {
                let labels = [("side", side), ("outcome", "done")];
                sidecar.metrics().sum("lighter_quic_handshakes_total", &labels)
            }
            _ => sidecar.metrics().sum("lighter_link_opened_total", &[("side", side)]),
        };
        (of(&self.web, "opener"), of(&self.reviews, "acceptor"))
    }

    /// Streams that did not end by themselves, as `sidecar` saw it. Those of the beginning over TCP, to nobody, do not count.
    pub fn resets(&self, sidecar: &Sidecar) -> f64 {
        let of = |labels: &[_]| sidecar.metrics().sum("lighter_link_resets_total", labels);
        if self.wire == "quic" { of(&[]) - of(&[("code", "refused")]) } else { of(&[]) }
    }

    /// Streams that did not end by themselves, as the workload's sidecar saw it.
    pub fn cuts(&self, code: &str) -> f64 {
        self.reviews.metrics().sum("lighter_link_resets_total", &[("code", code)])
    }
}

/// The Service `reviews` whose endpoint is `identity` and accepts links.
pub fn resources(protocol: &str, endpoint: SocketAddr, link: SocketAddr, identity: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: reviews}}\nspec:\n  ports: [{{port: 80, \
         targetPort: 8080, appProtocol: {protocol}}}]\n  endpoints: [{{address: {}, port: {}, secure: {{identity: \
         '{identity}', link: '{link}'}}}}]\n",
        endpoint.ip(),
        endpoint.port()
    )
}

/// Another Service behind the same link, none of whose endpoints is there, and `own` with a listener for it at `listen`.
fn with_another(own: &str, listen: SocketAddr, link: SocketAddr, identity: &str) -> (String, String) {
    let resources = resources("http", free_address(), link, identity).replace("name: reviews", "name: other");
    let listener = format!("listeners: [{{listen: '{listen}', service: other, port: 80}}, ");
    (format!("---\n{resources}"), own.replace("listeners: [", &listener))
}

fn a_link_carries_requests() {
    let app = Upstream::answering("again");
    let world = World::before("http", app.address);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let listen = world.listen;
            std::thread::spawn(move || {
                let mut peer = Peer::connect(listen);
                for _ in 0..25 {
                    let (head, body) = peer.exchange(GET);
                    assert_eq!((head.status(), body), (200, Body::Whole(b"again".into())));
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(world.streams(), (200.0, 200.0));
    assert_eq!(world.links(), (1.0, 1.0));
    let labels = [("direction", "inbound"), ("service", "default/reviews"), ("code_class", "2xx")];
    assert_eq!(world.reviews.metrics().sum("lighter_requests_total", &labels), 200.0);
    // Its frames are counted at both ends.
    for sidecar in [&world.web, &world.reviews] {
        for direction in ["sent", "received"] {
            let labels = [("direction", direction), ("wire", world.wire)];
            wait_until("its bytes are counted", || {
                sidecar.metrics().sum("lighter_link_bytes_total", &labels) > 200.0 * 10.0
            });
        }
        assert!(!sidecar.metrics().has("lighter_link_faults_total", &[]));
    }
}

fn a_link_tells_who_calls() {
    let app = Upstream::answering("five stars");
    let world = World::before("http", app.address);
    let request = "GET /r HTTP/1.1\r\nHost: reviews\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.lighter/forged\r\n\
                   X-Lighter-Endpoint: 127.0.0.1:1\r\nX-Lighter-Error: denied\r\n\r\n";
    let (head, body) = Peer::connect(world.listen).exchange(request);
    assert_eq!((head.status(), body), (200, Body::Whole(b"five stars".into())));
    let received = app.received();
    assert!(received.contains(&format!("x-forwarded-client-cert: URI={WEB}\r\n")), "{received}");
    assert!(!received.contains("forged"), "{received}");
    assert!(!received.to_ascii_lowercase().contains("x-lighter-"), "{received}");
    assert_eq!(world.streams(), (1.0, 1.0));
}

fn heads_as_they_were_said() {
    let app = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            let Body::Whole(_) = peer.body(&head) else { return };
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
            peer.send(
                "HTTP/1.1 200 OK\r\nX-CamelCase: Yes\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n",
            );
        }
    });
    let world = World::before("http", app.address);
    let mut peer = Peer::connect(world.listen);
    for _ in 0..2 {
        peer.send(
            "POST /Path?Q=%20x HTTP/1.1\r\nHost: reviews\r\nX-MixedCase: a  b\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Behind: z\r\n\r\n",
        );
        let early = peer.expect_head();
        assert_eq!((early.status(), early.get("link")), (103, Some("</a.css>")));
        let head = peer.expect_head();
        assert_eq!((head.status(), head.get("x-camelcase")), (200, Some("Yes")));
        assert_eq!(peer.body(&head), Body::Whole(b"hello".into()));
    }
    let received = app.received();
    for said in ["POST /Path?Q=%20x HTTP/1.1\r\n", "X-MixedCase: a  b\r\n"] {
        assert!(received.contains(said), "{received}");
    }
    assert_eq!(world.streams(), (2.0, 2.0));
}

fn bodies_pass_whole() {
    let app = Upstream::echoing();
    let world = World::before("http", app.address);
    bodies_come_back(world.listen);
    assert_eq!(world.streams(), (3.0, 3.0));
}

fn a_sender_is_held_back() {
    const BYTES: u64 = 64 << 20;
    let app = large_answers(BYTES);
    let world = World::before("http", app.address);
    let mut slow = Peer::connect(world.listen);
    slow.send(GET);
    assert_eq!(slow.expect_head().status(), 200);
    let held = support::at_rest(Duration::from_millis(200), || {
        world.reviews.program.resident() + world.web.program.resident()
    });
    assert!(held < 100 * 1024, "{held} KiB");
    // The others on the same link go on.
    let mut other = Peer::connect(world.listen);
    for _ in 0..10 {
        assert_eq!(
            other.exchange("GET /small HTTP/1.1\r\nHost: reviews\r\n\r\n").1,
            Body::Whole(b"ok".into())
        );
    }
    assert_eq!(slow.skip(BYTES), BYTES);
    assert_eq!((world.streams(), world.links()), ((11.0, 11.0), (1.0, 1.0)));
}

fn a_cut_answer_stays_cut() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let app = Upstream::start(move |mut peer, _| {
            if peer.head().is_some() {
                peer.send(answer);
            }
        });
        let world = World::before("http", app.address);
        let (head, body) = Peer::connect(world.listen).exchange(GET);
        assert_eq!((head.status(), body), (200, Body::Cut(b"half".into())));
        wait_until("the cut is counted where it came from", || {
            let labels = [("cause", "upstream_truncated")];
            world.reviews.metrics().sum("lighter_requests_total", &labels) == 1.0
                && world.cuts("internal") == 1.0
        });
    }
}

fn a_cut_request_stays_cut() {
    let (tell, told) = std::sync::mpsc::channel();
    let app = Upstream::start(move |mut peer, _| {
        let head = peer.head().unwrap();
        let _ = tell.send(peer.body(&head));
    });
    let world = World::before("http", app.address);
    let mut peer = Peer::connect(world.listen);
    peer.send("POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    wait_until("the request is on its way", || app.received().contains("half"));
    peer.finish();
    drop(peer);
    // The end of what it sent is not taken for the end of the request.
    assert_eq!(told.recv_timeout(Duration::from_secs(10)).unwrap(), Body::Cut(b"half".into()));
    assert_eq!(world.streams(), (1.0, 1.0));
}

fn a_caller_gives_up() {
    let (tell, told) = std::sync::mpsc::channel();
    let app = Upstream::start(move |mut peer, _| {
        if peer.head().is_some() {
            // Never answers: hears only that nobody waits any more.
            let _ = tell.send(peer.rest());
        }
    });
    let world = World::before("http", app.address);
    let mut peer = Peer::connect(world.listen);
    peer.send(GET);
    wait_until("the request arrived", || app.received().contains("GET"));
    peer.reset();
    assert_eq!(told.recv_timeout(Duration::from_secs(10)).unwrap(), b"");
    wait_until("the stream was cut off", || world.cuts("internal") + world.cuts("cancelled") == 1.0);
    // The link itself goes on.
    assert_eq!(world.links(), (1.0, 1.0));
    assert_eq!(world.reviews.metrics().sum("lighter_link_wire", &[("wire", world.wire)]), 1.0);
}

fn an_answer_that_ends_with_its_connection() {
    let app = Upstream::start(|mut peer, _| {
        if peer.head().is_some() {
            peer.send("HTTP/1.0 200 OK\r\n\r\nall of it");
        }
    });
    let world = World::before("http", app.address);
    let (head, body) = Peer::connect(world.listen).exchange(GET);
    assert_eq!((head.status(), body), (200, Body::Whole(b"all of it".into())));
    assert_eq!(world.streams(), (1.0, 1.0));
}

fn an_upgraded_connection() {
    let app = Upstream::start(|mut peer, _| {
        if peer.head().is_none() {
            return;
        }
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello");
        while let Some(line) = peer.line() {
            peer.send(format!("{line}\r\n"));
        }
        peer.send("bye\r\n");
    });
    let world = World::before("http", app.address);
    let mut peer = Peer::connect(world.listen);
    peer.send("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 101);
    assert_eq!(peer.bytes(5), b"hello");
    for word in ["one", "two"] {
        peer.send(format!("{word}\r\n"));
        assert_eq!(peer.line().as_deref(), Some(word));
    }
    // The end of one way is passed on, and leaves the other open.
    peer.finish();
    assert_eq!(peer.rest(), b"bye\r\n");
    assert_eq!(world.streams(), (1.0, 1.0));
}

fn called_ends_first() {
    let (tell, told) = std::sync::mpsc::channel();
    let app = Upstream::start(move |mut peer, _| {
        if peer.head().is_some() {
            peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nbye");
            peer.finish();
            let _ = tell.send(peer.rest());
        }
    });
    let world = World::before("http", app.address);
    let mut peer = Peer::connect(world.listen);
    peer.send("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 101);
    assert_eq!(peer.rest(), b"bye");
    peer.send("last words").finish();
    assert_eq!(told.recv_timeout(Duration::from_secs(10)).unwrap(), b"last words");
    assert_eq!(world.streams(), (1.0, 1.0));
}

fn opaque_bytes() {
    let app = Upstream::start(|mut peer, _| {
        peer.send("welcome\r\n");
        while let Some(line) = peer.line() {
            peer.send(format!("{line}\r\n"));
        }
        peer.send("bye\r\n");
    });
    let world = World::before("tcp", app.address);
    let mut peer = Peer::connect(world.listen);
    assert_eq!(peer.line().as_deref(), Some("welcome"));
    peer.send("one\r\n");
    assert_eq!(peer.line().as_deref(), Some("one"));
    peer.finish();
    assert_eq!(peer.rest(), b"bye\r\n");
    assert_eq!((world.streams(), world.links()), ((1.0, 1.0), (1.0, 1.0)));
    let labels = [("direction", "inbound"), ("service", "default/reviews")];
    wait_until("it is counted", || world.reviews.metrics().sum("lighter_connections_total", &labels) == 1.0);
}

fn callers_in_http2() {
    let app = Upstream::answering("hello");
    let world = World::before("http", app.address);
    // What the caller speaks is not what the application has to speak.
    http2::run(async {
        let client = http2::connect(world.listen).await;
        for _ in 0..5 {
            let request = Request::get("http://reviews/").body(vec![]).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert_eq!((answer.head.status.as_u16(), &*answer.body), (200, &b"hello"[..]));
        }
    });
    assert_eq!(world.streams(), (5.0, 5.0));
}

fn somebody_else() {
    let app = Upstream::answering("never");
    let world = World::with("http", app.address, RATINGS, "");
    let (head, _) = Peer::connect(world.listen).exchange(GET);
    assert_eq!((head.status(), head.cause()), (502, Some("tls_identity")));
    // And a caller whom nobody vouches for.
    let foreign = Root::new();
    let (certificate, key) = foreign.issue(WEB);
    let identity = format!(
        "identity: {{certificate: {}, key: {}, bundle: {}}}\n",
        certificate.display(),
        key.display(),
        world.root.bundle().display()
    );
    let resources = world.resources.replace(RATINGS, REVIEWS);
    let (_caller, listen) = caller(&resources, &identity);
    let (head, _) = Peer::connect(listen).exchange(GET);
    assert_eq!(head.status() / 100, 5);
    assert_eq!(app.connections(), 0);
    assert_eq!(world.links(), (0.0, 0.0));
    wait_until("both refusals are counted", || {
        world.reviews.metrics().sum("lighter_link_refused_total", &[]) >= 2.0
    });
}

fn declared_ports_only() {
    // What is reached would say so; the endpoint that is said is no port of the workload.
    let (app, secret) = (Upstream::answering("five stars"), Upstream::answering("secret"));
    let world = World::before("http", app.address);
    let admin = free_address();
    for meant in [secret.address, admin] {
        for protocol in ["http", "tcp"] {
            let link = world.resources.split("link: '").nth(1).unwrap().split('\'').next().unwrap();
            let resources = resources(protocol, meant, link.parse().unwrap(), REVIEWS);
            let (web, listen) = caller(&(resources + &over::policy()), &world.root.identity(WEB));
            let ask = || {
                let heard = heard(listen);
                assert!(!heard.contains("secret") && !heard.starts_with("HTTP/1.1 2"), "{heard}");
            };
            over::until_linked(&web, 1, ask);
            let ended = || {
                let refused = web.metrics().sum("lighter_link_resets_total", &[("code", "refused")]);
                (refused, over::streams(&web, "opener"))
            };
            let before = ended();
            ask();
            let after = ended();
            assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
        }
    }
    assert_eq!((secret.connections(), app.connections()), (0, 0));
}

fn a_policy_holds() {
    let policy = format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: web-only}}\nspec: \
         {{targetRefs: [{{kind: Service, name: reviews}}], rules: [{{from: [{{principals: ['{WEB}']}}]}}]}}\n"
    );
    let app = Upstream::answering("for web");
    for protocol in ["http", "tcp"] {
        let world = World::with(protocol, app.address, REVIEWS, &policy);
        let before = app.connections();
        let (_ratings, listen) = caller(&world.resources, &world.root.identity(RATINGS));
        let heard = heard(listen);
        assert!(!heard.contains("for web"), "{heard}");
        assert_eq!(heard.contains("denied"), protocol == "http", "{heard}");
        assert_eq!(app.connections(), before);
        assert_eq!(Peer::connect(world.listen).exchange(GET).1, Body::Whole(b"for web".into()));
    }
}

fn a_drain_without_a_loss() {
    let app = Upstream::answering("served");
    let mut world = World::before("http", app.address);
    let mut peer = Peer::connect(world.listen);
    assert_eq!(peer.exchange(GET).0.status(), 200);
    world.reviews.program.signal(Signal::TERM);
    // While it asks its callers to go, and as long as it takes what they open until they have heard it, none is lost.
    let mut served = 0;
    loop {
        let (head, _) = peer.exchange(GET);
        if head.status() != 200 {
            // It listens no more: that is said, and nothing is cut.
            assert_eq!(head.status() / 100, 5);
            break;
        }
        served += 1;
    }
    assert!(served > 0);
    assert!(world.reviews.program.wait().success());
    let web = world.web.metrics();
    assert_eq!(web.sum("lighter_link_resets_total", &[("code", "lost")]), 0.0);
    assert!(!web.has("lighter_link_faults_total", &[]));
}
