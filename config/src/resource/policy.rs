//! TrafficPolicy and MeshPolicy.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use super::balancing::Balancing;
use super::circuit::Circuit;
use super::ejection::Ejection;
use super::filter::{Fault, RateLimit};
use super::health::HealthCheck;
use super::locality::Nearness;
use super::meta::TargetRef;
use super::overload::Overload;
use super::retry::Retry;
use crate::snapshot::Priority;

/// How callers treat a Service, and what is done to single requests. What a policy for one rule of a route leaves out is
/// taken from the policy for the whole route, then from that for the port, then from that for the whole Service, then from
/// the defaults.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// The Services, or single ports of them, or the routes, or single rules of them, that this is about.
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
    /// What is tried again, and how long one try may take.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// How many requests pass in a time: those that all of these let pass. Of a Service or port, for all callers, kept by
    /// the Service's own sidecar; of a route, for each caller's sidecar.
    #[serde(default)]
    pub rate_limits: Option<Vec<RateLimit>>,
    /// The largest body of a request, in bytes. Kept as `rateLimits` are. Default: no limit.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_request_bytes: Option<u64>,
    /// The largest head of a request: bytes of target, host, and names and values of headers. Kept as `rateLimits` are.
    /// Default: no limit but the sidecar's own.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_header_bytes: Option<u64>,
    /// Faults that are made on purpose, by the sidecars of callers.
    #[serde(default)]
    pub fault: Option<Fault>,
    /// How an endpoint is chosen.
    #[serde(default)]
    pub balancing: Option<Balancing>,
    /// How much goes there at once.
    #[serde(default)]
    pub circuit: Option<Circuit>,
    /// How its endpoints are asked whether they are well. Default: they are not.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// That endpoints near the caller are preferred. Default: where they are says nothing.
    #[serde(default)]
    pub locality: Option<Nearness>,
    /// Has the Service's own sidecar refuse what its application cannot work on at once. Default: it refuses nothing.
    #[serde(default)]
    pub overload: Option<Overload>,
    /// Of a route: whether its requests are refused first where `overload` of its Service refuses any. Default `Default`.
    #[serde(default)]
    pub priority: Option<Priority>,
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
