use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::thread;

use lighter_functions::{Class, Limits, Request, Setup};
use tempfile::TempDir;

use super::*;
use crate::{Component, Runtime, Settings};

/// Machine code of all tests: the component is compiled once.
static CACHE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
const MOST: u64 = 16 << 20;
const LONG: Duration = Duration::from_secs(60);

fn ledger() -> Arc<Kept> {
    let cache = Some(CACHE.path().join("code"));
    let settings = Settings { memory_bytes: MOST, runs: 1, kept: 1, key_bytes: 1 << 20, cache };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/functions/ledger.wasm");
    let runtime = Runtime::new(&settings).unwrap();
    Component::load_kept(&runtime, "ledger", "default", &path).unwrap().kept.unwrap()
}

fn asked(kept: &Kept, parameters: &str, meter: &Arc<Meter>) -> Result<String, Fault> {
    let limits = Limits { memory_bytes: MOST, rows_out: 0, bytes_out: 1 << 20, deadline: LONG };
    let (datasets, class) = (Vec::new(), Class::Csd);
    let setup = Arc::new(Setup { class, datasets, limits, media_bytes_per_second: None, key_bytes: 1 << 20 });
    let request = Request { function: "ledger", dataset: "x", parameters, body: None };
    let answered = kept.answer(&Call { request: &request, setup: &setup, meter })?;
    Ok(String::from_utf8(answered.bytes).unwrap().trim().to_owned())
}

fn ask(kept: &Kept, parameters: &str) -> String {
    asked(kept, parameters, &Meter::unasked(MOST, LONG)).unwrap()
}

/// Until so many wait for their turn: those of the host, and calls.
fn wait_for(kept: &Kept, hosts: usize, calls: usize) {
    let are_there = || {
        let queue = kept.queue();
        (queue.hosts.len(), queue.calls.len()) == (hosts, calls)
    };
    while !are_there() {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_hook_does_not_overtake_another_and_one_that_nobody_waits_for_does_nothing() {
    let kept = ledger();
    let keeping = Keeping(kept.clone());
    ask(&kept, "put=7");
    let all = keeping.read().unwrap().bytes;
    ask(&kept, "put=8");
    let long_call = kept.turn(true, || Ok(())).unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(|| ask(&kept, ""));
        wait_for(&kept, 0, 1);
        scope.spawn(|| keeping.freeze(true, &|| false));
        wait_for(&kept, 1, 1);
        scope.spawn(|| keeping.freeze(false, &|| false));
        wait_for(&kept, 2, 1);
        drop(long_call);
        assert_eq!(call.join().unwrap(), "8", "it was to go on at last, before any call");
    });
    let long_call = kept.turn(true, || Ok(())).unwrap();
    let gone = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| keeping.freeze(true, &|| gone.load(Relaxed)));
        let replace = scope.spawn(|| keeping.replace(&all, &|| gone.load(Relaxed)));
        wait_for(&kept, 2, 0);
        gone.store(true, Relaxed);
        // They do not even wait for the call.
        wait_for(&kept, 0, 0);
        drop(long_call);
        assert!(matches!(replace.join().unwrap(), Err(NotReplaced::Failed(_))));
    });
    assert_eq!(ask(&kept, ""), "8");
    // To go on is done in any case.
    keeping.freeze(true, &|| false);
    keeping.freeze(false, &|| true);
    assert_eq!(ask(&kept, ""), "8");
}

#[test]
fn a_call_that_waited_has_all_of_its_time_when_it_begins() {
    let kept = ledger();
    ask(&kept, "put=7");
    let long_call = kept.turn(true, || Ok(())).unwrap();
    let meter = Meter::unasked(MOST, LONG);
    let as_it_came = meter.until();
    thread::scope(|scope| {
        let call = scope.spawn(|| asked(&kept, "add=1", &meter).unwrap());
        wait_for(&kept, 0, 1);
        thread::sleep(NAP);
        drop(long_call);
        assert_eq!(call.join().unwrap(), "8");
    });
    assert!(meter.until() >= as_it_came + NAP, "what it waited is no part of it");
    // One for which it takes too long has not begun, and takes nothing away.
    let long_call = kept.turn(true, || Ok(())).unwrap();
    let late = asked(&kept, "add=1", &Meter::unasked(MOST, NAP)).unwrap_err();
    assert_eq!(late.status, Status::IoTimeout);
    drop(long_call);
    assert_eq!(ask(&kept, ""), "8");
}

#[test]
fn what_fails_before_the_instance_is_asked_leaves_it_as_it_was() {
    let kept = ledger();
    let keeping = Keeping(kept.clone());
    ask(&kept, "put=7");
    let At { version, bytes } = keeping.read().unwrap();
    let whole = Memory::parse(&bytes).unwrap();
    // There is no room even for what it has.
    let small = Meter::unasked(1, LONG);
    assert!(kept.give(None, &small).is_err() && kept.give(Some(version), &small).is_err());
    let changes = |pages| {
        let keys =
            Entries { are_changes: true, entries: vec![("new", Some(&b"1"[..]))], ..whole.keys.clone() };
        Memory { are_changes: true, pages, blocks: Vec::new(), keys, ..whole.clone() }
    };
    assert!(matches!(kept.take(&changes(whole.pages), &small, &|| false), Err(NotReplaced::Failed(_))));
    // As large as may be, and it has a table beside that.
    let full = changes((MOST / PAGE as u64) as u32).write();
    assert!(matches!(keeping.replace(&full, &|| false), Err(NotReplaced::Failed(_))));
    assert!(keeping.replace(&changes(1).write(), &|| false).is_err(), "it is larger");
    assert_eq!((ask(&kept, ""), keeping.lost()), ("7".into(), 0));
    assert_eq!(Memory::parse(&keeping.read().unwrap().bytes).unwrap().keys, whole.keys);
    assert!(keeping.changes(version).unwrap().is_some(), "and what is known of it still is");
}

#[test]
fn what_breaks_off_while_it_is_given_or_replaced_is_told_and_counted() {
    let kept = ledger();
    let keeping = Keeping(kept.clone());
    // Its time is over, which it sees at the next tick.
    let late = || {
        let meter = Meter::unasked(MOST, Duration::ZERO);
        (0..3).for_each(|_| kept.compiled.runtime.engine.increment_epoch());
        meter
    };
    for round in 0..3 {
        ask(&kept, "put=7");
        let At { version, bytes } = keeping.read().unwrap();
        let mut with = Memory::parse(&bytes).unwrap();
        (with.are_changes, with.keys.are_changes) = (true, true);
        let why = match round {
            0 => kept.give(None, &late()).unwrap_err().to_string(),
            1 => kept.give(Some(version), &late()).unwrap_err().to_string(),
            _ => kept.take(&with, &late(), &|| false).unwrap_err().to_string(),
        };
        assert!(why.ends_with("what it kept in its memory is lost"), "{why}");
        assert_eq!((keeping.lost(), keeping.lost()), (1, 0), "{round}");
        assert_eq!(keeping.changes(version), Ok(None));
        assert_eq!(ask(&kept, ""), "0", "it begins anew");
    }
}
