//! How a TrafficPolicy has endpoints chosen.

use schemars::JsonSchema;
use serde::Deserialize;

use super::health::SlowStart;
use super::load_report::LoadReports;
use crate::snapshot::Balancer;

/// Which endpoint takes a request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Balancing {
    /// How it is chosen. Default `peakEwma`.
    #[serde(default)]
    pub policy: Option<Balancer>,
    /// By what `ringHash` and `maglev` tell requests apart: the first of these that a request has. One that has none goes
    /// anywhere. Default: the caller's address.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub hash: Option<Vec<HashOn>>,
    /// Places of the lightest endpoint on the ring of `ringHash`; one that weighs twice as much has twice as many. Default
    /// 1024.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub ring_size: Option<u32>,
    /// Places in the table of `maglev`: a prime number. Default 65537.
    #[serde(default)]
    #[schemars(range(min = 2, max = 5_000_011))]
    pub table_size: Option<u32>,
    /// How an endpoint begins that is new or was away; not with `ringHash` and `maglev`. Default: with all of its share.
    #[serde(default)]
    pub slow_start: Option<SlowStart>,
    /// What `weightedRoundRobin` makes of the load that endpoints report.
    #[serde(default)]
    pub load_reports: Option<LoadReports>,
}

/// One thing by which requests are told apart: exactly one of these.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashOn {
    /// The value of this header.
    #[serde(default)]
    pub header: Option<String>,
    /// The value of this cookie.
    #[serde(default)]
    pub cookie: Option<String>,
    /// `true`: the caller's address, without its port.
    #[serde(default)]
    pub source_address: Option<bool>,
    /// `true`: the path, without the query.
    #[serde(default)]
    pub path: Option<bool>,
}
