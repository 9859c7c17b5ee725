//! Whether a try that failed is followed by another one.
//!
//! Nothing here reads a clock or a socket: what came of a try goes in, and what is done about it comes out. The engines
//! ask at the moment of the failure; a request that is answered well never gets here.

pub mod budget;
mod waits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::snapshot::{self, RetryBudget, TrafficPolicy};

use self::budget::Budget;
pub(crate) use self::waits::retry_after;
use crate::http::hop;

/// Most bytes of a request's body that are kept for another try.
pub const REPLAY: usize = 64 * 1024;

/// What came of a try that did not simply end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// The endpoint never read the request.
    Unread,
    /// It reset a new connection in place of an answer, as who left the request unread mostly does; and the request
    /// changes nothing, so that it does no harm if it was read after all.
    Dropped,
    /// It may have read the request, and broke off before it answered.
    Broken,
    /// It did not answer within the time that a try has.
    Late,
    /// It answered.
    Answer {
        /// The status code.
        status: u16,
        /// gRPC's status, where that is all there is of the answer.
        grpc: Option<u8>,
        /// What `Retry-After` asks for.
        wait: Option<Duration>,
    },
}

/// What called for another try: the `condition` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The endpoint never read the request.
    Unread,
    /// There was no answer.
    Reset,
    /// There was none in time.
    Timeout,
    /// The answer's status code.
    Status,
    /// The answer's gRPC status.
    GrpcStatus,
}

/// Why there is no other try although one was called for: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All of them were made.
    Attempts,
    /// The budget is used up.
    Budget,
    /// What was sent of the request's body is not at hand any more.
    Body,
    /// There is not enough time left, or the answer asks for more patience than there is.
    Time,
}

/// What is done about a try that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was the last one: nothing calls for another.
    Last,
    /// Something calls for another one, but there is none.
    Refused(Refusal),
    /// There is another one, after this time.
    Again(Duration, Condition),
}

/// The other tries that a request had.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tries {
    /// The one that every request has was made.
    free: bool,
    /// Those that a policy called for.
    called: u8,
    /// It was on a device, and went to the host from there.
    returned: bool,
}

/// What is known of a request at the moment of a failure.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Its method.
    pub method: &'r [u8],
    /// All that was sent of it is at hand.
    pub whole: bool,
    /// How much of its time is left. None: there is no limit.
    pub left: Option<Duration>,
    /// It is on a device, where only what may run twice is sent.
    pub on_device: bool,
}

/// What is tried again of a route's requests.
pub struct Rules {
    /// What no endpoint read has another try by itself.
    safe: bool,
    /// There are others to ask than the one that answered.
    elsewhere: bool,
    /// None: nothing else is.
    policy: Option<Arc<snapshot::Retry>>,
    /// Longest time from a try's beginning to its answer's head.
    pub try_timeout: Option<Duration>,
    limit: RetryBudget,
    /// What is left to spend. Shared by all workers, and by the configurations that a route has over time.
    pub budget: Arc<Budget>,
    /// Its requests may be on devices, from where they come back.
    returns: bool,
}

impl Rules {
    /// Those of a route at a port of which `policy` holds. `own`: what the route says in its stead. `elsewhere`: it has more
    /// endpoints than one.
    pub fn new(
        policy: &TrafficPolicy,
        own: Option<&Arc<snapshot::Retry>>,
        budget: Arc<Budget>,
        elsewhere: bool,
    ) -> Self {
        let retry = own.map_or(&policy.retry, |own| own);
        Rules {
            safe: policy.safe_retry,
            elsewhere,
            policy: retry.is_any().then(|| own.cloned().unwrap_or_else(|| Arc::new(retry.clone()))),
            try_timeout: retry.try_timeout,
            limit: policy.retry_budget,
            budget,
            returns: false,
        }
    }

    /// The same of a route whose requests may be on devices, if `returns`.
    pub fn returning(self, returns: bool) -> Self {
        Rules { returns, ..self }
    }

    /// Whether a request's body is worth keeping, as something that was read may be asked for again.
    #[inline]
    pub fn repeats(&self) -> bool {
        self.policy.is_some() || self.returns
    }

    /// Whether what may have run may run again, by the request's method: by what that says, or a policy.
    pub fn may_repeat(&self, method: &[u8]) -> bool {
        hop::is_idempotent(method) || self.policy.as_deref().is_some_and(|policy| policy.may_repeat(method))
    }

    /// What is done about a try of `request`. `seen`: how many requests the route has had so far. `draw` gives a random
    /// number from nothing to its argument.
    pub fn decide(
        &self,
        tries: &mut Tries,
        came: Came,
        request: Request<'_>,
        now: Instant,
        seen: impl FnOnce() -> u64,
        draw: impl FnOnce(u64) -> u64,
    ) -> Verdict {
        if request.on_device && !tries.returned && came.is_failure() {
            tries.returned = request.whole;
            // The host is there for all of its requests, so this costs nobody's budget.
            return match request.whole {
                true => Verdict::Again(Duration::ZERO, came.condition()),
                false => Verdict::Refused(Refusal::Body),
            };
        }
        let by_itself = self.safe && !tries.free && self.is_safe(came, request.method);
        if by_itself && request.whole {
            let is_free = came == Came::Unread;
            if is_free || self.budget.take(&self.limit, now, seen) {
                tries.free = true;
                return Verdict::Again(Duration::ZERO, came.condition());
            }
            return Verdict::Refused(Refusal::Budget);
        }
        let Some(policy) = self.policy.as_deref() else { return Verdict::Last };
        if !calls(policy, came, request.method) {
            return Verdict::Last;
        }
        if tries.called >= policy.attempts {
            return Verdict::Refused(Refusal::Attempts);
        }
        if !request.whole {
            return Verdict::Refused(Refusal::Body);
        }
        let most = policy.backoff.saturating_mul(1 << tries.called.min(16)).min(policy.backoff_max);
        let drawn = draw(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX));
        let mut pause = Duration::from_nanos(drawn);
        if let (Came::Answer { wait: Some(wait), .. }, Some(patience)) = (came, policy.retry_after) {
            if wait > patience {
                return Verdict::Refused(Refusal::Time);
            }
            // Not all at the same moment.
            pause += wait;
        }
        if request.left.is_some_and(|left| left <= pause) {
            return Verdict::Refused(Refusal::Time);
        }
        // The last question, as the answer costs.
        if came != Came::Unread && !self.budget.take(&self.limit, now, seen) {
            return Verdict::Refused(Refusal::Budget);
        }
        tries.called += 1;
        Verdict::Again(pause, came.condition())
    }

    /// Whether what came calls for another try by itself. An answer only does where no policy says which ones do.
    fn is_safe(&self, came: Came, method: &[u8]) -> bool {
        match came {
            Came::Unread | Came::Dropped => true,
            // Who says when to come back is heeded.
            Came::Answer { status: 503, grpc: None, wait: None } => {
                self.elsewhere && self.policy.is_none() && hop::is_safe(method)
            }
            _ => false,
        }
    }
}

impl Tries {
    /// How many other tries a policy called for.
    pub fn called(self) -> u8 {
        self.called
    }
}

impl Came {
    /// Whether a device failed the request, rather than that the request is at fault.
    pub(crate) fn is_failure(self) -> bool {
        match self {
            Came::Unread | Came::Dropped | Came::Broken | Came::Late => true,
            // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            Came::Answer { grpc: Some(status), .. } => matches!(status, 2 | 4 | 8 | 12..=15),
            Came::Answer { status, .. } => status >= 500,
        }
    }

    fn condition(self) -> Condition {
        match self {
            Came::Unread => Condition::Unread,
            Came::Dropped | Came::Broken => Condition::Reset,
            Came::Late => Condition::Timeout,
            Came::Answer { grpc: Some(_), .. } => Condition::GrpcStatus,
            Came::Answer { .. } => Condition::Status,
        }
    }
}

impl Condition {
    /// Every one, in the order of its number.
    pub const ALL: [Condition; 5] =
        [Condition::Unread, Condition::Reset, Condition::Timeout, Condition::Status, Condition::GrpcStatus];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Condition::Unread => "unread",
            Condition::Reset => "reset",
            Condition::Timeout => "timeout",
            Condition::Status => "status",
            Condition::GrpcStatus => "grpc_status",
        }
    }
}

impl Refusal {
    /// Every one, in the order of its number.
    pub const ALL: [Refusal; 4] = [Refusal::Attempts, Refusal::Budget, Refusal::Body, Refusal::Time];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::Attempts => "attempts",
            Refusal::Budget => "budget",
            Refusal::Body => "body",
            Refusal::Time => "time",
        }
    }
}

/// Whether `policy` calls for another try.
fn calls(policy: &snapshot::Retry, came: Came, method: &[u8]) -> bool {
    let called = match came {
        Came::Unread => return policy.on.unread(),
        Came::Dropped | Came::Broken | Came::Late => policy.on.no_answer(),
        Came::Answer { status, grpc, .. } => {
            policy.on.status(status)
                || policy.codes.binary_search(&status).is_ok()
                || grpc.is_some_and(|code| policy.grpc.iter().any(|known| *known as u8 == code))
        }
    };
    called && policy.may_repeat(method)
}

#[cfg(test)]
mod tests;
