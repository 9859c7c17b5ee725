//! What an instance does by what it was told of the journal.

use std::sync::Arc;

use lighter_config::sidecar::SidecarConfig;
use lighter_migrate::Incarnation;
use lighter_migrate::journal::Rounds;

use super::super::copies::Gathering;
use super::super::hosted::Hosted;
use super::super::tests::app::stateful;
use super::super::tests::transfer::{DB, Sidecar, run as in_time};
use super::send::send;
use super::*;
use crate::identity::tests::Root;

fn journal() -> Journal {
    Journal::new(&Stateful { class: StateClass::Journaled, ..stateful() })
}

fn told(journal: &Journal, view: u64, keeps: bool) {
    let standby = if keeps { String::new() } else { "10.0.0.1:15008".to_owned() };
    journal.told(&JournalPart {
        epoch: 3,
        view,
        keeps,
        standby,
        token: b"a token".to_vec(),
        ..JournalPart::default()
    });
}

fn given(view: u64, token: &[u8]) -> Given<'_> {
    Given { epoch: Epoch(3), view, token, number: 1, is_whole: true }
}

#[tokio::test]
async fn whoever_keeps_a_journal_gathers_one_thing_at_a_time_and_only_of_whoever_serves() {
    let journal = journal();
    let room = |view, token| journal.room(&given(view, token)).map(|room| room.most);
    assert_eq!(room(5, b"a token"), Err(Refused::Unknown));
    told(&journal, 5, true);
    assert_eq!(room(6, b"a token"), Err(Refused::Unknown));
    assert_eq!(room(5, b"another"), Err(Refused::Token));
    for view in [0, 4] {
        assert_eq!(room(view, b"another"), Err(Refused::Closed), "before anything of it is gathered");
    }
    let first = journal.room(&given(5, b"a token"));
    assert_eq!(room(5, b"a token"), Err(Refused::Busy));
    drop(first);
    assert_eq!(room(5, b"a token"), Ok(stateful().max_bytes));
    // It serves itself.
    journal.begins(Some(vec![1]));
    assert_eq!(room(5, b"a token"), Err(Refused::Closed));
}

#[tokio::test]
async fn what_comes_for_a_state_that_is_no_more_is_not_taken_and_whoever_serves_is_not_deposed() {
    let journal = journal();
    told(&journal, 5, true);
    journal.retire();
    assert_eq!(journal.room(&given(5, b"a token")).map(|room| room.most), Err(Refused::Unknown));
    assert!(!journal.is_on());
}

#[tokio::test]
async fn nothing_is_journaled_of_an_application_that_may_begin_again_unseen() {
    let journal = journal();
    for (life, is_seen) in [(None, false), (Some(vec![1]), true)] {
        journal.begins(life);
        told(&journal, if is_seen { 6 } else { 5 }, false);
        journal.lock().ledger.rounds.ask();
        assert_eq!((journal.admits(), journal.begin(0).is_some()), (is_seen, is_seen));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_the_journal_is_not_lost_where_it_is_the_application_that_gives_nothing() {
    let journal = journal();
    journal.begins(Some(vec![1]));
    told(&journal, 5, false);
    let is_lost = || journal.stand().borrow().unwrap().lost;
    for is_reached in [true, false] {
        for _ in 0..2 {
            journal.lock().ledger.rounds.ask();
            let task = journal.begin(0).unwrap();
            if !is_reached {
                journal.fails(&task);
            }
            journal.fail(&task);
            tokio::time::advance(2 * LONG).await;
        }
        assert!(!journal.admits());
        // Something else is to be said.
        journal.say(&journal.lock());
        assert_eq!(is_lost(), !is_reached);
    }
    journal.lock().ledger.rounds.ask();
    let task = journal.begin(0).unwrap();
    journal.took(&task, true, 1);
    assert!(journal.admits() && !is_lost());
}

/// What one that serves is told: who is the heir, and who is to follow it.
fn beside(journal: &Journal, view: u64, seat: u64, next_seat: u64) {
    let at = || "10.0.0.1:15008".to_owned();
    let (standby, next) = (if seat == 0 { String::new() } else { at() }, at());
    let token = b"a token".to_vec();
    let next_token = token.clone();
    let part = JournalPart {
        epoch: 3,
        view,
        seat,
        next_seat,
        standby,
        token,
        next,
        next_token,
        ..JournalPart::default()
    };
    journal.told(&part);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_to_follow_the_standby_and_is_given_nothing_is_given_up_and_requests_run() {
    let journal = journal();
    journal.begins(Some(vec![1]));
    told(&journal, 5, false);
    journal.lock().ledger.rounds.ask();
    let task = journal.begin(0).unwrap();
    journal.took(&task, true, 1);
    beside(&journal, 6, 5, 6);
    let next_lost = || journal.stand().borrow().unwrap().next_lost;
    let next = |journal: &Journal| {
        let seat = 1 - journal.lock().ledger.rounds.heir();
        journal.begin(seat).unwrap()
    };
    journal.fail(&next(&journal));
    assert!(journal.admits() && !next_lost());
    tokio::time::advance(2 * LONG).await;
    journal.fail(&next(&journal));
    assert!(journal.admits() && next_lost());
    // Another one gets it.
    beside(&journal, 7, 5, 7);
    assert!(!next_lost());
    journal.took(&next(&journal), true, 1);
    journal.lock().ledger.rounds.ask();
    // Now nothing is acknowledged without it.
    journal.fail(&next(&journal));
    tokio::time::advance(2 * LONG).await;
    journal.say(&journal.lock());
    assert!(!journal.admits() && !next_lost());
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_heir_requests_do_not_run_while_whoever_is_to_be_it_is_not_reached() {
    let journal = journal();
    journal.begins(Some(vec![1]));
    assert!(journal.admits());
    tokio::time::advance(2 * LONG).await;
    assert!(!journal.admits(), "nothing is told");
    beside(&journal, 5, 0, 5);
    assert!(journal.admits());
    let seat = 1 - journal.lock().ledger.rounds.heir();
    let task = journal.begin(seat).unwrap();
    journal.fails(&task);
    tokio::time::advance(2 * MOMENT).await;
    assert!(!journal.admits());
    // Nobody keeps it, and the next one is tried: what the Service says of that stays so.
    for (view, when_alone) in [(6, WhenAlone::Refuse), (8, WhenAlone::Serve)] {
        journal.set(&Stateful { class: StateClass::Journaled, when_alone, ..stateful() });
        journal.told(&JournalPart { epoch: 3, view, ..JournalPart::default() });
        let serves = when_alone == WhenAlone::Serve;
        assert_eq!(journal.admits(), serves);
        beside(&journal, view + 1, 0, view + 1);
        assert_eq!(journal.admits(), serves);
    }
}

#[tokio::test]
async fn an_answer_goes_on_where_nobody_keeps_the_journal_until_whoever_is_to_has_everything() {
    let journal = Arc::new(journal());
    journal.set(&Stateful { class: StateClass::Journaled, when_alone: WhenAlone::Serve, ..stateful() });
    journal.begins(Some(vec![1]));
    journal.told(&JournalPart { epoch: 3, view: 5, ..JournalPart::default() });
    beside(&journal, 6, 0, 6);
    let seat = 1 - journal.lock().ledger.rounds.heir();
    let first = journal.begin(seat).unwrap();
    let answer = async || {
        let waits = Waits::new(&journal);
        std::future::poll_fn(|cx| waits.poll(cx)).await
    };
    assert_eq!(answer().await, Ok(()));
    journal.took(&first, true, 1);
    let confirmed = || journal.stand().borrow().unwrap().confirmed;
    assert_eq!(confirmed(), 0, "it does not have that");
    let second = journal.begin(seat).unwrap();
    journal.took(&second, false, 1);
    assert_eq!(confirmed(), 6);
    let waits = Waits::new(&journal);
    let is_over = std::future::poll_fn(|cx| std::task::Poll::Ready(waits.poll(cx).is_ready())).await;
    assert!(!is_over, "from now on it has to have everything");
}

#[test]
fn who_keeps_a_journal_anew_has_nothing_of_the_one_before_by_whatever_connection_it_comes() {
    in_time(async {
        let root = Root::new();
        let owner = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let standby = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let stateful = Stateful { class: StateClass::Journaled, ..stateful() };
        let keeps = |incarnation| {
            let hosted = Hosted::new(&stateful, Incarnation(incarnation));
            told(hosted.journal(), 5, true);
            standby.shared().hosted.store(Some(hosted.clone()));
            hosted
        };
        let mut rounds = Rounds::default();
        rounds.name(Some(5), None);
        let (state, mut line) = (Gathering::new(0).finish(), None);
        let mut given = async || {
            rounds.ask();
            let round = rounds.begin(0).unwrap();
            let task = Task { round, seat: 0, epoch: Epoch(3), at: standby.link, token: b"a token".to_vec() };
            let taken = send(owner.shared(), &mut line, &task, (&state, round.is_whole)).await.unwrap();
            match taken {
                Taken::All => rounds.took(round, round.is_whole, 0),
                _ => rounds.lacks(round),
            }
            taken
        };
        let first = keeps(1);
        assert_eq!([given().await, given().await], [Taken::All; 2]);
        let second = keeps(2);
        assert_eq!(given().await, Taken::Lacks);
        assert_eq!(given().await, Taken::All);
        let is_whole = |hosted: &Arc<Hosted>| hosted.journal().stand().borrow().unwrap().whole;
        assert!(is_whole(&first) && is_whole(&second));
    });
}
