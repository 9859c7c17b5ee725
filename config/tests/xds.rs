//! What a control plane writes is what a sidecar reads.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "xds/meshes.rs"]
mod meshes;

use std::sync::Arc;

use common::service;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::route::{Matcher, PathChange, PathMatch};
use lighter_config::snapshot::{
    Action, Balancing, HashOn, HeaderChanges, LinkPolicy, LoadReports, Port, Route, RouteTable, Service,
    Snapshot, TrafficPolicy,
};
use lighter_config::xds::decode::{self, Resource};
use lighter_config::xds::{Kind, encode, names};
use meshes::mesh;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;

/// The resources of a snapshot as a sidecar with Lighter's own resources gets them, encoded.
fn own(snapshot: &Snapshot) -> Vec<(Kind, Vec<u8>)> {
    let mut messages = Vec::new();
    for service in snapshot.services.values() {
        messages.push((Kind::Service, encode::service(service).encode_to_vec()));
        for port in &service.ports {
            messages.push((Kind::Route, encode::route_configuration(port).encode_to_vec()));
            messages.extend(backend(port));
        }
    }
    messages
}

/// The same as any client of the gRPC profile gets them.
fn standard(snapshot: &Snapshot) -> Vec<(Kind, Vec<u8>)> {
    let mut messages = Vec::new();
    for port in snapshot.services.values().flat_map(|service| &service.ports) {
        for alias in names::listeners(&port.key) {
            messages.push((Kind::Listener, encode::listener(port, &alias).encode_to_vec()));
        }
        messages.push((Kind::Route, encode::route_configuration(port).encode_to_vec()));
        messages.extend(backend(port));
    }
    messages
}

fn backend(port: &Port) -> [(Kind, Vec<u8>); 2] {
    [
        (Kind::Cluster, encode::cluster(port).encode_to_vec()),
        (Kind::Endpoints, encode::load_assignment(port, &port.endpoints).encode_to_vec()),
    ]
}

fn read(messages: &[(Kind, Vec<u8>)]) -> Vec<Resource> {
    let read = |(kind, message): &(Kind, Vec<u8>)| {
        decode::resource(*kind, message).unwrap_or_else(|nack| panic!("{kind} {}: {nack}", nack.resource))
    };
    messages.iter().map(read).collect()
}

/// The snapshot with everything left out that has no effect, in the order that messages have.
fn plain(snapshot: &Snapshot) -> Vec<Service> {
    let port = |port: &Arc<Port>| {
        let mut port = Port::clone(port);
        port.endpoints.sort_by_key(|endpoint| endpoint.address);
        port.routes = RouteTable::new(port.routes.routes.iter().map(plain_route).collect());
        Arc::new(port)
    };
    let service = |service: &Arc<Service>| Service {
        ports: service.ports.iter().map(port).collect(),
        ..Service::clone(service)
    };
    snapshot.services.values().map(service).collect()
}

fn plain_route(route: &Route) -> Route {
    let mut actions: Vec<Action> =
        route.actions.iter().filter_map(|action| plain_action(action, route)).collect();
    actions.sort_by_key(|action| match action {
        Action::SizeLimits(_) => 0,
        Action::RateLimit(_) => 1,
        Action::Fault(_) => 2,
        Action::RequestHeaders(_) => 3,
        Action::ResponseHeaders(_) => 4,
        Action::Redirect(_) => 5,
        Action::Rewrite(_) => 6,
        Action::Mirror(_) => 7,
    });
    // What the sidecar answers itself takes no time.
    let request_timeout = route.request_timeout.filter(|_| !route.backends.is_empty());
    let retry = route.retry.clone().filter(|_| !route.backends.is_empty());
    Route { actions, request_timeout, retry, ..route.clone() }
}

fn plain_action(action: &Action, route: &Route) -> Option<Action> {
    match action {
        Action::RequestHeaders(changes) | Action::ResponseHeaders(changes)
            if *changes == HeaderChanges::default() =>
        {
            None
        }
        // Nobody gets to see what it rewrites.
        Action::Rewrite(_) | Action::Mirror(_) if route.backends.is_empty() => None,
        Action::Rewrite(rewrite) => {
            let mut rewrite = rewrite.clone();
            rewrite.path = rewrite.path.as_ref().and_then(plain_change);
            (rewrite != Default::default()).then_some(Action::Rewrite(rewrite))
        }
        Action::Redirect(redirect) => {
            let mut redirect = redirect.clone();
            redirect.path = redirect.path.as_ref().and_then(plain_change);
            Some(Action::Redirect(redirect))
        }
        headers => Some(headers.clone()),
    }
}

/// By the table of `replacePrefixMatch` in the Gateway API: in place of a prefix, nothing is as good as `/`; before a
/// whole path, neither does anything, and a slash at the end says nothing.
fn plain_change(change: &PathChange) -> Option<PathChange> {
    let PathChange::ReplacePrefix(new, prefix) = change else { return Some(change.clone()) };
    let bare = new.strip_suffix('/').unwrap_or(new);
    match (prefix.is_empty(), bare) {
        (true, "") => None,
        (true, bare) => Some(PathChange::ReplacePrefix(bare.into(), prefix.clone())),
        (false, "") => Some(PathChange::ReplacePrefix("/".into(), prefix.clone())),
        _ => Some(change.clone()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_sidecar_runs_by_what_its_control_plane_means(snapshot in mesh()) {
        let messages = own(&snapshot);
        let read = decode::assemble(&read(&messages));
        prop_assert_eq!(plain(&read), plain(&snapshot));
        // And by the same again, if it passes it on.
        prop_assert_eq!(own(&read), messages);
    }

    #[test]
    fn without_own_resources_requests_go_where_they_would_with_them(snapshot in mesh()) {
        let read = decode::assemble(&read(&standard(&snapshot)));
        for service in plain(&snapshot) {
            let found = read.services.get(&service.name).map(|service| &service.ports[0]);
            let (port, found) = (&service.ports[0], found.expect("every listener is a Service"));
            prop_assert_eq!(&found.key, &port.key);
            prop_assert_eq!(&found.routes, &port.routes);
            prop_assert_eq!(&found.policy.retry, &port.policy.retry);
            prop_assert_eq!(&found.policy.retry_budget, &port.policy.retry_budget);
            // They come by priority.
            let mut endpoints = found.endpoints.clone();
            endpoints.sort_by_key(|endpoint| endpoint.address);
            prop_assert_eq!(&endpoints, &port.endpoints);
        }
    }

    #[test]
    fn equal_snapshots_have_equal_bytes(snapshot in mesh(), seed in any::<u64>()) {
        let mut turned = snapshot.clone();
        let web = turned.services.get_mut(&ServiceName::new("default", "web")).expect("it was made");
        let endpoints = &mut Arc::make_mut(&mut Arc::make_mut(web).ports[0]).endpoints;
        if !endpoints.is_empty() {
            let middle = (seed % endpoints.len() as u64) as usize;
            endpoints.rotate_left(middle);
        }
        prop_assert_eq!(own(&turned), own(&snapshot));
    }
}

proptest! {
    #[test]
    fn no_bytes_are_a_reason_to_panic(
        snapshot in mesh(),
        which in any::<Index>(),
        changes in vec((any::<Index>(), any::<u8>(), 0usize..4), 0..4),
    ) {
        let messages = [own(&snapshot), standard(&snapshot)].concat();
        let (kind, mut message) = messages[which.index(messages.len())].clone();
        for (place, byte, taken) in changes {
            let start = place.index(message.len() + 1);
            let end = (start + taken).min(message.len());
            message.splice(start..end, [byte]);
        }
        match decode::resource(kind, &message) {
            Ok(resource) => drop(decode::assemble([&resource])),
            Err(nack) => prop_assert!(!nack.message.is_empty()),
        }
    }
}

#[test]
fn link_policies_are_read_as_they_were_meant() {
    for said in [
        "wires: {shm: mustNot}, idleTimeout: 0s",
        "wires: {shm: should}, ringBytes: 65536, backOff: 10ms",
        "wires: {rdma: should, quic: mustNot}, devices: [mlx5_0, rxe0]",
        "wires: {quic: should}, congestion: bbr, quicCalm: 1500ms",
        "wires: {rdma: mustNot}",
    ] {
        let policy = format!(
            "---\napiVersion: mesh.lighter.dev/v1\nkind: LinkPolicy\nmetadata: {{name: l}}\nspec: {{{said}, \
             hotBytesPerSecond: 7}}\n"
        );
        let snapshot = common::snapshot(&(service("web") + &policy));
        assert_ne!(snapshot.services.values().next().unwrap().links, LinkPolicy::default());
        assert_eq!(plain(&decode::assemble(&read(&own(&snapshot)))), plain(&snapshot));
    }
}

#[test]
fn what_a_service_keeps_is_read_as_it_was_meant() {
    for said in [
        "snapshot: /state, restore: /state",
        "port: 80, snapshot: /a/b, restore: /c%20d, freeze: /f, thaw: /t, timeout: 250ms, maxBytes: 7, onDrain: stay",
        "snapshot: /s, restore: /r, changes: /c/d",
        "snapshot: /s, restore: /r, thaw: /t, park: {requests: 3, bytes: 17179869184, wait: 24h}",
        "snapshot: /s, restore: /r, changes: /c, whenAlone: serve",
        "snapshot: /s, restore: /r, move: {when: gain}",
        "snapshot: /s, restore: /r, streams: cut",
        "snapshot: /s, restore: /r, move: {when: asked}",
        "redis: {}",
    ] {
        let class = if said.contains("whenAlone") { "journaled" } else { "volatile" };
        let text = service("web").replace("spec: {", &format!("spec: {{state: {{class: {class}, {said}}}, "));
        // What speaks Redis gives its state so.
        let text =
            if said == "redis: {}" { text.replace("appProtocol: http", "appProtocol: redis") } else { text };
        let snapshot = common::snapshot(&text);
        let web = |snapshot: &Snapshot| snapshot.services.values().next().unwrap().state.clone();
        assert!(web(&snapshot).is_some());
        let again = decode::assemble(&read(&own(&snapshot)));
        assert_eq!(plain(&again), plain(&snapshot), "{said}");
        assert_eq!(web(&again), web(&snapshot), "{said}");
    }
}

#[test]
fn traffic_policies_are_read_as_they_were_meant() {
    for said in [
        "balancing: {policy: leastRequest}",
        "balancing: {policy: roundRobin}",
        "balancing: {policy: random}",
        "balancing: {policy: weightedRoundRobin}",
        "balancing: {policy: weightedRoundRobin, loadReports: {blackout: 0s, expiration: 9s, interval: 100ms, \
         errorPenaltyPercent: 250, metrics: [named_metrics.queue, mem_utilization]}}",
        "balancing: {policy: weightedRoundRobin, loadReports: {passOn: true}}",
        "balancing: {policy: ringHash, ringSize: 77, hash: [{header: X-User}, {path: true}]}",
        "balancing: {policy: maglev, tableSize: 1009, hash: [{cookie: s}, {sourceAddress: true}]}",
        "ejection: {consecutive5xx: 5, consecutiveGatewayErrors: 2, interval: 3s}",
        "ejection: {successRate: {deviations: 2.5}, latency: {factor: 4, minimumHosts: 7, requestVolume: 9}}",
        "circuit: {maxRequests: 7, maxPendingRequests: 0, pendingTimeout: 20ms}",
        "circuit: {maxConnections: 3}",
        "overload: {}",
        "overload: {minConcurrency: 2, maxConcurrency: 70, interval: 250ms, percentile: 90, tolerancePercent: 60}",
        "overload: {baselineInterval: 30s, baselineRequests: 9, reservePercent: 0}",
        "balancing: {slowStart: {window: 9s}}",
        "healthCheck: {}",
        "locality: {}",
        "locality: {prefer: subZone, overprovisioning: 200}",
        "healthCheck: {probe: {http: /ready, port: 8081, interval: 2s, successThreshold: 2}, panicThreshold: 0}",
        "healthCheck: {probe: {grpc: a.B, timeout: 300ms, failureThreshold: 7}, panicThreshold: 100}",
    ] {
        let policy = format!(
            "---\napiVersion: mesh.lighter.dev/v1\nkind: TrafficPolicy\nmetadata: {{name: t}}\nspec: \
             {{targetRefs: [{{kind: Service, name: web}}], {said}}}\n"
        );
        let snapshot = common::snapshot(&(service("web") + &policy));
        let policy = &common::port(&snapshot, "web").policy;
        assert_ne!(*policy, TrafficPolicy::default(), "{said}");
        let messages = own(&snapshot);
        let again = decode::assemble(&read(&messages));
        assert_eq!(plain(&again), plain(&snapshot), "{said}");
        assert_eq!(own(&again), messages);
        // Whoever knows nothing of Lighter learns as much as a Cluster and its routes can say.
        let other = decode::assemble(&read(&standard(&snapshot)));
        let found = &common::port(&other, "web").policy.balancing;
        assert_eq!(found.balancer, policy.balancing.balancer);
        // What callers see is the sidecar's own.
        assert_eq!(
            LoadReports { pass_on: policy.balancing.reports.pass_on, ..found.reports.clone() },
            policy.balancing.reports
        );
        if found.balancer.hashes() {
            let is_path = |on: &&HashOn| **on != HashOn::Path;
            let expected: Vec<_> = policy.balancing.hash.iter().filter(is_path).cloned().collect();
            assert_eq!(*found.hash, *expected);
            let sizes = |balancing: &Balancing| (balancing.ring_size, balancing.table_size);
            assert_eq!(sizes(found), sizes(&policy.balancing));
        }
    }
}

#[test]
fn grpc_routes_are_read_as_they_were_meant() {
    let methods = [
        "{method: {service: shop.Catalog, method: Get}}",
        "{method: {service: shop.Catalog}}",
        "{method: {method: List}, headers: [{name: x-canary, value: 'yes'}]}",
        "{method: {type: RegularExpression, service: 'bank[.].*', method: 'P(ay|ut)'}}",
    ];
    let more =
        ["", "retry: {},", "retry: {codes: [], attempts: 0},", "retry: {codes: [CANCELLED], backoff: 1s},"];
    let rule = |(method, more): (&str, &str)| {
        format!("    - {{{more} matches: [{method}], backendRefs: [{{name: a, port: 80}}]}}\n")
    };
    let rules: String = methods.into_iter().zip(more).map(rule).collect();
    let route = common::route("name: r", &rules).replace("HTTPRoute", "GRPCRoute");
    let snapshot = common::snapshot(&(service("web") + &service("a") + &route));
    assert_eq!(plain(&decode::assemble(&read(&own(&snapshot)))), plain(&snapshot));
}

#[test]
fn what_grpc_clients_ask_for_is_there() {
    use lighter_config::xds::wire::envoy::config::route::v3::route_match::PathSpecifier;
    let rules = "    - {matches: [{path: {value: /}}, {path: {value: /a}}], backendRefs: [{name: web}]}\n";
    let snapshot = common::snapshot(&(service("web") + &common::route("name: r", rules)));
    let routes = encode::route_configuration(common::port(&snapshot, "web"));
    let paths: Vec<_> = routes.virtual_hosts[0]
        .routes
        .iter()
        .map(|route| route.r#match.clone().unwrap().path_specifier.unwrap())
        .collect();
    let expected = [
        PathSpecifier::Path("/a".into()),
        PathSpecifier::Prefix("/a/".into()),
        PathSpecifier::Prefix("".into()),
    ];
    assert_eq!(paths, expected);
    let port = ServicePort { service: ServiceName::new("default", "web"), port: 80 };
    assert_eq!(names::listeners(&port).last().map(String::as_str), Some("web:80"));
    // Two parts of one match are one match again.
    let decoded = decode::route_configuration(&routes.encode_to_vec()).unwrap();
    let matchers: Vec<Matcher> =
        decoded.hosts[0].table.routes.iter().map(|route| route.matcher.clone()).collect();
    let prefix = |prefix: &str| Matcher { path: PathMatch::Prefix(prefix.into()), ..Default::default() };
    assert_eq!(matchers, [prefix("/a"), prefix("")]);
}
