//! What is counted of the journal.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// How an answer of the application was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// What it acknowledges is at the standby.
    Journaled,
    /// Nobody keeps a journal, and the Service says that it serves then.
    Unjournaled,
    /// Not at all: what it would acknowledge may be lost.
    Unknown,
}

/// What became of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The standby has it.
    Taken,
    /// The application did not give what has changed.
    Ungiven,
    /// The application does not know what has changed since the one before, and is asked for all of its state.
    Forgotten,
    /// The standby was not reached, and is asked again.
    Lost,
    /// The standby lacks what it builds on.
    Lacks,
    /// The standby serves itself, or keeps another's.
    Deposed,
}

/// What became of something that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// It is kept.
    Taken,
    /// What it builds on is not here.
    Lacks,
    /// Whoever gives it does not serve any more.
    Closed,
    /// Nobody has said that it is kept here.
    Unknown,
    /// Who gives it does not show the token.
    Token,
    /// Something else is just coming.
    Busy,
    /// It is none that is understood, or too long, or did not come whole.
    Malformed,
}

/// An answer has waited.
pub(super) fn answered(answered: Answered, waited: Duration) {
    describe();
    let outcome = match answered {
        Answered::Journaled => "journaled",
        Answered::Unjournaled => "unjournaled",
        Answered::Unknown => "unknown",
    };
    counter!("lighter_state_journal_answers_total", "outcome" => outcome).increment(1);
    histogram!("lighter_state_journal_wait_seconds").record(waited);
}

/// A request was refused before it ran.
pub(super) fn refused() {
    describe();
    counter!("lighter_state_journal_answers_total", "outcome" => "refused").increment(1);
}

/// A round has ended, or is tried again. `bytes`: that the standby has taken.
pub(super) fn round(ended: Ended, bytes: u64) {
    describe();
    let outcome = match ended {
        Ended::Taken => "taken",
        Ended::Ungiven => "ungiven",
        Ended::Forgotten => "forgotten",
        Ended::Lost => "lost",
        Ended::Lacks => "lacks",
        Ended::Deposed => "deposed",
    };
    counter!("lighter_state_journal_rounds_total", "outcome" => outcome).increment(1);
    counter!("lighter_state_journal_bytes_total", "direction" => "sent").increment(bytes);
}

/// Something came to be kept. `bytes`: that are kept of it.
pub(super) fn received(received: Received, bytes: u64) {
    describe();
    let outcome = match received {
        Received::Taken => "taken",
        Received::Lacks => "lacks",
        Received::Closed => "closed",
        Received::Unknown => "unknown",
        Received::Token => "token",
        Received::Busy => "busy",
        Received::Malformed => "malformed",
    };
    counter!("lighter_state_journal_kept_total", "outcome" => outcome).increment(1);
    counter!("lighter_state_journal_bytes_total", "direction" => "received").increment(bytes);
}

/// Whether this sidecar keeps the journal, and has all of it.
pub(super) fn standby(is_whole: bool) {
    describe();
    gauge!("lighter_state_standby").set(f64::from(u8::from(is_whole)));
}

fn describe() {
    static DESCRIBED: OnceLock<()> = OnceLock::new();
    DESCRIBED.get_or_init(|| {
        describe_counter!(
            "lighter_state_journal_answers_total",
            "Answers of this workload's application whose Service is journaled, by what they waited for came to; and requests that were refused."
        );
        describe_histogram!("lighter_state_journal_wait_seconds", "How long answers waited for the journal.");
        describe_counter!(
            "lighter_state_journal_rounds_total",
            "Rounds in which what has changed went to the instance that keeps the journal."
        );
        describe_gauge!(
            "lighter_state_standby",
            "Whether this sidecar keeps the journal of its Service's state, and has all of it."
        );
        describe_counter!("lighter_state_journal_bytes_total", "Bytes of the journal.");
        describe_counter!(
            "lighter_state_journal_kept_total",
            "Times that whoever serves gave this sidecar something to keep in the journal."
        );
    });
}
