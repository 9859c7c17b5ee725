//! What places are told, as it follows from what is known.

use std::time::Duration;

use super::{Action, Coordinator};
use crate::cell::{Decision, Source};
use crate::class::Class;
use crate::id::Role;
use crate::message::{Command, Order, Stand};
use crate::phase::Phase;
use crate::planted::Planted;
use crate::rules::Streams;

impl Coordinator {
    /// Tells places what they are to do, unless they were told. `anyway`: once more.
    pub(super) fn tell(&mut self, now: Duration, anyway: bool, out: &mut Vec<Action>) {
        let mut waits = self.asked.is_some();
        for role in Role::BOTH {
            let Some(order) = self.order(role) else {
                self.known_mut(role).told = None;
                continue;
            };
            waits = true;
            let incarnation = self.known(role).report.map(|report| report.incarnation);
            let incarnation = incarnation.filter(|_| order != Order::Ask);
            let is_told = self
                .known(role)
                .told
                .is_some_and(|(told, _)| told.order == order && told.incarnation == incarnation);
            if is_told && !anyway {
                continue;
            }
            let stamp = self.next_stamp();
            let command = Command { stamp, incarnation, order };
            self.known_mut(role).told = Some((command, stamp));
            self.offered |= role == Role::New && matches!(order, Order::Serve { .. });
            out.push(Action::Send(role, command));
        }
        if !waits {
            self.again = None;
        } else if self.again.is_none() {
            self.again = Some(now.saturating_add(self.plan.rules.again));
        }
    }

    /// What a place is to do now, if anything.
    fn order(&self, role: Role) -> Option<Order> {
        let Some(stand) = self.stand(role) else {
            // One that is vouched for as dead, too: if it is not, it has to hear what was decided.
            return Some(Order::Ask);
        };
        if self.plan.class == Class::Stateless {
            return self.order_stateless(role, stand);
        }
        match (self.cell.decision, role) {
            (Decision::Open, Role::Old) => self.order_old(stand),
            (Decision::Open, Role::New) => self.order_new(stand),
            _ if role == self.owner() => self.order_owner(role),
            (Decision::Fenced, _) => self.order_left(stand),
            (Decision::Aborted | Decision::Returned, _) => {
                // Of an earlier migration there is nothing to discard.
                let takes = matches!(
                    stand,
                    Stand::Reserved
                        | Stand::Warm
                        | Stand::Copied { .. }
                        | Stand::Ready { .. }
                        | Stand::Void { .. }
                );
                let (to, epoch) = (self.cell.owner.place, self.cell.epoch);
                match stand {
                    _ if takes => Some(Order::Discard),
                    // It was taken for dead, and was not: its epoch is over.
                    Stand::Opening { epoch: had } | Stand::Serving { epoch: had } if had < epoch => {
                        Some(Order::Move { to, epoch })
                    }
                    _ => None,
                }
            }
        }
    }

    /// While the old place serves.
    fn order_old(&self, stand: Stand) -> Option<Order> {
        match (self.phase, stand) {
            (Phase::Precopy(round), Stand::Serving { .. }) => {
                let has = self.copy().is_some_and(|copy| copy.round >= round);
                (!has).then_some(Order::Snapshot { round })
            }
            (Phase::Quiesce, Stand::Serving { .. }) => Some(self.quiesce()),
            // It says so by itself when it is frozen; that may have been lost.
            (Phase::Quiesce, Stand::Parking { .. }) => Some(Order::Ask),
            _ => None,
        }
    }

    fn quiesce(&self) -> Order {
        let cut_streams = self.plan.rules.streams == Streams::Cut;
        Order::Quiesce { patience: self.plan.rules.quiesce, cut_streams }
    }

    fn order_new(&self, stand: Stand) -> Option<Order> {
        let copy = self.copy();
        match (self.phase, stand) {
            (Phase::Prepare, Stand::Reserved | Stand::Warm) => None,
            (Phase::Prepare, _) => Some(Order::Prepare { epoch: self.cell.epoch }),
            (Phase::Warm, Stand::Reserved) => Some(Order::Warm),
            (Phase::Precopy(round), Stand::Warm | Stand::Copied { .. }) => {
                copy.filter(|copy| copy.round >= round && !copy.last).map(Order::Restore)
            }
            (Phase::Finalcopy, Stand::Warm | Stand::Copied { .. }) => {
                copy.filter(|copy| copy.last).map(Order::Restore)
            }
            (Phase::Fence, Stand::Ready { digest }) if self.faults.has(Planted::ActivateEarly) => {
                Some(Order::Serve { epoch: self.cell.epoch.next(), from: Source::Restored(digest) })
            }
            _ => None,
        }
    }

    /// Whose the service is serves it.
    fn order_owner(&self, role: Role) -> Option<Order> {
        let report = self.known(role).report?;
        // The next decision is about a place that has begun again, or was vouched for.
        let is_its = report.incarnation == self.cell.owner.incarnation;
        // A new place that cannot begin with what was copied gives the service back; whoever else could not is asked once more.
        let may_return = self.cell.decision == Decision::Fenced && self.phase <= Phase::Activate;
        let is_void = may_return && matches!(report.stand, Stand::Void { .. });
        let is_done = self.owner_serves() && self.knows_decision();
        let order = Order::Serve { epoch: self.cell.epoch, from: self.cell.source };
        (is_its && !is_done && !is_void && self.asked.is_none()).then_some(order)
    }

    /// The old place once it has lost the service.
    fn order_left(&self, stand: Stand) -> Option<Order> {
        let (to, epoch) = (self.cell.owner.place, self.cell.epoch);
        let is_served = self.phase > Phase::Activate || self.faults.has(Planted::MoveEarly);
        match stand {
            Stand::Drained { .. } => None,
            Stand::Moved if self.phase >= Phase::DrainOld => {
                Some(Order::Drain { to, epoch, force: self.forces })
            }
            Stand::Moved => None,
            _ if is_served => Some(Order::Move { to, epoch }),
            // It stays as it is, and hears of nobody but this control plane from then on.
            Stand::Frozen { .. } if self.old.report.is_some_and(|old| self.may_yet_leave(&old)) => {
                Some(self.quiesce())
            }
            _ => None,
        }
    }

    fn order_stateless(&self, role: Role, stand: Stand) -> Option<Order> {
        let (to, epoch) = (self.cell.owner.place, self.cell.epoch);
        match (self.cell.decision, role) {
            (Decision::Open, Role::New) => match (self.phase, stand) {
                (Phase::Prepare, Stand::Reserved | Stand::Warm) => None,
                (Phase::Prepare, _) => Some(Order::Prepare { epoch: self.cell.epoch }),
                (Phase::Warm, Stand::Reserved) => Some(Order::Warm),
                _ => None,
            },
            (Decision::Fenced, Role::New) => match stand {
                // It has begun again, and is as good as before, or is asked until it is.
                Stand::Empty | Stand::Void { .. } => Some(Order::Prepare { epoch: self.cell.epoch }),
                Stand::Reserved => Some(Order::Warm),
                _ => None,
            },
            // For as long as the new place does not serve the old one does.
            (Decision::Fenced, Role::Old) if self.phase >= Phase::DrainOld && self.owner_serves() => {
                let is_drained = matches!(stand, Stand::Drained { .. });
                (!is_drained).then_some(Order::Drain { to, epoch, force: self.forces })
            }
            (Decision::Aborted | Decision::Returned, Role::Old) => {
                let begins =
                    matches!(stand, Stand::Empty | Stand::Void { .. } | Stand::Moved | Stand::Drained { .. });
                begins.then_some(Order::Serve { epoch, from: Source::Nothing })
            }
            (Decision::Aborted | Decision::Returned, Role::New) => {
                matches!(stand, Stand::Reserved | Stand::Warm | Stand::Void { .. }).then_some(Order::Discard)
            }
            _ => None,
        }
    }
}
