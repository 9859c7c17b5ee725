//! Meshes at random, with nearly all that can be said of requests.

use std::sync::Arc;

use lighter_config::name::ServiceName;
use lighter_config::snapshot::{EndpointSpec, Locality, Secure, Snapshot, Wires};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::generate::{Match, one_match};
use crate::common::{self, service};

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

/// A mesh of three Services, of which `web` has endpoints, and what is said of it.
pub(crate) fn mesh() -> impl Strategy<Value = Snapshot> {
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
