//! TrafficPolicy and MeshPolicy.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use super::meta::TargetRef;

/// How callers treat a Service. What a policy for one port leaves out is taken from the policy for the whole Service,
/// then from the defaults.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// The Services, or single ports of them, that this is about.
    #[schemars(length(min = 1))]
    pub target_refs: Vec<TargetRef>,
    /// Longest wait for a connection. Default 5s.
    #[serde(default)]
    pub connect_timeout: Option<Duration>,
    /// Longest time from a request's head to the end of its answer; `0s`: no limit. Default: no limit.
    #[serde(default)]
    pub request_timeout: Option<Duration>,
    /// Longest silence of an open exchange or an opaque connection; `0s`: no limit. Default 1h.
    #[serde(default)]
    pub idle_timeout: Option<Duration>,
    /// Longest rest of a kept connection to an endpoint. Default 60s.
    #[serde(default)]
    pub keep_alive: Option<Duration>,
    /// Kept connections per endpoint and worker. Default 1024.
    #[serde(default)]
    pub max_idle_connections: Option<u32>,
    /// When an endpoint that fails is left alone.
    #[serde(default)]
    pub ejection: Option<Ejection>,
    /// What is tried again.
    #[serde(default)]
    pub retry: Option<Retry>,
}

/// When an endpoint that fails is left alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ejection {
    /// How many connections in a row must fail. 0: an endpoint is never ejected. Default 3.
    #[serde(default)]
    pub consecutive_failures: Option<u32>,
    /// Length of the first ejection; the n-th lasts n times as long, up to ten times. Default 10s.
    #[serde(default)]
    pub duration: Option<Duration>,
    /// At most this share of a port's endpoints is ejected at once. Default 50.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub max_percent: Option<u8>,
}

/// What is tried again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Whether a request that the upstream never read is tried once more elsewhere. Default true.
    #[serde(default)]
    pub safe: Option<bool>,
}

/// What holds for the whole mesh, or for some Services of it. At most one MeshPolicy says each thing of each of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshPolicySpec {
    /// The Services, or single ports of them, that this is about. Default: the whole mesh.
    #[serde(default)]
    pub target_refs: Vec<TargetRef>,
    /// Whether workloads that have an identity let callers in that have none. What is said of a port goes before what
    /// is said of its Service, and that before what is said of the mesh. Default `permissive`.
    #[serde(default)]
    pub mtls: Option<Mtls>,
    /// What happens to a destination that is in no Service. Default `passthrough`.
    #[serde(default)]
    pub outbound_policy: Option<OutboundPolicy>,
}

/// Whether a workload that has an identity lets callers in that have none.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mtls {
    /// Callers in plain text are served and counted.
    Permissive,
    /// Callers in plain text are refused.
    Strict,
}

/// What happens to a destination that is in no Service.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OutboundPolicy {
    /// The connection goes where it wanted to go, untouched and counted.
    Passthrough,
    /// The connection is refused.
    RegistryOnly,
}
