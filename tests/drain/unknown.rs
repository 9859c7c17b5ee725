//! Whoever runs requests of a service with state dies (SIGKILL) with some under way. Each is answered once, with the cause
//! `outcome_unknown`, and none is sent again. Of a service without state nobody asks whether a request has run: there it is said
//! what broke.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use http::Request;
use libtest_mimic::Trial;

use crate::places::{Place, alone};
use crate::registers::App;
use crate::support::http2;
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer};
use crate::support::{full, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        alone("unknown::what_may_have_run_at_a_service_with_state_is_answered_as_unknown", with_state),
        alone("unknown::what_may_have_run_is_answered_so_whatever_the_last_try_met", tried_again),
        alone("unknown::what_breaks_of_a_service_without_state_is_said_as_it_was", without_state),
    ]
}

fn with_state() {
    for way in &WAYS[..if full() { WAYS.len() } else { 2 }] {
        println!("{way:?}");
        let world = World::new();
        world.apply(&shop(way.protocol, true));
        let mut place = start(&world, way.has_links);
        let (web, door) = world.caller("web", "shop");
        let ends = |before: f64, count| {
            wait_until("all are counted", || unknown(&web, "outbound") >= before + count as f64);
            assert_eq!(unknown(&web, "outbound"), before + count as f64);
        };

        let asked = ask(&place, &web, door, way);
        place.app.kill();
        let count = asked.len();
        for (what, asked) in asked {
            assert_eq!(
                asked.join().unwrap(),
                (503, "outcome_unknown".to_owned()),
                "{what}, of the application"
            );
        }
        ends(0.0, count);
        // Its sidecar was asked, and says so.
        assert_eq!(unknown(&place.sidecar, "inbound"), count as f64);

        let epoch = place.epoch();
        place.app.start_again(&world.path(""));
        wait_until("it is seen that it is another one", || place.epoch() > epoch && place.serves());
        let asked = ask(&place, &web, door, way);
        place.kill_sidecar();
        for (what, asked) in asked {
            assert_eq!(asked.join().unwrap(), (503, "outcome_unknown".to_owned()), "{what}, of the sidecar");
        }
        ends(count as f64, count);
        // What was asked for is under way still, and each of it once.
        assert_eq!(place.app.count("stay"), count as u64);
    }
}

/// What may run twice has more tries, as its policy says. Their application is gone, so that nobody executes those.
fn tried_again() {
    let world = World::new();
    let way = &WAYS[0];
    world.apply(&(shop(way.protocol, true) + RETRIES));
    let mut place = start(&world, way.has_links);
    let (web, door) = world.caller("web", "shop");
    let asked = ask(&place, &web, door, way);
    let count = asked.len() as f64;
    place.app.kill();
    for (what, asked) in asked {
        assert_eq!(asked.join().unwrap(), (503, "outcome_unknown".to_owned()), "{what}");
    }
    wait_until("all are counted", || unknown(&web, "outbound") == count);
    let tries = web.metrics().sum("lighter_retries_total", &[("direction", "outbound")]);
    assert!(tries >= 2.0, "each GET is tried once more, at least: {tries}");
    // The last ones found nobody.
    let labels = [("direction", "inbound"), ("cause", "connect_refused")];
    assert!(place.sidecar.metrics().sum("lighter_requests_total", &labels) >= 2.0);
}

const RETRIES: &str = "---\napiVersion: mesh.lighter.dev/v1\nkind: TrafficPolicy\nmetadata: {name: again}\nspec: {targetRefs: [{kind: \
                       Service, name: shop}], retry: {on: [gatewayError], attempts: 3, backoff: {base: 1ms}, budget: {percent: 100, \
                       minPerSecond: 1000}}}\n";

fn without_state() {
    let way = &WAYS[0];
    let world = World::new();
    world.apply(&shop(way.protocol, false));
    let mut place = start(&world, way.has_links);
    let (web, door) = world.caller("web", "shop");
    let is_told = |(status, cause): (u16, String)| {
        let broke = ["upstream_closed", "upstream_reset"].contains(&&*cause) && status == 502;
        // It changes nothing, and was asked for again where nobody was reached any more.
        broke || cause.starts_with("connect_")
    };
    let asked = ask(&place, &web, door, way);
    place.app.kill();
    for (what, asked) in asked {
        let answer = asked.join().unwrap();
        assert!(is_told(answer.clone()), "{what}: {answer:?}");
    }
    place.app.start_again(&world.path(""));
    let asked = ask(&place, &web, door, way);
    place.kill_sidecar();
    for (what, asked) in asked {
        let answer = asked.join().unwrap();
        assert!(is_told(answer.clone()), "{what}: {answer:?}");
    }
    assert_eq!(unknown(&web, "outbound"), 0.0);
}

/// By what requests come to the application.
#[derive(Debug)]
struct Way {
    /// What its port says that it speaks.
    protocol: &'static str,
    /// Over a link to its sidecar.
    has_links: bool,
}

/// Where the port says nothing, an application is spoken to as its callers speak.
const WAYS: [Way; 4] = [
    Way { protocol: "", has_links: true },
    Way { protocol: ", appProtocol: http2", has_links: false },
    Way { protocol: "", has_links: false },
    Way { protocol: ", appProtocol: http", has_links: true },
];

fn shop(protocol: &str, has_state: bool) -> String {
    let state = "  state: {class: volatile, port: 81, snapshot: /state, restore: /state}\n";
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{name: shop, port: 80, targetPort: \
         8080{protocol}}}, {{name: state, port: 81, targetPort: 8080}}]\n{}",
        if has_state { state } else { "" }
    )
}

/// Its only instance.
fn start(world: &World, has_links: bool) -> Place {
    let app = App::start(&world.path(""), "a");
    let link = if has_links { format!("link: '{}'\n", free_address()) } else { String::new() };
    let inbound =
        |port: u16| format!("{{listen: '{}', app: '{}', port: {port}}}", free_address(), app.address);
    let own = format!("service: shop\ninbound: [{}, {}]\n{link}", inbound(80), inbound(81));
    world.token("shop-a", "shop");
    let sidecar = world.start("shop-a", &own).ready();
    Place { instance: String::new(), sidecar, app }
}

/// What it is answered: the status that callers of its protocol are told it by, and the cause.
type Asks = JoinHandle<(u16, String)>;

/// Requests that the application keeps, and is seen to.
fn ask(place: &Place, web: &Sidecar, door: SocketAddr, way: &Way) -> Vec<(&'static str, Asks)> {
    wait_until("it is known, and serves", || {
        let (head, _) = Peer::connect(door).exchange("GET /r/any HTTP/1.1\r\nHost: shop\r\n\r\n");
        web.endpoints() == 1 && head.status() == 200
    });
    place.app.tell("hold/stay");
    let mut all = vec![
        ("GET by HTTP/1.1", std::thread::spawn(move || by_http1(door, "GET"))),
        ("POST by HTTP/1.1", std::thread::spawn(move || by_http1(door, "POST"))),
        ("GET by HTTP/2", std::thread::spawn(move || by_http2(door, "GET"))),
        ("POST by HTTP/2", std::thread::spawn(move || by_http2(door, "POST"))),
    ];
    if !way.protocol.ends_with("http") {
        all.push(("gRPC", std::thread::spawn(move || by_grpc(door))));
    }
    wait_until("all are under way", || place.app.count("stay.waits") == all.len() as u64);
    all
}

fn by_http1(door: SocketAddr, method: &str) -> (u16, String) {
    let mut peer = Peer::connect(door);
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let request = format!("{method} /stay HTTP/1.1\r\nHost: shop\r\n{length}Connection: close\r\n\r\n");
    let (head, body) = peer.exchange(&request);
    assert!(matches!(body, Body::Whole(_)), "{body:?}");
    assert!(peer.rest().is_empty(), "one answer");
    (head.status(), head.cause().unwrap_or_default().to_owned())
}

fn by_http2(door: SocketAddr, method: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri("http://shop/stay").body(Vec::new()).unwrap();
    let answer = asked(door, request);
    (answer.head.status.as_u16(), said(&answer, "x-lighter-error"))
}

/// UNAVAILABLE is what 503 is for others.
fn by_grpc(door: SocketAddr) -> (u16, String) {
    let request = Request::post("http://shop/registers.Registers/Stay").header("te", "trailers");
    let request = request.header("content-type", "application/grpc").body(vec![0; 5]).unwrap();
    let answer = asked(door, request);
    assert_eq!((answer.head.status.as_u16(), &*said(&answer, "grpc-status")), (200, "14"), "{answer:?}");
    // Which of those that are UNAVAILABLE the cause says.
    let cause = said(&answer, "x-lighter-error");
    (if cause.starts_with("upstream") { 502 } else { 503 }, cause)
}

fn asked(door: SocketAddr, request: Request<Vec<u8>>) -> http2::Answer {
    http2::run(async {
        let client = http2::connect(door).await;
        let answer = http2::exchange(&client, request).await.expect("an answer");
        assert!(answer.cut.is_none(), "{answer:?}");
        answer
    })
}

fn said(answer: &http2::Answer, field: &str) -> String {
    answer.head.headers.get(field).map(|said| said.to_str().unwrap().to_owned()).unwrap_or_default()
}

fn unknown(of: &Sidecar, direction: &str) -> f64 {
    of.metrics().sum("lighter_requests_total", &[("direction", direction), ("cause", "outcome_unknown")])
}
