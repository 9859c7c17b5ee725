//! A Service's own sidecar refuses what is more than its application works on at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::Response;
use libtest_mimic::Trial;

use crate::circuit::{self, Hold};
use crate::support::process::free_address;
use crate::support::raw::Peer;
use crate::support::sidecar::Sidecar;
use crate::support::{example, http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("overload::what_is_more_is_refused_and_some_go_first", refused),
        test("overload::http_2_and_grpc_are_refused_too", http_2),
        test("overload::what_was_let_in_is_tried_again_though_others_came_in_meanwhile", again),
        test("overload::a_changed_limit_holds_for_connections_that_are_open", changed),
    ]
}

/// The sidecar of `shop` by the example's file, and where callers reach it.
fn shop(app: SocketAddr) -> (Sidecar, SocketAddr) {
    shop_by(&example::policy("overload", &[app]), app)
}

fn shop_by(file: &str, app: SocketAddr) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let own =
        format!("service: shop\ninbound: [{{listen: '{listen}', app: '{app}', port: 80}}]\nworkers: 2\n");
    (Sidecar::start(file, &own), listen)
}

/// Sends requests for `path` on as many connections, until `asked` of them have reached the application.
fn send(at: SocketAddr, path: &str, count: usize, hold: &Hold, asked: usize) -> Vec<Peer> {
    let peers = circuit::send(at, path, count);
    wait_until("they are let through", || hold.asked() == asked);
    peers
}

fn refuse(peer: &mut Peer, path: &str) {
    let (head, _) = peer.exchange(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"));
    assert_eq!((head.status(), head.cause()), (503, Some("concurrency_limit")), "{head:?}");
}

fn refusals(sidecar: &Sidecar, priority: &str) -> f64 {
    let labels = [("service", "default/shop"), ("port", "80"), ("priority", priority)];
    sidecar.metrics().sum("lighter_overload_refusals_total", &labels)
}

fn refused() {
    let hold = Hold::default();
    let app = hold.upstream();
    let (sidecar, at) = shop(app.address);
    // Without an answer nothing is known of the application: the largest limit holds.
    let mut inside = send(at, "/", 8, &hold, 8);
    let mut open = Peer::connect(at);
    refuse(&mut open, "/");
    inside.extend(send(at, "/pay/now", 2, &hold, 10));
    refuse(&mut open, "/pay");
    refuse(&mut open, "/");
    assert_eq!((refusals(&sidecar, "default"), refusals(&sidecar, "high")), (2.0, 1.0));
    let counted = [("direction", "inbound"), ("cause", "concurrency_limit"), ("code_class", "5xx")];
    assert_eq!(sidecar.metrics().sum("lighter_requests_total", &counted), 3.0);
    hold.let_go();
    for peer in &mut inside {
        assert_eq!(peer.expect_head().status(), 200);
    }
    wait_until("an answer says how many are let through", || {
        let limit = sidecar.metrics().sum("lighter_overload_limit", &[("service", "default/shop")]);
        (3.0..=10.0).contains(&limit)
    });
    assert_eq!(open.exchange("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").0.status(), 200);
}

fn http_2() {
    let hold = Hold::default();
    let app = hold.upstream();
    let (sidecar, at) = shop(app.address);
    let _inside = send(at, "/", 8, &hold, 8);
    http2::run(async {
        let client = http2::connect(at).await;
        let answer = http2::get(&client, "/").await.unwrap();
        assert_eq!(answer.head.status, 503);
        assert_eq!(answer.head.headers["x-lighter-error"], "concurrency_limit");
        let call =
            http::Request::post("http://shop/shop.Shop/Buy").header("content-type", "application/grpc");
        let answer = http2::exchange(&client, call.body(Vec::new()).unwrap()).await.unwrap();
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.head.headers["grpc-status"], "14", "{answer:?}");
    });
    assert_eq!(refusals(&sidecar, "default"), 2.0);
    hold.let_go();
}

fn again() {
    let [refused, inside, taken] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(10);
    let counts = [refused.clone(), inside, taken];
    // It refuses `/late` unread, as one that has too many streams, until somebody else is inside, who stays there until then.
    let app = http2::Upstream::start_with(builder, move |request, mut respond| {
        let [refused, inside, taken] = counts.clone();
        async move {
            if request.uri().path() != "/late" {
                inside.store(1, Relaxed);
                until(&taken).await;
            } else if inside.load(Relaxed) == 0 {
                refused.fetch_add(1, Relaxed);
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                taken.store(1, Relaxed);
            }
            let _ = respond.send_response(Response::new(()), true);
        }
    });
    let file = example::policy("overload", &[app.address])
        .replace("appProtocol: http", "appProtocol: http2")
        .replace("maxConcurrency: 10", "minConcurrency: 1\n    maxConcurrency: 1");
    let (sidecar, at) = shop_by(&file, app.address);
    let turned_away = http2::run(async {
        let client = http2::connect(at).await;
        let late = tokio::task::spawn_local({
            let client = client.clone();
            async move { http2::get(&client, "/late").await.unwrap().head.status }
        });
        until(&refused).await;
        let other = tokio::task::spawn_local(async move {
            let mut turned_away = 0.0;
            // While a try of the late one runs, there is no room.
            while http2::get(&client, "/").await.unwrap().head.status != 200 {
                turned_away += 1.0;
            }
            turned_away
        });
        assert_eq!(late.await.unwrap(), 200);
        other.await.unwrap()
    });
    assert_eq!(refusals(&sidecar, "default"), turned_away);
}

/// Waits until something is counted.
async fn until(count: &AtomicUsize) {
    while count.load(Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn changed() {
    let hold = Hold::default();
    let app = hold.upstream();
    let (sidecar, at) = shop(app.address);
    let _inside = send(at, "/", 8, &hold, 8);
    let mut open = Peer::connect(at);
    refuse(&mut open, "/");
    let file = example::policy("overload", &[app.address]);
    sidecar.apply(&file.replace("maxConcurrency: 10", "maxConcurrency: 20"));
    let dumped = || crate::support::metrics::get(sidecar.admin, "/config_dump").1;
    wait_until("it is in force", || dumped().contains("\"max_concurrency\": 20"));
    let _more = send(at, "/", 7, &hold, 15);
    open.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    wait_until("it is let through", || hold.asked() == 16);
    refuse(&mut Peer::connect(at), "/");
    // Without the policy nothing is refused.
    let policy = &file[file.find("  overload:").unwrap()
        ..file
            .find("---\napiVersion: mesh.lighter.dev/v1\nkind: TrafficPolicy\nmetadata: {name: shop-pay}")
            .unwrap()];
    sidecar.apply(&file.replace(policy, "  connectTimeout: 5s\n"));
    wait_until("there is no limit", || !dumped().contains("\"max_concurrency\": 20"));
    let _all = send(at, "/", 30, &hold, 46);
    assert_eq!(refusals(&sidecar, "default"), 2.0);
    hold.let_go();
    assert_eq!(open.expect_head().status(), 200);
}
