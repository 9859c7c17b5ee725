//! What Lighter's own resources say, once checked.

use std::net::IpAddr;
use std::sync::Arc;

use super::names::AddressKey;
use crate::name::ServiceName;
use crate::snapshot::{Mtls, OutboundPolicy, VirtualIps};

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
    /// Its ports.
    pub ports: Vec<InboundPort>,
}

/// What is enforced at one port.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPort {
    /// The Service's port. 0: every port that has no entry of its own.
    pub port: u16,
    /// Whether callers without a proved identity are let in.
    pub mtls: Mtls,
    /// In the order in which they are tried.
    pub rules: Vec<Rule>,
    /// Whether what no rule allows is denied.
    pub default_deny: bool,
}

/// One rule of one AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `namespace/name` of the policy and the rule's index in it: what denials, logs and metrics name.
    pub policy: Arc<str>,
    /// What is done with what it matches.
    pub effect: Effect,
    /// Counted and logged, not enforced.
    pub audit: bool,
    /// Any of them; none: anybody, with or without an identity.
    pub sources: Vec<Source>,
    /// Any of them; none: anything.
    pub operations: Vec<Operation>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Lets the caller in.
    Allow,
    /// Keeps the caller out.
    Deny,
}

/// Who calls. Every list that is not empty must hold, and holds if one of its members does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// SPIFFE IDs.
    pub principals: Vec<Pattern>,
    /// SPIFFE IDs, none of which may fit; whoever has no identity fits none.
    pub not_principals: Vec<Pattern>,
    /// Namespaces of SPIFFE IDs.
    pub namespaces: Vec<Arc<str>>,
    /// Address ranges.
    pub cidrs: Vec<Cidr>,
}

/// What is called. Every list that is not empty must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    /// Any of these methods.
    pub methods: Vec<Arc<str>>,
    /// Any of these paths.
    pub paths: Vec<Pattern>,
    /// Any of these hosts.
    pub hosts: Vec<Arc<str>>,
    /// All of these headers.
    pub headers: Vec<HeaderIs>,
}

/// A header that must be there.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderIs {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its whole value. None: any.
    pub exact: Option<Arc<str>>,
}

/// A text, or how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The whole text.
    Exact(Arc<str>),
    /// What it begins with; written with `*` at the end.
    Prefix(Arc<str>),
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// An address in it.
    pub address: IpAddr,
    /// How many bits from the front count.
    pub length: u8,
}

impl Pattern {
    /// The pattern that `text` is.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(front) => Pattern::Prefix(front.into()),
            None => Pattern::Exact(text.into()),
        }
    }

    /// Whether `text` fits.
    pub fn takes(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(whole) => text == &**whole,
            Pattern::Prefix(front) => text.starts_with(&**front),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pattern::Exact(whole) => f.write_str(whole),
            Pattern::Prefix(front) => write!(f, "{front}*"),
        }
    }
}

impl Cidr {
    /// The range that `address/length` is; an address alone is a range of one.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address.parse::<IpAddr>().ok()?, Some(length.parse::<u8>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(bits);
        (length <= bits).then_some(Cidr { address, length })
    }

    /// Whether `address` is in the range. An IPv4 address written as an IPv6 one is what it stands for.
    pub fn takes(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(one)) => {
                let differs = u32::from(range) ^ u32::from(one);
                differs.checked_shr(32 - u32::from(self.length)).unwrap_or(0) == 0
            }
            (IpAddr::V6(range), IpAddr::V6(one)) => {
                let differs = u128::from(range) ^ u128::from(one);
                differs.checked_shr(128 - u32::from(self.length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_addresses_that_begin_alike() {
        let takes = |range: &str, one: &str| Cidr::parse(range).unwrap().takes(one.parse().unwrap());
        assert!(takes("10.1.0.0/16", "10.1.255.3") && !takes("10.1.0.0/16", "10.2.0.0"));
        assert!(takes("0.0.0.0/0", "255.1.2.3") && !takes("0.0.0.0/0", "::1") && takes("::/0", "fd00::1"));
        assert!(takes("10.0.0.1", "10.0.0.1") && !takes("10.0.0.1", "10.0.0.0"));
        assert!(takes("10.1.0.0/16", "::ffff:10.1.2.3"));
        assert!(takes("fd00::/8", "fdff::") && !takes("fd00::/8", "fe00::"));
        for wrong in ["10.0.0.0/33", "::/129", "10.0.0/8", "/8", "10.0.0.0/", "a"] {
            assert_eq!(Cidr::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_star_at_the_end_stands_for_any_rest() {
        let front = Pattern::parse("/a/*");
        assert!(front.takes("/a/") && front.takes("/a/b") && !front.takes("/a"));
        assert!(Pattern::parse("*").takes("") && Pattern::parse("/a*b").takes("/a*b"));
        assert_eq!(front.to_string(), "/a/*");
    }
}
