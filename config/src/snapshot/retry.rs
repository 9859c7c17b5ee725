//! What of a request is tried again, and within which limits.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// What is tried again beyond what no endpoint ever read, and how long one try may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Most tries behind the first one.
    pub attempts: u8,
    /// What of a try calls for another one.
    pub on: RetryOn,
    /// Status codes that do, in order, each once.
    pub codes: Vec<u16>,
    /// gRPC statuses that do, in order, each once.
    pub grpc: Vec<GrpcStatus>,
    /// Methods of which what may have run may run again, in order, each once. None: the idempotent ones of RFC 9110.
    pub methods: Option<Vec<Arc<str>>>,
    /// Longest time from a try's beginning to its answer's head. None: no limit.
    pub try_timeout: Option<Duration>,
    /// Longest pause before the first of the other tries; not zero. It doubles with each one, and how much of it is
    /// waited for is drawn anew each time.
    pub backoff: Duration,
    /// Longest pause before any of them; not shorter than `backoff`.
    pub backoff_max: Duration,
    /// Longest `Retry-After` that is waited for: an answer that says more is the last one. None: it is not heeded.
    pub retry_after: Option<Duration>,
}

/// What of a try calls for another one, beside status codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// The endpoint never read the request: no connection, or a stream that was refused.
    pub connect_failure: bool,
    /// The endpoint may have read the request, and gave no answer: it broke the connection, or took too long.
    pub reset: bool,
    /// The same, and answers of status 502, 503 and 504.
    pub gateway_error: bool,
    /// The same, and answers of every status from 500 on.
    pub server_error: bool,
}

/// A status of gRPC by which a call can be tried again; the number is gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
#[allow(missing_docs, reason = "they are gRPC's own names")]
pub enum GrpcStatus {
    Cancelled = 1,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Internal = 13,
    Unavailable = 14,
}

/// How many requests of a route may be tried again that an endpoint may have read: what keeps an outage from being made
/// worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// This share of the route's recent requests, in percent.
    pub percent: u8,
    /// But always so many in a second.
    pub min_per_second: u32,
}

impl Retry {
    /// The longest pause, where only the first one is said.
    pub fn longest_pause(first: Duration) -> Duration {
        first.saturating_mul(10)
    }

    /// Whether anything but what no endpoint read is tried again.
    pub fn is_any(&self) -> bool {
        self.attempts > 0
            && (self.on != RetryOn::default() || !self.codes.is_empty() || !self.grpc.is_empty())
    }

    /// Whether what may have run may run again, by the request's method.
    pub fn may_repeat(&self, method: &[u8]) -> bool {
        match &self.methods {
            None => is_idempotent(method),
            Some(methods) => methods.iter().any(|known| known.as_bytes() == method),
        }
    }

    /// The same in the one form of all that mean it: where nothing calls for another try, how it is made says nothing.
    #[must_use]
    pub(crate) fn plain(self) -> Self {
        if self.is_any() { self } else { Retry { try_timeout: self.try_timeout, ..Retry::default() } }
    }
}

impl RetryOn {
    /// Whether a try without an answer calls for another one.
    pub fn no_answer(self) -> bool {
        self.reset || self.gateway_error || self.server_error
    }

    /// Whether a try that was never read does.
    pub fn unread(self) -> bool {
        self.connect_failure || self.server_error
    }

    /// Whether an answer of this status does.
    pub fn status(self, status: u16) -> bool {
        match status {
            502..=504 => self.gateway_error || self.server_error,
            500..=599 => self.server_error,
            _ => false,
        }
    }
}

impl GrpcStatus {
    /// Every one of them, in order.
    pub const ALL: [GrpcStatus; 5] = [
        GrpcStatus::Cancelled,
        GrpcStatus::DeadlineExceeded,
        GrpcStatus::ResourceExhausted,
        GrpcStatus::Internal,
        GrpcStatus::Unavailable,
    ];
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 1,
            on: RetryOn::default(),
            codes: Vec::new(),
            grpc: Vec::new(),
            methods: None,
            try_timeout: None,
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            retry_after: Some(Duration::from_secs(1)),
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { percent: 20, min_per_second: 3 }
    }
}

/// Whether a request of this method may run twice by what the method means (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE")
}

/// Most tries behind the first one.
pub const MAX_ATTEMPTS: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_declared_idempotent_is_repeated() {
        let retry = Retry::default();
        assert!(retry.may_repeat(b"GET") && retry.may_repeat(b"PUT"));
        assert!(!retry.may_repeat(b"POST") && !retry.may_repeat(b"PATCH") && !retry.may_repeat(b"get"));
        let said = Retry { methods: Some(vec!["POST".into()]), ..retry };
        assert!(said.may_repeat(b"POST") && !said.may_repeat(b"GET"));
    }

    #[test]
    fn each_condition_has_what_the_narrower_ones_have() {
        let gateway = RetryOn { gateway_error: true, ..RetryOn::default() };
        let server = RetryOn { server_error: true, ..RetryOn::default() };
        assert!(gateway.status(503) && !gateway.status(500) && gateway.no_answer() && !gateway.unread());
        assert!(server.status(503) && server.status(500) && server.no_answer() && server.unread());
        assert!(!server.status(499) && !server.status(600));
    }
}
