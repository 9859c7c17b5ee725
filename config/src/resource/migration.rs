//! Migration.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// Moves the work of one instance of a Service to another one, so that no request notices. It is begun once, and by the control
/// plane alone: what is changed in it later changes nothing, and where it is removed while that is possible it is aborted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrationSpec {
    /// The Service, of the Migration's namespace.
    pub service: String,
    /// Where it is.
    pub from: MigrationPlace,
    /// Where it goes.
    pub to: MigrationPlace,
    /// What the Service is taken to keep between requests: where it says otherwise itself, nothing is moved. Default: what it
    /// says.
    #[serde(default)]
    pub class: Option<MigrationClass>,
    /// How long the new place may take to be ready; after that it is aborted. From 1ms to 24h. Default 10s.
    #[serde(default)]
    pub prepare_timeout: Option<Duration>,
    /// How long requests that run at the old place of a Service with state may take to end; where they take longer it is
    /// aborted. From 1ms to 24h. Default 2s.
    #[serde(default)]
    pub quiesce_timeout: Option<Duration>,
    /// How many rounds, at most, copy the state of a Service with `changes` while it still serves at the old place: all of it first,
    /// and then what has changed since the round before, until that is no more than 256 KiB. 0: all of it is copied while nobody
    /// serves. Up to 64. Default 4.
    #[serde(default)]
    #[schemars(range(max = 64))]
    pub precopy_rounds: Option<u32>,
    /// How long callers may take to hear of it; it goes on without those who have not. From 1ms to 24h. Default 5s.
    #[serde(default)]
    pub switch_timeout: Option<Duration>,
    /// How long what runs at the old place is waited for; what is left then is counted, and ends there. From 1ms to 24h.
    /// Default 30s.
    #[serde(default)]
    pub drain_timeout: Option<Duration>,
}

/// One end of a Migration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrationPlace {
    /// What an instance calls itself: the last part of its name in `lighter get sidecars`.
    pub instance: String,
}

/// What a Service keeps between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MigrationClass {
    /// Nothing: two instances may serve at once.
    Stateless,
    /// What is in memory: one instance serves at a time.
    Volatile,
    /// What it acknowledges is in a journal elsewhere before that: one instance serves at a time.
    Journaled,
}
