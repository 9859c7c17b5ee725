//! `metadata`, and references from one resource to another.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// A resource's name, and what else is known about it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Its name, unique among resources of its kind and namespace.
    pub name: String,
    /// Its namespace. Default `default`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Free for the user.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Free for the user.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// When it was made, `2026-11-26T12:00:00Z`: the older of two routes that match alike is preferred.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    /// Written by Kubernetes. Ignored.
    #[serde(default)]
    pub uid: Option<Value>,
    /// Written by Kubernetes. Ignored.
    #[serde(default)]
    pub resource_version: Option<Value>,
    /// Written by Kubernetes. Ignored.
    #[serde(default)]
    pub generation: Option<Value>,
    /// Written by Kubernetes. Ignored.
    #[serde(default)]
    pub managed_fields: Option<Value>,
    /// Written by Kubernetes. Ignored.
    #[serde(default)]
    pub owner_references: Option<Value>,
    /// Written by Kubernetes. Ignored.
    #[serde(default)]
    pub finalizers: Option<Value>,
}

/// The Service that a route is for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// Empty, or the group of Lighter's own Service.
    #[serde(default)]
    pub group: Option<String>,
    /// `Service`.
    #[serde(default)]
    pub kind: Option<String>,
    /// The Service's name.
    pub name: String,
    /// Its namespace, which must be the route's own. Default: the route's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// One of its ports, by number. Default: every port that can carry what the route is about.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// One of its ports, by name.
    #[serde(default)]
    pub section_name: Option<String>,
}

/// Where a share of a rule's traffic goes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Empty, or the group of Lighter's own Service.
    #[serde(default)]
    pub group: Option<String>,
    /// `Service`. The default.
    #[serde(default)]
    pub kind: Option<String>,
    /// The Service's name.
    pub name: String,
    /// Its namespace. Default: the route's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The Service's port. May be left out if it has only one.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Its share among its siblings, from 0 to 1000000. Default 1.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub weight: Option<u32>,
}

/// What a policy is about.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// Empty, or the group of Lighter's own Service. For a route, `gateway.networking.k8s.io`.
    #[serde(default)]
    pub group: Option<String>,
    /// `Service`, the default. A TrafficPolicy may be about an `HTTPRoute` or `GRPCRoute` as well, and an
    /// OffloadPolicy is about nothing else.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its name, in the policy's namespace.
    pub name: String,
    /// One of the Service's ports. Default: all of them.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// One of the Service's ports by name, or one of the route's rules: by its name, or by its number from 0 where it has
    /// none.
    #[serde(default)]
    pub section_name: Option<String>,
}
