//! Health checks and slow starts: what is wrong with them, and what they come to.

use std::sync::Arc;

use super::Report;
use crate::document::At;
use crate::error::ConfigError;
use crate::probe::Probe;
use crate::resource::health as resource;
use crate::snapshot::{HealthCheck, SlowStart, TrafficPolicy};

/// Says what is wrong with a health check.
pub(super) fn check(said: &resource::HealthCheck, at: &At<'_>, report: &mut Report) {
    if let Some(probe) = &said.probe {
        let at = at.field("probe");
        if probe.exec.is_some() {
            let error = at.field("exec").error("a sidecar runs no command for an endpoint");
            report.error(error.hint("write one of `http` and `grpc`, or neither for a connection"));
        }
        probe.read(&at, |error| report.error(error));
    }
    if let Some(percent) = said.panic_threshold {
        report.ok(self::percent(&at.field("panicThreshold"), percent.into(), 0));
    }
}

/// Puts what is said in place of what held before.
pub(super) fn fill_in(said: &resource::HealthCheck, at: &At<'_>, policy: &mut TrafficPolicy) {
    let before = policy.health_check.as_deref();
    let probe = match &said.probe {
        // What is wrong with it was said already.
        Some(probe) => probe.read(&at.field("probe"), |_| {}),
        None => before.map_or(Probe::default(), |before| before.probe.clone()),
    };
    let usual = before.map_or(PANIC_PERCENT, |before| before.panic_percent);
    let panic_percent = said.panic_threshold.unwrap_or(usual);
    policy.health_check = Some(Arc::new(HealthCheck { probe, panic_percent }));
}

/// Says what is wrong with a slow start.
pub(super) fn check_start(said: &resource::SlowStart, at: &At<'_>, report: &mut Report) {
    if said.window.0.is_zero() {
        let error = at.field("window").error("a share rises for some time");
        report.error(error.hint("leave `slowStart` out to begin with all of it"));
    }
    if let Some(percent) = said.min_weight_percent {
        report.ok(self::percent(&at.field("minWeightPercent"), percent.into(), 1));
    }
}

/// A slow start with its defaults.
pub(super) fn start(said: &resource::SlowStart) -> SlowStart {
    SlowStart { window: said.window.0, min_percent: said.min_weight_percent.unwrap_or(10) }
}

/// A share in percent, not less than `least`.
pub(crate) fn percent(at: &At<'_>, percent: u32, least: u8) -> Result<u8, ConfigError> {
    let fits = u8::try_from(percent).ok().filter(|percent| (least..=100).contains(percent));
    fits.ok_or_else(|| {
        at.error(format!("{percent} percent is no such share")).hint(format!("from {least} to 100"))
    })
}

/// As Envoy has it.
const PANIC_PERCENT: u8 = 50;
