//! Device.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::sidecar::DeviceClass;

/// A place where functions can run beside a Service's own endpoints, and what it is like. Of class `host` it says instead what
/// the endpoints of a Service are like.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceSpec {
    /// What kind of machine it is.
    pub class: DeviceClass,
    /// The Service by which it is reached. Must be there, but for class `host`, which has none.
    #[serde(default)]
    pub service: Option<DeviceService>,
    /// The Functions of its namespace that it holds.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub functions: Vec<String>,
    /// The data that it holds.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub datasets: Vec<HeldDataset>,
    /// How many times as long as on the reference host a function takes, from 0.000001 to 1000000. Default 4, of a host 1.
    #[serde(default)]
    #[schemars(range(min = 0.000_001, max = 1_000_000.0))]
    pub compute_factor: Option<f64>,
    /// How many requests it works on at once. Default 4, of a host 64.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub slots: Option<u32>,
    /// How fast requests and answers get there and back. Default 1250000000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub link_bytes_per_second: Option<u64>,
    /// How fast it reads the data. Default 3000000000, of a host 1250000000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub data_bytes_per_second: Option<u64>,
    /// What it draws while it works, in watts above idle. Default 5, of a host 10.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub busy_watts: Option<f64>,
    /// What it costs to move a byte to or from it, in joules, up to 1. Default 0.00000001.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub joules_per_byte: Option<f64>,
    /// Whether the data that it reads is moved to it over the network. Default false, of a host true.
    #[serde(default)]
    pub data_is_moved: Option<bool>,
}

/// The Service by which a Device is reached.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceService {
    /// Its name, in the Device's namespace.
    pub name: String,
    /// Its port. May be left out if it has only one.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
}

/// Data that a Device holds.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeldDataset {
    /// Its name: letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// The only version of it that is there, of the same letters.
    pub version: String,
}
