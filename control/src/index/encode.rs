//! One resource, from the contents of the index.

use std::net::SocketAddr;

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::Service;
use lighter_config::xds::facts::{Found, InboundPort, Workload};
use lighter_config::xds::names::{self, AddressKey};
use lighter_config::xds::{Kind, encode};
use prost::Message;

use super::Contents;
use super::touched::listeners;

/// A resource that was made.
pub(super) struct Made {
    /// Its bytes.
    pub(super) message: Vec<u8>,
    /// Whether it is one of those that the mesh has, and not made for a name that a client made up.
    pub(super) keep: bool,
}

/// The resource of this name, if there is one.
pub(super) fn resource(contents: &Contents, trust_domain: &str, kind: Kind, name: &str) -> Option<Made> {
    let port = |name| contents.port(&names::of_port(name)?);
    match kind {
        Kind::Listener => {
            let port = contents.port(&names::of_listener(name)?)?;
            // Whatever else may mean the port is not one of its names.
            let is_its = listeners(&port.key).iter().any(|of_port| of_port == name);
            is_its.then(|| made(&encode::listener(port, name)))
        }
        Kind::Route => Some(made(&encode::route_configuration(port(name)?))),
        Kind::Cluster => Some(made(&encode::cluster(port(name)?))),
        Kind::Endpoints => {
            let port = port(name)?;
            Some(made(&encode::load_assignment(port, &contents.endpoints(port))))
        }
        Kind::Service => {
            let service = contents.service(&names::of_service(name)?)?;
            Some(made(&encode::service(service)))
        }
        Kind::Address => {
            let key = AddressKey::parse(name).filter(|key| key.to_string() == name)?;
            let found = found(contents, &key);
            // Always answered: somebody waits to know that it is nobody's.
            Some(Made {
                message: encode::address(&key, found.as_ref()).encode_to_vec(),
                keep: found.is_some(),
            })
        }
        Kind::Workload => {
            let message = encode::workload(&workload(contents, trust_domain, name)?).encode_to_vec();
            let keep = names::of_service(name).is_some_and(|name| contents.service(&name).is_some());
            Some(Made { message, keep })
        }
    }
}

fn made(message: &impl Message) -> Made {
    Made { message: message.encode_to_vec(), keep: true }
}

fn found(contents: &Contents, key: &AddressKey) -> Option<Found> {
    let of = |service: &Service, port: u16, endpoint: bool| Found {
        service: service.name.clone(),
        port,
        virtual_ips: service.virtual_ips,
        endpoint,
    };
    match key {
        AddressKey::Name(name) => contents.service(name).map(|service| of(service, 0, false)),
        AddressKey::Socket(address) => {
            if let Some(ServicePort { service, port }) = at_virtual_ip(contents, *address) {
                return contents.service(&service).map(|service| of(service, port, false));
            }
            let port = contents.addresses.of_endpoint(*address)?;
            contents.port(port)?;
            contents.service(&port.service).map(|service| of(service, port.port, true))
        }
    }
}

fn at_virtual_ip(contents: &Contents, address: SocketAddr) -> Option<ServicePort> {
    let service = contents.addresses.of_virtual_ip(address.ip())?;
    let key = ServicePort { service: service.clone(), port: address.port() };
    contents.port(&key).map(|port| port.key.clone())
}

/// What the sidecars of a Service enforce, or of pure callers (`-/NAMESPACE`).
fn workload(contents: &Contents, trust_domain: &str, name: &str) -> Option<Workload> {
    let ports = match name.strip_prefix("-/") {
        // Only what is a proper name of a namespace.
        Some(namespace) => names::of_service(&format!("{namespace}/x")).map(|_| Vec::new())?,
        None => inbound_ports(contents, &names::of_service(name)?),
    };
    let others = InboundPort { port: 0, mtls: contents.snapshot.mtls, authorization: Default::default() };
    Some(Workload {
        key: name.into(),
        trust_domain: trust_domain.into(),
        outbound_policy: contents.snapshot.outbound_policy,
        links: contents.snapshot.links.clone(),
        ports: ports.into_iter().chain([others]).collect(),
    })
}

/// The ports of a Service. One that is not there yet has none, and what holds for every other port holds for it.
fn inbound_ports(contents: &Contents, name: &ServiceName) -> Vec<InboundPort> {
    let ports = contents.service(name).map(|service| service.ports.as_slice()).unwrap_or_default();
    let inbound = ports.iter().map(|port| InboundPort {
        port: port.key.port,
        mtls: port.mtls,
        authorization: contents.snapshot.authorization.get(&port.key).cloned().unwrap_or_default(),
    });
    inbound.collect()
}
