//! Endpoints to which there are links, asked whether they are well.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use libtest_mimic::Trial;

use crate::links::World;
use crate::over::{is_over_quic, over_quic};
use crate::support::process::free_address;
use crate::support::raw::Upstream;
use crate::support::sidecar::policy;
use crate::support::{http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("checks::a_request_over_a_link_says_whether_an_endpoint_is_well", by_request),
        test("checks::a_grpc_call_beside_links_says_whether_an_endpoint_is_well", by_call),
        test("checks::a_tunnel_says_whether_an_endpoint_is_well", by_tunnel),
        over_quic("checks::a_request_over_a_link_says_whether_an_endpoint_is_well", by_request),
        over_quic("checks::a_tunnel_says_whether_an_endpoint_is_well", by_tunnel),
        test(
            "checks::of_a_port_that_speaks_http_it_is_asked_beside_links_whether_a_connection_is_accepted",
            by_connection,
        ),
    ]
}

fn by_request() {
    let well = Arc::new(AtomicBool::new(true));
    let told = well.clone();
    let app = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            assert_eq!(head.target(), "/healthz");
            let status = if told.load(Relaxed) { 200 } else { 503 };
            if !peer.try_send(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n")) {
                return;
            }
        }
    });
    let world = follows("http", "http: /healthz, ", app.address, |is| well.store(is, Relaxed));
    assert!(is_over_a_link(&world));
}

fn by_call() {
    let well = Arc::new(AtomicBool::new(true));
    let told = well.clone();
    let app = http2::Upstream::start(move |request, mut respond| {
        // SERVING, NOT_SERVING.
        let status = if told.load(Relaxed) { 1 } else { 2 };
        async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let _ = stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }
    });
    let world = follows("grpc", "grpc: shop, ", app.address, |is| well.store(is, Relaxed));
    assert!(!is_over_a_link(&world), "a link carries no connection of HTTP/2");
}

fn by_tunnel() {
    let address = free_address();
    let mut listener = Some(TcpListener::bind(address).unwrap());
    let world = follows("tcp", "", address, |is| {
        drop(listener.take());
        listener = is.then(|| TcpListener::bind(address).unwrap());
    });
    assert!(is_over_a_link(&world));
}

fn by_connection() {
    let app = Upstream::answering("well");
    let world = asking("http", "", app.address);
    wait_until("it was asked", || passed(&world) > 2.0);
    assert_eq!(unwell(&world), 0.0);
    assert!(!is_over_a_link(&world), "a tunnel would be let by what is said of requests");
    let World { web, reviews, .. } = world;
    drop(reviews);
    wait_until("the caller has noticed", || web.metrics().sum("lighter_endpoint_unwell", &[]) == 1.0);
}

/// A caller whose probe says `how`, and the called one before `app`.
fn asking(protocol: &str, how: &str, app: SocketAddr) -> World {
    let probe = format!("{how}interval: 100ms, timeout: 1s, failureThreshold: 2, successThreshold: 2");
    let check = policy("reviews", &format!("healthCheck: {{probe: {{{probe}}}}}"));
    World::under_each(protocol, app, &format!("---\n{check}"), "")
}

/// The caller follows how an application is that `set` makes well or not.
fn follows(protocol: &str, how: &str, app: SocketAddr, mut set: impl FnMut(bool)) -> World {
    let world = asking(protocol, how, app);
    wait_until("it was asked", || passed(&world) > 2.0);
    assert_eq!(unwell(&world), 0.0);
    for is in [false, true] {
        set(is);
        wait_until("the caller has noticed", || unwell(&world) == f64::from(u8::from(!is)));
    }
    world
}

fn passed(world: &World) -> f64 {
    world.web.metrics().sum("lighter_endpoint_checks_total", &[("outcome", "passed")])
}

fn unwell(world: &World) -> f64 {
    world.web.metrics().sum("lighter_endpoint_unwell", &[])
}

/// Whether what was asked went over a link: then nothing but links came by a connection.
fn is_over_a_link(world: &World) -> bool {
    if is_over_quic() {
        // It began over TCP.
        let (opened, accepted) = world.streams();
        wait_until("it is asked over QUIC", || {
            let (now, there) = world.streams();
            now > opened + 2.0 && there > accepted + 2.0
        });
        return true;
    }
    let labels = [("outcome", "served")];
    let connections = world.reviews.metrics().sum("lighter_inbound_connections_total", &labels);
    let (links, streams) = (world.links().1, world.streams().1);
    assert!(connections > links || streams > 5.0, "{connections} {links} {streams}");
    connections <= links
}
