//! An application that is gone while the sidecar beside it is there: over links, what it was asked is asked elsewhere.

use std::net::SocketAddr;

use http::Request;
use libtest_mimic::Trial;

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
    ]
}

fn no_post_is_lost() {
    let app = Upstream::answering("alive");
    let (_workloads, web, listen) = half_dead("http", app.address);
    for _ in 0..50 {
        let request = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 4\r\n\r\nbody";
        let (head, body) = Peer::connect(listen).exchange(request);
        assert_eq!((head.status(), body), (200, Body::Whole(b"alive".to_vec())), "{head:?}");
    }
    assert!(was_moved(&web));
}

fn no_call_is_lost() {
    let app = http2::Upstream::echo();
    let (_workloads, web, listen) = half_dead("grpc", app.address);
    http2::run(async {
        let client = http2::connect(listen).await;
        for _ in 0..50 {
            let call = Request::post("http://reviews/Reviews/Get").header("content-type", "application/grpc");
            let answer = http2::exchange(&client, call.body(b"call".to_vec()).unwrap()).await.unwrap();
            assert_eq!((answer.head.status.as_u16(), answer.body), (200, b"call".to_vec()));
        }
    });
    assert!(was_moved(&web));
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
    let (_workloads, web, listen) = both("http", [well.address, busy.address], &more);
    let content = vec![b'x'; 50_000];
    for _ in 0..20 {
        let mut client = Peer::connect(listen);
        client.send("PUT / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 50000\r\n\r\n");
        client.send(&content[..20_000]).send(&content[20_000..]);
        let head = client.expect_head();
        assert_eq!((head.status(), client.body(&head)), (200, Body::Whole(content.clone())), "{head:?}");
    }
    http2::run(async {
        let client = http2::connect(listen).await;
        for _ in 0..20 {
            let request = Request::put("http://reviews/").body(content.clone()).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert!(answer.head.status == 200 && answer.body == content, "{:?}", answer.head);
        }
    });
    assert!(was_moved(&web));
}

/// Two workloads of one Service whose sidecars accept links, one of them without its application, and their caller.
fn half_dead(protocol: &str, app: SocketAddr) -> ([Sidecar; 2], Sidecar, SocketAddr) {
    both(protocol, [app, free_address()], "")
}

/// Two workloads of one Service whose sidecars accept links, with these applications, and their caller. `more`: further
/// resources.
fn both(protocol: &str, apps: [SocketAddr; 2], more: &str) -> ([Sidecar; 2], Sidecar, SocketAddr) {
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
         targetPort: 8080, appProtocol: {protocol}}}]\n  endpoints:\n{endpoints}{more}"
    );
    let workloads = places.map(|(app, at, link)| {
        let own = format!(
            "service: reviews\nworkers: 1\nlink: '{link}'\ninbound: [{{listen: '{at}', app: '{app}', port: 80}}]\n{}",
            root.identity(REVIEWS)
        );
        Sidecar::start(&resources, &own)
    });
    let (web, listen) = caller(&resources, &root.identity(WEB));
    (workloads, web, listen)
}

/// Whether something was tried again, and both endpoints were reached by links.
fn was_moved(web: &Sidecar) -> bool {
    let metrics = web.metrics();
    let sum = |name| metrics.sum(name, &[]);
    sum("lighter_retries_total") >= 1.0 && sum("lighter_link_opened_total") >= 2.0
}
