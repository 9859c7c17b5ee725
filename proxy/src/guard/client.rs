//! When a client that is waited for is too slow, and how that is counted.

use std::time::Duration;

use lighter_config::sidecar::GuardConfig;

use crate::error::{Cause, ProxyError};

/// What a client was too slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slow {
    /// The head of a request.
    Head,
    /// The body of a request, whose length it had said.
    Body,
    /// To take an answer.
    Answer,
}

impl Slow {
    const fn label(self) -> &'static str {
        match self {
            Slow::Head => "head",
            Slow::Body => "body",
            Slow::Answer => "answer",
        }
    }

    /// What is said of the request.
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Slow::Head => "the client took too long to send its request's head",
            Slow::Body => "the client takes too long to send its request",
            Slow::Answer => "the client does not take its answer",
        }
    }

    /// A client was given up for it.
    pub(crate) fn count(self) {
        metrics::counter!("lighter_slow_clients_total", "with" => self.label()).increment(1);
    }

    /// The same, as the error of its request.
    pub(crate) fn error(self) -> ProxyError {
        self.count();
        ProxyError::new(Cause::ClientTimeout, self.detail())
    }
}

/// Whether so little, in so long, is too slow for a client that is waited for.
pub(crate) fn is_too_little(guard: &GuardConfig, moved: u64, time: Duration) -> bool {
    moved == 0 || (moved as f64) < f64::from(guard.min_bytes_per_second) * time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_to_keep_to_a_rate() {
        let guard = GuardConfig { min_bytes_per_second: 100, ..GuardConfig::default() };
        let time = Duration::from_millis(1500);
        assert!(is_too_little(&guard, 0, time));
        assert!(is_too_little(&guard, 149, time));
        assert!(!is_too_little(&guard, 150, time));
        let anything = GuardConfig { min_bytes_per_second: 0, ..guard };
        assert!(is_too_little(&anything, 0, time) && !is_too_little(&anything, 1, time));
    }
}
