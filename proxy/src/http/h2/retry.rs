//! Whether a try that failed is followed by another one: the one place that decides it for every exchange that has
//! an HTTP/2 side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exchange::{Call, outcome};
use super::pool::Lease;
use crate::balance::{Endpoint, Picked};
use crate::error::{Cause, ProxyError, Retry};

/// How often a stream is tried again that met a crowd: about two seconds in all.
const CROWDED_TRIES: u32 = 64;

/// Streams that were refused on connections with a limit of the peer's. That says nothing of the request, so it is not
/// counted as the one other try that it has.
#[derive(Default)]
pub(crate) struct Crowded {
    /// The last try was such a one.
    now: bool,
    before: u32,
}

/// How the next try is made.
pub(crate) enum Again {
    /// At once, at another endpoint than this if there is one.
    Elsewhere(Arc<Endpoint>),
    /// After this time, wherever the balancer says.
    After(Duration),
}

impl Call<'_> {
    /// Ends a try that began at `sent` and failed. Gives the error back if it was the last one. `whole`: everything
    /// that was sent of the request is still at hand.
    pub(crate) fn again(
        &mut self,
        picked: Picked,
        error: ProxyError,
        sent: Instant,
        whole: bool,
    ) -> Result<Again, ProxyError> {
        let endpoint = picked.endpoint.clone();
        picked.finish(outcome(&error, self.tally.status), sent.elapsed(), Instant::now());
        let may = whole && self.policy.safe_retry;
        if may && let Some(pause) = self.crowded_pause() {
            return Ok(Again::After(pause));
        }
        if !may || error.retry != Retry::Safe || self.tally.retries > 0 {
            return Err(error.at(endpoint.address));
        }
        self.tally.retries += 1;
        Ok(Again::Elsewhere(endpoint))
    }

    /// Notes why a try failed on this connection.
    pub(crate) fn refused(&mut self, error: &ProxyError, lease: &Lease) {
        let refused = error.retry == Retry::Safe && error.cause == Cause::UpstreamReset;
        self.crowded.now = refused && lease.was_crowded();
    }

    /// How long to wait before the next try, if the last one met a crowd.
    fn crowded_pause(&mut self) -> Option<Duration> {
        let Crowded { now, before } = &mut self.crowded;
        if !std::mem::take(now) || *before == CROWDED_TRIES {
            return None;
        }
        let pause = Duration::from_millis(1 << (*before).min(5));
        *before += 1;
        Some(pause.mul_f32(0.5 + fastrand::f32()))
    }
}
