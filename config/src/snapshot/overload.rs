//! How a Service is kept from more than it can do at once, as a snapshot has it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// How a Service's own sidecar finds out how many requests its application can work on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overload {
    /// So many at once are always let through, at least one.
    pub min_concurrency: u32,
    /// Never more than so many, at least `min_concurrency`.
    pub max_concurrency: u32,
    /// How often the limit is worked out.
    pub interval: Duration,
    /// Which latency stands for all of an interval, in percent of them: from 1 to 99.
    pub percentile: u8,
    /// By how much answers may take longer than those of an application at rest, in percent.
    pub tolerance_percent: u32,
    /// How long it is believed how quick the application is at rest.
    pub baseline_interval: Duration,
    /// How many requests say it, at least one.
    pub baseline_requests: u32,
    /// The part of the limit that is for routes of high priority, in percent: up to 90.
    pub reserve_percent: u8,
}

impl Default for Overload {
    fn default() -> Self {
        Overload {
            min_concurrency: 3,
            max_concurrency: 1000,
            interval: Duration::from_millis(100),
            percentile: 50,
            tolerance_percent: 25,
            baseline_interval: Duration::from_secs(60),
            baseline_requests: 50,
            reserve_percent: 20,
        }
    }
}

/// Which requests of a Service with `overload` are refused first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
pub enum Priority {
    /// Those.
    #[default]
    Default,
    /// These only when there is no room for any.
    High,
}
