//! What a place does with requests.

use std::time::Duration;

use super::{Action, Place};
use crate::class::Class;
use crate::id::{Epoch, PlaceId, RequestId, SourceId};
use crate::message::Stand;
use crate::queue::Waiting;

/// A request whose head has come, and nothing of whose body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// Which one.
    pub id: RequestId,
    /// From where.
    pub source: SourceId,
    /// How much memory it takes while it is parked.
    pub bytes: usize,
    /// When its caller gives up, if that is known.
    pub deadline: Option<Duration>,
    /// What it is.
    pub kind: Kind,
    /// It belongs to a request that runs here already: parked, it would never end.
    pub is_inside: bool,
    /// Its caller keeps its beginning, and takes it elsewhere where it is refused.
    pub is_kept: bool,
    /// Another place has sent it on.
    pub is_forwarded: bool,
}

/// What a request is, as far as waiting for its end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It ends soon.
    Unary,
    /// It may go on for long.
    Stream,
}

/// How a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It was done.
    Done,
    /// It was cut, and may have changed something.
    Cut,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It runs; see [`Place::finished`].
    Run,
    /// It waits for an [`Action`].
    Park,
    /// It is answered as not executed.
    Refuse(Refusal),
    /// It goes to another place; see [`Place::forwarded`].
    Forward(PlaceId),
}

/// A request was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Why.
    pub cause: RefusalCause,
    /// Where the service is, as far as is known.
    pub hint: Option<(PlaceId, Epoch)>,
}

/// Why a request was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCause {
    /// The service is elsewhere.
    Moved,
    /// It is not here, and where it is is not known.
    NotHere,
    /// Too much is parked.
    Full,
    /// It was parked for too long.
    Waited,
    /// Its own deadline passed while it was parked.
    Late,
}

impl RefusalCause {
    /// In a word, as a label.
    pub const fn label(self) -> &'static str {
        match self {
            RefusalCause::Moved => "moved",
            RefusalCause::NotHere => "not_here",
            RefusalCause::Full => "full",
            RefusalCause::Waited => "waited",
            RefusalCause::Late => "late",
        }
    }
}

impl Place {
    /// A request comes. Others may have to make room for it.
    pub fn arrive(&mut self, arrival: Arrival, now: Duration, out: &mut Vec<Action>) -> Verdict {
        match self.stand {
            Stand::Serving { .. } => self.run(arrival.kind),
            Stand::Warm if self.class == Class::Stateless => self.run(arrival.kind),
            // What it belongs to could not end without it.
            Stand::Parking { .. } if arrival.is_inside && !self.giving.is_freezing() => {
                self.run(arrival.kind)
            }
            Stand::Parking { .. } | Stand::Frozen { .. } | Stand::Ready { .. } | Stand::Opening { .. } => {
                self.park(arrival, now, out)
            }
            // One that prepares to take the service back was where it came from.
            Stand::Moved
            | Stand::Drained { .. }
            | Stand::Empty
            | Stand::Reserved
            | Stand::Warm
            | Stand::Copied { .. }
            | Stand::Void { .. } => match self.moved {
                Some((to, _)) if !arrival.is_kept && !arrival.is_forwarded && !self.is_cut_short() => {
                    self.running.forwarded += 1;
                    Verdict::Forward(to)
                }
                _ => Verdict::Refuse(self.refusal()),
            },
        }
    }

    pub(super) fn run(&mut self, kind: Kind) -> Verdict {
        match kind {
            Kind::Unary => self.running.unary += 1,
            Kind::Stream => self.running.streams += 1,
        }
        Verdict::Run
    }

    fn park(&mut self, arrival: Arrival, now: Duration, out: &mut Vec<Action>) -> Verdict {
        let waiting = Waiting {
            id: arrival.id,
            source: arrival.source,
            bytes: arrival.bytes,
            deadline: arrival.deadline,
            since: now,
            is_stream: arrival.kind == Kind::Stream,
            is_kept: arrival.is_kept || arrival.is_forwarded,
        };
        let mut displaced = Vec::new();
        self.parked.push(waiting, &mut displaced);
        self.displace(displaced, out);
        Verdict::Park
    }

    /// A request has run, and its answer is there, or was cut.
    pub fn finished(&mut self, id: RequestId, kind: Kind, end: End, now: Duration, out: &mut Vec<Action>) {
        let is_its = matches!(self.stand, Stand::Serving { .. } | Stand::Parking { .. });
        // Where the epoch is another place's by now, what was done here is not there.
        let is_unknown = end == End::Cut || self.class != Class::Stateless && !is_its;
        out.push(if is_unknown { Action::AnswerUnknown(id) } else { Action::Answer(id) });
        self.ended(kind, now, out);
    }

    fn ended(&mut self, kind: Kind, now: Duration, out: &mut Vec<Action>) {
        let count = match kind {
            Kind::Unary => &mut self.running.unary,
            Kind::Stream => &mut self.running.streams,
        };
        *count = count.saturating_sub(1);
        self.giving.ended();
        self.check_quiet(now, out);
        self.check_drained(out);
        self.check_begun(out);
    }

    /// A request that was sent on was answered, or its link is lost.
    pub fn forwarded(&mut self, out: &mut Vec<Action>) {
        self.running.forwarded = self.running.forwarded.saturating_sub(1);
        self.giving.ended();
        self.check_drained(out);
    }

    /// Nobody waits any more for one that is parked: it never runs.
    pub fn withdrawn(&mut self, id: RequestId, out: &mut Vec<Action>) {
        if self.parked.remove(id).is_some() {
            self.check_drained(out);
        }
    }

    /// So many more run: whoever runs the place has let them in by itself while it served, and has it count them from here
    /// on.
    pub fn take_running(&mut self, unary: u32, streams: u32) {
        self.running.unary = self.running.unary.saturating_add(unary);
        self.running.streams = self.running.streams.saturating_add(streams);
    }

    /// How many run, and how many streams, if it serves: they are whoever's who runs the place to count, until it
    /// [gives them back](Self::take_running), which it does before anything else is asked of this.
    pub fn give_running(&mut self) -> Option<(u32, u32)> {
        self.stand.serves()?;
        Some((std::mem::take(&mut self.running.unary), std::mem::take(&mut self.running.streams)))
    }

    /// A caller is gone: what is parked of it never runs. What runs ends as if it were there.
    pub fn gone(&mut self, source: SourceId, out: &mut Vec<Action>) {
        while self.parked.pop_of(source).is_some() {}
        self.check_drained(out);
    }
}
