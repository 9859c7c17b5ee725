//! What a control plane writes is what a sidecar reads.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;

use common::generate::{Match, one_match};
use common::service;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::route::{Matcher, PathChange, PathMatch};
use lighter_config::snapshot::{
    Action, Balancing, EndpointSpec, HashOn, HeaderChanges, LinkPolicy, LoadReports, Locality, Port, Route,
    RouteTable, Secure, Service, Snapshot, TrafficPolicy, Wires,
};
use lighter_config::xds::decode::{self, Resource};
use lighter_config::xds::{Kind, encode, names};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
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

fn pairs() -> impl Strategy<Value = String> {
    let value = select(vec!["1", "100%", "a %%b", "x-%REQ(a)%"]);
    vec((select(vec!["X-A", "x-b", "X-C"]), value), 0..3).prop_map(|pairs| {
        let mut seen: Vec<&str> = Vec::new();
        let mut text = String::new();
        for (name, value) in pairs {
            if !seen.contains(&name) {
                seen.push(name);
                text += &format!("{{name: {name}, value: '{value}'}},");
            }
        }
        text
    })
}

fn header_changes() -> impl Strategy<Value = String> {
    let remove = select(vec!["", "x-a", "X-D, x-b"]);
    (pairs(), pairs(), remove)
        .prop_map(|(set, add, remove)| format!("{{set: [{set}], add: [{add}], remove: [{remove}]}}"))
}

fn path_change() -> impl Strategy<Value = String> {
    let full = select(vec!["/", "/new", r"/a\1b"]);
    let prefix = select(vec!["", "/", "/new", "/new/", "/n/ew"]);
    prop_oneof![
        full.prop_map(|path| format!("path: {{type: ReplaceFullPath, replaceFullPath: '{path}'}}")),
        prefix.prop_map(|path| format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{path}'}}")),
    ]
}

/// Filters of a rule, whether it redirects, and whether it replaces a prefix.
fn filters() -> impl Strategy<Value = (String, bool, bool)> {
    let option = proptest::option::of::<BoxedStrategy<String>>;
    let rewrite = (option(path_change().boxed()), any::<bool>()).prop_map(|(path, host)| {
        let host = if host || path.is_none() { "hostname: other.example," } else { "" };
        (false, format!("{host} {}", path.unwrap_or_default()))
    });
    let words = select(vec!["", "scheme: https,", "hostname: a.example,", "port: 8080,", "statusCode: 308,"]);
    let redirect = (option(path_change().boxed()), words)
        .prop_map(|(path, words)| (true, format!("{words} {}", path.unwrap_or_default())));
    let target = proptest::option::of(prop_oneof![rewrite, redirect]);
    let mirrors = select(vec![
        "",
        "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 7}}",
        "{type: RequestMirror, requestMirror: {backendRef: {name: missing, port: 80}}},
         {type: RequestMirror, requestMirror: {backendRef: {name: b}, fraction: {numerator: 1, denominator: 1000}}}",
    ]);
    let changes = || option(header_changes().boxed());
    (changes(), changes(), target, any::<bool>(), mirrors).prop_map(
        |(request, response, target, target_first, mirrors)| {
            let mut filters: Vec<String> = Vec::new();
            filters.extend((!mirrors.is_empty()).then(|| mirrors.to_string()));
            filters.extend(
                request.map(|changes| {
                    format!("{{type: RequestHeaderModifier, requestHeaderModifier: {changes}}}")
                }),
            );
            filters.extend(response.map(|changes| {
                format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {changes}}}")
            }));
            let place = if target_first { 0 } else { filters.len() };
            let (redirects, words) = target.clone().unwrap_or_default();
            match target {
                Some((true, words)) => {
                    filters.insert(place, format!("{{type: RequestRedirect, requestRedirect: {{{words}}}}}"))
                }
                Some((false, words)) => {
                    filters.insert(place, format!("{{type: URLRewrite, urlRewrite: {{{words}}}}}"))
                }
                None => {}
            }
            (filters.join(", "), redirects, words.contains("ReplacePrefixMatch"))
        },
    )
}

/// A match, perhaps with regular expressions in place of its path and its values.
fn wide_match() -> impl Strategy<Value = (Match, bool)> {
    (one_match(), proptest::bool::weighted(0.2))
}

fn match_yaml((one, is_regex): &(Match, bool), only_prefix: bool) -> String {
    let one = Match { exact: one.exact && !only_prefix, ..one.clone() };
    match *is_regex && !only_prefix {
        true => one
            .yaml()
            .replace("type: Exact", "type: RegularExpression")
            .replace("type: PathPrefix", "type: RegularExpression")
            .replace("{name: x,", "{type: RegularExpression, name: x,")
            .replace("{name: q,", "{type: RegularExpression, name: q,"),
        false => one.yaml(),
    }
}

fn rule() -> impl Strategy<Value = String> {
    let backend = (select(vec!["web", "a", "b", "missing"]), 0u32..5);
    let timeout = select(vec![
        "",
        "timeouts: {request: 0s},",
        "timeouts: {request: 1s500ms, backendRequest: 1s},",
        "timeouts: {backendRequest: 10ms}, retry: {},",
        "retry: {codes: [503, 429], attempts: 3, backoff: 1s},",
        "retry: {attempts: 0},",
    ]);
    let session = select(vec![
        "",
        "sessionPersistence: {},",
        "sessionPersistence: {sessionName: Seat, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}},",
        "sessionPersistence: {absoluteTimeout: 1h, idleTimeout: 5m, cookieConfig: {lifetimeType: Permanent}},",
        "sessionPersistence: {absoluteTimeout: 1h},",
        "sessionPersistence: {type: Header, sessionName: X-Seat, idleTimeout: 1s},",
        "sessionPersistence: {type: Header},",
    ]);
    (vec(wide_match(), 0..4), filters(), vec(backend, 0..4), timeout, session).prop_map(
        |(matches, (filters, redirects, replaces_prefix), mut backends, timeout, session)| {
            backends.sort();
            backends.dedup_by_key(|(name, _)| *name);
            if redirects || backends.iter().all(|(_, weight)| *weight == 0) {
                backends.clear();
            }
            let matches: Vec<String> = matches.iter().map(|one| match_yaml(one, replaces_prefix)).collect();
            let backends: Vec<String> = backends
                .iter()
                .map(|(name, weight)| format!("{{name: {name}, port: 80, weight: {weight}}}"))
                .collect();
            let session = if backends.is_empty() { "" } else { session };
            format!(
                "    - {{{timeout} {session} matches: [{}], filters: [{filters}], backendRefs: [{}]}}\n",
                matches.join(", "),
                backends.join(", "),
            )
        },
    )
}

/// What a TrafficPolicy says of other tries; empty: nothing.
fn retry() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "perTryTimeout: 1s",
        "attempts: 2, on: [connectFailure, gatewayError], budget: {percent: 0}",
        "on: [reset, 5xx], codes: [429], grpcStatuses: [UNAVAILABLE, CANCELLED], methods: [POST, GET]",
        "safe: false, codes: [503], retryAfter: 0s, backoff: {base: 1ms, max: 1s}, budget: {minPerSecond: 7}",
        "on: [reset], attempts: 0, methods: [POST]",
    ])
}

/// What a TrafficPolicy says of single requests; of a route where `identity` is false.
fn shape(identity: bool) -> impl Strategy<Value = String> {
    let per = match identity {
        true => vec!["", "per: Identity, maxKeys: 9", "per: Header, header: X-Key"],
        false => vec!["", "per: Header, header: X-Key, maxKeys: 9"],
    };
    let rate = (1u32..9, select(vec!["", "interval: 5s,", "burst: 7,"]), select(per))
        .prop_map(|(requests, words, per)| format!("{{requests: {requests}, {words} {per}}}"));
    let sizes = select(vec!["", "maxRequestBytes: 5,", "maxHeaderBytes: 6, maxRequestBytes: 7,"]);
    let fault = select(vec![
        "",
        "fault: {delay: {duration: 1s, percent: 0.5}, headers: [{name: X-A, value: '1'}]}",
        "fault: {abort: {httpStatus: 503}, headers: [{name: b, type: RegularExpression, value: '2+'}]}",
        "fault: {delay: {duration: 5ms}, abort: {grpcStatus: 14, percent: 99.9999}}",
    ]);
    (vec(rate, 0..4), sizes, fault).prop_map(|(mut rates, sizes, fault)| {
        // Two that say the same are refused.
        rates.sort();
        rates.dedup_by_key(|rate| rate.split(',').next().map(str::to_string));
        format!("{sizes} rateLimits: [{}], {fault}", rates.join(", "))
    })
}

/// Policies about the Service `web`, its route `of-web`, and the first rule of that.
fn policies(routed: bool) -> impl Strategy<Value = String> {
    (shape(true), retry(), shape(false), shape(false), 0..4usize).prop_map(move |said| {
        let (service, retry, route, rule, count) = said;
        let service = format!("retry: {{{retry}}}, {service}");
        let of_route = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: of-web";
        let targets = ["kind: Service, name: web", of_route, &format!("{of_route}, sectionName: '0'")];
        let policy = |(at, (target, spec)): (usize, (&str, String))| {
            format!(
                "---\n{{apiVersion: mesh.lighter.dev/v1, kind: TrafficPolicy, metadata: {{name: p{at}}}, \
                 spec: {{targetRefs: [{{{target}}}], {spec}}}}}\n"
            )
        };
        let most = if routed { count } else { count.min(1) };
        targets.into_iter().zip([service, route, rule]).enumerate().take(most).map(policy).collect()
    })
}

/// A Function, Devices, and an OffloadPolicy about the route `of-web` or the first rule of it; empty: nothing.
fn offload() -> impl Strategy<Value = String> {
    let document = |kind: &str, name: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: mesh.lighter.dev/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
        )
    };
    let function = select(vec![
        ("state: stateless, time: 7ms", ""),
        (
            "state: readOnly, bytesPerSecond: 3, resultPercent: 0.1",
            ", dataset: {name: t, version: '7', bytes: 9}",
        ),
    ]);
    let device =
        (select(vec!["a", "b"]), 1u32..9, any::<u64>(), 0.0..1.0, select(vec!["", "f"]), any::<bool>());
    let more = select(vec![
        "",
        ", host: h, tryTimeout: 3ms, objective: bytes",
        ", slo: {latency: 9s, missPercent: 0.3, window: 7m}, objective: energy, marginPercent: 0, explorePercent: 7.7",
    ]);
    let rule = proptest::option::of(select(vec!["", ", sectionName: '0'"]));
    (function, vec(device, 1..4), more, rule).prop_map(move |((function, dataset), devices, more, rule)| {
        let Some(rule) = rule else { return String::new() };
        let mut text =
            document("Function", "f", function) + &document("Device", "h", "class: host, slots: 3");
        let mut names = Vec::new();
        for (at, (service, slots, bytes, factor, functions, moved)) in devices.into_iter().enumerate() {
            let (bytes, factor) = (bytes.max(1), factor + 0.01);
            let spec = format!(
                "class: dpu, service: {{name: {service}}}, slots: {slots}, linkBytesPerSecond: {bytes}, \
                 computeFactor: {factor}, joulesPerByte: {factor}e-9, functions: [{functions}], \
                 datasets: [{{name: t, version: '{slots}'}}], dataIsMoved: {moved}"
            );
            text += &document("Device", &format!("d{at}"), &spec);
            names.push(format!("d{at}"));
        }
        let target = format!("group: gateway.networking.k8s.io, kind: HTTPRoute, name: of-web{rule}");
        let devices = names.join(", ");
        let spec = format!("targetRefs: [{{{target}}}], function: f, devices: [{devices}]{dataset}{more}");
        text + &document("OffloadPolicy", "o", &spec)
    })
}

fn mesh() -> impl Strategy<Value = Snapshot> {
    let endpoints = vec((1u16..6, 1u32..4, proptest::option::of(any::<bool>())), 0..4);
    let standby = 0usize..4;
    let of_web = vec(rule(), 0..6).prop_flat_map(|rules| {
        let policies = (policies(!rules.is_empty()), offload());
        let routed = !rules.is_empty();
        let policies = policies.prop_map(move |(traffic, offload)| match routed {
            true => traffic + &offload,
            false => traffic,
        });
        (Just(rules), policies)
    });
    (of_web, vec(rule(), 0..3), endpoints, standby).prop_map(
        |((of_web, policies), of_a, endpoints, standby)| {
            let route = |name: &str, parent: &str, rules: &[String]| match rules {
                [] => String::new(),
                rules => common::route(&format!("name: {name}"), &rules.concat())
                    .replace("name: web}]", &format!("name: {parent}}}]")),
            };
            let text = service("web")
                + &service("a")
                + &service("b")
                + &route("of-web", "web", &of_web)
                + &route("of-a", "a", &of_a)
                + &policies;
            let mut snapshot = common::snapshot(&text);
            let web = snapshot.services.get_mut(&ServiceName::new("default", "web")).expect("it was made");
            let port = Arc::make_mut(&mut Arc::make_mut(web).ports[0]);
            for (number, weight, secure) in endpoints {
                let address = format!("10.0.0.{number}:8080").parse().expect("an address");
                if port.endpoints.iter().all(|known: &EndpointSpec| known.address != address) {
                    let secure = secure.map(|link| Secure {
                        identity: "spiffe://mesh.lighter/ns/default/sa/web".into(),
                        link: link.then(|| "10.0.0.1:15008".parse().expect("an address")),
                    });
                    // On the wire, priorities have no gap.
                    let priority = u32::from(port.endpoints.len() >= standby.max(1));
                    let region = ["", "here", "there"][usize::from(number % 3)];
                    let locality = Locality { region: region.into(), ..Locality::default() };
                    let wires = [None, Some(Wires { shm: true, rdma: weight == 1, quic: weight != 1 })]
                        [usize::from(number % 2)];
                    let spec = EndpointSpec { address, weight, priority, locality, secure, wires };
                    port.endpoints.push(spec);
                }
            }
            snapshot
        },
    )
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
