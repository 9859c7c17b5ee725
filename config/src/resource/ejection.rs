//! When a TrafficPolicy leaves an endpoint alone.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// When an endpoint that fails is left alone. Whatever the reason, it is for a while, and `maxPercent` holds for all of
/// them together.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ejection {
    /// How many connections in a row must fail. 0: an endpoint is never ejected for that. Default 3.
    #[serde(default)]
    pub consecutive_failures: Option<u32>,
    /// Length of the first ejection; the n-th lasts n times as long, up to ten times. Default 10s.
    #[serde(default)]
    pub duration: Option<Duration>,
    /// At most this share of a port's endpoints is ejected at once. Default 50.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub max_percent: Option<u8>,
    /// How many answers in a row must have a status from 500 to 599. 0, which is the default: an endpoint is never ejected
    /// for that.
    #[serde(default)]
    pub consecutive5xx: Option<u32>,
    /// The same of the statuses 502, 503 and 504. Default 0.
    #[serde(default)]
    pub consecutive_gateway_errors: Option<u32>,
    /// How often endpoints are compared with each other. Default 10s.
    #[serde(default)]
    pub interval: Option<Duration>,
    /// Ejects those that fail more often than the others. Default: none is.
    #[serde(default)]
    pub success_rate: Option<SuccessRate>,
    /// Ejects those that take longer than the others. Default: none is.
    #[serde(default)]
    pub latency: Option<Latency>,
}

/// Ejects endpoints that fail more often than the others: by a broken connection or a status from 500 to 599.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuccessRate {
    /// How many standard deviations below the mean of all a share of successes must lie. Default 1.9.
    #[serde(default)]
    #[schemars(range(min = 0.1, max = 100.0))]
    pub deviations: Option<f64>,
    /// None is ejected where fewer endpoints than these had enough requests to be compared. Default 5.
    #[serde(default)]
    #[schemars(range(min = 2))]
    pub minimum_hosts: Option<u32>,
    /// Requests of an endpoint in an interval, so that it is compared. Default 100.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub request_volume: Option<u32>,
}

/// Ejects endpoints that take longer than the others, from a request to its answer's head.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Latency {
    /// How many times the median of all the mean of one must be. Default 3.
    #[serde(default)]
    #[schemars(range(min = 1.1, max = 1000.0))]
    pub factor: Option<f64>,
    /// None is ejected where fewer endpoints than these had enough requests to be compared. Default 3.
    #[serde(default)]
    #[schemars(range(min = 2))]
    pub minimum_hosts: Option<u32>,
    /// Requests of an endpoint in an interval, so that it is compared. Default 20.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub request_volume: Option<u32>,
}
