//! Single functions of the request path. This program runs itself under callgrind for them.

use std::hint::black_box;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::load::Resources;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::Snapshot;
use lighter_proxy::balance::Outcome;
use lighter_proxy::http::h1::head;
use lighter_proxy::mesh::{Destination, Mesh};

use crate::{Case, callgrind};

pub fn cases() -> Vec<Case> {
    let case = |name: &'static str, unit| Case {
        name,
        unit,
        count: 2000,
        steady: true,
        limit: None,
        run: Box::new(move |file, count| {
            let status = callgrind(file, std::env::current_exe().unwrap())
                .args(["--work", name, &count.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(status.unwrap().success(), "{name} does its work");
        }),
    };
    vec![case("parse-request", "head"), case("match-route", "request"), case("pick-endpoint", "request")]
}

/// Does a case's work `count` times.
pub fn work(name: &str, count: u64) {
    match name {
        "parse-request" => parse_request(count),
        "match-route" => match_route(count),
        "pick-endpoint" => pick_endpoint(count),
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

/// Ten endpoints, with the account that each request leaves behind.
fn pick_endpoint(count: u64) {
    let destination = destination();
    let now = Instant::now();
    for step in 0..count {
        let now = now + Duration::from_micros(100 * step);
        let picked = destination.cluster.pick(None, now).expect("an endpoint");
        picked.finish(Outcome::Answered, Duration::from_micros(500 + step % 100), now);
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
