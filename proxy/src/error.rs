//! What can go wrong on the data path: what, on which side, with which peer, and may it be tried again.

use std::fmt;
use std::net::SocketAddr;

use lighter_filters::Refusal;

use crate::retry::Came;

/// Why a request or a connection did not end well. One word for one thing: the same label stands in
/// `x-lighter-error`, in the access log's `cause` and in the metrics' `cause` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// No attached route matches the request.
    NoRoute,
    /// The route matched, but has no backend that exists or has weight.
    NoBackend,
    /// The chosen backend has no endpoint.
    NoEndpoint,
    /// Nothing is configured for where this connection came in.
    NoConfig,
    /// The destination is in no Service and `outboundPolicy` is `registryOnly`.
    NotInRegistry,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The endpoint did not answer the connection in time.
    ConnectTimeout,
    /// The endpoint did not prove to be who it is to be.
    TlsIdentity,
    /// The TLS handshake with the endpoint failed for another reason.
    TlsFailed,
    /// The endpoint asks who calls, and this sidecar has no identity.
    NoIdentity,
    /// The caller did not prove who it is, and has to.
    PlaintextRefused,
    /// The connection failed for another reason: no route to host, no descriptors, and so on.
    ConnectFailed,
    /// The request's deadline passed.
    RequestTimeout,
    /// Nothing moved for as long as the policy allows.
    IdleTimeout,
    /// The upstream closed before it answered.
    UpstreamClosed,
    /// The upstream reset the connection or the stream.
    UpstreamReset,
    /// The upstream ended a body before its end.
    UpstreamTruncated,
    /// The upstream sent something that is not valid HTTP.
    UpstreamMalformed,
    /// The downstream went away before it had its answer.
    DownstreamAborted,
    /// The message can be read in two ways, as request smuggling needs.
    AmbiguousMessage,
    /// The request is not valid HTTP.
    BadRequest,
    /// The head is larger than the limit.
    HeadTooLarge,
    /// The body is larger than the route allows.
    BodyTooLarge,
    /// More requests came than a limit of rate lets pass.
    RateLimited,
    /// The route has this request fail on purpose.
    FaultInjected,
    /// Valid, but not something that this proxy carries.
    Unsupported,
    /// No AuthorizationPolicy allows it, or one forbids it.
    Denied,
    /// This sidecar is draining.
    Draining,
    /// A limit of this sidecar is reached.
    Overloaded,
    /// As many requests to the port as its policy allows are under way, and as many wait.
    PendingOverflow,
    /// The request waited for others to the port to end, for as long as its policy says.
    PendingTimeout,
    /// The application has as many requests as it can work on at once.
    ConcurrencyLimit,
    /// The request would come back to this sidecar.
    Loop,
    /// A fault of this sidecar itself.
    Internal,
    /// The client was too slow to send its request, or to take its answer.
    ClientTimeout,
    /// This sidecar has no memory to spare.
    MemoryLimit,
    /// The device's main task needs what the function would take.
    Reserve,
    /// The functions that run take all the power that the device may.
    PowerCap,
    /// The function is not active, and did not become so in time.
    Inactive,
    /// The Service keeps state, and this instance does not have it.
    NotServing,
    /// The state has moved from this instance, and the caller's sidecar takes the request there.
    Moved,
    /// The state is moving, and as many requests as may wait for that do.
    ParkOverflow,
    /// The state is moving, and the request waited for that as long as its Service says.
    ParkTimeout,
    /// The state is journaled, and no other instance keeps the journal: the request was not executed.
    NoStandby,
    /// The request may have been executed, and whether what it changed stays is not known.
    OutcomeUnknown,
}

impl Cause {
    /// Every cause, in the order of its number.
    pub const ALL: [Cause; 45] = [
        Cause::NoRoute,
        Cause::NoBackend,
        Cause::NoEndpoint,
        Cause::NoConfig,
        Cause::NotInRegistry,
        Cause::ConnectRefused,
        Cause::ConnectTimeout,
        Cause::TlsIdentity,
        Cause::TlsFailed,
        Cause::NoIdentity,
        Cause::PlaintextRefused,
        Cause::ConnectFailed,
        Cause::RequestTimeout,
        Cause::IdleTimeout,
        Cause::UpstreamClosed,
        Cause::UpstreamReset,
        Cause::UpstreamTruncated,
        Cause::UpstreamMalformed,
        Cause::DownstreamAborted,
        Cause::AmbiguousMessage,
        Cause::BadRequest,
        Cause::HeadTooLarge,
        Cause::BodyTooLarge,
        Cause::RateLimited,
        Cause::FaultInjected,
        Cause::Unsupported,
        Cause::Denied,
        Cause::Draining,
        Cause::Overloaded,
        Cause::PendingOverflow,
        Cause::PendingTimeout,
        Cause::ConcurrencyLimit,
        Cause::Loop,
        Cause::Internal,
        Cause::ClientTimeout,
        Cause::MemoryLimit,
        Cause::Reserve,
        Cause::PowerCap,
        Cause::Inactive,
        Cause::NotServing,
        Cause::Moved,
        Cause::ParkOverflow,
        Cause::ParkTimeout,
        Cause::NoStandby,
        Cause::OutcomeUnknown,
    ];

    /// The label: in `x-lighter-error`, in logs and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::NoRoute => "no_route",
            Cause::NoBackend => "no_backend",
            Cause::NoEndpoint => "no_endpoint",
            Cause::NoConfig => "no_config",
            Cause::NotInRegistry => "not_in_registry",
            Cause::ConnectRefused => "connect_refused",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::TlsIdentity => "tls_identity",
            Cause::TlsFailed => "tls_failed",
            Cause::NoIdentity => "no_identity",
            Cause::PlaintextRefused => "plaintext_refused",
            Cause::ConnectFailed => "connect_failed",
            Cause::RequestTimeout => "request_timeout",
            Cause::IdleTimeout => "idle_timeout",
            Cause::UpstreamClosed => "upstream_closed",
            Cause::UpstreamReset => "upstream_reset",
            Cause::UpstreamTruncated => "upstream_truncated",
            Cause::UpstreamMalformed => "upstream_malformed",
            Cause::DownstreamAborted => "downstream_aborted",
            Cause::AmbiguousMessage => "ambiguous_message",
            Cause::BadRequest => "bad_request",
            Cause::HeadTooLarge => "head_too_large",
            Cause::BodyTooLarge => "body_too_large",
            Cause::RateLimited => "rate_limited",
            Cause::FaultInjected => "fault_injected",
            Cause::Unsupported => "unsupported",
            Cause::Denied => "denied",
            Cause::Draining => "draining",
            Cause::Overloaded => "overloaded",
            Cause::PendingOverflow => "pending_overflow",
            Cause::PendingTimeout => "pending_timeout",
            Cause::ConcurrencyLimit => "concurrency_limit",
            Cause::Loop => "loop",
            Cause::Internal => "internal",
            Cause::ClientTimeout => "client_timeout",
            Cause::MemoryLimit => "memory_limit",
            Cause::Reserve => "reserve",
            Cause::PowerCap => "power_cap",
            Cause::Inactive => "inactive",
            Cause::NotServing => "not_serving",
            Cause::Moved => "moved",
            Cause::ParkOverflow => "park_overflow",
            Cause::ParkTimeout => "park_timeout",
            Cause::NoStandby => "no_standby",
            Cause::OutcomeUnknown => "outcome_unknown",
        }
    }

    /// The HTTP status of the answer that this sidecar gives in the service's stead.
    pub const fn status(self) -> u16 {
        match self {
            Cause::NoRoute => 404,
            Cause::NoBackend | Cause::Internal => 500,
            Cause::NotInRegistry
            | Cause::ConnectFailed
            | Cause::TlsIdentity
            | Cause::TlsFailed
            | Cause::UpstreamReset
            | Cause::UpstreamTruncated
            | Cause::UpstreamMalformed
            | Cause::UpstreamClosed => 502,
            Cause::NoEndpoint
            | Cause::NoConfig
            | Cause::ConnectRefused
            | Cause::NoIdentity
            | Cause::FaultInjected
            | Cause::Draining
            | Cause::Overloaded
            | Cause::PendingOverflow
            | Cause::PendingTimeout
            | Cause::ConcurrencyLimit
            | Cause::MemoryLimit
            | Cause::Reserve
            | Cause::PowerCap
            | Cause::Inactive
            | Cause::NotServing
            | Cause::Moved
            | Cause::ParkOverflow
            | Cause::ParkTimeout
            | Cause::NoStandby
            | Cause::OutcomeUnknown => 503,
            Cause::ConnectTimeout | Cause::RequestTimeout | Cause::IdleTimeout => 504,
            Cause::PlaintextRefused => 403,
            Cause::DownstreamAborted => 499,
            Cause::AmbiguousMessage | Cause::BadRequest => 400,
            Cause::HeadTooLarge => 431,
            Cause::BodyTooLarge => 413,
            Cause::RateLimited => 429,
            Cause::Unsupported => 501,
            Cause::Loop => 508,
            Cause::ClientTimeout => 408,
            Cause::Denied => 403,
        }
    }

    /// The gRPC status code that stands for this cause.
    pub const fn grpc_status(self) -> u8 {
        match self {
            Cause::NoRoute | Cause::Unsupported => 12,
            Cause::RequestTimeout | Cause::ClientTimeout => 4,
            Cause::DownstreamAborted => 1,
            Cause::AmbiguousMessage | Cause::BadRequest | Cause::Internal => 13,
            Cause::HeadTooLarge | Cause::BodyTooLarge | Cause::RateLimited => 8,
            Cause::Denied => 7,
            Cause::PlaintextRefused => 16,
            _ => 14,
        }
    }

    /// Whose fault it was.
    pub const fn side(self) -> Side {
        match self {
            Cause::DownstreamAborted
            | Cause::AmbiguousMessage
            | Cause::BadRequest
            | Cause::HeadTooLarge
            | Cause::BodyTooLarge
            | Cause::RateLimited
            | Cause::Denied
            | Cause::PlaintextRefused
            | Cause::ClientTimeout
            | Cause::Unsupported => Side::Downstream,
            Cause::ConnectRefused
            | Cause::ConnectTimeout
            | Cause::ConnectFailed
            | Cause::TlsIdentity
            | Cause::TlsFailed
            | Cause::RequestTimeout
            | Cause::IdleTimeout
            | Cause::UpstreamClosed
            | Cause::UpstreamReset
            | Cause::UpstreamTruncated
            | Cause::UpstreamMalformed => Side::Upstream,
            Cause::NoRoute
            | Cause::NoBackend
            | Cause::NoEndpoint
            | Cause::NoConfig
            | Cause::FaultInjected
            | Cause::NotInRegistry => Side::Control,
            Cause::NoIdentity
            | Cause::Draining
            | Cause::Overloaded
            | Cause::PendingOverflow
            | Cause::PendingTimeout
            | Cause::ConcurrencyLimit
            | Cause::MemoryLimit
            | Cause::Reserve
            | Cause::PowerCap
            | Cause::Inactive
            | Cause::NotServing
            | Cause::Moved
            | Cause::ParkOverflow
            | Cause::ParkTimeout
            | Cause::NoStandby
            | Cause::OutcomeUnknown
            | Cause::Loop
            | Cause::Internal => Side::Local,
        }
    }
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::RateLimited => Cause::RateLimited,
            Refusal::HeadTooLarge => Cause::HeadTooLarge,
            Refusal::BodyTooLarge => Cause::BodyTooLarge,
            Refusal::FaultInjected => Cause::FaultInjected,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who called.
    Downstream,
    /// Who was called.
    Upstream,
    /// This sidecar.
    Local,
    /// What was configured.
    Control,
}

/// May the same request be tried again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may have run.
    Never,
    /// The upstream never read it: connection refused, a reused connection closed before a byte came back,
    /// REFUSED_STREAM, or a stream above GOAWAY's last id.
    Safe,
    /// It may have run: what the route's policy says of this.
    Maybe(Came),
}

/// An error on the way to or from an upstream.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}: {detail}", DisplayPeer(.peer))]
pub struct ProxyError {
    /// What went wrong.
    pub cause: Cause,
    /// May it be tried again?
    pub retry: Retry,
    /// Which peer.
    pub peer: Option<SocketAddr>,
    /// For the log and the body of the local answer: never a secret, never of the peer's choosing.
    pub detail: &'static str,
    /// What the system said.
    #[source]
    pub source: Option<std::io::Error>,
}

impl ProxyError {
    /// An error that must not be tried again.
    pub fn new(cause: Cause, detail: &'static str) -> Self {
        ProxyError { cause, retry: Retry::Never, peer: None, detail, source: None }
    }

    /// The same, with what the system said.
    #[must_use]
    pub fn with_source(mut self, source: std::io::Error) -> Self {
        self.source = Some(source);
        self
    }

    /// The same, with the peer's address.
    #[must_use]
    pub fn at(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The same, marked as never read by the upstream.
    #[must_use]
    pub fn safe(mut self) -> Self {
        self.retry = Retry::Safe;
        self
    }

    /// The same, and what came of the try, which may have run.
    #[must_use]
    pub fn after(mut self, came: Came) -> Self {
        self.retry = Retry::Maybe(came);
        self
    }
}

struct DisplayPeer<'a>(&'a Option<SocketAddr>);

impl fmt::Display for DisplayPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(peer) => write!(f, " ({peer})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_filter_refuses_has_one_name_and_one_status() {
        for refusal in
            [Refusal::RateLimited, Refusal::HeadTooLarge, Refusal::BodyTooLarge, Refusal::FaultInjected]
        {
            let cause = Cause::from(refusal);
            assert_eq!(
                (refusal.label(), refusal.status(), refusal.grpc_status()),
                (cause.label(), cause.status(), cause.grpc_status())
            );
        }
    }

    #[test]
    fn causes_are_numbered_in_order_and_named_once() {
        let mut labels = std::collections::HashSet::new();
        for (at, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, at);
            assert!(labels.insert(cause.label()));
        }
    }
}
