//! A scenario of `lighter simulate`: hosts, devices, what is asked of them, and what befalls them.
//!
//! Every number has a default, and every default is assumed unless its comment names where it is from.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::Document;
use crate::error::ConfigErrors;
use crate::load::read_text;
use crate::resource::Duration;

mod check;
mod usual;

/// What is simulated.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scenario {
    /// Where all chance comes from. The same seed makes the same run. Default 1.
    pub seed: u64,
    /// How many devices there are. Default 1000.
    #[schemars(range(min = 1, max = 100_000))]
    pub devices: u32,
    /// How many requests are sent. Default 200000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub requests: u32,
    /// How many requests come in a second, at all hosts together. Default 3000.
    #[schemars(range(min = 0.001, max = 1e9))]
    pub requests_per_second: f64,
    /// What is wanted least of. Default `latency`.
    pub objective: Objective,
    /// Until when a request is to be answered. Default 100ms.
    pub slo: Duration,
    /// What part of the requests may miss that, in percent. Default 1.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub slo_miss_percent: f64,
    /// How long a route is counted before its guard judges anew, and how long each step back to devices lasts. Default 1s.
    pub guard_window: Duration,
    /// After so long, a request that a device has not answered is sent to the host. Default: for `lighter` what the host can spare
    /// of `slo`, as in a sidecar, for the others `slo`.
    pub try_timeout: Option<Duration>,
    /// How often each place says how long a request would wait there, beside saying so in answers. Who stalls or dies says
    /// nothing. Default 200ms.
    pub report_interval: Duration,
    /// The rule that the baseline `static` goes by: what reads at least so many KiB runs on a device. Default 1024.
    pub static_rule_kibibytes: f64,
    /// Where the services run.
    pub hosts: Hosts,
    /// The kinds of devices. Default: seven `csd` for each three `dpu`.
    #[schemars(length(min = 1, max = 32))]
    pub device_classes: Vec<DeviceClass>,
    /// What is asked.
    pub workload: Workload,
    /// Functions take memory on devices, and are active there while they are wanted: the same requests once more with all active
    /// everywhere, with a fixed set, and as a planner has it. Default: nothing is said of memory, and all are active everywhere.
    pub functions: Option<Functions>,
    /// By what factor hosts' sidecars are wrong about places when they start. Default: 1, they are right.
    pub believed: Believed,
    /// What befalls devices.
    #[schemars(length(max = 1000))]
    pub events: Vec<Event>,
}

/// What is wanted least of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Objective {
    /// Time until the answer.
    #[default]
    Latency,
    /// Joules, by the model.
    Energy,
    /// Bytes that cross the network.
    Bytes,
}

/// The hosts, which are all alike. Each has a sidecar that decides for its requests, and reads data over its link.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hosts {
    /// How many there are. Default 32.
    #[schemars(range(min = 1, max = 10_000))]
    pub count: u32,
    /// How many requests each works on at once. Default 16.
    #[schemars(range(min = 1, max = 4096))]
    pub slots: u32,
    /// How fast data comes to each, in MB a second. Default 1250, which is 10 Gbit/s.
    pub link_megabytes_per_second: f64,
    /// What a request draws while it works, in watts above idle. Default 12.
    pub busy_watts: f64,
    /// What it costs to move a gigabyte over the network, in joules. Default 20.
    pub joules_per_gigabyte: f64,
}

/// A kind of device.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceClass {
    /// What it is called.
    pub name: String,
    /// Its part of all devices, beside those of the other kinds.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub share: u32,
    /// How many requests it works on at once. Default 2.
    #[serde(default = "usual::slots")]
    #[schemars(range(min = 1, max = 4096))]
    pub slots: u32,
    /// How many times as long as on a host a function takes. Default 4.
    #[serde(default = "usual::compute_factor")]
    pub compute_factor: f64,
    /// How fast requests and answers get there and back, in MB a second. Default 1250.
    #[serde(default = "usual::link_megabytes_per_second")]
    pub link_megabytes_per_second: f64,
    /// How fast it reads its own data, in MB a second. Default 3200.
    #[serde(default = "usual::media_megabytes_per_second")]
    pub media_megabytes_per_second: f64,
    /// What a request draws while it works, in watts above idle. Default 3.
    #[serde(default = "usual::device_watts")]
    pub busy_watts: f64,
    /// What it costs to move a gigabyte to or from it, in joules. Default 20.
    #[serde(default = "usual::joules_per_gigabyte")]
    pub joules_per_gigabyte: f64,
    /// By how much devices of the kind differ, as the σ of a log-normal factor on their speed. Default 0.15.
    #[serde(default = "usual::spread_sigma")]
    pub spread_sigma: f64,
    /// A request that would wait longer is refused, since the main task keeps its share. Default 150ms.
    #[serde(default = "usual::max_queue")]
    pub max_queue: Duration,
    /// How many of its slots main task and power limit leave to functions. Default: all. 0: none.
    #[serde(default)]
    #[schemars(range(max = 4096))]
    pub allowed_slots: Option<u32>,
    /// With `functions`: how much memory those that are active may take together, in MB. Default 128.
    #[serde(default = "usual::memory_megabytes")]
    pub memory_megabytes: f64,
}

/// What functions take of devices' memory, and when they are active. The planner is that of the control plane.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Functions {
    /// MB that a function takes while it is active, by route; at most what a device has. Default: median 48, sigma 0.5.
    pub megabytes: LogNormal,
    /// How long it takes until one is active. Default 200ms.
    pub startup: Duration,
    /// What part of the requests that a device could run ask a device itself, which holds them until the function is active there,
    /// in percent. Default 1.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub direct_percent: f64,
    /// How long such a request is held before it goes to its host. Default 10s.
    pub activation_timeout: Duration,
    /// How often the planner decides. Default 2s.
    pub interval: Duration,
    /// What nobody wanted for so long is active nowhere. Default 60s.
    pub idle: Duration,
    /// For how long what has become active stays so where policies want it. Default 10s.
    pub settle: Duration,
}

/// What is asked. Synthetic: shaped after what was published of large systems, and not a record of any.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Workload {
    /// How many routes there are, each with a function and a data set. Default 40.
    #[schemars(range(min = 1, max = 10_000))]
    pub routes: u32,
    /// How unequal they are: the n-th most popular gets 1/n to this power. Default 1.1. That few functions get nearly all
    /// invocations is published for Azure Functions (Shahrad et al., ATC 2020), this exponent is assumed.
    pub popularity_exponent: f64,
    /// After so long, each time, all routes are as popular as the one before them was: what is wanted moves on. Default: it never does.
    pub popularity_shift: Option<Duration>,
    /// On how many devices each part of a data set lies. Default 3.
    #[schemars(range(min = 1, max = 7))]
    pub replicas: u32,
    /// How many parts of data sets lie on each device. Default 4.
    #[schemars(range(min = 1, max = 64))]
    pub shards_per_device: u32,
    /// What part of the copies is of an old version, in percent. Default 2.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub stale_percent: f64,
    /// What part of the requests only the host can run, in percent. Default 5.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub stateful_percent: f64,
    /// KiB that a request reads. Default: median 1024, sigma 1.5.
    pub scan_kibibytes: LogNormal,
    /// Bytes of an answer for a hundred bytes read, by route. Default: median 1, sigma 1.
    pub selectivity_percent: LogNormal,
    /// Microseconds that a function takes whatever the size, by route, on a host; from 20 to 20000. Default: median 300,
    /// sigma 2.36. The sigma is that of the log-normal fit to execution times of Azure Functions (Shahrad et al., ATC 2020).
    pub compute_microseconds: LogNormal,
    /// Nanoseconds that it takes for each KiB, by route, on a host. Default: median 150, sigma 0.8.
    pub compute_nanoseconds_per_kibibyte: LogNormal,
    /// By how much two runs of the same differ, as the σ of a log-normal factor. Default 0.25.
    pub noise_sigma: f64,
    /// How many requests one call of a user makes at once. Default: shape 1.6, most 32.
    pub fan_out: FanOut,
}

/// `e` to the power of a normal distribution.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogNormal {
    /// Half of what is drawn is below.
    pub median: f64,
    /// The standard deviation of the logarithm.
    pub sigma: f64,
}

/// A heavy tail from 1 on: more than n with a chance of 1/n to the power of the shape. That sizes of call graphs have a heavy tail
/// is published for Alibaba's microservices (Luo et al., SoCC 2021), the shape is assumed.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FanOut {
    /// The larger, the fewer.
    pub shape: f64,
    /// Never more than so many.
    #[schemars(range(min = 1, max = 1000))]
    pub most: u32,
}

/// What is thought of places at the start, as a multiple of what is so.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Believed {
    /// Of the speed of devices' links.
    pub link_factor: f64,
    /// Of the speed at which devices read their data.
    pub media_factor: f64,
    /// Of the time that devices take to compute.
    pub compute_factor: f64,
    /// Of the time that functions take anywhere.
    pub function_factor: f64,
}

/// Something befalls some devices.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// When, since the beginning.
    pub at: Duration,
    /// What.
    pub what: What,
    /// What part of all devices, in percent, spread over them. Without it, `devices` says which.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent: Option<f64>,
    /// Which devices, by number from 0.
    #[serde(default)]
    pub devices: Vec<u32>,
    /// After which they are as before. Default: they stay so.
    #[serde(default, rename = "for")]
    pub lasts: Option<Duration>,
    /// How many times as slow, where `what` is `slow`. Default 10.
    #[serde(default)]
    pub factor: Option<f64>,
}

/// What can befall a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// It takes requests and goes on with none.
    Stall,
    /// Everything takes longer.
    Slow,
    /// Its requests fail, and so does everything sent to it.
    Die,
}

impl What {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            What::Stall => "stall",
            What::Slow => "slow",
            What::Die => "die",
        }
    }
}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Scenario, ConfigErrors> {
        let text = read_text(path).map_err(|error| ConfigErrors { errors: vec![error] })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads the text of `file`. A text that says nothing is all defaults.
    pub fn parse(file: &str, text: &str) -> Result<Scenario, ConfigErrors> {
        let (documents, mut errors) = Document::parse(file, text);
        if let Some(second) = documents.get(1) {
            errors.push(second.root().error("a scenario has one document"));
        }
        let Some(document) = documents.first().filter(|_| errors.is_empty()) else {
            return ConfigErrors::or(errors, Scenario::default());
        };
        let scenario = match document.read::<Scenario>() {
            Ok(read) => read,
            Err(errors) => return ConfigErrors::or(errors, Scenario::default()),
        };
        check::check(&scenario, &document.root(), &mut errors);
        ConfigErrors::or(errors, scenario)
    }

    /// What names a device that is not there, in words: as flags can change how many there are, it is asked again after them.
    pub fn conflict(&self) -> Option<String> {
        let (event, device) = check::missing_device(self)?;
        Some(format!(
            "events[{event}].devices: there is no device {device}, but 0 to {}",
            self.devices.saturating_sub(1)
        ))
    }
}

#[cfg(test)]
mod tests;
