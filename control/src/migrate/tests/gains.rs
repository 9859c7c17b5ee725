//! What the control plane asks for by itself as another instance serves better.

use lighter_config::manifest::Manifest;
use lighter_migrate::{Digest, Record};

use super::super::gain::{Answer, Fate};
use super::super::story::Entry;
use super::*;
use crate::store::{Author, Push};

fn shop(state: &State) -> ServiceName {
    let written = "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: shop}\nspec: {ports: [{port: 80}]}\n";
    let push = Push { manifests: Manifest::parse("test", written, "default").unwrap(), ..Push::default() };
    let author = Author { name: "test", now: std::time::SystemTime::now() };
    state.store.apply(push, author, false).unwrap();
    ServiceName::new("default", "shop")
}

#[test]
fn why_one_was_asked_for_outlives_a_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    register(folder.path());
    let bench = Bench::open(folder.path());
    let service = shop(&bench.state);
    let ask = |state: &State| {
        let ends = (&Arc::from("a"), &Arc::from("b"));
        state.migrations.ask_for_gain(&service, ends, (12.0, 0.5), state)
    };
    let Answer::Asked(name) = ask(&bench.state) else { panic!("it cannot be asked for") };
    assert!(name.starts_with("default/shop-gain-"), "{name}");
    assert_eq!(ask(&bench.state), Answer::Moving, "it is about to move");
    drop(bench);

    let mut bench = Bench::open(folder.path());
    open(&bench.state).unwrap();
    assert_eq!(bench.state.migrations.fate(&name, &bench.state.store.migrations()), Fate::Ahead);
    // Rounds go by the clock.
    let began = Instant::now();
    while bench.state.migrations.fate(&name, &bench.state.store.migrations()) == Fate::Ahead
        && began.elapsed() < Duration::from_secs(60)
    {
        bench.state.migrations.round(&bench.state, true);
        bench.answer();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        bench.state.migrations.fate(&name, &bench.state.store.migrations()),
        Fate::Over(Outcome::Done)
    );
    let shown = bench.state.migrations.shown(None);
    let [shown] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!(shown.reason.as_deref(), Some("gain"));
    assert_eq!(shown.foreseen, Some(Foreseen { gain_seconds: 12.0, cost_seconds: 0.5 }));
    let planned = &bench.state.metrics.planned_migrations;
    assert_eq!(planned[Outcome::Done as usize].load(Relaxed), 1);
    assert!(read::<Reason>(&bench.state.store, REASON).unwrap().is_empty(), "it is in the story");
    drop(bench);
    let state = open_state(folder.path());
    open(&state).unwrap();
    assert_eq!(state.migrations.shown(None)[0].foreseen, shown.foreseen);
}

#[test]
fn one_that_is_taken_back_before_it_begins_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    register(folder.path());
    let bench = Bench::open(folder.path());
    let service = shop(&bench.state);
    let ends = (&Arc::from("a"), &Arc::from("b"));
    let answer = bench.state.migrations.ask_for_gain(&service, ends, (12.0, 0.5), &bench.state);
    let Answer::Asked(name) = answer else { panic!("{answer:?}") };
    let (key, _) = bench.state.store.migrations().remove(0);
    bench.state.store.delete(&[key], true, false).unwrap();
    bench.state.migrations.round(&bench.state, true);
    assert_eq!(bench.state.migrations.fate(&name, &bench.state.store.migrations()), Fate::Gone);
    assert!(read::<Reason>(&bench.state.store, REASON).unwrap().is_empty());
}

#[test]
fn the_longest_name_of_a_service_leaves_room_for_that_of_its_migration() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path());
    let name = "s".repeat(63);
    shop(&bench.state);
    let written = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
    );
    let push = Push { manifests: Manifest::parse("test", &written, "default").unwrap(), ..Push::default() };
    let author = Author { name: "test", now: std::time::SystemTime::now() };
    bench.state.store.apply(push, author, false).unwrap();
    let service = ServiceName::new("default", name.as_str());
    let ends = (&Arc::from("a"), &Arc::from("b"));
    let answer = bench.state.migrations.ask_for_gain(&service, ends, (12.0, 0.5), &bench.state);
    assert!(matches!(answer, Answer::Asked(_)), "{answer:?}");
    let mut all = bench.state.migrations.lock();
    assert!(all.ask(&service, Reason::Leaves, ends, &bench.state).is_some());
}

#[test]
fn nothing_is_kept_of_one_that_cannot_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path());
    let service = shop(&bench.state);
    // No instance has such a name.
    let long = Arc::from("a/b ".repeat(200));
    let ends = (&Arc::from("a"), &long);
    let answer = bench.state.migrations.ask_for_gain(&service, ends, (12.0, 0.5), &bench.state);
    assert_eq!(answer, Answer::Failed);
    assert!(read::<Reason>(&bench.state.store, REASON).unwrap().is_empty());
    assert!(!bench.state.migrations.is_any_moving(&bench.state.store.migrations(), &bench.state));
}

#[test]
fn how_long_nobody_served_and_how_much_there_was_to_copy_are_in_the_story() {
    let mut story = Story::new("default/m".into(), &asked(), Class::Volatile, 1, false);
    assert_eq!((story.blackout(), story.bytes()), (None, None));
    let entered = [
        (0, Phase::Plan),
        (5, Phase::Precopy(1)),
        (100, Phase::Hold),
        (110, Phase::Quiesce),
        (120, Phase::Finalcopy),
        (130, Phase::Fence),
        (140, Phase::Activate),
    ];
    let millis = Duration::from_millis;
    for (at, phase) in entered {
        story.journal.push(Entry { at: millis(at), record: Record::Entered(phase) });
    }
    assert_eq!(story.blackout(), None, "nobody has served again");
    story.journal.push(Entry { at: millis(250), record: Record::Entered(Phase::Forward) });
    assert_eq!(story.blackout(), Some(millis(150)));
    for (round, base, bytes) in [(1, 0, 600), (2, 1, 20), (3, 2, 5)] {
        let copy = lighter_migrate::Copy { round, base, bytes, digest: Digest([0; 32]), last: round == 3 };
        assert!(story.copied(Some(copy)));
    }
    assert_eq!(story.bytes(), Some(600));
}
