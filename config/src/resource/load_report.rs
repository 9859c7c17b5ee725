//! How the load that endpoints report says their shares.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// What is made of the load that answers report (ORCA).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadReports {
    /// How long an endpoint that begins to report has an average share. Default 10s; `0s`: it does not.
    #[serde(default)]
    pub blackout: Option<Duration>,
    /// How long after its last report an endpoint has an average share again. Default 3m.
    #[serde(default)]
    pub expiration: Option<Duration>,
    /// How often shares are worked out, at least 100ms. Default 1s.
    #[serde(default)]
    pub interval: Option<Duration>,
    /// How much the share of requests that are errors adds to the utilization, in percent of it. Default 100.
    #[serde(default)]
    #[schemars(range(max = 100_000))]
    pub error_penalty_percent: Option<u32>,
    /// What stands for the utilization where the application does not report its own: the largest of these, such as
    /// `named_metrics.queue`, `utilization.disk`, `mem_utilization`. Default: `cpu_utilization`.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub metrics: Vec<String>,
    /// Whether callers see the reports. Default false.
    #[serde(default)]
    pub pass_on: Option<bool>,
}
