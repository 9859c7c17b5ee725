//! A try of a request that was placed, until it ends.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_place::{Answer, Failure, HOST, Outcome, Refusal, Request, Setback, Ticket};

use super::Placement;
use super::counts::Counts;
use crate::balance::{self, OfDevice, Reported};
use crate::retry::Came;

/// A try that was placed. It is ended once: when it is told how it ended, or when it is dropped.
pub(crate) struct Placed {
    placement: Arc<Placement>,
    counts: Arc<Counts>,
    /// None: it has ended.
    ticket: Option<Ticket>,
    asked: Request,
    setback: Option<Setback>,
    /// How long its device's processor was at work for it, in seconds, as the device says.
    processor_seconds: Cell<Option<f64>>,
    /// Bytes of the request's body and of the answer's.
    bytes: (u64, u64),
}

impl Placed {
    pub(super) fn new(
        placement: Arc<Placement>,
        counts: Arc<Counts>,
        ticket: Ticket,
        asked: Request,
    ) -> Self {
        Placed {
            placement,
            counts,
            ticket: Some(ticket),
            asked,
            setback: None,
            processor_seconds: Cell::new(None),
            bytes: (0, 0),
        }
    }

    /// Whether it is on a device.
    pub(crate) fn is_on_device(&self) -> bool {
        self.ticket.is_some_and(|ticket| ticket.place != HOST)
    }

    /// How long its device has until it answers. None: it is on none.
    pub(crate) fn device_timeout(&self) -> Option<Duration> {
        let seconds = self.ticket.as_ref()?.timeout_seconds?;
        // What cannot be told as a time is none that passes.
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// It was held, and only now begins.
    pub(crate) fn begins(&mut self, now: Instant) {
        let now = self.placement.time(now);
        if let Some(ticket) = &mut self.ticket {
            ticket.begins(now);
        }
    }

    /// Its place says how long a request would wait there and, if it is a device, what this one took. A host may say something else by
    /// the same field, which is for others.
    pub(crate) fn hear(&self, said: Result<OfDevice, Reported>, now: Instant) {
        let Some(ticket) = &self.ticket else { return };
        let what = match said {
            Ok(OfDevice { queue_seconds, processor_seconds }) => {
                if self.is_on_device() {
                    self.processor_seconds.set(processor_seconds.or(self.processor_seconds.get()));
                }
                if let Some(queue_seconds) = queue_seconds {
                    self.placement.report(ticket.place, queue_seconds, now);
                }
                if queue_seconds.is_some() { Reported::Taken } else { Reported::Empty }
            }
            Err(what) => what,
        };
        if self.is_on_device() || what == Reported::Taken {
            self.counts.reported(ticket.place, what);
        }
    }

    /// The bodies were so long, in bytes: the request's and the answer's.
    pub(crate) fn carried(&mut self, bytes: (u64, u64)) {
        self.bytes = bytes;
    }

    /// It failed, if it is on a device: by what, for whoever is asked next.
    pub(crate) fn set_back(&mut self, setback: Setback) -> Option<Setback> {
        self.setback = Some(setback).filter(|_| self.is_on_device());
        self.setback
    }

    /// It has ended.
    pub(crate) fn end(&mut self, outcome: balance::Outcome, now: Instant) {
        use balance::Outcome::{Abandoned, Answered, Erred, Failed, Gateway};
        let failed = |failure| Outcome::SetBack(Setback::Failed(failure));
        let outcome = match (self.setback, outcome) {
            // Such as a connection that had rested for too long.
            (_, Abandoned) => Outcome::Abandoned,
            (Some(setback), _) => Outcome::SetBack(setback),
            (None, Answered) => Outcome::Answered(Answer { waited_seconds: None, bytes_out: self.bytes.1 }),
            (None, Erred | Gateway) => failed(Failure::Error),
            (None, Failed) => failed(Failure::Lost),
        };
        self.tell(&outcome, now);
    }

    fn tell(&mut self, outcome: &Outcome, now: Instant) {
        let Some(ticket) = self.ticket.take() else { return };
        let spent = self.placement.ended(&ticket, outcome, now);
        self.counts.ended(ticket.place, outcome);
        if let Some(spent) = spent {
            self.counts.answered(ticket.place, &self.asked, self.bytes, &spent, self.processor_seconds.get());
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.tell(&Outcome::Abandoned, Instant::now());
        }
    }
}

/// What a try that failed says of its device. None: nothing, as what came is an answer to the request.
pub(crate) fn setback(came: Came) -> Option<Setback> {
    if !came.is_failure() {
        return None;
    }
    Some(Setback::Failed(match came {
        // It is full, and says so before it runs anything.
        Came::Answer { status: 503, .. }
        | Came::Answer { grpc: Some(UNAVAILABLE | RESOURCE_EXHAUSTED), .. } => {
            return Some(Setback::Refused(Refusal::Reserve));
        }
        Came::Answer { .. } => Failure::Error,
        Came::Late => Failure::TimedOut,
        Came::Unread | Came::Dropped | Came::Broken => Failure::Lost,
    }))
}

/// Statuses of gRPC.
const RESOURCE_EXHAUSTED: u8 = 8;
const UNAVAILABLE: u8 = 14;
