//! AuthorizationPolicy: who may call what.

use schemars::JsonSchema;
use serde::Deserialize;

use super::meta::TargetRef;

/// Who may call a Service, and what they may ask of it. The callee's sidecar enforces it, whatever its callers are.
///
/// A request that a `deny` policy matches is refused. Where any `allow` policy is about a port, a request that none of
/// them matches is refused as well. Where no policy is about a port, everything is allowed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// The Services, or single ports of them, that this is about. They are in the policy's own namespace.
    #[schemars(length(min = 1))]
    pub target_refs: Vec<TargetRef>,
    /// What is done with what a rule matches. Default `allow`.
    #[serde(default)]
    pub action: Action,
    /// Whether it is done, or only counted and logged. Default `enforce`.
    #[serde(default)]
    pub mode: Mode,
    /// A request is matched if any of them matches. None: nothing is, so that an `allow` policy allows nobody.
    #[serde(default)]
    pub rules: Vec<RuleSpec>,
}

/// What is done with what a rule matches.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It is let through.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// What it would refuse is counted and logged, and let through.
    Audit,
}

/// Both parts must match; a part that is left out matches everything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// Who calls: any of these.
    #[serde(default)]
    pub from: Vec<SourceSpec>,
    /// What is asked: any of these. Makes the ports that this is about carry HTTP only.
    #[serde(default)]
    pub to: Vec<OperationSpec>,
}

/// Everything that is said must hold; a list holds if any of its members does.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceSpec {
    /// SPIFFE IDs, whole or up to a `*` at the end. `*` alone: anyone who has proved an identity.
    #[serde(default)]
    pub principals: Vec<String>,
    /// SPIFFE IDs that it must not be. A caller without an identity is none of them.
    #[serde(default)]
    pub not_principals: Vec<String>,
    /// Namespaces of proved identities.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Address ranges of the connection's other end, `address/length`.
    #[serde(default)]
    pub cidrs: Vec<String>,
}

/// Everything that is said must hold; a list holds if any of its members does.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationSpec {
    /// Methods, in capitals.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Paths, whole or up to a `*` at the end.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Names in Host or :authority, without the port, in lower case.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Fields of the request: every one of them must match.
    #[serde(default)]
    pub headers: Vec<HeaderSpec>,
}

/// A field of the request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSpec {
    /// Its name.
    pub name: String,
    /// The whole value that it must have. Default: any.
    #[serde(default)]
    pub value: Option<String>,
}
