//! How endpoints are asked whether they are well, and how those that are new begin, as a snapshot has it.

use std::time::Duration;

use crate::probe::Probe;

/// How a sidecar asks each endpoint of a port whether it is well.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is asked, and how many answers count.
    pub probe: Probe,
    /// Where less than this share of them are well, in percent, all get requests.
    pub panic_percent: u8,
}

/// How an endpoint begins that is new or was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// How long it takes until it has its whole share.
    pub window: Duration,
    /// The part of its share with which it begins, in percent.
    pub min_percent: u8,
}
