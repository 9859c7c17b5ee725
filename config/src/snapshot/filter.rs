//! What is done to single requests by a TrafficPolicy.

use std::sync::Arc;
use std::time::Duration;

use super::route::{Action, ValueMatch};
use crate::name::ServicePort;

/// How many requests pass in a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// So many requests, at least one.
    pub requests: u32,
    /// In so much time, which is not zero.
    pub interval: Duration,
    /// So many may come at once after a rest, at least one.
    pub burst: u32,
    /// Who shares it.
    pub per: Per,
    /// How many identities or values are told apart at once, at least one.
    pub max_keys: u32,
}

/// Who shares a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// All requests.
    All,
    /// Those of one caller, by the SPIFFE ID that it has proved.
    Identity,
    /// Those with one value of this header, in lower case.
    Header(Arc<str>),
}

/// The largest request that passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeLimits {
    /// Bytes of target, authority, and names and values of fields. None: no limit but the sidecar's own.
    pub head: Option<u64>,
    /// Bytes of the body. None: no limit.
    pub body: Option<u64>,
}

/// What keeps these limits. Sizes come first: what is too large takes no part of a rate.
pub fn limits(sizes: SizeLimits, rates: impl IntoIterator<Item = RateLimit>) -> impl Iterator<Item = Action> {
    let sizes = (sizes != SizeLimits::default()).then_some(Action::SizeLimits(sizes));
    sizes.into_iter().chain(rates.into_iter().map(Action::RateLimit))
}

/// Faults that are made on purpose.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// How long requests wait, and which share of them.
    pub delay: Option<(Duration, Share)>,
    /// What they are answered with, and which share of them.
    pub abort: Option<(Abort, Share)>,
    /// Only requests with all of these headers: lower-case name, and what the value must be.
    pub headers: Vec<(Arc<str>, ValueMatch)>,
}

/// The answer of a request that is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// A status of HTTP.
    Http(u16),
    /// A status of gRPC.
    Grpc(u8),
}

/// A share of all requests, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share(pub u32);

impl Share {
    /// All requests.
    pub const ALL: Share = Share(1_000_000);

    /// Whether a request that drew `ticket`, below a million, belongs to it.
    pub fn has(self, ticket: u32) -> bool {
        ticket < self.0
    }
}

/// Copies of requests for another port, of whose answers nobody hears.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where they go. There are none where that does not exist.
    pub target: ServicePort,
    /// Which share of the requests.
    pub share: Share,
}
