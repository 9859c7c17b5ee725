//! From messages of any server to checked types. Whatever the bytes are, they are taken or refused by a [`Nack`] that
//! names resource and field; nothing that would narrow or redirect traffic is passed over.

use std::fmt;
use std::sync::Arc;

use prost::Message;
use prost_types::Any;
use serde_json::Value;

use super::client::{self, Decoded, Key, Refusal};
use super::facts::{Address, Workload};
use super::unknown::{self, Shape};
use super::wire::envoy::config::core::v3 as core;
use super::{Kind, names};
use crate::build::check;
use crate::document::{At, Document};
use crate::error::ConfigError;
use crate::snapshot::Service;

mod action;
mod assemble;
mod balancing;
mod cluster;
mod endpoints;
mod filter;
mod health;
mod join;
mod listener;
mod load_report;
mod matching;
mod offload;
mod outliers;
mod overload;
mod retry;
mod route;
mod service;
mod session;
mod state;
#[cfg(test)]
mod tests;
mod workload;

pub use assemble::assemble;
pub use cluster::{Cluster, cluster};
pub use endpoints::{LoadAssignment, load_assignment};
pub use listener::{Listener, RouteSource, listener};
pub use route::{RouteConfiguration, VirtualHost, route_configuration};
pub use service::{address, service};
pub use workload::workload;

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The resource's name; empty if that could not be read.
    pub resource: String,
    /// The field, as `virtual_hosts[0].routes[1].match`; empty: the whole message.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<String>,
}

impl fmt::Display for Nack {
    /// `field: message (hint)`. The resource is named by whoever lists them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Nack {}

/// A resource of any kind, checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A target that can be dialled.
    Listener(Listener),
    /// Where requests go.
    Route(RouteConfiguration),
    /// A group of endpoints.
    Cluster(Cluster),
    /// The endpoints.
    Endpoints(LoadAssignment),
    /// A Service, of which routes and endpoints come on their own: it has the table of a Service without a route.
    Service(Arc<Service>),
    /// What an address or a name means.
    Address(Address),
    /// What this workload enforces.
    Workload(Workload),
}

/// A message of `kind`, checked.
pub fn resource(kind: Kind, message: &[u8]) -> Result<Resource, Nack> {
    match kind {
        Kind::Listener => listener(message).map(Resource::Listener),
        Kind::Route => route_configuration(message).map(Resource::Route),
        Kind::Cluster => cluster(message).map(Resource::Cluster),
        Kind::Endpoints => load_assignment(message).map(Resource::Endpoints),
        Kind::Service => service(message).map(|service| Resource::Service(Arc::new(service))),
        Kind::Address => address(message).map(Resource::Address),
        Kind::Workload => workload(message).map(Resource::Workload),
    }
}

impl Resource {
    /// Its name on the wire.
    pub fn name(&self) -> Arc<str> {
        match self {
            Resource::Listener(listener) => listener.name.clone(),
            Resource::Route(route) => route.name.clone(),
            Resource::Cluster(cluster) => cluster.name.clone(),
            Resource::Endpoints(assignment) => assignment.name.clone(),
            Resource::Service(service) => service.name.to_string().into(),
            Resource::Address(address) => address.key.to_string().into(),
            Resource::Workload(workload) => workload.key.clone(),
        }
    }

    /// What it cannot be used without. With `own`, the server has Lighter's own resources: then a Service comes with
    /// its routes, and a cluster with the policy of its Service.
    pub fn needs(&self, own: bool) -> Vec<Key> {
        let key = |kind: Kind, name: &str| Key { kind, name: name.into() };
        let clusters = |names: Vec<Arc<str>>| -> Vec<Key> {
            names.iter().map(|name| key(Kind::Cluster, name)).collect()
        };
        match self {
            Resource::Listener(listener) => match &listener.routes {
                RouteSource::Named(name) => vec![key(Kind::Route, name)],
                RouteSource::Inline(routes) => clusters(routes.clusters()),
            },
            Resource::Route(routes) => clusters(routes.clusters()),
            Resource::Cluster(cluster) => {
                let service = names::of_port(&cluster.name).filter(|_| own);
                let service = service.map(|port| key(Kind::Service, &port.service.to_string()));
                let endpoints = key(Kind::Endpoints, &cluster.endpoints);
                [Some(endpoints), service].into_iter().flatten().collect()
            }
            Resource::Service(service) => {
                let of_port = |port: &Arc<crate::snapshot::Port>| {
                    let own = port.key.to_string();
                    let tcp = port.tcp.iter().map(|backend| names::cluster(&backend.target));
                    let mut needs = vec![key(Kind::Route, &own), key(Kind::Cluster, &own)];
                    needs.extend(tcp.filter(|name| *name != own).map(|name| key(Kind::Cluster, &name)));
                    needs
                };
                service.ports.iter().flat_map(of_port).collect()
            }
            Resource::Endpoints(_) | Resource::Address(_) | Resource::Workload(_) => Vec::new(),
        }
    }
}

/// Reads resources for a [`client::Client`].
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// Whether the server has Lighter's own resources.
    pub own: bool,
}

impl client::Codec for Codec {
    type Resource = Resource;

    fn decode(&self, kind: Kind, message: &[u8]) -> Result<Decoded<Resource>, Refusal> {
        let resource = resource(kind, message).map_err(|nack| Refusal {
            name: (!nack.resource.is_empty()).then(|| nack.resource.as_str().into()),
            reason: nack.to_string(),
        })?;
        let (name, needs) = (resource.name(), resource.needs(self.own));
        // An address leads to its Service.
        let leads = match &resource {
            Resource::Address(Address { found: Some(found), .. }) => {
                vec![Key { kind: Kind::Service, name: found.service.to_string().into() }]
            }
            _ => Vec::new(),
        };
        Ok(Decoded { name, resource, needs, leads })
    }
}

/// Decodes a message, checks that none of its fields is overlooked that must not be, and reads it by `check`.
fn read<M: Message + Default, T>(
    bytes: &[u8],
    shape: &'static Shape,
    name: impl Fn(&M) -> &str,
    check: impl FnOnce(&M, &At<'_>) -> Result<T, ConfigError>,
) -> Result<T, Nack> {
    let nack = |resource: &str, field: String, message: String, hint: Option<String>| Nack {
        resource: resource.to_string(),
        field,
        message,
        hint,
    };
    let message =
        M::decode(bytes).map_err(|error| nack("", String::new(), format!("no message: {error}"), None))?;
    let resource = name(&message);
    if resource.is_empty() {
        return Err(nack("", "name".to_string(), "a resource has a name".to_string(), None));
    }
    unknown::check(bytes, shape).map_err(|error| {
        let hint = "what it says must not be overlooked; this sidecar may be older than the server";
        nack(resource, error.path.clone(), error.to_string(), Some(hint.to_string()))
    })?;
    let document = Document::of_value(&Arc::from("xds"), Value::Null);
    check(&message, &document.root()).map_err(|error| nack(resource, error.path, error.message, error.hint))
}

/// Decodes what lies in an `Any`.
fn open<M: Message + Default>(any: Option<&Any>, url: &str, at: &At<'_>) -> Result<M, ConfigError> {
    let any = any.ok_or_else(|| missing(at))?;
    if any.type_url != url {
        let error = at.error(format!("`{}` is not supported", any.type_url.escape_debug()));
        return Err(error.hint(format!("expected {url}")));
    }
    M::decode(&*any.value).map_err(|error| at.error(format!("no message: {error}")))
}

/// Only this stream is a source of resources.
fn source(source: Option<&core::ConfigSource>, at: &At<'_>) -> Result<(), ConfigError> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(_) => Ok(()),
        None => Err(at.error("not a source that is supported").hint("write `ads` or `self`")),
    }
}

fn missing(at: &At<'_>) -> ConfigError {
    at.error("missing")
}

fn unsupported(at: &At<'_>, hint: &str) -> ConfigError {
    at.error("not supported").hint(hint)
}

/// A duration; none may be negative.
fn duration(duration: &prost_types::Duration, at: &At<'_>) -> Result<std::time::Duration, ConfigError> {
    let (seconds, nanos) = (u64::try_from(duration.seconds), u32::try_from(duration.nanos));
    match (seconds, nanos) {
        (Ok(seconds @ ..=MOST_SECONDS), Ok(nanos @ ..1_000_000_000)) => {
            Ok(std::time::Duration::new(seconds, nanos))
        }
        _ => Err(at.error("not a duration").hint("not negative, and at most ten thousand years")),
    }
}

/// The longest duration there is by the type's definition.
const MOST_SECONDS: u64 = 315_576_000_000;

/// A port that can be connected to.
fn port(number: u32, at: &At<'_>) -> Result<u16, ConfigError> {
    let port = u16::try_from(number)
        .map_err(|_| at.error(format!("{number} is not a port")).hint("ports are from 1 to 65535"))?;
    check::port(at, port)
}
