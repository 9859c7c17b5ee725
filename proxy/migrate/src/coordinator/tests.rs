//! A coordinator in virtual time, and places that answer as they are told to.

use std::time::Duration;

use super::*;
use crate::cell::{Owner, Source};
use crate::id::Incarnation;
use crate::message::{Order, Why};

const LIFE: Incarnation = Incarnation(1);
const OLD: PlaceId = PlaceId(1);
const NEW: PlaceId = PlaceId(2);
const EPOCH: Epoch = Epoch(3);

struct Bench {
    control: Coordinator,
    out: Vec<Action>,
    records: Vec<Record>,
    revision: u64,
}

impl Bench {
    fn new(class: Class, holders: Vec<HolderId>) -> Bench {
        let rules = Rules { rounds: 0, ..Rules::default() };
        let plan = Plan { migration: 1, class, old: OLD, new: NEW, holders, rules };
        let mut cell = Cell::new(1, EPOCH, Owner { place: OLD, incarnation: LIFE });
        cell.take_over(1);
        let mut out = Vec::new();
        let control = Coordinator::new(plan, cell, Duration::ZERO, &mut out);
        Bench { control, out, records: Vec::new(), revision: 0 }
    }

    fn says(&mut self, role: Role, stand: Stand, now: Duration) {
        self.revision += 1;
        let frozen = Copy { round: 1, base: 0, bytes: 1, digest: DIGEST, last: true };
        let report = Report {
            incarnation: LIFE,
            revision: self.revision,
            heard: self.control.stamp(),
            stand,
            copy: matches!(stand, Stand::Frozen { .. }).then_some(frozen),
            declined: None,
        };
        self.control.report(role, report, now, &mut self.out);
    }

    fn warm(&mut self) {
        self.says(Role::Old, Stand::Serving { epoch: EPOCH }, Duration::ZERO);
        for stand in [Stand::Empty, Stand::Reserved, Stand::Warm] {
            self.says(Role::New, stand, Duration::ZERO);
        }
    }

    /// The store does as it is asked to.
    fn commit(&mut self, now: Duration) {
        let asked = self.done().into_iter().find_map(|action| match action {
            Action::Commit(transaction) => Some(transaction),
            _ => None,
        });
        self.control.answered(asked.expect("the store is asked").to, now, &mut self.out);
    }

    fn done(&mut self) -> Vec<Action> {
        let done: Vec<Action> = self.out.drain(..).collect();
        self.records.extend(done.iter().filter_map(|action| match action {
            Action::Journal(record) => Some(*record),
            _ => None,
        }));
        done
    }

    fn wait(&mut self, until: Duration) {
        while let Some(timeout) = self.control.timeout().filter(|timeout| *timeout <= until) {
            self.control.on_timeout(timeout, &mut self.out);
        }
    }
}

const DIGEST: Digest = Digest([7; 32]);

#[test]
fn callers_are_told_to_hold_with_the_old_place_and_nobody_is_waited_for() {
    let mut bench = Bench::new(Class::Volatile, vec![HolderId(1), HolderId(2)]);
    bench.warm();
    assert_eq!(bench.control.phase(), Phase::Quiesce);
    let done = bench.done();
    let is_entered = |action: &Action| matches!(action, Action::Journal(Record::Entered(Phase::Hold)));
    let told = &done[done.iter().position(is_entered).unwrap()..];
    let [_, second, first_caller, second_caller, old] = told else { panic!("{told:?}") };
    assert_eq!(*second, Action::Journal(Record::Entered(Phase::Quiesce)));
    for (action, holder) in [(first_caller, HolderId(1)), (second_caller, HolderId(2))] {
        assert!(matches!(action, Action::Hold(to, _, HoldOrder::Hold(_, EPOCH)) if *to == holder));
    }
    assert!(
        matches!(old, Action::Send(Role::Old, command) if matches!(command.order, Order::Quiesce { .. }))
    );
}

#[test]
fn an_old_place_that_is_gone_is_not_waited_for_while_nobody_else_can_have_its_state() {
    for is_frozen in [false, true] {
        let mut bench = Bench::new(Class::Volatile, Vec::new());
        bench.warm();
        if is_frozen {
            bench.says(Role::Old, Stand::Frozen { epoch: EPOCH }, Duration::ZERO);
        }
        bench.done();
        bench.control.gone(Duration::ZERO, &mut bench.out);
        if is_frozen {
            assert_eq!((bench.control.phase(), bench.control.cause()), (Phase::Finalcopy, None));
            bench.says(Role::New, Stand::Ready { digest: DIGEST }, Duration::ZERO);
            bench.commit(Duration::ZERO);
            assert_eq!(bench.control.phase(), Phase::Activate);
            continue;
        }
        assert_eq!(bench.control.cause(), Some(Cause::OldGone));
        bench.commit(Duration::ZERO);
        // It serves on by what it knows, and whoever is given the service next gets another epoch.
        let cell = bench.control.cell();
        assert_eq!((cell.decision, cell.source, cell.epoch), (Decision::Aborted, Source::Kept, EPOCH));
        bench.control.gone(Duration::ZERO, &mut bench.out);
        assert!(!bench.done().iter().any(|action| matches!(action, Action::Commit(_))));
    }
}

#[test]
fn an_old_place_that_does_not_answer_is_not_taken_for_dead() {
    let mut bench = Bench::new(Class::Volatile, Vec::new());
    bench.warm();
    assert_eq!(bench.control.phase(), Phase::Quiesce);
    bench.done();
    bench.wait(Duration::from_secs(7));
    assert_eq!(bench.control.cause(), Some(Cause::Late(Phase::Quiesce)));
    bench.commit(Duration::from_secs(7));
    assert_eq!((bench.control.phase(), bench.control.cell().epoch), (Phase::Aborted, EPOCH));
    // It may be frozen, and hears of it as soon as it is back.
    assert!(!bench.control.is_settled());
    bench.done();
    bench.says(Role::Old, Stand::Frozen { epoch: EPOCH }, Duration::from_secs(100));
    bench.wait(Duration::from_secs(101));
    let serve = Order::Serve { epoch: EPOCH, from: Source::Kept };
    let is_told =
        |action: &Action| matches!(action, Action::Send(Role::Old, command) if command.order == serve);
    assert!(bench.done().iter().any(is_told));
    bench.says(Role::Old, Stand::Serving { epoch: EPOCH }, Duration::from_secs(101));
    assert!(bench.control.is_settled());
}

#[test]
fn an_abort_that_comes_after_the_fence_is_none() {
    let mut bench = Bench::new(Class::Volatile, Vec::new());
    bench.warm();
    bench.says(Role::Old, Stand::Frozen { epoch: EPOCH }, Duration::ZERO);
    bench.says(Role::New, Stand::Ready { digest: DIGEST }, Duration::ZERO);
    assert_eq!(bench.control.phase(), Phase::Fence);
    // The store has decided; nobody here knows yet.
    assert!(bench.control.abort(Duration::ZERO, &mut bench.out));
    bench.commit(Duration::ZERO);
    assert_eq!((bench.control.phase(), bench.control.cell().epoch), (Phase::Activate, EPOCH.next()));
    assert!(!bench.control.abort(Duration::ZERO, &mut bench.out));
    // There is no way back but by the new place: however long it takes, it is told again.
    bench.done();
    bench.wait(Duration::from_secs(60));
    let told = bench.done().len();
    assert!(told > 100, "it was told {told} times in a minute");
    assert_eq!(bench.control.phase(), Phase::Activate);
}

#[test]
fn what_is_not_fenced_in_time_is_aborted_unless_the_store_has_decided() {
    let mut bench = Bench::new(Class::Volatile, Vec::new());
    bench.warm();
    bench.says(Role::Old, Stand::Frozen { epoch: EPOCH }, Duration::ZERO);
    bench.says(Role::New, Stand::Ready { digest: DIGEST }, Duration::ZERO);
    let fence = Duration::from_secs(5);
    bench.wait(fence - Duration::from_millis(1));
    assert_eq!((bench.control.phase(), bench.control.cause()), (Phase::Fence, None));
    bench.wait(fence);
    assert_eq!(bench.control.cause(), Some(Cause::Late(Phase::Fence)));
    let mut decided = bench.control.clone();
    let asked = decided.asked.expect("the store is asked");
    // It did what it was asked for first, or somebody else has taken over and nothing was decided.
    decided.answered(asked.to, fence, &mut bench.out);
    assert_eq!(decided.phase(), Phase::Activate);
    bench.control.answered(asked.from, fence, &mut bench.out);
    bench.out.retain(|action| *action != Action::Commit(asked));
    bench.commit(fence);
    assert_eq!((bench.control.phase(), bench.control.cell().epoch), (Phase::Aborted, EPOCH));
}

#[test]
fn what_does_not_drain_is_cut_at_the_deadline_and_counted() {
    let mut bench = Bench::new(Class::Stateless, Vec::new());
    bench.warm();
    // Without state there is nothing to fence but who decides.
    assert_eq!(bench.control.phase(), Phase::Warm);
    bench.commit(Duration::ZERO);
    assert_eq!(bench.control.phase(), Phase::Switch);
    bench.control.switched(EPOCH.next(), Duration::ZERO, &mut bench.out);
    assert_eq!(bench.control.phase(), Phase::DrainOld);
    let forces = |action: &Action| {
        matches!(action, Action::Send(_, Command { order: Order::Drain { force: true, .. }, .. }))
    };
    bench.wait(Duration::from_millis(29_999));
    assert!(!bench.done().iter().any(forces));
    bench.wait(Duration::from_secs(30));
    assert!(bench.done().iter().any(forces));
    bench.says(Role::Old, Stand::Drained { cut: 3 }, Duration::from_secs(30));
    assert_eq!((bench.control.phase(), bench.control.cut()), (Phase::Done, 3));
    assert!(bench.control.is_settled());
}

#[test]
fn nothing_is_drained_for_a_place_that_does_not_serve() {
    let mut bench = Bench::new(Class::Stateless, Vec::new());
    bench.warm();
    bench.commit(Duration::ZERO);
    assert_eq!(bench.control.phase(), Phase::Switch);
    let why = Why::Unhealthy;
    let mut lost = bench.control.clone();
    // Callers take their time, and the new place begins again: what is waited for is that.
    let now = Duration::from_secs(1);
    let life = Incarnation(2);
    let empty = Report { incarnation: life, stand: Stand::Empty, ..lost.new.report.unwrap() };
    let mut out = Vec::new();
    lost.report(Role::New, empty, now, &mut out);
    lost.answered(lost.asked.unwrap().to, now, &mut out);
    lost.on_timeout(Duration::from_secs(100), &mut out);
    assert_eq!(lost.phase(), Phase::Switch);
    let drains =
        |action: &Action| matches!(action, Action::Send(_, Command { order: Order::Drain { .. }, .. }));
    assert!(!out.iter().any(drains));
    // One that cannot serve gives it back.
    bench.done();
    bench.says(Role::New, Stand::Void { why }, now);
    bench.commit(now);
    assert_eq!(bench.control.phase(), Phase::RolledBack);
    assert!(bench.control.is_settled());
}

#[test]
fn one_that_begins_again_goes_on_where_it_was() {
    let mut bench = Bench::new(Class::Volatile, Vec::new());
    bench.warm();
    bench.says(Role::Old, Stand::Frozen { epoch: EPOCH }, Duration::ZERO);
    bench.done();
    let mut cell = *bench.control.cell();
    assert!(cell.take_over(2));
    let plan = bench.control.plan().clone();
    let text = serde_json::to_string(&bench.records).unwrap();
    let records: Vec<Record> = serde_json::from_str(&text).unwrap();
    let mut out = Vec::new();
    bench.control = Coordinator::resume(plan, cell, &records, Duration::ZERO, &mut out);
    bench.out = out;
    assert_eq!(bench.control.phase(), Phase::Finalcopy);
    // It needs nothing more of the old place than what was written down.
    bench.says(Role::New, Stand::Ready { digest: DIGEST }, Duration::ZERO);
    assert_eq!(bench.control.phase(), Phase::Fence);
    bench.commit(Duration::ZERO);
    assert_eq!(bench.control.phase(), Phase::Activate);
}
