//! `guard: {headTimeout: 60s, …}`: what this process asks of its clients, and what it does when memory runs short.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::At;
use crate::error::ConfigError;
use crate::resource;

/// How a sidecar keeps itself from slow clients and from the end of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// Longest time from a request's first byte to the end of its head. Default 60 s.
    pub head_timeout: Duration,
    /// Longest time in which a client sends nothing of a body whose length it said, or takes nothing of an answer that
    /// waits for it. Default 5 min.
    pub client_timeout: Duration,
    /// What has to move in each second while a client is waited for, in bytes. Default 100.
    pub min_bytes_per_second: u32,
    /// What the two percentages are of, in bytes. None: what the control group of this process may have. 0: no limit.
    pub max_memory: Option<u64>,
    /// From this part of it on, connections that rest are closed, and none is kept. Default 85.
    pub shrink_percent: u8,
    /// From this part of it on, new requests are refused; those of high priority only at the limit itself. Default 95.
    pub refuse_percent: u8,
}

impl Default for GuardConfig {
    fn default() -> Self {
        GuardConfig {
            head_timeout: Duration::from_secs(60),
            client_timeout: Duration::from_secs(300),
            min_bytes_per_second: 100,
            max_memory: None,
            shrink_percent: 85,
            refuse_percent: 95,
        }
    }
}

/// What a sidecar asks of its clients, and what it does when memory runs short.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct GuardFile {
    /// Longest time from a request's first byte to the end of its head. Default 60s.
    head_timeout: Option<resource::Duration>,
    /// Longest time in which a client sends nothing of a body whose length it said, or takes nothing of an answer that
    /// waits for it. Default 5m.
    client_timeout: Option<resource::Duration>,
    /// What has to move in each second while a client is waited for, in bytes, over a whole `clientTimeout`. 0: anything
    /// does. Default 100.
    min_bytes_per_second: Option<u32>,
    /// Resident memory of this process that the percentages are of, in bytes. 0: no limit. Default: what its control group
    /// may have.
    max_memory_bytes: Option<u64>,
    /// From this part of the memory on, connections that rest are closed, and none is kept. Default 85.
    #[schemars(range(min = 1, max = 100))]
    shrink_percent: Option<u8>,
    /// From this part of the memory on, new requests are refused; those of routes of `priority: High` only at the limit
    /// itself. Default 95.
    #[schemars(range(min = 1, max = 100))]
    refuse_percent: Option<u8>,
}

impl GuardFile {
    /// What is said, and `usual` for the rest.
    pub(super) fn read(
        self,
        usual: GuardConfig,
        at: &At<'_>,
        mut refuse: impl FnMut(ConfigError),
    ) -> GuardConfig {
        let mut time = |said: Option<resource::Duration>, usual, field| {
            let time = said.map_or(usual, |time| time.0);
            if time.is_zero() {
                refuse(at.field(field).error("no client is that fast").hint("leave the field out"));
            }
            time
        };
        let head_timeout = time(self.head_timeout, usual.head_timeout, "headTimeout");
        let client_timeout = time(self.client_timeout, usual.client_timeout, "clientTimeout");
        let shrink_percent = self.shrink_percent.unwrap_or(usual.shrink_percent);
        let refuse_percent = self.refuse_percent.unwrap_or(usual.refuse_percent);
        for (field, percent) in [("shrinkPercent", shrink_percent), ("refusePercent", refuse_percent)] {
            if !(1..=100).contains(&percent) {
                refuse(at.field(field).error(format!("{percent} is not a percentage from 1 to 100")));
            }
        }
        if shrink_percent > refuse_percent {
            let error = at.field("shrinkPercent").error("requests would be refused before connections close");
            refuse(error.hint("`shrinkPercent` is at most `refusePercent` (95)"));
        }
        GuardConfig {
            head_timeout,
            client_timeout,
            min_bytes_per_second: self.min_bytes_per_second.unwrap_or(usual.min_bytes_per_second),
            max_memory: self.max_memory_bytes.or(usual.max_memory),
            shrink_percent,
            refuse_percent,
        }
    }
}
