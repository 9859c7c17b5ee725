//! What sidecars report, and what they are told.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::raw::Upstream;
use crate::support::sidecar::{route, service};
use crate::support::{test, wait_until};
use crate::world::{World, get};

pub fn tests() -> Vec<Trial> {
    vec![
        test("join::what_a_sidecar_runs_by_is_told_apart_from_what_it_has_accepted", in_force),
        test("join::what_there_is_to_do_is_reported", load),
        test("join::a_sidecar_drains_when_an_operator_says_so", drains),
    ]
}

/// The version of a kind: what was told last, accepted, in force.
fn versions(sidecar: &Value, kind: &str) -> [Value; 3] {
    let kinds = sidecar["kinds"].as_array().into_iter().flatten();
    let found = kinds.clone().find(|of| of["kind"] == kind).cloned().unwrap_or_default();
    ["version", "accepted", "inForce"].map(|field| found[field].clone())
}

fn in_force() {
    let app = Upstream::answering("five stars");
    let world = World::new();
    let _reviews = world.reviews("reviews", app.address);
    let (web, listen) = world.web();
    wait_until("the instance is found", || get(listen).0 == 200);
    let mut before = Value::Null;
    wait_until("the route is reported to be in force", || {
        let [version, accepted, in_force] = versions(&world.sidecar("web"), "route");
        before = in_force.clone();
        version.is_string() && version == accepted && accepted == in_force
    });
    wait_until("nobody is behind", || world.counts().sum("lighter_control_behind_sidecars", &[]) == 0.0);
    assert_eq!(world.counts().sum("lighter_control_reporting_sidecars", &[]), 2.0);
    let table = world.operator(&["get", "sidecars"]);
    assert!(table.contains("default/web/") && table.contains("current"), "{table}");

    // A backend that does not exist yet: the route is understood, and waits for word of it.
    let text = [service("reviews", "http", &[]), route("reviews", &[("reviews", 1), ("gone", 0)])];
    std::fs::write(world.path("mesh.yaml"), text.join("---\n")).unwrap();
    wait_until("another route is reported to be in force", || {
        let [_, accepted, in_force] = versions(&world.sidecar("web"), "route");
        in_force != before && in_force == accepted
    });
    assert!(web.metrics().sum("lighter_registry_reports_total", &[("report", "in_force")]) >= 2.0);
}

fn load() {
    let app = Upstream::answering("five stars");
    let world = World::new();
    let reviews = world.reviews("reviews", app.address);
    let (_web, listen) = world.web();
    wait_until("the instance is found", || get(listen).0 == 200);
    let mut seen = Value::Null;
    wait_until("the rate is reported", || {
        assert_eq!(get(listen).0, 200);
        seen = world.sidecar("reviews")["load"].clone();
        seen["requestsPerSecond"].as_f64().is_some_and(|rate| rate > 0.0)
    });
    assert!(seen["cpus"].as_f64().unwrap() >= 0.0 && seen["requestsInFlight"].is_u64(), "{seen}");
    assert!(reviews.metrics().sum("lighter_registry_reports_total", &[("report", "load")]) >= 1.0);
    assert!(world.counts().has("lighter_control_sidecar_requests_per_second", &[]));
    assert!(world.operator(&["get", "sidecars"]).contains(" cpus"));
}

fn drains() {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let world = World::new();
    let mut first = world.reviews("reviews", one.address);
    let (web, listen) = world.web();
    wait_until("the first is found", || get(listen) == (200, "one".into()));
    wait_until("it has an ID", || world.sidecar("reviews")["id"].is_string());
    let id = world.sidecar("reviews")["id"].as_str().unwrap().to_owned();
    let _second = world.reviews("second", two.address);
    wait_until("both are found", || web.endpoints() == 2);
    assert_eq!(world.operator(&["drain", &id]), format!("{id} drains\n"));
    let mut ended = false;
    while !ended {
        ended = first.program.has_ended();
        assert_eq!(get(listen).0, 200);
    }
    assert!(first.program.wait().success());
    assert!(first.program.said().contains("an operator asked for it"), "{}", first.program.said());
    for _ in 0..20 {
        assert_eq!(get(listen), (200, "two".into()));
    }
    let audit = std::fs::read_to_string(world.path("audit.log")).unwrap();
    let line: Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&line["action"], &line["sidecar"], &line["who"]),
        (&"drain".into(), &id.into(), &"operator".into())
    );
}
