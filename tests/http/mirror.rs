//! Copies of requests for another Service.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{example, http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("mirror::copies_go_elsewhere_and_nobody_hears_of_them", answers_are_dropped),
        test("mirror::copies_are_as_whole_as_requests_in_every_protocol", protocols),
        test("mirror::large_requests_are_not_copied", large),
        test("mirror::a_service_that_hangs_or_is_away_holds_nothing_up", broken),
        test("mirror::so_many_copies_are_made_at_a_time", crowded),
    ]
}

/// The example, in which `shop` is at the first address and gets copies of all orders sent to the second.
fn all_orders(upstream: SocketAddr, next: SocketAddr) -> String {
    let file = example::policy("mirror", &[upstream, next]);
    assert!(file.contains("percent: 10}"));
    file.replace("percent: 10}", "percent: 100}")
}

/// A Service that tells the first line and the body of each request, and fails.
fn telling() -> (Upstream, Receiver<(String, Body)>) {
    let (tell, told) = channel();
    let upstream = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            let _ = tell.send((head.line.clone(), body));
            if !peer.try_send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") {
                return;
            }
        }
    });
    (upstream, told)
}

fn get(client: &mut Peer, path: &str) -> u16 {
    client.exchange(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).0.status()
}

fn copies(sidecar: &Sidecar, outcome: &str) -> f64 {
    let labels = [("route", "default/shop/orders"), ("outcome", outcome)];
    sidecar.metrics().sum("lighter_mirrored_requests_total", &labels)
}

fn requests(sidecar: &Sidecar, labels: &[(&str, &str)]) -> f64 {
    sidecar.metrics().sum("lighter_requests_total", labels)
}

fn answers_are_dropped() {
    let (upstream, (next, told)) = (Upstream::answering("served"), telling());
    let file = all_orders(upstream.address, next.address);
    let (sidecar, at) = example::running(&file);
    let mut client = Peer::connect(at);
    for number in 0..3 {
        let path = format!("/orders/{number}?a=b");
        assert_eq!(get(&mut client, &path), 200);
        assert_eq!(get(&mut client, "/other"), 200);
        assert_eq!(told.recv().unwrap(), (format!("GET {path} HTTP/1.1"), Body::Whole(Vec::new())));
    }
    assert_eq!(copies(&sidecar, "sent"), 3.0);
    // They are counted as requests of the other Service, and nowhere else.
    let labels = [("service", "default/shop-next"), ("route", "mirror"), ("code_class", "5xx")];
    wait_until("copies are counted", || requests(&sidecar, &labels) == 3.0);
    assert_eq!(requests(&sidecar, &[("service", "default/shop"), ("code_class", "2xx")]), 6.0);
    // A share of none is none.
    let loads = || sidecar.metrics().sum("lighter_config_loads_total", &[("outcome", "applied")]);
    let loaded = loads();
    sidecar.apply(&file.replace("percent: 100}", "fraction: {numerator: 0, denominator: 3}}"));
    wait_until("the change is in force", || loads() > loaded);
    (0..20).for_each(|_| assert_eq!(get(&mut client, "/orders"), 200));
    assert_eq!(copies(&sidecar, "sent"), 3.0);
}

fn protocols() {
    let whole = |expected: &str, got: (String, Body)| {
        assert_eq!(got, ("POST /orders HTTP/1.1".to_owned(), Body::Whole(expected.as_bytes().to_vec())));
    };
    let http1 = Upstream::echoing();
    let (next, told) = telling();
    let file = all_orders(http1.address, next.address);
    let (_sidecar, at) = example::running(&file);
    let start = "POST /orders HTTP/1.1\r\nHost: shop\r\n";
    let (_, body) = Peer::connect(at).exchange(format!("{start}Content-Length: 5\r\n\r\nhello"));
    assert_eq!(body, Body::Whole(b"hello".to_vec()));
    whole("hello", told.recv().unwrap());
    let mut client = Peer::connect(at);
    client.send(format!("{start}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"));
    wait_until("the first chunk is on its way", || http1.received().matches("POST").count() == 2);
    client.send("6\r\n world\r\n0\r\n\r\n");
    assert_eq!(client.expect_head().status(), 200);
    whole("hello world", told.recv().unwrap());
    let over_http_2 = |at: SocketAddr| {
        http2::run(async {
            let client = http2::connect(at).await;
            let call = http::Request::post("http://shop/orders").body(b"hello".to_vec()).unwrap();
            let answer = http2::exchange(&client, call).await.unwrap();
            assert_eq!((answer.head.status.as_u16(), &*answer.body), (200, &b"hello"[..]));
        });
    };
    over_http_2(at);
    whole("hello", told.recv().unwrap());
    // The first Service alone speaks HTTP/2, and then the second alone.
    let http2 = http2::Upstream::echo();
    let file = all_orders(http2.address, next.address);
    let (_sidecar, at) = example::running(&file.replacen("appProtocol: http}", "appProtocol: http2}", 1));
    over_http_2(at);
    whole("hello", told.recv().unwrap());
    let (head, _) = Peer::connect(at)
        .exchange(format!("{start}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(head.status(), 200);
    whole("hello", told.recv().unwrap());
    let file = all_orders(http1.address, http2.address);
    let (last, first) = (file.rfind("appProtocol: http}").unwrap(), "appProtocol: http}".len());
    let file = format!("{}appProtocol: http2}}{}", &file[..last], &file[last + first..]);
    let (sidecar, at) = example::running(&file);
    over_http_2(at);
    let labels = [("service", "default/shop-next"), ("route", "mirror"), ("code_class", "2xx")];
    wait_until("the copy is answered", || requests(&sidecar, &labels) == 1.0);
}

/// However it comes, by whatever way it is passed on.
fn large() {
    let (upstream, (next, told)) = (Upstream::echoing(), telling());
    let (sidecar, at) = example::running(&all_orders(upstream.address, next.address));
    let start = "POST /orders HTTP/1.1\r\nHost: shop\r\n";
    for length in [70_000, 1_000_000] {
        let body = "x".repeat(length);
        let said = format!("{start}Content-Length: {length}\r\n\r\n{body}");
        assert_eq!(Peer::connect(at).exchange(said).0.status(), 200);
        let chunked = format!("{start}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n");
        assert_eq!(Peer::connect(at).exchange(chunked).0.status(), 200);
    }
    assert_eq!((copies(&sidecar, "too_large"), copies(&sidecar, "sent")), (4.0, 0.0));
    let fitting = "x".repeat(60_000);
    let said = format!("{start}Content-Length: {}\r\n\r\n{fitting}", fitting.len());
    assert_eq!(Peer::connect(at).exchange(said).0.status(), 200);
    assert_eq!(told.recv().unwrap().1, Body::Whole(fitting.into_bytes()));
}

fn broken() {
    let upstream = Upstream::answering("served");
    let silent = Upstream::start(|mut peer, _| drop(peer.rest()));
    for broken in [silent.address, free_address()] {
        let (sidecar, at) = example::running(&all_orders(upstream.address, broken));
        let mut client = Peer::connect(at);
        (0..20).for_each(|_| assert_eq!(get(&mut client, "/orders"), 200));
        assert_eq!(copies(&sidecar, "sent"), 20.0);
    }
}

/// One connection is of one worker, whose copies are not answered here.
fn crowded() {
    let upstream = Upstream::answering("served");
    let silent = Upstream::start(|mut peer, _| drop(peer.rest()));
    let (sidecar, at) = example::running(&all_orders(upstream.address, silent.address));
    let mut client = Peer::connect(at);
    (0..300).for_each(|_| assert_eq!(get(&mut client, "/orders"), 200));
    assert_eq!((copies(&sidecar, "sent"), copies(&sidecar, "busy")), (256.0, 44.0));
}
