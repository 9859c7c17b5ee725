//! A Service, put together from its draft and from what is said about it.

use std::sync::Arc;

use super::kind::Kinds;
use super::mesh_policy::{self, Policies};
use super::shape::ByRule;
use super::{Draft, PortDraft, Report, authorization, grpc, http, link_policy, order, policy, tcp};
use crate::document::At;
use crate::name::{ServiceName, ServicePort};
use crate::snapshot::{
    Action, Authorization, Backend, LinkPolicy, Mtls, OutboundPolicy, Port, RouteTable, Service,
    TrafficPolicy, VirtualIps,
};

/// A port in the making.
pub(super) struct Making<'m> {
    pub(super) draft: &'m PortDraft,
    pub(super) policy: TrafficPolicy,
    pub(super) mtls: Mtls,
    /// None: no policy is about it.
    pub(super) authorization: Option<Authorization>,
    /// HTTP or gRPC routes, in any order.
    pub(super) routes: Vec<order::Ranked>,
    /// The first HTTPRoute attached, by its place.
    pub(super) http_route: Option<At<'m>>,
    pub(super) has_grpc_route: bool,
    pub(super) tcp: Option<TcpMaking<'m>>,
    /// What its own sidecars do to requests.
    pub(super) guards: Vec<Action>,
    /// What callers do to requests where a route says nothing of it.
    pub(super) faults: Option<Action>,
}

/// A port's TCPRoute.
pub(super) struct TcpMaking<'m> {
    pub(super) at: At<'m>,
    pub(super) name: &'m Arc<str>,
    pub(super) backends: &'m [Backend],
}

/// A Service, and who may call it at each port of which that is said.
pub(super) type Made = (Service, Vec<(ServicePort, Authorization)>);

/// What holds where nothing narrower is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Everywhere {
    pub(super) outbound_policy: OutboundPolicy,
    pub(super) mtls: Mtls,
    pub(super) links: LinkPolicy,
}

impl Everywhere {
    /// By the policies that are about the mesh.
    pub(super) fn of(kinds: &Kinds, report: &mut Report) -> Self {
        let policies: Policies<'_> = kinds.mesh_policies.about(&ServiceName::nobody());
        Everywhere {
            outbound_policy: mesh_policy::outbound(&policies, report),
            mtls: mesh_policy::mtls_of_mesh(&policies, report),
            links: link_policy::of_mesh(&kinds.link_policies.about(&ServiceName::nobody()), report),
        }
    }
}

/// Puts a Service together.
pub(super) fn service(
    name: &ServiceName,
    draft: &Draft,
    kinds: &Kinds,
    everywhere: &Everywhere,
    virtual_ips: VirtualIps,
    report: &mut Report,
) -> Made {
    let mut ports: Vec<Making<'_>> = draft.ports.iter().map(Making::new).collect();
    policy::apply(kinds.traffic_policies.about(name), name, &mut ports, report);
    mesh_policy::mtls(&kinds.mesh_policies.about(name), name, everywhere.mtls, &mut ports, report);
    authorization::apply(kinds.authorization_policies.about(name), &mut ports);
    http::attach(kinds, name, &mut ports);
    grpc::attach(kinds, name, &mut ports, report);
    tcp::attach(kinds.tcp_routes.about(name), &mut ports, report);
    one_policy_each(draft, &ports, report);
    let (mut finished, mut authorization) = (Vec::with_capacity(ports.len()), Vec::new());
    for port in ports {
        let (port, said) = port.finish();
        authorization.extend(said.map(|said| (port.key.clone(), said)));
        finished.push(Arc::new(port));
    }
    let links = link_policy::of(&kinds.link_policies.about(name), name, &everywhere.links, report);
    let (probe, state) = (draft.probe.clone(), draft.state.clone());
    (Service { name: name.clone(), virtual_ips, ports: finished, probe, links, state }, authorization)
}

impl<'m> Making<'m> {
    fn new(draft: &'m PortDraft) -> Self {
        Making {
            draft,
            policy: TrafficPolicy::default(),
            mtls: Mtls::default(),
            authorization: None,
            routes: Vec::new(),
            http_route: None,
            has_grpc_route: false,
            tcp: None,
            guards: Vec::new(),
            faults: None,
        }
    }

    /// Adds routes, with what policies say of them.
    pub(super) fn attach(&mut self, routes: &[order::Ranked], policies: &ByRule<'_>) {
        let with_policies = |ranked: &order::Ranked| {
            let mut ranked = ranked.clone();
            policies.apply(&mut ranked.route, self.faults.as_ref());
            ranked
        };
        self.routes.extend(routes.iter().map(with_policies));
    }

    fn finish(mut self) -> (Port, Option<Authorization>) {
        let PortDraft { key, name, protocol, target_port, endpoints } = self.draft;
        let has_route = self.http_route.is_some() || self.has_grpc_route;
        let routes = match has_route {
            true => order::table(self.routes, &self.policy.retry),
            false => RouteTable::with_actions(key, self.faults.into_iter().collect()),
        };
        self.policy.retry = self.policy.retry.plain();
        let (tcp_route, tcp) = match self.tcp {
            Some(route) => (route.name.clone(), route.backends.to_vec()),
            None => {
                let own = Backend { target: key.clone(), weight: 1, exists: true };
                ("default".into(), vec![own])
            }
        };
        let port = Port {
            key: key.clone(),
            name: name.clone(),
            protocol: *protocol,
            target_port: *target_port,
            routes,
            tcp,
            tcp_route,
            endpoints: endpoints.clone(),
            policy: self.policy,
            mtls: self.mtls,
            guards: self.guards,
        };
        (port, self.authorization)
    }
}

/// A workload cannot tell for which of two ports a connection to one address is: they must be guarded alike.
fn one_policy_each(draft: &Draft, ports: &[Making<'_>], report: &mut Report) {
    for (at, port) in ports.iter().enumerate() {
        let is_twin = |other: &&Making<'_>| {
            other.draft.target_port == port.draft.target_port
                && (other.mtls != port.mtls
                    || other.authorization != port.authorization
                    || other.guards != port.guards)
        };
        if let Some(other) = ports[..at].iter().find(is_twin) {
            let error = draft.written.name_at().error(format!(
                "ports {} and {} have one targetPort, and policies that differ",
                other.draft.key.port, port.draft.key.port
            ));
            report.error(error.hint("let each policy be about both, or give each port its own targetPort"));
        }
    }
}
