//! Components on a device: the same bytes on every class, and nothing that a hostile one does reaches anybody else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use lighter_functions::conformance;
use lighter_functions::{
    Builtins, Class, Dataset, Device, Format, Limits, MemoryKind, Out, Outcome, Program, Request, Setup,
    Status, Stop, Watch,
};
use lighter_wasm::{Component, Error, Runtime, Settings};
use tempfile::TempDir;

/// Machine code of all tests: each component is compiled once.
static CACHE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/functions").join(name)
}

fn runtime(memory_bytes: u64) -> Arc<Runtime> {
    let cache = Some(CACHE.path().join("code"));
    Runtime::new(&Settings { memory_bytes, runs: 4, kept: 0, key_bytes: 1 << 20, cache }).unwrap()
}

fn component(runtime: &Arc<Runtime>, name: &str, tenant: &str) -> Arc<dyn Program> {
    let file = file(&format!("{}.wasm", name.split('-').next().unwrap()));
    Arc::new(Component::load(runtime, name, tenant, &file).unwrap())
}

const LIMITS: Limits =
    Limits { memory_bytes: 16 << 20, rows_out: 1000, bytes_out: 1 << 20, deadline: Duration::from_secs(60) };

/// A device that holds one dataset of each of two tenants, on which `programs` and `scan` are active.
fn device(folder: &TempDir, limits: Limits, programs: Vec<Arc<dyn Program>>) -> Builtins {
    let dataset = |name: &str, tenant: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "id,country\n1,DE\n2,FR\n3,DE\n").unwrap();
        Dataset { name: name.into(), version: "7".into(), path, format: Format::Csv, tenant: tenant.into() }
    };
    let setup = Setup {
        class: Class::Csd,
        datasets: vec![dataset("mine", "default"), dataset("theirs", "other")],
        limits,
        media_bytes_per_second: None,
        key_bytes: 1 << 20,
    };
    let device = Builtins::with(setup, programs);
    for function in device.discover().functions {
        device.activate(device.load(&function.name).unwrap()).unwrap();
    }
    device
}

#[derive(Default)]
struct Taken {
    head: Option<(u16, String)>,
    bytes: Vec<u8>,
    gone: Arc<AtomicBool>,
    /// How many bytes are taken before whoever asked leaves.
    leaves_after: Option<usize>,
}

impl Out for Taken {
    fn begin(&mut self, media_type: &'static str) {
        self.head = Some((200, media_type.into()));
    }

    fn answer(&mut self, status: u16, media_type: String) {
        self.head = Some((status, media_type));
    }

    fn write(&mut self, bytes: Vec<u8>, _: Instant) -> Result<(), Stop> {
        self.bytes.extend(bytes);
        if self.leaves_after.is_some_and(|most| self.bytes.len() > most) { Err(Stop::Gone) } else { Ok(()) }
    }

    fn watch(&self) -> Watch {
        let gone = self.gone.clone();
        Arc::new(move || gone.load(Relaxed))
    }
}

fn ask(device: &dyn Device, function: &str, dataset: &str, parameters: &str) -> (Outcome, Taken) {
    let mut taken = Taken::default();
    let request = Request { function, dataset, parameters, body: None };
    (device.run(&request, &mut taken), taken)
}

/// What a run that ended well gave.
fn given(device: &dyn Device, function: &str, dataset: &str, parameters: &str) -> String {
    let (outcome, taken) = ask(device, function, dataset, parameters);
    assert_eq!(outcome.fault, None);
    assert_eq!(outcome.usage.bytes_out, taken.bytes.len() as u64);
    String::from_utf8(taken.bytes).unwrap()
}

#[test]
fn one_component_gives_the_same_bytes_on_every_class_of_device() {
    let folder = tempfile::tempdir().unwrap();
    let more = [
        (
            "tally/orders@7?by=country",
            "{\"country\":\"\",\"rows\":1}\n{\"country\":\"DE\",\"rows\":2}\n{\"country\":\"FR\",\"rows\":1}\n",
        ),
        (
            "tally/orders?by=country&sum=amount",
            "{\"country\":\"\",\"rows\":1,\"sum(amount)\":7}\n{\"country\":\"DE\",\"rows\":2,\"sum(amount)\":10}\n{\"country\":\"FR\",\"rows\":1,\"sum(amount)\":2.5}\n",
        ),
        // Not a number, of which WebAssembly leaves sign and payload to the machine.
        ("hostile/nan?", "[7ff8000000000000, 7ff8000000000000, 7ff8000000000000] 7fc00000\n"),
    ];
    let mut digests = HashSet::new();
    let mut all = Vec::new();
    for class in Class::ALL {
        let runtime = runtime(LIMITS.memory_bytes);
        let make = |setup: Setup| {
            let programs =
                vec![component(&runtime, "tally", "default"), component(&runtime, "hostile", "default")];
            Box::new(Builtins::with(setup, programs)) as Box<dyn Device>
        };
        all.push(conformance::check(class, folder.path(), &more, &make).unwrap());
        let found = make(Setup {
            class,
            datasets: Vec::new(),
            limits: LIMITS,
            media_bytes_per_second: None,
            key_bytes: 1 << 20,
        })
        .discover();
        let said = found.functions.into_iter().find(|function| function.name == "tally").unwrap();
        assert_eq!((said.memory, said.not_movable), (Some(MemoryKind::Fresh), None));
        digests.insert(said.digest.unwrap());
    }
    assert!(all.iter().all(|answers| answers.len() >= 12 && *answers == all[0]));
    let sum = std::process::Command::new("sha256sum").arg(file("tally.wasm")).output().unwrap().stdout;
    assert_eq!(digests, HashSet::from([String::from_utf8(sum).unwrap()[..64].to_owned()]));
}

#[test]
fn what_a_hostile_component_does_ends_its_own_run() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { deadline: Duration::from_secs(3), ..LIMITS };
    let runtime = runtime(limits.memory_bytes);
    let programs = vec![component(&runtime, "hostile", "default"), component(&runtime, "tally", "default")];
    let device = device(&folder, limits, programs);
    let lines = given(&device, "tally", "mine", "by=country");
    for (way, status, bytes) in [
        ("loop", Status::IoTimeout, 0..1),
        ("memory", Status::NotEnoughMemory, 0..1),
        // What compilers put on a stack of their own runs out of its part of the memory.
        ("stack", Status::ErrorInExecution, 0..1),
        ("endless", Status::OutOfResources, (1 << 19)..(1 << 20) + 1),
        ("silent", Status::ErrorInExecution, 0..1),
        ("half", Status::ErrorInExecution, 4096..4097),
        ("anything", Status::ErrorInExecution, 0..1),
    ] {
        let (outcome, taken) = ask(&device, "hostile", way, "");
        assert_eq!(outcome.status(), status, "{way}: {:?}", outcome.fault);
        assert!(bytes.contains(&taken.bytes.len()), "{way}: {} bytes", taken.bytes.len());
        // Others go on as if nothing were.
        assert_eq!(given(&device, "tally", "mine", "by=country"), lines, "after {way}");
        assert_eq!(given(&device, "scan", "mine", "limit=1"), "id,country\n1,DE\n", "after {way}");
    }
}

#[test]
fn a_run_ends_where_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(LIMITS.memory_bytes);
    let device = device(&folder, LIMITS, vec![component(&runtime, "hostile", "default")]);
    let request = |dataset| Request { function: "hostile", dataset, parameters: "", body: None };
    let mut leaves = Taken { leaves_after: Some(10_000), ..Taken::default() };
    assert_eq!(device.run(&request("endless"), &mut leaves).status(), Status::NotDone);
    assert!(leaves.bytes.len() < 20_000);
    // In the middle of a loop that says nothing.
    let mut waits = Taken::default();
    let gone = waits.gone.clone();
    let leave = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        gone.store(true, Relaxed);
    });
    assert_eq!(device.run(&request("loop"), &mut waits).status(), Status::NotDone);
    leave.join().unwrap();
}

#[test]
fn tenants_see_their_own_data_and_keys_alone() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(LIMITS.memory_bytes);
    let programs = [
        ("hostile", "default"),
        ("tally", "default"),
        ("hostile-theirs", "other"),
        ("tally-theirs", "other"),
    ];
    let programs = programs.map(|(name, tenant)| component(&runtime, name, tenant)).to_vec();
    let device = device(&folder, LIMITS, programs);
    for (function, dataset, denied) in [
        ("hostile", "mine", 0),
        ("hostile", "theirs", 1),
        ("hostile", "nobodys", 0),
        ("hostile-theirs", "theirs", 0),
        ("hostile-theirs", "mine", 1),
    ] {
        let (outcome, taken) = ask(&device, function, "read", &format!("dataset={dataset}"));
        assert_eq!(
            (outcome.status(), outcome.usage.denied),
            (Status::Success, denied),
            "{function} {dataset}"
        );
        let sees = denied == 0 && dataset != "nobodys";
        assert_eq!(
            taken.bytes,
            if sees { &b"Ok(26)\n"[..] } else { b"Error::NoSuchDataset\n" },
            "{function} {dataset}"
        );
        assert_eq!(outcome.usage.bytes_read, if sees { 26 } else { 0 });
    }
    // A component of another tenant's data says what it would of data that is not there.
    assert_eq!(
        ask(&device, "tally", "theirs", "by=country").1.head,
        Some((404, "text/plain; charset=utf-8".into()))
    );
    // Keys are remembered from one run to the next, by each tenant for itself.
    let all = |function: &str, dataset: &str| {
        let lines = given(&device, function, dataset, "by=id&as=seen");
        lines.lines().last().unwrap().to_owned()
    };
    assert_eq!((all("tally", "mine"), all("tally", "mine")), ("{\"all\":3}".into(), "{\"all\":6}".into()));
    assert_eq!(all("tally-theirs", "theirs"), "{\"all\":3}");
    assert_eq!(
        given(&device, "hostile", "keys", "dataset=seen"),
        "[\"seen\"] Some([6, 0, 0, 0, 0, 0, 0, 0])\n"
    );
    // Who fills the room of its tenant leaves that of the others.
    let filled: u32 = given(&device, "hostile", "fill", "").trim().parse().unwrap();
    assert_eq!(filled, 15, "a mebibyte, less what keys take");
    assert_eq!(all("tally-theirs", "theirs"), "{\"all\":6}");
}

#[test]
fn what_a_component_is_sent_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(LIMITS.memory_bytes);
    let device = device(&folder, LIMITS, vec![component(&runtime, "tally", "default")]);
    let mut taken = Taken::default();
    let request = Request { function: "tally", dataset: "mine@7", parameters: "", body: Some(b"by=country") };
    assert_eq!(device.run(&request, &mut taken).fault, None);
    assert_eq!(taken.head, Some((200, "application/x-ndjson".into())));
    assert_eq!(taken.bytes, b"{\"country\":\"DE\",\"rows\":2}\n{\"country\":\"FR\",\"rows\":1}\n");
    assert_eq!(ask(&device, "tally", "mine@8", "by=id").1.head.unwrap().0, 409);
    assert_eq!(ask(&device, "tally", "mine", "").1.head.unwrap().0, 400);
}

#[test]
fn many_runs_at_once_give_what_one_gives() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(LIMITS.memory_bytes);
    let device = device(&folder, LIMITS, vec![component(&runtime, "tally", "default")]);
    let one = given(&device, "tally", "mine", "by=country");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(given(&device, "tally", "mine", "by=country"), one);
                }
            });
        }
    });
}

#[test]
fn what_is_loaded_again_is_what_it_was_at_first_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tally.wasm");
    std::fs::copy(file("tally.wasm"), &path).unwrap();
    let settings = Settings { memory_bytes: 16 << 20, runs: 1, kept: 0, key_bytes: 0, cache: None };
    let load = |cache| {
        let runtime = Runtime::new(&Settings { cache, ..settings.clone() }).unwrap();
        Component::load(&runtime, "tally", "default", &path).unwrap().at_rest()
    };
    let keeps = load(Some(CACHE.path().join("code")));
    let forgets = load(None);
    assert_eq!(keeps.memory_bytes(0), forgets.memory_bytes(0));
    assert!(keeps.memory_bytes(0) > 10_000);
    std::fs::copy(file("hostile.wasm"), &path).unwrap();
    // What was kept is of the digest that it had.
    let device = device(&folder, LIMITS, vec![Arc::new(keeps)]);
    assert_eq!(given(&device, "tally", "mine", "by=country").lines().count(), 2);
    let fault = forgets.load().err().unwrap();
    assert_eq!(fault.status, Status::LoadError);
    assert!(fault.message.contains("tally.wasm: it is another one than at the start"), "{fault}");
}

#[test]
fn machine_code_that_is_not_what_was_kept_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("code");
    let settings =
        Settings { memory_bytes: 1 << 24, runs: 1, kept: 0, key_bytes: 0, cache: Some(cache.clone()) };
    let load = || {
        Component::load(&Runtime::new(&settings).unwrap(), "tally", "default", &file("tally.wasm")).unwrap()
    };
    let digest = load().digest().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let kept: Vec<PathBuf> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].file_name().unwrap().to_str().unwrap().starts_with(&digest));
    // One bit of it is another one: it is made anew, as it was.
    let code = std::fs::read(&kept[0]).unwrap();
    let mut changed = code.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&kept[0], &changed).unwrap();
    load();
    assert!(std::fs::read(&kept[0]).unwrap() == code);
    // A folder that others may write in is none.
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(Runtime::new(&settings), Err(Error::Cache { path, .. }) if path == cache));
}

#[test]
fn what_is_no_component_is_told_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(LIMITS.memory_bytes);
    let path = folder.path().join("a.wasm");
    let load = || Component::load(&runtime, "a", "default", &path).err().unwrap().to_string();
    assert!(load().contains("a.wasm: No such file"));
    let mut bytes = std::fs::read(file("tally.wasm")).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&path, bytes).unwrap();
    assert!(load().contains("a.wasm: "));
    // A core module, and nothing in it.
    std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
    assert!(load().contains("a.wasm: "));
}
