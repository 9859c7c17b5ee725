//! Endpoints that are asked whether they are well, and endpoints that begin slowly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Trial;

use crate::support::example::{self, ask};
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("checks::an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes", unwell),
        test("checks::whether_a_connection_is_accepted_is_a_check_too", by_connection),
        test("checks::an_endpoint_that_is_new_begins_slowly", slow_start),
    ]
}

/// Answers `/healthz` as it is told, and everything else with its name.
fn upstream(name: &'static str, well: &Arc<AtomicBool>) -> Upstream {
    let well = well.clone();
    Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            let is_check = head.target() == "/healthz";
            let status = if is_check && !well.load(Ordering::Relaxed) { 503 } else { 200 };
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            if !peer.try_send(answer) {
                return;
            }
        }
    })
}

fn of(sidecar: &Sidecar, name: &str, endpoint: SocketAddr) -> f64 {
    sidecar.metrics().sum(name, &[("endpoint", &endpoint.to_string())])
}

fn unwell() {
    let well: [Arc<AtomicBool>; 2] = std::array::from_fn(|_| Arc::new(AtomicBool::new(true)));
    let upstreams = [upstream("a", &well[0]), upstream("b", &well[1])];
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    let (sidecar, at) = example::sidecar("health-checks", &addresses);
    let mut client = Peer::connect(at);
    wait_until("both were asked", || {
        addresses.iter().all(|address| of(&sidecar, "lighter_endpoint_checks_total", *address) > 0.0)
    });
    let both =
        |client: &mut Peer| (0..40).map(|_| ask(client, "")).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(both(&mut client).len(), 2);
    well[1].store(false, Ordering::Relaxed);
    wait_until("one is unwell", || of(&sidecar, "lighter_endpoint_unwell", addresses[1]) == 1.0);
    assert!(both(&mut client).iter().eq(["a"]));
    assert_eq!(of(&sidecar, "lighter_endpoint_ejections_total", addresses[1]), 0.0);
    // When none is well, the question is not believed.
    well[0].store(false, Ordering::Relaxed);
    let panics = || sidecar.metrics().sum("lighter_balancer_health_panic", &[]);
    wait_until("none is well", || panics() == 1.0);
    assert_eq!(both(&mut client).len(), 2);
    assert_eq!(sidecar.metrics().sum("lighter_balancer_health_panics_total", &[]), 1.0);
    well.iter().for_each(|well| well.store(true, Ordering::Relaxed));
    wait_until("both are well", || {
        panics() == 0.0
            && addresses.iter().all(|address| of(&sidecar, "lighter_endpoint_unwell", *address) == 0.0)
    });
    assert_eq!(both(&mut client).len(), 2);
}

fn by_connection() {
    let well = Arc::new(AtomicBool::new(true));
    let alive = upstream("a", &well);
    let dead = crate::support::process::free_address();
    let file = example::policy("health-checks", &[alive.address, dead]).replace("http: /healthz, ", "");
    let (sidecar, at) = example::running(&file);
    // Before any request was made: nothing was learned by failing one.
    wait_until("it is unwell", || of(&sidecar, "lighter_endpoint_unwell", dead) == 1.0);
    let mut client = Peer::connect(at);
    (0..40).for_each(|_| assert_eq!(ask(&mut client, ""), "a"));
    assert_eq!(of(&sidecar, "lighter_endpoint_requests_total", dead), 0.0);
    // Without the policy nobody asks, and it is tried again.
    let check = &file[file.find("  healthCheck:").unwrap()..];
    sidecar.apply(&file.replace(check, "  retry: {safe: true}\n"));
    wait_until("it is tried", || {
        ask(&mut client, "");
        of(&sidecar, "lighter_endpoint_requests_total", dead) > 0.0
    });
}

fn slow_start() {
    let upstreams = ["a", "b", "c"].map(Upstream::answering);
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    let file = example::policy("slow-start", &addresses);
    let third = format!("    - {{address: 127.0.0.1, port: {}}}\n", addresses[2].port());
    let (sidecar, at) = example::running(&file.replace(&third, ""));
    let share = |address| of(&sidecar, "lighter_endpoint_share", address);
    wait_until("two have their whole share", || share(addresses[0]) == 1.0 && share(addresses[1]) == 1.0);
    let mut client = Peer::connect(at);
    let thirds = |client: &mut Peer| (0..60).filter(|_| ask(client, "") == "c").count();
    sidecar.apply(&file);
    wait_until("the third is there", || {
        sidecar.metrics().has("lighter_endpoint_share", &[("endpoint", &addresses[2].to_string())])
    });
    let few = thirds(&mut client);
    // A machine that stood still meanwhile shows nothing.
    if share(addresses[2]) < 0.5 {
        assert!(few < 13, "{few} of 60");
    }
    wait_until("it has its whole share", || share(addresses[2]) == 1.0);
    assert_eq!(thirds(&mut client), 20);
}
