//! What follows from what is known: the next phase, or the next question to the store.

use super::{Action, Cause, Coordinator, Record};
use crate::cell::{Cell, Decision, Owner, Source};
use crate::class::Class;
use crate::id::Role;
use crate::message::{Declined, Report, Stand};
use crate::phase::Phase;
use crate::planted::Planted;

impl Coordinator {
    /// The phase that a decision leads to, if it is not there yet.
    pub(super) fn decided_phase(&self) -> Option<Phase> {
        match self.cell.decision {
            Decision::Open => None,
            Decision::Fenced if self.phase.is_fenced() => None,
            Decision::Fenced if self.plan.class == Class::Stateless => Some(Phase::Switch),
            Decision::Fenced => Some(Phase::Activate),
            Decision::Aborted => Some(Phase::Aborted).filter(|phase| self.phase != *phase),
            Decision::Returned => Some(Phase::RolledBack).filter(|phase| self.phase != *phase),
        }
    }

    /// The phase that comes next, if it may.
    pub(super) fn next_phase(&mut self, out: &mut Vec<Action>) -> Option<Phase> {
        if self.cause.is_some() && self.cell.decision == Decision::Open {
            return None;
        }
        let (old, new) = (self.stand(Role::Old), self.stand(Role::New));
        let stateless = self.plan.class == Class::Stateless;
        match self.phase {
            // Somebody else is to be given the service, and nobody serves before this is over.
            Phase::Switch | Phase::Forward | Phase::DrainOld if !stateless && self.new.dead => {
                Some(Phase::Done)
            }
            Phase::Plan => {
                let serves = self.owner_serves() || stateless || self.old.dead;
                (serves && new.is_some()).then_some(Phase::Prepare)
            }
            Phase::Prepare => {
                let is_reserved = matches!(new, Some(Stand::Reserved | Stand::Warm));
                is_reserved.then_some(Phase::Warm)
            }
            Phase::Warm => match new {
                Some(Stand::Warm) if stateless => None,
                Some(Stand::Warm) if self.old.dead => Some(Phase::Fence),
                Some(Stand::Warm) if self.plan.rules.rounds > 0 => Some(Phase::Precopy(1)),
                Some(Stand::Warm) => Some(self.after_copies()),
                _ => None,
            },
            Phase::Precopy(round) => {
                let is_copied = matches!(new, Some(Stand::Copied { round: copied }) if copied >= round);
                let is_small = self.copy().is_some_and(|copy| {
                    copy.round > 1 && copy.bytes <= self.plan.rules.small || round >= self.plan.rules.rounds
                });
                match is_copied {
                    true if is_small => Some(self.after_copies()),
                    true => Some(Phase::Precopy(round + 1)),
                    false if self.old.dead => Some(Phase::Fence),
                    false => None,
                }
            }
            // Whoever holds already waits for whoever is waited for, though the old place could answer still; and whoever comes
            // there before its own sidecar has heard is parked there.
            Phase::Hold => Some(Phase::Quiesce),
            Phase::Quiesce => {
                let report = self.old.report?;
                let is_frozen = report.incarnation == self.cell.owner.incarnation
                    && old == Some(Stand::Frozen { epoch: self.cell.epoch });
                match (is_frozen, self.copy()) {
                    (true, Some(copy)) => {
                        self.frozen = Some(copy.digest);
                        out.push(Action::Journal(Record::Frozen(copy.digest)));
                        Some(Phase::Finalcopy)
                    }
                    _ if self.old.dead => Some(Phase::Fence),
                    _ => None,
                }
            }
            Phase::Finalcopy => (self.has_everything() || self.old.dead).then_some(Phase::Fence),
            // It moves once the new place is seen to serve, and not before: that may have been by another control plane, which
            // has not written it down.
            Phase::Activate => (self.owner_serves() || self.has_left()).then_some(Phase::Switch),
            Phase::Switch => {
                let knows = self.told.is_some_and(|(epoch, knows)| knows && epoch == self.cell.epoch);
                knows.then(|| self.after_switch())
            }
            Phase::Forward => {
                let has_moved = matches!(old, Some(Stand::Moved | Stand::Drained { .. }));
                (has_moved || self.old.dead).then_some(Phase::DrainOld)
            }
            Phase::DrainOld => match old {
                Some(Stand::Drained { cut }) => {
                    self.count_cut(cut, out);
                    Some(Phase::Done)
                }
                _ if self.old.dead => Some(Phase::Done),
                _ => None,
            },
            Phase::Done => {
                // What was cut may end after nobody has waited for it any more.
                if let Some(Stand::Drained { cut }) = old {
                    self.count_cut(cut, out);
                }
                None
            }
            Phase::Fence | Phase::Aborted | Phase::RolledBack => None,
        }
    }

    fn count_cut(&mut self, cut: u64, out: &mut Vec<Action>) {
        if cut > 0 && self.cut != cut {
            self.cut = cut;
            out.push(Action::Journal(Record::Cut(cut)));
        }
    }

    fn after_copies(&self) -> Phase {
        if self.plan.holders.is_empty() { Phase::Quiesce } else { Phase::Hold }
    }

    /// The new place has what the old one has frozen.
    fn has_everything(&self) -> bool {
        let digest = match self.stand(Role::New) {
            Some(Stand::Ready { digest }) => Some(digest),
            _ => None,
        };
        digest.is_some() && digest == self.frozen
    }

    /// What the store is to be asked for, if anything.
    pub(super) fn decide(&mut self, out: &mut Vec<Action>) -> Option<Cell> {
        match self.cell.decision {
            Decision::Open => self.decide_open(out),
            Decision::Fenced => self.decide_fenced(),
            Decision::Aborted | Decision::Returned => {
                self.is_lost(Role::Old).then(|| self.regrant(Role::Old)).flatten()
            }
        }
    }

    fn decide_open(&mut self, out: &mut Vec<Action>) -> Option<Cell> {
        let stateless = self.plan.class == Class::Stateless;
        if self.cause.is_none() {
            let declined = self.old.report.and_then(|report| report.declined);
            let declined = declined.filter(|declined| declined.migration == self.plan.migration);
            let is_under_way = self.phase > Phase::Prepare;
            match self.stand(Role::New) {
                Some(Stand::Void { why }) => {
                    // Of an earlier migration it may be void still.
                    let hears =
                        self.new.report.is_some_and(|report| report.heard.migration == self.plan.migration);
                    if hears {
                        self.give_up(Cause::Refused(why), out);
                    }
                }
                Some(Stand::Empty) if is_under_way => self.give_up(Cause::NewLost, out),
                _ if self.is_lost(Role::Old) && !stateless && !self.old.dead && !self.has_everything() => {
                    self.give_up(Cause::OldLost, out);
                }
                _ => {
                    if let Some(Declined { why, .. }) = declined {
                        self.give_up(why.into(), out);
                    }
                }
            }
        }
        if self.cause.is_some() {
            let to = Cell { decision: Decision::Aborted, ..self.cell };
            return if self.is_lost(Role::Old) && !stateless {
                self.regrant(Role::Old).map(|cell| Cell { decision: Decision::Aborted, ..cell })
            } else {
                Some(Cell { source: Source::Kept, ..to })
            };
        }
        let is_warm = stateless && self.phase == Phase::Warm && self.stand(Role::New) == Some(Stand::Warm);
        if self.phase != Phase::Fence && !is_warm {
            return None;
        }
        let fenced = self.grant(Role::New)?;
        let fenced = Cell { decision: Decision::Fenced, ..fenced };
        match (self.plan.class, self.frozen) {
            (Class::Stateless, _) => Some(Cell { source: Source::Nothing, ..fenced }),
            (_, Some(digest)) if self.has_everything() => {
                Some(Cell { source: Source::Restored(digest), ..fenced })
            }
            // Somebody answers for it that the old place is dead.
            _ if self.old.dead => Some(self.afresh(fenced)),
            // A new place that lost it says so, and one that has not says that.
            _ => None,
        }
    }

    fn decide_fenced(&self) -> Option<Cell> {
        let is_active = self.phase > Phase::Activate;
        if self.plan.class == Class::Stateless {
            let is_void = matches!(self.stand(Role::New), Some(Stand::Void { .. }));
            if is_void && self.old_serves() && self.phase < Phase::Done {
                let granted = self.grant(Role::Old)?;
                return Some(Cell { decision: Decision::Returned, source: Source::Nothing, ..granted });
            }
            return self.is_lost(Role::New).then(|| self.regrant(Role::New)).flatten();
        }
        let is_void = matches!(self.stand(Role::New), Some(Stand::Void { .. }))
            && self
                .known(Role::New)
                .report
                .is_some_and(|report| report.incarnation == self.cell.owner.incarnation);
        let is_lost = self.is_lost(Role::New) || self.new.dead;
        if !is_lost && !is_void {
            return None;
        }
        if is_active {
            return self.is_lost(Role::New).then(|| self.regrant(Role::New)).flatten();
        }
        // The old place may have what it froze: what it says of itself is waited for.
        let old = self.old.report?;
        if let Stand::Frozen { .. } = old.stand {
            if self.may_yet_leave(&old) {
                return None;
            }
            let granted = self.grant(Role::Old)?;
            let returned = Cell { decision: Decision::Returned, ..granted };
            let may_have_served = self.offered && !is_void;
            let returned = Cell { source: Source::Kept, ..returned };
            return Some(if may_have_served { self.losing(returned) } else { returned });
        }
        if is_void || self.new.dead && !self.is_lost(Role::New) {
            return self.regrant(Role::Old).map(|cell| Cell { decision: Decision::Returned, ..cell });
        }
        self.regrant(Role::New)
    }

    /// The old place knows that it has moved.
    fn has_left(&self) -> bool {
        self.stand(Role::Old).is_some_and(Stand::has_left)
    }

    /// A command that another control plane gave may come to the old place still, by which it gives up what it has frozen. Once
    /// it has taken one of this control plane it takes none of those.
    pub(super) fn may_yet_leave(&self, old: &Report) -> bool {
        let heard = (old.heard.migration, old.heard.term);
        let trusts = self.faults.has(Planted::TrustFrozen);
        self.inherits && heard < (self.plan.migration, self.term) && !trusts
    }

    /// The old place of a stateless service still takes what comes, as far as is known.
    fn old_serves(&self) -> bool {
        let stand = self.stand(Role::Old);
        stand.is_some_and(|stand| stand == Stand::Warm || stand.serves().is_some())
    }

    /// Of a place that owns the service, what it had is gone: it says that it has begun again.
    fn is_lost(&self, role: Role) -> bool {
        let place = if role == Role::Old { self.plan.old } else { self.plan.new };
        let owner = self.cell.owner;
        let incarnation = self.known(role).report.map(|report| report.incarnation);
        owner.place == place && incarnation.is_some_and(|incarnation| incarnation > owner.incarnation)
    }

    /// The next epoch is that of a place as it is now.
    fn grant(&self, role: Role) -> Option<Cell> {
        let incarnation = self.known(role).report?.incarnation;
        let place = if role == Role::Old { self.plan.old } else { self.plan.new };
        let same = self.faults.has(Planted::SameEpoch);
        let epoch = if same { self.cell.epoch } else { self.cell.epoch.next() };
        Some(Cell { epoch, owner: Owner { place, incarnation }, ..self.cell })
    }

    /// The next epoch is that of a place that has nothing.
    fn regrant(&self, role: Role) -> Option<Cell> {
        self.grant(role).map(|cell| self.afresh(cell))
    }

    /// With what a place begins that has nothing.
    fn afresh(&self, cell: Cell) -> Cell {
        match self.plan.class {
            Class::Stateless => Cell { source: Source::Nothing, ..cell },
            Class::Volatile => self.losing(Cell { source: Source::Nothing, ..cell }),
        }
    }

    /// Something that was acknowledged may be gone: it is said in the transaction by which that becomes so.
    fn losing(&self, cell: Cell) -> Cell {
        let lost = u32::from(!self.faults.has(Planted::HideLoss));
        Cell { losses: cell.losses.saturating_add(lost), ..cell }
    }
}
