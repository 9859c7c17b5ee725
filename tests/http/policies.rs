//! What policies do to single requests, each by its file under `examples/policies`: numbers are made small, and addresses are
//! those of the test.

use std::net::SocketAddr;

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::{Body, Head, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{example, http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("policies::a_route_lets_so_many_requests_pass_for_each_key", rate_limit_of_a_route),
        test("policies::a_service_lets_so_many_requests_pass_for_all_callers", rate_limit_of_a_service),
        test("policies::a_call_of_grpc_is_told_that_a_limit_is_reached", rate_limit_of_grpc),
        test("policies::a_changed_limit_holds_for_connections_that_are_open", change),
        test("policies::requests_that_ask_for_it_fail", abort),
        test("policies::requests_that_ask_for_it_wait", delay),
        test("policies::what_waits_leaves_when_its_client_does", delay_abandoned),
        test("policies::requests_that_are_too_large_are_refused", sizes),
        test("policies::a_body_that_grows_too_large_never_arrives_whole", growing),
        test("policies::a_body_that_grows_too_large_over_http_2_is_refused", growing_http_2),
    ]
}

/// The file of a policy, with its one endpoint at `endpoint`, and these words in place of others.
fn file(name: &str, endpoint: SocketAddr, words: &[(&str, &str)]) -> String {
    let mut text = example::policy(name, &[endpoint]);
    for (old, new) in words {
        assert!(text.contains(old), "{name} has no {old:?}");
        text = text.replace(old, new);
    }
    text
}

/// The sidecar of `shop` before its application, and where callers reach it.
fn callee(resources: &str, app: SocketAddr) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let own =
        format!("service: shop\ninbound: [{{listen: '{listen}', app: '{app}', port: 80}}]\nworkers: 2\n");
    (Sidecar::start(resources, &own), listen)
}

fn get(client: &mut Peer, path: &str, fields: &str) -> Head {
    client.exchange(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n")).0
}

fn refused(sidecar: &Sidecar, labels: &[(&str, &str)]) -> f64 {
    sidecar.metrics().sum("lighter_requests_total", labels)
}

/// No token comes while a test runs.
const SLOWLY: (&str, &str) = ("interval: 1s", "interval: 1h");

fn rate_limit_of_a_route() {
    let upstream = Upstream::answering("found");
    let (sidecar, at) =
        example::running(&file("rate-limit", upstream.address, &[SLOWLY, ("requests: 5,", "requests: 3,")]));
    let mut client = Peer::connect(at);
    for key in ["a", "b"] {
        let key = format!("X-Api-Key: {key}\r\n");
        for _ in 0..3 {
            assert_eq!(get(&mut client, "/search?q=1", &key).status(), 200);
        }
        // Another connection, perhaps another worker: the same limit.
        for client in [&mut client, &mut Peer::connect(at)] {
            let head = get(client, "/search?q=1", &key);
            assert_eq!((head.status(), head.cause()), (429, Some("rate_limited")));
            let wait: u64 = head.get("retry-after").unwrap().parse().unwrap();
            assert!((1..=1200).contains(&wait), "{wait}");
        }
        // The rule beside it has no limit here.
        assert_eq!(get(&mut client, "/", &key).status(), 200);
    }
    let labels = [("direction", "outbound"), ("route", "default/shop/search"), ("cause", "rate_limited")];
    wait_until("what is refused is counted", || refused(&sidecar, &labels) == 4.0);
    assert_eq!(refused(&sidecar, &[("cause", "rate_limited")]), 4.0);
    assert_eq!(upstream.received().matches("GET /search").count(), 6);
}

fn rate_limit_of_a_service() {
    let app = Upstream::answering("served");
    let words = [SLOWLY, ("requests: 100,", "requests: 3,"), ("burst: 200", "burst: 4")];
    let (sidecar, at) = callee(&file("rate-limit", app.address, &words), app.address);
    let statuses: Vec<u16> = (0..6).map(|_| get(&mut Peer::connect(at), "/search", "").status()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    let labels = [("direction", "inbound"), ("service", "default/shop"), ("cause", "rate_limited")];
    wait_until("what is refused is counted", || refused(&sidecar, &labels) == 2.0);
    assert_eq!(app.received().matches("GET /search").count(), 4);
}

fn rate_limit_of_grpc() {
    let app = http2::Upstream::echo();
    let words = [SLOWLY, ("requests: 50,", "requests: 2,"), ("appProtocol: http", "appProtocol: grpc")];
    let (_sidecar, at) = callee(
        &file("rate-limit", app.address, &words)
            .replace("HTTPRoute", "GRPCRoute")
            .replace("      matches: [{path: {type: PathPrefix, value: /search}}]\n", ""),
        app.address,
    );
    http2::run(async {
        let client = http2::connect(at).await;
        for (number, expected) in [None, None, Some("8")].into_iter().enumerate() {
            let call = http::Request::post("http://shop/shop.Catalog/Get")
                .header("content-type", "application/grpc");
            let answer = http2::exchange(&client, call.body(b"x".to_vec()).unwrap()).await.unwrap();
            let field = |name: &str| answer.head.headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(answer.head.status, 200);
            assert_eq!(field("grpc-status"), expected, "{number}");
            assert_eq!(field("x-lighter-error"), expected.map(|_| "rate_limited"));
            assert_eq!(field("retry-after").is_some(), expected.is_some());
        }
    });
}

fn change() {
    let upstream = Upstream::answering("served");
    let with = |requests: &str| {
        let burst = format!("burst: {requests}");
        let words = [SLOWLY, ("requests: 5,", &format!("requests: {requests},")), ("burst: 200", &burst)];
        file("rate-limit", upstream.address, &words)
    };
    for (sidecar, at) in [example::running(&with("2")), callee(&with("2"), upstream.address)] {
        let before = upstream.connections();
        let mut client = Peer::connect(at);
        let mut statuses = |count: usize| -> Vec<u16> {
            (0..count).map(|_| get(&mut client, "/search", "X-Api-Key: a\r\n").status()).collect()
        };
        assert_eq!(statuses(3), [200, 200, 429]);
        let build = || sidecar.metrics().sum("lighter_config_loads_total", &[("outcome", "applied")]);
        let loaded = build();
        sidecar.apply(&with("4"));
        wait_until("the change is in force", || build() > loaded);
        // The same connection, to the same connection; and the new limit's bucket is full.
        assert_eq!(statuses(5), [200, 200, 200, 200, 429]);
        // A change of something else empties no bucket and fills none.
        let loaded = build();
        sidecar.apply(&(with("4") + "---\n" + &crate::support::sidecar::service("other", "http", &[])));
        wait_until("the change is in force", || build() > loaded);
        assert_eq!(statuses(1), [429]);
        assert_eq!(upstream.connections() - before, 1, "no connection was touched");
    }
}

const TRY: &str = "X-Try-Faults: yes\r\n";

fn abort() {
    let upstream = Upstream::answering("served");
    let words = [("percent: 10}", "percent: 0}"), ("percent: 1}", "percent: 100}")];
    let (sidecar, at) = example::running(&file("fault", upstream.address, &words));
    let mut client = Peer::connect(at);
    for _ in 0..3 {
        let head = get(&mut client, "/", TRY);
        assert_eq!((head.status(), head.cause()), (503, Some("fault_injected")));
        assert_eq!(get(&mut client, "/", "X-Try-Faults: no\r\n").status(), 200);
    }
    wait_until("faults are counted", || refused(&sidecar, &[("cause", "fault_injected")]) == 3.0);
    assert_eq!(sidecar.metrics().sum("lighter_delayed_requests_total", &[]), 0.0);
    http2::run(async {
        let client = http2::connect(at).await;
        let call = http::Request::get("http://shop/").header("x-try-faults", "yes");
        let answer = http2::exchange(&client, call.body(Vec::new()).unwrap()).await.unwrap();
        assert_eq!(answer.head.status, 503);
    });
}

fn delay() {
    let words = [("percent: 10}", "percent: 100}"), ("percent: 1}", "percent: 0}"), ("200ms", "1ms")];
    let upstream = Upstream::echoing();
    let (sidecar, at) = example::running(&file("fault", upstream.address, &words));
    let mut client = Peer::connect(at);
    let post =
        |fields: &str| format!("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n{fields}\r\nhello");
    for fields in [TRY, "", TRY] {
        let (head, body) = client.exchange(post(fields));
        assert_eq!((head.status(), body), (200, Body::Whole(b"hello".to_vec())));
    }
    assert_eq!(sidecar.metrics().sum("lighter_delayed_requests_total", &[("route", "default")]), 2.0);
    http2::run(async {
        let client = http2::connect(at).await;
        let call = http::Request::post("http://shop/").header("x-try-faults", "yes");
        let answer = http2::exchange(&client, call.body(b"hello".to_vec()).unwrap()).await.unwrap();
        assert_eq!((answer.head.status.as_u16(), &*answer.body), (200, &b"hello"[..]));
    });
    assert_eq!(sidecar.metrics().sum("lighter_delayed_requests_total", &[]), 3.0);
}

fn delay_abandoned() {
    for protocol in ["appProtocol: http", "appProtocol: http2"] {
        let words = [("percent: 10}", "percent: 100}"), ("200ms", "1h"), ("appProtocol: http", protocol)];
        let upstream = Upstream::answering("served");
        let (sidecar, at) = example::running(&file("fault", upstream.address, &words));
        let mut client = Peer::connect(at);
        client.send(format!("GET / HTTP/1.1\r\nHost: shop\r\n{TRY}\r\n"));
        wait_until("it waits", || sidecar.metrics().sum("lighter_requests_in_flight", &[]) == 1.0);
        drop(client);
        wait_until("it is gone", || refused(&sidecar, &[("cause", "downstream_aborted")]) == 1.0);
        assert_eq!(upstream.connections(), 0);
    }
}

fn sizes() {
    let upstream = Upstream::echoing();
    let words = [("10485760", "1000"), ("8192", "400"), ("65536", "100")];
    let text = file("size-limits", upstream.address, &words);
    let long = format!("X-Long: {}\r\n", "x".repeat(500));
    let post = |at: SocketAddr, path: &str, length: usize| {
        let body = "x".repeat(length);
        let request = format!("POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n{body}");
        let head = Peer::connect(at).exchange(request).0;
        (head.status(), head.cause().map(str::to_owned))
    };
    let too_large = (413, Some("body_too_large".to_owned()));
    let (sidecar, at) = example::running(&text);
    assert_eq!(post(at, "/orders", 100), (200, None));
    assert_eq!(post(at, "/orders", 101), too_large);
    assert_eq!(post(at, "/", 5000), (200, None), "the caller's sidecar keeps what is said of routes");
    assert_eq!(get(&mut Peer::connect(at), "/", &long).status(), 200);
    let labels = [("direction", "outbound"), ("route", "default/shop/orders"), ("cause", "body_too_large")];
    wait_until("it is counted", || refused(&sidecar, &labels) == 1.0);
    let (sidecar, at) = callee(&text, upstream.address);
    assert_eq!(post(at, "/orders", 1000), (200, None));
    assert_eq!(post(at, "/orders", 1001), too_large);
    let head = get(&mut Peer::connect(at), "/", &long);
    assert_eq!((head.status(), head.cause()), (431, Some("head_too_large")));
    for cause in ["body_too_large", "head_too_large"] {
        let labels = [("direction", "inbound"), ("cause", cause)];
        wait_until("it is counted", || refused(&sidecar, &labels) == 1.0);
    }
}

/// An upstream that tells whether each body came whole.
fn judging() -> (Upstream, std::sync::mpsc::Receiver<bool>) {
    let (tell, told) = std::sync::mpsc::channel();
    let upstream = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            let whole = matches!(peer.body(&head), Body::Whole(_));
            let _ = tell.send(whole);
            if !whole {
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    (upstream, told)
}

fn growing() {
    let (upstream, told) = judging();
    let (sidecar, at) = example::running(&file("size-limits", upstream.address, &[("65536", "1000")]));
    let start = "POST /orders HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (head, _) = Peer::connect(at).exchange(format!("{start}5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(head.status(), 200);
    assert!(told.recv().unwrap());
    let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
    // All at once, and piece by piece.
    let (head, _) = Peer::connect(at).exchange(format!("{start}{chunk}{chunk}0\r\n\r\n"));
    assert_eq!((head.status(), head.cause()), (413, Some("body_too_large")));
    let mut client = Peer::connect(at);
    client.send(format!("{start}{chunk}"));
    wait_until("the first chunk is on its way", || upstream.received().matches("POST").count() == 2);
    client.send(format!("{chunk}0\r\n\r\n"));
    let head = client.expect_head();
    assert_eq!((head.status(), head.cause()), (413, Some("body_too_large")));
    assert!(!told.recv().unwrap(), "what is cut never looks whole");
    wait_until("it is counted", || refused(&sidecar, &[("cause", "body_too_large")]) == 2.0);
}

fn growing_http_2() {
    for protocol in ["http", "http2"] {
        let http1 = judging().0;
        let http2 = http2::Upstream::echo();
        let address = if protocol == "http" { http1.address } else { http2.address };
        let protocol = format!("appProtocol: {protocol}");
        let words = [("65536", "1000"), ("appProtocol: http", protocol.as_str())];
        let (sidecar, at) = example::running(&file("size-limits", address, &words));
        http2::run(async {
            let mut client = http2::connect(at).await.ready().await.unwrap();
            let request = http::Request::post("http://shop/orders").body(()).unwrap();
            let (answer, mut body) = client.send_request(request, false).unwrap();
            body.send_data("x".repeat(600).into(), false).unwrap();
            let _ = body.send_data("x".repeat(600).into(), true);
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 413, "{protocol}");
            assert_eq!(answer.headers()["x-lighter-error"], "body_too_large");
        });
        wait_until("it is counted", || refused(&sidecar, &[("cause", "body_too_large")]) == 1.0);
    }
    // From HTTP/1 to HTTP/2.
    let http2 = http2::Upstream::echo();
    let words = [("65536", "1000"), ("appProtocol: http", "appProtocol: http2")];
    let (_sidecar, at) = example::running(&file("size-limits", http2.address, &words));
    let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
    let start = "POST /orders HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (head, _) = Peer::connect(at).exchange(format!("{start}{chunk}{chunk}0\r\n\r\n"));
    assert_eq!((head.status(), head.cause()), (413, Some("body_too_large")));
}
