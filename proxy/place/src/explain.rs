//! A decision in words.

use std::fmt::{self, Write};

use crate::health::{Failure, Refusal, Setback};
use crate::record::{Candidate, Reason, Record, Standing};
use crate::request::PlaceId;

impl Record {
    /// What was decided and why, and what was expected of each place. The first line is the decision.
    pub fn explain(&self, name: impl Fn(PlaceId) -> String) -> String {
        let mut text = format!("{}: {}", name(self.decision.place), self.decision.reason);
        if matches!(self.decision.reason, Reason::GuardHeld | Reason::Probed) {
            // A String takes all that is written.
            let _ = write!(text, " ({} % may go to devices)", self.inputs.share * 100.0);
        }
        if let Some(seconds) = self.decision.timeout_seconds {
            let by = if self.inputs.try_timeout_seconds.is_some() { " as its policy says" } else { "" };
            let _ = write!(text, "; the host is asked after {:.3} ms without an answer{by}", seconds * 1e3);
        }
        for candidate in self.inputs.candidates.iter() {
            let _ = write!(text, "\n  {}: ", name(candidate.place));
            let _ = match candidate.standing {
                Standing::Admissible => self.describe(candidate, &mut text),
                standing => write!(text, "{standing}"),
            };
        }
        text
    }

    fn describe(&self, candidate: &Candidate, text: &mut String) -> fmt::Result {
        let estimate = candidate.estimate(&self.inputs.weights);
        let ms = |seconds: f32| f64::from(seconds) * 1e3;
        write!(
            text,
            "{:.3} ms expected = {:.3} queue + ({:.3} in + {:.3} scan + {:.3} compute + {:.3} out) × {:.4} by {} answers; \
             {:.4} J, {:.0} bytes moved",
            estimate.seconds * 1e3,
            ms(candidate.queue_seconds),
            ms(candidate.input_seconds),
            ms(candidate.scan_seconds),
            ms(candidate.compute_seconds),
            ms(candidate.output_seconds),
            candidate.correction,
            candidate.answers,
            estimate.joules,
            candidate.moved_bytes,
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Stateful => f.write_str("only the host has the state that the request needs"),
            Reason::Setback(setback) => write!(f, "the request was sent to a device before, and {setback}"),
            Reason::NoDevice => f.write_str("no device may run it"),
            Reason::GuardClosed => {
                f.write_str("too many requests of the route missed their objective on devices")
            }
            Reason::GuardHeld => {
                f.write_str("the route comes back to devices by steps, and this request is not drawn")
            }
            Reason::Probed => {
                f.write_str("the route comes back to devices by steps, and this request is drawn")
            }
            Reason::Explored => f.write_str("too little is known of it"),
            Reason::Kept => f.write_str("the other side is better, but not by enough"),
            Reason::Cheapest => f.write_str("it costs least"),
        }
    }
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Setback::Refused(Refusal::PowerCap) => "refused before it ran (power_cap)",
            Setback::Refused(Refusal::Reserve) => "refused before it ran (reserve)",
            Setback::Failed(Failure::Lost) => "the device was lost",
            Setback::Failed(Failure::TimedOut) => "it was not answered in time",
            Setback::Failed(Failure::Error) => "it was answered with an error",
        })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Admissible => "admissible",
            Standing::NotOfRoute => "not asked: the route may not use it",
            Standing::NoFunction => "not asked: it does not hold the function",
            Standing::NoData => "not asked: it does not hold the data",
            Standing::OtherVersion => "not asked: it holds the data at another version",
            Standing::Stateful => "not asked: only the host has the state",
            Standing::Refused => "not asked: it refused a moment ago",
            Standing::Failed => "not asked: it failed a moment ago",
            Standing::Stalled => "not asked: it has not answered for too long",
            Standing::Silent => "not asked: it has not reported for too long",
            Standing::Unproven => "not asked: nothing is known of it yet, and a request is there to find out",
        })
    }
}
