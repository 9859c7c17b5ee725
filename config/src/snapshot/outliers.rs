//! When endpoints are ejected for their answers, as a snapshot has it.

use std::time::Duration;

/// When endpoints are ejected for their answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Outliers {
    /// How many answers in a row have a status from 500 to 599. 0: never.
    pub errors: u32,
    /// How many have one of 502, 503 and 504. 0: never.
    pub gateway_errors: u32,
    /// How often endpoints are compared.
    pub interval: Duration,
    /// How far below the others' a share of successes lies: in standard deviations.
    pub success_rate: Option<Comparison>,
    /// How far above the others' a mean latency lies: in medians.
    pub latency: Option<Comparison>,
}

/// By what endpoints are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// How far off one has to be.
    pub factor: f64,
    /// At least so many are compared.
    pub hosts: u32,
    /// An endpoint with fewer requests in an interval is not compared.
    pub volume: u32,
}

impl Default for Outliers {
    fn default() -> Self {
        Outliers {
            errors: 0,
            gateway_errors: 0,
            interval: Duration::from_secs(10),
            success_rate: None,
            latency: None,
        }
    }
}

impl Outliers {
    /// Whether answers count at all.
    pub fn count(&self) -> bool {
        self.errors != 0 || self.gateway_errors != 0 || self.success_rate.is_some() || self.latency.is_some()
    }
}
