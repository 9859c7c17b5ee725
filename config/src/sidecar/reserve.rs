//! `device: {mainTask: {…}, power: {…}}`: what functions have to leave to what a device is there for, and to its power supply.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SidecarConfig;
use super::device::DeviceConfig;
use crate::document::At;
use crate::error::ConfigError;
use crate::resource;
use crate::snapshot::Protocol;

const MOST_P99_PERCENT: u32 = 10_000;
const WINDOWS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(10);

/// `mainTask: {inbound: PORT, p99Percent: 110, …}`: what a device is there for beside its functions, and what they leave to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainTaskConfig {
    /// The port of the inbound listener by which the main task is asked.
    pub inbound: u16,
    /// How long the 99th percentile of its answers may become, in percent of what it is without functions. Default 110.
    pub p99_percent: u32,
    /// How often it is looked at. Default 250 ms.
    pub window: Duration,
    /// What running functions keep in any case, in percent of the processors. Default 1.
    pub least_percent: u8,
    /// What functions never get, in percent of the processors. Default 0.
    pub reserve_percent: u8,
}

/// `power: {capWatts: W, busyWatts: W, idleWatts: W}`: the model by which a device's power is told, and held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerConfig {
    /// The most that the model may come to. None: no limit. More than `idle_watts`.
    pub cap_watts: Option<f64>,
    /// What a processor that runs functions takes beside that, in watts. Default 5.
    pub busy_watts: f64,
    /// What the device takes at rest, in watts. Default 0.
    pub idle_watts: f64,
}

/// How the threads of functions stand to all others of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// They run where nobody else wants to (`SCHED_IDLE`).
    Idle,
    /// They get little where others want to run (nice 19).
    Low,
    /// They are like all others.
    Normal,
}

impl Default for PowerConfig {
    fn default() -> Self {
        PowerConfig { cap_watts: None, busy_watts: 5.0, idle_watts: 0.0 }
    }
}

/// What the device is there for beside its functions: an application behind another inbound listener.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MainTaskFile {
    /// The port of the `inbound` listener by which it is asked. It speaks HTTP.
    #[schemars(range(min = 1))]
    inbound: u16,
    /// How long the 99th percentile of its answers may become, in percent of what it is without functions. Above that,
    /// what functions get is halved. Default 110.
    #[serde(default)]
    #[schemars(range(min = 101, max = 10_000))]
    p99_percent: Option<u32>,
    /// How often it is looked at: from 50ms to 10s. Default 250ms.
    #[serde(default)]
    window: Option<resource::Duration>,
    /// What running functions keep in any case, in percent of the processors. Default 1.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    least_percent: Option<u8>,
    /// What functions never get, in percent of the processors. Default 0.
    #[serde(default)]
    #[schemars(range(max = 99))]
    reserve_percent: Option<u8>,
}

/// The model by which the device's power is told, and held.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PowerFile {
    /// The most that the model may come to, in watts. Default: no limit.
    #[serde(default)]
    cap_watts: Option<f64>,
    /// What a processor that runs functions takes beside what the device takes at rest, in watts. Default 5.
    #[serde(default)]
    busy_watts: Option<f64>,
    /// What the device takes at rest, in watts. Default 0.
    #[serde(default)]
    idle_watts: Option<f64>,
}

impl MainTaskFile {
    pub(super) fn read(self, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) -> MainTaskConfig {
        let p99_percent = self.p99_percent.unwrap_or(110);
        if !(101..=MOST_P99_PERCENT).contains(&p99_percent) {
            let error = at.field("p99Percent").error(format!("{p99_percent} percent of what it is at rest"));
            refuse(error.hint(format!("from 101 to {MOST_P99_PERCENT}")));
        }
        let window = self.window.map_or(Duration::from_millis(250), |window| window.0);
        if !WINDOWS.contains(&window) {
            refuse(at.field("window").error(format!("{window:?} is out of range")).hint("from 50ms to 10s"));
        }
        let least_percent = self.least_percent.unwrap_or(1);
        if !(1..=100).contains(&least_percent) {
            let error = at.field("leastPercent").error("a run would never end");
            refuse(error.hint("from 1 to 100"));
        }
        let reserve_percent = self.reserve_percent.unwrap_or(0);
        if u32::from(reserve_percent) + u32::from(least_percent) > 100 {
            let error = at.field("reservePercent").error("there is nothing left for functions");
            refuse(error.hint("together with `leastPercent` (1) at most 100"));
        }
        MainTaskConfig { inbound: self.inbound, p99_percent, window, least_percent, reserve_percent }
    }
}

impl PowerFile {
    pub(super) fn read(self, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) -> PowerConfig {
        let usual = PowerConfig::default();
        let busy_watts = self.busy_watts.unwrap_or(usual.busy_watts);
        if !(busy_watts.is_finite() && busy_watts > 0.0) {
            refuse(at.field("busyWatts").error("not a number above 0"));
        }
        let idle_watts = self.idle_watts.unwrap_or(usual.idle_watts);
        if !(idle_watts.is_finite() && idle_watts >= 0.0) {
            refuse(at.field("idleWatts").error("not a number from 0 on"));
        }
        if let Some(cap) = self.cap_watts
            && !(cap.is_finite() && cap > idle_watts)
        {
            let error = at.field("capWatts").error("no function could ever run");
            refuse(error.hint(format!("more than `idleWatts` ({idle_watts})")));
        }
        PowerConfig { cap_watts: self.cap_watts, busy_watts, idle_watts }
    }
}

/// A main task is an application behind a listener of this sidecar, and not the functions themselves.
pub(super) fn check(
    config: &SidecarConfig,
    device: &DeviceConfig,
    at: &At<'_>,
    mut refuse: impl FnMut(ConfigError),
) {
    let Some(main) = &device.main_task else { return };
    let at = at.field("mainTask").field("inbound");
    let Some(inbound) = config.inbound.iter().find(|inbound| inbound.listen.port() == main.inbound) else {
        let error = at.error(format!("no inbound listener has port {}", main.inbound));
        return refuse(error.hint("the port of `listen` of one of `inbound`"));
    };
    if inbound.app == device.listen {
        let error = at.error("those are the functions themselves");
        refuse(error.hint("the listener that leads to what the device is there for beside them"));
    }
    let functions = config.inbound.iter().find(|inbound| inbound.app == device.listen);
    if inbound.port.is_some() && functions.is_some_and(|functions| functions.port == inbound.port) {
        let error = at.error("functions are asked on the same port of the Service");
        refuse(error.hint("`port` of one of the two listeners is another one"));
    }
    if matches!(inbound.protocol, Protocol::Tcp | Protocol::Tls | Protocol::Redis) {
        let error = at.error("how long answers take is known of HTTP alone");
        refuse(error.hint("`protocol: http`, `http2`, `grpc` or `auto` there"));
    }
}
