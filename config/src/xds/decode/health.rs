//! How endpoints are asked whether they are well, and how those that are new begin, as sidecars are told.

use super::port;
use super::service::{millis, some_millis};
use crate::build::health::percent;
use crate::build::locality::overprovisioning;
use crate::document::At;
use crate::error::ConfigError;
use crate::probe::{self, How, Probe};
use crate::snapshot::{HealthCheck, Nearness, SlowStart};
use crate::xds::wire::lighter::config::v1 as wire;

pub(super) fn check(said: &wire::HealthCheck, at: &At<'_>) -> Result<HealthCheck, ConfigError> {
    let how = match &said.how {
        Some(wire::health_check::How::Http(path)) if !probe::is_path(path) => {
            return Err(at.field("http").error(format!("`{}` is not a path", path.escape_debug())));
        }
        Some(wire::health_check::How::Http(path)) => How::Http(path.clone()),
        Some(wire::health_check::How::Grpc(service)) => How::Grpc(service.clone()),
        None => How::Tcp,
    };
    let count = |field: &str, count: u32| match count {
        0 => Err(at.field(field).error("at least 1")),
        count => Ok(count),
    };
    let length = |field: &str, length: u64| {
        let at = at.field(field);
        let length = millis(length, &at)?;
        if probe::is_length(length) { Ok(length) } else { Err(at.error("out of range")) }
    };
    let probe = Probe {
        how,
        port: said.port.map(|number| port(number, &at.field("port"))).transpose()?,
        interval: length("interval_ms", said.interval_ms)?,
        timeout: length("timeout_ms", said.timeout_ms)?,
        failure_threshold: count("failure_threshold", said.failure_threshold)?,
        success_threshold: count("success_threshold", said.success_threshold)?,
    };
    Ok(HealthCheck { probe, panic_percent: percent(&at.field("panic_percent"), said.panic_percent, 0)? })
}

pub(super) fn start(said: &wire::SlowStart, at: &At<'_>) -> Result<SlowStart, ConfigError> {
    Ok(SlowStart {
        window: some_millis(said.window_ms, &at.field("window_ms"), "a share rises for some time")?,
        min_percent: percent(&at.field("min_percent"), said.min_percent, 1)?,
    })
}

pub(super) fn nearness(said: &wire::Nearness, at: &At<'_>) -> Result<Nearness, ConfigError> {
    let within = u8::try_from(said.within).ok().filter(|within| (1..=3).contains(within));
    Ok(Nearness {
        within: within.ok_or_else(|| at.field("within").error("not known"))?,
        overprovisioning: overprovisioning(&at.field("overprovisioning"), said.overprovisioning)?,
    })
}
