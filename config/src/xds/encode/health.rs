//! How endpoints are asked whether they are well, and how those that are new begin, for sidecars.

use super::millis;
use crate::probe::How;
use crate::snapshot::{HealthCheck, Nearness, SlowStart};
use crate::xds::wire::lighter::config::v1 as lighter;

pub(super) fn check(check: &HealthCheck) -> lighter::HealthCheck {
    let probe = &check.probe;
    lighter::HealthCheck {
        how: match &probe.how {
            How::Http(path) => Some(lighter::health_check::How::Http(path.clone())),
            How::Grpc(service) => Some(lighter::health_check::How::Grpc(service.clone())),
            // No command is run for an endpoint.
            How::Tcp | How::Exec(_) => None,
        },
        port: probe.port.map(u32::from),
        interval_ms: millis(probe.interval),
        timeout_ms: millis(probe.timeout),
        failure_threshold: probe.failure_threshold,
        success_threshold: probe.success_threshold,
        panic_percent: check.panic_percent.into(),
    }
}

pub(super) fn start(start: &SlowStart) -> lighter::SlowStart {
    lighter::SlowStart { window_ms: millis(start.window), min_percent: start.min_percent.into() }
}

pub(super) fn nearness(nearness: &Nearness) -> lighter::Nearness {
    lighter::Nearness { within: nearness.within.into(), overprovisioning: nearness.overprovisioning }
}
