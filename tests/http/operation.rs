//! What an operator does and sees: errors with their cause, reload, drain, log and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::support::metrics;
use crate::support::process::{free_address, listens, most_resident};
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, route, service};
use crate::support::{http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("operation::every_local_error_names_its_cause", errors_name_their_cause),
        test("operation::a_reload_moves_traffic_and_fails_nothing", reload_moves_traffic),
        test("operation::a_faulty_reload_changes_nothing", faulty_reload),
        test("operation::a_reload_leaves_open_streams_alone", reload_leaves_streams),
        test("operation::drain_finishes_what_runs", drain_finishes),
        test("operation::drain_ends_kept_connections_at_once", drain_ends_idle),
        test("operation::drain_says_goodbye_over_http_2", drain_http_2),
        test("operation::drain_cuts_at_its_deadline_and_says_so", drain_deadline),
        test("operation::the_access_log_tells_each_request", access_log),
        test("operation::both_ends_count_the_same", both_ends_count),
        test("operation::weights_are_kept", weights),
        test("operation::the_admin_port_answers", admin),
        test("operation::series_of_what_is_gone_expire", series_expire),
        test("operation::what_only_the_start_needed_is_given_back", start_is_given_back),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";

fn errors_name_their_cause() {
    let upstream = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send("this is not HTTP\r\n\r\n");
    });
    let [none, dead, odd, lost, nowhere] = std::array::from_fn(|_| free_address());
    let narrow = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: narrow}\nspec:\n  \
                  parentRefs: [{kind: Service, group: '', name: narrow}]\n  rules: [{matches: [{path: {type: Exact, value: /only}}], \
                  backendRefs: [{name: odd, port: 80}]}]\n";
    let resources = [
        service("none", "http", &[]),
        service("dead", "http", &[free_address()]),
        service("odd", "http", &[upstream.address]),
        service("narrow", "http", &[]),
        service("nowhere", "http", &[]),
        narrow.to_owned(),
        route("nowhere", &[("missing", 1)]),
    ]
    .join("---\n");
    let listeners: Vec<String> =
        [(none, "none"), (dead, "dead"), (odd, "odd"), (lost, "narrow"), (nowhere, "nowhere")]
            .iter()
            .map(|(at, name)| format!("{{listen: '{at}', service: {name}, port: 80}}"))
            .collect();
    let sidecar = Sidecar::start(&resources, &format!("listeners: [{}]\n", listeners.join(", ")));
    for (at, status, cause) in [
        (none, 503, "no_endpoint"),
        (dead, 503, "connect_refused"),
        (odd, 502, "upstream_malformed"),
        (lost, 404, "no_route"),
        (nowhere, 500, "no_backend"),
    ] {
        let (head, body) = Peer::connect(at).exchange(GET);
        assert_eq!((head.status(), head.cause()), (status, Some(cause)), "{head:?}");
        let Body::Whole(body) = body else { panic!("a local answer is whole") };
        assert!(String::from_utf8(body).unwrap().starts_with(&format!("lighter: {cause}")));
        wait_until(&format!("{cause} is counted"), || {
            sidecar.metrics().sum("lighter_requests_total", &[("cause", cause)]) >= 1.0
        });
    }
}

/// Callers without pause until `stop`; gives how many requests failed, and counts answers by body.
struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<usize>>,
    done: Arc<AtomicUsize>,
}

impl Callers {
    fn start(at: std::net::SocketAddr, count: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..count)
            .map(|_| {
                let (stop, done) = (stop.clone(), done.clone());
                std::thread::spawn(move || {
                    let mut client = Peer::connect(at);
                    let mut failed = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let (head, body) = client.exchange(GET);
                        failed += usize::from(head.status() != 200 || !matches!(body, Body::Whole(_)));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    failed
                })
            })
            .collect();
        Callers { stop, threads, done }
    }

    fn wait_for_more(&self, count: usize) {
        let upto = self.done.load(Ordering::Relaxed) + count;
        wait_until("requests go on", || self.done.load(Ordering::Relaxed) >= upto);
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no connection was cut")).sum()
    }
}

fn two_versions(first: u32, second: u32, one: &Upstream, two: &Upstream) -> String {
    [
        service("up", "http", &[one.address]),
        service("v1", "http", &[one.address]),
        service("v2", "http", &[two.address]),
        route("up", &[("v1", first), ("v2", second)]),
    ]
    .join("---\n")
}

fn reload_moves_traffic() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let listen = free_address();
    let own = format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\n");
    let sidecar = Sidecar::start(&two_versions(1, 0, &one, &two), &own);
    let callers = Callers::start(listen, 4);
    callers.wait_for_more(100);
    // A connection that is kept through all changes.
    let mut kept = Peer::connect(listen);
    for turn in 0..6 {
        let (weights, expected) = if turn % 2 == 0 { ((0, 1), "two") } else { ((1, 0), "one") };
        sidecar.apply(&two_versions(weights.0, weights.1, &one, &two));
        wait_until("the change is in force", || kept.exchange(GET).1 == Body::Whole(expected.into()));
        callers.wait_for_more(100);
    }
    assert_eq!(callers.end(), 0, "no request failed");
}

fn faulty_reload() {
    let upstream = Upstream::answering("still here");
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let refused = || sidecar.metrics().sum("lighter_config_loads_total", &[("outcome", "rejected")]);
    let before = refused();
    sidecar.apply("kind: Service\nspec: [broken");
    wait_until("the fault is counted", || refused() > before);
    let (head, body) = Peer::connect(at).exchange(GET);
    assert_eq!((head.status(), body), (200, Body::Whole(b"still here".to_vec())));
    assert_eq!(metrics::get(sidecar.admin, "/ready").0, 200);
}

fn reload_leaves_streams() {
    let upstream = Upstream::start(|mut peer, _| {
        if peer.expect_head().line.starts_with("GET") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // One chunk for each byte of the request's body.
        while peer.bytes(1).len() == 1 {
            peer.send("2\r\nok\r\n");
        }
    });
    let other = Upstream::answering("other");
    let listen = free_address();
    let own = format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\n");
    let sidecar = Sidecar::start(&two_versions(1, 0, &upstream, &other), &own);
    let mut stream = Peer::connect(listen);
    stream.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 100\r\n\r\n");
    assert_eq!(stream.expect_head().status(), 200);
    stream.send("1");
    assert_eq!(stream.bytes(7), b"2\r\nok\r\n");
    // The stream's own endpoint leaves the mesh altogether.
    sidecar.apply(&service("up", "http", &[other.address]));
    wait_until("the change is in force", || {
        Peer::connect(listen).exchange(GET).1 == Body::Whole("other".into())
    });
    stream.send("2");
    assert_eq!(stream.bytes(7), b"2\r\nok\r\n");
}

/// An upstream that answers when it is told to, and how to tell it.
fn waiting() -> (Upstream, std::sync::mpsc::Sender<()>) {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |mut peer, _| {
        while peer.head().is_some() {
            if wait.lock().unwrap().recv().is_err() {
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    });
    (upstream, go)
}

fn drain_finishes() {
    let (upstream, go) = waiting();
    let (mut sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut client = Peer::connect(at);
    client.send(GET);
    wait_until("the request is through", || upstream.received().contains("GET / "));
    sidecar.program.signal(Signal::TERM);
    wait_until("no new connection is taken", || !listens(at));
    go.send(()).unwrap();
    let head = client.expect_head();
    assert_eq!(client.body(&head), Body::Whole(b"done".to_vec()));
    assert!(head.has("connection", "close"), "{head:?}");
    assert!(client.head().is_none());
    assert!(sidecar.program.wait().success());
}

fn drain_ends_idle() {
    let upstream = Upstream::answering("x");
    let (mut sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut kept = Peer::connect(at);
    kept.exchange(GET);
    let mut silent = Peer::connect(at);
    sidecar.program.signal(Signal::TERM);
    assert!(kept.head().is_none());
    assert!(silent.head().is_none());
    assert!(sidecar.program.wait().success());
}

fn drain_http_2() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let upstream = http2::Upstream::start(move |_, mut respond| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|go| *go).await;
            let _ = respond.send_response(http::Response::new(()), true);
        }
    });
    let (mut sidecar, at) = Sidecar::before(upstream.address, "http2");
    http2::run(async {
        let client = http2::connect(at).await;
        let call = tokio::task::spawn_local(async move { http2::get(&client, "/").await });
        while upstream.connections() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        sidecar.program.signal(Signal::TERM);
        while listens(at) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        go.send(true).unwrap();
        assert_eq!(call.await.unwrap().unwrap().head.status, 200);
    });
    assert!(sidecar.program.wait().success());
}

fn drain_deadline() {
    let (upstream, _go) = waiting();
    let (mut sidecar, at) = Sidecar::before_with(upstream.address, "http", "", "drainDeadline: 300ms\n");
    let mut client = Peer::connect(at);
    client.send(GET);
    wait_until("the request is through", || upstream.received().contains("GET / "));
    sidecar.program.signal(Signal::TERM);
    // Its answer had not begun: it can be told why there will be none.
    let head = client.expect_head();
    assert_eq!((head.status(), head.cause()), (503, Some("draining")), "{head:?}");
    client.body(&head);
    assert!(client.head().is_none());
    assert!(sidecar.program.wait().success());
    let said = sidecar.program.said();
    assert!(said.contains("connections were cut cut=1 kinds=1 http1\n"), "it says what it cut: {said}");
}

fn access_log() {
    let upstream = Upstream::answering("hello");
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let own = format!("accessLog: {{format: json, path: '{}'}}\n", log.display());
    let (_sidecar, at) = Sidecar::before_with(upstream.address, "http", "", &own);
    let mut client = Peer::connect(at);
    let request =
        "POST /a?b HTTP/1.1\r\nHost: up\r\nX-Request-Id: my-own-name\r\nContent-Length: 3\r\n\r\nabc";
    client.exchange(request);
    drop(client);
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until("the line is written", || read().ends_with('\n'));
    let line: serde_json::Value = serde_json::from_str(read().lines().next().unwrap()).unwrap();
    let text = line.to_string();
    for part in ["POST", "/a?b", "my-own-name", "200", &upstream.address.to_string(), "default/up"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

fn both_ends_count() {
    let app = Upstream::answering("from the application");
    let (door, listen) = (free_address(), free_address());
    let resources = service("up", "http", &[door]);
    let inbound = format!("service: up\ninbound: [{{listen: '{door}', app: '{}', port: 80}}]\n", app.address);
    let callee = Sidecar::start(&resources, &inbound);
    let caller =
        Sidecar::start(&resources, &format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\n"));
    let mut client = Peer::connect(listen);
    for _ in 0..50 {
        assert_eq!(client.exchange(GET).0.status(), 200);
    }
    http2::run(async {
        let client = http2::connect(listen).await;
        for _ in 0..50 {
            assert_eq!(http2::get(&client, "/").await.unwrap().head.status, 200);
        }
    });
    for (sidecar, direction) in [(&caller, "outbound"), (&callee, "inbound")] {
        let labels = [("direction", direction), ("service", "default/up"), ("code_class", "2xx")];
        wait_until(&format!("{direction} counts a hundred"), || {
            sidecar.metrics().sum("lighter_requests_total", &labels) == 100.0
        });
        let metrics = sidecar.metrics();
        assert_eq!(metrics.sum("lighter_request_duration_seconds_count", &[("direction", direction)]), 100.0);
        let bytes = metrics.sum("lighter_response_bytes_total", &[("direction", direction)]);
        assert_eq!(bytes, 100.0 * "from the application".len() as f64);
    }
    let received = app.received().to_ascii_lowercase();
    assert!(received.contains("x-forwarded-for: 127.0.0.1"), "the application learns who called");
    assert!(!received.contains("x-lighter-"));
}

fn weights() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let listen = free_address();
    let own = format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\n");
    let _sidecar = Sidecar::start(&two_versions(9, 1, &one, &two), &own);
    let mut client = Peer::connect(listen);
    let second = (0..1000).filter(|_| client.exchange(GET).1 == Body::Whole("two".into())).count();
    // Five standard deviations of a fair draw.
    assert!((53..=147).contains(&second), "{second} of 1000 went to a tenth's share");
}

fn admin() {
    let upstream = Upstream::answering("x");
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    Peer::connect(at).exchange(GET);
    for path in ["/ready", "/live", "/metrics", "/config_dump", "/clusters"] {
        let (status, body) = metrics::get(sidecar.admin, path);
        assert_eq!(status, 200, "{path}");
        assert!(!body.is_empty(), "{path}");
    }
    assert!(metrics::get(sidecar.admin, "/clusters").1.contains(&upstream.address.to_string()));
    assert_eq!(metrics::get(sidecar.admin, "/nothing").0, 404);
    let metrics = sidecar.metrics();
    assert!(metrics.sum("process_resident_memory_bytes", &[]) > 0.0);
    assert!(metrics.sum("process_open_fds", &[]) > 0.0);
}

fn start_is_given_back() {
    let upstream = Upstream::answering("x");
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    wait_until("it takes less than two thirds of what its start took", || {
        assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
        sidecar.program.resident() * 3 < most_resident(sidecar.program.pid()) * 2
    });
}

/// By default they stay for so long that the next scrapes see their end; how long is for the sidecar's file to say.
fn series_expire() {
    let upstream = Upstream::answering("there");
    let resources =
        [service("up", "http", &[upstream.address]), service("gone", "http", &[upstream.address])];
    let of = |sidecar: &Sidecar, name: &str| {
        sidecar.metrics().sum("lighter_requests_total", &[("service", &format!("default/{name}"))])
    };
    let expired = |sidecar: &Sidecar| sidecar.metrics().sum("lighter_metrics_series_expired_total", &[]);
    let run = |own: &str| {
        let [up, gone] = [free_address(), free_address()];
        let own = format!(
            "listeners: [{{listen: '{up}', service: up, port: 80}}, {{listen: '{gone}', service: gone, port: 80}}]\n{own}"
        );
        let sidecar = Sidecar::start(&resources.join("---\n"), &own);
        for at in [up, gone] {
            assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
        }
        assert_eq!((of(&sidecar, "up"), of(&sidecar, "gone")), (1.0, 1.0));
        sidecar.apply(&resources[0]);
        sidecar
    };
    let (short, usual) = (run("seriesExpireAfter: 1s\n"), run(""));
    wait_until("the series of what is gone are too", || of(&short, "gone") == 0.0);
    assert_eq!(of(&short, "up"), 1.0);
    assert!(expired(&short) >= 1.0);
    assert_eq!((of(&usual, "gone"), expired(&usual)), (1.0, 0.0));
}
