//! Functions that are active while they are wanted: requests wait for them, and they make room for each other.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::components::{file, with_runtime};
use crate::device::{Data, Device, get, text};
use crate::support::metrics::ask;
use crate::support::process::{Program, free_address};
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::{LIGHTER, Sidecar};
use crate::support::{at_rest, test, test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("planned::the_first_request_waits_and_is_answered", first),
        test("planned::where_there_is_room_for_one_they_make_room_for_each_other", room_for_one),
        test("planned::a_run_is_not_cut_for_another_function", not_cut),
        test("planned::one_too_many_does_not_wait", full),
        test("planned::none_of_many_who_wait_is_refused_for_want_of_a_place", many),
        test("planned::who_has_waited_for_long_enough_is_told", late),
        test("planned::who_leaves_does_not_wait", left),
        test("planned::an_operator_has_them_come_and_go", operator),
        test("planned::a_successor_begins_with_none", taken_over),
        test_where("planned::a_component_that_goes_gives_its_memory_back", || with_runtime(memory)),
        test_where("planned::a_component_that_is_another_one_by_now_is_not_run", || with_runtime(changed)),
        test_where("planned::a_component_that_never_fits_is_told_at_the_start", || with_runtime(never_fits)),
    ]
}

/// Machine code of all tests.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/components");

/// Fields of a device on which one function is active at a time.
const ONE: &str = "activation: planned, memoryBytes: 1048576, activationTimeout: 60s";

/// A megabyte, on a medium from which a run over it takes four seconds at least.
fn slow(more: &str, limits: &str) -> Device {
    let more = format!(", {more}, limits: {{memoryBytes: 1048576{limits}}}, mediaBytesPerSecond: 250000");
    Data::new().with_text("a.csv", megabyte()).with_text("b.csv", "x\n1\n").start(&more, "")
}

fn megabyte() -> String {
    "x\n".to_owned() + &"123456789\n".repeat(100_000)
}

/// How the functions stand, by the admin port.
fn told(device: &Device) -> Value {
    let (status, body) = ask(device.sidecar.admin, "GET", "/device");
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// What it says of one of them.
fn of(device: &Device, function: &str, field: &str) -> Value {
    let told = told(device);
    let all = told["functions"].as_array().unwrap();
    all.iter().find(|found| found["name"] == function).unwrap()[field].clone()
}

fn waits(device: &Device, function: &str, outcome: &str) -> f64 {
    device.counted("lighter_device_waits_total", &[("function", function), ("outcome", outcome)])
}

fn activations(device: &Device, function: &str, by: &str) -> f64 {
    device.counted("lighter_device_activations_total", &[("function", function), ("by", by)])
}

fn is_active(device: &Device, function: &str) -> bool {
    device.counted("lighter_device_function_active", &[("function", function)]) == 1.0
}

/// What a device says of a function to its callers.
fn described(device: &Device, function: &str) -> String {
    let found: Value = serde_json::from_str(&text(device.get("/").1)).unwrap();
    let all = found["functions"].as_array().unwrap();
    all.iter().find(|found| found["name"] == function).unwrap()["state"].as_str().unwrap().to_owned()
}

fn change(device: &Device, way: &str, function: &str) -> u16 {
    ask(device.sidecar.admin, "POST", &format!("/device/{way}?function={function}")).0
}

/// Asks for something and does not wait for the answer.
fn asked(device: &Device, target: &str) -> Peer {
    let mut peer = Peer::connect(device.at);
    peer.send(get(target));
    peer
}

/// The answer to that, which is whole.
fn answered(mut peer: Peer) -> String {
    let head = peer.expect_head();
    assert_eq!(head.status(), 200);
    text(peer.body(&head))
}

fn first() {
    let device = Data::new()
        .with_text("a.csv", "x\n1\n2\n")
        .start(", activation: planned, functions: [scan, checksum]", "");
    assert_eq!(described(&device, "scan"), "available");
    assert_eq!((is_active(&device, "scan"), told(&device)["active_memory_bytes"].as_u64()), (false, Some(0)));
    assert_eq!(text(device.get("/scan/a").1), "x\n1\n2\n");
    assert_eq!((described(&device, "scan").as_str(), is_active(&device, "scan")), ("active", true));
    assert_eq!(text(device.get("/scan/a?limit=1").1), "x\n1\n");
    assert_eq!((waits(&device, "scan", "run"), activations(&device, "scan", "self")), (1.0, 1.0));
    assert_eq!(device.counted("lighter_device_wait_seconds_count", &[]), 1.0);
    assert_eq!(described(&device, "checksum"), "available", "nobody wants it");
    // What the file does not name is not waited for.
    for function in ["filter", "nothing"] {
        let (head, _) = device.get(&format!("/{function}/a"));
        assert_eq!(head.status(), 404, "{function}");
    }
    assert_eq!(device.counted("lighter_device_waits_total", &[]), 1.0);
    let told = told(&device);
    assert_eq!((told["activation"].as_str(), told["planner"].as_str()), (Some("planned"), Some("absent")));
    assert_eq!((told["memory_bytes"].as_u64(), told["active_memory_bytes"].as_u64()), (None, Some(64 << 20)));
    assert_eq!(told["functions"].as_array().unwrap().len(), 2);
    wait_until("its runs have ended", || of(&device, "scan", "in_use") == 0);
    assert_eq!(of(&device, "scan", "runs"), 2);
}

fn room_for_one() {
    let device = Data::new()
        .with_text("a.csv", "x\n1\n2\n")
        .start(&format!(", {ONE}, limits: {{memoryBytes: 1048576}}"), "");
    let sum = text(device.get("/checksum/a").1);
    for _ in 0..5 {
        assert_eq!(text(device.get("/scan/a").1), "x\n1\n2\n");
        assert_eq!(text(device.get("/checksum/a").1), sum);
        assert_eq!(told(&device)["active_memory_bytes"], 1 << 20);
    }
    assert_eq!((activations(&device, "scan", "self"), activations(&device, "checksum", "self")), (5.0, 6.0));
    let gone = device.counted("lighter_device_deactivations_total", &[]);
    assert_eq!((gone, waits(&device, "scan", "run"), waits(&device, "checksum", "run")), (10.0, 5.0, 6.0));
    assert_eq!(device.counted("lighter_device_active_memory_bytes", &[]), f64::from(1 << 20));
}

fn not_cut() {
    let device = slow(ONE, "");
    let running = asked(&device, "/scan/a");
    wait_until("it runs", || device.in_flight() == 1.0);
    let sum = asked(&device, "/checksum/b");
    wait_until("another function is waited for", || waiting(&device) == 1.0);
    // What is asked for all the time does not stay for ever.
    wait_until("the first takes no new runs", || of(&device, "scan", "state") == "leaving");
    let again = asked(&device, "/scan/b");
    wait_until("both wait", || waiting(&device) == 2.0);
    assert_eq!((device.in_flight(), told(&device)["active_memory_bytes"].as_u64()), (1.0, Some(1 << 20)));
    assert!(answered(running) == megabyte());
    assert!(answered(sum).contains("\"bytes\":4"));
    assert_eq!(answered(again), "x\n1\n");
    assert_eq!((activations(&device, "scan", "self"), activations(&device, "checksum", "self")), (2.0, 1.0));
    assert_eq!(device.counted("lighter_device_refusals_total", &[]), 0.0);
}

fn waiting(device: &Device) -> f64 {
    device.counted("lighter_device_waiting", &[])
}

fn full() {
    let device = slow(ONE, ", waiting: 1");
    let running = asked(&device, "/scan/a");
    wait_until("it runs", || device.in_flight() == 1.0);
    let waits_for_it = asked(&device, "/checksum/b");
    wait_until("as many wait as may", || waiting(&device) == 1.0);
    let (head, body) = device.get("/checksum/b");
    assert_eq!((head.status(), head.cause(), head.get("retry-after")), (503, Some("inactive"), Some("1")));
    assert_eq!(head.get("x-lighter-status"), Some("CS_DEVICE_NOT_AVAILABLE"));
    assert!(text(body).contains("as many requests as may wait"));
    assert_eq!((waits(&device, "checksum", "full"), refused(&device)), (1.0, 1.0));
    assert!(answered(running) == megabyte());
    assert!(answered(waits_for_it).contains("\"bytes\":4"));
}

fn many() {
    let limits = "limits: {memoryBytes: 1048576, runs: 2}, mediaBytesPerSecond: 250000";
    let device = Data::new()
        .with_text("a.csv", &megabyte()[..500_000])
        .with_text("b.csv", &megabyte()[..20_000])
        .start(&format!(", {ONE}, {limits}"), "");
    let running = asked(&device, "/scan/a");
    wait_until("it runs", || device.in_flight() == 1.0);
    let wait: Vec<Peer> = (0..12).map(|_| asked(&device, "/checksum/b")).collect();
    wait_until("all others wait", || waiting(&device) == 12.0);
    assert!(answered(running).len() >= 500_000);
    // Six times as many as there are places.
    for peer in wait {
        assert!(answered(peer).contains("\"bytes\":20000"));
    }
    assert_eq!(waits(&device, "checksum", "run"), 12.0);
    assert_eq!((device.counted("lighter_device_refusals_total", &[]), waiting(&device)), (0.0, 0.0));
    assert_eq!(
        (activations(&device, "checksum", "self"), device.counted("lighter_device_slots", &[])),
        (1.0, 2.0)
    );
}

fn refused(device: &Device) -> f64 {
    device.counted("lighter_device_refusals_total", &[("cause", "inactive")])
}

fn late() {
    let device = slow("activation: planned, memoryBytes: 1048576, activationTimeout: 200ms", "");
    // It goes away as soon as nothing runs: it takes no new runs after half of that time.
    let running = asked(&device, "/scan/a");
    wait_until("it runs", || device.in_flight() == 1.0);
    let (head, body) = device.get("/checksum/b");
    assert_eq!((head.status(), head.cause(), head.get("retry-after")), (503, Some("inactive"), Some("1")));
    assert!(text(body).contains("did not become active in time"));
    assert_eq!((waits(&device, "checksum", "timeout"), refused(&device)), (1.0, 1.0));
    assert!(answered(running) == megabyte(), "what runs is not cut");
    assert_eq!(device.counted("lighter_device_runs_total", &[("function", "checksum")]), 0.0);
    assert_eq!(waiting(&device), 0.0);
}

fn left() {
    let device = slow(ONE, "");
    let running = asked(&device, "/scan/a");
    wait_until("it runs", || device.in_flight() == 1.0);
    let leaves = asked(&device, "/checksum/b");
    wait_until("it waits", || waiting(&device) == 1.0);
    drop(leaves);
    wait_until("nobody waits", || waiting(&device) == 0.0 && waits(&device, "checksum", "left") == 1.0);
    assert!(answered(running) == megabyte());
    // Nobody wants it any more.
    assert_eq!((activations(&device, "checksum", "self"), is_active(&device, "scan")), (0.0, true));
}

fn operator() {
    let device = Data::new().with_text("a.csv", "x\n1\n").start(", activation: planned", "");
    assert_eq!(change(&device, "activate", "scan"), 200);
    wait_until("it is active", || is_active(&device, "scan"));
    assert_eq!(text(device.get("/scan/a").1), "x\n1\n");
    assert_eq!((activations(&device, "scan", "admin"), waits(&device, "scan", "run")), (1.0, 0.0));
    assert_eq!(change(&device, "deactivate", "scan"), 200);
    wait_until("it has gone", || of(&device, "scan", "state") == "inactive");
    assert_eq!(device.counted("lighter_device_deactivations_total", &[("function", "scan")]), 1.0);
    assert_eq!(text(device.get("/scan/a").1), "x\n1\n", "it comes back for who wants it");
    assert_eq!((change(&device, "activate", "nothing"), change(&device, "activate", "")), (404, 404));
    let admin = device.sidecar.admin;
    assert_eq!(ask(admin, "POST", "/device/activate").0, 400);
    assert_eq!(ask(admin, "GET", "/device/activate?function=scan").0, 405);
    // Callers do not get there.
    assert_eq!(device.get("/device").0.status(), 404);

    let always = Data::new().with_text("a.csv", "x\n1\n").start("", "");
    let told = told(&always);
    assert_eq!(
        (told["activation"].as_str(), told["functions"].as_array().unwrap().len()),
        (Some("always"), 6)
    );
    assert_eq!((change(&always, "activate", "scan"), change(&always, "deactivate", "scan")), (409, 409));
    assert_eq!((is_active(&always, "scan"), activations(&always, "scan", "start")), (true, 1.0));
    assert_eq!(text(always.get("/scan/a").1), "x\n1\n");
    assert!(!always.sidecar.metrics().has("lighter_device_waits_total", &[]));
    let none = Sidecar::start("", "workers: 1\n");
    assert_eq!(ask(none.admin, "GET", "/device").0, 404);
    assert_eq!(ask(none.admin, "POST", "/device/activate?function=scan").0, 404);
}

fn taken_over() {
    let more = format!(", {ONE}, limits: {{memoryBytes: 1048576}}, mediaBytesPerSecond: 150000");
    let mut device = Data::new()
        .with_text("a.csv", megabyte())
        .with_text("b.csv", "x\n1\n")
        .start(&more, "handover: place\n");
    let running = asked(&device, "/scan/a");
    wait_until("it runs", || device.in_flight() == 1.0);
    let waits_for_it = asked(&device, "/checksum/b");
    wait_until("it waits", || waiting(&device) == 1.0);
    let mut command = Command::new(LIGHTER);
    command.args(["proxy", "--takeover", "--config"]).arg(device.sidecar.path("sidecar.yaml"));
    let mut successor = Program::start(command, &device.sidecar.path(""));
    device.sidecar.program.wait_until_it_says("handed_over=true");
    successor.wait_until_it_says("ready");
    // By now the admin port is the successor's, which knows nothing of what its predecessor runs.
    wait_until("nothing is active", || told(&device)["active_memory_bytes"] == 0);
    assert_eq!(text(device.get("/project/b?select=x").1), "x\n1\n");
    assert_eq!((waits(&device, "project", "run"), is_active(&device, "scan")), (1.0, false));
    assert!(answered(running) == megabyte(), "what ran there runs on");
    assert!(answered(waits_for_it).contains("\"bytes\":4"), "and who waited there is not forgotten");
    assert!(device.sidecar.program.wait().success());
    assert!(!successor.has_ended());
}

/// Machine code that a process has in memory, in bytes: what can be run and comes from no file.
fn code(device: &Device) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", device.sidecar.program.pid())).unwrap();
    let code = maps.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, permissions, _, _, "0"] = words[..] else { return None };
        let (from, to) = range.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        permissions.contains('x').then(|| address(to) - address(from))
    });
    code.sum()
}

fn memory() {
    let component = |name: &str| format!("{{name: {name}, path: {}}}", file(&format!("{name}.wasm")));
    let more = format!(
        ", activation: planned, memoryBytes: 7000000, limits: {{memoryBytes: 4194304}}, componentCache: {CACHE}, \
         components: [{}, {}], functions: [scan]",
        component("tally"),
        component("hostile")
    );
    let device = Data::new().with_text("a.csv", "x\n1\n2\n1\n").start(&more, "");
    assert_eq!(code(&device), 0, "what was compiled to see what it is takes nothing");
    let takes = |function: &str| of(&device, function, "memory_bytes").as_u64().unwrap() - (4 << 20);
    let (tally, hostile) = (takes("tally"), takes("hostile"));
    assert_eq!((takes("scan"), tally > 10_000, hostile > 10_000), (0, true, true));
    let expected = "{\"x\":\"1\",\"rows\":2}\n{\"x\":\"2\",\"rows\":1}\n";
    assert_eq!(text(device.get("/tally/a?by=x").1), expected);
    let with_tally = code(&device);
    assert!(0 < with_tally && with_tally <= tally.next_multiple_of(4096), "{with_tally} of {tally}");
    // There is room for one of them.
    assert_eq!(device.get("/hostile/nan").0.status(), 200);
    let with_hostile = at_rest(Duration::from_millis(100), || code(&device));
    assert!(
        0 < with_hostile && with_hostile <= hostile.next_multiple_of(4096),
        "{with_hostile} of {hostile}"
    );
    assert_eq!(text(device.get("/tally/a?by=x").1), expected, "once more the same");
    assert_eq!(code(&device), with_tally);
    assert_eq!(change(&device, "deactivate", "tally"), 200);
    wait_until("its machine code is gone", || code(&device) == 0);
    wait_until("it has gone", || of(&device, "tally", "state") == "inactive");
    assert_eq!(told(&device)["active_memory_bytes"], 0);
}

fn changed() {
    let folder = tempfile::tempdir().unwrap();
    let [path, cache, away] = ["tally.wasm", "code", "away"].map(|name| folder.path().join(name));
    for folder in [&cache, &away] {
        std::fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
    }
    std::fs::copy(file("tally.wasm"), &path).unwrap();
    // To compile it takes an unoptimized compiler seconds, in which other tests are held up.
    move_all(Path::new(CACHE), &cache, |from, to| drop(std::fs::copy(from, to)));
    let more = format!(
        ", activation: planned, componentCache: {}, components: [{{name: tally, path: {}}}]",
        cache.display(),
        path.display()
    );
    let device = Data::new().with_text("a.csv", "x\n1\n").start(&more, "");
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).unwrap();
    move_all(&cache, &away, rename);
    std::fs::copy(file("hostile.wasm"), &path).unwrap();
    let (head, body) = device.get("/tally/a?by=x");
    assert_eq!((head.status(), head.cause()), (503, Some("inactive")));
    assert!(text(body).contains("cannot be made active"));
    assert_eq!((waits(&device, "tally", "failed"), activations(&device, "tally", "self")), (1.0, 0.0));
    assert!(device.sidecar.program.said().contains("it is another one than at the start"));
    assert_eq!(told(&device)["active_memory_bytes"], 0);
    // As it was, it is taken again, a while later.
    move_all(&away, &cache, rename);
    std::fs::copy(file("tally.wasm"), &path).unwrap();
    let mut peer = Peer::connect(device.at);
    wait_until("it is taken again", || {
        let (head, body) = peer.exchange(get("/tally/a?by=x"));
        head.status() == 200 && matches!(body, Body::Whole(_))
    });
}

/// Does it for each file of a folder, if that is there.
fn move_all(from: &Path, to: &Path, each: impl Fn(&Path, &Path)) {
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        each(&entry.path(), &to.join(entry.file_name()));
    }
}

fn never_fits() {
    let folder = tempfile::tempdir().unwrap();
    let (config, app) = (folder.path().join("sidecar.yaml"), free_address());
    let section = format!(
        "service: data\ninbound: [{{listen: '{}', app: '{app}'}}]\ndevice: {{class: csd, listen: '{app}', datasets: [], \
         activation: planned, memoryBytes: 4194305, limits: {{memoryBytes: 4194304}}, componentCache: {CACHE}, \
         components: [{{name: tally, path: {}}}]}}\n",
        free_address(),
        file("tally.wasm")
    );
    std::fs::write(&config, section).unwrap();
    let output = Command::new(LIGHTER).args(["proxy", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("`tally` takes"), "{said}");
    assert!(said.contains("`memoryBytes` is 4194305"), "{said}");
}
