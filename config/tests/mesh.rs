//! What a mesh becomes when it is built from its resources.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{Request, errors, named, port, route, service, snapshot, taken};
use lighter_config::load::Resources;
use lighter_config::snapshot::route::{Action, PathChange};
use lighter_config::snapshot::{
    Congestion, LinkPolicy, Mtls, OutboundPolicy, Protocol, Retry, RetryOn, Snapshot, TrafficPolicy, WireUse,
};

fn ours(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: mesh.lighter.dev/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}\n"
    )
}

fn tcp_route(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {{name: {name}}}, \
         spec: {spec}}}\n"
    )
}

#[test]
fn endpoints_listen_where_they_say_or_on_the_target_port() {
    let spec = "{ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}, {name: db, port: 5432}], \
                endpoints: [{address: 192.0.2.1}, {address: '::1', ports: {http: 9000}, weight: 3}]}";
    let snapshot = snapshot(&ours("Service", "web", spec));
    let of_port = |index: usize| {
        let port = &named(&snapshot, "web").ports[index];
        let text = |endpoint: &lighter_config::snapshot::EndpointSpec| {
            format!("{} {}", endpoint.address, endpoint.weight)
        };
        (port.protocol, port.target_port, port.endpoints.iter().map(text).collect::<Vec<_>>())
    };
    assert_eq!(of_port(0), (Protocol::Http, 8080, vec!["192.0.2.1:8080 1".into(), "[::1]:9000 3".into()]));
    assert_eq!(of_port(1), (Protocol::Auto, 5432, vec!["192.0.2.1:5432 1".into(), "[::1]:5432 3".into()]));
}

#[test]
fn a_backend_that_does_not_exist_is_kept_and_warned_of() {
    let rules = "    - backendRefs: [{name: web}, {name: wbe, port: 80}, {name: web, port: 81, weight: 3}]";
    let snapshot = snapshot(&(service("web") + &route("name: r", rules)));
    let backends: Vec<(String, u32, bool)> = port(&snapshot, "web").routes.routes[0]
        .backends
        .iter()
        .map(|backend| (backend.target.to_string(), backend.weight, backend.exists))
        .collect();
    let expected = [("default/web:80", 1, true), ("default/wbe:80", 1, false), ("default/web:81", 3, false)];
    assert_eq!(backends, expected.map(|(target, weight, exists)| (target.to_string(), weight, exists)));
    let warnings: Vec<String> = snapshot.warnings.iter().map(|warning| warning.to_string()).collect();
    assert_eq!(warnings.len(), 2);
    assert!(
        warnings[0].contains("there is no Service default/wbe")
            && warnings[0].contains("did you mean `web`?")
    );
    assert!(warnings[1].contains("default/web has no port 81"));
}

#[test]
fn a_rule_without_backends_is_warned_of() {
    let snapshot = snapshot(&(service("web") + &route("name: r", "    - matches: [{method: GET}]")));
    assert!(snapshot.warnings[0].message.contains("answered with 500"));
    assert!(port(&snapshot, "web").routes.routes[0].backends.is_empty());
}

#[test]
fn a_route_is_attached_to_every_port_that_can_carry_it() {
    let spec = "{ports: [{name: http, port: 80, appProtocol: http}, {name: rpc, port: 81, appProtocol: grpc}, \
                {name: any, port: 82}, {name: raw, port: 83, appProtocol: tcp}]}";
    let rules = "    - backendRefs: [{name: web, port: 80}]";
    let snapshot = snapshot(&(ours("Service", "web", spec) + &route("name: r", rules)));
    let names = named(&snapshot, "web").ports.iter().map(|port| port.routes.routes[0].name.to_string());
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["default/r/0", "default/r/0", "default/r/0", "default"]);
}

#[test]
fn a_route_can_be_attached_to_one_port_by_number_or_name() {
    let spec = "{ports: [{name: http, port: 80}, {name: other, port: 81}]}";
    for parent in ["port: 81", "sectionName: other", "port: 81, sectionName: other"] {
        let rules = "    - backendRefs: [{name: web, port: 80}]";
        let route = route("name: r", rules).replace("name: web}]\n", &format!("name: web, {parent}}}]\n"));
        let snapshot = snapshot(&(ours("Service", "web", spec) + &route));
        let names = named(&snapshot, "web").ports.iter().map(|port| port.routes.routes[0].name.to_string());
        assert_eq!(names.collect::<Vec<_>>(), ["default", "default/r/0"], "{parent}");
    }
}

#[test]
fn hostnames_are_ignored_for_services() {
    let route = route("name: r", "    - backendRefs: [{name: web}]")
        .replace("  rules:", "  hostnames: [only.example]\n  rules:");
    let snapshot = snapshot(&(service("web") + &route));
    assert_eq!(taken(&snapshot, "GET / host:other.example").as_deref(), Some("r/0"));
}

#[test]
fn a_timeout_of_nothing_is_no_limit() {
    let rules = "    - {matches: [{method: GET}], timeouts: {request: 0s}, backendRefs: [{name: web}]}\n\
                 \x20   - {matches: [{method: PUT}], timeouts: {request: 1m}, backendRefs: [{name: web}]}\n\
                 \x20   - {backendRefs: [{name: web}]}";
    let snapshot = snapshot(&(service("web") + &route("name: r", rules)));
    let timeout = |request: &str| {
        port(&snapshot, "web").routes.select(&Request::parse(request)).expect("a route").request_timeout
    };
    assert_eq!(timeout("GET /"), Some(None));
    assert_eq!(timeout("PUT /"), Some(Some(Duration::from_secs(60))));
    assert_eq!(timeout("POST /"), None);
}

#[test]
fn a_replaced_prefix_is_that_of_each_match() {
    let rules = "    - matches: [{path: {value: /a/}}, {path: {value: /b}}]\n\
                 \x20     filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, \
                 replacePrefixMatch: /x}}}]\n\
                 \x20     backendRefs: [{name: web}]";
    let snapshot = snapshot(&(service("web") + &route("name: r", rules)));
    for (request, prefix) in [("GET /a/1", "/a"), ("GET /b/1", "/b")] {
        let route = port(&snapshot, "web").routes.select(&Request::parse(request)).expect("a route");
        let [Action::Rewrite(rewrite)] = route.actions.as_slice() else { panic!("{:?}", route.actions) };
        assert_eq!(rewrite.path, Some(PathChange::ReplacePrefix("/x".into(), prefix.into())));
    }
}

#[test]
fn a_policy_for_a_port_goes_before_that_for_its_service_before_the_defaults() {
    let spec = "{ports: [{name: a, port: 80}, {name: b, port: 81}]}";
    let text = ours("Service", "web", spec)
        + &ours(
            "TrafficPolicy",
            "port",
            "{targetRefs: [{name: web, port: 81}], connectTimeout: 1s, retry: {safe: false}}",
        )
        + &ours(
            "TrafficPolicy",
            "whole",
            "{targetRefs: [{kind: Service, name: web}], connectTimeout: 2s, idleTimeout: 0s, \
             ejection: {consecutiveFailures: 0}}",
        );
    let snapshot = snapshot(&text);
    let whole = TrafficPolicy {
        connect_timeout: Duration::from_secs(2),
        idle_timeout: None,
        eject_after: 0,
        ..TrafficPolicy::default()
    };
    let ports = &named(&snapshot, "web").ports;
    assert_eq!(ports[0].policy, whole);
    assert_eq!(
        ports[1].policy,
        TrafficPolicy { connect_timeout: Duration::from_secs(1), safe_retry: false, ..whole }
    );
}

#[test]
fn a_rule_says_what_is_tried_again_over_the_policy() {
    let policy = ours(
        "TrafficPolicy",
        "web",
        "{targetRefs: [{kind: Service, name: web}], retry: {attempts: 3, on: [gatewayError], codes: [429], \
         methods: [POST, GET], perTryTimeout: 2s, backoff: {base: 10ms}, retryAfter: 5s}}",
    );
    let rules = "    - {matches: [{path: {value: /own}}], backendRefs: [{name: web}], \
                 timeouts: {backendRequest: 1s}, retry: {codes: [503], backoff: 1s}}\n\
                 \x20   - {matches: [{path: {value: /never}}], backendRefs: [{name: web}], retry: {attempts: 0}}\n\
                 \x20   - {matches: [{path: {value: /short}}], backendRefs: [{name: web}], \
                 timeouts: {backendRequest: 1s}}\n\
                 \x20   - {backendRefs: [{name: web}]}";
    let snapshot = snapshot(&(service("web") + &policy + &route("name: r", rules)));
    let port = port(&snapshot, "web");
    let said = |request: &str| {
        port.routes.select(&Request::parse(request)).expect("a route").retry.as_deref().cloned()
    };
    let whole = port.policy.retry.clone();
    assert_eq!((whole.attempts, whole.backoff_max), (3, Duration::from_millis(100)));
    let second = Duration::from_secs(1);
    let on = RetryOn { connect_failure: true, reset: true, ..whole.on };
    let own = Retry {
        codes: vec![503],
        try_timeout: Some(second),
        backoff: second,
        backoff_max: 10 * second,
        on,
        ..whole.clone()
    };
    assert_eq!(said("GET /own"), Some(own));
    assert_eq!(said("GET /never").map(|retry| retry.is_any()), Some(false));
    assert_eq!(said("GET /short"), Some(Retry { try_timeout: Some(second), ..whole }));
    assert_eq!(said("GET /"), None);
}

#[test]
fn opaque_connections_go_where_a_tcp_route_says() {
    let text = ours("Service", "db", "{ports: [{port: 5432, appProtocol: tcp}]}")
        + &ours("Service", "db-new", "{ports: [{port: 5432, appProtocol: tcp}]}")
        + &tcp_route(
            "shift",
            "{parentRefs: [{kind: Service, name: db}], \
             rules: [{backendRefs: [{name: db, weight: 9}, {name: db-new, port: 5432}]}]}",
        );
    let snapshot = snapshot(&text);
    let shares = |name: &str| {
        let port = port(&snapshot, name);
        let backends = port.tcp.iter().map(|backend| (backend.target.to_string(), backend.weight));
        (port.tcp_route.to_string(), backends.collect::<Vec<_>>())
    };
    let shifted = vec![("default/db:5432".to_string(), 9), ("default/db-new:5432".to_string(), 1)];
    assert_eq!(shares("db"), ("default/shift/0".to_string(), shifted));
    assert_eq!(shares("db-new"), ("default".to_string(), vec![("default/db-new:5432".to_string(), 1)]));
}

#[test]
fn the_mesh_says_what_happens_to_unknown_destinations() {
    assert_eq!(snapshot("").outbound_policy, OutboundPolicy::Passthrough);
    let text = ours("MeshPolicy", "mesh", "{outboundPolicy: registryOnly}");
    assert_eq!(snapshot(&text).outbound_policy, OutboundPolicy::RegistryOnly);
}

#[test]
fn what_kubernetes_adds_to_a_resource_is_ignored() {
    let added = "name: r, uid: 5d5f, resourceVersion: '12', generation: 3, creationTimestamp: '2026-01-01T00:00:00Z', \
                 managedFields: [{manager: kubectl}], labels: {app.kubernetes.io/name: web}, annotations: {a: b}";
    let route =
        route(added, "    - backendRefs: [{group: '', kind: Service, name: web, port: 80, weight: 1}]")
            + "status: {parents: [{controllerName: x}]}\n";
    assert_eq!(taken(&snapshot(&(service("web") + &route)), "GET /").as_deref(), Some("r/0"));
}

#[test]
fn namespaces_keep_services_apart() {
    let other = service("web").replace("name: web}", "name: web, namespace: other}");
    let rules = "    - backendRefs: [{name: web, namespace: other, port: 80}]";
    let snapshot = snapshot(&(service("web") + &other + &route("name: r", rules)));
    assert_eq!(snapshot.services.len(), 2);
    let backend = &port(&snapshot, "web").routes.routes[0].backends[0];
    assert_eq!((backend.target.to_string().as_str(), backend.exists), ("other/web:80", true));
    let [first, second] = [0, 1].map(|n| snapshot.services.values().nth(n).unwrap().virtual_ips);
    assert!(first.v4 != second.v4 && first.v6 != second.v6);
}

#[test]
fn lists_are_bounded() {
    let many = |item: &str, count: usize| vec![item; count].join(",");
    let backends = format!("    - backendRefs: [{}]", many("{name: web}", 65));
    let found = errors(&(service("web") + &route("name: r", &backends)));
    assert_eq!(found, ["spec.rules[0].backendRefs: 65 items are too many"]);
    let matches =
        format!("    - {{matches: [{}], backendRefs: [{{name: web}}]}}", many("{method: GET}", 1025));
    let found = errors(&(service("web") + &route("name: r", &matches)));
    assert_eq!(found, ["spec.rules: 1025 items are too many"]);
}

#[test]
fn a_large_mesh_is_built_in_one_pass() {
    // Whatever grows with the square of the number of Services would be felt here.
    let mut text = String::new();
    for n in 0..800 {
        text += &service(&format!("s{n}"));
        let rules =
            format!("    - backendRefs: [{{name: s{}}}, {{name: absent-{n}, port: 80}}]", (n + 1) % 800);
        text += &route(&format!("name: r{n}"), &rules).replace("name: web}", &format!("name: s{n}}}"));
    }
    let resources = Resources::parse("large.yaml", &text).unwrap();
    assert_eq!(resources.len(), 1600);
    let snapshot = Snapshot::build(&resources).unwrap();
    assert_eq!((snapshot.services.len(), snapshot.warnings.len()), (800, 800));
}

#[test]
fn an_endpoint_may_have_to_prove_who_it_is() {
    let spec = "{ports: [{name: a, port: 80}, {name: b, port: 81}], endpoints: [{address: 192.0.2.1, secure: \
                {identity: 'spiffe://mesh.lighter/ns/default/sa/web', link: '192.0.2.1:15008'}}, \
                {address: 192.0.2.2, secure: {identity: 'spiffe://mesh.lighter/ns/default/sa/web'}}, \
                {address: 192.0.2.3}]}";
    let snapshot = snapshot(&ours("Service", "web", spec));
    for port in &named(&snapshot, "web").ports {
        let secure: Vec<_> = port.endpoints.iter().map(|endpoint| endpoint.secure.as_ref()).collect();
        let identities: Vec<_> =
            secure.iter().map(|secure| secure.map(|secure| secure.identity.to_string())).collect();
        let web = Some("spiffe://mesh.lighter/ns/default/sa/web".to_owned());
        assert_eq!(identities, [web.clone(), web, None]);
        let links: Vec<_> = secure.iter().map(|secure| secure.and_then(|secure| secure.link)).collect();
        assert_eq!(links, [Some("192.0.2.1:15008".parse().unwrap()), None, None]);
    }
}

#[test]
fn what_a_link_policy_leaves_out_the_mesh_says_and_then_the_defaults() {
    let resources = [
        ours("Service", "one", "{ports: [{port: 80}]}"),
        ours("Service", "two", "{ports: [{port: 80}]}"),
        ours(
            "LinkPolicy",
            "mesh",
            "{wires: {shm: should, rdma: mustNot, quic: should}, congestion: bbr, devices: [rxe0], ringBytes: 65536}",
        ),
        ours(
            "LinkPolicy",
            "one",
            "{targetRefs: [{kind: Service, name: one}], wires: {shm: mustNot}, idleTimeout: 0s}",
        ),
    ];
    let snapshot = snapshot(&resources.concat());
    let defaults = LinkPolicy::default();
    let mesh = LinkPolicy {
        shm: WireUse::Should,
        rdma: WireUse::MustNot,
        quic: WireUse::Should,
        congestion: Congestion::Bbr,
        devices: ["rxe0".into()].into(),
        ring_bytes: 65536,
        ..defaults
    };
    assert_eq!(named(&snapshot, "two").links, mesh);
    assert_eq!(
        named(&snapshot, "one").links,
        LinkPolicy { shm: WireUse::MustNot, idle_timeout: None, ..mesh }
    );
}

#[test]
fn the_narrowest_policy_says_whether_mtls_is_strict() {
    let ports = "{ports: [{name: a, port: 80}, {name: b, port: 81}]}";
    let resources = [
        ours("Service", "one", ports),
        ours("Service", "two", ports),
        ours("MeshPolicy", "mesh", "{mtls: strict}"),
        ours("MeshPolicy", "one", "{mtls: permissive, targetRefs: [{kind: Service, name: one}]}"),
        ours("MeshPolicy", "a", "{mtls: strict, targetRefs: [{kind: Service, name: one, port: 80}]}"),
    ];
    let snapshot = snapshot(&resources.concat());
    let of = |name: &str| named(&snapshot, name).ports.iter().map(|port| port.mtls).collect::<Vec<_>>();
    assert_eq!(snapshot.mtls, Mtls::Strict);
    assert_eq!(of("one"), [Mtls::Strict, Mtls::Permissive]);
    assert_eq!(of("two"), [Mtls::Strict, Mtls::Strict]);
}
