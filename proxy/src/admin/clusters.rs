//! Endpoints, routes, links and rules with what was counted for them.

use std::fmt::Write;
use std::time::Instant;

use lighter_config::xds::wire::lighter::registry::v1 as wire;
use serde_json::{Map, Value, json};

use crate::balance::outlier::State;
use crate::balance::{Cluster, Endpoint};
use crate::intercept::RuleCounter;
use crate::mesh::Mesh;
use crate::telemetry::histogram::{Reading, SECONDS};
use crate::telemetry::{RouteMetrics, class_label, routes as all_routes};

/// Every endpoint, as lines of text.
pub(super) fn text(mesh: &Mesh) -> String {
    let now = Instant::now();
    let mut text = String::new();
    for cluster in clusters(mesh) {
        let _ = writeln!(text, "{}", cluster.key);
        for (index, endpoint) in cluster.endpoints().iter().enumerate() {
            let counts = endpoint.metrics.read();
            let _ = writeln!(
                text,
                "  {} {} priority {} weight {} in_flight {} latency {:?} requests {} failures {} connects {} \
                 connect_failures {} ejections {}",
                endpoint.address,
                health(endpoint, now),
                cluster.priority(index),
                cluster.weight(index),
                endpoint.in_flight(),
                endpoint.latency(now),
                counts.requests,
                counts.failures,
                counts.connects,
                counts.connect_failures,
                counts.ejections,
            );
        }
        if cluster.endpoints().is_empty() {
            text.push_str("  no endpoint\n");
        }
    }
    text
}

/// Every endpoint, as JSON.
pub(super) fn json(mesh: &Mesh) -> Value {
    let now = Instant::now();
    let clusters = clusters(mesh).into_iter().map(|cluster| {
        let endpoints = cluster.endpoints().iter().enumerate().map(|(index, endpoint)| {
            let counts = endpoint.metrics.read();
            json!({
                "address": endpoint.address.to_string(),
                "health": health(endpoint, now),
                "priority": cluster.priority(index),
                "weight": cluster.weight(index),
                "in_flight": endpoint.in_flight(),
                "latency_ewma_seconds": endpoint.latency(now).as_secs_f64(),
                "requests": counts.requests,
                "failures": counts.failures,
                "connects": counts.connects,
                "connect_failures": counts.connect_failures,
                "ejections": counts.ejections,
            })
        });
        json!({
            "service": cluster.key.service.to_string(),
            "port": cluster.key.port,
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    });
    json!({ "clusters": clusters.collect::<Vec<_>>() })
}

/// Links, as they are reported.
pub(super) fn links(links: &[wire::Link]) -> Value {
    let one = |link: &wire::Link| {
        let bytes = |bytes: &wire::LinkBytes| {
            (bytes.wire.clone(), json!({"sent": bytes.sent, "received": bytes.received}))
        };
        json!({
            "identity": link.identity,
            "address": link.address,
            "opened": link.opened,
            "streams": link.streams,
            "generation": link.generation,
            "sends_over": link.sends_over,
            "receives_over": link.receives_over,
            "bytes": link.bytes.iter().map(bytes).collect::<Map<_, _>>(),
        })
    };
    json!({ "links": links.iter().map(one).collect::<Vec<_>>() })
}

/// Every route that something was counted for.
pub(super) fn routes() -> Value {
    let routes = all_routes();
    json!({ "routes": routes.iter().filter_map(|route| one_route(route)).collect::<Vec<_>>() })
}

/// The redirecting rules.
pub(super) fn rules(rules: &[RuleCounter]) -> Value {
    let rules =
        rules.iter().map(|rule| json!({"rule": rule.rule, "packets": rule.packets, "bytes": rule.bytes}));
    json!({ "rules": rules.collect::<Vec<_>>() })
}

fn clusters(mesh: &Mesh) -> Vec<&Cluster> {
    let mut clusters: Vec<_> = mesh.destinations().map(|destination| &*destination.cluster).collect();
    clusters.sort_by(|one, other| one.key.cmp(&other.key));
    clusters
}

fn health(endpoint: &Endpoint, now: Instant) -> &'static str {
    match endpoint.state(now) {
        State::InService => "in_service",
        State::Ejected => "ejected",
        State::HalfOpen => "half_open",
    }
}

fn one_route(route: &RouteMetrics) -> Option<Value> {
    let reading = route.read();
    if reading.ended + reading.open == 0 {
        return None;
    }
    let classes = (0..reading.by_class.len()).filter(|class| reading.by_class[*class] > 0).map(|class| {
        let label = match class_label(class) {
            "" => "none",
            label => label,
        };
        (label.to_owned(), reading.by_class[class].into())
    });
    let causes = reading.by_cause.iter().map(|(cause, count)| (cause.label().to_owned(), (*count).into()));
    Some(json!({
        "direction": route.direction.label(),
        "service": route.key.service.to_string(),
        "port": route.key.port,
        "route": &*route.route,
        "ended": reading.ended,
        "open": reading.open,
        "code_classes": classes.collect::<Map<_, Value>>(),
        "causes": causes.collect::<Map<_, Value>>(),
        "retries": reading.retries,
        "bytes_in": reading.bytes_in,
        "bytes_out": reading.bytes_out,
        "latency_seconds": quantiles(&reading.latency),
        "duration_seconds": quantiles(&reading.duration),
    }))
}

fn quantiles(reading: &Reading) -> Value {
    let seconds = |nanos: u64| nanos as f64 / SECONDS.per_unit as f64;
    let count = reading.count();
    let mean = if count == 0 { 0.0 } else { seconds(reading.sum) / count as f64 };
    json!({
        "count": count,
        "mean": mean,
        "p50": seconds(reading.quantile(&SECONDS, 0.5)),
        "p90": seconds(reading.quantile(&SECONDS, 0.9)),
        "p99": seconds(reading.quantile(&SECONDS, 0.99)),
    })
}
