//! From resources, as written, to a snapshot, ready to be used.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::document::At;
use crate::error::{ConfigError, ConfigErrors, sort};
use crate::load::{Loaded, Resources};
use crate::name::{ServiceName, ServicePort};
use crate::probe::Probe;
use crate::resource::Spec;
use crate::snapshot::{
    Authorization, Backend, EndpointSpec, Mtls, Port, Protocol, RouteTable, Service, Snapshot, TrafficPolicy,
};

mod attach;
pub(crate) mod authorization;
pub(crate) mod check;
mod filter;
mod grpc;
mod http;
mod mesh_policy;
mod order;
mod policy;
mod reference;
mod service;
mod tcp;
pub(crate) mod virtual_ips;

impl Snapshot {
    /// Checks what `resources` say together, and makes a snapshot of it: whole, or not at all.
    ///
    /// A backend that does not exist is a warning: requests for its share are answered with 500, as the Gateway API
    /// says, since a route may be there before its backends are.
    pub fn build(resources: &Resources) -> Result<Snapshot, ConfigErrors> {
        let mut report = Report::default();
        names(resources, &mut report);
        let mut drafts = service::drafts(&resources.services, &mut report);
        policy::apply(&resources.traffic_policies, &mut drafts, &mut report);
        let authorization = authorization::build(&resources.authorization_policies, &drafts, &mut report);
        let outbound_policy = mesh_policy::outbound(&resources.mesh_policies, &mut report);
        let mtls = mesh_policy::mtls(&resources.mesh_policies, &mut drafts, &mut report);
        for route in &resources.http_routes {
            http::attach(route, &mut drafts, &mut report);
        }
        for route in &resources.grpc_routes {
            grpc::attach(route, &mut drafts, &mut report);
        }
        for route in &resources.tcp_routes {
            tcp::attach(route, &mut drafts, &mut report);
        }
        one_policy_each(&drafts, &authorization, &mut report);
        let services = finish(drafts, &mut report);
        let version = version(&(&services, &authorization, outbound_policy, mtls));
        sort(&mut report.warnings);
        let snapshot =
            Snapshot { version, services, authorization, outbound_policy, mtls, warnings: report.warnings };
        ConfigErrors::or(report.errors, snapshot)
    }
}

/// A workload cannot tell for which of two ports a connection to one address is: they must be guarded alike.
fn one_policy_each(
    drafts: &Drafts<'_>,
    authorization: &BTreeMap<ServicePort, Arc<Authorization>>,
    report: &mut Report,
) {
    for draft in drafts.values() {
        for (at, port) in draft.ports.iter().enumerate() {
            let is_twin = |other: &&PortDraft<'_>| {
                other.target_port == port.target_port
                    && (other.mtls != port.mtls
                        || authorization.get(&other.key) != authorization.get(&port.key))
            };
            if let Some(other) = draft.ports[..at].iter().find(is_twin) {
                let error = draft.at.error(format!(
                    "ports {} and {} have one targetPort, and policies that differ",
                    other.key.port, port.key.port
                ));
                report
                    .error(error.hint("let each policy be about both, or give each port its own targetPort"));
            }
        }
    }
}

/// What is found wrong on the way.
#[derive(Default)]
struct Report {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Report {
    fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// The value, or its error noted.
    fn ok<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }
}

/// Services by name, while routes and policies are attached to them.
type Drafts<'r> = BTreeMap<ServiceName, Draft<'r>>;

/// A Service in the making.
struct Draft<'r> {
    /// Where it is written.
    at: At<'r>,
    ports: Vec<PortDraft<'r>>,
    probe: Option<Arc<Probe>>,
}

/// The port that `key` names.
fn port_mut<'d, 'r>(drafts: &'d mut Drafts<'r>, key: &ServicePort) -> Option<&'d mut PortDraft<'r>> {
    drafts.get_mut(&key.service)?.ports.iter_mut().find(|port| port.key == *key)
}

/// A port in the making.
struct PortDraft<'r> {
    key: ServicePort,
    name: Option<Arc<str>>,
    protocol: Protocol,
    target_port: u16,
    endpoints: Vec<EndpointSpec>,
    policy: TrafficPolicy,
    mtls: Mtls,
    /// HTTP or gRPC routes, in any order.
    routes: Vec<order::Ranked>,
    /// The first HTTPRoute and GRPCRoute attached, by place.
    http_route: Option<At<'r>>,
    grpc_route: Option<At<'r>>,
    tcp: Option<TcpDraft<'r>>,
}

/// A port's TCPRoute.
struct TcpDraft<'r> {
    at: At<'r>,
    name: Arc<str>,
    backends: Vec<Backend>,
}

fn finish(drafts: Drafts<'_>, report: &mut Report) -> BTreeMap<ServiceName, Arc<Service>> {
    let names: Vec<&ServiceName> = drafts.keys().collect();
    let Some(addresses) = virtual_ips::assign(&names) else {
        let message =
            format!("more than {} Services: there are no virtual addresses left", virtual_ips::MOST);
        report.errors.extend(drafts.values().next().map(|draft| draft.at.error(message)));
        return BTreeMap::new();
    };
    let of_ports =
        |ports: Vec<PortDraft<'_>>| ports.into_iter().map(|port| Arc::new(port.finish())).collect();
    drafts
        .into_iter()
        .zip(addresses)
        .map(|((name, draft), virtual_ips)| {
            let Draft { ports, probe, .. } = draft;
            let service = Service { name: name.clone(), virtual_ips, ports: of_ports(ports), probe };
            (name, Arc::new(service))
        })
        .collect()
}

impl PortDraft<'_> {
    fn finish(self) -> Port {
        let has_route = self.http_route.is_some() || self.grpc_route.is_some();
        let routes = if has_route { order::table(self.routes) } else { RouteTable::single(&self.key) };
        let (tcp_route, tcp) = match self.tcp {
            Some(route) => (route.name, route.backends),
            None => {
                let own = Backend { target: self.key.clone(), weight: 1, exists: true };
                ("default".into(), vec![own])
            }
        };
        Port {
            key: self.key,
            name: self.name,
            protocol: self.protocol,
            target_port: self.target_port,
            routes,
            tcp,
            tcp_route,
            endpoints: self.endpoints,
            policy: self.policy,
            mtls: self.mtls,
        }
    }
}

/// Checks that every resource has a proper name of its own.
fn names(resources: &Resources, report: &mut Report) {
    unique(&resources.services, check::dns_label, report);
    unique(&resources.http_routes, check::dns_name, report);
    unique(&resources.grpc_routes, check::dns_name, report);
    unique(&resources.tcp_routes, check::dns_name, report);
    unique(&resources.traffic_policies, check::dns_name, report);
    unique(&resources.mesh_policies, check::dns_name, report);
    unique(&resources.authorization_policies, check::dns_name, report);
}

fn unique<S: Spec>(
    loaded: &[Loaded<S>],
    check_name: fn(&At<'_>, &str) -> Result<(), ConfigError>,
    report: &mut Report,
) {
    let mut seen: BTreeMap<(&str, &str), At<'_>> = BTreeMap::new();
    for one in loaded {
        let metadata = one.at().field("metadata");
        let name = metadata.field("name");
        report.ok(check_name(&name, one.name()));
        report.ok(check::dns_label(&metadata.field("namespace"), one.namespace()));
        if let Some(timestamp) = &one.resource.metadata.creation_timestamp {
            report.ok(check::timestamp(&metadata.field("creationTimestamp"), timestamp));
        }
        match seen.get(&(one.namespace(), one.name())) {
            Some(first) => {
                let message = format!("there is a {} {}/{} already", S::KIND, one.namespace(), one.name());
                report.error(name.error(message).hint(format!("the first is at {}", first.place())));
            }
            None => {
                seen.insert((one.namespace(), one.name()), name);
            }
        }
    }
}

/// The first 16 hex digits of a SHA-256 over what a snapshot says. The text that is hashed is the `Debug` text of the
/// snapshot's own types, since that has every field, in one order, and nothing of the files' form in it.
pub(crate) fn version(content: &impl fmt::Debug) -> Arc<str> {
    struct Hasher(Sha256);

    impl Write for Hasher {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text);
            Ok(())
        }
    }

    let mut hasher = Hasher(Sha256::new());
    // Writing to a hash cannot fail.
    let _ = write!(hasher, "{content:?}");
    let mut version = String::new();
    for byte in &hasher.0.finalize()[..8] {
        let _ = write!(version, "{byte:02x}");
    }
    version.into()
}
