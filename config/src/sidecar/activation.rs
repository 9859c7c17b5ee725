//! `device: {activation: planned, memoryBytes: N, activationTimeout: 10s}`: which functions of a device are active, and when.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::At;
use crate::error::ConfigError;
use crate::resource;

/// Unless the file says how long a request waits for its function.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// Functions that are active while they are wanted. What wants them is the control plane's plan or, without one, requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedConfig {
    /// How much memory those that are active may take together, in bytes: their code, and one run of each. None: no limit.
    pub memory_bytes: Option<u64>,
    /// How long a request waits for its function. Default 10 s.
    pub timeout: Duration,
}

/// When functions of a device are active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Activation {
    /// All of them from the start.
    #[default]
    Always,
    /// While they are wanted.
    Planned,
}

/// The fields of a device that say so.
#[derive(Clone, Debug, Default)]
pub(super) struct ActivationFields {
    pub(super) activation: Option<Activation>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) timeout: Option<resource::Duration>,
}

impl ActivationFields {
    /// What is said of a device of whose functions one takes `least` bytes, and no other one less. None: all functions are
    /// active from the start.
    pub(super) fn read(
        self,
        least: u64,
        at: &At<'_>,
        refuse: &mut impl FnMut(ConfigError),
    ) -> Option<PlannedConfig> {
        if self.activation.unwrap_or_default() == Activation::Always {
            for (field, is_said) in
                [("memoryBytes", self.memory_bytes.is_some()), ("activationTimeout", self.timeout.is_some())]
            {
                if is_said {
                    let error = at.field(field).error("every function is active from the start");
                    refuse(error.hint("of use with `activation: planned` alone"));
                }
            }
            return None;
        }
        // What a component takes beside one run is known once it is compiled, at the start.
        if let Some(memory) = self.memory_bytes
            && memory < least
        {
            let error =
                at.field("memoryBytes").error(format!("no function is ever active in {memory} bytes"));
            refuse(error.hint(format!("at least `limits.memoryBytes` ({least}), which one run may take")));
        }
        let timeout = self.timeout.map_or(USUAL_TIMEOUT, |timeout| timeout.0);
        if !TIMEOUTS.contains(&timeout) {
            let error = at.field("activationTimeout").error(format!("{timeout:?} is out of range"));
            refuse(error.hint("from 1ms to 1h"));
        }
        Some(PlannedConfig { memory_bytes: self.memory_bytes, timeout })
    }
}
