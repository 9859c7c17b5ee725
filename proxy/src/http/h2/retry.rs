//! Whether a try that failed is followed by another one: the one place that decides it for every exchange that has
//! an HTTP/2 side.

use std::time::{Duration, Instant};

use super::exchange::{Call, outcome};
use super::fields::ResponseHead;
use super::way::Way;
use crate::balance::{Avoid, Picked};
use crate::error::{Cause, ProxyError, Retry};
use crate::http::{hop, local};
use crate::telemetry::Direction;

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
    Elsewhere(Avoid),
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
        Ok(Again::Elsewhere(Avoid::after(endpoint, error.cause)))
    }

    /// The error that an answer stands for, if it is one of the sidecar beside the endpoint whose application could not
    /// be reached. `end`: it has no body.
    pub(crate) fn unreached(&self, head: &ResponseHead, end: bool) -> Option<ProxyError> {
        let may_be = (500..600).contains(&head.status) || (self.grpc && end);
        if !may_be || self.downstream.context.direction != Direction::Outbound {
            return None;
        }
        let cause = local::unreached(head.fields.get(local::ERROR_FIELD.as_bytes())?)?;
        Some(ProxyError::new(cause, "the sidecar of the endpoint cannot reach its application"))
    }

    /// Whether such an answer is asked for elsewhere, and not passed on. `whole` as in [`Self::again`]. `vouched`: it came
    /// by a link, so that it is the word of the sidecar there and of nobody else.
    pub(crate) fn asks_elsewhere(&self, whole: bool, vouched: bool) -> bool {
        let harmless = vouched || hop::is_idempotent(self.head.method());
        whole && self.policy.safe_retry && self.tally.retries == 0 && harmless
    }

    /// Notes why a try failed on this connection.
    pub(crate) fn refused(&mut self, error: &ProxyError, way: &Way) {
        let refused = error.retry == Retry::Safe && error.cause == Cause::UpstreamReset;
        self.crowded.now = refused && way.was_crowded();
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
