//! Who asks a sidecar to drain makes no difference, and callers leave before anybody else tells them to.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::app;
use crate::handover::SHOP;
use crate::load::{Load, Rate};
use crate::support::http2;
use crate::support::metrics;
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar as Alone;
use crate::support::{PATIENCE, test, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        test("drain::whoever_asks_for_it_has_the_same_course", same_course),
        test("drain::who_does_not_wait_cuts_what_runs_after_a_second", without_waiting),
        test("drain::callers_leave_by_its_notice_alone", by_notice),
        test("drain::callers_without_links_leave_by_what_answers_say", || without_links(ask_http1)),
        test("drain::callers_without_links_leave_by_a_goodbye", || without_links(ask_http2)),
        test("drain::a_connection_that_ends_is_no_drain", ended_connections),
        test("drain::a_process_with_a_successor_is_no_drain", handed_over),
        test("drain::who_comes_as_a_door_closes_is_refused_or_served", at_the_last_moment),
    ]
}

/// Who asks, as the metrics call it, and how.
type Asks = (&'static str, fn(&World, &Sidecar));

fn same_course() {
    let ways: [Asks; 3] = [
        ("signal", |_, sidecar| sidecar.program.signal(Signal::TERM)),
        ("admin", |_, sidecar| {
            let (status, said) = metrics::ask(sidecar.admin, "POST", "/drain");
            assert_eq!((status, said.as_str()), (200, "draining: 1 connections are open\n"));
        }),
        ("control", |world, sidecar| {
            wait_until("it is registered", || sidecar.metrics().sum("lighter_registry_known", &[]) == 1.0);
            let id = world.sidecar("reviews")["id"].as_str().unwrap().to_owned();
            assert_eq!(world.operator(&["drain", &id]), format!("{id} drains\n"));
        }),
    ];
    let courses = ways.map(|(by, ask)| course(by, ask));
    assert!(courses.iter().all(|course| *course == courses[0]), "{courses:#?}");
    let phases = ["Lame/Lame", "Draining/Lame", "Draining/Draining", "Closed/Closed"];
    assert_eq!(courses[0], phases);
}

/// Drains a sidecar with one request on its way, and gives what it logs of that.
fn course(by: &str, ask: fn(&World, &Sidecar)) -> Vec<String> {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let app = Upstream::start(move |mut peer, _| {
        while peer.head().is_some() && wait.lock().unwrap().recv().is_ok() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    });
    let world = World::new();
    world.token("reviews", "reviews");
    let listen = free_address();
    let inbound =
        format!("service: reviews\ninbound: [{{listen: '{listen}', app: '{}', port: 80}}]", app.address);
    let mut sidecar = world.start("reviews", &inbound).ready();
    let mut client = Peer::connect(listen);
    client.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    wait_until("the request is through", || app.received().contains("GET / "));
    let phase = |sidecar: &Sidecar, side| sidecar.metrics().sum("lighter_drain_phase", &[("side", side)]);
    assert_eq!((phase(&sidecar, "callers"), phase(&sidecar, "workload")), (0.0, 0.0));
    ask(&world, &sidecar);
    wait_until("it takes nobody any more", || phase(&sidecar, "callers") == 2.0);
    assert_eq!(phase(&sidecar, "workload"), 1.0, "what callers asked for may need calls of its own");
    assert_eq!(metrics::get(sidecar.admin, "/ready").0, 503);
    let asked = sidecar.metrics();
    assert_eq!(asked.sum("lighter_drain_requests_total", &[]), 1.0);
    assert_eq!(asked.sum("lighter_drain_requests_total", &[("by", by)]), 1.0);
    assert!(!asked.has("lighter_drain_cut_total", &[]));
    go.send(()).unwrap();
    let head = client.expect_head();
    assert!(head.has("connection", "close"), "{head:?}");
    assert_eq!(client.body(&head), Body::Whole(b"done".to_vec()));
    assert!(sidecar.program.wait().success());
    let said = sidecar.program.said();
    assert!(said.contains("drained, nothing was cut"), "{said}");
    phases(&said)
}

/// Where callers and workload stood, one after the other, by what a sidecar said.
fn phases(said: &str) -> Vec<String> {
    let course = said.lines().filter_map(|line| {
        let (callers, rest) = line.split_once(" drain callers=")?.1.split_once(" workload=")?;
        Some(format!("{callers}/{}", rest.split(' ').next()?))
    });
    course.collect()
}

/// With a deadline that this test would not live to see.
fn without_waiting() {
    let app = Upstream::start(|mut peer, _| while peer.head().is_some() {});
    let world = World::new();
    let ways: [fn(&World, &Sidecar); 2] = [
        |_, sidecar| assert_eq!(metrics::ask(sidecar.admin, "POST", "/drain?now").0, 200),
        |world, sidecar| {
            wait_until("it is registered", || sidecar.metrics().sum("lighter_registry_known", &[]) == 1.0);
            let id = world.sidecar("reviews")["id"].as_str().unwrap().to_owned();
            assert_eq!(world.operator(&["drain", "--now", &id]), format!("{id} drains\n"));
        },
    ];
    for (at, ask) in ways.iter().enumerate() {
        let name = format!("reviews-{at}");
        world.token(&name, "reviews");
        let listen = free_address();
        let inbound = format!("inbound: [{{listen: '{listen}', app: '{}', port: 80}}]", app.address);
        let own = format!("service: reviews\n{inbound}\ndrainDeadline: 1h");
        let mut sidecar = world.start_with(&name, &own).ready();
        let mut client = Peer::connect(listen);
        client.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        wait_until("the request is through", || app.received().matches("GET / ").count() == at + 1);
        ask(&world, &sidecar);
        assert!(sidecar.program.wait().success());
        let head = client.expect_head();
        assert!(head.has("x-lighter-error", "draining"), "{head:?}");
        let said = sidecar.program.said();
        assert!(said.contains("connections were cut cut=1"), "{said}");
        assert_eq!(phases(&said), ["Draining/Lame", "Closed/Closed"], "{said}");
    }
}

fn by_notice() {
    let world = World::new();
    world.apply(SHOP);
    let (_apps, apps): (Vec<_>, Vec<_>) = (0..2).map(|_| app::start(&world.path(""))).unzip();
    let listen = free_address();
    let inbound = |app, listen: SocketAddr| {
        format!(
            "service: shop\nlink: '{}'\ninbound: [{{listen: '{listen}', app: '{app}', port: 80}}]\ndrainDeadline: 20s",
            free_address()
        )
    };
    world.token("first", "shop");
    world.token("second", "shop");
    let mut first = world.start_with("first", &inbound(apps[0], listen)).ready();
    let _second = world.start_with("second", &inbound(apps[1], free_address())).ready();
    let (web, door) = world.caller("web", "shop");
    wait_until("both instances are known", || web.endpoints() == 2);
    let load = Load::start(door, Rate { requests: 200, streams: 2 });
    load.more(100);
    // Half a request keeps it from ending as long as there is something to see.
    let mut kept = Peer::connect(listen);
    kept.send("GET / HTTP/1.1\r\nHost:");
    let streams = || first.metrics().sum("lighter_link_streams_total", &[("side", "acceptor")]);
    assert!(streams() > 0.0);
    world.plane().signal(Signal::STOP);
    first.program.signal(Signal::TERM);
    let notices = || web.metrics().sum("lighter_balancer_notices_total", &[("service", "default/shop")]);
    wait_until("the caller has heard it", || notices() == 1.0);
    let before = streams();
    load.more(200);
    assert_eq!(streams(), before, "nothing was asked of it any more");
    assert_eq!(web.endpoints(), 2, "nobody else has told the caller");
    let failures = web.metrics().sum("lighter_endpoint_connect_failures_total", &[]);
    assert_eq!(failures, 0.0, "it did not have to find a closed door");
    world.plane().signal(Signal::CONT);
    println!("{}", load.end());
    kept.send(" shop\r\n\r\n");
    assert_eq!(kept.expect_head().status(), 200);
    drop(kept);
    assert!(first.program.wait().success());
}

/// One request, by a connection of its own.
fn ask_http1(door: SocketAddr) {
    assert_eq!(crate::world::get(door).0, 200);
}

fn ask_http2(door: SocketAddr) {
    let status = http2::run(async {
        let client = http2::connect(door).await;
        http2::get(&client, "/").await.unwrap().head.status
    });
    assert_eq!(status, 200);
}

/// Where there are no links, the sidecar that drains says it in what the protocol has for it.
fn without_links(ask: fn(SocketAddr)) {
    let world = World::new();
    world.apply(&[SHOP, TURNS].join("---\n"));
    let (_apps, apps): (Vec<_>, Vec<_>) = (0..2).map(|_| app::start(&world.path(""))).unzip();
    let listens = [free_address(), free_address()];
    let mut shops: Vec<Sidecar> = (0..2).map(|at| shop(&world, at, listens[at], apps[at], "")).collect();
    let (web, door) = world.caller("web", "shop");
    wait_until("both instances are known", || web.endpoints() == 2);
    let requests = |of: &Sidecar| of.metrics().sum("lighter_requests_total", &[("direction", "inbound")]);
    while requests(&shops[0]) == 0.0 {
        ask(door);
    }
    // Half a request keeps it from ending as long as there is something to see.
    let mut kept = Peer::connect(listens[0]);
    kept.send("GET / HTTP/1.1\r\nHost:");
    world.plane().signal(Signal::STOP);
    shops[0].program.signal(Signal::TERM);
    let notices = || web.metrics().sum("lighter_balancer_notices_total", &[("service", "default/shop")]);
    wait_until("the caller has heard it", || {
        ask(door);
        notices() == 1.0
    });
    let before = requests(&shops[0]);
    for _ in 0..40 {
        ask(door);
    }
    assert_eq!(requests(&shops[0]), before, "nothing was asked of it any more");
    assert_eq!(web.endpoints(), 2, "nobody else has told the caller");
    world.plane().signal(Signal::CONT);
    kept.send(" shop\r\n\r\n");
    assert_eq!(kept.expect_head().status(), 200);
    drop(kept);
    assert!(shops[0].program.wait().success());
}

/// So that each instance is asked as long as it is in force, whichever answers faster.
const TURNS: &str = "apiVersion: mesh.lighter.dev/v1
kind: TrafficPolicy
metadata: {name: turns}
spec: {targetRefs: [{kind: Service, name: shop}], balancing: {policy: roundRobin}}
";

/// An application that ends each of its connections says nothing of its instance, whatever it says.
fn ended_connections() {
    let closing = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nx-lighter-draining: true\r\nConnection: close\r\n\r\ndone");
    });
    let world = World::new();
    world.apply(SHOP);
    let _shops: Vec<Sidecar> =
        (0..2).map(|at| shop(&world, at, free_address(), closing.address, "")).collect();
    let (web, door) = world.caller("web", "shop");
    wait_until("both instances are known", || web.endpoints() == 2);
    for _ in 0..40 {
        ask_http1(door);
    }
    assert!(!web.metrics().has("lighter_balancer_notices_total", &[]));
}

/// Nor is a process that has a successor.
fn handed_over() {
    let world = World::new();
    world.apply(SHOP);
    let (_app, app) = app::start(&world.path(""));
    let shop = shop(&world, 0, free_address(), app, "handover: handover\n");
    let (web, door) = world.caller("web", "shop");
    wait_until("it is known", || web.endpoints() == 1);
    for _ in 0..2 {
        ask_http1(door);
        ask_http2(door);
    }
    let mut successor = crate::handover::successor(&shop.file);
    successor.wait_until_it_says("took over");
    for _ in 0..20 {
        ask_http1(door);
        ask_http2(door);
    }
    assert!(!web.metrics().has("lighter_balancer_notices_total", &[]));
}

/// However close to the end a connection begins, it does not end without an answer.
fn at_the_last_moment() {
    let app = Upstream::answering("done");
    let (mut sidecar, door) = Alone::before(app.address, "http");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = || {
            let (mut answered, began) = (0, Instant::now());
            while !over.load(Relaxed) && began.elapsed() < 6 * PATIENCE {
                let Ok(stream) = TcpStream::connect(door) else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let mut peer = Peer::over(stream);
                peer.send("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
                assert_eq!(peer.head().expect("an answer").status(), 200);
                answered += 1;
            }
            answered
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        for _ in 0..5 {
            wait_until("there are connections", || {
                sidecar.metrics().sum("lighter_requests_total", &[]) > 100.0
            });
            sidecar.restart();
        }
        over.store(true, Relaxed);
        let answered: Vec<u32> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(answered.iter().sum::<u32>() > 500, "{answered:?}");
    });
}

/// An instance of the Service `shop` without a door for links.
fn shop(world: &World, at: usize, listen: SocketAddr, app: SocketAddr, own: &str) -> Sidecar {
    let name = format!("shop-{at}");
    world.token(&name, "shop");
    let inbound = format!("inbound: [{{listen: '{listen}', app: '{app}', port: 80}}]");
    world.start_with(&name, &format!("service: shop\n{inbound}\ndrainDeadline: 20s\n{own}")).ready()
}
