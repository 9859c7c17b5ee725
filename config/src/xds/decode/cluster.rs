//! Clusters: groups of endpoints.

use std::sync::Arc;
use std::time::Duration;

use super::{Nack, balancing, duration, read, retry, source, unsupported};
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{Balancing, RetryBudget};
use crate::xds::unknown::shapes;
use crate::xds::wire::envoy::config::cluster::v3 as wire;
use wire::cluster::{ClusterDiscoveryType, DiscoveryType};

/// A group of endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// The name of its ClusterLoadAssignment.
    pub endpoints: Arc<str>,
    /// Longest wait for a connection. None: not said.
    pub connect_timeout: Option<Duration>,
    /// How much may be tried again. None: not said.
    pub retry_budget: Option<RetryBudget>,
    /// How one of them is chosen, by what its routes hash.
    pub balancing: Balancing,
}

/// A Cluster of the gRPC profile: of type EDS, over the same stream, in plain text as far as the server says.
pub fn cluster(message: &[u8]) -> Result<Cluster, Nack> {
    read(message, &shapes::ENVOY_CONFIG_CLUSTER_V3_CLUSTER, |cluster: &wire::Cluster| &cluster.name, check)
}

fn check(cluster: &wire::Cluster, at: &At<'_>) -> Result<Cluster, ConfigError> {
    let is_eds = match cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => kind == i32::from(DiscoveryType::Eds),
        _ => false,
    };
    if !is_eds {
        return Err(unsupported(&at.field("type"), "clusters are of type `EDS`"));
    }
    let at_eds = at.field("eds_cluster_config");
    let eds = cluster.eds_cluster_config.as_ref();
    source(eds.and_then(|eds| eds.eds_config.as_ref()), &at_eds.field("eds_config"))?;
    let endpoints = eds.map(|eds| &*eds.service_name).filter(|name| !name.is_empty());
    transport(cluster, at)?;
    let balancing = balancing::of_cluster(cluster, at)?;
    let at_timeout = at.field("connect_timeout");
    let connect_timeout =
        cluster.connect_timeout.as_ref().map(|limit| duration(limit, &at_timeout)).transpose()?;
    if connect_timeout.is_some_and(|limit| limit.is_zero()) {
        return Err(at_timeout.error("a connection cannot be made in no time"));
    }
    let breakers = cluster.circuit_breakers.as_ref();
    let retry_budget = breakers.map(|breakers| retry::budget(breakers, &at.field("circuit_breakers")));
    Ok(Cluster {
        name: cluster.name.as_str().into(),
        endpoints: endpoints.unwrap_or(&cluster.name).into(),
        connect_timeout,
        retry_budget: retry_budget.transpose()?.flatten(),
        balancing,
    })
}

/// Whom an endpoint must prove to be is said by its own metadata. A transport that would ask for less, or for something
/// else, is not overlooked.
fn transport(cluster: &wire::Cluster, at: &At<'_>) -> Result<(), ConfigError> {
    let hint = "who an endpoint must prove to be is said by its metadata, under `lighter`";
    if !cluster.transport_socket_matches.is_empty() {
        return Err(unsupported(&at.field("transport_socket_matches"), hint));
    }
    let is_plain = |url: &str| url.ends_with("/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer");
    match &cluster.transport_socket {
        Some(socket) if !socket.typed_config.as_ref().is_some_and(|any| is_plain(&any.type_url)) => {
            Err(unsupported(&at.field("transport_socket"), hint))
        }
        _ => Ok(()),
    }
}
