//! What TrafficPolicies and HTTPRoutes say of other tries.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use super::route::Method;
use crate::snapshot::GrpcStatus;

/// What is tried again, and how long one try may take. A try that the endpoint may have read is repeated only for methods
/// that may run twice.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Whether a request that the upstream never read is tried once more elsewhere, and, where nothing below says what else
    /// is, one that asks for no change and was answered with 503. Default true.
    #[serde(default)]
    pub safe: Option<bool>,
    /// Most tries behind the first one, where a condition below calls for them. Default 1.
    #[serde(default)]
    #[schemars(range(max = 10))]
    pub attempts: Option<u8>,
    /// What calls for another try. Default: nothing.
    #[serde(default)]
    pub on: Option<Vec<Condition>>,
    /// Status codes that do, from 400 to 599.
    #[serde(default)]
    pub codes: Option<Vec<u16>>,
    /// Statuses of gRPC that do, where the answer is nothing but its status. gRPC calls are POST: see `methods`.
    #[serde(default)]
    pub grpc_statuses: Option<Vec<GrpcStatus>>,
    /// Methods of which a request that may have run may run again. Default: those that RFC 9110 calls idempotent (GET,
    /// HEAD, OPTIONS, TRACE, PUT, DELETE).
    #[serde(default)]
    pub methods: Option<Vec<Method>>,
    /// Longest time from a try's beginning to its answer's head; `0s`: no limit. Default: no limit.
    #[serde(default)]
    pub per_try_timeout: Option<Duration>,
    /// How long to wait before another try.
    #[serde(default)]
    pub backoff: Option<Backoff>,
    /// Longest `Retry-After` of an answer that is waited for: an answer that says more is passed on. `0s`: what it says
    /// is not heeded. Default 1s.
    #[serde(default)]
    pub retry_after: Option<Duration>,
    /// How many requests may be tried again that an endpoint may have read.
    #[serde(default)]
    pub budget: Option<Budget>,
}

/// What calls for another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// The endpoint never read the request: no connection, or a stream that was refused. Of every method.
    ConnectFailure,
    /// The endpoint gave no answer: it broke the connection, or took longer than `perTryTimeout`.
    Reset,
    /// The same, and answers of status 502, 503 and 504.
    GatewayError,
    /// All of these, and answers of every status from 500 on.
    #[serde(rename = "5xx")]
    ServerError,
}

/// How long to wait before another try: from nothing to `base`, drawn anew each time, then to twice as much, and so on.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backoff {
    /// Longest pause before the first of the other tries. Default 25ms.
    #[serde(default)]
    pub base: Option<Duration>,
    /// Longest pause before any. Default ten times `base`.
    #[serde(default)]
    pub max: Option<Duration>,
}

/// How many requests of a route may be tried again that an endpoint may have read: what keeps an outage from being made
/// worse. What no endpoint read costs nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// This share of the route's recent requests. Default 20.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub percent: Option<u8>,
    /// But always so many in a second. Default 3.
    #[serde(default)]
    pub min_per_second: Option<u32>,
}

/// What is tried again of the calls that a rule takes. They may run twice, since the rule says so.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteRetry {
    /// Statuses that call for another try, where an answer is nothing but its status. `UNAVAILABLE` also means a call that got
    /// no answer, and what gRPC takes for it: 502, 503 and 504. Default: `UNAVAILABLE` alone.
    #[serde(default)]
    pub codes: Option<Vec<GrpcStatus>>,
    /// Most tries behind the first one; 0: none.
    #[serde(default)]
    #[schemars(range(max = 10))]
    pub attempts: Option<u8>,
    /// Longest pause before the first of the other tries.
    #[serde(default)]
    pub backoff: Option<Duration>,
}

/// What is tried again of the requests that a rule takes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteRetry {
    /// Status codes that call for another try, from 400 to 599. What gave no answer is tried again as well.
    #[serde(default)]
    pub codes: Vec<u16>,
    /// Most tries behind the first one; 0: none.
    #[serde(default)]
    #[schemars(range(max = 10))]
    pub attempts: Option<u8>,
    /// Longest pause before the first of the other tries.
    #[serde(default)]
    pub backoff: Option<Duration>,
}
