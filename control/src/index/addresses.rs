//! What an address leads to.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::{EndpointSpec, Service};

/// Virtual addresses and endpoints, back to what has them.
#[derive(Default)]
pub(super) struct Addresses {
    virtual_ips: HashMap<IpAddr, ServiceName>,
    /// Endpoints of resources. Several ports may share one.
    configured: HashMap<SocketAddr, BTreeSet<ServicePort>>,
    registered: HashMap<SocketAddr, BTreeSet<ServicePort>>,
}

impl Addresses {
    /// The Service that has this virtual address.
    pub(super) fn of_virtual_ip(&self, ip: IpAddr) -> Option<&ServiceName> {
        self.virtual_ips.get(&ip)
    }

    /// The port that has this endpoint; of several the first by name, each time. What an operator wrote goes before what
    /// a workload says of itself.
    pub(super) fn of_endpoint(&self, address: SocketAddr) -> Option<&ServicePort> {
        self.configured.get(&address).or_else(|| self.registered.get(&address))?.first()
    }

    /// Puts a Service in the place of what it was before.
    pub(super) fn replace(&mut self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        if let Some(old) = old {
            for ip in virtual_ips(old) {
                // Another Service may have taken the address over in the same change.
                if self.virtual_ips.get(&ip) == Some(&old.name) {
                    self.virtual_ips.remove(&ip);
                }
            }
            for port in &old.ports {
                port.endpoints.iter().for_each(|one| remove(&mut self.configured, one.address, &port.key));
            }
        }
        if let Some(new) = new {
            self.virtual_ips.extend(virtual_ips(new).map(|ip| (ip, new.name.clone())));
            for port in &new.ports {
                port.endpoints.iter().for_each(|one| add(&mut self.configured, one.address, &port.key));
            }
        }
    }

    /// Puts a port's registered endpoints in the place of those before.
    pub(super) fn replace_registered(
        &mut self,
        port: &ServicePort,
        old: &[EndpointSpec],
        new: &[EndpointSpec],
    ) {
        old.iter().for_each(|one| remove(&mut self.registered, one.address, port));
        new.iter().for_each(|one| add(&mut self.registered, one.address, port));
    }
}

fn virtual_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    [service.virtual_ips.v4.into(), service.virtual_ips.v6.into()].into_iter()
}

fn add(ports: &mut HashMap<SocketAddr, BTreeSet<ServicePort>>, address: SocketAddr, port: &ServicePort) {
    ports.entry(address).or_default().insert(port.clone());
}

fn remove(ports: &mut HashMap<SocketAddr, BTreeSet<ServicePort>>, address: SocketAddr, port: &ServicePort) {
    if let Some(sharers) = ports.get_mut(&address) {
        sharers.remove(port);
        if sharers.is_empty() {
            ports.remove(&address);
        }
    }
}
