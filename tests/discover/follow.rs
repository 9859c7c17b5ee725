//! The sidecar follows what the server says, and goes on where the server says nothing good, or nothing.

use std::os::unix::fs::PermissionsExt;

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::Upstream;
use crate::support::{test_where, wait_until};
use crate::world::{Said, World};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("discover::routes_and_weights_are_followed", routes_and_weights),
        test_where("discover::endpoints_come_and_go", endpoints),
        test_where("discover::a_lower_priority_takes_over_and_gives_back", priorities),
        test_where("discover::a_bad_push_changes_nothing_and_says_why", bad_push),
        test_where("discover::an_unknown_field_of_who_may_talk_is_refused", unknown_fields),
        test_where("discover::a_route_waits_for_all_that_it_needs", warming),
        test_where("discover::what_is_gone_is_gone", deletion),
        test_where("discover::a_sidecar_starts_without_its_server", restart),
        test_where("discover::nothing_is_said_twice", quiet),
    ]
}

fn routes_and_weights() -> Result<(), String> {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let mut said = Said::split(&[("v1", 80, one.address), ("v2", 20, two.address)]);
    let world = World::new(&said)?;
    let sidecar = world.sidecar();
    assert_eq!(sidecar.metrics().sum("lighter_config_services", &[]), 3.0);
    let shares = sidecar.shares(500);
    // Five standard deviations around 100.
    assert!((56..=144).contains(&shares["two"]), "{shares:?}");
    said.rules.insert(0, ("/two", vec![("v2", 1)]));
    said.rules[1].1 = vec![("v1", 1)];
    world.say(&said);
    // Ten answers in a row would be chance one time in ten from the first, and never from the second.
    wait_until("the new rule is in force", || (0..10).all(|_| sidecar.get("/two/a") == (200, "two".into())));
    assert_eq!(sidecar.shares(50)["one"], 50);
    Ok(())
}

fn endpoints() -> Result<(), String> {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let mut said = Said::split(&[("v1", 1, one.address)]);
    let world = World::new(&said)?;
    let mut sidecar = world.sidecar();
    assert_eq!(sidecar.shares(20)["one"], 20);
    said.endpoints.insert("v1", vec![vec![(one.address, true), (two.address, true)]]);
    world.say(&said);
    sidecar.wait_for(&["one", "two"]);
    wait_until("the new one answers too", || sidecar.get("/").1 == "two");
    said.endpoints.insert("v1", vec![vec![(two.address, true)]]);
    world.say(&said);
    sidecar.wait_for(&["two"]);
    said.endpoints.insert("v1", vec![]);
    world.say(&said);
    wait_until("there is no endpoint", || sidecar.get("/").0 == 503);
    said.endpoints.insert("v1", vec![vec![(one.address, true)]]);
    world.say(&said);
    sidecar.wait_for(&["one"]);
    Ok(())
}

fn priorities() -> Result<(), String> {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let mut said = Said::split(&[("v1", 1, one.address)]);
    said.endpoints.insert("v1", vec![vec![(one.address, true)], vec![(two.address, true)]]);
    let world = World::new(&said)?;
    let mut sidecar = world.sidecar();
    assert_eq!(sidecar.shares(20)["one"], 20);
    said.endpoints.insert("v1", vec![vec![(one.address, false)], vec![(two.address, true)]]);
    world.say(&said);
    sidecar.wait_for(&["two"]);
    said.endpoints.insert("v1", vec![vec![(one.address, true)], vec![(two.address, true)]]);
    world.say(&said);
    sidecar.wait_for(&["one"]);
    Ok(())
}

fn bad_push() -> Result<(), String> {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let good = Said::split(&[("v1", 1, one.address), ("v2", 0, two.address)]);
    let mut world = World::new(&good)?;
    let mut sidecar = world.sidecar();
    assert_eq!(sidecar.shares(20)["one"], 20);
    // A cluster of a type that is not of the profile, together with an endpoint that is fine.
    let mut bad = good.clone();
    bad.clusters.insert("v1", "STRICT_DNS");
    bad.endpoints.insert("v1", vec![vec![(two.address, true)]]);
    world.say(&bad);
    world.server().wait_until_it_says("refused cluster");
    let said = world.server().said();
    let refusal = said.lines().find(|line| line.starts_with("refused")).unwrap();
    assert!(refusal.contains("v1: type: "), "{refusal}");
    assert!(!refusal.contains("v2"), "{refusal}");
    sidecar.wait_for(&["two"]);
    let xds = sidecar.xds();
    assert!(xds["resources"]["cluster"]["refused"]["v1"].is_string(), "{xds:#}");
    assert!(
        sidecar.metrics().sum("lighter_xds_answers_total", &[("kind", "cluster"), ("outcome", "refused")])
            >= 1.0
    );
    assert!(sidecar.program.said().contains("refused, what was in force stays: v1: type: "));
    world.say(&good);
    sidecar.wait_for(&["one"]);
    assert_eq!(
        sidecar.metrics().sum("lighter_xds_resources", &[("kind", "cluster"), ("state", "refused")]),
        0.0
    );
    Ok(())
}

fn unknown_fields() -> Result<(), String> {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    // How an endpoint is called: a field more might ask for TLS.
    let good = Said::split(&[("v1", 1, one.address)]);
    let mut world = World::new(&good)?;
    let sidecar = world.sidecar();
    assert_eq!(sidecar.shares(5)["one"], 5);
    world.say(&Said { unknown: vec!["cluster"], ..good.clone() });
    world.server().wait_until_it_says("refused cluster");
    let refused = |world: &mut World, kind: &str| {
        let said = world.server().said();
        let line = said.lines().find(|line| line.starts_with(&format!("refused {kind}"))).map(str::to_owned);
        line.unwrap_or(said)
    };
    let said = refused(&mut world, "cluster");
    assert!(said.contains("v1: transport_socket: field number 2003 is not known"), "{said}");
    assert_eq!(sidecar.shares(5)["one"], 5);

    // Whom a workload lets in: a field more might keep somebody out.
    let good = Said::services(&[("default/shop", 1, "default/shop:80", two.address)]);
    let mut world = World::new(&good)?;
    let sidecar = world.workload(two.address);
    wait_until("callers are let in", || sidecar.get("/") == (200, "two".into()));
    world.say(&Said { unknown: vec!["workload"], ..good });
    world.server().wait_until_it_says("refused workload");
    let said = refused(&mut world, "workload");
    assert!(said.contains("default/shop: ports: field number 2003 is not known"), "{said}");
    assert_eq!(sidecar.get("/"), (200, "two".into()));
    let labels = [("kind", "workload"), ("state", "refused")];
    assert_eq!(sidecar.metrics().sum("lighter_xds_resources", &labels), 1.0);
    Ok(())
}

fn warming() -> Result<(), String> {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let mut said = Said::split(&[("v1", 1, one.address)]);
    let mut world = World::new(&said)?;
    let mut sidecar = world.sidecar();
    assert_eq!(sidecar.shares(20)["one"], 20);
    // The new route is there before its cluster, and the cluster before its endpoints.
    said.rules = vec![("", vec![("v2", 1)])];
    world.say(&said);
    world.server().wait_until_it_says("asked cluster v1,v2");
    assert_eq!(sidecar.shares(20)["one"], 20);
    said.clusters.insert("v2", "EDS");
    world.say(&said);
    world.server().wait_until_it_says("asked endpoints v1,v2");
    assert_eq!(sidecar.shares(20)["one"], 20);
    said.endpoints.insert("v2", vec![vec![(two.address, true)]]);
    world.say(&said);
    sidecar.wait_for(&["two"]);
    // What the old route needed is not asked for any more.
    wait_until("the old cluster is let go", || {
        let said = world.server().said();
        said.lines().rfind(|line| line.starts_with("asked cluster")) == Some("asked cluster v2")
    });
    Ok(())
}

fn deletion() -> Result<(), String> {
    let one = Upstream::answering("one");
    let said = Said::split(&[("v1", 1, one.address)]);
    let world = World::new(&said)?;
    let mut sidecar = world.sidecar();
    assert_eq!(sidecar.shares(5)["one"], 5);
    world.say(&Said { nothing: true, ..said.clone() });
    wait_until("the listener is known to be gone", || {
        sidecar.xds()["resources"]["listener"]["absent"][0] == "shop.default:80"
    });
    assert_eq!(sidecar.xds()["resources"]["route"]["in_force"], serde_json::json!([]));
    world.say(&said);
    wait_until("it is back", || sidecar.xds()["resources"]["listener"]["in_force"][0] == "shop.default:80");
    sidecar.wait_for(&["one"]);
    Ok(())
}

fn restart() -> Result<(), String> {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let mut said = Said::split(&[("v1", 1, one.address)]);
    let mut world = World::new(&said)?;
    let sidecar = world.sidecar();
    assert_eq!(sidecar.shares(5)["one"], 5);
    wait_until("what is in force is kept", || {
        std::fs::read(world.state()).is_ok_and(|kept| contains(&kept, &one.address.ip().to_string()))
    });
    assert!(sidecar.metrics().sum("lighter_xds_state_writes_total", &[("outcome", "written")]) >= 1.0);
    assert_eq!(std::fs::metadata(world.state()).unwrap().permissions().mode() & 0o777, 0o600);
    world.stop_server();
    assert_eq!(sidecar.shares(5)["one"], 5);
    drop(sidecar);
    let mut sidecar = world.sidecar();
    assert_eq!(sidecar.shares(5)["one"], 5);
    assert_eq!(sidecar.metrics().sum("lighter_xds_connected", &[]), 0.0);
    // And when the server is back, it is followed again.
    said.endpoints.insert("v1", vec![vec![(two.address, true)]]);
    world.say(&said);
    world.start_server();
    sidecar.wait_for(&["two"]);
    Ok(())
}

fn quiet() -> Result<(), String> {
    let one = Upstream::answering("one");
    let said = Said::split(&[("v1", 1, one.address)]);
    let mut world = World::new(&said)?;
    let sidecar = world.sidecar();
    assert_eq!(sidecar.shares(5)["one"], 5);
    for kind in ["cluster", "endpoints", "listener", "route"] {
        world.server().wait_until_it_says(&format!("accepted {kind}"));
    }
    let before = world.server().said();
    let requests = sidecar.metrics().sum("lighter_xds_requests_total", &[]);
    // One for what is asked, one for what is accepted.
    assert_eq!(requests, 8.0, "{before}");
    assert_eq!(before.matches("asked ").count(), 4, "{before}");
    // What is said of something else is nothing new for those who do not hold it.
    let mut other = said.clone();
    other.endpoints.insert("unwanted", vec![vec![(free_address(), true)]]);
    world.say(&other);
    world.server().wait_until_it_says("version 1");
    // What comes after it is told after it.
    other.endpoints.insert("v1", vec![vec![(one.address, true), (free_address(), false)]]);
    world.say(&other);
    world.server().wait_until_it_says("accepted endpoints 2");
    let after = world.server().said();
    let new: Vec<&str> = after[before.len()..].lines().collect();
    assert_eq!(new, ["version 1", "version 2", "sent endpoints 2 v1", "accepted endpoints 2"]);
    Ok(())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
