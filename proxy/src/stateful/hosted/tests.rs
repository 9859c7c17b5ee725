use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lighter_config::snapshot::{Hooks, OnDrain, StateAccess, Streams, WhenAlone};
use lighter_config::xds::wire::lighter::registry::v1::JournalPart;
use lighter_migrate::{Digest, PlaceId, Running, Source, Stand};

use super::super::gate::goes_on;
use super::super::journal::Waits;
use super::*;
use crate::error::Cause;

const LIFE: Incarnation = Incarnation(7);
const EPOCH: Epoch = Epoch(1);

fn stateful(requests: u32) -> Stateful {
    let hooks = Hooks {
        snapshot: "/state".into(),
        restore: "/state".into(),
        changes: None,
        freeze: None,
        thaw: None,
    };
    let park = Park { requests, bytes: 1 << 20, wait: Duration::from_secs(5) };
    Stateful {
        class: StateClass::Volatile,
        port: 80,
        access: StateAccess::Http(hooks),
        timeout: Duration::from_secs(1),
        max_bytes: 1 << 20,
        park,
        streams: Streams::Wait,
        on_drain: OnDrain::Move,
        when_alone: WhenAlone::Refuse,
        moves: lighter_config::snapshot::Moves::default(),
    }
}

fn told(sequence: u64, order: Order) -> Told {
    let command =
        Command { stamp: Stamp { migration: 1, term: 1, sequence }, incarnation: Some(LIFE), order };
    Told { command, token: vec![3; 32], from: None, to: BTreeMap::from([(80, ADDRESS.parse().unwrap())]) }
}

const ADDRESS: &str = "198.18.0.9:8080";
const QUIESCE: Order = Order::Quiesce { patience: Duration::from_secs(3600), cut_streams: false };

/// A place that was granted its first epoch.
fn serving(requests: u32) -> Arc<Hosted> {
    let hosted = Hosted::new(&stateful(requests), LIFE);
    hosted.command(&told(1, Order::Serve { epoch: EPOCH, from: Source::Nothing }));
    hosted.with(|place, _, out| place.opened(true, out));
    assert_eq!(stand(&hosted), Stand::Serving { epoch: EPOCH });
    hosted
}

fn stand(hosted: &Hosted) -> Stand {
    hosted.with(|place, _, _| place.stand())
}

fn running(hosted: &Hosted) -> Running {
    hosted.with(|place, _, _| place.running())
}

fn freeze(hosted: &Hosted) {
    hosted.with(|place, _, out| place.frozen(Digest([1; 32]), 3, false, out));
    assert_eq!(stand(hosted), Stand::Frozen { epoch: EPOCH });
}

fn came() -> Came {
    Came {
        source: 1,
        bytes: 100,
        deadline: None,
        is_stream: false,
        waits: true,
        is_kept: false,
        is_forwarded: false,
    }
}

fn runs(entry: Entry) -> Inside {
    match entry {
        Entry::Run(inside) => inside,
        _ => panic!("it does not run"),
    }
}

fn parks(entry: Entry) -> Parked {
    match entry {
        Entry::Park(parked) => parked,
        _ => panic!("it does not wait"),
    }
}

fn refusal(entry: Entry) -> RefusalCause {
    match entry {
        Entry::Refuse(refusal) => refusal.cause,
        _ => panic!("it is not refused"),
    }
}

#[tokio::test]
async fn nobody_is_let_in_before_an_epoch_is_granted() {
    let hosted = Hosted::new(&stateful(8), LIFE);
    assert_eq!(refusal(hosted.arrive(came())), RefusalCause::NotHere);
    let said = hosted.reports().borrow().unwrap();
    assert_eq!((said.0.stand, said.0.incarnation), (Stand::Empty, LIFE));
    hosted.command(&told(1, Order::Serve { epoch: EPOCH, from: Source::Nothing }));
    assert_eq!(hosted.action().await, PlaceAction::Begin(EPOCH));
    let parked = parks(hosted.arrive(came()));
    hosted.with(|place, _, out| place.opened(true, out));
    let inside = runs(parked.await);
    assert_eq!(running(&hosted).unary, 1);
    drop(inside);
    assert_eq!(running(&hosted), Running::default());
}

#[tokio::test]
async fn what_ran_in_an_epoch_that_is_over_is_not_answered_as_done() {
    let hosted = serving(8);
    let runs_on = runs(hosted.arrive(came()));
    assert!(!runs_on.is_cut());
    let (to, epoch) = (PlaceId(2), EPOCH.next());
    // It was taken for dead, and was not.
    hosted.command(&told(2, Order::Move { to, epoch }));
    assert!(runs_on.is_cut());
    assert_eq!(running(&hosted).unary, 1, "it ends by itself");
    drop(runs_on);
    hosted.command(&told(3, Order::Serve { epoch: epoch.next(), from: Source::Nothing }));
    hosted.with(|place, _, out| place.opened(true, out));
    assert!(!runs(hosted.arrive(came())).is_cut());
}

#[tokio::test]
async fn what_ran_in_an_epoch_that_is_over_is_not_answered_as_done_where_nobody_keeps_the_journal_either() {
    let keeps = Stateful { class: StateClass::Journaled, when_alone: WhenAlone::Serve, ..stateful(8) };
    let hosted = Hosted::new(&keeps, LIFE);
    hosted.command(&told(1, Order::Serve { epoch: EPOCH, from: Source::Nothing }));
    hosted.with(|place, _, out| place.opened(true, out));
    let journal = hosted.journal();
    journal.begins(Some(vec![1]));
    let alone = |epoch, view| journal.told(&JournalPart { epoch, view, ..JournalPart::default() });
    alone(EPOCH.0, 5);
    let [runs_on, ended] = [(); 2].map(|()| runs(hosted.arrive(came())));
    let answer = async |inside: &Inside| {
        let waits = Waits::new(hosted.journal());
        std::future::poll_fn(|cx| goes_on(inside, Some(&waits), cx)).await
    };
    assert_eq!(answer(&ended).await, Ok(()), "it is served alone");
    // Somebody else serves, and this instance has no part in that journal.
    hosted.command(&told(2, Order::Move { to: PlaceId(2), epoch: EPOCH.next() }));
    alone(EPOCH.next().0, 6);
    assert_eq!(answer(&runs_on).await, Err(Cause::OutcomeUnknown));
}

#[tokio::test]
async fn what_runs_when_it_quiesces_keeps_it_from_freezing() {
    let hosted = serving(8);
    let (one, stream) =
        (runs(hosted.arrive(came())), runs(hosted.arrive(Came { is_stream: true, ..came() })));
    hosted.command(&told(2, QUIESCE));
    assert_eq!((running(&hosted).unary, running(&hosted).streams), (1, 1));
    let parked = parks(hosted.arrive(came()));
    assert!(!one.is_cut() && !stream.is_cut());
    drop(one);
    drop(stream);
    while hosted.action().await != PlaceAction::Freeze {}
    freeze(&hosted);
    hosted.command(&told(3, Order::Serve { epoch: EPOCH, from: Source::Kept }));
    assert_eq!(hosted.action().await, PlaceAction::Thaw);
    let more = parks(hosted.arrive(came()));
    hosted.with(|place, _, out| place.thawed(out));
    drop((runs(parked.await), runs(more.await)));
    assert_eq!(running(&hosted), Running::default());
}

#[tokio::test]
async fn what_is_parked_follows_the_service() {
    let hosted = serving(8);
    hosted.command(&told(2, QUIESCE));
    freeze(&hosted);
    let parked = parks(hosted.arrive(came()));
    assert_eq!(hosted.address(80), None);
    hosted.command(&told(3, Order::Move { to: PlaceId(2), epoch: Epoch(2) }));
    let Entry::Forward(inside) = parked.await else { panic!("it is not sent on") };
    assert_eq!((hosted.address(80), hosted.moved_epoch()), (Some(ADDRESS.parse().unwrap()), Epoch(2)));
    assert_eq!((hosted.address(81), running(&hosted).forwarded), (None, 1));
    let again = Came { is_forwarded: true, ..came() };
    assert_eq!(refusal(hosted.arrive(again)), RefusalCause::Moved, "it is sent on once");
    drop(inside);
    assert_eq!(running(&hosted), Running::default());
    // While it takes the service back, that is where it is still.
    hosted.command(&told(4, Order::Prepare { epoch: Epoch(2) }));
    hosted.with(|place, _, out| place.reserved(true, out));
    assert_eq!(stand(&hosted), Stand::Reserved);
    let Entry::Forward(inside) = hosted.arrive(came()) else { panic!("it is not sent on") };
    assert_eq!((hosted.address(80), hosted.moved_epoch()), (Some(ADDRESS.parse().unwrap()), Epoch(2)));
    assert_eq!(refusal(hosted.arrive(again)), RefusalCause::Moved, "it is sent on once");
    drop(inside);
    assert_eq!(running(&hosted), Running::default());
}

#[tokio::test]
async fn what_its_caller_keeps_goes_back_to_it_once_the_service_is_elsewhere() {
    let hosted = serving(8);
    let kept = Came { is_kept: true, ..came() };
    drop(runs(hosted.arrive(kept)));
    hosted.command(&told(2, QUIESCE));
    freeze(&hosted);
    let parked = [came(), kept, Came { is_forwarded: true, ..came() }].map(|came| parks(hosted.arrive(came)));
    hosted.command(&told(3, Order::Move { to: PlaceId(2), epoch: Epoch(2) }));
    let [other, back, sent] = parked;
    assert!(matches!(back.await, Entry::Return));
    assert!(matches!(other.await, Entry::Forward(_)));
    assert_eq!(refusal(sent.await), RefusalCause::Moved, "it is sent on once");
    assert!(matches!(hosted.arrive(kept), Entry::Return));
    assert_eq!(running(&hosted), Running::default());
    // Where the service is it does not know any more.
    hosted.renew(Incarnation(8));
    assert_eq!(refusal(hosted.arrive(kept)), RefusalCause::NotHere);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_in_number_and_time() {
    let hosted = serving(2);
    hosted.command(&told(2, QUIESCE));
    freeze(&hosted);
    let mut parked = [0, 1].map(|_| parks(hosted.arrive(came())));
    assert_eq!(refusal(parks(hosted.arrive(came())).await), RefusalCause::Full);
    assert_eq!(hosted.reports().borrow().unwrap().1, 2);
    tokio::select! {
        entry = &mut parked[0] => assert_eq!(refusal(entry), RefusalCause::Waited),
        () = hosted.keep_time() => unreachable!("it goes on"),
    }
    let [_, second] = parked;
    assert_eq!(refusal(second.await), RefusalCause::Waited);
    let deadline = Some(Instant::now() + Duration::from_secs(1));
    let mut soon = parks(hosted.arrive(Came { deadline, ..came() }));
    tokio::select! {
        entry = &mut soon => assert_eq!(refusal(entry), RefusalCause::Late),
        () = hosted.keep_time() => unreachable!("it goes on"),
    }
}

#[tokio::test]
async fn who_leaves_while_it_waits_never_runs_and_is_not_counted() {
    let hosted = serving(8);
    hosted.command(&told(2, QUIESCE));
    freeze(&hosted);
    drop(parks(hosted.arrive(came())));
    assert_eq!(hosted.reports().borrow().unwrap().1, 0);
    // Let in, and gone before it heard of that.
    let streams = [false, true].map(|is_stream| parks(hosted.arrive(Came { is_stream, ..came() })));
    hosted.command(&told(3, Order::Serve { epoch: EPOCH, from: Source::Kept }));
    hosted.with(|place, _, out| place.thawed(out));
    assert_eq!((running(&hosted).unary, running(&hosted).streams), (1, 1));
    drop(streams);
    assert_eq!(running(&hosted), Running::default());
}

#[tokio::test]
async fn what_cannot_wait_is_refused_where_the_place_does_not_serve() {
    let hosted = serving(8);
    let opaque = Came { is_stream: true, waits: false, ..came() };
    drop(runs(hosted.arrive(opaque)));
    hosted.command(&told(2, QUIESCE));
    assert_eq!(refusal(hosted.arrive(opaque)), RefusalCause::NotHere);
}

#[tokio::test]
async fn a_place_whose_memory_is_gone_begins_anew() {
    let hosted = serving(8);
    let inside = runs(hosted.arrive(came()));
    hosted.command(&told(2, QUIESCE));
    let parked = parks(hosted.arrive(came()));
    hosted.renew(Incarnation(8));
    assert_eq!(refusal(parked.await), RefusalCause::NotHere);
    assert_eq!((stand(&hosted), running(&hosted).unary), (Stand::Empty, 1));
    assert_eq!(hosted.reports().borrow().unwrap().0.incarnation, Incarnation(8));
    // What was for its life before is not for it.
    hosted.command(&told(9, Order::Serve { epoch: Epoch(2), from: Source::Nothing }));
    assert_eq!(stand(&hosted), Stand::Empty);
    drop(inside);
    assert_eq!(running(&hosted), Running::default());
}

#[tokio::test]
async fn a_command_that_is_not_taken_leaves_no_trace() {
    let hosted = serving(8);
    let stale = Told { token: vec![9], ..told(1, Order::Move { to: PlaceId(2), epoch: Epoch(2) }) };
    let other = Command { incarnation: Some(Incarnation(1)), ..told(5, stale.command.order).command };
    hosted.command(&Told { command: other, ..stale });
    assert_eq!((hosted.token(), hosted.address(80)), (vec![3; 32], None));
}

#[test]
fn however_often_it_quiesces_while_requests_come_and_go_all_are_counted() {
    let hosted = serving(1 << 20);
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        let callers = [false, true, false].map(|is_stream| {
            let (hosted, over) = (&hosted, &over);
            threads.spawn(move || {
                let mut ran = 0u64;
                while !over.load(Ordering::Relaxed) || ran == 0 {
                    match hosted.arrive(Came { is_stream, ..came() }) {
                        Entry::Run(_inside) => ran += 1,
                        Entry::Park(_left) => {}
                        Entry::Forward(_) | Entry::Return | Entry::Refuse(_) => panic!("it is here"),
                    }
                }
                ran
            })
        });
        for round in 1..500u64 {
            // Each is another migration, as one for which it was thawed is over.
            let mut told = told(1, QUIESCE);
            told.command.stamp.migration = round + 1;
            hosted.command(&told);
            hosted.with(|place, _, out| place.frozen(Digest([1; 32]), 3, false, out));
            told.command.stamp.sequence = 2;
            told.command.order = Order::Serve { epoch: EPOCH, from: Source::Kept };
            hosted.command(&told);
            hosted.with(|place, _, out| place.thawed(out));
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        assert!(callers.into_iter().all(|caller| caller.join().unwrap() > 0));
    });
    assert_eq!((stand(&hosted), running(&hosted)), (Stand::Serving { epoch: EPOCH }, Running::default()));
}
