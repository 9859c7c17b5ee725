//! Sessions where an endpoint's sidecar is called, in mutual TLS and over links.

use std::net::SocketAddr;

use libtest_mimic::Trial;

use crate::over::{self, over_quic};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{http2, test};
use crate::world::{REVIEWS, Root, WEB, caller};

pub fn tests() -> Vec<Trial> {
    vec![
        test("sessions_stay_with_an_endpoint_that_proves_itself", || sessions(false)),
        test("sessions_stay_with_an_endpoint_over_links", || sessions(true)),
        over_quic("sessions_stay_with_an_endpoint_over_links", || sessions(true)),
    ]
}

const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{kind: Service, name: reviews}]
  rules: [{sessionPersistence: {type: Header, sessionName: x-seat}, backendRefs: [{name: reviews, port: 80}]}]
";

fn sessions(linked: bool) {
    let root = Root::new();
    let apps = ["a", "b", "c"].map(Upstream::answering);
    let places = apps.each_ref().map(|_| (free_address(), free_address()));
    let entry = |(at, link): &(SocketAddr, SocketAddr)| {
        let link = if linked { format!(", link: '{link}'") } else { String::new() };
        let (ip, port) = (at.ip(), at.port());
        format!("{{address: {ip}, port: {port}, secure: {{identity: '{REVIEWS}'{link}}}}}")
    };
    let resources = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: reviews}}\nspec:\n  ports: [{{port: 80, \
         targetPort: 8080, appProtocol: http}}]\n  endpoints: [{}]\n{ROUTE}{}",
        places.each_ref().map(entry).join(", "),
        over::policy()
    );
    let workloads: Vec<Sidecar> = apps.iter().zip(&places).map(|(app, (listen, link))| {
        let own = format!(
            "service: reviews\nworkers: 1\nlink: '{link}'\ninbound: [{{listen: '{listen}', app: '{}', port: 80}}]\n{}",
            app.address,
            root.identity(REVIEWS)
        );
        Sidecar::start(&resources, &own)
    }).collect();
    let (web, listen) = caller(&resources, &root.identity(WEB));
    let mut client = Peer::connect(listen);
    let mut ask = |fields: &str| {
        let (head, body) = client.exchange(format!("GET / HTTP/1.1\r\nHost: reviews\r\n{fields}\r\n"));
        assert_eq!(head.status(), 200, "{head:?}");
        let Body::Whole(body) = body else { panic!("a whole body") };
        (head.get("x-seat").map(str::to_owned), body)
    };
    over::until_linked(&web, 3, || drop(ask("")));
    let opened = || over::streams(&web, "opener");
    let accepted = || workloads.iter().map(|workload| over::streams(workload, "acceptor")).sum::<f64>();
    let before = (opened(), accepted());
    let (seat, first) = ask("");
    let seat = seat.unwrap();
    for _ in 0..12 {
        assert_eq!(ask(&format!("x-seat: {seat}\r\n")), (None, first.clone()));
    }
    http2::run(async {
        let client = http2::connect(listen).await;
        for _ in 0..12 {
            let call =
                http::Request::get("http://reviews/").header("x-seat", &seat).body(Vec::new()).unwrap();
            assert_eq!(http2::exchange(&client, call).await.unwrap().body, first);
        }
    });
    let kept = web.metrics().sum("lighter_session_picks_total", &[("result", "kept")]);
    let streams = if linked { 25.0 } else { 0.0 };
    assert_eq!((kept, opened() - before.0, accepted() - before.1), (24.0, streams, streams));
}
