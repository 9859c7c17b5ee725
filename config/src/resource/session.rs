//! How requests of one session find the endpoint of the first one again (Gateway API, GEP-1619).

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// A session: the answer to its first request says a value that its later requests bring with them, and by which they go to
/// the same endpoint as long as that takes requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// Name of the cookie or header. Default: `session-` and some digits that are the same for the same rule.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub session_name: Option<String>,
    /// What carries the value. Default `Cookie`.
    #[serde(default, rename = "type")]
    pub kind: SessionType,
    /// How long a session lasts at most; whole seconds. Default: without limit.
    #[serde(default)]
    pub absolute_timeout: Option<Duration>,
    /// How long a session lasts without a request; whole seconds. Default: without limit.
    #[serde(default)]
    pub idle_timeout: Option<Duration>,
    /// About the cookie.
    #[serde(default)]
    pub cookie_config: Option<CookieConfig>,
}

/// What carries the value of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SessionType {
    /// A cookie.
    #[default]
    Cookie,
    /// A header of answers, which the client says again in its requests.
    Header,
}

/// About a cookie.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// How long the client keeps it. Default `Session`.
    #[serde(default)]
    pub lifetime_type: Lifetime,
}

/// How long a client keeps a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Lifetime {
    /// Until it is closed.
    #[default]
    Session,
    /// For `absoluteTimeout`, which has to be said.
    Permanent,
}
