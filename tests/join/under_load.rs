//! What may happen in a mesh while no request fails.

use libtest_mimic::Trial;

use crate::load::Load;
use crate::support::raw::Upstream;
use crate::support::sidecar::{policy, service};
use crate::support::{test, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        test("load::pushes_and_restarts_fail_no_request", pushes_and_restarts),
        test("load::renewed_certificates_fail_no_request", renewed_certificates),
        test("load::new_roots_fail_no_request", new_roots),
    ]
}

/// Pushes while requests run.
const PUSHES: u64 = 50;

/// At least so many requests for each of them.
const REQUESTS_EACH: u64 = 200;

fn pushes_and_restarts() {
    let apps = ["one", "two", "canary"].map(Upstream::answering);
    let mut world = World::new();
    world.apply(&service("canary", "http", &[]));
    let mut first = world.reviews("reviews", apps[0].address);
    let second = world.reviews("second", apps[1].address);
    let canary = world.instance("canary", "canary", apps[2].address, "").ready();
    let (mut web, listen) = world.web();
    let (replica, other) = world.caller("web-2", "reviews");
    wait_until("both instances are known", || web.endpoints() == 2 && replica.endpoints() == 2);
    world.apply(&pushed(0));
    let load = Load::start(&[listen, other], 4);
    for push in 1..=PUSHES {
        match push {
            17 => {
                world.kill_plane();
                load.more(REQUESTS_EACH);
                world.start_plane();
            }
            34 => {
                world.stop_plane();
                // Each has a replica beside it, as whoever restarts something in production has.
                first.restart();
                load.more(REQUESTS_EACH);
                web.restart();
                load.more(REQUESTS_EACH);
                world.start_plane();
            }
            _ => {}
        }
        world.apply(&pushed(push));
        wait_until("the push is followed", || load.push() == push);
        load.more(REQUESTS_EACH);
    }
    let work = [&web, &first];
    wait_until("the restarted ones work again", || work.iter().all(|sidecar| requests(sidecar) > 0.0));
    let answered = load.end();
    assert!(answered >= PUSHES * REQUESTS_EACH, "{answered}");
    assert!(apps.iter().all(|app| app.received().len() > 1000), "each had its part of it");
    for sidecar in [&web, &replica, &first, &second, &canary] {
        let metrics = sidecar.metrics();
        assert_eq!(metrics.sum("lighter_xds_connected", &[]), 1.0);
        assert_eq!(failed(sidecar), 0.0, "{}", sidecar.program.said());
    }
}

/// The resources of a push: answers tell its number, some go elsewhere, and the limits change.
fn pushed(push: u64) -> String {
    let canary = push % 4;
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: reviews}}\nspec:\n  parentRefs: \
         [{{kind: Service, group: '', name: reviews}}]\n  rules:\n  - filters: [{{type: ResponseHeaderModifier, \
         responseHeaderModifier: {{set: [{{name: x-push, value: '{push}'}}]}}}}]\n    backendRefs: [{{name: reviews, port: \
         80, weight: 9}}, {{name: canary, port: 80, weight: {canary}}}]\n"
    );
    let limits = policy("reviews", &format!("requestTimeout: {}s, ejection: {{duration: 1s}}", 20 + push));
    [service("canary", "http", &[]), route, limits].join("---\n")
}

fn renewed_certificates() {
    let app = Upstream::answering("five stars");
    let world = World::with("svidLifetime: 10s");
    let reviews = world.reviews("reviews", app.address);
    let (web, listen) = world.web();
    wait_until("the instance is known", || web.endpoints() == 1);
    let load = Load::start(&[listen], 4);
    // The first certificates have ended by then.
    wait_until("both were renewed often", || {
        [&web, &reviews].iter().all(|sidecar| sidecar.asked("renew", "received") >= 3.0)
    });
    load.end();
    for sidecar in [&web, &reviews] {
        assert_eq!(sidecar.asked("join", "received"), 1.0, "a renewal needs no token");
        assert_eq!(sidecar.metrics().sum("lighter_identity_refusals_total", &[]), 0.0);
        assert_eq!(failed(sidecar), 0.0);
    }
}

fn new_roots() {
    let app = Upstream::answering("five stars");
    let world = World::new();
    let reviews = world.reviews("reviews", app.address);
    let (mut web, listen) = world.web();
    let (replica, other) = world.caller("web-2", "reviews");
    wait_until("the instance is known", || web.endpoints() == 1 && replica.endpoints() == 1);
    let load = Load::start(&[listen, other], 4);
    // Trusted, signing, alone: each time all have to follow before the next.
    for (renewed, step) in
        [(1.0, &["rotate"][..]), (2.0, &["rotate", "--hurry"]), (3.0, &["rotate", "--hurry"])]
    {
        world.ca(step);
        wait_until("all have new certificates", || {
            [&web, &replica, &reviews].iter().all(|sidecar| sidecar.asked("renew", "received") >= renewed)
        });
    }
    load.more(100);
    let said = world.ca(&["list"]);
    assert!(said.contains("root 2") && !said.contains("root 1"), "{said}");
    // Connections that begin now are between certificates of the new root.
    web.restart();
    load.more(100);
    load.end();
    for sidecar in [&web, &replica, &reviews] {
        assert_eq!(failed(sidecar), 0.0);
    }
}

/// Requests that did not end well, as a sidecar counts.
fn failed(sidecar: &Sidecar) -> f64 {
    // At one moment: the last request may be counted after its answer has come.
    let metrics = sidecar.metrics();
    let well = [("code_class", "2xx"), ("cause", "")];
    metrics.sum("lighter_requests_total", &[]) - metrics.sum("lighter_requests_total", &well)
}

/// Requests that a sidecar carried.
fn requests(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_requests_total", &[])
}
