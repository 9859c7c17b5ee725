//! JSON schemas of everything that can be written, made from the types that read it.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::control::ControlFile;
use crate::load::RESOURCE_KINDS;
use crate::resource::authorization::AuthorizationPolicySpec;
use crate::resource::device::DeviceSpec;
use crate::resource::function::FunctionSpec;
use crate::resource::link::LinkPolicySpec;
use crate::resource::migration::MigrationSpec;
use crate::resource::offload::OffloadPolicySpec;
use crate::resource::policy::{MeshPolicySpec, TrafficPolicySpec};
use crate::resource::route::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec};
use crate::resource::service::ServiceSpec;
use crate::resource::{Resource, Spec};
use crate::scenario::Scenario;
use crate::sidecar::file::SidecarFile;

/// Every kind that has a schema: those of resource files, then the sidecar's own file, the control plane's, and
/// scenarios of the simulator.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    RESOURCE_KINDS.into_iter().chain(["SidecarConfig", "ControlConfig", "Scenario"])
}

/// The schema (draft 2020-12) of one of [`kinds`].
pub fn of(kind: &str) -> Option<Value> {
    Some(match kind {
        "Service" => resource::<ServiceSpec>(),
        "HTTPRoute" => resource::<HttpRouteSpec>(),
        "GRPCRoute" => resource::<GrpcRouteSpec>(),
        "TCPRoute" => resource::<TcpRouteSpec>(),
        "TrafficPolicy" => resource::<TrafficPolicySpec>(),
        "MeshPolicy" => resource::<MeshPolicySpec>(),
        "LinkPolicy" => resource::<LinkPolicySpec>(),
        "AuthorizationPolicy" => resource::<AuthorizationPolicySpec>(),
        "Device" => resource::<DeviceSpec>(),
        "Function" => resource::<FunctionSpec>(),
        "OffloadPolicy" => resource::<OffloadPolicySpec>(),
        "Migration" => resource::<MigrationSpec>(),
        "SidecarConfig" => own_file::<SidecarFile>("SidecarConfig"),
        "ControlConfig" => own_file::<ControlFile>("ControlConfig"),
        "Scenario" => own_file::<Scenario>("Scenario"),
        _ => return None,
    })
}

fn own_file<F: JsonSchema>(title: &str) -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<F>().to_value();
    schema["title"] = json!(title);
    schema
}

fn resource<S: Spec>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Resource<S>>().to_value();
    schema["title"] = json!(S::KIND);
    schema["properties"]["kind"]["const"] = json!(S::KIND);
    schema["properties"]["apiVersion"]["enum"] = json!(S::API_VERSIONS);
    schema
}
