//! How long one exchange may take, and how long its client.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use lighter_config::sidecar::GuardConfig;

use super::deadline::Deadline;
use super::fields::Fields;
use super::{Downstream, head};
use crate::error::{Cause, ProxyError};
use crate::guard::client::{self, Slow};
use crate::http::hop::Kind;
use crate::retry::Came;

/// How long an exchange may take, in all and without anything moving.
pub(crate) struct Limits<'a> {
    end: Option<Instant>,
    grpc_end: Option<Instant>,
    /// How long a try may take until it is answered, and when that time is over for the one at hand.
    of_try: Option<Duration>,
    try_end: Option<Instant>,
    /// How long a device may be silent within its answer, and when it has been for so long.
    silence: Option<Duration>,
    silent_end: Option<Instant>,
    began: Instant,
    idle: Option<Duration>,
    idle_end: Option<Instant>,
    moved: bool,
    guard: &'a GuardConfig,
    /// The client has said how long its request's body is.
    sized: bool,
    /// When it is looked whether the client is too slow, and what had moved when that was last done.
    client_end: Option<Instant>,
    mark: u64,
    deadline: Option<Deadline>,
}

/// Whom an exchange waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// For more of the request.
    pub(crate) owed: bool,
    /// For its client to take what there is of the answer.
    pub(crate) untaken: bool,
    /// Bytes of both bodies that have moved.
    pub(crate) bytes: u64,
}

impl<'a> Limits<'a> {
    /// The limits of a request that began at `began`.
    pub(crate) fn new(
        timeout: Option<Duration>,
        idle: Option<Duration>,
        grpc: bool,
        fields: &Fields,
        began: Instant,
        guard: &'a GuardConfig,
    ) -> Self {
        let asked = grpc.then(|| head::grpc_timeout(fields)).flatten();
        let grpc_end = asked.and_then(|timeout| began.checked_add(timeout));
        let own_end = timeout.and_then(|timeout| began.checked_add(timeout));
        let end = first(grpc_end, own_end);
        Limits {
            end,
            grpc_end,
            of_try: None,
            try_end: None,
            silence: None,
            silent_end: None,
            began,
            idle,
            idle_end: None,
            moved: false,
            guard,
            sized: fields.of(Kind::ContentLength).is_some(),
            client_end: None,
            mark: 0,
            deadline: None,
        }
    }

    /// Each of its tries is to be answered within `limit`.
    pub(crate) fn each(mut self, limit: Option<Duration>) -> Self {
        self.of_try = limit;
        self
    }

    /// The try that begins next is to be answered within `limit`, and by one that is not silent for longer than `silence` within
    /// its answer.
    pub(crate) fn next_within(&mut self, limit: Option<Duration>, silence: Option<Duration>) {
        self.of_try = limit;
        self.silence = silence;
        self.silent_end = None;
    }

    /// A try begins.
    pub(crate) fn try_begins(&mut self) {
        let Some(limit) = self.of_try else { return };
        self.try_end = Some(Instant::now() + limit);
        if let (Some(deadline), Some(at)) = (&self.deadline, self.next()) {
            deadline.set(at);
        }
    }

    /// The try at hand was answered, or given up.
    #[inline]
    pub(crate) fn try_ends(&mut self) {
        self.try_end = None;
        if let Some(silence) = self.silence {
            self.silent_end = Some(Instant::now() + silence);
            if let (Some(deadline), Some(at)) = (&self.deadline, self.next()) {
                deadline.set(at);
            }
        }
    }

    /// Its caller waits no longer than `left`, from its beginning on.
    pub(crate) fn within(mut self, left: Option<Duration>) -> Self {
        let asked = left.and_then(|left| self.began.checked_add(left));
        self.end = first(self.end, asked);
        self
    }

    /// When the exchange has to be over.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// Begins to watch the time for the task that runs.
    pub(crate) async fn start(&mut self, downstream: &Downstream) {
        self.idle_end = self.idle.map(|idle| self.began + idle);
        self.client_end = Some(self.began + self.guard.client_timeout);
        // The first try begins later, and is timed by what is armed here.
        let of_try = self.of_try.map(|limit| self.began + limit);
        let Some(at) = first(self.next(), of_try) else { return };
        self.deadline = Some(poll_fn(|cx| Poll::Ready(downstream.deadlines.add(at, cx.waker()))).await);
    }

    /// Ready if the time is over. `moved`: whether bytes moved since the last call. `standing` is asked for seldom.
    pub(crate) fn check(&mut self, moved: bool, standing: impl FnOnce() -> Standing) -> Poll<ProxyError> {
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
        let moved = std::mem::take(&mut self.moved);
        if self.try_end.is_some_and(|end| end <= now) {
            if !moved {
                let detail = "the endpoint took too long to answer";
                return Poll::Ready(ProxyError::new(Cause::RequestTimeout, detail).after(Came::Late));
            }
            // The endpoint has not the whole request yet: its time has not begun.
            self.try_end = self.of_try.map(|limit| now + limit);
        }
        let is_silent = self.silent_end.is_some_and(|end| end <= now);
        if moved {
            self.idle_end = self.idle.map(|idle| now + idle);
        } else if self.idle_end.is_some_and(|end| end <= now) {
            return Poll::Ready(ProxyError::new(Cause::IdleTimeout, "nothing moved for too long"));
        }
        let is_time = self.client_end.is_some_and(|end| end <= now);
        if is_silent || is_time {
            let standing = standing();
            let waits_for_client = standing.untaken || standing.owed;
            if is_silent && !moved && !waits_for_client {
                let detail = "the device was silent for too long within its answer";
                return Poll::Ready(ProxyError::new(Cause::IdleTimeout, detail));
            }
            if is_silent {
                self.silent_end = self.silence.map(|silence| now + silence);
            }
            if is_time && let Some(slow) = self.weigh(standing, now) {
                return Poll::Ready(slow.error());
            }
        }
        if let (Some(deadline), Some(at)) = (&self.deadline, self.next()) {
            deadline.set(at);
        }
        Poll::Pending
    }

    /// Whether the client holds the exchange up, after as long as it may.
    #[cold]
    fn weigh(&mut self, standing: Standing, now: Instant) -> Option<Slow> {
        let time = self.guard.client_timeout;
        self.client_end = Some(now + time);
        let before = std::mem::replace(&mut self.mark, standing.bytes);
        // Another try began from the beginning where there is less than before.
        let moved = standing.bytes.checked_sub(before)?;
        let slow = match standing {
            Standing { untaken: true, .. } => Slow::Answer,
            Standing { owed: true, .. } if self.sized => Slow::Body,
            _ => return None,
        };
        client::is_too_little(self.guard, moved, time).then_some(slow)
    }

    /// When the first of the limits passes.
    fn next(&self) -> Option<Instant> {
        let limits = first(first(first(self.end, self.try_end), self.idle_end), self.client_end);
        first(limits, self.silent_end)
    }

    /// What is left of the time that the exchange may take in all.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// What is left of `grpc-timeout`, or of the limits here if that is less; where enough of it was used to be worth
    /// saying.
    pub(crate) fn left_of_grpc(&self) -> Option<Duration> {
        let asked = self.grpc_end?;
        let now = Instant::now();
        let end = first(self.end, self.try_end).map_or(asked, |end| end.min(asked));
        (end < asked || now.saturating_duration_since(self.began) >= Duration::from_millis(1))
            .then(|| end.saturating_duration_since(now))
    }
}

/// The earlier of two moments, as far as there are any. Every request asks.
#[inline]
fn first(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
