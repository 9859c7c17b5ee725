//! An application that is gone while the sidecar beside it is there: over links, what it was asked is asked elsewhere.

use std::net::SocketAddr;

use http::Request;
use libtest_mimic::Trial;

use crate::over::{self, over_quic};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, policy};
use crate::support::{http2, test};
use crate::world::{REVIEWS, Root, WEB, caller};

pub fn tests() -> Vec<Trial> {
    vec![
        test("an_application_killed_alone_costs_no_post", no_post_is_lost),
        test("an_application_killed_alone_costs_no_call", no_call_is_lost),
        test("what_a_policy_tries_again_goes_over_links_whole", policy_is_kept),
        over_quic("an_application_killed_alone_costs_no_post", no_post_is_lost),
        over_quic("an_application_killed_alone_costs_no_call", no_call_is_lost),
        over_quic("what_a_policy_tries_again_goes_over_links_whole", policy_is_kept),
    ]
}

fn no_post_is_lost() {
    let app = Upstream::answering("alive");
    let world = half_dead("http", app.address);
    for _ in 0..50 {
        let request = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 4\r\n\r\nbody";
        let (head, body) = Peer::connect(world.listen).exchange(request);
        assert_eq!((head.status(), body), (200, Body::Whole(b"alive".to_vec())), "{head:?}");
    }
    world.asked_elsewhere(50.0);
}

fn no_call_is_lost() {
    let app = http2::Upstream::echo();
    let world = half_dead("grpc", app.address);
    http2::run(async {
        let client = http2::connect(world.listen).await;
        for _ in 0..50 {
            let call = Request::post("http://reviews/Reviews/Get").header("content-type", "application/grpc");
            let answer = http2::exchange(&client, call.body(b"call".to_vec()).unwrap()).await.unwrap();
            assert_eq!((answer.head.status.as_u16(), answer.body), (200, b"call".to_vec()));
        }
    });
    world.asked_elsewhere(50.0);
}

/// One workload answers 503 to everything.
fn policy_is_kept() {
    let more = "---\n".to_owned()
        + &policy(
            "reviews",
            "retry: {codes: [503], backoff: {base: 1ms}, perTryTimeout: 10s, \
             budget: {percent: 100, minPerSecond: 1000}}",
        );
    let busy = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            peer.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    let well = Upstream::echoing();
    let world = both("http", [well.address, busy.address], &more);
    let content = vec![b'x'; 50_000];
    for _ in 0..20 {
        let mut client = Peer::connect(world.listen);
        client.send("PUT / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 50000\r\n\r\n");
        client.send(&content[..20_000]).send(&content[20_000..]);
        let head = client.expect_head();
        assert_eq!((head.status(), client.body(&head)), (200, Body::Whole(content.clone())), "{head:?}");
    }
    http2::run(async {
        let client = http2::connect(world.listen).await;
        for _ in 0..20 {
            let request = Request::put("http://reviews/").body(content.clone()).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert!(answer.head.status == 200 && answer.body == content, "{:?}", answer.head);
        }
    });
    world.asked_elsewhere(40.0);
}

/// Two workloads of one Service whose sidecars accept links, and their caller.
struct Both {
    workloads: [Sidecar; 2],
    web: Sidecar,
    listen: SocketAddr,
    /// Streams that were opened and accepted before the test began.
    before: (f64, f64),
}

impl Both {
    fn streams(&self) -> (f64, f64) {
        let accepted = self.workloads.iter().map(|workload| over::streams(workload, "acceptor"));
        (over::streams(&self.web, "opener"), accepted.sum())
    }

    /// Something was tried again, both endpoints were reached by links, and these carried each of so many `requests`.
    fn asked_elsewhere(&self, requests: f64) {
        let metrics = self.web.metrics();
        let sum = |name| metrics.sum(name, &[]);
        assert!(sum("lighter_retries_total") >= 1.0 && sum("lighter_link_opened_total") >= 2.0);
        let (opened, accepted) = self.streams();
        assert!(opened - self.before.0 >= requests, "{opened} {:?}", self.before);
        assert_eq!(opened - self.before.0, accepted - self.before.1);
    }
}

/// One of them is without its application.
fn half_dead(protocol: &str, app: SocketAddr) -> Both {
    both(protocol, [app, free_address()], "")
}

/// With these applications. `more`: further resources.
fn both(protocol: &str, apps: [SocketAddr; 2], more: &str) -> Both {
    let root = Root::new();
    let places = apps.map(|app| (app, free_address(), free_address()));
    let endpoints: String = places
        .iter()
        .map(|(_, at, link)| {
            let secure = format!("{{identity: '{REVIEWS}', link: '{link}'}}");
            format!("  - {{address: {}, port: {}, secure: {secure}}}\n", at.ip(), at.port())
        })
        .collect();
    let resources = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: reviews}}\nspec:\n  ports: [{{port: 80, \
         targetPort: 8080, appProtocol: {protocol}}}]\n  endpoints:\n{endpoints}{more}{}",
        over::policy()
    );
    let workloads = places.map(|(app, at, link)| {
        let own = format!(
            "service: reviews\nworkers: 1\nlink: '{link}'\ninbound: [{{listen: '{at}', app: '{app}', port: 80}}]\n{}",
            root.identity(REVIEWS)
        );
        Sidecar::start(&resources, &own)
    });
    let (web, listen) = caller(&resources, &root.identity(WEB));
    over::until_linked(&web, 2, || {
        Peer::connect(listen).exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    });
    let mut both = Both { workloads, web, listen, before: (0.0, 0.0) };
    both.before = both.streams();
    both
}
