//! What the sidecar of a caller does with requests for a service that is about to move.
//!
//! Holding is an optimization: what has no room, or has waited for as long as is held, goes where the service was, and the old
//! place parks it. What becomes of a request once it went somewhere is a matter of its [`Attempts`](crate::Attempts).

use std::time::Duration;

use crate::id::{Epoch, RequestId, SourceId, Stamp};
use crate::planted::{Plan as Faults, Planted};
use crate::queue::{Queue, Waiting};
use crate::rules::Bounds;

/// What is held of requests to one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    gate: Stamp,
    /// Requests are held, until then at the latest.
    until: Option<Duration>,
    held: Queue,
    pub(crate) faults: Faults,
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Which request. No two that wait have one number.
    pub id: RequestId,
    /// From where.
    pub source: SourceId,
    /// How much memory it takes while it is held.
    pub bytes: usize,
    /// When its caller gives up, if that is known.
    pub deadline: Option<Duration>,
}

/// A command to the sidecar of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldOrder {
    /// Hold new requests for so long at most, as the service leaves where it was in this epoch.
    Hold(Duration, Epoch),
    /// Let go what is held.
    Release,
}

/// What whoever runs a [`Holder`] is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldAction {
    /// A request goes where the service is, as far as is known.
    Go(RequestId),
    /// Its own deadline has passed, and it went nowhere.
    Late(RequestId),
}

impl Holder {
    /// One that holds nothing until it is told to, and then as much as is within `bounds`; times count from when a request
    /// came.
    pub fn new(bounds: Bounds) -> Holder {
        Holder { gate: Stamp::default(), until: None, held: Queue::new(bounds), faults: Faults::default() }
    }

    /// A caller asks for something that goes to where the service leaves from.
    pub fn call(&mut self, call: Call, now: Duration, out: &mut Vec<HoldAction>) {
        if self.until.is_none() {
            out.push(HoldAction::Go(call.id));
            return;
        }
        let waiting = Waiting {
            id: call.id,
            source: call.source,
            bytes: call.bytes,
            deadline: call.deadline,
            since: now,
            is_stream: false,
            is_kept: false,
        };
        let mut displaced = Vec::new();
        self.held.push(waiting, &mut displaced);
        out.extend(displaced.into_iter().map(|waiting| HoldAction::Go(waiting.id)));
    }

    /// Nobody waits any more for the answer to this one: it goes nowhere from here on.
    pub fn withdrawn(&mut self, id: RequestId) {
        self.held.remove(id);
    }

    /// The control plane says to hold, or not to. Returns whether new requests are held by this from here on. Whether requests
    /// still go to where the service leaves from is for the caller to know: nothing is held for what has moved.
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
            HoldOrder::Hold(most, _) => {
                self.until = Some(now.saturating_add(most.min(self.held.bounds().time)));
                true
            }
            HoldOrder::Release => {
                self.let_go(out);
                false
            }
        }
    }

    /// The service is reached elsewhere, or nobody can say any more when to let go: what is held goes.
    pub fn let_go(&mut self, out: &mut Vec<HoldAction>) {
        self.until = None;
        while let Some(waiting) = self.held.pop() {
            out.push(HoldAction::Go(waiting.id));
        }
    }

    /// How much may be held from here on. What waits already stays.
    pub fn bound(&mut self, bounds: Bounds) {
        self.held.bound(bounds);
    }

    /// When [`on_timeout`](Holder::on_timeout) is to be called.
    pub fn timeout(&self) -> Option<Duration> {
        [self.held.timeout(), self.until].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Duration, out: &mut Vec<HoldAction>) {
        while let Some(waiting) = self.held.pop_expired(now) {
            out.push(match waiting.deadline.is_some_and(|deadline| deadline <= now) {
                true => HoldAction::Late(waiting.id),
                false => HoldAction::Go(waiting.id),
            });
        }
        if self.until.is_some_and(|until| until <= now) && !self.faults.has(Planted::HoldForever) {
            self.let_go(out);
        }
    }

    /// Whether new requests are held.
    pub fn is_holding(&self) -> bool {
        self.until.is_some()
    }

    /// Whether this one is held.
    #[cfg(test)]
    pub(crate) fn holds(&self, id: RequestId) -> bool {
        self.held.iter().any(|waiting| waiting.id == id)
    }

    /// What is held.
    pub fn held(&self) -> &Queue {
        &self.held
    }

    #[cfg(test)]
    pub(crate) fn plant(&mut self, planted: Option<Planted>) {
        self.faults.planted = planted;
        self.held.faults.planted = planted;
    }

    /// States that differ in moments and counts only are one to the model check.
    #[cfg(test)]
    pub(crate) fn rest(&mut self) {
        self.held.rest();
        self.until = self.until.map(|_| Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Bounds = Bounds { count: 2, bytes: 100, time: Duration::from_secs(5) };

    fn call(id: u64) -> Call {
        Call { id: RequestId(id), source: SourceId(1), bytes: 10, deadline: None }
    }

    fn stamp(sequence: u64) -> Stamp {
        Stamp { migration: 1, term: 1, sequence }
    }

    /// What a holder does, in a word each.
    fn said(out: &mut Vec<HoldAction>) -> Vec<String> {
        let say = |action: HoldAction| match action {
            HoldAction::Go(id) => format!("{} goes", id.0),
            HoldAction::Late(id) => format!("{} late", id.0),
        };
        out.drain(..).map(say).collect()
    }

    #[test]
    fn what_is_held_goes_once_it_is_let_go() {
        let (mut holder, mut out) = (Holder::new(ROOM), Vec::new());
        let now = Duration::ZERO;
        let order = HoldOrder::Hold(Duration::from_secs(1), Epoch(1));
        assert!(holder.command(stamp(1), order, now, &mut out));
        for id in 0..3 {
            holder.call(call(id), now, &mut out);
        }
        // What has no room is not failed: the old place parks it.
        assert_eq!(said(&mut out), ["2 goes"]);
        holder.let_go(&mut out);
        assert_eq!(said(&mut out), ["0 goes", "1 goes"]);
        // An older command that comes late holds nothing.
        assert!(!holder.command(stamp(1), order, now, &mut out));
        assert!(!holder.is_holding() && out.is_empty());
        assert_eq!(holder.held().counts().most, 2);
    }

    #[test]
    fn nothing_is_held_for_longer_than_was_said() {
        let (mut holder, mut out) = (Holder::new(ROOM), Vec::new());
        let most = Duration::from_secs(1);
        holder.command(stamp(1), HoldOrder::Hold(most, Epoch(1)), Duration::ZERO, &mut out);
        holder.call(Call { deadline: Some(most / 2), ..call(0) }, Duration::ZERO, &mut out);
        holder.call(call(1), Duration::ZERO, &mut out);
        assert_eq!(holder.timeout(), Some(most / 2));
        holder.on_timeout(most / 2, &mut out);
        assert_eq!(said(&mut out), ["0 late"]);
        assert_eq!(holder.timeout(), Some(most));
        holder.on_timeout(most, &mut out);
        assert_eq!(said(&mut out), ["1 goes"]);
        assert!(!holder.is_holding());
    }

    #[test]
    fn what_nobody_waits_for_any_more_goes_nowhere() {
        let (mut holder, mut out) = (Holder::new(ROOM), Vec::new());
        let now = Duration::ZERO;
        holder.call(call(0), now, &mut out);
        holder.command(stamp(1), HoldOrder::Hold(Duration::from_secs(1), Epoch(1)), now, &mut out);
        holder.bound(Bounds { count: 1, ..ROOM });
        for id in 1..3 {
            holder.call(call(id), now, &mut out);
        }
        assert_eq!(said(&mut out), ["0 goes", "2 goes"]);
        for id in 0..3 {
            holder.withdrawn(RequestId(id));
        }
        assert_eq!((holder.held().len(), holder.held().counts().left), (0, 1));
        // Nobody says when it is over: what comes from here on is not held either.
        holder.call(call(3), now, &mut out);
        holder.let_go(&mut out);
        holder.call(call(4), now, &mut out);
        assert_eq!(said(&mut out), ["3 goes", "4 goes"]);
        assert!(!holder.is_holding());
    }
}
