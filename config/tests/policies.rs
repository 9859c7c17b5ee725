//! What TrafficPolicies do to single requests, by what they are about.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{errors, port, route, service, snapshot};
use lighter_config::build::{Mesh, Origin};
use lighter_config::load::Resources;
use lighter_config::manifest::Key;
use lighter_config::snapshot::filter::{Abort, Share, SizeLimits};
use lighter_config::snapshot::{Action, Overload, Port, Priority, Snapshot};

const OF_ROUTE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: web";

fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: mesh.lighter.dev/v1, kind: TrafficPolicy, metadata: {{name: {name}}}, \
         spec: {{targetRefs: [{{{target}}}], {spec}}}}}\n"
    )
}

fn two_rules() -> String {
    let rule = |name: &str| {
        format!(
            "    - {{name: {name}, matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: web}}]}}\n"
        )
    };
    service("web") + &route("name: web", &(rule("first") + &rule("second")))
}

/// The largest bodies of the rules, by their names, and of the port.
fn bodies(port: &Port) -> (Vec<(String, Option<u64>)>, Option<u64>) {
    let body = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::SizeLimits(SizeLimits { body, .. }) => *body,
            _ => None,
        })
    };
    let routes = port.routes.routes.iter().map(|route| (route.name.to_string(), body(&route.actions)));
    let mut routes: Vec<_> = routes.collect();
    routes.sort();
    (routes, body(&port.guards))
}

#[test]
fn the_narrower_policy_wins_where_it_speaks() {
    let text = two_rules()
        + &policy("s", "kind: Service, name: web", "maxRequestBytes: 1, maxHeaderBytes: 9")
        + &policy("p", "kind: Service, name: web, sectionName: http", "maxRequestBytes: 2")
        + &policy("r", OF_ROUTE, "maxRequestBytes: 3, requestTimeout: 5s")
        + &policy("u", &format!("{OF_ROUTE}, sectionName: second"), "maxRequestBytes: 4");
    let snapshot = snapshot(&text);
    let port = port(&snapshot, "web");
    let expected = [("default/web/first".to_string(), Some(3)), ("default/web/second".to_string(), Some(4))];
    assert_eq!(bodies(port), (expected.to_vec(), Some(2)));
    assert_eq!(port.guards, [Action::SizeLimits(SizeLimits { head: Some(9), body: Some(2) })]);
    for route in &port.routes.routes {
        assert_eq!(route.request_timeout, Some(Some(Duration::from_secs(5))));
    }
}

#[test]
fn a_fault_of_a_service_holds_for_its_routes_and_without_any() {
    let fault = policy("s", "kind: Service, name: web", "fault: {abort: {httpStatus: 418, percent: 12.5}}");
    let own = policy("r", &format!("{OF_ROUTE}, sectionName: first"), "fault: {delay: {duration: 1s}}");
    let aborts = |port: &Port| -> Vec<_> {
        let faults = port.routes.routes.iter().flat_map(|route| &route.actions);
        let abort = |action: &Action| match action {
            Action::Fault(fault) => fault.abort,
            other => panic!("{other:?}"),
        };
        faults.map(abort).collect()
    };
    let said = Some((Abort::Http(418), Share(125_000)));
    assert_eq!(aborts(port(&snapshot(&(service("web") + &fault)), "web")), [said]);
    assert_eq!(aborts(port(&snapshot(&(two_rules() + &fault)), "web")), [said, said]);
    let mut both = aborts(port(&snapshot(&(two_rules() + &fault + &own)), "web"));
    both.sort_by_key(Option::is_some);
    assert_eq!(both, [None, said]);
    // The callee does not make them once more.
    assert_eq!(port(&snapshot(&(two_rules() + &fault)), "web").guards, []);
}

#[test]
fn grpc_routes_are_targets_too() {
    let route = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: web}, spec: \
                 {parentRefs: [{kind: Service, name: web}], rules: [{backendRefs: [{name: web}]}]}}\n";
    let target = "group: gateway.networking.k8s.io, kind: GRPCRoute, name: web, sectionName: '0'";
    let text = service("web") + route + &policy("p", target, "maxRequestBytes: 7, requestTimeout: 0s");
    let snapshot = snapshot(&text);
    assert_eq!(bodies(port(&snapshot, "web")).0, [("default/web/0".to_string(), Some(7))]);
    assert_eq!(port(&snapshot, "web").routes.routes[0].request_timeout, Some(None));
    let other = text.replace("kind: GRPCRoute, name: web, section", "kind: HTTPRoute, name: web, section");
    assert_eq!(errors(&other), ["spec.targetRefs[0].name: there is no HTTPRoute default/web"]);
}

/// A change of a route or of its policy alone is judged, and reaches the Service.
#[test]
fn routes_and_their_policies_can_change_by_themselves() {
    let put = |mesh: &mut Mesh, text: &str| -> Result<Arc<Snapshot>, String> {
        let mut next = mesh.clone();
        next.put(&Resources::parse("test.yaml", text).unwrap(), Origin::Store);
        let snapshot = next.judge().map_err(|errors| errors.to_string())?;
        *mesh = next;
        Ok(snapshot)
    };
    let mut mesh = Mesh::default();
    put(&mut mesh, &two_rules()).unwrap();
    let of_rule = |bytes: u64| {
        policy("p", &format!("{OF_ROUTE}, sectionName: first"), &format!("maxRequestBytes: {bytes}"))
    };
    let first = |snapshot: &Snapshot| bodies(port(snapshot, "web")).0[0].1;
    assert_eq!(first(&put(&mut mesh, &of_rule(5)).unwrap()), Some(5));
    let key =
        |kind: &str, name: &str| Key { kind: kind.into(), namespace: "default".into(), name: name.into() };
    mesh.remove(&key("TrafficPolicy", "p"));
    assert_eq!(first(&mesh.judge().unwrap()), None);
    assert_eq!(first(&put(&mut mesh, &of_rule(6)).unwrap()), Some(6));
    // The route cannot go while a policy is about it, and neither can the rule.
    let mut without = mesh.clone();
    without.remove(&key("HTTPRoute", "web"));
    let refused = without.judge().map(drop).unwrap_err().to_string();
    assert!(refused.contains("there is no HTTPRoute default/web"), "{refused}");
    without.remove(&key("TrafficPolicy", "p"));
}

#[test]
fn a_port_keeps_what_its_service_says_of_overload_where_it_says_nothing() {
    let text = service("web")
        + &policy("s", "kind: Service, name: web", "overload: {minConcurrency: 40, percentile: 90}")
        + &policy("p", "kind: Service, name: web, sectionName: http", "overload: {maxConcurrency: 20}");
    let snapshot = snapshot(&text);
    // Each is right by itself; together the larger one holds.
    let expected =
        Overload { min_concurrency: 40, max_concurrency: 40, percentile: 90, ..Overload::default() };
    assert_eq!(port(&snapshot, "web").policy.overload, Some(expected));
}

#[test]
fn the_priority_of_a_rule_goes_before_that_of_its_route() {
    let text = two_rules()
        + &policy("r", OF_ROUTE, "priority: High")
        + &policy("u", &format!("{OF_ROUTE}, sectionName: second"), "priority: Default");
    let snapshot = snapshot(&text);
    let routes = &port(&snapshot, "web").routes.routes;
    let mut said: Vec<_> = routes.iter().map(|route| (&*route.name, route.priority)).collect();
    said.sort_unstable_by_key(|(name, _)| *name);
    assert_eq!(said, [("default/web/first", Priority::High), ("default/web/second", Priority::Default)]);
}
