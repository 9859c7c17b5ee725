//! What can go wrong on the data path: what, on which side, with which peer, and may it be tried again.

use std::fmt;
use std::net::SocketAddr;

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
    /// Valid, but not something that this proxy carries.
    Unsupported,
    /// No AuthorizationPolicy allows it, or one forbids it.
    Denied,
    /// This sidecar is draining.
    Draining,
    /// A limit of this sidecar is reached.
    Overloaded,
    /// The request would come back to this sidecar.
    Loop,
    /// A fault of this sidecar itself.
    Internal,
}

impl Cause {
    /// Every cause, in the order of its number.
    pub const ALL: [Cause; 28] = [
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
        Cause::Unsupported,
        Cause::Denied,
        Cause::Draining,
        Cause::Overloaded,
        Cause::Loop,
        Cause::Internal,
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
            Cause::Unsupported => "unsupported",
            Cause::Denied => "denied",
            Cause::Draining => "draining",
            Cause::Overloaded => "overloaded",
            Cause::Loop => "loop",
            Cause::Internal => "internal",
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
            | Cause::Draining
            | Cause::Overloaded => 503,
            Cause::ConnectTimeout | Cause::RequestTimeout | Cause::IdleTimeout => 504,
            Cause::PlaintextRefused => 403,
            Cause::DownstreamAborted => 499,
            Cause::AmbiguousMessage | Cause::BadRequest => 400,
            Cause::HeadTooLarge => 431,
            Cause::Unsupported => 501,
            Cause::Loop => 508,
            Cause::Denied => 403,
        }
    }

    /// The gRPC status code that stands for this cause.
    pub const fn grpc_status(self) -> u8 {
        match self {
            Cause::NoRoute | Cause::Unsupported => 12,
            Cause::RequestTimeout => 4,
            Cause::DownstreamAborted => 1,
            Cause::AmbiguousMessage | Cause::BadRequest | Cause::Internal => 13,
            Cause::HeadTooLarge => 8,
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
            | Cause::Denied
            | Cause::PlaintextRefused
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
            | Cause::NotInRegistry => Side::Control,
            Cause::NoIdentity | Cause::Draining | Cause::Overloaded | Cause::Loop | Cause::Internal => {
                Side::Local
            }
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
    fn causes_are_numbered_in_order_and_named_once() {
        let mut labels = std::collections::HashSet::new();
        for (at, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, at);
            assert!(labels.insert(cause.label()));
        }
    }
}
