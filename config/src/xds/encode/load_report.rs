//! Shares by the load that endpoints report, for sidecars and in Envoy's words.

use super::{duration, millis};
use crate::snapshot::LoadReports;
use crate::xds::wire::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3 as envoy;
use crate::xds::wire::lighter::config::v1 as lighter;

pub(super) fn own(reports: &LoadReports) -> lighter::LoadReports {
    lighter::LoadReports {
        blackout_ms: millis(reports.blackout),
        expiration_ms: millis(reports.expiration),
        interval_ms: millis(reports.interval),
        error_penalty_percent: reports.error_penalty_percent,
        metrics: metrics(reports),
        pass_on: reports.pass_on,
    }
}

pub(super) fn client_side(reports: &LoadReports) -> envoy::ClientSideWeightedRoundRobin {
    envoy::ClientSideWeightedRoundRobin {
        enable_oob_load_report: None,
        blackout_period: Some(duration(reports.blackout)),
        weight_expiration_period: Some(duration(reports.expiration)),
        weight_update_period: Some(duration(reports.interval)),
        error_utilization_penalty: Some(reports.error_penalty_percent as f32 / 100.0),
        metric_names_for_computing_utilization: metrics(reports),
    }
}

fn metrics(reports: &LoadReports) -> Vec<String> {
    reports.metrics.iter().map(ToString::to_string).collect()
}
