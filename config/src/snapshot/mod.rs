//! What a sidecar runs by: immutable, validated, ready to be looked up.
//!
//! A snapshot is made from resources in one step and is either whole or not made at all. Nothing in it has to be
//! checked again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::name::{ServiceName, ServicePort};
use crate::probe::Probe;
use crate::shared::SharedMap;

pub mod authorization;
mod balancing;
mod circuit;
pub mod filter;
mod health;
mod link;
mod load_report;
mod locality;
mod migration;
mod offload;
mod outliers;
mod overload;
mod query;
pub mod retry;
pub mod route;
pub mod session;
mod stateful;

pub use authorization::Authorization;
pub use balancing::{Balancer, Balancing, HashOn};
pub use circuit::Circuit;
pub use health::{HealthCheck, SlowStart};
pub use link::{Congestion, LinkPolicy, WireUse, Wires};
pub use load_report::LoadReports;
pub use locality::{Locality, Nearness};
pub use migration::{Keeps, Migration};
pub use offload::{Objective, Offload, OffloadDataset, OffloadDevice, OffloadFunction, PlaceProfile};
pub use outliers::{Comparison, Outliers};
pub use overload::{Overload, Priority};
pub use retry::{GrpcStatus, Retry, RetryBudget, RetryOn};
pub use route::{Action, HeaderChanges, PathMatch, RequestParts, Route, RouteTable};
pub use session::Persistence;
pub use stateful::{
    FUNCTIONS, Hooks, MoveWhen, Moves, OnDrain, Park, StateAccess, StateClass, Stateful, Streams, WhenAlone,
};

/// Everything the mesh says at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Content hash: equal versions say the same.
    pub version: Arc<str>,
    /// Every Service by its name.
    pub services: SharedMap<ServiceName, Arc<Service>>,
    /// Who may call what, for each port that a policy is about.
    pub authorization: SharedMap<ServicePort, Arc<Authorization>>,
    /// What happens to destinations in no Service, where no narrower policy speaks.
    pub outbound_policy: OutboundPolicy,
    /// Whether a workload lets callers in whose identity is not proved, at ports that are in no Service.
    pub mtls: Mtls,
    /// Which wires carry links to workloads of which no Service is known.
    pub links: LinkPolicy,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<ConfigError>,
}

impl Snapshot {
    /// A port of a Service.
    pub fn port(&self, key: &ServicePort) -> Option<&Arc<Port>> {
        self.services.get(&key.service)?.ports.iter().find(|known| known.key == *key)
    }

    /// Whether callers of a workload at this port have to prove who they are.
    pub fn mtls_of(&self, port: &ServicePort) -> Mtls {
        self.port(port).map_or(self.mtls, |known| known.mtls)
    }
}

/// What happens to a destination that is in no Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// The connection goes where it wanted to go, untouched and counted.
    #[default]
    Passthrough,
    /// The connection is refused.
    RegistryOnly,
}

/// Whether a workload that has an identity lets callers in that have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mtls {
    /// Callers in plain text are served and counted.
    #[default]
    Permissive,
    /// Callers in plain text are refused.
    Strict,
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// The stable addresses that the sidecar's DNS answers with.
    pub virtual_ips: VirtualIps,
    /// Its ports, in the order of the file.
    pub ports: Vec<Arc<Port>>,
    /// How its control plane asks endpoints of the resource whether they are well. None: it does not.
    pub probe: Option<Arc<Probe>>,
    /// Which wires carry links to its workloads.
    pub links: LinkPolicy,
    /// What it keeps between requests. None: nothing that anybody would move.
    pub state: Option<Arc<Stateful>>,
}

/// The stable addresses of one Service, from the reserved ranges [`VIRTUAL_V4`] and [`VIRTUAL_V6`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualIps {
    /// The address for A queries.
    pub v4: Ipv4Addr,
    /// The address for AAAA queries.
    pub v6: Ipv6Addr,
}

/// The reserved range of IPv4 virtual addresses: the upper half of the benchmarking range (RFC 2544), which no
/// network routes. `(first address, prefix length)`.
pub const VIRTUAL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 19, 0, 0), 16);

/// The reserved range of IPv6 virtual addresses: the lower half of a unique local prefix (RFC 4193), whose upper half
/// has the addresses of workloads. `(first address, prefix length)`.
pub const VIRTUAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0x11, 0x6874, 0xe5, 0, 0, 0, 0), 65);

/// One port of a Service and all that callers of it do.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Which Service and port.
    pub key: ServicePort,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port on which a workload of the Service listens (`targetPort`).
    pub target_port: u16,
    /// HTTP routes in order of precedence; never empty: without an HTTPRoute or GRPCRoute there is one route named
    /// `default` that takes everything to this port's own endpoints.
    pub routes: RouteTable,
    /// Where opaque connections go: a TCPRoute's backends, or this port itself.
    pub tcp: Vec<Backend>,
    /// Label for metrics of opaque connections: the TCPRoute's name, or `default`.
    pub tcp_route: Arc<str>,
    /// Its endpoints, as `address:port` with weight and priority.
    pub endpoints: Vec<EndpointSpec>,
    /// How callers treat it.
    pub policy: TrafficPolicy,
    /// Whether its workloads let callers in whose identity is not proved.
    pub mtls: Mtls,
    /// What its workloads' own sidecars do to requests of all callers.
    pub guards: Vec<Action>,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not said: found out per connection.
    #[default]
    Auto,
    /// HTTP/1.x. A caller that speaks HTTP/2 is translated.
    Http,
    /// HTTP/2 with prior knowledge. A caller that speaks HTTP/1 is translated.
    Http2,
    /// gRPC: HTTP/2, and errors of the mesh are gRPC statuses.
    Grpc,
    /// TLS that the application made: passed through by server name.
    Tls,
    /// Opaque bytes.
    Tcp,
    /// Commands of Redis and their answers. A client keeps its connection where its servers come and go.
    Redis,
}

/// Where a share of the traffic goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Which Service and port.
    pub target: ServicePort,
    /// Its share among its siblings. Zero means none.
    pub weight: u32,
    /// Whether `target` exists; the share of one that does not is answered with `no_backend`.
    pub exists: bool,
}

/// One endpoint as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSpec {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share among its siblings, at least 1.
    pub weight: u32,
    /// It takes traffic while no endpoint of a lower number is healthy.
    pub priority: u32,
    /// Where it is.
    pub locality: Locality,
    /// How its sidecar is reached with both identities proved. None: plain text, as it has no sidecar that is known.
    pub secure: Option<Secure>,
    /// What links with its sidecar can go over beside TCP. None: it is not known, and the sidecar is asked.
    pub wires: Option<Wires>,
}

/// The last priority that can be said, as in Envoy.
pub const MAX_PRIORITY: u32 = 127;

/// The sidecar of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Secure {
    /// Who it must prove to be: a SPIFFE ID.
    pub identity: Arc<str>,
    /// Where it accepts links. None: mTLS HTTP/2 at the endpoint's own address.
    pub link: Option<SocketAddr>,
}

/// How callers treat a port: TrafficPolicy with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time from a request's head to the end of its answer. None: no limit.
    pub request_timeout: Option<Duration>,
    /// Longest silence while an exchange or an opaque connection is open. None: no limit.
    pub idle_timeout: Option<Duration>,
    /// Longest rest of a kept connection to an endpoint.
    pub keep_alive: Duration,
    /// Kept connections per endpoint and worker.
    pub max_idle_connections: u32,
    /// How many connections in a row must fail before an endpoint is ejected. 0: never.
    pub eject_after: u32,
    /// The first ejection's length; the n-th lasts n times as long, up to ten times.
    pub eject_for: Duration,
    /// At most this share of a port's endpoints is ejected at once, in percent; one endpoint always may be if there
    /// are at least two.
    pub max_ejected_percent: u8,
    /// Whether a request that the upstream never read is tried once more elsewhere; so is one that asks for no change and
    /// was answered with 503, where no [`Retry`] says what else is tried again.
    pub safe_retry: bool,
    /// What else is tried again, where a route does not say it.
    pub retry: Retry,
    /// How much of that there may be.
    pub retry_budget: RetryBudget,
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// When endpoints are ejected for their answers.
    pub outliers: Outliers,
    /// How much goes there at once.
    pub circuit: Circuit,
    /// How its endpoints are asked whether they are well. None: they are not.
    pub health_check: Option<Arc<HealthCheck>>,
    /// That near endpoints are preferred. None: where they are says nothing.
    pub nearness: Option<Nearness>,
    /// How its workloads' own sidecars keep them from more than they can do. None: they let everything through.
    pub overload: Option<Overload>,
}

impl Default for TrafficPolicy {
    fn default() -> Self {
        TrafficPolicy {
            connect_timeout: Duration::from_secs(5),
            request_timeout: None,
            idle_timeout: Some(Duration::from_secs(3600)),
            keep_alive: Duration::from_secs(60),
            max_idle_connections: 1024,
            eject_after: 3,
            eject_for: Duration::from_secs(10),
            max_ejected_percent: 50,
            safe_retry: true,
            retry: Retry::default(),
            retry_budget: RetryBudget::default(),
            balancing: Balancing::default(),
            outliers: Outliers::default(),
            circuit: Circuit::default(),
            health_check: None,
            nearness: None,
            overload: None,
        }
    }
}

/// Whether `address` lies in a reserved range of virtual addresses.
pub fn is_virtual(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => (u32::from(v4) ^ u32::from(VIRTUAL_V4.0)) >> (32 - VIRTUAL_V4.1) == 0,
        IpAddr::V6(v6) => (u128::from(v6) ^ u128::from(VIRTUAL_V6.0)) >> (128 - VIRTUAL_V6.1) == 0,
    }
}
