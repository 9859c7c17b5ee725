//! A place of a service: what it does with requests, and with commands of the control plane.
//!
//! The old place is the authority. From the moment at which it says that it is frozen until somebody has decided, it does
//! nothing, for however long: the new place may serve. Before that it serves on by itself where the control plane does not get
//! on. The new place serves when it is told to, and not before.

mod give;
mod requests;
mod take;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::cell::{Digest, Source};
use crate::class::Class;
use crate::id::{Epoch, Incarnation, PlaceId, RequestId, Stamp};
use crate::message::{Command, Copy, Order, Report, Stand, Why};
use crate::planted::{Plan as Faults, Planted};
use crate::queue::{Queue, Waiting};
use crate::rules::Bounds;

pub use requests::{Arrival, End, Kind, Refusal, RefusalCause, Verdict};

/// A place of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub(crate) class: Class,
    pub(crate) incarnation: Incarnation,
    pub(crate) stand: Stand,
    /// The last command that was taken.
    pub(crate) gate: Stamp,
    pub(crate) running: Running,
    pub(crate) parked: Queue,
    giving: give::Giving,
    taking: take::Taking,
    /// Where the service is, once it is elsewhere.
    moved: Option<(PlaceId, Epoch)>,
    said: Option<Report>,
    pub(crate) faults: Faults,
}

/// Requests that are under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Running {
    /// That run, and are not streams.
    pub unary: u32,
    /// That run.
    pub streams: u32,
    /// That were sent on, and not answered yet.
    pub forwarded: u32,
}

/// What whoever runs a [`Place`] is to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Tell the control plane.
    Report(Report),
    /// A request that was parked runs.
    Run(RequestId),
    /// A request that was parked is answered as not executed.
    Refuse(RequestId, Refusal),
    /// A request that was parked goes to another place, which does not send it on; see [`Place::forwarded`].
    Forward(RequestId, PlaceId),
    /// What a request was answered may go to its caller.
    Answer(RequestId),
    /// Its caller hears that the outcome is unknown.
    AnswerUnknown(RequestId),
    /// Streams are cut: each [ends](Place::finished) as [`End::Cut`], and its caller hears that the outcome is unknown.
    CutStreams,
    /// So is everything that runs. What was sent on [ends](Place::forwarded) too, and is answered as unknown by whoever cuts it.
    CutAll,
    /// Nothing is to change any more, background work neither; see [`Place::frozen`].
    Freeze,
    /// It may change again; see [`Place::thawed`].
    Thaw,
    /// A copy of the state as it is is kept for the new place; see [`Place::copied`].
    Snapshot {
        /// Which one.
        round: u32,
    },
    /// What the service needs is reserved; see [`Place::reserved`].
    Reserve,
    /// The service becomes healthy; see [`Place::warmed`].
    Warm,
    /// The old place's copy is fetched, from this offset on; see [`Place::fetched`].
    Fetch(Copy, u64),
    /// The service begins with the copy that was fetched; see [`Place::opened`].
    Activate(Epoch),
    /// It begins with what the journal has. From then on the journal takes nothing of earlier epochs.
    Recover(Epoch),
    /// It begins with nothing.
    Begin(Epoch),
    /// What was frozen, and copies of it, are not needed.
    DropFrozen,
    /// What was reserved and fetched is not needed.
    Discard,
}

impl Place {
    /// One that has just begun: it serves nothing until it is told to. `incarnation` is greater than that of any before.
    pub fn new(class: Class, incarnation: Incarnation, bounds: Bounds) -> Place {
        Place {
            class,
            incarnation,
            stand: Stand::Empty,
            gate: Stamp::default(),
            running: Running::default(),
            parked: Queue::new(bounds),
            giving: give::Giving::default(),
            taking: take::Taking::default(),
            moved: None,
            said: None,
            faults: Faults::default(),
        }
    }

    /// One that serves since before there was a migration.
    pub fn serving(class: Class, incarnation: Incarnation, epoch: Epoch, bounds: Bounds) -> Place {
        Place { stand: Stand::Serving { epoch }, ..Place::new(class, incarnation, bounds) }
    }

    /// The same place in another life: what it had in memory is gone, and with it whatever was parked. What runs, or was sent
    /// on, has not ended for that.
    pub fn renew(&mut self, incarnation: Incarnation, out: &mut Vec<Action>) {
        self.moved = None;
        self.refuse_parked(out);
        let (running, bounds) = (self.running, self.parked.bounds());
        *self = Place { running, ..Place::new(self.class, incarnation, bounds) };
        self.report(true, out);
    }

    /// How much may be parked from here on.
    pub fn bound(&mut self, bounds: Bounds) {
        self.parked.bound(bounds);
    }

    /// Which of its lives this is.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What it is.
    pub fn stand(&self) -> Stand {
        self.stand
    }

    /// What is under way.
    pub fn running(&self) -> Running {
        self.running
    }

    /// What is parked.
    pub fn parked(&self) -> &Queue {
        &self.parked
    }

    /// A command came. Whatever it is, the control plane hears how things are.
    pub fn command(&mut self, command: Command, now: Duration, out: &mut Vec<Action>) {
        if command.order == Order::Ask {
            self.report(true, out);
            return;
        }
        let is_mine = command.incarnation == Some(self.incarnation) || self.faults.has(Planted::AnyLife);
        let is_new = command.stamp > self.gate || self.faults.has(Planted::AnyStamp);
        if !is_mine || !is_new {
            self.report(true, out);
            return;
        }
        if command.stamp.migration > self.gate.migration {
            self.giving.begin();
            self.taking.begin();
        }
        self.gate = self.gate.max(command.stamp);
        match command.order {
            Order::Ask => {}
            Order::Prepare { epoch } => self.prepare(epoch, out),
            Order::Warm => self.warm(out),
            Order::Snapshot { round } => self.snapshot(round, out),
            Order::Restore(copy) => self.restore(copy, out),
            Order::Quiesce { patience, cut_streams } => self.quiesce(patience, cut_streams, now, out),
            Order::Serve { epoch, from } => self.serve(epoch, from, out),
            Order::Move { to, epoch } => self.leave(to, epoch, out),
            Order::Drain { to, epoch, force } => self.drain(to, epoch, force, out),
            Order::Discard => self.discard(out),
        }
        self.report(true, out);
    }

    /// The epoch is this place's, with what `from` says.
    fn serve(&mut self, epoch: Epoch, from: Source, out: &mut Vec<Action>) {
        let is_over = match self.stand {
            // It was heard already, or is about something that is over.
            Stand::Serving { epoch: had } | Stand::Opening { epoch: had } => epoch <= had,
            _ => false,
        };
        match (self.stand, from) {
            // Where it was aborted, copies are of no use any more.
            (Stand::Serving { .. }, _) if is_over => self.drop_copy(out),
            _ if is_over => {}
            (Stand::Serving { .. }, Source::Kept) => self.stand = Stand::Serving { epoch },
            (Stand::Parking { epoch: had } | Stand::Frozen { epoch: had }, Source::Kept) if epoch >= had => {
                self.thaw(epoch, out);
            }
            (Stand::Ready { digest }, Source::Restored(wanted)) if digest == wanted => {
                self.open(epoch, Action::Activate(epoch), out);
            }
            (_, Source::Journal) => self.open(epoch, Action::Recover(epoch), out),
            (
                Stand::Empty
                | Stand::Reserved
                | Stand::Warm
                | Stand::Ready { .. }
                | Stand::Copied { .. }
                | Stand::Void { .. }
                | Stand::Moved
                | Stand::Drained { .. }
                // It was taken for dead, and was not: what it has was given up.
                | Stand::Serving { .. }
                | Stand::Opening { .. },
                Source::Nothing,
            ) => self.open(epoch, Action::Begin(epoch), out),
            _ => {}
        }
    }

    fn open(&mut self, epoch: Epoch, how: Action, out: &mut Vec<Action>) {
        if matches!(self.stand, Stand::Parking { .. } | Stand::Frozen { .. }) {
            self.giving.end();
            out.push(Action::Thaw);
        }
        self.giving.thawing = false;
        self.moved = None;
        self.stand = Stand::Opening { epoch };
        // What was sent on before runs, or waits, where it was sent.
        if self.class != Class::Stateless && self.running.unary + self.running.streams > 0 {
            self.cut_all(out);
        }
        // Nor is what it was fetching of any use.
        self.taking.begin();
        self.taking.begins = Some(how);
        self.check_begun(out);
    }

    /// The service has begun, or not.
    pub fn opened(&mut self, is_open: bool, out: &mut Vec<Action>) {
        let Stand::Opening { epoch } = self.stand else { return };
        if is_open {
            self.stand = Stand::Serving { epoch };
            self.run_parked(out);
        } else {
            self.stand = Stand::Void { why: Why::Activation };
            self.refuse_parked(out);
        }
        self.report(false, out);
    }

    /// What it has of the migration is not needed: whoever owns the epoch has been decided, and it is not this place.
    fn discard(&mut self, out: &mut Vec<Action>) {
        let takes = matches!(
            self.stand,
            Stand::Reserved | Stand::Warm | Stand::Copied { .. } | Stand::Ready { .. } | Stand::Void { .. }
        );
        if takes {
            self.taking.begin();
            match self.moved {
                Some((to, _)) => {
                    // As before: it is to hear where the service goes from there.
                    self.stand = Stand::Moved;
                    self.send_parked_on(to, out);
                }
                None => {
                    self.stand = Stand::Empty;
                    self.refuse_parked(out);
                }
            }
            out.push(Action::Discard);
        }
    }

    /// When [`on_timeout`](Place::on_timeout) is to be called.
    pub fn timeout(&self) -> Option<Duration> {
        self.giving.until.into_iter().chain(self.parked.timeout()).min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Duration, out: &mut Vec<Action>) {
        while let Some(waiting) = self.parked.pop_expired(now) {
            let cause = match waiting.deadline {
                Some(deadline) if deadline <= now => RefusalCause::Late,
                _ => RefusalCause::Waited,
            };
            out.push(Action::Refuse(waiting.id, Refusal { cause, hint: None }));
        }
        if self.giving.until.is_some_and(|until| until <= now) {
            self.run_out(now, out);
        }
        self.report(false, out);
    }

    /// Says how things are, if that is something else than before, or anyway.
    fn report(&mut self, anyway: bool, out: &mut Vec<Action>) {
        let revision = self.said.map_or(0, |said| said.revision);
        let mut report = Report {
            incarnation: self.incarnation,
            revision,
            heard: self.gate,
            stand: self.stand,
            copy: self.giving.copy,
            declined: self.giving.declined,
        };
        if self.said != Some(report) {
            report.revision += 1;
            self.said = Some(report);
        } else if !anyway {
            return;
        }
        out.push(Action::Report(report));
    }

    fn run_parked(&mut self, out: &mut Vec<Action>) {
        while let Some(waiting) = self.parked.pop() {
            self.run(if waiting.is_stream { Kind::Stream } else { Kind::Unary });
            out.push(Action::Run(waiting.id));
        }
    }

    fn refuse_parked(&mut self, out: &mut Vec<Action>) {
        while let Some(waiting) = self.parked.pop() {
            out.push(Action::Refuse(waiting.id, self.refusal()));
        }
    }

    /// How whoever comes is refused.
    fn refusal(&self) -> Refusal {
        let cause = if self.moved.is_some() { RefusalCause::Moved } else { RefusalCause::NotHere };
        Refusal { cause, hint: self.moved }
    }

    fn displace(&mut self, displaced: Vec<Waiting>, out: &mut Vec<Action>) {
        for waiting in displaced {
            out.push(Action::Refuse(waiting.id, Refusal { cause: RefusalCause::Full, hint: None }));
        }
    }

    /// What can be fetched from it.
    pub fn copy(&self) -> Option<Copy> {
        self.giving.copy
    }

    /// The digest of what it has frozen, or was given last.
    pub fn digest(&self) -> Option<Digest> {
        match self.stand {
            Stand::Ready { digest } => Some(digest),
            _ => self.giving.copy.map(|copy| copy.digest),
        }
    }

    /// What it has said last.
    #[cfg(test)]
    pub(crate) fn said(&self) -> Option<Report> {
        self.said
    }

    /// It was left for `to`, as if in a migration before.
    #[cfg(test)]
    pub(crate) fn leave_behind(&mut self, to: PlaceId, epoch: Epoch) {
        self.stand = Stand::Drained { cut: 0 };
        self.moved = Some((to, epoch));
    }

    /// States that differ in moments and counts only are one to the model check.
    #[cfg(test)]
    pub(crate) fn rest(&mut self) {
        self.parked.rest();
        self.giving.rest();
    }
}
