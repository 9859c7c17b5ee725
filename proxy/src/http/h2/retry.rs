//! Whether a try that failed is followed by another one: the one place that decides it for every exchange that has
//! an HTTP/2 side.

use std::time::{Duration, Instant};

use lighter_migrate::{Ended, Next};

use super::body::grpc_status;
use super::call::Call;
use super::exchange::{outcome, watched};
use super::fields::ResponseHead;
use super::way::Way;
use crate::balance::{Avoid, Outcome, Picked};
use crate::error::{Cause, ProxyError, Retry};
use crate::http::stream::Stream;
use crate::http::{hop, local};
use crate::retry::{Came, Request, retry_after};
use crate::telemetry::Direction;

/// How often a call was tried before (gRPC's A6).
const PREVIOUS_ATTEMPTS: &[u8] = b"grpc-previous-rpc-attempts";

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

/// An answer that is to be weighed.
pub(crate) struct Weighed<'a> {
    pub(crate) head: &'a ResponseHead,
    /// It has no body.
    pub(crate) end: bool,
    /// Everything that was sent of the request is still at hand.
    pub(crate) whole: bool,
    /// It came by a link, so that what it says of the application there is the word of a sidecar and of nobody else.
    pub(crate) vouched: bool,
}

/// How the next try is made.
pub(crate) struct Again {
    /// After this time.
    pub(crate) pause: Duration,
    /// At another endpoint than this if there is one.
    pub(crate) avoid: Option<Avoid>,
}

impl Again {
    /// Waits until it is time, as long as the caller does and the limits allow.
    pub(crate) async fn wait(&self, call: &mut Call<'_>, respond: &Stream) -> Result<(), ProxyError> {
        if self.pause.is_zero() {
            return Ok(());
        }
        watched(&mut call.limits, respond, tokio::time::sleep(self.pause)).await
    }
}

impl Call<'_> {
    /// Ends a try that began at `sent` and failed. Gives the error back if it was the last one. `whole`: everything
    /// that was sent of the request is still at hand.
    pub(crate) fn again(
        &mut self,
        mut picked: Picked,
        error: ProxyError,
        sent: Instant,
        whole: bool,
    ) -> Result<Again, ProxyError> {
        self.limits.try_ends();
        let endpoint = picked.endpoint.clone();
        let outcome = outcome(&error, self.tally.status);
        let came = match error.retry {
            Retry::Never => None,
            Retry::Safe => Some(Came::Unread),
            Retry::Maybe(came) => Some(came),
        };
        let how = match (came, std::mem::take(&mut self.sent)) {
            (Some(Came::Unread), _) => Some(Ended::Unread),
            (_, true) => Some(Ended::Lost),
            (_, false) => None,
        };
        let next = how.filter(|_| picked.has_state()).map(|how| self.ended(how, whole));
        // It stalled within its answer: that is said of it, though nobody can be asked again.
        let stalled = self.on_device && error.cause == Cause::IdleTimeout && self.tally.status != 0;
        let came_of_it = came.or(stalled.then_some(Came::Late));
        let setback = came_of_it.and_then(|came| picked.set_back(came));
        // Between two tries it runs on.
        self.kept = picked.keep();
        picked.finish(outcome, sent.elapsed(), Instant::now());
        if next == Some(Next::Look) && self.looks_again() {
            self.decided = None;
            return Ok(Again { pause: Duration::ZERO, avoid: None });
        }
        if whole
            && self.policy.safe_retry
            && let Some(pause) = self.crowded_pause()
        {
            return Ok(Again { pause, avoid: None });
        }
        // Of an answer it is decided before it is dropped.
        let pause = self.decided.take().or_else(|| self.decide(came?, whole));
        let Some(pause) = pause.filter(|_| next != Some(Next::Fail)) else {
            return Err(error.at(endpoint.address));
        };
        self.tally.retries = self.tally.retries.saturating_add(1);
        if self.grpc && self.tries.called() > 0 {
            let mut called = itoa::Buffer::new();
            self.head.fields.set(PREVIOUS_ATTEMPTS, called.format(self.tries.called()).as_bytes());
        }
        Ok(Again { pause, avoid: Some(Avoid::after(endpoint, error.cause).with(outcome).on_device(setback)) })
    }

    /// What an answer says of its endpoint. An error: it is dropped, and another endpoint asked.
    #[inline]
    pub(crate) fn weigh(&mut self, answer: Weighed<'_>) -> Result<Outcome, ProxyError> {
        self.limits.try_ends();
        if answer.head.status < 400 && !(self.grpc && answer.end) {
            return Ok(Outcome::Answered);
        }
        self.weigh_failure(answer)
    }

    #[cold]
    fn weigh_failure(&mut self, answer: Weighed<'_>) -> Result<Outcome, ProxyError> {
        let Weighed { head, end, whole, vouched } = answer;
        let (came, error, outcome) = match self.unreached(head, end) {
            Some(error) => {
                if !vouched && !self.on_device && !hop::is_idempotent(self.head.method()) {
                    return Ok(Outcome::Failed);
                }
                (Came::Unread, error.safe(), Outcome::Failed)
            }
            None => {
                let grpc = if self.grpc && end { grpc_status(&head.fields) } else { None };
                let wait = head.fields.get(b"retry-after").and_then(retry_after);
                let came = Came::Answer { status: head.status, grpc, wait };
                let error = ProxyError::new(Cause::UpstreamClosed, "its answer calls for another try");
                let outcome = grpc.map_or(Outcome::of(head.status), Outcome::of_grpc);
                (came, error.after(came), outcome)
            }
        };
        self.decided = self.decide(came, whole);
        if self.decided.is_some() { Err(error) } else { Ok(outcome) }
    }

    fn decide(&mut self, came: Came, whole: bool) -> Option<Duration> {
        let on_device = self.on_device;
        let request = Request { method: self.head.method(), whole, left: self.limits.left(), on_device };
        self.state.again(&mut self.tries, came, request)
    }

    /// The error that an answer stands for, if it is one of the sidecar beside the endpoint whose application could not
    /// be reached. `end`: it has no body.
    fn unreached(&self, head: &ResponseHead, end: bool) -> Option<ProxyError> {
        let may_be = (500..600).contains(&head.status) || (self.grpc && end);
        if !may_be || self.downstream.context.direction != Direction::Outbound {
            return None;
        }
        let cause = local::unreached(head.fields.get(local::ERROR_FIELD.as_bytes())?)?;
        Some(ProxyError::new(cause, "the sidecar of the endpoint cannot reach its application"))
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
