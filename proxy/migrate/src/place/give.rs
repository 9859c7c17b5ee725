//! How a place gives a service away.

use std::time::Duration;

use super::{Action, Place, Running};
use crate::cell::Digest;
use crate::class::Class;
use crate::id::{Epoch, PlaceId};
use crate::message::{Copy, Declined, Stand, Unfrozen};
use crate::planted::Planted;

/// What there is only while a place gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Giving {
    /// The last copy that can be fetched.
    pub(super) copy: Option<Copy>,
    /// The last one before it was frozen.
    round: u32,
    /// Another one is being made.
    copying: bool,
    /// The migration for which it does not freeze.
    pub(super) declined: Option<Declined>,
    /// How long running requests may take, and the freeze.
    pub(super) until: Option<Duration>,
    patience: Duration,
    cuts: bool,
    /// It was asked to freeze.
    freezing: bool,
    /// It was asked to go on as before, and has not yet.
    pub(super) thawing: bool,
    /// It drains.
    drains: bool,
    /// How many were cut at the deadline.
    cut: u64,
    /// How many of them have not ended.
    cutting: u64,
    forced: bool,
}

impl Giving {
    /// Another migration begins.
    pub(super) fn begin(&mut self) {
        *self = Giving {
            cutting: self.cutting,
            until: self.until,
            freezing: self.freezing,
            thawing: self.thawing,
            ..Giving::default()
        };
    }

    /// Something that ran or was sent on has ended.
    pub(super) fn ended(&mut self) {
        self.cutting = self.cutting.saturating_sub(1);
    }

    pub(super) fn is_freezing(&self) -> bool {
        self.freezing
    }

    /// It is no longer about to be frozen, nor frozen.
    pub(super) fn end(&mut self) {
        self.until = None;
        self.freezing = false;
        self.thawing = false;
        self.copying = false;
        self.copy = None;
    }

    #[cfg(test)]
    pub(super) fn rest(&mut self) {
        self.until = self.until.map(|_| Duration::from_secs(1));
    }
}

impl Place {
    /// What was here was cut: until that has ended nothing more is sent on.
    pub(super) fn is_cut_short(&self) -> bool {
        self.giving.forced && self.stand == Stand::Moved
    }

    pub(super) fn snapshot(&mut self, round: u32, out: &mut Vec<Action>) {
        if self.stand.serves().is_some() && round > self.giving.round {
            self.giving.copying = true;
            out.push(Action::Snapshot { round });
            if let (Stand::Serving { epoch }, true) = (self.stand, self.faults.has(Planted::StopEarly)) {
                self.stand = Stand::Parking { epoch };
            }
        }
    }

    /// The copy of a round does not come about: it serves on, and is not asked for another one.
    pub fn not_copied(&mut self, out: &mut Vec<Action>) {
        if self.stand.serves().is_some() {
            self.giving.copying = false;
            self.decline(Unfrozen::Withheld);
            self.report(false, out);
        }
    }

    /// The copy of a round can be fetched.
    pub fn copied(&mut self, copy: Copy, out: &mut Vec<Action>) {
        if self.stand.serves().is_some() && copy.round > self.giving.round && !copy.last {
            self.giving.copying = false;
            self.giving.round = copy.round;
            self.giving.copy = Some(copy);
            self.report(false, out);
        }
    }

    pub(super) fn quiesce(&mut self, patience: Duration, cuts: bool, now: Duration, out: &mut Vec<Action>) {
        let Stand::Serving { epoch } = self.stand else { return };
        if self.giving.declined.is_some_and(|declined| declined.migration == self.gate.migration) {
            return;
        }
        self.stand = Stand::Parking { epoch };
        self.giving.freezing = false;
        self.giving.patience = patience;
        self.giving.cuts = cuts;
        self.giving.until = Some(now.saturating_add(patience));
        self.check_quiet(now, out);
    }

    /// Freezes if nothing runs.
    pub(super) fn check_quiet(&mut self, now: Duration, out: &mut Vec<Action>) {
        let is_quiet =
            self.running.unary + self.running.streams == 0 || self.faults.has(Planted::FreezeEarly);
        if matches!(self.stand, Stand::Parking { .. }) && !self.giving.freezing && is_quiet {
            self.giving.freezing = true;
            self.giving.until = Some(now.saturating_add(self.giving.patience));
            out.push(Action::Freeze);
        }
    }

    /// Nothing changes any more, and what there is can be fetched: its digest, how much there is to fetch, and whether that builds
    /// on the copy before. From here on nothing but a decision moves this place.
    pub fn frozen(&mut self, digest: Digest, bytes: u64, builds: bool, out: &mut Vec<Action>) {
        let Stand::Parking { epoch } = self.stand else { return };
        if !self.giving.freezing {
            return;
        }
        let before = self.giving.round;
        let base = if builds { before } else { 0 };
        self.giving.copy = Some(Copy { round: before + 1, base, bytes, digest, last: true });
        if !self.faults.has(Planted::ThawAlone) {
            self.giving.until = None;
        }
        self.giving.freezing = false;
        self.stand = Stand::Frozen { epoch };
        self.report(false, out);
    }

    /// The freeze does not come about: it serves again, and is not asked for another one.
    pub fn not_frozen(&mut self, out: &mut Vec<Action>) {
        let Stand::Parking { epoch } = self.stand else { return };
        if self.giving.freezing {
            self.decline(Unfrozen::Withheld);
            self.thaw(epoch, out);
            self.report(false, out);
        }
    }

    /// What ran did not end in time, or the freeze did not come about.
    pub(super) fn run_out(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.giving.until = None;
        let (Stand::Parking { epoch } | Stand::Frozen { epoch }) = self.stand else { return };
        if self.giving.cuts && self.running.unary == 0 && self.running.streams > 0 {
            // Once: they end by it.
            self.giving.cuts = false;
            self.giving.until = Some(now.saturating_add(self.giving.patience));
            out.push(Action::CutStreams);
            return;
        }
        self.decline(if self.giving.freezing { Unfrozen::Withheld } else { Unfrozen::Busy });
        self.thaw(epoch, out);
    }

    fn decline(&mut self, why: Unfrozen) {
        self.giving.declined = Some(Declined { migration: self.gate.migration, why });
    }

    /// What was copied while it served is not needed, nor what is being copied.
    pub(super) fn drop_copy(&mut self, out: &mut Vec<Action>) {
        if self.giving.copy.take().is_some() | std::mem::take(&mut self.giving.copying) {
            out.push(Action::DropFrozen);
        }
    }

    /// It serves again, as soon as it has thawed.
    pub(super) fn thaw(&mut self, epoch: Epoch, out: &mut Vec<Action>) {
        let thaws = self.giving.freezing || matches!(self.stand, Stand::Frozen { .. });
        self.giving.end();
        if thaws {
            self.giving.thawing = true;
            self.stand = Stand::Opening { epoch };
            out.push(Action::Thaw);
        } else {
            self.stand = Stand::Serving { epoch };
            self.run_parked(out);
        }
    }

    /// Things may change again.
    pub fn thawed(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.giving.thawing) {
            self.opened(true, out);
        }
    }

    /// The new place serves: whoever comes is sent on, and what is parked.
    pub(super) fn leave(&mut self, to: PlaceId, epoch: Epoch, out: &mut Vec<Action>) {
        let is_older = match self.stand {
            // It was taken for dead, and was not: its epoch is over.
            Stand::Serving { epoch: had } | Stand::Opening { epoch: had } => epoch > had,
            _ => true,
        };
        if matches!(self.stand, Stand::Moved | Stand::Drained { .. }) {
            // It has moved on from there, or its address is another one.
            if self.moved.is_none_or(|(_, known)| epoch > known) {
                self.moved = Some((to, epoch));
            }
            return;
        }
        if !is_older {
            return;
        }
        self.moved = Some((to, epoch));
        if self.class != Class::Stateless {
            self.cut_all(out);
        }
        self.taking.begins = None;
        if matches!(self.stand, Stand::Frozen { .. } | Stand::Parking { .. } | Stand::Serving { .. }) {
            out.push(Action::DropFrozen);
        }
        self.giving.end();
        self.stand = Stand::Moved;
        self.send_parked_on(to, out);
    }

    /// What is parked goes there, or its caller takes it there.
    pub(super) fn send_parked_on(&mut self, to: PlaceId, out: &mut Vec<Action>) {
        while let Some(waiting) = self.parked.pop() {
            if self.faults.has(Planted::ForgetParked) {
                continue;
            }
            if waiting.is_kept {
                out.push(Action::Refuse(waiting.id, self.refusal()));
            } else {
                self.running.forwarded += 1;
                out.push(Action::Forward(waiting.id, to));
            }
        }
    }

    /// What is here ends; a stateless place takes nothing new from here on.
    pub(super) fn drain(&mut self, to: PlaceId, epoch: Epoch, force: bool, out: &mut Vec<Action>) {
        let serves = self.stand.serves().is_some() || self.stand == Stand::Warm || self.stand == Stand::Empty;
        if self.class == Class::Stateless && serves {
            self.moved = Some((to, epoch));
            self.stand = Stand::Moved;
        }
        if self.stand != Stand::Moved {
            return;
        }
        self.giving.drains = true;
        if force {
            self.giving.forced = true;
            self.cut_all(out);
        }
        self.check_drained(out);
    }

    /// What runs ends. However often that is said it is cut once, and counts until it has ended.
    pub(super) fn cut_all(&mut self, out: &mut Vec<Action>) {
        let Running { unary, streams, forwarded } = self.running;
        let running = u64::from(unary) + u64::from(streams) + u64::from(forwarded);
        if running > self.giving.cutting {
            self.giving.cut += running - self.giving.cutting;
            self.giving.cutting = running;
            out.push(Action::CutAll);
        }
    }

    pub(super) fn check_drained(&mut self, out: &mut Vec<Action>) {
        let is_over = self.running == Running::default() && self.parked.is_empty();
        if self.giving.drains && self.stand == Stand::Moved && is_over {
            self.giving.drains = false;
            self.stand = Stand::Drained { cut: self.giving.cut };
            self.report(false, out);
        }
    }
}
