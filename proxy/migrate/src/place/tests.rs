//! A place in virtual time.

use std::time::Duration;

use super::*;
use crate::id::SourceId;
use crate::message::Unfrozen;

const ROOM: Bounds = Bounds { count: 2, bytes: 100, time: Duration::from_secs(5) };
const LIFE: Incarnation = Incarnation(1);
const EPOCH: Epoch = Epoch(3);
const NEW: PlaceId = PlaceId(2);
/// While the service is where it went from here.
const PREPARE: Order = Order::Prepare { epoch: Epoch(4) };
const PATIENCE: Duration = Duration::from_secs(2);

fn arrival(id: u64) -> Arrival {
    Arrival {
        id: RequestId(id),
        source: SourceId(1),
        bytes: 10,
        deadline: None,
        kind: Kind::Unary,
        is_inside: false,
        is_kept: true,
        is_forwarded: false,
    }
}

/// A place, and what it did last.
struct Bench {
    place: Place,
    out: Vec<Action>,
    sequence: u64,
}

impl Bench {
    fn serving(class: Class) -> Bench {
        Bench { place: Place::serving(class, LIFE, EPOCH, ROOM), out: Vec::new(), sequence: 0 }
    }

    fn empty() -> Bench {
        Bench { place: Place::new(Class::Volatile, LIFE, ROOM), out: Vec::new(), sequence: 0 }
    }

    /// For which migration it does not freeze, and why.
    fn declined(&self) -> Option<(u64, Unfrozen)> {
        let declined = self.place.said()?.declined?;
        Some((declined.migration, declined.why))
    }

    fn order(&mut self, order: Order, now: Duration) -> Vec<Action> {
        self.sequence += 1;
        let stamp = Stamp { migration: 1, term: 1, sequence: self.sequence };
        self.place.command(Command { stamp, incarnation: Some(LIFE), order }, now, &mut self.out);
        self.done()
    }

    fn quiesce(&mut self, cut_streams: bool) -> Vec<Action> {
        self.order(Order::Quiesce { patience: PATIENCE, cut_streams }, Duration::ZERO)
    }

    fn arrive(&mut self, arrival: Arrival) -> Verdict {
        self.place.arrive(arrival, Duration::ZERO, &mut self.out)
    }

    fn late(&mut self, now: Duration) -> Vec<Action> {
        self.place.on_timeout(now, &mut self.out);
        self.done()
    }

    /// What it did, reports left out.
    fn done(&mut self) -> Vec<Action> {
        self.out.drain(..).filter(|action| !matches!(action, Action::Report(_))).collect()
    }
}

fn copy(last: bool) -> Copy {
    Copy { round: 1, base: 0, bytes: 100, digest: Digest([7; 32]), last }
}

#[test]
fn the_old_place_serves_on_where_requests_do_not_end() {
    let mut bench = Bench::serving(Class::Volatile);
    assert_eq!(bench.arrive(arrival(0)), Verdict::Run);
    assert_eq!(bench.quiesce(true), []);
    assert_eq!(bench.arrive(arrival(1)), Verdict::Park);
    assert_eq!(bench.place.timeout(), Some(PATIENCE));
    assert_eq!(bench.late(PATIENCE), [Action::Run(RequestId(1))]);
    assert_eq!(bench.place.stand(), Stand::Serving { epoch: EPOCH });
    // And does not try again for this migration.
    assert_eq!(bench.quiesce(true), []);
    assert_eq!(bench.place.stand(), Stand::Serving { epoch: EPOCH });
}

#[test]
fn streams_are_cut_where_that_was_asked_for() {
    let stream = Arrival { kind: Kind::Stream, ..arrival(0) };
    let mut bench = Bench::serving(Class::Volatile);
    bench.arrive(stream);
    bench.quiesce(true);
    assert_eq!(bench.late(PATIENCE), [Action::CutStreams]);
    bench.place.finished(RequestId(0), Kind::Stream, End::Cut, PATIENCE, &mut bench.out);
    assert_eq!(bench.done(), [Action::AnswerUnknown(RequestId(0)), Action::Freeze]);
    let mut bench = Bench::serving(Class::Volatile);
    bench.arrive(stream);
    bench.quiesce(false);
    assert_eq!(bench.late(PATIENCE), []);
    assert_eq!(bench.place.stand(), Stand::Serving { epoch: EPOCH });
}

#[test]
fn what_belongs_to_a_running_request_passes() {
    let mut bench = Bench::serving(Class::Volatile);
    bench.arrive(arrival(0));
    bench.quiesce(false);
    let inside = Arrival { is_inside: true, ..arrival(1) };
    assert_eq!(bench.arrive(inside), Verdict::Run);
    for id in 0..2 {
        assert_eq!(bench.done(), []);
        bench.place.finished(RequestId(id), Kind::Unary, End::Done, Duration::ZERO, &mut bench.out);
        assert_eq!(bench.out.remove(0), Action::Answer(RequestId(id)));
    }
    assert_eq!(bench.done(), [Action::Freeze]);
    // By now it would run on what is being copied.
    assert_eq!(bench.arrive(Arrival { id: RequestId(2), ..inside }), Verdict::Park);
}

#[test]
fn a_place_that_cannot_freeze_serves_on_at_once() {
    let mut bench = Bench::serving(Class::Volatile);
    bench.place.not_frozen(&mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Serving { epoch: EPOCH }, "nobody asked for it");
    bench.arrive(arrival(0));
    bench.quiesce(false);
    bench.place.not_frozen(&mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Parking { epoch: EPOCH }, "nor yet");
    bench.arrive(arrival(1));
    bench.place.finished(RequestId(0), Kind::Unary, End::Done, Duration::ZERO, &mut bench.out);
    assert_eq!(bench.done(), [Action::Answer(RequestId(0)), Action::Freeze]);
    bench.place.not_frozen(&mut bench.out);
    assert_eq!(bench.done(), [Action::Thaw]);
    // What is frozen still would not do it.
    assert_eq!(bench.arrive(arrival(2)), Verdict::Park);
    bench.place.thawed(&mut bench.out);
    assert_eq!(bench.done(), [Action::Run(RequestId(1)), Action::Run(RequestId(2))]);
    assert_eq!(bench.place.stand(), Stand::Serving { epoch: EPOCH });
    assert_eq!(bench.declined(), Some((1, Unfrozen::Withheld)));
    assert_eq!((bench.quiesce(false), bench.place.timeout()), (vec![], None), "not for this migration");
    // Once it is frozen, somebody else decides.
    let mut bench = Bench::serving(Class::Volatile);
    bench.quiesce(false);
    bench.place.frozen(Digest([7; 32]), 100, true, &mut bench.out);
    bench.place.not_frozen(&mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Frozen { epoch: EPOCH });
}

#[test]
fn whether_it_was_requests_that_did_not_end_or_the_service_that_did_not_freeze_is_said() {
    let mut busy = Bench::serving(Class::Volatile);
    assert_eq!(busy.arrive(arrival(0)), Verdict::Run);
    assert_eq!(busy.quiesce(false), []);
    busy.late(Duration::from_secs(1000));
    assert_eq!(busy.declined(), Some((1, Unfrozen::Busy)));
    let mut slow = Bench::serving(Class::Volatile);
    assert_eq!(slow.quiesce(false), [Action::Freeze]);
    slow.late(Duration::from_secs(1000));
    assert_eq!(slow.declined(), Some((1, Unfrozen::Withheld)));
}

#[test]
fn a_place_whose_service_does_not_take_a_copy_is_void() {
    let mut bench = Bench::empty();
    bench.order(PREPARE, Duration::ZERO);
    bench.place.reserved(true, &mut bench.out);
    bench.order(Order::Warm, Duration::ZERO);
    bench.place.warmed(true, &mut bench.out);
    bench.place.not_restored(copy(true), &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Warm, "nobody asked for it");
    bench.order(Order::Restore(copy(true)), Duration::ZERO);
    bench.place.not_restored(Copy { round: 2, ..copy(true) }, &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Warm, "that is another one");
    bench.place.not_restored(copy(true), &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Void { why: Why::Activation });
    bench.place.restored(copy(true), Digest([7; 32]), &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Void { why: Why::Activation });
}

#[test]
fn once_it_is_frozen_time_changes_nothing() {
    let mut bench = Bench::serving(Class::Volatile);
    assert_eq!(bench.quiesce(false), [Action::Freeze]);
    bench.place.frozen(Digest([7; 32]), 100, true, &mut bench.out);
    assert_eq!((bench.place.stand(), bench.place.timeout()), (Stand::Frozen { epoch: EPOCH }, None));
    bench.arrive(arrival(0));
    bench.done();
    // But those who wait do not for ever.
    let waited = Refusal { cause: RefusalCause::Waited, hint: None };
    assert_eq!(bench.late(ROOM.time), [Action::Refuse(RequestId(0), waited)]);
    bench.late(Duration::from_secs(1000));
    assert_eq!(bench.place.stand(), Stand::Frozen { epoch: EPOCH });
}

#[test]
fn whoever_comes_after_it_has_moved_is_sent_on_once() {
    let mut bench = Bench::serving(Class::Volatile);
    bench.quiesce(false);
    bench.place.frozen(Digest([7; 32]), 100, true, &mut bench.out);
    for id in 0..2 {
        bench.arrive(Arrival { is_kept: id == 0, ..arrival(id) });
    }
    bench.done();
    let moved = Refusal { cause: RefusalCause::Moved, hint: Some((NEW, EPOCH.next())) };
    let to = bench.order(Order::Move { to: NEW, epoch: EPOCH.next() }, Duration::ZERO);
    assert_eq!(
        to,
        [Action::DropFrozen, Action::Refuse(RequestId(0), moved), Action::Forward(RequestId(1), NEW)]
    );
    assert_eq!(bench.arrive(arrival(2)), Verdict::Refuse(moved));
    let foreign = Arrival { is_kept: false, ..arrival(3) };
    assert_eq!(bench.arrive(foreign), Verdict::Forward(NEW));
    assert_eq!(bench.arrive(Arrival { is_forwarded: true, ..foreign }), Verdict::Refuse(moved));
    let drain = |force| Order::Drain { to: NEW, epoch: EPOCH.next(), force };
    assert_eq!(bench.order(drain(false), Duration::ZERO), []);
    bench.place.forwarded(&mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Moved);
    assert_eq!(bench.order(drain(true), Duration::ZERO), [Action::CutAll]);
    // It counts until it has ended, once, and nothing else is sent on.
    assert_eq!(bench.order(drain(true), Duration::ZERO), []);
    assert_eq!(bench.place.stand(), Stand::Moved);
    assert_eq!(bench.arrive(foreign), Verdict::Refuse(moved));
    bench.place.forwarded(&mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Drained { cut: 1 });
}

#[test]
fn whoever_comes_while_it_takes_back_what_it_gave_away_is_sent_where_that_is() {
    let mut bench = Bench::serving(Class::Volatile);
    bench.quiesce(false);
    bench.place.frozen(Digest([7; 32]), 100, true, &mut bench.out);
    bench.order(Order::Move { to: NEW, epoch: EPOCH.next() }, Duration::ZERO);
    let foreign = |id| Arrival { is_kept: false, ..arrival(id) };
    let again = Arrival { is_forwarded: true, ..foreign(9) };
    let moved = Refusal { cause: RefusalCause::Moved, hint: Some((NEW, EPOCH.next())) };
    let meets = |bench: &mut Bench, id| {
        assert_eq!(bench.arrive(foreign(id)), Verdict::Forward(NEW), "{:?}", bench.place.stand());
        assert_eq!(bench.arrive(again), Verdict::Refuse(moved), "it is sent on once");
        bench.place.forwarded(&mut bench.out);
    };
    assert_eq!(bench.order(PREPARE, Duration::ZERO), [Action::Reserve]);
    meets(&mut bench, 0);
    bench.place.reserved(true, &mut bench.out);
    meets(&mut bench, 1);
    bench.order(Order::Warm, Duration::ZERO);
    bench.place.warmed(true, &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Warm);
    meets(&mut bench, 2);
    // Once it has everything it may serve next.
    let copy = Copy { round: 1, base: 0, bytes: 0, digest: Digest([8; 32]), last: true };
    bench.order(Order::Restore(copy), Duration::ZERO);
    bench.place.restored(copy, copy.digest, &mut bench.out);
    assert_eq!(bench.arrive(foreign(3)), Verdict::Park);
    bench.done();
    // And if it does not, they go where the service stayed.
    let discarded = bench.order(Order::Discard, Duration::ZERO);
    assert_eq!(discarded, [Action::Forward(RequestId(3), NEW), Action::Discard]);
    meets(&mut bench, 4);
    bench.place.forwarded(&mut bench.out);
    // It is to hear where the service goes from there, as before.
    assert_eq!(bench.place.stand(), Stand::Moved);
    let elsewhere = PlaceId(3);
    bench.order(Order::Move { to: elsewhere, epoch: Epoch(5) }, Duration::ZERO);
    assert_eq!(bench.arrive(foreign(5)), Verdict::Forward(elsewhere));
    bench.place.forwarded(&mut bench.out);
    // What it has not heard of it does not guess: who is refused at once goes elsewhere by itself.
    bench.order(Order::Prepare { epoch: Epoch(6) }, Duration::ZERO);
    assert_eq!(bench.place.stand(), Stand::Empty);
    let not_here = Refusal { cause: RefusalCause::NotHere, hint: None };
    assert_eq!(bench.arrive(foreign(6)), Verdict::Refuse(not_here));
}

#[test]
fn a_copy_goes_on_where_it_was_and_is_not_taken_if_it_is_another() {
    let mut bench = Bench::empty();
    assert_eq!(bench.order(PREPARE, Duration::ZERO), [Action::Reserve]);
    bench.place.reserved(true, &mut bench.out);
    assert_eq!(bench.order(Order::Warm, Duration::ZERO), [Action::Warm]);
    bench.place.warmed(true, &mut bench.out);
    let copy = copy(true);
    assert_eq!(bench.order(Order::Restore(copy), Duration::ZERO), [Action::Fetch(copy, 0)]);
    assert!(bench.place.fetched(copy, 0, 60));
    // Again, with a hole, and more than there is.
    assert!(!bench.place.fetched(copy, 0, 60));
    assert!(!bench.place.fetched(copy, 70, 10));
    assert!(!bench.place.fetched(copy, 60, 41));
    assert_eq!(bench.place.progress(), Some((60, 100)));
    // The connection was lost.
    assert_eq!(bench.order(Order::Restore(copy), Duration::ZERO), [Action::Fetch(copy, 60)]);
    assert!(bench.place.fetched(copy, 60, 40) && bench.place.is_whole());
    let mut other = Bench { place: bench.place.clone(), out: Vec::new(), sequence: bench.sequence };
    other.place.restored(copy, Digest([8; 32]), &mut other.out);
    assert_eq!(other.place.stand(), Stand::Void { why: Why::Digest });
    bench.place.restored(copy, copy.digest, &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Ready { digest: copy.digest });
    // It serves what it has, and nothing else.
    let serve = |digest| Order::Serve { epoch: EPOCH, from: Source::Restored(digest) };
    bench.done();
    assert_eq!(bench.order(serve(Digest([9; 32])), Duration::ZERO), []);
    assert_eq!(bench.order(serve(copy.digest), Duration::ZERO), [Action::Activate(EPOCH)]);
}

#[test]
fn whoever_was_taken_for_dead_ends_when_it_hears_of_a_later_epoch() {
    let later = EPOCH.next();
    let mut bench = Bench::serving(Class::Volatile);
    bench.arrive(arrival(0));
    // What is about its own epoch is old.
    assert_eq!(bench.order(Order::Move { to: NEW, epoch: EPOCH }, Duration::ZERO), []);
    let mut again = Bench { place: bench.place.clone(), out: Vec::new(), sequence: bench.sequence };
    let done = bench.order(Order::Move { to: NEW, epoch: later }, Duration::ZERO);
    assert_eq!(done, [Action::CutAll, Action::DropFrozen]);
    assert_eq!(bench.place.stand(), Stand::Moved);
    bench.place.finished(RequestId(0), Kind::Unary, End::Done, Duration::ZERO, &mut bench.out);
    assert_eq!(bench.done(), [Action::AnswerUnknown(RequestId(0))]);
    // Where the later epoch is its own it begins once what ran has ended.
    let serve = Order::Serve { epoch: later, from: Source::Nothing };
    assert_eq!(again.order(serve, Duration::ZERO), [Action::CutAll]);
    assert_eq!(again.arrive(arrival(1)), Verdict::Park);
    again.place.finished(RequestId(0), Kind::Unary, End::Done, Duration::ZERO, &mut again.out);
    assert_eq!(again.done(), [Action::AnswerUnknown(RequestId(0)), Action::Begin(later)]);
    again.place.opened(true, &mut again.out);
    assert_eq!(again.done(), [Action::Run(RequestId(1))]);
}

#[test]
fn a_copy_of_what_was_aborted_is_dropped() {
    let mut bench = Bench::serving(Class::Volatile);
    assert_eq!(bench.order(Order::Snapshot { round: 1 }, Duration::ZERO), [Action::Snapshot { round: 1 }]);
    bench.place.copied(copy(false), &mut bench.out);
    bench.done();
    assert!(bench.place.copy().is_some());
    let serve = Order::Serve { epoch: EPOCH, from: Source::Kept };
    assert_eq!(bench.order(serve, Duration::ZERO), [Action::DropFrozen]);
    assert_eq!((bench.place.copy(), bench.order(serve, Duration::ZERO)), (None, Vec::new()));
}

#[test]
fn a_copy_that_does_not_come_about_is_given_up_and_said() {
    let mut bench = Bench::serving(Class::Volatile);
    let serve = Order::Serve { epoch: EPOCH, from: Source::Kept };
    assert_eq!(bench.order(Order::Snapshot { round: 1 }, Duration::ZERO), [Action::Snapshot { round: 1 }]);
    assert_eq!(bench.order(serve, Duration::ZERO), [Action::DropFrozen]);
    assert_eq!(bench.order(serve, Duration::ZERO), []);
    assert_eq!(bench.order(Order::Snapshot { round: 1 }, Duration::ZERO), [Action::Snapshot { round: 1 }]);
    bench.place.not_copied(&mut bench.out);
    bench.done();
    assert_eq!(bench.declined(), Some((1, Unfrozen::Withheld)));
    assert_eq!(bench.place.stand(), Stand::Serving { epoch: EPOCH });
    assert_eq!(bench.quiesce(false), [], "it is not frozen in vain");
}

#[test]
fn the_last_copy_builds_on_the_one_before_it_or_on_none() {
    for (builds, base) in [(true, 1), (false, 0)] {
        let mut bench = Bench::serving(Class::Volatile);
        bench.order(Order::Snapshot { round: 1 }, Duration::ZERO);
        bench.place.copied(copy(false), &mut bench.out);
        assert!(bench.quiesce(false).contains(&Action::Freeze));
        bench.place.frozen(Digest([7; 32]), 100, builds, &mut bench.out);
        let copy = bench.place.copy().unwrap();
        assert_eq!((copy.round, copy.base, copy.last), (2, base, true));
    }
}

#[test]
fn whoever_is_to_go_on_with_the_journal_begins_with_that_whatever_it_had() {
    let later = EPOCH.next();
    let serve = Order::Serve { epoch: later, from: Source::Journal };
    for mut bench in [Bench::empty(), Bench::serving(Class::Volatile)] {
        assert_eq!(bench.order(serve, Duration::ZERO), [Action::Recover(later)]);
        assert_eq!(bench.arrive(arrival(0)), Verdict::Park);
        bench.place.opened(true, &mut bench.out);
        assert_eq!(bench.done(), [Action::Run(RequestId(0))]);
        assert_eq!(bench.place.stand(), Stand::Serving { epoch: later });
    }
    let mut bench = Bench::empty();
    bench.order(serve, Duration::ZERO);
    bench.place.opened(false, &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Void { why: Why::Activation });
}

#[test]
fn one_that_nobody_waits_for_any_more_never_runs() {
    let mut bench = Bench::serving(Class::Volatile);
    assert_eq!(bench.quiesce(false), [Action::Freeze]);
    for id in 0..2 {
        assert_eq!(bench.arrive(arrival(id)), Verdict::Park);
    }
    bench.place.withdrawn(RequestId(0), &mut bench.out);
    bench.place.withdrawn(RequestId(7), &mut bench.out);
    assert_eq!((bench.place.parked().len(), bench.place.parked().bytes()), (1, 10));
    let epoch = EPOCH;
    let thawed = bench.order(Order::Serve { epoch, from: Source::Kept }, Duration::ZERO);
    assert_eq!(thawed, [Action::Thaw]);
    bench.place.thawed(&mut bench.out);
    assert_eq!(bench.done(), [Action::Run(RequestId(1))]);
}

#[test]
fn a_thaw_that_comes_late_opens_nothing_else() {
    let mut bench = Bench::serving(Class::Volatile);
    bench.quiesce(false);
    bench.place.frozen(Digest([7; 32]), 100, false, &mut bench.out);
    bench.done();
    let kept = Order::Serve { epoch: EPOCH, from: Source::Kept };
    assert_eq!(bench.order(kept, Duration::ZERO), [Action::Thaw]);
    assert_eq!(bench.order(kept, Duration::ZERO), [], "it is at it");
    // Before that is done it is to begin anew.
    let anew = Order::Serve { epoch: EPOCH.next(), from: Source::Nothing };
    assert_eq!(bench.order(anew, Duration::ZERO), [Action::Begin(EPOCH.next())]);
    bench.place.thawed(&mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Opening { epoch: EPOCH.next() });
    bench.place.opened(true, &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Serving { epoch: EPOCH.next() });
}

#[test]
fn whoever_counts_what_runs_while_it_serves_gives_that_back_before_anything_is_decided() {
    let mut bench = Bench::serving(Class::Volatile);
    assert_eq!(bench.place.give_running(), Some((0, 0)));
    bench.place.take_running(1, 1);
    assert_eq!(bench.quiesce(false), [], "both run");
    assert_eq!(bench.place.give_running(), None, "it does not serve");
    for kind in [Kind::Unary, Kind::Stream] {
        bench.place.finished(RequestId(0), kind, End::Done, Duration::ZERO, &mut bench.out);
    }
    assert!(bench.done().contains(&Action::Freeze));
}

#[test]
fn in_another_life_nothing_waits_and_what_runs_has_to_end_before_it_begins() {
    let mut bench = Bench::serving(Class::Volatile);
    bench.arrive(arrival(0));
    bench.quiesce(false);
    bench.arrive(arrival(1));
    let life = Incarnation(2);
    bench.place.renew(life, &mut bench.out);
    let refusal = Refusal { cause: RefusalCause::NotHere, hint: None };
    assert_eq!(bench.done(), [Action::Refuse(RequestId(1), refusal)]);
    assert_eq!((bench.place.stand(), bench.place.incarnation()), (Stand::Empty, life));
    let (epoch, stamp) = (EPOCH.next(), Stamp { migration: 2, term: 1, sequence: 1 });
    let order = Order::Serve { epoch, from: Source::Nothing };
    // What was for the life before is not for this one.
    for (incarnation, then) in [(LIFE, Stand::Empty), (life, Stand::Opening { epoch })] {
        let command = Command { stamp, incarnation: Some(incarnation), order };
        bench.place.command(command, Duration::ZERO, &mut bench.out);
        assert_eq!(bench.place.stand(), then);
    }
    assert!(!bench.done().contains(&Action::Begin(epoch)));
    bench.place.finished(RequestId(0), Kind::Unary, End::Done, Duration::ZERO, &mut bench.out);
    assert!(bench.done().contains(&Action::Begin(epoch)));
}

#[test]
fn what_comes_after_a_drain_that_was_forced_is_sent_on_as_after_any_other() {
    let mut bench = Bench::serving(Class::Volatile);
    let sent = |id| Arrival { is_kept: false, ..arrival(id) };
    let (to, epoch) = (NEW, EPOCH.next());
    bench.quiesce(false);
    bench.place.frozen(Digest([7; 32]), 100, false, &mut bench.out);
    bench.order(Order::Move { to, epoch }, Duration::ZERO);
    assert_eq!(bench.arrive(sent(1)), Verdict::Forward(NEW));
    bench.order(Order::Drain { to, epoch, force: true }, Duration::ZERO);
    assert!(matches!(bench.arrive(sent(2)), Verdict::Refuse(_)), "it would never be over");
    bench.place.forwarded(&mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Drained { cut: 1 });
    assert_eq!(bench.arrive(sent(3)), Verdict::Forward(NEW));
    // Nor does what was sent on keep it from taking the service back.
    assert!(bench.order(PREPARE, Duration::ZERO).contains(&Action::Reserve));
    bench.place.forwarded(&mut bench.out);
    assert_eq!((bench.place.stand(), bench.place.running()), (Stand::Empty, Running::default()));
}

#[test]
fn a_copy_that_is_too_large_is_refused_at_once() {
    let mut bench = Bench::empty();
    let copy = Copy { round: 1, base: 0, bytes: 1 << 40, digest: Digest([7; 32]), last: true };
    bench.order(PREPARE, Duration::ZERO);
    bench.place.reserved(true, &mut bench.out);
    bench.order(Order::Warm, Duration::ZERO);
    bench.place.warmed(true, &mut bench.out);
    assert_eq!(bench.order(Order::Restore(copy), Duration::ZERO), [Action::Fetch(copy, 0)]);
    bench.place.too_large(Copy { round: 2, ..copy }, &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Warm, "that is another one");
    bench.place.too_large(copy, &mut bench.out);
    assert_eq!(bench.place.stand(), Stand::Void { why: Why::NoRoom });
}
