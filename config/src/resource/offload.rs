//! OffloadPolicy.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use super::meta::TargetRef;

/// That requests of some routes may run on Devices beside the routes' own backends: wherever the objective is met best. What is
/// said of a rule goes before what is said of its whole route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OffloadPolicySpec {
    /// The routes, or single rules of them, that this is about: each an `HTTPRoute` or a `GRPCRoute`.
    #[schemars(length(min = 1))]
    pub target_refs: Vec<TargetRef>,
    /// The Function that their requests run, of the policy's namespace. A stateful one cannot be named.
    pub function: String,
    /// What it reads. Must be there for a Function that is `readOnly`; others read nothing.
    #[serde(default)]
    pub dataset: Option<ReadDataset>,
    /// Where it may run beside the routes' own backends: Devices of the policy's namespace, none of them of class `host`. Those
    /// that are not there yet are used once they are. Default: the Devices of the namespace that hold the function, and the
    /// dataset at its version, up to 32 of them by name.
    #[serde(default)]
    #[schemars(length(min = 1, max = 32))]
    pub devices: Option<Vec<String>>,
    /// A Device of class `host`, which says what the routes' own backends are like. Default: as the defaults of that class are.
    #[serde(default)]
    pub host: Option<String>,
    /// What is wanted least of. Default `latency`.
    #[serde(default)]
    pub objective: Option<Objective>,
    /// How quick answers have to be.
    #[serde(default)]
    pub slo: Slo,
    /// How long a device has to answer before the request goes to the routes' own backends, and how long it may be silent within
    /// its answer. Default: what the backends can spare of `slo.latency`, by what is expected of both, for each request anew; and
    /// `slo.latency` within an answer.
    #[serde(default)]
    pub try_timeout: Option<Duration>,
    /// By how much the other side has to be better, so that requests go there, in percent. Default 10.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub margin_percent: Option<f64>,
    /// How many of a hundred requests may find out how a place does. Default 2.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub explore_percent: Option<f64>,
}

/// What a Function reads.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReadDataset {
    /// Its name, as Devices have it.
    pub name: String,
    /// The version that the routes' own backends read. Others are not the same data.
    pub version: String,
    /// How many bytes a request reads of it, where the request does not say.
    #[schemars(range(min = 1))]
    pub bytes: u64,
}

/// What is wanted least of.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Objective {
    /// Time until the answer.
    Latency,
    /// Joules.
    Energy,
    /// Bytes that cross the network.
    Bytes,
}

/// How quick answers have to be.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slo {
    /// An answer that takes longer is a miss; up to 24h. Default 100ms.
    #[serde(default)]
    pub latency: Option<Duration>,
    /// How many of a hundred answers may be misses, at least 0.001. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 100.0))]
    pub miss_percent: Option<f64>,
    /// How long misses are counted, and how long devices are left alone at least after too many; up to 24h. Default 1s.
    #[serde(default)]
    pub window: Option<Duration>,
}
