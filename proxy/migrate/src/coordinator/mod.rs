//! Moves a service: what the control plane decides, and tells places and callers.
//!
//! It is driven by levels, not by edges: what it does next follows from what the store says ([`Cell`]), how far it is
//! ([`Phase`]), and what the places have said last, so that a coordinator that begins again goes on with the same rules. What
//! is written down is written down before anything follows from it: [actions](Action) are done in their order.
//!
//! A coordinator stays for as long as its migration is the last one of the service, terminal or not: a place that was away may
//! come back, and has to hear what was decided.

mod commands;
mod decide;
mod record;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::cell::{Cell, Decision, Digest, Transaction};
use crate::class::Class;
use crate::hold::HoldOrder;
use crate::id::{Epoch, HolderId, PlaceId, Role, Stamp};
use crate::message::{Command, Copy, Report, Stand};
use crate::phase::Phase;
use crate::planted::{Plan as Faults, Planted};
use crate::rules::Rules;

pub use record::{Cause, Record};

/// What is to be moved, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Its number: greater than that of any migration of the service before.
    pub migration: u64,
    /// What the service keeps between requests.
    pub class: Class,
    /// Where it is.
    pub old: PlaceId,
    /// Where it goes.
    pub new: PlaceId,
    /// The sidecars of its callers.
    pub holders: Vec<HolderId>,
    /// How long is waited for what.
    pub rules: Rules,
}

/// Moves a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    plan: Plan,
    term: u64,
    sequence: u64,
    phase: Phase,
    /// As the store has it, as far as is known.
    cell: Cell,
    /// The store is asked, and has not answered.
    asked: Option<Transaction>,
    old: Known,
    new: Known,
    /// Of what the old place has frozen.
    frozen: Option<Digest>,
    cause: Option<Cause>,
    /// Callers were told of this epoch, and whether they all are known to know.
    told: Option<(Epoch, bool)>,
    /// When the phase takes too long.
    due: Option<Duration>,
    /// When what was not answered is said again.
    again: Option<Duration>,
    /// From this stamp on commands follow from the decision.
    decided: Option<Stamp>,
    /// The old place was told to cut what it has.
    forces: bool,
    cut: u64,
    /// The new place may have been told to serve.
    offered: bool,
    /// Another control plane was here before, and the old place may yet hear of it that it has moved.
    inherits: bool,
    superseded: bool,
    pub(crate) faults: Faults,
}

/// What is known of a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    report: Option<Report>,
    /// An operator says that it is dead.
    dead: bool,
    /// What it was told last, and under which stamp first.
    told: Option<(Command, Stamp)>,
}

/// What whoever runs a [`Coordinator`] is to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write it down: durably, if it [binds](Record::binds), before anything of what follows is sent, and with the next
    /// transaction at the latest. Where another control plane has taken over, nothing is written and
    /// [`Coordinator::supersede`] is called instead of doing the rest.
    Journal(Record),
    /// Ask the store; see [`Coordinator::answered`].
    Commit(Transaction),
    /// Tell a place.
    Send(Role, Command),
    /// Tell the sidecar of callers.
    Hold(HolderId, Stamp, HoldOrder),
    /// Tell all callers where the service is; see [`Coordinator::switched`].
    Endpoints(PlaceId, Epoch),
}

impl Coordinator {
    /// Begins. `cell` is what the store has, taken over for its term.
    pub fn new(plan: Plan, cell: Cell, now: Duration, out: &mut Vec<Action>) -> Coordinator {
        let mut coordinator = Coordinator::empty(plan, cell);
        coordinator.enter(Phase::Plan, now, out);
        coordinator.advance(now, out);
        coordinator
    }

    /// Goes on where another one was: `records` is all that was written down, and `cell` what the store has, taken over for a
    /// term that nobody had before.
    pub fn resume(
        plan: Plan,
        cell: Cell,
        records: &[Record],
        now: Duration,
        out: &mut Vec<Action>,
    ) -> Coordinator {
        let mut coordinator = Coordinator::empty(plan, cell);
        for record in records {
            match record {
                Record::Entered(phase) => coordinator.phase = *phase,
                Record::Frozen(digest) => coordinator.frozen = Some(*digest),
                Record::Aborting(cause) => coordinator.cause = Some(*cause),
                Record::Vouched(role) => coordinator.known_mut(*role).dead = true,
                Record::Cut(cut) => coordinator.cut = *cut,
            }
        }
        coordinator.offered = records.contains(&Record::Entered(Phase::Activate));
        coordinator.inherits = true;
        if coordinator.cell.decision != Decision::Open {
            coordinator.decided = Some(coordinator.stamp());
        }
        coordinator.due =
            coordinator.patience(coordinator.phase).map(|patience| now.saturating_add(patience));
        coordinator.advance(now, out);
        coordinator
    }

    fn empty(plan: Plan, cell: Cell) -> Coordinator {
        Coordinator {
            plan,
            term: cell.term,
            sequence: 0,
            phase: Phase::Plan,
            cell,
            asked: None,
            old: Known::default(),
            new: Known::default(),
            frozen: None,
            cause: None,
            told: None,
            due: None,
            again: None,
            decided: None,
            forces: false,
            cut: 0,
            offered: false,
            inherits: false,
            superseded: false,
            faults: Faults::default(),
        }
    }

    /// What is moved.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What the store has, as far as is known.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Why it is aborted, or has returned.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// How many requests were cut at the old place.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Whether it is over, and whoever owns the service has said so after the decision: nobody waits for anything.
    pub fn is_settled(&self) -> bool {
        self.phase.is_terminal() && self.asked.is_none() && self.owner_serves() && self.knows_decision()
    }

    /// Another control plane has taken over: this one does nothing any more.
    pub fn supersede(&mut self) {
        self.superseded = true;
        self.due = None;
        self.again = None;
    }

    /// Whether another one has taken over.
    pub fn is_superseded(&self) -> bool {
        self.superseded
    }

    /// A place says how it is.
    pub fn report(&mut self, role: Role, report: Report, now: Duration, out: &mut Vec<Action>) {
        let known = self.known_mut(role);
        let order = |report: Report| (report.incarnation, report.revision);
        if known.report.is_some_and(|before| order(report) < order(before)) {
            return;
        }
        if known.report.is_some_and(|before| before.incarnation < report.incarnation) {
            // Whoever was dead has begun again; it has nothing.
            known.told = None;
        }
        known.report = Some(report);
        self.advance(now, out);
    }

    /// The store answers: as it is now, whether it did what it was asked for or somebody else has.
    pub fn answered(&mut self, cell: Cell, now: Duration, out: &mut Vec<Action>) {
        if (cell.migration, cell.term) > (self.plan.migration, self.term) {
            self.supersede();
        }
        if (cell.migration, cell.term) != (self.plan.migration, self.term) {
            // An answer to whoever was here before says nothing.
            return;
        }
        self.asked = None;
        if cell.epoch >= self.cell.epoch && cell != self.cell {
            self.cell = cell;
            self.decided.get_or_insert(Stamp { sequence: self.sequence + 1, ..self.stamp() });
        }
        self.advance(now, out);
    }

    /// All callers know where the service is, as far as can be known.
    pub fn switched(&mut self, epoch: Epoch, now: Duration, out: &mut Vec<Action>) {
        if let Some((told, knows)) = &mut self.told
            && *told == epoch
        {
            *knows = true;
            self.advance(now, out);
        }
    }

    /// Somebody asks for it to be aborted. Returns whether that is possible still; what comes of it is the store's to say.
    pub fn abort(&mut self, now: Duration, out: &mut Vec<Action>) -> bool {
        let may = self.cell.decision == Decision::Open && !self.superseded;
        if may {
            self.give_up(Cause::Asked, out);
            self.advance(now, out);
        }
        may
    }

    /// An operator says that a place is dead: that nothing of it runs, and that it will not come back with what it had.
    pub fn vouch(&mut self, role: Role, now: Duration, out: &mut Vec<Action>) {
        if !self.known(role).dead && !self.superseded {
            self.known_mut(role).dead = true;
            out.push(Action::Journal(Record::Vouched(role)));
            self.advance(now, out);
        }
    }

    /// The old place has not been heard for so long that it does not count as being there. Nobody waits for it in vain: the
    /// migration is aborted, unless the new place may have all of the state by now, or have it soon, without a word from it.
    pub fn gone(&mut self, now: Duration, out: &mut Vec<Action>) {
        let waits = self.phase < Phase::Finalcopy && self.cause.is_none() && !self.old.dead;
        if waits && self.cell.decision == Decision::Open && !self.superseded {
            self.give_up(Cause::OldGone, out);
            self.advance(now, out);
        }
    }

    /// When [`on_timeout`](Coordinator::on_timeout) is to be called.
    pub fn timeout(&self) -> Option<Duration> {
        self.due.into_iter().chain(self.again).min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.superseded {
            return;
        }
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.run_out(now, out);
        }
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            if let Some(asked) = self.asked {
                out.push(Action::Commit(asked));
            }
            self.tell(now, true, out);
        }
        self.advance(now, out);
    }

    /// The phase has taken too long.
    fn run_out(&mut self, now: Duration, out: &mut Vec<Action>) {
        match self.phase {
            // Nothing is drained for a place that is known not to serve.
            Phase::Switch | Phase::DrainOld
                if self.plan.class == Class::Stateless && !self.owner_serves() =>
            {
                self.due = self.patience(self.phase).map(|patience| now.saturating_add(patience));
            }
            Phase::Switch => self.enter(self.after_switch(), now, out),
            Phase::Forward => self.enter(Phase::DrainOld, now, out),
            Phase::DrainOld if !self.forces => {
                self.forces = true;
                self.due = Some(now.saturating_add(self.plan.rules.answer));
            }
            Phase::DrainOld => self.enter(Phase::Done, now, out),
            Phase::Plan | Phase::Prepare | Phase::Warm | Phase::Precopy(_) => {
                self.give_up(Cause::Late(self.phase), out);
            }
            // Where the store was asked it may have decided already, and what it says holds.
            Phase::Quiesce | Phase::Finalcopy | Phase::Fence => self.give_up(Cause::Late(self.phase), out),
            // Here it is asked again and again.
            Phase::Hold | Phase::Activate | Phase::Done | Phase::Aborted | Phase::RolledBack => {}
        }
    }

    /// Everything that can be done now.
    fn advance(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.superseded {
            return;
        }
        while self.asked.is_none() {
            if let Some(phase) = self.decided_phase().or_else(|| self.next_phase(out)) {
                self.enter(phase, now, out);
            } else if let Some(to) = self.decide(out) {
                let transaction = Transaction { from: self.cell, to };
                self.asked = Some(transaction);
                out.push(Action::Commit(transaction));
            } else {
                break;
            }
        }
        self.publish(out);
        self.tell(now, false, out);
    }

    fn enter(&mut self, phase: Phase, now: Duration, out: &mut Vec<Action>) {
        self.phase = phase;
        if !(self.faults.has(Planted::NoJournal) && phase == Phase::Activate) {
            out.push(Action::Journal(Record::Entered(phase)));
        }
        self.due = self.patience(phase).map(|patience| now.saturating_add(patience));
        // Not before: nothing is to be written down between this and what the old place is told.
        if phase == Phase::Quiesce {
            for holder in self.plan.holders.clone() {
                let stamp = self.next_stamp();
                out.push(Action::Hold(
                    holder,
                    stamp,
                    HoldOrder::Hold(self.plan.rules.holds, self.cell.epoch),
                ));
            }
        }
        if matches!(phase, Phase::Aborted | Phase::RolledBack) {
            // Where it goes on from here is known: nobody has to wait for the place to say so, which parks until then.
            for holder in self.plan.holders.clone() {
                let stamp = self.next_stamp();
                out.push(Action::Hold(holder, stamp, HoldOrder::Release));
            }
        }
    }

    fn patience(&self, phase: Phase) -> Option<Duration> {
        let rules = &self.plan.rules;
        match phase {
            Phase::Plan | Phase::Prepare | Phase::Warm => Some(rules.prepare),
            Phase::Precopy(_) => Some(rules.round),
            Phase::Finalcopy => Some(rules.copy),
            // Running requests, the freeze, and streams that are cut in between.
            Phase::Quiesce => Some(rules.quiesce.saturating_mul(3).saturating_add(rules.answer)),
            Phase::Switch | Phase::Forward => Some(rules.switch),
            Phase::DrainOld => Some(rules.drain),
            Phase::Fence => Some(rules.fence),
            Phase::Hold | Phase::Activate | Phase::Done | Phase::Aborted | Phase::RolledBack => None,
        }
    }

    /// Tells callers where the service is, once it is there.
    fn publish(&mut self, out: &mut Vec<Action>) {
        let is_new = self.told.is_none_or(|(epoch, _)| epoch < self.cell.epoch);
        let is_due = match self.cell.decision {
            Decision::Open => false,
            Decision::Fenced => self.phase > Phase::Activate,
            Decision::Aborted | Decision::Returned => true,
        };
        if is_new && is_due && self.owner_serves() {
            self.told = Some((self.cell.epoch, false));
            out.push(Action::Endpoints(self.cell.owner.place, self.cell.epoch));
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { migration: self.plan.migration, term: self.term, sequence: self.sequence }
    }

    fn next_stamp(&mut self) -> Stamp {
        self.sequence += 1;
        self.stamp()
    }

    fn known(&self, role: Role) -> &Known {
        match role {
            Role::Old => &self.old,
            Role::New => &self.new,
        }
    }

    fn known_mut(&mut self, role: Role) -> &mut Known {
        match role {
            Role::Old => &mut self.old,
            Role::New => &mut self.new,
        }
    }

    fn stand(&self, role: Role) -> Option<Stand> {
        self.known(role).report.map(|report| report.stand)
    }

    /// What can be fetched from the old place, unless it is of an earlier migration.
    fn copy(&self) -> Option<Copy> {
        let report = self.old.report.filter(|report| report.heard.migration == self.plan.migration);
        report.and_then(|report| report.copy)
    }

    /// Whose the service is.
    fn owner(&self) -> Role {
        if self.cell.owner.place == self.plan.new { Role::New } else { Role::Old }
    }

    /// The life of the owner that was given the epoch serves it.
    fn owner_serves(&self) -> bool {
        let Some(report) = self.known(self.owner()).report else { return false };
        if report.incarnation != self.cell.owner.incarnation {
            return false;
        }
        match self.plan.class {
            Class::Stateless if self.owner() == Role::New => {
                report.stand == Stand::Warm || report.stand.serves().is_some()
            }
            Class::Stateless => report.stand.serves().is_some() || report.stand == Stand::Warm,
            Class::Volatile => report.stand.serves() == Some(self.cell.epoch),
        }
    }

    /// The owner took a command that followed from the decision, so that it takes none that came before.
    fn knows_decision(&self) -> bool {
        let heard = self.known(self.owner()).report.map(|report| report.heard);
        match (self.decided, heard) {
            (Some(decided), Some(heard)) => heard >= decided || self.plan.class == Class::Stateless,
            _ => false,
        }
    }

    fn give_up(&mut self, cause: Cause, out: &mut Vec<Action>) {
        if self.cause.is_none() && self.cell.decision == Decision::Open {
            self.cause = Some(cause);
            out.push(Action::Journal(Record::Aborting(cause)));
        }
    }

    fn after_switch(&self) -> Phase {
        if self.plan.class == Class::Stateless { Phase::DrainOld } else { Phase::Forward }
    }

    /// How many commands it has given.
    #[cfg(test)]
    pub(crate) fn said(&self) -> u64 {
        self.sequence
    }

    /// Whether a report says nothing new.
    #[cfg(test)]
    pub(crate) fn has_heard(&self, role: Role, report: &Report) -> bool {
        self.known(role)
            .report
            .is_some_and(|known| (report.incarnation, report.revision) <= (known.incarnation, known.revision))
    }

    /// States that differ in moments only are one to the model check.
    #[cfg(test)]
    pub(crate) fn rest(&mut self) {
        self.due = self.due.map(|_| Duration::from_secs(2));
        self.again = self.again.map(|_| Duration::from_secs(1));
    }
}
