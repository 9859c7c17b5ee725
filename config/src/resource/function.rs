//! Function.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// What can run in several places with the same result, and what it is thought to take until answers say better.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FunctionSpec {
    /// What it needs beside a request.
    pub state: FunctionState,
    /// How long it takes on the reference host, whatever it works on, up to 24h. Default 1ms.
    #[serde(default)]
    pub time: Option<Duration>,
    /// How much it works through on the reference host. Default: its time does not depend on that.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub bytes_per_second: Option<u64>,
    /// How many bytes its result has for each hundred that it works on, up to 1000000. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub result_percent: Option<f64>,
}

/// What a Function needs beside a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FunctionState {
    /// Nothing: it runs anywhere.
    Stateless,
    /// Data that it only reads: it runs where one version of them is.
    ReadOnly,
    /// What it wrote before: it runs where that is.
    Stateful,
}
