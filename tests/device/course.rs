//! A device's start and end.

use std::net::SocketAddr;
use std::process::Command;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::device::{Data, get};
use crate::support::process::{Program, free_address};
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::LIGHTER;
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("course::drain_lets_a_run_end", drained),
        test("course::a_successor_takes_over_beside_a_run", taken_over),
        test("course::a_faulty_device_is_told_by_file_line_and_field", faulty),
        test("course::a_program_has_its_own_functions_and_no_device", run),
    ]
}

fn drained() {
    let text = "x\n".to_owned() + &"123456789\n".repeat(60_000);
    let data = Data::new().with_text("a.csv", &text);
    let mut device = data.start(", mediaBytesPerSecond: 120000", "drainDeadline: 20s\n");
    let mut caller = Peer::connect(device.at);
    caller.send(get("/scan/a"));
    let head = caller.expect_head();
    assert_eq!((head.status(), device.in_flight()), (200, 1.0));
    device.sidecar.program.signal(Signal::TERM);
    // New callers are not let in, or told to go.
    wait_until("it drains", || {
        std::net::TcpStream::connect(device.at).is_err() || {
            let mut other = Peer::connect(device.at);
            other.try_send(get("/scan/a?limit=1"));
            other.head().is_none_or(|head| head.has("connection", "close"))
        }
    });
    assert!(!device.sidecar.program.has_ended());
    assert!(caller.body(&head) == Body::Whole(text.into_bytes()), "the whole result");
    drop(caller);
    assert!(device.sidecar.program.wait().success());
    assert!(device.sidecar.program.said().contains("nothing was cut"), "{}", device.sidecar.program.said());
}

fn taken_over() {
    let text = "x\n".to_owned() + &"123456789\n".repeat(60_000);
    let data = Data::new().with_text("a.csv", &text).with_text("b.csv", "x\n1\n");
    let mut device = data.start(", mediaBytesPerSecond: 300000", "handover: place\n");
    let mut caller = Peer::connect(device.at);
    caller.send(get("/scan/a"));
    let head = caller.expect_head();
    let mut command = Command::new(LIGHTER);
    command.args(["proxy", "--takeover", "--config"]).arg(device.sidecar.path("sidecar.yaml"));
    let mut successor = Program::start(command, &device.sidecar.path(""));
    device.sidecar.program.wait_until_it_says("handed_over=true");
    successor.wait_until_it_says("ready");
    // The successor's metrics are at the admin port by now, and its functions behind the same address.
    for _ in 0..5 {
        assert_eq!(device.get("/scan/b").1, Body::Whole(b"x\n1\n".to_vec()));
    }
    assert_eq!(device.counted("lighter_device_runs_total", &[("dataset", "b")]), 5.0);
    assert!(caller.body(&head) == Body::Whole(text.into_bytes()), "the whole result");
    drop(caller);
    assert!(device.sidecar.program.wait().success());
    assert!(!successor.has_ended());
}

/// What `lighter proxy` says of this file, which it does not take.
fn said(device: &str, app: SocketAddr) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecar.yaml");
    let inbound = free_address();
    std::fs::write(
        &file,
        format!("service: data\ninbound: [{{listen: '{inbound}', app: '{app}'}}]\ndevice:\n{device}\n"),
    )
    .unwrap();
    let output = Command::new(LIGHTER).args(["proxy", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap().replace(&*file.to_string_lossy(), "FILE")
}

fn faulty() {
    let app = free_address();
    let section = |more: &str| format!("  class: csd\n  listen: '{app}'\n  datasets: []\n  {more}");
    let found = said(&section("functions: [scan, agregate]"), app);
    assert!(found.contains("FILE:7:21: device.functions[1]: unknown value `agregate`"), "{found}");
    let found = said(&section("limits: {runs: 0}"), app);
    assert!(found.contains("FILE:7:18: device.limits.runs: 0 runs"), "{found}");
    let found = said(&section("medium: fast"), app);
    assert!(found.contains("FILE:7:3: device.medium: unknown field"), "{found}");
    for (field, at, what) in [
        ("mainTask: {inbound: 9}", "7:23: device.mainTask.inbound", "no inbound listener has port 9"),
        ("mainTask: {inbound: 9, p99Percent: 100}", "7:38: device.mainTask.p99Percent", "100 percent"),
        ("mainTask: {inbound: 9, window: 1ms}", "7:34: device.mainTask.window", "1ms is out of range"),
        ("mainTask: {inbound: 9, leastPercent: 0}", "7:40: device.mainTask.leastPercent", "never end"),
        (
            "mainTask: {inbound: 9, reservePercent: 100}",
            "7:42: device.mainTask.reservePercent",
            "nothing left",
        ),
        ("power: {capWatts: 2, idleWatts: 2}", "7:21: device.power.capWatts", "no function could ever run"),
        ("power: {busyWatts: 0}", "7:22: device.power.busyWatts", "not a number above 0"),
        ("memoryBytes: 67108864", "7:16: device.memoryBytes", "active from the start"),
        ("activationTimeout: 1s", "7:22: device.activationTimeout", "`activation: planned` alone"),
        (
            "activation: planned\n  memoryBytes: 1000",
            "8:16: device.memoryBytes",
            "at least `limits.memoryBytes`",
        ),
        ("activation: planned\n  activationTimeout: 2h", "8:22: device.activationTimeout", "from 1ms to 1h"),
        ("activation: sometimes", "7:15: device.activation", "unknown value `sometimes`"),
        ("limits: {waiting: 0}", "7:21: device.limits.waiting", "from 1 to 2048"),
        ("priority: lowest", "7:13: device.priority", "unknown value `lowest`"),
    ] {
        let found = said(&section(field), app);
        assert!(found.contains(&format!("FILE:{at}")) && found.contains(what), "{field}: {found}");
    }
    let found = said(&section(""), free_address());
    assert!(found.contains("FILE:5:11: device.listen: no caller gets there"), "{found}");
}

fn run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecar.yaml");
    let section = "service: a\ninbound: [{listen: '127.0.0.1:8080', app: '127.0.0.1:9300'}]\n\
                   device: {class: csd, listen: '127.0.0.1:9300', datasets: []}\n";
    std::fs::write(&file, section).unwrap();
    let output =
        Command::new(LIGHTER).args(["run", "--config"]).arg(&file).args(["--", "true"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("`device` is of no use in `lighter run`"), "{said}");
}
