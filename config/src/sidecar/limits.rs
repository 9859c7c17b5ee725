//! `device: {limits: {memoryBytes: N, runs: N, …}}`: what runs of functions may take.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::At;
use crate::error::ConfigError;
use crate::resource;

/// Fewer bytes than these hold no buffer, no page and no record.
pub(super) const LEAST_MEMORY: u64 = 1 << 20;
const MOST_RUNS: u32 = 1024;
/// Of the connections that a device has open, half: the others are for what need not wait.
const MOST_WAITING: u32 = 2048;

/// What runs of functions may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Most memory of one run, in bytes. Default 64 MiB.
    pub memory_bytes: u64,
    /// Most runs at once; more are refused before they begin. Default 4.
    pub runs: usize,
    /// Longest time of one run, the time in which its result is read among it. Default 5 min.
    pub deadline: Duration,
    /// What the keys and values of the components of one tenant may take, and those of `counters`, in bytes. Default 16 MiB.
    pub key_bytes: u64,
    /// Most rows of one result. None: no limit. Components have no rows.
    pub result_rows: Option<u64>,
    /// Most bytes of one result. None: no limit.
    pub result_bytes: Option<u64>,
    /// Most requests that wait at once for functions which are not active. Default 1024.
    pub waiting: usize,
}

/// What runs of one component may take: nowhere more than those of any function of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComponentLimits {
    /// Most memory of one run, in bytes.
    pub memory_bytes: u64,
    /// Longest time of one run, the time in which its result is read among it.
    pub deadline: Duration,
    /// Most bytes of one result. None: no limit.
    pub result_bytes: Option<u64>,
}

impl Default for DeviceLimits {
    fn default() -> Self {
        DeviceLimits {
            memory_bytes: 64 << 20,
            runs: 4,
            deadline: Duration::from_secs(300),
            key_bytes: 16 << 20,
            result_rows: None,
            result_bytes: None,
            waiting: 1024,
        }
    }
}

/// What runs of functions may take.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LimitsFile {
    /// Most memory of one run, in bytes. Default 67108864.
    #[schemars(range(min = 1_048_576))]
    memory_bytes: Option<u64>,
    /// Most runs at once; more are refused before they begin. Default 4.
    #[schemars(range(min = 1, max = 1024))]
    runs: Option<u32>,
    /// Longest time of one run, the time in which its result is read among it. Default 5m.
    deadline: Option<resource::Duration>,
    /// What the keys and values of the components of one tenant may take, and those of `counters`, in bytes. 0: they remember
    /// nothing. Default 16777216.
    key_bytes: Option<u64>,
    /// Most rows of one result. Default: no limit.
    #[schemars(range(min = 1))]
    result_rows: Option<u64>,
    /// Most bytes of one result. Default: no limit.
    #[schemars(range(min = 1))]
    result_bytes: Option<u64>,
    /// Most requests that wait at once for functions which are not active. Default 1024.
    #[schemars(range(min = 1, max = 2048))]
    waiting: Option<u32>,
}

/// What runs of one component may take.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ComponentLimitsFile {
    /// Most memory of one run, in bytes. Default: the device's.
    #[schemars(range(min = 1_048_576))]
    pub(super) memory_bytes: Option<u64>,
    /// Longest time of one run, the time in which its result is read among it. Default: the device's.
    deadline: Option<resource::Duration>,
    /// Most bytes of one result. Default: the device's.
    #[schemars(range(min = 1))]
    result_bytes: Option<u64>,
}

impl LimitsFile {
    pub(super) fn read(self, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) -> DeviceLimits {
        let usual = DeviceLimits::default();
        let memory_bytes = self.memory_bytes.unwrap_or(usual.memory_bytes);
        check_memory(memory_bytes, at, refuse);
        let runs = self.runs.unwrap_or(usual.runs as u32);
        if !(1..=MOST_RUNS).contains(&runs) {
            refuse(at.field("runs").error(format!("{runs} runs")).hint(format!("from 1 to {MOST_RUNS}")));
        }
        let deadline = self.deadline.map_or(usual.deadline, |deadline| deadline.0);
        check_deadline(deadline, at, refuse);
        for (field, said) in [("resultRows", self.result_rows), ("resultBytes", self.result_bytes)] {
            check_result(field, said, at, refuse);
        }
        let waiting = self.waiting.unwrap_or(usual.waiting as u32);
        if !(1..=MOST_WAITING).contains(&waiting) {
            let error = at.field("waiting").error(format!("{waiting} requests that wait"));
            refuse(error.hint(format!("from 1 to {MOST_WAITING}")));
        }
        DeviceLimits {
            memory_bytes,
            runs: runs as usize,
            deadline,
            key_bytes: self.key_bytes.unwrap_or(usual.key_bytes),
            result_rows: self.result_rows,
            result_bytes: self.result_bytes,
            waiting: waiting as usize,
        }
    }
}

impl ComponentLimitsFile {
    /// What holds for a component of a device with these limits.
    pub(super) fn read(
        self,
        device: &DeviceLimits,
        at: &At<'_>,
        refuse: &mut impl FnMut(ConfigError),
    ) -> ComponentLimits {
        if let Some(bytes) = self.memory_bytes {
            check_memory(bytes, at, refuse);
        }
        if let Some(deadline) = self.deadline {
            check_deadline(deadline.0, at, refuse);
        }
        check_result("resultBytes", self.result_bytes, at, refuse);
        let memory_bytes = self.memory_bytes.unwrap_or(device.memory_bytes);
        let deadline = self.deadline.map_or(device.deadline, |deadline| deadline.0);
        let result_bytes = self.result_bytes.or(device.result_bytes);
        let mut above = |field: &str, said: String, most: String| {
            let error = at.field(field).error(format!("{said} is above what any run of the device may take"));
            refuse(error.hint(format!("at most {most}, or raise `device.limits.{field}`")));
        };
        if memory_bytes > device.memory_bytes {
            above("memoryBytes", memory_bytes.to_string(), device.memory_bytes.to_string());
        }
        if deadline > device.deadline {
            above("deadline", format!("{deadline:?}"), format!("{:?}", device.deadline));
        }
        if let (Some(own), Some(most)) = (result_bytes, device.result_bytes)
            && own > most
        {
            above("resultBytes", own.to_string(), most.to_string());
        }
        ComponentLimits { memory_bytes, deadline, result_bytes }
    }
}

fn check_memory(bytes: u64, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
    if bytes < LEAST_MEMORY {
        let error = at.field("memoryBytes").error(format!("no run is done in {bytes} bytes"));
        refuse(error.hint(format!("at least {LEAST_MEMORY}")));
    }
}

fn check_deadline(deadline: Duration, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
    if deadline.is_zero() {
        refuse(at.field("deadline").error("no run is that fast").hint("leave the field out"));
    }
}

fn check_result(field: &str, most: Option<u64>, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
    if most == Some(0) {
        let error = at.field(field).error("every result would be too large");
        refuse(error.hint("leave the field out for no limit"));
    }
}
