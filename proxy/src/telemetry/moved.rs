//! What is counted of requests that this sidecar's callers sent to where the state of a Service was.

use metrics::{counter, describe_counter};

/// Counters of requests that were refused, as the state of their Service has moved.
pub(crate) struct MovedMetrics;

/// Where such a request went then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// To where the Service is reached now.
    Elsewhere,
    /// To where it was, which is to send it on: nothing else was known in time.
    Expired,
    /// The same: as many wait for that as may.
    Full,
    /// The same: no control plane is heard, which would say so.
    Unheard,
    /// The same: where the Service is reached, nobody was to be picked.
    Unpicked,
    /// Nowhere: its caller went away, its time was over, or it was not at hand any more.
    Nowhere,
}

impl Moved {
    const fn label(self) -> &'static str {
        match self {
            Moved::Elsewhere => "elsewhere",
            Moved::Expired => "expired",
            Moved::Full => "full",
            Moved::Unheard => "unheard",
            Moved::Unpicked => "unpicked",
            Moved::Nowhere => "nowhere",
        }
    }
}

impl MovedMetrics {
    /// One more went there.
    #[cold]
    pub(crate) fn count(outcome: Moved) {
        describe_counter!(
            "lighter_moved_requests_total",
            "Requests of this sidecar's callers that an instance gave back unexecuted, as the state of its Service has moved, by where they went then."
        );
        counter!("lighter_moved_requests_total", "outcome" => outcome.label()).increment(1);
    }
}
