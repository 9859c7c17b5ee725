//! Components that keep their memory: it is there at the next call, moves to another device, and goes with what breaks off.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use lighter_functions::memory::{BLOCK, PAGE};
use lighter_functions::{
    Builtins, Class, Contents, Dataset, Device, Format, Limits, Memory, MemoryKind, NotMovable, NotReplaced,
    Out, Outcome, Program, Request, Setup, Status, Stop, Watch,
};
use lighter_wasm::{Component, Runtime, Settings};
use tempfile::TempDir;

/// Machine code of all tests: each component is compiled once.
static CACHE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Each device has a dataset of its own: one that another test writes is empty for a moment.
static DEVICES: AtomicUsize = AtomicUsize::new(0);

const LIMITS: Limits =
    Limits { memory_bytes: 16 << 20, rows_out: 1000, bytes_out: 1 << 20, deadline: Duration::from_secs(60) };

fn ledger() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/functions/ledger.wasm")
}

/// Whoever asks stays.
const STAYS: &dyn Fn() -> bool = &|| false;

/// A device that keeps what the component at `path` has in its memory.
fn device(class: Class, path: &Path, memory_bytes: u64) -> (Builtins, Option<NotMovable>) {
    let cache = Some(CACHE.path().join("code"));
    let settings = Settings { memory_bytes, runs: 4, kept: 1, key_bytes: 1 << 20, cache };
    let component =
        Component::load_kept(&Runtime::new(&settings).unwrap(), "ledger", "default", path).unwrap();
    let not_movable = component.not_movable();
    let place = CACHE.path().join(format!("{class:?}-{}", DEVICES.fetch_add(1, Relaxed)));
    std::fs::write(&place, format!("{class:?}")).unwrap();
    let place = Dataset {
        name: "where".into(),
        version: "1".into(),
        path: place,
        format: Format::Csv,
        tenant: "default".into(),
    };
    let setup = Setup {
        class,
        datasets: vec![place],
        limits: Limits { memory_bytes, ..LIMITS },
        media_bytes_per_second: None,
        key_bytes: 1 << 20,
    };
    let device = Builtins::with(setup, vec![Arc::new(component) as Arc<dyn Program>]);
    device.activate(device.load("ledger").unwrap()).unwrap();
    let said = device.discover().functions.into_iter().find(|function| function.name == "ledger").unwrap();
    assert_eq!(said.memory, Some(MemoryKind::Kept));
    assert_eq!(said.not_movable, not_movable.as_ref().map(NotMovable::to_string));
    (device, not_movable)
}

fn movable(class: Class) -> (Builtins, Arc<dyn Contents>) {
    let (device, not_movable) = device(class, &ledger(), LIMITS.memory_bytes);
    assert_eq!(not_movable, None);
    let contents = device.contents("ledger").unwrap();
    (device, contents)
}

#[derive(Default)]
struct Taken {
    status: u16,
    bytes: Vec<u8>,
    /// Whoever asks is gone before it is answered.
    gone: Arc<AtomicBool>,
}

impl Out for Taken {
    fn begin(&mut self, _: &'static str) {}

    fn answer(&mut self, status: u16, _: String) {
        self.status = status;
    }

    fn write(&mut self, bytes: Vec<u8>, _: Instant) -> Result<(), Stop> {
        self.bytes.extend(bytes);
        if self.gone.load(Relaxed) { Err(Stop::Gone) } else { Ok(()) }
    }

    fn watch(&self) -> Watch {
        Arc::new(|| false)
    }
}

fn run(device: &dyn Device, register: &str, parameters: &str) -> (Outcome, Taken) {
    let mut taken = Taken::default();
    let request = Request { function: "ledger", dataset: register, parameters, body: None };
    (device.run(&request, &mut taken), taken)
}

/// What the register is said to hold, and where.
fn ask(device: &dyn Device, register: &str, parameters: &str) -> (u64, String) {
    let (outcome, taken) = run(device, register, parameters);
    assert_eq!((outcome.fault, taken.status), (None, 200));
    let text = String::from_utf8(taken.bytes).unwrap();
    let (number, place) = text.trim().split_once(' ').unwrap();
    (number.parse().unwrap(), place.to_owned())
}

#[test]
fn what_a_call_leaves_in_memory_is_there_at_the_next() {
    let (device, _) = device(Class::Csd, &ledger(), LIMITS.memory_bytes);
    assert_eq!(ask(&device, "x", "put=7").0, 0);
    assert_eq!(ask(&device, "x", ""), (7, "Csd".into()));
    // One at a time, however many ask.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| drop(ask(&device, "sum", "add=1"))));
        }
    });
    assert_eq!(ask(&device, "sum", "").0, 400);
    // Whoever leaves takes nothing with it.
    let request = Request { function: "ledger", dataset: "x", parameters: "put=8", body: None };
    let mut leaving = Taken { gone: Arc::new(AtomicBool::new(true)), ..Taken::default() };
    assert_eq!(device.run(&request, &mut leaving).status(), Status::NotDone);
    assert_eq!(ask(&device, "x", "").0, 8);
    // What is too much for the memory ends it, as a fault does.
    for breaks in ["put=1&break=1", "put=1&open=1", "room=17000000"] {
        assert_eq!(ask(&device, "x", "put=5").1, "Csd");
        let (outcome, taken) = run(&device, "x", breaks);
        assert_eq!((outcome.usage.memories_lost, taken.bytes.len()), (1, 0), "{breaks}");
        let why = outcome.fault.unwrap().message;
        assert!(why.ends_with("what it kept in its memory is lost"), "{why}");
        assert_eq!(ask(&device, "x", "").0, 0, "{breaks}: it begins anew");
    }
}

#[test]
fn a_memory_moves_to_an_unlike_device_with_what_has_changed_in_it() {
    let (from, at_first) = movable(Class::Csd);
    let (to, then) = movable(Class::Gpu);
    for number in 0..100 {
        ask(&from, &format!("kept-{number}"), &format!("put={}", number + 1));
    }
    ask(&from, "room", "room=600000");
    ask(&to, "stale", "put=3");
    let all = at_first.read().unwrap();
    assert_eq!(at_first.changes(all.version - 1), Ok(None), "nobody knows");
    then.replace(&all.bytes, STAYS).unwrap();
    let mut version = all.version;
    for round in 0..5 {
        ask(&from, "x", &format!("put={round}"));
        let changes = at_first.changes(version).unwrap().unwrap();
        assert!(Memory::parse(&changes.bytes).unwrap().are_changes);
        assert!(
            changes.bytes.len() * 4 < all.bytes.len(),
            "{} of {} bytes",
            changes.bytes.len(),
            all.bytes.len()
        );
        version = changes.version;
        then.replace(&changes.bytes, STAYS).unwrap();
        assert_eq!(then.read().unwrap().bytes, at_first.read().unwrap().bytes, "the same memory");
    }
    // It grows while it is copied.
    ask(&from, "more", "room=2000000&put=1");
    at_first.freeze(true, STAYS);
    let (refused, _) = run(&from, "x", "put=99");
    assert_eq!((refused.status(), refused.usage.memories_lost), (Status::DeviceNotAvailable, 0));
    then.replace(&at_first.changes(version).unwrap().unwrap().bytes, STAYS).unwrap();
    for number in 0..100 {
        assert_eq!(ask(&to, &format!("kept-{number}"), ""), (number + 1, "Gpu".into()));
    }
    assert_eq!((ask(&to, "x", "").0, ask(&to, "more", "").0, ask(&to, "stale", "").0), (4, 1, 0));
    assert_eq!(ask(&to, "x", "add=1").0, 5);
    // It may go on where it was as well.
    at_first.freeze(false, STAYS);
    assert_eq!(ask(&from, "x", "add=2").0, 6);
    // And comes back.
    at_first.replace(&then.read().unwrap().bytes, STAYS).unwrap();
    assert_eq!(ask(&from, "x", ""), (5, "Csd".into()));
}

#[test]
fn what_is_no_memory_of_it_is_not_taken() {
    let (device, contents) = movable(Class::Csd);
    ask(&device, "x", "put=7");
    let bytes = contents.read().unwrap().bytes;
    let whole = Memory::parse(&bytes).unwrap();
    let refused = |with: &Memory<'_>| contents.replace(&with.write(), STAYS).unwrap_err();
    let mut other = Memory { digest: [1; 32], ..whole.clone() };
    other.keys.digest = other.digest;
    assert!(matches!(refused(&other), NotReplaced::OtherProgram { .. }));
    assert!(matches!(refused(&Memory { globals: Vec::new(), ..whole.clone() }), NotReplaced::Malformed(_)));
    let large = (LIMITS.memory_bytes / PAGE as u64) as u32 + 1;
    assert!(matches!(refused(&Memory { pages: large, ..whole.clone() }), NotReplaced::Memory(..)));
    let small = Memory { pages: 1, blocks: Vec::new(), ..whole.clone() };
    assert!(matches!(refused(&small), NotReplaced::Failed(_)));
    assert_eq!(ask(&device, "x", "").0, 7, "nothing has changed");
    let zero = Memory {
        are_changes: true,
        blocks: (0..whole.pages * (PAGE / BLOCK) as u32).map(|at| (at, None)).collect(),
        keys: lighter_functions::Entries { are_changes: true, ..whole.keys.clone() },
        ..whole
    };
    contents.replace(&zero.write(), STAYS).unwrap();
    assert_eq!(Memory::parse(&contents.read().unwrap().bytes).unwrap().blocks, []);
}

#[test]
fn one_that_has_more_than_its_memory_runs_and_does_not_move() {
    // One more module, with a table that a function of it changes, and an instance of that.
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        &[1, 4, 1, 0x60, 0, 0],
        &[3, 2, 1, 0],
        &[4, 4, 1, 0x70, 0, 1],
        &[10, 10, 1, 8, 0, 0x41, 0, 0xd0, 0x70, 0x26, 0, 0x0b],
    ]
    .concat();
    let plant = |module: &[u8]| {
        let bytes = std::fs::read(ledger()).unwrap();
        let modules = wasmparser::Parser::new(0).parse_all(&bytes);
        let is_module =
            |payload: &wasmparser::Payload<'_>| matches!(payload, wasmparser::Payload::ModuleSection { .. });
        let number = modules.filter(|payload| is_module(payload.as_ref().unwrap())).count() as u8;
        let instance = [2, 4, 1, 0, number, 0];
        [&bytes[..], &[1, module.len() as u8], module, &instance].concat()
    };
    let path = CACHE.path().join("planted.wasm");
    std::fs::write(&path, plant(&module)).unwrap();
    let (device, not_movable) = device(Class::Dpu, &path, LIMITS.memory_bytes);
    assert_eq!(
        not_movable.unwrap().to_string(),
        "`ledger` keeps its memory, and the component changes a table (`table.set`)"
    );
    assert!(device.contents("ledger").is_err());
    ask(&device, "x", "put=7");
    assert_eq!(ask(&device, "x", "").0, 7);
}
