//! What Lighter's own resources say, once checked.

use std::sync::Arc;

use super::names::AddressKey;
use crate::name::ServiceName;
use crate::snapshot::{Authorization, LinkPolicy, Mtls, OutboundPolicy, VirtualIps};

/// What an address or a name means.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// What was asked about.
    pub key: AddressKey,
    /// None: it is of no Service.
    pub found: Option<Found>,
}

/// The Service that an address or a name leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The Service.
    pub service: ServiceName,
    /// Its port; 0 for a name.
    pub port: u16,
    /// Its virtual addresses.
    pub virtual_ips: VirtualIps,
    /// Whether the address is one of the port's endpoints: honoured, never balanced away.
    pub endpoint: bool,
}

/// What a workload's own sidecar enforces.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// `namespace/name` of its Service, or `-/namespace` for a pure caller.
    pub key: Arc<str>,
    /// Whose identities are trusted.
    pub trust_domain: Arc<str>,
    /// What happens to destinations in no Service.
    pub outbound_policy: OutboundPolicy,
    /// Which wires carry links to workloads of which no Service is known.
    pub links: LinkPolicy,
    /// Its ports.
    pub ports: Vec<InboundPort>,
}

/// What is enforced at one port.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPort {
    /// The Service's port. 0: every port that has no entry of its own, of which no rules are said.
    pub port: u16,
    /// Whether callers without a proved identity are let in.
    pub mtls: Mtls,
    /// Who may call what.
    pub authorization: Arc<Authorization>,
}
