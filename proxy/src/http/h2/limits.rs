//! How long one exchange may take.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::deadline::Deadline;
use super::fields::Fields;
use super::{Downstream, head};
use crate::error::{Cause, ProxyError};

/// How long an exchange may take, in all and without anything moving.
pub(crate) struct Limits {
    end: Option<Instant>,
    grpc_end: Option<Instant>,
    began: Instant,
    idle: Option<Duration>,
    moved: bool,
    deadline: Option<Deadline>,
}

impl Limits {
    /// The limits of a request that began at `began`.
    pub(crate) fn new(
        timeout: Option<Duration>,
        idle: Option<Duration>,
        grpc: bool,
        fields: &Fields,
        began: Instant,
    ) -> Self {
        let asked = grpc.then(|| head::grpc_timeout(fields)).flatten();
        let grpc_end = asked.and_then(|timeout| began.checked_add(timeout));
        let own_end = timeout.and_then(|timeout| began.checked_add(timeout));
        let end = grpc_end.into_iter().chain(own_end).min();
        Limits { end, grpc_end, began, idle, moved: false, deadline: None }
    }

    /// Its caller waits no longer than `left`, from its beginning on.
    pub(crate) fn within(mut self, left: Option<Duration>) -> Self {
        let asked = left.and_then(|left| self.began.checked_add(left));
        self.end = self.end.into_iter().chain(asked).min();
        self
    }

    /// Begins to watch the time for the task that runs.
    pub(crate) async fn start(&mut self, downstream: &Downstream) {
        let idle_end = self.idle.map(|idle| self.began + idle);
        let Some(at) = self.end.into_iter().chain(idle_end).min() else { return };
        self.deadline = Some(poll_fn(|cx| Poll::Ready(downstream.deadlines.add(at, cx.waker()))).await);
    }

    /// Ready if the time is over. `moved`: whether bytes moved since the last call.
    pub(crate) fn check(&mut self, moved: bool) -> Poll<ProxyError> {
        self.moved |= moved;
        let Some(deadline) = &self.deadline else { return Poll::Pending };
        if !deadline.is_due() {
            return Poll::Pending;
        }
        let now = Instant::now();
        if self.end.is_some_and(|end| end <= now) {
            return Poll::Ready(ProxyError::new(Cause::RequestTimeout, "the request's time is over"));
        }
        // No clock is read when bytes move: silence is seen after one to two times the limit.
        if !std::mem::take(&mut self.moved) {
            return Poll::Ready(ProxyError::new(Cause::IdleTimeout, "nothing moved for too long"));
        }
        let idle_end = self.idle.map(|idle| now + idle);
        if let Some(at) = self.end.into_iter().chain(idle_end).min() {
            deadline.set(at);
        }
        Poll::Pending
    }

    /// What is left of the time that the exchange may take in all.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// What is left of `grpc-timeout`, where enough of it was used to be worth saying.
    pub(crate) fn left_of_grpc(&self) -> Option<Duration> {
        let end = self.grpc_end?;
        let now = Instant::now();
        (now.saturating_duration_since(self.began) >= Duration::from_millis(1))
            .then(|| end.saturating_duration_since(now))
    }
}
