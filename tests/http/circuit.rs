//! How much goes to a port at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::{Sidecar, policy, service};
use crate::support::{example, http2, process::free_address, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("circuit::requests_above_the_limit_wait_and_then_are_refused", wait_and_are_refused),
        test("circuit::who_waits_goes_on_when_another_ends", goes_on),
        test("circuit::http_2_is_limited_too", http_2),
        test("circuit::time_in_which_a_request_waited_is_not_its_endpoints", waiting_is_not_latency),
        test("circuit::opaque_connections_are_limited", opaque),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Requests that are answered once somebody says so.
#[derive(Clone, Default)]
pub struct Hold(Arc<(Mutex<(usize, bool)>, Condvar)>);

impl Hold {
    pub fn upstream(&self) -> Upstream {
        let hold = self.clone();
        Upstream::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                peer.body(&head);
                let mut state = hold.0.0.lock().unwrap();
                state.0 += 1;
                while !state.1 {
                    state = hold.0.1.wait(state).unwrap();
                }
                drop(state);
                if !peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                    return;
                }
            }
        })
    }

    pub fn asked(&self) -> usize {
        self.0.0.lock().unwrap().0
    }

    pub fn let_go(&self) {
        self.0.0.lock().unwrap().1 = true;
        self.0.1.notify_all();
    }
}

/// Answers each request at once, but for the body of the first, which somebody has to let go.
fn slow_body() -> (Upstream, http2::Upstream, Arc<tokio::sync::Semaphore>) {
    let lets_go = Arc::new(tokio::sync::Semaphore::new(0));
    let goes = lets_go.clone();
    let first = Upstream::start(move |mut peer, connection| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
            while connection == 0 && goes.available_permits() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            peer.try_send("k");
        }
    });
    let (goes, count) = (lets_go.clone(), Arc::new(AtomicUsize::new(0)));
    let second = http2::Upstream::start(move |_, mut respond| {
        let (goes, number) = (goes.clone(), count.fetch_add(1, Ordering::Relaxed));
        async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            if number == 0 {
                goes.acquire().await.unwrap().forget();
            }
            let _ = stream.send_data("ok".into(), true);
        }
    });
    (first, second, lets_go)
}

fn waiting_is_not_latency() {
    let (http1, http2, lets_go) = slow_body();
    let spec = "circuit: {maxRequests: 1, pendingTimeout: 20s}";
    let before = |protocol: &str, endpoint: SocketAddr| {
        example::running(&format!("{}---\n{}", service("shop", protocol, &[endpoint]), policy("shop", spec)))
    };
    let one = before("http", http1.address);
    let two = before("http2", http2.address);
    let pending = |(sidecar, _): &(Sidecar, SocketAddr)| gauge(sidecar, "lighter_circuit_pending");
    let mut first = Peer::connect(one.1);
    assert_eq!(first.send(GET).expect_head().status(), 200);
    let mut second = Peer::connect(one.1);
    second.send(GET);
    http2::run(async {
        let client = http2::connect(two.1).await;
        let ask = || {
            let (client, get) = (client.clone(), http::Request::get("http://shop/").body(()).unwrap());
            async move { client.ready().await.unwrap().send_request(get, true).unwrap().0.await.unwrap() }
        };
        let held = ask().await;
        let waits = tokio::task::spawn_local(ask());
        while pending(&one) + pending(&two) < 2.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        lets_go.add_permits(2);
        assert_eq!(waits.await.unwrap().status(), 200);
        drop(held);
    });
    assert_eq!(second.expect_head().status(), 200);
    for (sidecar, _) in [&one, &two] {
        wait_until("it is counted", || {
            sidecar.metrics().sum("lighter_requests_total", &[("code_class", "2xx")]) == 2.0
        });
        // They waited for a second, and were answered at once.
        let latency = gauge(sidecar, "lighter_endpoint_latency_ewma_seconds");
        assert!(latency < 0.5, "{latency}");
    }
}

fn gauge(sidecar: &Sidecar, name: &str) -> f64 {
    sidecar.metrics().sum(name, &[("service", "default/shop")])
}

fn refusals(sidecar: &Sidecar, cause: &str) -> f64 {
    sidecar.metrics().sum("lighter_circuit_refusals_total", &[("service", "default/shop"), ("cause", cause)])
}

/// Sends a request for `path` on each of so many connections.
pub fn send(at: SocketAddr, path: &str, count: usize) -> Vec<Peer> {
    let send = |_| {
        let mut peer = Peer::connect(at);
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        peer
    };
    (0..count).map(send).collect()
}

fn wait_and_are_refused() {
    let hold = Hold::default();
    let upstream = hold.upstream();
    let (sidecar, at) = example::sidecar("circuit-limits", &[upstream.address]);
    let mut first = send(at, "/", 2);
    wait_until("two are let through", || hold.asked() == 2);
    let mut waiting = send(at, "/", 2);
    wait_until("two wait", || gauge(&sidecar, "lighter_circuit_waits_total") == 2.0);
    // There is no room to wait for a fifth, nor time for those two.
    let (head, _) = Peer::connect(at).exchange(GET);
    let cause = head.cause().unwrap_or_default().to_owned();
    assert_eq!(head.status(), 503, "{head:?}");
    assert!(["pending_overflow", "pending_timeout"].contains(&&*cause), "{head:?}");
    for peer in &mut waiting {
        let head = peer.expect_head();
        assert_eq!((head.status(), head.cause()), (503, Some("pending_timeout")), "{head:?}");
    }
    assert_eq!(hold.asked(), 2);
    assert_eq!(gauge(&sidecar, "lighter_circuit_requests"), 2.0);
    assert_eq!(gauge(&sidecar, "lighter_circuit_pending"), 0.0);
    assert_eq!(refusals(&sidecar, "pending_overflow") + refusals(&sidecar, "pending_timeout"), 3.0);
    hold.let_go();
    for peer in &mut first {
        assert_eq!(peer.expect_head().status(), 200);
    }
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    wait_until("none is under way", || gauge(&sidecar, "lighter_circuit_requests") == 0.0);
}

fn goes_on() {
    let hold = Hold::default();
    let upstream = hold.upstream();
    let file = example::policy("circuit-limits", &[upstream.address]);
    // Nobody is refused here, however slow the machine is, but for want of room.
    let (sidecar, at) = example::running(&file.replace("300ms", "60s"));
    let mut first = send(at, "/", 2);
    wait_until("two are let through", || hold.asked() == 2);
    let mut waiting = send(at, "/", 2);
    wait_until("two wait", || gauge(&sidecar, "lighter_circuit_pending") == 2.0);
    let (head, _) = Peer::connect(at).exchange(GET);
    assert_eq!((head.status(), head.cause()), (503, Some("pending_overflow")), "{head:?}");
    // One that goes away leaves its place.
    drop(waiting.pop());
    wait_until("one waits", || gauge(&sidecar, "lighter_circuit_pending") == 1.0);
    assert_eq!(hold.asked(), 2);
    hold.let_go();
    for peer in first.iter_mut().chain(&mut waiting) {
        assert_eq!(peer.expect_head().status(), 200);
    }
    assert_eq!(refusals(&sidecar, "pending_overflow"), 1.0);
    assert_eq!(refusals(&sidecar, "pending_timeout"), 0.0);
    // With the limit gone, nothing is counted any more.
    let limits = &file[file.find("  circuit:").unwrap()..];
    sidecar.apply(&file.replace(limits, "  connectTimeout: 3s\n"));
    wait_until("there is no limit", || !sidecar.metrics().has("lighter_circuit_requests", &[]));
}

fn http_2() {
    let hold = Hold::default();
    let upstream = hold.upstream();
    let file = example::policy("circuit-limits", &[upstream.address]);
    let (sidecar, at) =
        example::running(&file.replace("300ms", "60s").replace("maxRequests", "maxConnections"));
    http2::run(async {
        let client = http2::connect(at).await;
        let ask = || {
            let client = client.clone();
            tokio::task::spawn_local(async move { http2::get(&client, "/").await.unwrap() })
        };
        let held: Vec<_> = (0..4).map(|_| ask()).collect();
        while gauge(&sidecar, "lighter_circuit_pending") != 2.0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let refused = ask().await.unwrap();
        assert_eq!(refused.head.status, 503);
        assert_eq!(refused.head.headers["x-lighter-error"], "pending_overflow");
        hold.let_go();
        for answer in held {
            assert_eq!(answer.await.unwrap().head.status, 200);
        }
    });
}

fn opaque() {
    let upstream = Upstream::start(|peer, _| peer.echo());
    let listen = free_address();
    let limits = "circuit: {maxConnections: 1, maxPendingRequests: 0}";
    let resources = format!("{}---\n{}", service("shop", "tcp", &[upstream.address]), policy("shop", limits));
    let own = format!("listeners: [{{listen: '{listen}', service: shop, port: 80}}]\nworkers: 2\n");
    let sidecar = Sidecar::start(&resources, &own);
    let mut first = Peer::connect(listen);
    assert_eq!(first.send("hello").bytes(5), b"hello");
    assert_eq!(gauge(&sidecar, "lighter_circuit_connections"), 1.0);
    // It says nothing: bytes that lie unread when the sidecar closes would make its end a reset.
    if let Some(mut second) = Peer::connect_where_taken(listen) {
        assert_eq!(second.rest(), b"", "it is cut off");
    }
    wait_until("it is counted", || refusals(&sidecar, "pending_overflow") == 1.0);
    drop(first);
    wait_until("the place is free", || gauge(&sidecar, "lighter_circuit_connections") == 0.0);
    assert_eq!(Peer::connect(listen).send("again").bytes(5), b"again");
}
