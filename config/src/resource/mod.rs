//! Resources as they are written: `apiVersion`, `kind`, `metadata`, `spec`.
//!
//! These types say what a file may contain. What it means, and whether it makes sense, is found out when a
//! [`Snapshot`](crate::snapshot::Snapshot) is built.

use schemars::JsonSchema;
use serde::Deserialize;

pub mod authorization;
pub mod balancing;
pub mod circuit;
pub mod device;
mod duration;
pub mod ejection;
pub mod filter;
pub mod function;
pub mod health;
pub mod link;
pub mod load_report;
pub mod locality;
pub mod meta;
pub mod migration;
pub mod offload;
pub mod overload;
pub mod policy;
pub mod retry;
pub mod route;
pub mod service;
pub mod session;
pub mod state;

pub use duration::Duration;
pub use meta::Metadata;

/// The group and version of Lighter's own kinds.
pub const LIGHTER: &str = "mesh.lighter.dev/v1";
/// The group of routes.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// A resource with its envelope.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resource<S> {
    /// Group and version of the kind.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// Its name, and what else is known about it.
    pub metadata: Metadata,
    /// What it says.
    pub spec: S,
    /// What a Kubernetes controller wrote. Ignored.
    #[serde(default)]
    pub status: Option<serde_json::Value>,
}

/// What can stand in the `spec` of a resource.
pub trait Spec: serde::de::DeserializeOwned + JsonSchema {
    /// The `kind`.
    const KIND: &'static str;
    /// Every `apiVersion` under which it is known, the usual one first.
    const API_VERSIONS: &'static [&'static str];
}

macro_rules! specs {
    ($($spec:ty: $kind:literal, [$($version:expr),+];)+) => {
        $(impl Spec for $spec {
            const KIND: &'static str = $kind;
            const API_VERSIONS: &'static [&'static str] = &[$($version),+];
        })+
    };
}

specs! {
    service::ServiceSpec: "Service", [LIGHTER];
    route::HttpRouteSpec: "HTTPRoute", ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    route::GrpcRouteSpec: "GRPCRoute", ["gateway.networking.k8s.io/v1"];
    route::TcpRouteSpec: "TCPRoute", ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"];
    policy::TrafficPolicySpec: "TrafficPolicy", [LIGHTER];
    policy::MeshPolicySpec: "MeshPolicy", [LIGHTER];
    link::LinkPolicySpec: "LinkPolicy", [LIGHTER];
    authorization::AuthorizationPolicySpec: "AuthorizationPolicy", [LIGHTER];
    device::DeviceSpec: "Device", [LIGHTER];
    function::FunctionSpec: "Function", [LIGHTER];
    offload::OffloadPolicySpec: "OffloadPolicy", [LIGHTER];
    migration::MigrationSpec: "Migration", [LIGHTER];
}
