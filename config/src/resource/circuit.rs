//! How much a TrafficPolicy lets through at once.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// How much goes to a port at once, from one sidecar. What is above it waits for a while, and is then answered with 503.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Circuit {
    /// Connections in use: opaque ones, and those of HTTP/1.1 with a request on them. HTTP/2 and links carry many requests
    /// on a few, and are bounded by `maxRequests`. Default: no limit.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// Requests and opaque connections, whatever carries them. Default: no limit.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
    /// Those that wait until one of them ends. 0: none waits. Default 1024.
    #[serde(default)]
    pub max_pending_requests: Option<u32>,
    /// How long one waits. Default 1s.
    #[serde(default)]
    pub pending_timeout: Option<Duration>,
}
