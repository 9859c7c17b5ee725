//! A sidecar's place is taken by another process, while it is used.

use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::app;
use crate::load::{Load, Rate};
use crate::support::process::{Program, free_address};
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::{LIGHTER, Sidecar};
use crate::support::{full, metrics, test, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![
        test("handover::twenty_hand_overs_fail_no_request", under_load),
        test("handover::a_successor_that_fails_changes_nothing", failing_successor),
        test("handover::a_connection_stays_with_who_accepted_it", connection_stays),
    ]
}

/// A Service of which nothing is said but that it has a port.
pub const SHOP: &str = "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: shop}\nspec: {ports: [{port: 80, targetPort: 8080}]}\n";

fn under_load() {
    let (rate, rounds) = if full() { (1000, 7) } else { (200, 1) };
    let world = World::new();
    world.apply(SHOP);
    let folder = world.path("");
    let (_apps, apps): (Vec<_>, Vec<_>) = (0..2).map(|_| app::start(&folder)).unzip();
    let own = |name: &str| format!("link: '{}'\nhandover: {name}-handover", free_address());
    let mut shops: Vec<_> = (0..2)
        .map(|at| {
            world.instance("shop", &format!("shop-{at}"), apps[at], &own(&format!("shop-{at}"))).ready()
        })
        .collect();
    let (mut web, listen) = world.caller_with("web", "shop", "handover: web-handover");
    wait_until("both instances are known", || web.endpoints() == 2);
    let load = Load::start(listen, Rate { requests: rate, streams: 10 });
    load.more(200);
    for round in 1..=rounds {
        for sidecar in shops.iter_mut().chain([&mut web]) {
            take_over(sidecar);
            load.more(u64::from(rate));
            let metrics = sidecar.metrics();
            assert_eq!(metrics.sum("lighter_generation", &[]), f64::from(round));
            assert_eq!(metrics.sum("lighter_handovers_total", &[("outcome", "taken")]), 1.0);
        }
    }
    let answered = load.end();
    println!("{} hand-overs at {rate} requests a second: {answered}", 3 * rounds);
    assert_eq!(web.endpoints(), 2, "both are registered");
}

/// Has another process take the place of `sidecar`, and waits until that has ended.
fn take_over(sidecar: &mut crate::world::Sidecar) {
    let mut before = std::mem::replace(&mut sidecar.program, successor(&sidecar.file));
    sidecar.program.wait_until_it_says("took over");
    assert!(before.wait().success(), "{}", before.said());
    assert!(before.said().contains("drained, nothing was cut"), "{}", before.said());
}

/// One that lets another take its place, before an application that answers.
fn before(app: &Upstream) -> (Sidecar, std::net::SocketAddr) {
    Sidecar::before_with(app.address, "http", "", "handover: place\n")
}

const GET: &str = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";

pub fn successor(file: &Path) -> Program {
    let mut command = Command::new(LIGHTER);
    command.args(["proxy", "--takeover", "--config"]).arg(file);
    Program::start(command, file.parent().expect("a folder"))
}

fn failing_successor() {
    let app = Upstream::answering("still here");
    let (mut sidecar, at) = before(&app);
    sidecar.apply("kind: Service\nspec: [broken");
    let mut successor = successor(&sidecar.path("sidecar.yaml"));
    assert!(!successor.wait().success(), "{}", successor.said());
    let failed = || sidecar.metrics().sum("lighter_handovers_total", &[("outcome", "failed")]);
    wait_until("it is counted", || failed() == 1.0);
    assert_eq!(Peer::connect(at).exchange(GET).0.status(), 200);
    assert_eq!(metrics::get(sidecar.admin, "/ready").0, 200);
    assert!(!sidecar.program.has_ended());
}

fn connection_stays() {
    let app = Upstream::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while peer.bytes(1).len() == 1 {
            peer.send("2\r\nok\r\n");
        }
    });
    let (mut sidecar, at) = before(&app);
    let mut stream = Peer::connect(at);
    stream.send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(stream.expect_head().status(), 200);
    let mut successor = successor(&sidecar.path("sidecar.yaml"));
    sidecar.program.wait_until_it_says("handed_over=true");
    successor.wait_until_it_says("ready");
    // Its admin port is the successor's by now, and so is whoever comes.
    assert_eq!(sidecar.metrics().sum("lighter_generation", &[]), 1.0);
    Peer::connect(at).send("POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 2\r\n\r\n").expect_head();
    assert_eq!(sidecar.metrics().sum("lighter_worker_connections_accepted_total", &[]), 1.0);
    assert!(!sidecar.program.has_ended(), "it has a request yet");
    stream.send("12");
    assert_eq!(stream.bytes(14), b"2\r\nok\r\n2\r\nok\r\n");
    drop(stream);
    assert!(sidecar.program.wait().success());
    assert!(!successor.has_ended());
}
