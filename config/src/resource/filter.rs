//! What a TrafficPolicy does to single requests: limits of their rate and size, and faults that are made on purpose.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use super::meta::BackendRef;
use super::route::ValueMatch;

/// How many requests pass in a time. Kept by each sidecar for itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// So many requests.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// In so much time. Default 1s.
    #[serde(default)]
    pub interval: Option<Duration>,
    /// So many may come at once after a rest. Default: as `requests`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
    /// Who shares it. Default `All`.
    #[serde(default)]
    pub per: RateLimitPer,
    /// The header of `per: Header`. Those without it share one limit.
    #[serde(default)]
    pub header: Option<String>,
    /// How many identities or values are told apart at once; those that were seen last. Default 4096.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_keys: Option<u32>,
}

/// Who shares a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RateLimitPer {
    /// All requests.
    #[default]
    All,
    /// Those of one caller, by the SPIFFE ID that it has proved. Those who proved none share one limit. Only the sidecar
    /// of the Service knows them, so the policy's targets are Services or ports.
    Identity,
    /// Those with one value of a header.
    Header,
}

/// Faults for requests to be tried with.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Has requests wait.
    #[serde(default)]
    pub delay: Option<FaultDelay>,
    /// Has requests fail.
    #[serde(default)]
    pub abort: Option<FaultAbort>,
    /// Only requests with all of these headers. Default: every request.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
}

/// Has requests wait before they go on, or fail.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long.
    pub duration: Duration,
    /// This share of them, in percent. Default 100.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<f64>,
}

/// Has requests fail before they reach anybody. Exactly one of `httpStatus` and `grpcStatus` is needed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// The status of the answer, from 400 to 599.
    #[serde(default)]
    #[schemars(range(min = 400, max = 599))]
    pub http_status: Option<u16>,
    /// The gRPC status of the answer, from 1 to 16.
    #[serde(default)]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u8>,
    /// This share of them, in percent. Default 100.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<f64>,
}

/// A copy of requests for another Service, of whose answers nobody hears.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Where copies go. It has no weight.
    pub backend_ref: BackendRef,
    /// This share of the requests, in percent. Default 100.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// This share of the requests, as a fraction.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// A part of a whole.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// So many,
    pub numerator: u32,
    /// of so many. Default 100.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub denominator: Option<u32>,
}
