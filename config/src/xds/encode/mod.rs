//! From a snapshot to messages. Equal input gives equal bytes, so that versions can be hashes of them.
//!
//! What grpcio 1.85 asks for decides the form: a Listener has at least one HTTP filter, Clusters are of type EDS, a path
//! is matched by `prefix`, `path` or `safe_regex` only, localities have a weight.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Any, Struct, Value};

use super::names::AddressKey;
use super::wire::envoy::config::{
    cluster::v3 as cluster, core::v3 as core, endpoint::v3 as endpoint, listener::v3 as listener,
};
use super::wire::envoy::extensions::filters::http::router::v3::Router;
use super::wire::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use super::wire::lighter::config::v1 as lighter;
use super::{facts, type_url};
use crate::snapshot::{self, EndpointSpec, Port, Secure, Service, VirtualIps, Wires};

mod balancing;
mod filter;
mod health;
mod load_report;
mod offload;
mod outliers;
mod overload;
pub(in crate::xds) mod retry;
mod route;
mod session;
mod state;
mod workload;

pub(super) use offload::OFFLOAD;
pub(super) use route::WHOLE_PATH;
pub use route::route_configuration;
pub use workload::workload;

/// Metadata of an endpoint that is Lighter's.
pub(super) const METADATA: &str = "lighter";

/// Metadata that says what links with an endpoint's sidecar can go over. Apart from the other, in which nothing may be that
/// is not known.
pub(super) const WIRES: &str = "lighter.wires";

/// `message` as it lies in an answer.
pub fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_string(), value: message.encode_to_vec() }
}

/// The Listener of a port under one of its names (see [`listeners`](super::names::listeners)).
pub fn listener(port: &Port, alias: &str) -> listener::Listener {
    let name = port.key.to_string();
    let limit = |limit: Duration| manager::HttpProtocolOptions { max_stream_duration: Some(duration(limit)) };
    let router = manager::HttpFilter {
        name: "envoy.filters.http.router".to_string(),
        typed_config: Some(any(type_url::ROUTER, &Router {})),
        ..Default::default()
    };
    let rds = manager::Rds { config_source: Some(ads()), route_config_name: name.clone() };
    let manager = manager::HttpConnectionManager {
        stat_prefix: name,
        route_specifier: Some(manager::http_connection_manager::RouteSpecifier::Rds(rds)),
        http_filters: vec![router],
        // What gRPC clients know of the port's policy.
        common_http_protocol_options: port.policy.request_timeout.map(limit),
    };
    let api = listener::ApiListener { api_listener: Some(any(type_url::HTTP_CONNECTION_MANAGER, &manager)) };
    listener::Listener { name: alias.to_string(), filter_chains: Vec::new(), api_listener: Some(api) }
}

/// The Cluster of a port.
pub fn cluster(port: &Port) -> cluster::Cluster {
    let mut cluster = cluster::Cluster {
        name: port.key.to_string(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        connect_timeout: Some(duration(port.policy.connect_timeout)),
        circuit_breakers: retry::budget(&port.policy.retry_budget),
        ..Default::default()
    };
    balancing::fill_in(&port.policy.balancing, &mut cluster);
    cluster
}

/// The endpoints of a port: `endpoints`, which may be more than those of its resource.
///
/// They are sorted, so that the order in which they came to be known changes nothing. Priorities on the wire have no gap
/// (gRPC A27 refuses one): each is the number of those before it that somebody has.
pub fn load_assignment(port: &Port, endpoints: &[EndpointSpec]) -> endpoint::ClusterLoadAssignment {
    let mut sorted: Vec<&EndpointSpec> = endpoints.iter().collect();
    sorted.sort_by_key(|&endpoint| (endpoint.priority, &endpoint.locality, endpoint.address));
    let alike = sorted.chunk_by(|one, next| one.priority == next.priority);
    let localities = alike.zip(0..).flat_map(|(alike, priority)| {
        let places: Vec<&[&EndpointSpec]> =
            alike.chunk_by(|one, next| one.locality == next.locality).collect();
        let is_alone = places.len() == 1;
        places.into_iter().map(move |endpoints| {
            // As much as its endpoints weigh together, so that each gets what it would get without a locality.
            let weigh = || endpoints.iter().fold(0u32, |sum, endpoint| sum.saturating_add(endpoint.weight));
            endpoint::LocalityLbEndpoints {
                locality: Some(locality(&endpoints[0].locality)),
                lb_endpoints: endpoints.iter().copied().map(lb_endpoint).collect(),
                load_balancing_weight: Some(if is_alone { 1 } else { weigh() }),
                priority,
            }
        })
    });
    endpoint::ClusterLoadAssignment { cluster_name: port.key.to_string(), endpoints: localities.collect() }
}

/// What the gRPC profile cannot say of a Service.
pub fn service(service: &Service) -> lighter::Service {
    let VirtualIps { v4, v6 } = service.virtual_ips;
    lighter::Service {
        name: service.name.to_string(),
        virtual_v4: v4.to_string(),
        virtual_v6: v6.to_string(),
        ports: service.ports.iter().map(|port| self::port(port)).collect(),
        links: Some(links(&service.links)),
        state: service.state.as_deref().map(state::state),
    }
}

fn links(links: &snapshot::LinkPolicy) -> lighter::LinkPolicy {
    lighter::LinkPolicy {
        shm: links.shm.label().to_string(),
        hot_bytes_per_second: links.hot_bytes_per_second,
        ring_bytes: links.ring_bytes,
        back_off_ms: millis(links.back_off),
        idle_timeout_ms: links.idle_timeout.map(millis),
        rdma: links.rdma.label().to_string(),
        devices: links.devices.iter().map(|device| device.to_string()).collect(),
        quic: links.quic.label().to_string(),
        congestion: links.congestion.label().to_string(),
        quic_calm_ms: Some(millis(links.quic_calm)),
    }
}

/// What `key` means; none: it is of no Service.
pub fn address(key: &AddressKey, found: Option<&facts::Found>) -> lighter::Address {
    let key = key.to_string();
    let Some(found) = found else { return lighter::Address { key, ..Default::default() } };
    lighter::Address {
        key,
        service: found.service.to_string(),
        port: found.port.into(),
        virtual_v4: found.virtual_ips.v4.to_string(),
        virtual_v6: found.virtual_ips.v6.to_string(),
        endpoint: found.endpoint,
    }
}

fn port(port: &Port) -> lighter::Port {
    let backend = |backend: &snapshot::Backend| lighter::Backend {
        service: backend.target.service.to_string(),
        port: backend.target.port.into(),
        weight: backend.weight,
    };
    let policy = &port.policy;
    lighter::Port {
        port: port.key.port.into(),
        name: port.name.as_deref().unwrap_or_default().to_string(),
        protocol: protocol(port.protocol).to_string(),
        target_port: port.target_port.into(),
        tcp: port.tcp.iter().map(backend).collect(),
        tcp_route: port.tcp_route.to_string(),
        policy: Some(lighter::TrafficPolicy {
            connect_timeout_ms: millis(policy.connect_timeout),
            request_timeout_ms: policy.request_timeout.map(millis),
            idle_timeout_ms: policy.idle_timeout.map(millis),
            keep_alive_ms: millis(policy.keep_alive),
            max_idle_connections: policy.max_idle_connections,
            eject_after: policy.eject_after,
            eject_for_ms: millis(policy.eject_for),
            max_ejected_percent: policy.max_ejected_percent.into(),
            safe_retry: policy.safe_retry,
            retry: (policy.retry != snapshot::Retry::default()).then(|| retry::policy(&policy.retry)),
            retry_budget: Some(lighter::RetryBudget {
                percent: policy.retry_budget.percent.into(),
                min_per_second: policy.retry_budget.min_per_second,
            }),
            balancing: Some(balancing::own(&policy.balancing)),
            outliers: Some(outliers::outliers(&policy.outliers)),
            circuit: Some(outliers::circuit(&policy.circuit)),
            health_check: policy.health_check.as_deref().map(health::check),
            nearness: policy.nearness.as_ref().map(health::nearness),
            overload: policy.overload.as_ref().map(overload::overload),
        }),
        guards: (!port.guards.is_empty()).then(|| filter::guards(&port.guards)),
    }
}

fn protocol(protocol: snapshot::Protocol) -> &'static str {
    match protocol {
        snapshot::Protocol::Auto => "auto",
        snapshot::Protocol::Http => "http",
        snapshot::Protocol::Http2 => "http2",
        snapshot::Protocol::Grpc => "grpc",
        snapshot::Protocol::Tls => "tls",
        snapshot::Protocol::Tcp => "tcp",
        snapshot::Protocol::Redis => "redis",
    }
}

fn locality(locality: &snapshot::Locality) -> core::Locality {
    core::Locality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        sub_zone: locality.sub_zone.to_string(),
    }
}

fn lb_endpoint(spec: &EndpointSpec) -> endpoint::LbEndpoint {
    let socket = core::SocketAddress {
        protocol: core::socket_address::Protocol::Tcp.into(),
        address: spec.address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(spec.address.port().into())),
    };
    let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
        })),
        health_status: endpoint::lb_endpoint::HealthStatus::Healthy.into(),
        metadata: metadata(spec),
        load_balancing_weight: Some(spec.weight),
    }
}

fn metadata(spec: &EndpointSpec) -> Option<core::Metadata> {
    let secure = spec.secure.as_ref().map(|secure| (METADATA.to_string(), self::secure(secure)));
    let wires = spec.wires.map(|wires| (WIRES.to_string(), self::wires(wires)));
    let filter_metadata: BTreeMap<_, _> = secure.into_iter().chain(wires).collect();
    (!filter_metadata.is_empty()).then_some(core::Metadata { filter_metadata })
}

/// Each that is there, as a field of its own: whoever does not know one takes no notice.
fn wires(wires: Wires) -> Struct {
    let has = || Value { kind: Some(Kind::BoolValue(true)) };
    Struct { fields: wires.labels().map(|label| (label.to_string(), has())).collect() }
}

fn secure(secure: &Secure) -> Struct {
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let mut fields = vec![("identity".to_string(), text(secure.identity.to_string()))];
    let link = |link: SocketAddr| ("link".to_string(), text(link.to_string()));
    fields.extend(secure.link.map(link));
    Struct { fields: fields.into_iter().collect() }
}

/// Resources come over the stream that this one came over.
fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        resource_api_version: core::ApiVersion::V3.into(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Longer than ten thousand years is as long as that: more than the type holds by its definition.
fn duration(duration: Duration) -> prost_types::Duration {
    const MOST: u64 = 315_576_000_000;
    let seconds = duration.as_secs().min(MOST);
    // Below 10^9, so these cannot fail.
    prost_types::Duration {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}
