//! What the sidecar of a caller does with requests for a service that moves.
//!
//! Holding is an optimization: what has no room, or has waited for as long as is held, goes where the service was, and the old
//! place parks it. What was refused as not executed goes where the refusal says that the service is, or waits until that is
//! known. What a lost link took with it is answered, once: as `outcome_unknown`, unless it may be repeated.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{Epoch, PlaceId, RequestId, SourceId, Stamp};
use crate::place::Refusal;
use crate::planted::{Plan as Faults, Planted};
use crate::queue::{Queue, Waiting};
use crate::rules::Bounds;

/// The sidecar of callers, for one service that moves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    gate: Stamp,
    /// Where the service is.
    route: (PlaceId, Epoch),
    /// Requests are held, until then at the latest.
    until: Option<Duration>,
    held: Queue,
    /// Requests that were refused, and wait to be sent again.
    refused: Queue,
    again: Option<Duration>,
    /// How many times a request is tried, at most.
    most_tries: u8,
    flying: BTreeMap<RequestId, (Waiting, PlaceId)>,
    pub(crate) faults: Faults,
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Which request. No two that are under way have one number.
    pub id: RequestId,
    /// From where.
    pub source: SourceId,
    /// How much memory it takes while it is held.
    pub bytes: usize,
    /// When its caller gives up, if that is known.
    pub deadline: Option<Duration>,
    /// It is declared idempotent: it may run twice. What others write in between may be undone by it, as with any retry.
    pub is_repeatable: bool,
    /// Its beginning is kept, so that it can be sent again.
    pub is_kept: bool,
}

/// A command to the sidecar of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldOrder {
    /// Hold new requests that are for this epoch, or an earlier one, for so long at most.
    Hold(Duration, Epoch),
    /// Let go what is held.
    Release,
}

/// What whoever runs a [`Holder`] is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldAction {
    /// A request goes to a place. `is_kept`: a refusal can be followed by another try.
    Send {
        /// Which one.
        id: RequestId,
        /// Where.
        to: PlaceId,
        /// For the how manieth time, from 0.
        tries: u8,
    },
    /// A request is answered with an error of the mesh.
    Fail(RequestId, Failure),
}

/// An error of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It may have run.
    OutcomeUnknown,
    /// It was not executed, and waited for as long as it may for a place that takes it.
    NoPlace,
    /// It was not executed, and its own deadline passed.
    Late,
    /// It was not executed, and cannot be sent again: its beginning was not kept.
    Refused,
}

impl Failure {
    /// In a word, as a label and as the cause that a caller reads.
    pub const fn label(self) -> &'static str {
        match self {
            Failure::OutcomeUnknown => "outcome_unknown",
            Failure::NoPlace => "no_place",
            Failure::Late => "late",
            Failure::Refused => "refused",
        }
    }

    /// Whether it may have run.
    pub const fn is_unknown(self) -> bool {
        matches!(self, Failure::OutcomeUnknown)
    }
}

impl Holder {
    /// One that sends to `place`, and each request `most_tries` times at most. Of what is held, and of what was refused and
    /// waits, each is within `bounds`; their time counts from when a request came.
    pub fn new(place: PlaceId, epoch: Epoch, bounds: Bounds, most_tries: u8) -> Holder {
        Holder {
            gate: Stamp::default(),
            route: (place, epoch),
            until: None,
            held: Queue::new(bounds),
            refused: Queue::new(bounds),
            again: None,
            most_tries,
            flying: BTreeMap::new(),
            faults: Faults::default(),
        }
    }

    /// A caller asks for something.
    pub fn call(&mut self, call: Call, now: Duration, out: &mut Vec<HoldAction>) {
        let waiting = Waiting {
            id: call.id,
            source: call.source,
            bytes: call.bytes,
            deadline: call.deadline,
            since: now,
            tries: 0,
            is_repeatable: call.is_repeatable,
            is_stream: false,
            is_kept: call.is_kept,
        };
        if self.until.is_none() {
            self.send(waiting, out);
            return;
        }
        let mut displaced = Vec::new();
        self.held.push(waiting, &mut displaced);
        for waiting in displaced {
            self.send(waiting, out);
        }
    }

    /// A place has answered.
    pub fn answered(&mut self, id: RequestId) {
        self.flying.remove(&id);
    }

    /// A place has not executed a request.
    pub fn refused(&mut self, id: RequestId, refusal: Refusal, now: Duration, out: &mut Vec<HoldAction>) {
        let Some((mut waiting, _)) = self.flying.remove(&id) else { return };
        if !waiting.is_kept {
            out.push(HoldAction::Fail(id, Failure::Refused));
            return;
        }
        waiting.tries = waiting.tries.saturating_add(1);
        let is_news = refusal.hint.is_some_and(|(_, epoch)| epoch > self.route.1);
        if let Some((place, epoch)) = refusal.hint {
            self.route(place, epoch, now, out);
        }
        // Who has news is followed at once; what was sent before the news came, too.
        let is_known = refusal.hint.is_some_and(|(place, _)| place == self.route.0);
        if is_news || (is_known && waiting.tries <= AT_ONCE) {
            self.send(waiting, out);
        } else if waiting.since.saturating_add(self.refused.bounds().time) <= now {
            out.push(HoldAction::Fail(id, Failure::NoPlace));
        } else {
            self.wait(waiting, now, out);
        }
    }

    fn wait(&mut self, waiting: Waiting, now: Duration, out: &mut Vec<HoldAction>) {
        let mut displaced = Vec::new();
        self.refused.push(waiting, &mut displaced);
        self.again.get_or_insert(now.saturating_add(AGAIN));
        for waiting in displaced {
            out.push(HoldAction::Fail(waiting.id, Failure::NoPlace));
        }
    }

    /// The link to a place is lost, and with it whatever was on it.
    pub fn lost(&mut self, place: PlaceId, now: Duration, out: &mut Vec<HoldAction>) {
        if self.faults.has(Planted::ForgetLost) {
            self.flying.retain(|_, (_, to)| *to != place);
            return;
        }
        let is_lost = |(_, (_, to)): &(&RequestId, &(Waiting, PlaceId))| *to == place;
        let lost: Vec<RequestId> = self.flying.iter().filter(is_lost).map(|(id, _)| *id).collect();
        for id in lost {
            let Some((mut waiting, _)) = self.flying.remove(&id) else { continue };
            let repeats = waiting.is_repeatable || self.faults.has(Planted::RepeatAll);
            if repeats && waiting.is_kept && waiting.tries < self.most_tries {
                waiting.tries += 1;
                // It ran, or was about to: only now it waits.
                waiting.since = now;
                self.wait(waiting, now, out);
            } else {
                out.push(HoldAction::Fail(id, Failure::OutcomeUnknown));
            }
        }
    }

    /// Nobody waits any more for the answer to this one: it goes nowhere from here on.
    pub fn withdrawn(&mut self, id: RequestId) {
        if self.held.remove(id).is_none() && self.refused.remove(id).is_none() {
            self.flying.remove(&id);
        }
    }

    /// A caller is gone.
    pub fn gone(&mut self, source: SourceId) {
        while self.held.pop_of(source).is_some() {}
        while self.refused.pop_of(source).is_some() {}
        self.flying.retain(|_, (waiting, _)| waiting.source != source);
    }

    /// The control plane says to hold, or not to. Returns whether new requests are held by this from here on.
    pub fn command(
        &mut self,
        stamp: Stamp,
        order: HoldOrder,
        now: Duration,
        out: &mut Vec<HoldAction>,
    ) -> bool {
        if stamp <= self.gate {
            return false;
        }
        self.gate = stamp;
        match order {
            // It comes late: where the service went is known.
            HoldOrder::Hold(_, epoch) if self.route.1 > epoch => false,
            HoldOrder::Hold(most, _) => {
                self.until = Some(now.saturating_add(most.min(self.held.bounds().time)));
                true
            }
            HoldOrder::Release => {
                self.release(out);
                false
            }
        }
    }

    /// The service is at `place` now. What is older than what is known is not listened to.
    pub fn route(&mut self, place: PlaceId, epoch: Epoch, now: Duration, out: &mut Vec<HoldAction>) {
        if epoch > self.route.1 {
            self.route = (place, epoch);
            self.release(out);
            self.send_refused(now, out);
        }
    }

    /// The control plane cannot say any more when to let go: what is held goes where the service was.
    pub fn let_go(&mut self, out: &mut Vec<HoldAction>) {
        self.release(out);
    }

    /// How much may be held from here on, and wait once it was refused. What waits already stays.
    pub fn bound(&mut self, bounds: Bounds) {
        self.held.bound(bounds);
        self.refused.bound(bounds);
    }

    /// When [`on_timeout`](Holder::on_timeout) is to be called.
    pub fn timeout(&self) -> Option<Duration> {
        let queues = [self.held.timeout(), self.refused.timeout(), self.until, self.again];
        queues.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Duration, out: &mut Vec<HoldAction>) {
        while let Some(waiting) = self.refused.pop_expired(now) {
            let failure = if is_late(&waiting, now) { Failure::Late } else { Failure::NoPlace };
            out.push(HoldAction::Fail(waiting.id, failure));
        }
        while let Some(waiting) = self.held.pop_expired(now) {
            if is_late(&waiting, now) {
                out.push(HoldAction::Fail(waiting.id, Failure::Late));
            } else {
                self.send(waiting, out);
            }
        }
        if self.until.is_some_and(|until| until <= now) && !self.faults.has(Planted::HoldForever) {
            self.release(out);
        }
        if self.again.is_some_and(|again| again <= now) {
            self.send_refused(now, out);
        }
    }

    /// Whether new requests are held.
    pub fn is_holding(&self) -> bool {
        self.until.is_some()
    }

    /// Where the service is.
    pub fn place(&self) -> (PlaceId, Epoch) {
        self.route
    }

    /// What is held.
    pub fn held(&self) -> &Queue {
        &self.held
    }

    /// What was refused, and waits to be sent again.
    pub fn waiting(&self) -> &Queue {
        &self.refused
    }

    /// How many requests are at places, or on their way.
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    fn send(&mut self, waiting: Waiting, out: &mut Vec<HoldAction>) {
        let to = self.route.0;
        self.flying.insert(waiting.id, (waiting, to));
        out.push(HoldAction::Send { id: waiting.id, to, tries: waiting.tries });
    }

    fn release(&mut self, out: &mut Vec<HoldAction>) {
        self.until = None;
        while let Some(waiting) = self.held.pop() {
            self.send(waiting, out);
        }
    }

    fn send_refused(&mut self, now: Duration, out: &mut Vec<HoldAction>) {
        self.again = None;
        while let Some(waiting) = self.refused.pop() {
            if is_late(&waiting, now) {
                out.push(HoldAction::Fail(waiting.id, Failure::Late));
            } else if waiting.tries >= self.most_tries {
                out.push(HoldAction::Fail(waiting.id, Failure::NoPlace));
            } else {
                self.send(waiting, out);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn plant(&mut self, planted: Option<Planted>) {
        for faults in [&mut self.faults, &mut self.held.faults, &mut self.refused.faults] {
            faults.planted = planted;
        }
    }

    /// States that differ in moments and counts only are one to the model check.
    #[cfg(test)]
    pub(crate) fn rest(&mut self) {
        self.held.rest();
        self.refused.rest();
        self.until = self.until.map(|_| Duration::from_secs(1));
        self.again = self.again.map(|_| Duration::from_millis(50));
    }
}

fn is_late(waiting: &Waiting, now: Duration) -> bool {
    waiting.deadline.is_some_and(|deadline| deadline <= now)
}

/// How many times a request is tried, unless something else is asked for.
pub const MOST_TRIES: u8 = 100;

/// How many refusals are followed at once where they say what is known already.
const AT_ONCE: u8 = 2;

/// After how long what was refused is sent again.
pub const AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::RefusalCause;

    const OLD: PlaceId = PlaceId(1);
    const NEW: PlaceId = PlaceId(2);
    const ROOM: Bounds = Bounds { count: 2, bytes: 100, time: Duration::from_secs(5) };

    fn call(id: u64) -> Call {
        Call {
            id: RequestId(id),
            source: SourceId(1),
            bytes: 10,
            deadline: None,
            is_repeatable: false,
            is_kept: true,
        }
    }

    fn stamp(sequence: u64) -> Stamp {
        Stamp { migration: 1, term: 1, sequence }
    }

    /// What a holder does, in a word each.
    fn said(out: &mut Vec<HoldAction>) -> Vec<String> {
        let say = |action: HoldAction| match action {
            HoldAction::Send { id, to, tries } => format!("{} to {} ({tries})", id.0, to.0),
            HoldAction::Fail(id, failure) => format!("{} {}", id.0, failure.label()),
        };
        out.drain(..).map(say).collect()
    }

    #[test]
    fn what_is_held_goes_where_the_service_went() {
        let (mut holder, mut out) = (Holder::new(OLD, Epoch(1), ROOM, MOST_TRIES), Vec::new());
        let now = Duration::ZERO;
        let order = HoldOrder::Hold(Duration::from_secs(1), Epoch(1));
        assert!(holder.command(stamp(1), order, now, &mut out));
        for id in 0..3 {
            holder.call(call(id), now, &mut out);
        }
        // What has no room is not failed: the old place parks it.
        assert_eq!(said(&mut out), ["2 to 1 (0)"]);
        holder.route(NEW, Epoch(2), now, &mut out);
        assert_eq!(said(&mut out), ["0 to 2 (0)", "1 to 2 (0)"]);
        // An older command that comes late holds nothing.
        assert!(!holder.command(stamp(1), order, now, &mut out));
        holder.route(OLD, Epoch(1), now, &mut out);
        assert!(!holder.is_holding() && holder.place() == (NEW, Epoch(2)));
        assert_eq!(holder.held().counts().most, 2);
        // Nor does one that was never heard of, and is about what is over.
        assert!(!holder.command(stamp(2), order, now, &mut out));
        assert!(!holder.is_holding() && out.is_empty());
    }

    #[test]
    fn nothing_is_held_for_longer_than_was_said() {
        let (mut holder, mut out) = (Holder::new(OLD, Epoch(1), ROOM, MOST_TRIES), Vec::new());
        let most = Duration::from_secs(1);
        holder.command(stamp(1), HoldOrder::Hold(most, Epoch(1)), Duration::ZERO, &mut out);
        holder.call(Call { deadline: Some(most / 2), ..call(0) }, Duration::ZERO, &mut out);
        holder.call(call(1), Duration::ZERO, &mut out);
        assert_eq!(holder.timeout(), Some(most / 2));
        holder.on_timeout(most / 2, &mut out);
        assert_eq!(said(&mut out), ["0 late"]);
        assert_eq!(holder.timeout(), Some(most));
        holder.on_timeout(most, &mut out);
        assert_eq!(said(&mut out), ["1 to 1 (0)"]);
        assert!(!holder.is_holding());
    }

    #[test]
    fn what_nobody_waits_for_any_more_goes_nowhere() {
        let (mut holder, mut out) = (Holder::new(OLD, Epoch(1), ROOM, MOST_TRIES), Vec::new());
        let now = Duration::ZERO;
        holder.call(call(0), now, &mut out);
        holder.command(stamp(1), HoldOrder::Hold(Duration::from_secs(1), Epoch(1)), now, &mut out);
        holder.bound(Bounds { count: 1, ..ROOM });
        for id in 1..3 {
            holder.call(call(id), now, &mut out);
        }
        assert_eq!(said(&mut out), ["0 to 1 (0)", "2 to 1 (0)"]);
        for id in 0..3 {
            holder.withdrawn(RequestId(id));
        }
        assert_eq!((holder.in_flight(), holder.held().len(), holder.held().counts().left), (0, 0, 1));
        // Nobody says when it is over: what comes from here on is not held either.
        holder.call(call(3), now, &mut out);
        holder.let_go(&mut out);
        holder.call(call(4), now, &mut out);
        assert_eq!(said(&mut out), ["3 to 1 (0)", "4 to 1 (0)"]);
        assert!(!holder.is_holding());
    }

    #[test]
    fn what_was_not_executed_is_sent_where_it_is() {
        let (mut holder, mut out) = (Holder::new(OLD, Epoch(1), ROOM, MOST_TRIES), Vec::new());
        let now = Duration::ZERO;
        holder.call(call(0), now, &mut out);
        holder.call(Call { is_kept: false, ..call(1) }, now, &mut out);
        out.clear();
        let moved = Refusal { cause: RefusalCause::Moved, hint: Some((NEW, Epoch(2))) };
        holder.refused(RequestId(0), moved, now, &mut out);
        holder.refused(RequestId(1), moved, now, &mut out);
        assert_eq!(said(&mut out), ["0 to 2 (1)", "1 refused"]);
        // Nobody knows where it is: it waits, and is tried again.
        let lost = Refusal { cause: RefusalCause::NotHere, hint: None };
        holder.refused(RequestId(0), lost, now, &mut out);
        assert_eq!(holder.waiting().len(), 1);
        holder.on_timeout(AGAIN, &mut out);
        assert_eq!(said(&mut out), ["0 to 2 (2)"]);
        holder.answered(RequestId(0));
        assert_eq!(holder.in_flight(), 0);
    }

    #[test]
    fn what_is_refused_again_and_again_waits_no_longer_than_it_may() {
        let (mut holder, mut out) = (Holder::new(OLD, Epoch(1), ROOM, MOST_TRIES), Vec::new());
        let refusal = Refusal { cause: RefusalCause::Waited, hint: None };
        holder.call(call(0), Duration::ZERO, &mut out);
        // Each time it was parked before it was refused.
        let mut now = Duration::ZERO;
        while holder.in_flight() > 0 {
            now += Duration::from_secs(2);
            holder.refused(RequestId(0), refusal, now, &mut out);
            now = holder.timeout().unwrap_or(now);
            holder.on_timeout(now, &mut out);
        }
        assert_eq!(said(&mut out).last().map(String::as_str), Some("0 no_place"));
        assert!(now < ROOM.time * 2, "it waited for {now:?}");
    }

    #[test]
    fn what_a_link_took_with_it_is_answered_once() {
        let (mut holder, mut out) = (Holder::new(OLD, Epoch(1), ROOM, MOST_TRIES), Vec::new());
        let now = Duration::ZERO;
        holder.call(call(0), now, &mut out);
        holder.call(Call { is_repeatable: true, ..call(1) }, now, &mut out);
        out.clear();
        holder.lost(NEW, now, &mut out);
        assert!(out.is_empty());
        holder.lost(OLD, now, &mut out);
        holder.lost(OLD, now, &mut out);
        assert_eq!(said(&mut out), ["0 outcome_unknown"]);
        holder.on_timeout(AGAIN, &mut out);
        assert_eq!(said(&mut out), ["1 to 1 (1)"]);
    }
}
