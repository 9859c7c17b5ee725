//! What a policy or a rule says is tried again, is; and nothing else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::retry::ask_both_ways;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, policy};
use crate::support::{example, http2, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test("again::a_status_that_is_named_is_asked_for_elsewhere", named_status),
        test("again::by_default_what_asks_for_no_change_is_asked_elsewhere", no_change),
        test("again::who_says_that_it_is_unable_is_asked_less", unable),
        test("again::the_last_answer_is_passed_on", last_answer),
        test("again::the_request_is_repeated_with_its_whole_body", whole_body),
        test("again::a_body_that_was_not_kept_is_not_sent_again", body_not_kept),
        test("again::an_endpoint_that_hangs_is_left_for_another_one", hanging),
        test("again::an_answer_is_waited_for_as_long_as_the_endpoint_takes_the_body", slow_body),
        test("again::retry_after_is_heeded_within_bounds", patience),
        test("again::calls_of_grpc_are_tried_again_by_their_status", grpc_status),
        test("again::a_rule_of_a_grpcroute_says_which_calls_are_tried_again", grpc_rules),
        test("again::deadlines_of_grpc_are_passed_on_and_kept", grpc_deadlines),
        test("again::an_outage_leaves_the_budget_and_is_counted", budget),
        test("again::the_example_of_retries_is_kept", example_of_retries),
        test("again::the_example_of_timeouts_is_kept", example_of_timeouts),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 4\r\n\r\nbody";
/// So that it never is the reason.
const PLENTY: &str = "budget: {percent: 100, minPerSecond: 1000}";

/// A sidecar before these endpoints of `protocol`, and its listener.
fn before(protocol: &str, endpoints: &[SocketAddr], spec: &str) -> (Sidecar, SocketAddr) {
    Sidecar::before_all(endpoints, protocol, &policy("up", spec), "")
}

/// Answers every request with this, whole bodies read, and says how many there were.
fn answering(answer: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            count.fetch_add(1, SeqCst);
            if !peer.try_send(answer) {
                return;
            }
        }
    });
    (upstream, asked)
}

/// The same in HTTP/2.
fn answering2(status: u16) -> (http2::Upstream, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = http2::Upstream::start(move |request, mut respond| {
        count.fetch_add(1, SeqCst);
        async move {
            http2_body(request).await;
            let answer = http::Response::builder().status(status).body(()).unwrap();
            let _ = respond.send_response(answer, true);
        }
    });
    (upstream, asked)
}

async fn http2_body(request: http::Request<h2::RecvStream>) -> Vec<u8> {
    http2::read(http::Response::new(()).into_parts().0, request.into_body()).await.body
}

const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell";

fn named_status() {
    let spec = format!("retry: {{on: [gatewayError], backoff: {{base: 1ms}}, {PLENTY}}}");
    for protocol in ["http", "http2"] {
        let (busy1, asked1) = answering(BUSY);
        let (busy2, asked2) = answering2(503);
        let (well, _) = answering(WELL);
        let (well2, _) = answering2(200);
        let (endpoints, asked) = match protocol {
            "http" => ([busy1.address, well.address], asked1),
            _ => ([busy2.address, well2.address], asked2),
        };
        let (sidecar, at) = before(protocol, &endpoints, &spec);
        ask_both_ways(at, 20, protocol);
        let retries = sidecar.metrics().sum("lighter_retries_total", &[("condition", "status")]);
        assert!(retries > 0.0 && retries == asked.load(SeqCst) as f64, "{protocol}: {retries}, {asked:?}");
    }
    // A POST may have run.
    let (busy, asked) = answering(BUSY);
    let (sidecar, at) = before("http", &[busy.address], &spec);
    assert_eq!(Peer::connect(at).exchange(POST).0.status(), 503);
    assert_eq!((asked.load(SeqCst), sidecar.metrics().sum("lighter_retries_total", &[])), (1, 0.0));
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 503);
    assert_eq!((asked.load(SeqCst), sidecar.metrics().sum("lighter_retries_total", &[])), (3, 1.0));
}

fn no_change() {
    let in_turn = |retry: &str| format!("balancing: {{policy: roundRobin}}, retry: {{{retry}{PLENTY}}}");
    for protocol in ["http", "http2"] {
        let ((busy1, _), (well1, _)) = (answering(BUSY), answering(WELL));
        let ((busy2, _), (well2, _)) = (answering2(503), answering2(200));
        let endpoints = match protocol {
            "http" => [busy1.address, well1.address],
            _ => [busy2.address, well2.address],
        };
        let retries = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_retries_total", &[]);
        let (sidecar, at) = before(protocol, &endpoints, &in_turn(""));
        ask_both_ways(at, 20, protocol);
        assert!(retries(&sidecar) >= 10.0, "{protocol}");
        let posts = || (0..10).map(|_| Peer::connect(at).exchange(POST).0.status());
        let before_posts = retries(&sidecar);
        assert!(posts().any(|status| status == 503), "{protocol}");
        assert_eq!(retries(&sidecar), before_posts, "{protocol}: a POST may have run");
        let gets = |at| (0..10).map(move |_| Peer::connect(at).exchange(GET).0.status());
        let (sidecar, at) = before(protocol, &endpoints, &in_turn("safe: false, "));
        assert!(gets(at).any(|status| status == 503), "{protocol}");
        assert_eq!(retries(&sidecar), 0.0, "{protocol}");
        // There is no other one to ask.
        let (sidecar, at) = before(protocol, &endpoints[..1], &in_turn(""));
        assert!(gets(at).all(|status| status == 503), "{protocol}");
        assert_eq!(retries(&sidecar), 0.0, "{protocol}");
    }
    // It says itself when to come back.
    let (later, _) = answering("HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nbusy");
    let (well, _) = answering(WELL);
    let (sidecar, at) = before("http", &[later.address, well.address], &in_turn(""));
    assert!((0..10).any(|_| Peer::connect(at).exchange(GET).0.status() == 503));
    assert_eq!(sidecar.metrics().sum("lighter_retries_total", &[]), 0.0);
}

/// By default; where endpoints have their turns, it has its own.
fn unable() {
    let asked = |policy: &str| {
        let ((busy, asked), (well, _)) = (answering(BUSY), answering(WELL));
        let (_sidecar, at) = before("http", &[busy.address, well.address], policy);
        for _ in 0..100 {
            Peer::connect(at).exchange(GET);
        }
        asked.load(SeqCst)
    };
    let in_turn = asked("balancing: {policy: roundRobin}, retry: {safe: false}");
    assert!(in_turn >= 49, "{in_turn}");
    let by_default = asked("retry: {safe: false}");
    assert!((1..25).contains(&by_default), "{by_default}");
}

fn last_answer() {
    let (first, asked1) = answering(BUSY);
    let (second, asked2) = answering(BUSY);
    let spec = format!("retry: {{codes: [503], attempts: 2, backoff: {{base: 1ms}}, {PLENTY}}}");
    let (sidecar, at) = before("http", &[first.address, second.address], &spec);
    let (head, body) = Peer::connect(at).exchange(GET);
    assert_eq!((head.status(), head.cause(), body), (503, None, Body::Whole(b"busy".to_vec())), "{head:?}");
    let (one, two) = (asked1.load(SeqCst), asked2.load(SeqCst));
    assert!(one + two == 3 && one > 0 && two > 0, "{one} and {two}");
    assert_eq!(sidecar.metrics().sum("lighter_retries_refused_total", &[("reason", "attempts")]), 1.0);
}

/// Takes each body and answers the first with 503; gives the bodies that came.
fn busy_once() -> (Upstream, Arc<Mutex<Vec<Body>>>) {
    let bodies: Arc<Mutex<Vec<Body>>> = Arc::default();
    let all = bodies.clone();
    let upstream = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            let first = {
                let mut all = all.lock().unwrap();
                all.push(body);
                all.len() == 1
            };
            if !peer.try_send(if first { BUSY } else { WELL }) {
                return;
            }
        }
    });
    (upstream, bodies)
}

fn whole_body() {
    let spec = format!("retry: {{codes: [503], backoff: {{base: 1ms}}, {PLENTY}}}");
    let content: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
    for chunked in [false, true] {
        let (upstream, bodies) = busy_once();
        let (_sidecar, at) = before("http", &[upstream.address], &spec);
        let mut client = Peer::connect(at);
        let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 40000" };
        client.send(format!("PUT / HTTP/1.1\r\nHost: up\r\n{framing}\r\n\r\n"));
        for part in content.chunks(10_000) {
            // Each part is read by itself.
            std::thread::sleep(Duration::from_millis(20));
            if chunked {
                client.send(format!("{:x}\r\n", part.len()));
            }
            client.send(part);
            if chunked {
                client.send("\r\n");
            }
        }
        if chunked {
            client.send("0\r\n\r\n");
        }
        assert_eq!(client.expect_head().status(), 200);
        let whole = Body::Whole(content.clone());
        assert_eq!(*bodies.lock().unwrap(), [whole.clone(), whole.clone()], "chunked: {chunked}");
    }
    // By way of HTTP/2.
    let (upstream, bodies) = busy_once();
    let (_sidecar, at) = before("http", &[upstream.address], &spec);
    http2::run(async {
        let client = http2::connect(at).await;
        let request = http::Request::put("http://up/").body(content.clone()).unwrap();
        let answer = http2::exchange(&client, request).await.unwrap();
        assert_eq!(answer.head.status, 200, "{answer:?}");
    });
    let whole = Body::Whole(content);
    assert_eq!(*bodies.lock().unwrap(), [whole.clone(), whole]);
}

fn body_not_kept() {
    let spec = format!("retry: {{codes: [503], backoff: {{base: 1ms}}, {PLENTY}}}");
    let (upstream, bodies) = busy_once();
    let (sidecar, at) = before("http", &[upstream.address], &spec);
    let mut client = Peer::connect(at);
    client.send("PUT / HTTP/1.1\r\nHost: up\r\nContent-Length: 300000\r\n\r\n");
    client.send(vec![7; 300_000]);
    assert_eq!(client.expect_head().status(), 503);
    assert_eq!(bodies.lock().unwrap().len(), 1);
    assert_eq!(sidecar.metrics().sum("lighter_retries_refused_total", &[("reason", "body")]), 1.0);
}

/// Reads, and says nothing.
fn silent() -> (Upstream, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::start(move |mut peer, _| {
        if peer.head().is_some() {
            count.fetch_add(1, SeqCst);
        }
        peer.rest();
    });
    (upstream, asked)
}

fn hanging() {
    let spec =
        format!("retry: {{on: [reset], perTryTimeout: 1s, {PLENTY}}}, ejection: {{consecutiveFailures: 0}}");
    let ((hung, asked), (well, _)) = (silent(), answering(WELL));
    let (sidecar, at) = before("http", &[hung.address, well.address], &spec);
    while asked.load(SeqCst) == 0 {
        assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    }
    let counted = |sidecar: &Sidecar| {
        let metrics = sidecar.metrics();
        let retries = metrics.sum("lighter_retries_total", &[("condition", "timeout")]);
        (metrics.sum("lighter_try_timeouts_total", &[]), retries)
    };
    assert_eq!(counted(&sidecar), (1.0, 1.0));
    // The same for a caller in HTTP/2.
    let ((hung, asked), (well, _)) = (silent(), answering(WELL));
    let (sidecar, at) = before("http", &[hung.address, well.address], &spec);
    http2::run(async {
        let client = http2::connect(at).await;
        while asked.load(SeqCst) == 0 {
            assert_eq!(http2::get(&client, "/").await.unwrap().head.status, 200);
        }
    });
    assert_eq!(counted(&sidecar), (1.0, 1.0));
    // Of what may not run twice, the caller is told.
    let (hung, _) = silent();
    let (sidecar, at) = before("http", &[hung.address], &spec);
    let (head, _) = Peer::connect(at).exchange(POST);
    assert_eq!((head.status(), head.cause()), (504, Some("request_timeout")), "{head:?}");
    assert_eq!(sidecar.metrics().sum("lighter_try_timeouts_total", &[]), 1.0);
}

fn slow_body() {
    let (well, _) = answering(WELL);
    let (_sidecar, at) = before("http", &[well.address], "retry: {perTryTimeout: 1s}");
    let mut client = Peer::connect(at);
    client.send("PUT / HTTP/1.1\r\nHost: up\r\nContent-Length: 5\r\n\r\n");
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(300));
        client.send("x");
    }
    assert_eq!(client.expect_head().status(), 200);
}

fn patience() {
    let spec = format!("retry: {{codes: [503], retryAfter: 2s, {PLENTY}}}");
    let waits = |wait: u32| {
        let first = AtomicUsize::new(0);
        Upstream::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                peer.body(&head);
                let busy = format!("HTTP/1.1 503 No\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\r\n");
                let is_first = first.fetch_add(1, SeqCst) == 0;
                if !peer.try_send(if is_first { busy } else { WELL.to_owned() }) {
                    return;
                }
            }
        })
    };
    let upstream = waits(1);
    let (_sidecar, at) = before("http", &[upstream.address], &spec);
    let began = Instant::now();
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let upstream = waits(3);
    let (sidecar, at) = before("http", &[upstream.address], &spec);
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 503);
    assert_eq!(sidecar.metrics().sum("lighter_retries_refused_total", &[("reason", "time")]), 1.0);
}

fn grpc_call() -> http::request::Builder {
    http::Request::post("http://up/shop.Catalog/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Answers a call with nothing but this status, once; later calls well. Gives the heads that came.
fn status_once(status: u8) -> (http2::Upstream, Arc<Mutex<Vec<http::HeaderMap>>>) {
    let heads: Arc<Mutex<Vec<http::HeaderMap>>> = Arc::default();
    let all = heads.clone();
    let upstream = http2::Upstream::start(move |request, mut respond| {
        let status = {
            let mut all = all.lock().unwrap();
            all.push(request.headers().clone());
            if all.len() == 1 { status } else { 0 }
        };
        async move {
            http2_body(request).await;
            if status != 0 {
                // So that the second has less time by more than can be rounded away.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let answer = http::Response::builder().header("content-type", "application/grpc");
            let _ = respond
                .send_response(answer.header("grpc-status", u16::from(status)).body(()).unwrap(), true);
        }
    });
    (upstream, heads)
}

fn grpc_status() {
    let spec =
        format!("retry: {{grpcStatuses: [UNAVAILABLE], methods: [POST], backoff: {{base: 1ms}}, {PLENTY}}}");
    for (status, expected) in [(14, "0"), (13, "13")] {
        let (upstream, heads) = status_once(status);
        let (sidecar, at) = before("grpc", &[upstream.address], &spec);
        http2::run(async {
            let client = http2::connect(at).await;
            let call = grpc_call().body(b"\0\0\0\0\x01x".to_vec()).unwrap();
            let answer = http2::exchange(&client, call).await.unwrap();
            assert_eq!(answer.head.headers["grpc-status"], expected, "{answer:?}");
        });
        let heads = heads.lock().unwrap();
        assert_eq!(heads.len(), if status == 14 { 2 } else { 1 });
        assert!(heads[0].get("grpc-previous-rpc-attempts").is_none());
        if let Some(second) = heads.get(1) {
            assert_eq!(second["grpc-previous-rpc-attempts"], "1");
        }
        let retries = sidecar.metrics().sum("lighter_retries_total", &[("condition", "grpc_status")]);
        assert_eq!(retries, heads.len() as f64 - 1.0);
    }
}

fn grpc_rules() {
    // Each endpoint fails its first call, and one is left for what is not tried again.
    for (status, path, expected) in [
        (14, "/shop.Catalog/List", "0"),
        (8, "/shop.Catalog/List", "0"),
        (1, "/shop.Catalog/List", "0"),
        (13, "/shop.Catalog/List", "13"),
        (14, "/shop.Till/Buy", "14"),
    ] {
        let upstreams = [status_once(status), status_once(status)];
        let addresses = upstreams.each_ref().map(|(upstream, _)| upstream.address);
        let (sidecar, at) = example::sidecar("retry-grpc", &addresses);
        http2::run(async {
            let client = http2::connect(at).await;
            let call = http::Request::post(format!("http://shop{path}"));
            let call = call.header("content-type", "application/grpc").header("te", "trailers");
            let call = call.body(b"\0\0\0\0\x01x".to_vec()).unwrap();
            let answer = http2::exchange(&client, call).await.unwrap();
            assert_eq!(answer.head.headers["grpc-status"], expected, "{status}: {answer:?}");
        });
        let labels = [("route", "default/shop/read"), ("condition", "grpc_status")];
        let tries = if expected == "0" { 2.0 } else { 0.0 };
        assert_eq!(sidecar.metrics().sum("lighter_retries_total", &labels), tries, "{status} of {path}");
    }
    // A server that breaks off is one that is not available, to who calls.
    let broken = [(), ()].map(|()| {
        http2::Upstream::start(|_, mut respond| async move {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        })
    });
    let (sidecar, at) = example::sidecar("retry-grpc", &broken.each_ref().map(|upstream| upstream.address));
    http2::run(async {
        let client = http2::connect(at).await;
        let call = http::Request::post("http://shop/shop.Catalog/List");
        let call = call.header("content-type", "application/grpc").body(Vec::new()).unwrap();
        assert_eq!(http2::exchange(&client, call).await.unwrap().head.headers["grpc-status"], "14");
    });
    assert_eq!(sidecar.metrics().sum("lighter_retries_total", &[("condition", "reset")]), 2.0);
}

/// `grpc-timeout`, in milliseconds.
fn timeout_of(head: &http::HeaderMap) -> u64 {
    let text = head["grpc-timeout"].to_str().unwrap();
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().unwrap();
    match unit {
        "S" => number * 1000,
        "m" => number,
        "u" => number / 1000,
        "n" => number / 1_000_000,
        other => panic!("{other}"),
    }
}

fn grpc_deadlines() {
    // The second try has less time than the first.
    let spec =
        format!("retry: {{grpcStatuses: [UNAVAILABLE], methods: [POST], backoff: {{base: 20ms}}, {PLENTY}}}");
    let (upstream, heads) = status_once(14);
    let (_sidecar, at) = before("grpc", &[upstream.address], &spec);
    http2::run(async {
        let client = http2::connect(at).await;
        let call = grpc_call().header("grpc-timeout", "5S").body(Vec::new()).unwrap();
        assert_eq!(http2::exchange(&client, call).await.unwrap().head.headers["grpc-status"], "0");
    });
    let heads = heads.lock().unwrap();
    assert!(timeout_of(&heads[1]) < timeout_of(&heads[0]).min(5000), "{heads:?}");
    // Each of the limits ends as DEADLINE_EXCEEDED, and an endpoint is told the first of them.
    for spec in ["requestTimeout: 1s", "retry: {perTryTimeout: 1s}"] {
        let seen: Arc<Mutex<Vec<http::HeaderMap>>> = Arc::default();
        let all = seen.clone();
        let upstream = http2::Upstream::start(move |request, respond| {
            all.lock().unwrap().push(request.headers().clone());
            async move {
                let _held = (request, respond);
                std::future::pending::<()>().await;
            }
        });
        let (_sidecar, at) = before("grpc", &[upstream.address], spec);
        http2::run(async {
            let client = http2::connect(at).await;
            let call = grpc_call().header("grpc-timeout", "5S").body(Vec::new()).unwrap();
            let answer = http2::exchange(&client, call).await.unwrap();
            assert_eq!(answer.head.headers["grpc-status"], "4", "{spec}: {answer:?}");
        });
        assert!(timeout_of(&seen.lock().unwrap()[0]) <= 1000, "{spec}: {seen:?}");
    }
}

fn budget() {
    let (upstream, asked) = answering(BUSY);
    let spec =
        "retry: {on: [5xx], attempts: 3, backoff: {base: 1ms}, budget: {percent: 10, minPerSecond: 0}}";
    let (sidecar, at) = before("http", &[upstream.address], spec);
    let mut client = Peer::connect(at);
    for _ in 0..300 {
        assert_eq!(client.exchange(GET).0.status(), 503);
    }
    let asked = asked.load(SeqCst);
    assert!(asked > 300 && asked <= 330, "{asked}");
    let metrics = sidecar.metrics();
    assert_eq!(metrics.sum("lighter_retries_total", &[]), asked as f64 - 300.0);
    assert!(metrics.sum("lighter_retries_refused_total", &[("reason", "budget")]) > 200.0);
}

fn example_of_retries() {
    let ((busy, _), (well, _)) = (answering(BUSY), answering(WELL));
    let (sidecar, at) = example::sidecar("retry", &[busy.address, well.address]);
    let mut client = Peer::connect(at);
    // As many as there always may be.
    for path in ["/", "/search", "/search/new"] {
        let (head, _) = client.exchange(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        assert_eq!(head.status(), 200, "{path}: {head:?}");
    }
    // A rule says for itself that 500 calls for another try.
    let error = "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n";
    let ((one, _), (two, _)) = (answering(error), answering(error));
    drop(sidecar);
    let (sidecar, at) = example::sidecar("retry", &[one.address, two.address]);
    let mut client = Peer::connect(at);
    let retries = |path: &str, client: &mut Peer| {
        let (head, _) = client.exchange(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        assert_eq!(head.status(), 500, "{path}: {head:?}");
        sidecar.metrics().sum("lighter_retries_total", &[])
    };
    assert_eq!((retries("/", &mut client), retries("/search", &mut client)), (0.0, 1.0));
}

fn example_of_timeouts() {
    let ((hung, asked), (well, _)) = (silent(), answering(WELL));
    let (sidecar, at) = example::sidecar("timeouts", &[hung.address, well.address]);
    // Its half second may be too short for a well endpoint as well where much else runs.
    for _ in 0..20 {
        let before = asked.load(SeqCst);
        let status = Peer::connect(at).exchange(GET).0.status();
        if status == 200 && asked.load(SeqCst) > before {
            assert!(sidecar.metrics().sum("lighter_try_timeouts_total", &[]) >= 1.0);
            return;
        }
    }
    panic!("no request went from the one that hangs to the other");
}
