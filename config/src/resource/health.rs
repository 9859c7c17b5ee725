//! How a TrafficPolicy has endpoints asked whether they are well, and how those that are new begin.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use crate::probe::ProbeSpec;

/// How a sidecar asks each endpoint whether it is well. One that is not gets no requests, while enough of them are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked, how often, and how many answers count; not by `exec`. An endpoint with an identity is asked in mTLS, and
    /// by a link where its sidecar accepts them. Default: whether it accepts a connection.
    #[serde(default)]
    pub probe: Option<ProbeSpec>,
    /// Where less than this share of a port's endpoints are well, in percent, all of them get requests, since more probably
    /// something is wrong with the question. 0: never. Default 50.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub panic_threshold: Option<u8>,
}

/// How an endpoint begins that is new, or was ejected or unwell: with a small part of its share, which rises to all of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    /// How long that takes.
    pub window: Duration,
    /// The part with which it begins, in percent. Default 10.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub min_weight_percent: Option<u8>,
}
