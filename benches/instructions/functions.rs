//! Single functions of the request path. This program runs itself under callgrind for them.

use std::hint::black_box;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lighter_config::load::Resources;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::Snapshot;
use lighter_proxy::balance::Outcome;
use lighter_proxy::http::h1::head;
use lighter_proxy::link::head::{Opening, Protocol, Scheme};
use lighter_proxy::link::session::{Event, Limits, Read, Session, Side, Slices};
use lighter_proxy::mesh::{Destination, Mesh};

use crate::{Case, callgrind};

pub fn cases() -> Vec<Case> {
    let case = |name: &'static str, unit| Case {
        name,
        unit,
        count: 2000,
        steady: true,
        limit: None,
        // A route without filters costs one look at an empty chain: a tenth of what it takes to find the route is less than 1 %
        // of a whole request.
        beside: (name == "empty-chain").then_some(("match-route", 1.1)),
        run: Box::new(move |file, count| {
            let status = callgrind(file, std::env::current_exe().unwrap())
                .args(["--work", name, &count.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(status.unwrap().success(), "{name} does its work");
        }),
    };
    vec![
        case("parse-request", "head"),
        case("match-route", "request"),
        case("empty-chain", "request"),
        case("pick-endpoint", "request"),
        case("link-frames", "exchange"),
    ]
}

/// Does a case's work `count` times.
pub fn work(name: &str, count: u64) {
    match name {
        "parse-request" => parse_request(count),
        "match-route" => match_route(count),
        "empty-chain" => empty_chain(count),
        "pick-endpoint" => pick_endpoint(count),
        "link-frames" => link_frames(count),
        other => panic!("no work is called {other}"),
    }
}

/// What a browser sends: a dozen fields.
const HEAD: &[u8] = b"GET /products/42?ref=home HTTP/1.1\r\nHost: shop.example\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef; theme=light\r\n\
Cache-Control: max-age=0\r\nX-Request-Id: 5d3c1a52-9a4e-4b6e-a7a1-6a5a5f7a8b9c\r\n\
Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nPriority: u=0, i\r\n\r\n";

fn parse_request(count: u64) {
    for _ in 0..count {
        let mut room = head::room();
        let request = head::request(black_box(HEAD), &mut room).expect("valid").expect("whole");
        black_box(request.path_and_query());
    }
}

/// Twenty routes, of which the last takes the request.
fn match_route(count: u64) {
    let destination = destination();
    let mut room = head::room();
    let request = head::request(HEAD, &mut room).expect("valid").expect("whole");
    for _ in 0..count {
        let (route, _) = destination.route(black_box(&request)).expect("a route takes it");
        assert_eq!(route.index, 20);
    }
}

/// The same, and what a request pays for filters where there are none.
fn empty_chain(count: u64) {
    let destination = destination();
    let mut room = head::room();
    let request = head::request(HEAD, &mut room).expect("valid").expect("whole");
    for _ in 0..count {
        let (route, state) = destination.route(black_box(&request)).expect("a route takes it");
        assert_eq!(route.index, 20);
        assert!(black_box(state).chain.is_empty());
    }
}

/// Ten endpoints, with the account that each request leaves behind.
fn pick_endpoint(count: u64) {
    let destination = destination();
    let now = Instant::now();
    for step in 0..count {
        let now = now + Duration::from_micros(100 * step);
        let picked = destination.cluster.pick(None, None, now).expect("an endpoint");
        picked.finish(Outcome::Answered, Duration::from_micros(500 + step % 100), now);
    }
}

/// A small request and its answer, from one end of a link to the other and back: written, carried, read.
fn link_frames(count: u64) {
    let now = Instant::now();
    let mut opener = Session::new(Side::Opener, Limits::default(), now);
    let mut acceptor = Session::new(Side::Acceptor, Limits::default(), now);
    let mut wire = BytesMut::with_capacity(16 * 1024);
    let mut carry = |from: &mut Session, to: &mut Session| {
        let outbox = from.transmit();
        let mut slices = Slices::new();
        outbox.slices(&mut slices);
        slices.iter().for_each(|slice| wire.extend_from_slice(slice));
        drop(slices);
        outbox.advance(outbox.len());
        to.recv(now, wire.split().freeze()).expect("valid frames");
    };
    let head = Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"GET",
        authority: b"shop.example",
        path: b"/products/42?ref=home",
        deadline: None,
    };
    let asked: [(&[u8], &[u8]); 4] = [
        (b"User-Agent", b"bench/1.0"),
        (b"Accept", b"*/*"),
        (b"X-Request-Id", b"5d3c1a52-9a4e-4b6e-a7a1-6a5a5f7a8b9c"),
        (b"X-Forwarded-For", b"10.0.0.1"),
    ];
    let answered: [(&[u8], &[u8]); 3] = [
        (b"Content-Length", b"100"),
        (b"Content-Type", b"text/plain"),
        (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    ];
    for _ in 0..count {
        let (id, _) = opener.open(now, black_box(&head), asked, b"", true).expect("a stream");
        carry(&mut opener, &mut acceptor);
        let Some(Event::Opened { stream, head, .. }) = acceptor.event() else { panic!("no stream came") };
        black_box(head.fields().count());
        acceptor.send_head(stream, 200, answered, &[b'x'; 100], true).expect("a head");
        carry(&mut acceptor, &mut opener);
        while let Some(event) = opener.event() {
            black_box(event);
        }
        while let Some(read) = opener.read(id) {
            if let Read::Data(bytes) = &read {
                opener.release(id, bytes.len());
            }
            black_box(read);
        }
        assert_eq!(opener.open_streams() + acceptor.open_streams(), 0);
    }
}

fn destination() -> Arc<Destination> {
    let endpoints: String =
        (0..10).map(|at| format!("  - {{address: 127.0.0.1, port: {}}}\n", 9000 + at)).collect();
    let rules: String = (0..20)
        .map(|at| {
            format!(
                "  - matches: [{{path: {{type: PathPrefix, value: /products/{at}-none}}, method: GET}}]\n    \
                 backendRefs: [{{name: shop, port: 80}}]\n"
            )
        })
        .collect();
    let text = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  \
         ports: [{{name: http, port: 80, appProtocol: http}}]\n  endpoints:\n{endpoints}---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: shop}}\nspec:\n  \
         parentRefs: [{{kind: Service, group: '', name: shop}}]\n  rules:\n{rules}  \
         - backendRefs: [{{name: shop, port: 80}}]\n"
    );
    let resources = Resources::parse("bench.yaml", &text).expect("valid resources");
    let snapshot = Snapshot::build(&resources).expect("a valid mesh");
    let mesh = Mesh::build(Arc::new(snapshot), &Mesh::default());
    let key = ServicePort { service: ServiceName::new("default", "shop"), port: 80 };
    mesh.destination(&key).expect("the Service is in the mesh").clone()
}
