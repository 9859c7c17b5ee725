//! What is counted of hooks, and of copies of a state.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};

use super::hooks::{Hook, HookFault};

/// What became of a try to fetch a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// What was missing came.
    Whole,
    /// It was lost on the way, and is gone on with.
    Lost,
    /// The other side does not give it.
    Refused,
}

/// What became of a request for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// It got one.
    Whole,
    /// Who asked is not this very workload.
    Identity,
    /// Who asked did not show the token.
    Token,
    /// There is no such copy.
    Absent,
    /// As many are being fetched as may be.
    Busy,
    /// It is none that this sidecar understands.
    Malformed,
}

/// A hook was asked for.
pub(super) fn hook(hook: Hook, fault: Option<&HookFault>, took: Duration) {
    describe();
    let outcome = fault.map_or("done", HookFault::label);
    counter!("lighter_state_hooks_total", "hook" => hook.label(), "outcome" => outcome).increment(1);
    let seconds: Histogram = histogram!("lighter_state_hook_seconds", "hook" => hook.label());
    seconds.record(took);
}

/// A try to fetch a copy has ended.
pub(super) fn fetched(outcome: Fetch) {
    describe();
    let outcome = match outcome {
        Fetch::Whole => "whole",
        Fetch::Lost => "lost",
        Fetch::Refused => "refused",
    };
    counter!("lighter_state_copy_fetches_total", "outcome" => outcome).increment(1);
}

/// A copy was asked for.
pub(super) fn given(outcome: Given) {
    describe();
    let outcome = match outcome {
        Given::Whole => "given",
        Given::Identity => "identity",
        Given::Token => "token",
        Given::Absent => "absent",
        Given::Busy => "busy",
        Given::Malformed => "malformed",
    };
    counter!("lighter_state_copy_requests_total", "outcome" => outcome).increment(1);
}

/// Counts bytes of copies that go out.
pub(super) fn sent() -> Counter {
    describe();
    counter!("lighter_state_copy_bytes_total", "direction" => "sent")
}

/// Counts bytes of copies that come in.
pub(super) fn received() -> Counter {
    describe();
    counter!("lighter_state_copy_bytes_total", "direction" => "received")
}

fn describe() {
    static DESCRIBED: OnceLock<()> = OnceLock::new();
    DESCRIBED.get_or_init(|| {
        describe_counter!(
            "lighter_state_hooks_total",
            "Times that this workload's application was asked for its state, or to do something with it, by what came of it."
        );
        describe_histogram!("lighter_state_hook_seconds", "How long that took.");
        describe_counter!(
            "lighter_state_copy_bytes_total",
            "Bytes of copies of a state that went between places."
        );
        describe_counter!(
            "lighter_state_copy_fetches_total",
            "Tries to fetch a copy of a state from another place's sidecar."
        );
        describe_counter!(
            "lighter_state_copy_requests_total",
            "Times that somebody asked this sidecar for a copy of a state."
        );
    });
}
