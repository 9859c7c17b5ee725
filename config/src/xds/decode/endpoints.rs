//! Endpoints of clusters.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use prost_types::value::Kind;

use super::{Nack, missing, port, read};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{EndpointSpec, Locality, Secure, Wires, is_virtual};
use crate::xds::encode::{METADATA, WIRES};
use crate::xds::unknown::shapes;
use crate::xds::wire::envoy::config::core::v3 as core;
use crate::xds::wire::envoy::config::endpoint::v3 as wire;
use wire::lb_endpoint::{HealthStatus, HostIdentifier};

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadAssignment {
    /// Its name.
    pub name: Arc<str>,
    /// The endpoints that may take traffic, the first priority first.
    pub endpoints: Vec<EndpointSpec>,
}

/// A ClusterLoadAssignment. Endpoints that are neither healthy nor of unknown health are left out, as are localities
/// without a weight.
pub fn load_assignment(message: &[u8]) -> Result<LoadAssignment, Nack> {
    read(
        message,
        &shapes::ENVOY_CONFIG_ENDPOINT_V3_CLUSTERLOADASSIGNMENT,
        |assignment: &wire::ClusterLoadAssignment| &assignment.cluster_name,
        check,
    )
}

fn check(assignment: &wire::ClusterLoadAssignment, at: &At<'_>) -> Result<LoadAssignment, ConfigError> {
    let mut seen = HashSet::new();
    let mut priorities: BTreeMap<u32, Vec<(u32, Vec<EndpointSpec>)>> = BTreeMap::new();
    for (index, locality) in assignment.endpoints.iter().enumerate() {
        let at = at.field("endpoints").index(index);
        let place = locality.locality.as_ref().map(self::place).unwrap_or_default();
        let mut endpoints = Vec::new();
        for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
            let at = at.field("lb_endpoints").index(index);
            // All are checked, also those that take no traffic now.
            let spec = self::endpoint(endpoint, locality.priority, &place, &at)?;
            if !seen.insert(spec.address) {
                return Err(at.error(format!("the endpoint {} is there already", spec.address)));
            }
            let health = HealthStatus::try_from(endpoint.health_status);
            if matches!(health, Ok(HealthStatus::Unknown | HealthStatus::Healthy)) {
                endpoints.push(spec);
            }
        }
        let weight = locality.load_balancing_weight.unwrap_or_default();
        if weight > 0 && !endpoints.is_empty() {
            priorities.entry(locality.priority).or_default().push((weight, endpoints));
        }
    }
    let endpoints = priorities.into_values().flat_map(flat).collect();
    Ok(LoadAssignment { name: assignment.cluster_name.as_str().into(), endpoints })
}

/// The endpoints of one priority's localities in one list: each locality's share, split by the weights within it.
fn flat(localities: Vec<(u32, Vec<EndpointSpec>)>) -> Vec<EndpointSpec> {
    let weigh = |endpoints: &[EndpointSpec]| {
        endpoints.iter().fold(0u32, |sum, endpoint| sum.saturating_add(endpoint.weight))
    };
    let is_as_it_weighs = |(weight, endpoints): &(u32, Vec<EndpointSpec>)| *weight == weigh(endpoints);
    if localities.len() == 1 || localities.iter().all(is_as_it_weighs) {
        return localities.into_iter().flat_map(|(_, endpoints)| endpoints).collect();
    }
    let sum = |endpoints: &[EndpointSpec]| -> f64 {
        endpoints.iter().map(|endpoint| f64::from(endpoint.weight)).sum()
    };
    let share = |weight: u32, endpoints: &[EndpointSpec]| f64::from(weight) / sum(endpoints);
    let of_one = |(weight, endpoints): &(u32, Vec<EndpointSpec>)| {
        let most = endpoints.iter().map(|endpoint| endpoint.weight).max().unwrap_or(1);
        share(*weight, endpoints) * f64::from(most)
    };
    let most = localities.iter().map(of_one).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(check::MAX_WEIGHT) / most;
    let of_locality = |(weight, endpoints): (u32, Vec<EndpointSpec>)| {
        let factor = share(weight, &endpoints) * scale;
        endpoints.into_iter().map(move |endpoint| EndpointSpec {
            // Within 1 and MAX_WEIGHT by the scale, so nothing is cut off.
            weight: (f64::from(endpoint.weight) * factor).round().max(1.0) as u32,
            ..endpoint
        })
    };
    localities.into_iter().flat_map(of_locality).collect()
}

/// Whatever a server calls a place is only compared.
fn place(locality: &core::Locality) -> Locality {
    Locality {
        region: locality.region.as_str().into(),
        zone: locality.zone.as_str().into(),
        sub_zone: locality.sub_zone.as_str().into(),
    }
}

fn endpoint(
    endpoint: &wire::LbEndpoint,
    priority: u32,
    locality: &Locality,
    at: &At<'_>,
) -> Result<EndpointSpec, ConfigError> {
    let at_address = at.field("endpoint").field("address");
    let Some(HostIdentifier::Endpoint(wire::Endpoint { address: Some(address) })) = &endpoint.host_identifier
    else {
        return Err(missing(&at_address));
    };
    let Some(core::address::Address::SocketAddress(socket)) = &address.address else {
        return Err(at_address.error("not a socket address"));
    };
    let address = self::address(socket, &at_address.field("socket_address"))?;
    let weight = endpoint.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        let error = at.field("load_balancing_weight").error("an endpoint's weight is at least 1");
        return Err(error.hint("to send an endpoint nothing, leave it out"));
    }
    let secure = self::secure(endpoint.metadata.as_ref(), &at.field("metadata"))?;
    let wires = wires(endpoint.metadata.as_ref());
    Ok(EndpointSpec { address, weight, priority, locality: locality.clone(), secure, wires })
}

fn address(socket: &core::SocketAddress, at: &At<'_>) -> Result<SocketAddr, ConfigError> {
    use core::socket_address::{PortSpecifier, Protocol};
    if socket.protocol != i32::from(Protocol::Tcp) {
        return Err(at.field("protocol").error("not TCP"));
    }
    let at_ip = at.field("address");
    let Ok(ip) = socket.address.parse::<IpAddr>() else {
        let error = at_ip.error(format!("`{}` is not an IP address", socket.address.escape_debug()));
        return Err(error.hint("host names are not resolved"));
    };
    if ip.is_unspecified() || ip.is_multicast() || is_virtual(ip) {
        let error = at_ip.error(format!("{ip} cannot be an endpoint"));
        return Err(error.hint("an endpoint is one host, and not one of Lighter's own virtual addresses"));
    }
    let at_port = at.field("port_value");
    match socket.port_specifier {
        Some(PortSpecifier::PortValue(number)) => Ok(SocketAddr::new(ip, port(number, &at_port)?)),
        _ => Err(missing(&at_port)),
    }
}

/// What links with its sidecar can go over. What is not known there is another's affair.
fn wires(metadata: Option<&core::Metadata>) -> Option<Wires> {
    let ours = metadata?.filter_metadata.get(WIRES)?;
    let has = ours.fields.iter().filter(|(_, value)| value.kind == Some(Kind::BoolValue(true)));
    Some(Wires::of(has.map(|(label, _)| label.as_str())))
}

/// Who the endpoint must prove to be. What is not known there is refused: it might ask for more.
fn secure(metadata: Option<&core::Metadata>, at: &At<'_>) -> Result<Option<Secure>, ConfigError> {
    let Some(ours) = metadata.and_then(|metadata| metadata.filter_metadata.get(METADATA)) else {
        return Ok(None);
    };
    let at = at.field("filter_metadata").field(METADATA);
    let (mut identity, mut link) = (None, None);
    for (name, value) in &ours.fields {
        let at = at.field(name);
        let Some(Kind::StringValue(text)) = &value.kind else {
            return Err(at.error("not a text"));
        };
        match name.as_str() {
            "identity" => {
                check::spiffe_id(&at, text)?;
                identity = Some(Arc::from(text.as_str()));
            }
            "link" => link = Some(check::socket_address(&at, text)?),
            _ => {
                let error = at.error("not known");
                return Err(
                    error.hint("`identity` and `link` are; this sidecar may be older than the server")
                );
            }
        }
    }
    let identity = identity.ok_or_else(|| missing(&at.field("identity")))?;
    Ok(Some(Secure { identity, link }))
}
