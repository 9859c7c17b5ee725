//! The configuration in force, as JSON.

use std::sync::Arc;
use std::time::Duration;

use lighter_config::sidecar::{ControlSecurity, SidecarConfig, TokenSource};
use lighter_config::snapshot::filter::{Abort, Per};
use lighter_config::snapshot::route::{Matcher, PathChange, ValueMatch};
use lighter_config::snapshot::{
    Action, Backend, HeaderChanges, LinkPolicy, Mtls, Offload, OffloadDevice, OutboundPolicy, Overload,
    PathMatch, Port, Priority, Protocol, Retry, Route, TrafficPolicy,
};
use serde_json::{Value, json};

use crate::discover::Discover;
use crate::mesh::Mesh;

/// The sidecar's own file with every default filled in, the snapshot, and how things stand with the control plane.
pub(super) fn dump(config: &SidecarConfig, mesh: &Mesh, discover: Option<&Discover>) -> Value {
    let snapshot = &mesh.config;
    let services = snapshot.services.values().map(|service| {
        json!({
            "name": service.name.to_string(),
            "virtual_ips": [service.virtual_ips.v4, service.virtual_ips.v6],
            "ports": list(&service.ports, port),
            "links": links(&service.links),
        })
    });
    json!({
        "sidecar": sidecar(config),
        "snapshot": {
            "version": &*snapshot.version,
            "outbound_policy": match snapshot.outbound_policy {
                OutboundPolicy::Passthrough => "passthrough",
                OutboundPolicy::RegistryOnly => "registryOnly",
            },
            "mtls": mtls(snapshot.mtls),
            "links": links(&snapshot.links),
            "services": services.collect::<Vec<_>>(),
            "warnings": list(&snapshot.warnings, |warning| warning.to_string().into()),
        },
        "xds": discover.map(Discover::dump),
    })
}

fn sidecar(config: &SidecarConfig) -> Value {
    json!({
        "service": config.service,
        "namespace": config.namespace,
        "workers": config.workers,
        "resources": config.resources,
        "control": config.control.as_ref().map(|control| json!({
            "address": control.address,
            "security": security(&control.security),
            "own_resources": control.own_resources,
            "state": control.state,
            "depends_on": list(&control.depends_on, |(service, port)| json!({"service": service, "port": port})),
        })),
        "listeners": list(&config.listeners, |listener| json!({
            "listen": listener.listen,
            "service": listener.service,
            "port": listener.port,
            "protocol": protocol(listener.protocol),
        })),
        "inbound": list(&config.inbound, |inbound| json!({
            "listen": inbound.listen,
            "app": inbound.app,
            "port": inbound.port,
            "protocol": protocol(inbound.protocol),
        })),
        "intercept": config.intercept.as_ref().map(|intercept| json!({
            "outbound": intercept.outbound,
            "inbound": intercept.inbound,
            "dns": intercept.dns,
            "exclude_outbound_ports": intercept.exclude_outbound_ports,
            "exclude_inbound_ports": intercept.exclude_inbound_ports,
            "exclude_cidrs": list(&intercept.exclude_cidrs, |(net, length)| format!("{net}/{length}").into()),
            "exclude_uids": intercept.exclude_uids,
            "mark": intercept.mark,
        })),
        "outbound_port": config.outbound_port,
        "inbound_port": config.inbound_port,
        "admin": config.admin,
        "probe": config.probe,
        "dns": config.dns.as_ref().map(|dns| json!({"listen": dns.listen, "upstream": dns.upstream})),
        "connect": config.connect,
        "drain_deadline_seconds": seconds(config.drain_deadline),
        "handover": config.handover,
        "access_log": config.access_log.as_ref().map(|log| json!({"json": log.json, "path": log.path})),
        "tracing": config.tracing.as_ref().map(|tracing| json!({
            "otlp": tracing.otlp,
            "sampling_percent": tracing.sampling_percent,
            "propagation": list(&tracing.propagation, |how| format!("{how:?}").to_lowercase().into()),
        })),
        "series_expire_after_seconds": seconds(config.series_expire_after),
        "detect_timeout_seconds": seconds(config.detect_timeout),
        "max_head_bytes": config.max_head_bytes,
        "max_connections": config.max_connections,
        "max_ring_bytes": config.max_ring_bytes,
        "identity": config.identity.as_ref().map(|identity| json!({
            "certificate": identity.certificate,
            "key": identity.key,
            "bundle": identity.bundle,
        })),
    })
}

fn security(security: &ControlSecurity) -> Value {
    match security {
        ControlSecurity::Plaintext => json!("plaintext"),
        ControlSecurity::Files => json!("identity"),
        ControlSecurity::Joined { token, .. } => json!({
            "join": match token {
                // A secret.
                Some(TokenSource::Said(_)) => json!("token"),
                Some(TokenSource::File(path)) => json!(path),
                None => Value::Null,
            },
        }),
    }
}

fn port(port: &Arc<Port>) -> Value {
    json!({
        "port": port.key.port,
        "name": port.name.as_deref(),
        "protocol": protocol(port.protocol),
        "target_port": port.target_port,
        "routes": list(&port.routes.routes, route),
        "tcp": {"route": &*port.tcp_route, "backends": list(&port.tcp, backend)},
        "endpoints": list(&port.endpoints, |endpoint| json!({
            "address": endpoint.address,
            "weight": endpoint.weight,
            "secure": endpoint.secure.as_ref().map(|secure| json!({
                "identity": &*secure.identity,
                "link": secure.link,
            })),
            "wires": endpoint.wires.map(|wires| wires.labels().collect::<Vec<_>>()),
        })),
        "policy": policy(&port.policy),
        "mtls": mtls(port.mtls),
        "guards": list(&port.guards, action),
    })
}

fn links(links: &LinkPolicy) -> Value {
    json!({
        "wires": {"shm": links.shm.label(), "rdma": links.rdma.label(), "quic": links.quic.label()},
        "congestion": links.congestion.label(),
        "quic_calm_seconds": seconds(links.quic_calm),
        "devices": links.devices.iter().map(|device| &**device).collect::<Vec<_>>(),
        "hot_bytes_per_second": links.hot_bytes_per_second,
        "ring_bytes": links.ring_bytes,
        "back_off_seconds": seconds(links.back_off),
        "idle_timeout_seconds": links.idle_timeout.map(seconds),
    })
}

fn mtls(mtls: Mtls) -> &'static str {
    match mtls {
        Mtls::Permissive => "permissive",
        Mtls::Strict => "strict",
    }
}

fn route(route: &Route) -> Value {
    let timeout = match route.request_timeout {
        None => json!("policy"),
        Some(None) => json!("none"),
        Some(Some(timeout)) => json!(seconds(timeout)),
    };
    json!({
        "name": &*route.name,
        "match": matcher(&route.matcher),
        "actions": list(&route.actions, action),
        "backends": list(&route.backends, backend),
        "request_timeout_seconds": timeout,
        "priority": match route.priority {
            Priority::Default => "default",
            Priority::High => "high",
        },
        "retry": route.retry.as_deref().map_or(json!("policy"), retry),
        "offload": route.offload.as_deref().map(offload),
    })
}

fn offload(offload: &Offload) -> Value {
    let device = |device: &OffloadDevice| {
        json!({
            "name": &*device.name,
            "service": device.target.to_string(),
            "has_function": device.has_function,
            "dataset_version": device.dataset.as_deref(),
        })
    };
    json!({
        "policy": &*offload.policy,
        "function": &*offload.function.name,
        "dataset": offload.dataset.as_ref().map(|dataset| format!("{}@{}", dataset.name, dataset.version)),
        "objective": offload.objective.label(),
        "slo_seconds": seconds(offload.slo),
        "try_timeout_seconds": offload.try_timeout.map(seconds),
        "devices": list(&offload.devices, device),
    })
}

fn matcher(matcher: &Matcher) -> Value {
    let path = match &matcher.path {
        PathMatch::Exact(path) => json!({"exact": &**path}),
        PathMatch::Prefix(path) if path.is_empty() => json!({"prefix": "/"}),
        PathMatch::Prefix(path) => json!({"prefix": &**path}),
        PathMatch::Starts(path) => json!({"starts": &**path}),
        PathMatch::Regex(regex) => json!({"regex": regex.as_str()}),
    };
    json!({
        "path": path,
        "method": matcher.method.as_deref(),
        "headers": list(&matcher.headers, value_match),
        "query": list(&matcher.query, value_match),
    })
}

fn value_match((name, value): &(Arc<str>, ValueMatch)) -> Value {
    match value {
        ValueMatch::Exact(value) => json!({"name": &**name, "exact": &**value}),
        ValueMatch::Regex(regex) => json!({"name": &**name, "regex": regex.as_str()}),
    }
}

fn action(action: &Action) -> Value {
    match action {
        Action::RequestHeaders(changes) => json!({"request_headers": headers(changes)}),
        Action::ResponseHeaders(changes) => json!({"response_headers": headers(changes)}),
        Action::Redirect(redirect) => json!({"redirect": {
            "scheme": redirect.scheme.as_deref(),
            "hostname": redirect.hostname.as_deref(),
            "port": redirect.port,
            "path": redirect.path.as_ref().map(path_change),
            "status": redirect.status,
        }}),
        Action::Rewrite(rewrite) => json!({"rewrite": {
            "hostname": rewrite.hostname.as_deref(),
            "path": rewrite.path.as_ref().map(path_change),
        }}),
        Action::RateLimit(limit) => json!({"rate_limit": {
            "requests": limit.requests,
            "interval_seconds": seconds(limit.interval),
            "burst": limit.burst,
            "per": per(&limit.per),
            "max_keys": limit.max_keys,
        }}),
        Action::Mirror(mirror) => {
            json!({"mirror": {"target": mirror.target.to_string(), "millionths": mirror.share.0}})
        }
        Action::SizeLimits(limits) => json!({"size_limits": {
            "max_head_bytes": limits.head,
            "max_body_bytes": limits.body,
        }}),
        Action::Fault(fault) => json!({"fault": {
            "delay": fault.delay.map(|(delay, share)| json!({"seconds": seconds(delay), "millionths": share.0})),
            "abort": fault.abort.map(|(abort, share)| match abort {
                Abort::Http(status) => json!({"http_status": status, "millionths": share.0}),
                Abort::Grpc(status) => json!({"grpc_status": status, "millionths": share.0}),
            }),
            "headers": list(&fault.headers, value_match),
        }}),
    }
}

fn per(per: &Per) -> Value {
    match per {
        Per::All => json!("all"),
        Per::Identity => json!("identity"),
        Per::Header(name) => json!({"header": &**name}),
    }
}

fn headers(changes: &HeaderChanges) -> Value {
    let pair = |(name, value): &(Arc<str>, Arc<str>)| json!({"name": &**name, "value": &**value});
    json!({
        "set": list(&changes.set, pair),
        "add": list(&changes.add, pair),
        "remove": list(&changes.remove, |name| json!(&**name)),
    })
}

fn path_change(change: &PathChange) -> Value {
    match change {
        PathChange::ReplaceFull(path) => json!({"replace_full": &**path}),
        PathChange::ReplacePrefix(path, prefix) => json!({"replace_prefix": &**path, "prefix": &**prefix}),
    }
}

fn backend(backend: &Backend) -> Value {
    json!({
        "service": backend.target.service.to_string(),
        "port": backend.target.port,
        "weight": backend.weight,
        "exists": backend.exists,
    })
}

fn policy(policy: &TrafficPolicy) -> Value {
    json!({
        "connect_timeout_seconds": seconds(policy.connect_timeout),
        "request_timeout_seconds": policy.request_timeout.map(seconds),
        "idle_timeout_seconds": policy.idle_timeout.map(seconds),
        "keep_alive_seconds": seconds(policy.keep_alive),
        "max_idle_connections": policy.max_idle_connections,
        "eject_after": policy.eject_after,
        "eject_for_seconds": seconds(policy.eject_for),
        "max_ejected_percent": policy.max_ejected_percent,
        "safe_retry": policy.safe_retry,
        "retry": retry(&policy.retry),
        "retry_budget": {
            "percent": policy.retry_budget.percent,
            "min_per_second": policy.retry_budget.min_per_second,
        },
        "overload": policy.overload.as_ref().map(overload),
    })
}

fn overload(overload: &Overload) -> Value {
    json!({
        "min_concurrency": overload.min_concurrency,
        "max_concurrency": overload.max_concurrency,
        "interval_seconds": seconds(overload.interval),
        "percentile": overload.percentile,
        "tolerance_percent": overload.tolerance_percent,
        "baseline_interval_seconds": seconds(overload.baseline_interval),
        "baseline_requests": overload.baseline_requests,
        "reserve_percent": overload.reserve_percent,
    })
}

fn retry(retry: &Retry) -> Value {
    let on = retry.on;
    json!({
        "attempts": retry.attempts,
        "on": {
            "connect_failure": on.connect_failure,
            "reset": on.reset,
            "gateway_error": on.gateway_error,
            "5xx": on.server_error,
        },
        "codes": retry.codes,
        "grpc_statuses": list(&retry.grpc, |status| json!(*status as u8)),
        "methods": retry.methods.as_ref().map(|methods| list(methods, |method| json!(&**method))),
        "per_try_timeout_seconds": retry.try_timeout.map(seconds),
        "backoff_seconds": seconds(retry.backoff),
        "backoff_max_seconds": seconds(retry.backoff_max),
        "retry_after_seconds": retry.retry_after.map(seconds),
    })
}

/// As resource files say it.
fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "auto",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tls => "tls",
        Protocol::Tcp => "tcp",
        Protocol::Redis => "redis",
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn list<T>(items: &[T], one: impl Fn(&T) -> Value) -> Value {
    items.iter().map(one).collect()
}
