//! How a TrafficPolicy keeps a Service from more than it can do at once.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// Has the Service's own sidecar find out how many requests its application can work on at once, by how long answers take,
/// and refuse what is more before it queues. Opaque connections are not counted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Overload {
    /// So many requests at once are always let through. Default 3.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub min_concurrency: Option<u32>,
    /// Never more than so many at once. Default 1000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_concurrency: Option<u32>,
    /// How often the limit is worked out, from 10ms to 10s. Default 100ms.
    #[serde(default)]
    pub interval: Option<Duration>,
    /// Which latency stands for all of an interval, in percent of them. Default 50.
    #[serde(default)]
    #[schemars(range(min = 1, max = 99))]
    pub percentile: Option<u8>,
    /// By how much answers may take longer than those of an application at rest before the limit falls, in percent. Default 25.
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub tolerance_percent: Option<u32>,
    /// How long it is believed how quick the application is at rest, from 1s to 24h. Whatever comes while no more than
    /// `minConcurrency` are under way says it anew; where nothing does, the limit falls to that for a moment. Default 60s.
    #[serde(default)]
    pub baseline_interval: Option<Duration>,
    /// How many requests say it. Default 50.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000))]
    pub baseline_requests: Option<u32>,
    /// The part of the limit that is for routes of `priority: High`, where there are any, in percent. Default 20.
    #[serde(default)]
    #[schemars(range(max = 90))]
    pub reserve_percent: Option<u8>,
}
