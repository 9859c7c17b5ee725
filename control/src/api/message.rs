//! What the API and its clients say to each other: JSON, in these words.

use std::time::SystemTime;

use lighter_config::error::ConfigError;
use lighter_config::manifest::Key;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ca::TokenInfo;
use crate::migrate::Shown;

/// Files, as a client read them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    /// In their order.
    pub files: Vec<File>,
}

/// One file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// What errors call it.
    pub name: String,
    /// Its documents, as YAML or JSON.
    pub text: String,
}

/// Resources by name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keys {
    /// Which.
    pub keys: Vec<Key>,
}

/// What was done, or would be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// Whether it was only tried.
    pub dry_run: bool,
    /// The store's generation before.
    pub generation_before: u64,
    /// The store's generation after.
    pub generation: u64,
    /// What became of each resource that was named or pruned.
    pub changes: Vec<Changed>,
    /// What is allowed, but probably not meant, of everything there is then.
    pub warnings: Vec<ConfigError>,
}

/// What became of one resource.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// Which.
    #[serde(flatten)]
    pub key: Key,
    /// `created`, `configured`, `unchanged`, `deleted` or `pruned`.
    pub change: String,
    /// How it was.
    pub before: Option<Value>,
    /// How it is.
    pub after: Option<Value>,
}

/// Resources as they are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    /// The store's generation.
    pub generation: u64,
    /// By kind, namespace and name.
    pub items: Vec<Item>,
}

/// One resource as it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Which.
    #[serde(flatten)]
    pub key: Key,
    /// What it says, with its `status`; its `metadata.resourceVersion` is its generation.
    pub document: Value,
    /// The store's generation that wrote it.
    pub generation: u64,
    /// The set that it was pushed with.
    #[serde(default)]
    pub set: Option<String>,
    /// Who pushed it.
    pub written_by: String,
    /// When it was written last, in seconds since 1970.
    pub at: u64,
}

/// A sidecar was told to drain.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Draining {
    /// Which.
    pub sidecar: String,
}

/// Migrations as they are now.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationList {
    /// Those of a namespace in the order in which they began.
    pub migrations: Vec<Shown>,
}

/// A migration was told to be aborted. Whether it is shows in its outcome.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Aborting {
    /// Which, `namespace/name`.
    pub migration: String,
}

/// What a join token is to be for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    /// For which service, `namespace/name`.
    pub service: String,
    /// How long it can be used. Default: 15 minutes.
    #[serde(default)]
    pub life_seconds: Option<u64>,
}

/// A join token that was made. It is shown once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeToken {
    /// The token.
    pub token: String,
}

/// A join token on record, without its secret.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinToken {
    /// Its id.
    pub id: String,
    /// For which service.
    pub service: String,
    /// Until when, in seconds since 1970.
    pub expires: u64,
    /// `open`, `spent` or `expired`.
    pub state: String,
}

impl JoinToken {
    /// What may be known of it.
    pub fn of(info: &TokenInfo, now: SystemTime) -> Self {
        let (service, state) = (info.service(), info.state(now).to_owned());
        JoinToken { id: info.id.clone(), service, expires: info.expires, state }
    }
}

/// Every join token on record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokens {
    /// Those that expire soonest first.
    pub tokens: Vec<JoinToken>,
}

/// Why something was not done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// In one line.
    pub message: String,
    /// What is wrong with which resources.
    #[serde(default)]
    pub errors: Vec<ConfigError>,
}
