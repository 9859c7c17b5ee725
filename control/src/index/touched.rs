//! The names of what a change concerns.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lighter_config::name::ServicePort;
use lighter_config::snapshot::{EndpointSpec, Port, Service};
use lighter_config::xds::Kind;
use lighter_config::xds::names::{self, AddressKey};

/// Resources that may have changed.
#[derive(Default)]
pub(super) struct Touched(BTreeSet<(Kind, Arc<str>)>);

impl Touched {
    /// All that is made of a Service; `endpoints` gives those of a port.
    pub(super) fn service(&mut self, service: &Service, endpoints: impl Fn(&Port) -> Vec<EndpointSpec>) {
        let name = service.name.to_string();
        self.add(Kind::Service, &name);
        self.add(Kind::Workload, &name);
        self.add(Kind::Address, &AddressKey::Name(service.name.clone()).to_string());
        for port in &service.ports {
            for listener in listeners(&port.key) {
                self.add(Kind::Listener, &listener);
            }
            let key = port.key.to_string();
            self.add(Kind::Route, &key);
            self.add(Kind::Cluster, &key);
            self.endpoints(&port.key, &endpoints(port));
            for ip in [IpAddr::V4(service.virtual_ips.v4), IpAddr::V6(service.virtual_ips.v6)] {
                self.address(SocketAddr::new(ip, port.key.port));
            }
        }
    }

    /// What is made of a port's endpoints.
    pub(super) fn endpoints<'e>(
        &mut self,
        port: &ServicePort,
        endpoints: impl IntoIterator<Item = &'e EndpointSpec>,
    ) {
        self.add(Kind::Endpoints, &port.to_string());
        for endpoint in endpoints {
            self.address(endpoint.address);
        }
    }

    /// In order, each once.
    pub(super) fn into_names(self) -> Arc<[(Kind, Arc<str>)]> {
        self.0.into_iter().collect()
    }

    /// The names of one kind.
    pub(super) fn of(self, kind: Kind) -> Vec<Arc<str>> {
        self.0.into_iter().filter(|(of, _)| *of == kind).map(|(_, name)| name).collect()
    }

    fn address(&mut self, address: SocketAddr) {
        self.add(Kind::Address, &AddressKey::Socket(address).to_string());
    }

    pub(super) fn add(&mut self, kind: Kind, name: &str) {
        self.0.insert((kind, name.into()));
    }
}

/// Every name of a port's Listener; those of port 80 also go without it.
pub(super) fn listeners(port: &ServicePort) -> Vec<String> {
    let mut all = names::listeners(port);
    if port.port == 80 {
        let without: Vec<_> =
            all.iter().filter_map(|name| name.strip_suffix(":80").map(str::to_owned)).collect();
        all.extend(without);
    }
    all
}
