//! How the load that endpoints report says their shares.

use std::sync::Arc;
use std::time::Duration;

/// How the load that endpoints report says their shares.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReports {
    /// How long one that begins to report has an average share.
    pub blackout: Duration,
    /// How long after its last report it has that again; not zero.
    pub expiration: Duration,
    /// How often shares are worked out.
    pub interval: Duration,
    /// What a share of errors adds to the utilization: in percent of it.
    pub error_penalty_percent: u32,
    /// Of these the largest stands for the utilization where the application does not report its own. Empty: that of the
    /// processor.
    pub metrics: Arc<[Arc<str>]>,
    /// Callers see the reports.
    pub pass_on: bool,
}

impl Default for LoadReports {
    fn default() -> Self {
        LoadReports {
            blackout: Duration::from_secs(10),
            expiration: Duration::from_secs(180),
            interval: Duration::from_secs(1),
            error_penalty_percent: 100,
            metrics: Arc::new([]),
            pass_on: false,
        }
    }
}
