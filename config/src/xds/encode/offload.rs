//! Where requests of a route may run beside its backends, as metadata: clients of gRPC take no notice of any.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::millis;
use crate::snapshot::{Offload, OffloadDataset, OffloadDevice, OffloadFunction, PlaceProfile};
use crate::xds::names;
use crate::xds::wire::envoy::config::core::v3 as core;

/// Metadata of a route, in which nothing may be that is not known: it decides where requests go.
pub(in crate::xds) const OFFLOAD: &str = "lighter.offload";

/// The metadata of a route of which this is said.
pub(super) fn metadata(offload: &Offload) -> core::Metadata {
    core::Metadata { filter_metadata: [(OFFLOAD.to_string(), self::offload(offload))].into_iter().collect() }
}

fn offload(offload: &Offload) -> Struct {
    let devices = offload.devices.iter().map(|device| inner(self::device(device))).collect();
    let mut fields = vec![
        ("policy", text(&offload.policy)),
        ("objective", text(offload.objective.label())),
        ("slo_ms", whole(millis(offload.slo))),
        ("miss_share", number(offload.miss_share)),
        ("window_ms", whole(millis(offload.window))),
        ("margin", number(offload.margin)),
        ("explore_share", number(offload.explore_share)),
        ("function", inner(function(&offload.function))),
        ("host", inner(profile(&offload.host))),
        ("devices", Value { kind: Some(Kind::ListValue(ListValue { values: devices })) }),
    ];
    fields.extend(offload.try_timeout.map(|limit| ("try_timeout_ms", whole(millis(limit)))));
    fields.extend(offload.dataset.as_ref().map(|dataset| ("dataset", inner(self::dataset(dataset)))));
    of(fields)
}

fn function(function: &OffloadFunction) -> Struct {
    of(vec![
        ("name", text(&function.name)),
        ("seconds", number(function.seconds)),
        ("seconds_per_byte", number(function.seconds_per_byte)),
        ("out_share", number(function.out_share)),
    ])
}

fn dataset(dataset: &OffloadDataset) -> Struct {
    of(vec![
        ("name", text(&dataset.name)),
        ("version", text(&dataset.version)),
        ("bytes", whole(dataset.bytes)),
    ])
}

fn device(device: &OffloadDevice) -> Struct {
    let mut fields = vec![
        ("name", text(&device.name)),
        ("cluster", text(&names::cluster(&device.target))),
        ("profile", inner(profile(&device.profile))),
        ("has_function", flag(device.has_function)),
    ];
    fields.extend(device.dataset.as_ref().map(|version| ("dataset_version", text(version))));
    of(fields)
}

fn profile(profile: &PlaceProfile) -> Struct {
    of(vec![
        ("compute_factor", number(profile.compute_factor)),
        ("slots", whole(profile.slots.into())),
        ("link_bytes_per_second", number(profile.link_bytes_per_second)),
        ("data_bytes_per_second", number(profile.data_bytes_per_second)),
        ("busy_watts", number(profile.busy_watts)),
        ("joules_per_byte", number(profile.joules_per_byte)),
        ("is_data_moved", flag(profile.is_data_moved)),
    ])
}

fn of(fields: Vec<(&str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect() }
}

fn inner(fields: Struct) -> Value {
    Value { kind: Some(Kind::StructValue(fields)) }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_string())) }
}

fn number(number: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(number)) }
}

/// A text, as protobuf writes 64 bits in JSON: not every such number is a floating one.
fn whole(number: u64) -> Value {
    text(&number.to_string())
}

fn flag(flag: bool) -> Value {
    Value { kind: Some(Kind::BoolValue(flag)) }
}
