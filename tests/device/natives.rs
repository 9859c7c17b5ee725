//! Functions that are programs of their own: a server that nobody changed runs while it is wanted, and not otherwise.

use std::path::Path;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::device::{Data, Device, get, text};
use crate::support::metrics::ask;
use crate::support::process::python;
use crate::support::raw::{Body, Peer};
use crate::support::{test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("natives::a_server_runs_while_it_is_wanted_and_not_otherwise", while_wanted),
        test_where("natives::requests_pass_as_they_are_both_ways", as_they_are),
        test_where("natives::one_that_dies_is_told_counted_and_started_again", dies),
        test_where("natives::one_that_does_not_start_is_refused_and_tried_again_later", no_start),
        test_where("natives::nothing_but_the_devices_file_says_what_is_started", file_alone),
    ]
}

/// How long a caller keeps a run waiting.
const PAUSE: Duration = Duration::from_secs(2);

/// A device with two functions of which there is room for one: `echo`, and what is built in.
fn device(fields: &str, more: &str) -> Result<Device, String> {
    let python = python("http.server")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/device/native.py");
    let native = format!(
        "{{name: echo, exec: [{}, {}, '{{port}}'], memoryBytes: 268435456{fields}}}",
        python.display(),
        script.display()
    );
    let more = format!(
        ", activation: planned, memoryBytes: 300000000, activationTimeout: 60s, functions: [scan], natives: [{native}]{more}"
    );
    Ok(Data::new().with_text("a.csv", "x\n1\n").start(&more, ""))
}

fn asked(device: &Device, target: &str) -> Peer {
    let mut peer = Peer::connect(device.at);
    peer.send(get(target));
    peer
}

/// The process that answered, by its own word.
fn pid(answer: &str) -> Pid {
    Pid::from_raw(answer.split(' ').next().unwrap().parse().unwrap()).unwrap()
}

fn of_echo(device: &Device, name: &str, more: &[(&str, &str)]) -> f64 {
    device.counted(name, &[&[("function", "echo")], more].concat())
}

/// Programs that the device has started and that have not ended: its children.
fn programs(device: &Device) -> usize {
    let pid = device.sidecar.program.pid();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children =
        threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).ok());
    children.map(|children| children.split_whitespace().count()).sum()
}

fn while_wanted() -> Result<(), String> {
    let device =
        device(", env: {MODEL: small, READY_AFTER: '0.5'}, probe: {http: /well}", ", limits: {runs: 2}")?;
    assert_eq!((programs(&device), of_echo(&device, "lighter_device_function_active", &[])), (0, 0.0));
    // None of those who come while it starts is refused, however many there are.
    let waiting: Vec<Peer> = (0..8).map(|_| asked(&device, "/echo/a/b?c=d")).collect();
    let mut answers: Vec<String> = Vec::new();
    for mut peer in waiting {
        let head = peer.expect_head();
        assert_eq!((head.status(), head.get("content-type")), (200, Some("text/x-own")));
        answers.push(text(peer.body(&head)));
    }
    let first = pid(&answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "one process answers all: {answers:?}");
    assert!(answers[0].ends_with(" /echo/a/b?c=d None small\n"), "{answers:?}");
    assert_eq!(programs(&device), 1);
    let run = [("outcome", "run")];
    assert_eq!(of_echo(&device, "lighter_device_waits_total", &run), 8.0);
    assert_eq!(of_echo(&device, "lighter_device_activations_total", &[("by", "self")]), 1.0);
    assert_eq!(device.counted("lighter_device_active_memory_bytes", &[]), 268_435_456.0);
    assert_eq!(of_echo(&device, "lighter_device_runs_total", &[("status", "CS_SUCCESS")]), 8.0);

    // Another function needs its room.
    assert_eq!(text(device.get("/scan/a").1), "x\n1\n");
    wait_until("the program has gone", || test_kill_process(first).is_err());
    assert_eq!((programs(&device), of_echo(&device, "lighter_device_deactivations_total", &[])), (0, 1.0));
    let again = text(device.get("/echo/a").1);
    assert_ne!(pid(&again), first);
    assert_eq!(ask(device.sidecar.admin, "POST", "/device/deactivate?function=echo").0, 200);
    wait_until("an operator has it go", || test_kill_process(pid(&again)).is_err());
    assert_eq!(programs(&device), 0);
    assert_eq!(device.counted("lighter_device_refusals_total", &[]), 0.0);
    assert_eq!(of_echo(&device, "lighter_device_exits_total", &[]), 0.0);

    // It ends with the sidecar.
    let last = pid(&text(device.get("/echo/a").1));
    let mut device = device;
    device.sidecar.program.signal(Signal::TERM);
    assert!(device.sidecar.program.wait().success());
    assert!(test_kill_process(last).is_err(), "it ended first");
    Ok(())
}

fn as_they_are() -> Result<(), String> {
    let device = device("", ", limits: {resultBytes: 200000, deadline: 5s}")?;
    // How slowly its caller sends says nothing of how long it takes: whoever comes now waits behind a run for as long as that took.
    let mut slow = Peer::connect(device.at);
    slow.send("GET /echo/body HTTP/1.1\r\nHost: data\r\nTransfer-Encoding: chunked\r\n\r\n");
    wait_until("it runs", || device.in_flight() == 1.0);
    std::thread::sleep(PAUSE);
    slow.send("3\r\nabc\r\n0\r\n\r\n");
    let head = slow.expect_head();
    assert_eq!((head.status(), text(slow.body(&head)).as_str()), (200, "abc []"));
    wait_until("all have ended", || device.in_flight() == 0.0);
    let behind = asked(&device, "/echo/sleep");
    wait_until("it runs", || device.in_flight() == 1.0);
    let queue =
        device.counted("lighter_device_queue_seconds", &[]) * device.counted("lighter_device_slots", &[]);
    assert!(queue > 0.0 && queue < PAUSE.as_secs_f64() / 4.0, "{queue}");
    drop(behind);
    let mut peer = Peer::connect(device.at);
    let head = "POST /echo/x HTTP/1.1\r\nHost: data\r\nX-Mine: yes\r\nContent-Length: 10\r\n\r\n";
    peer.send(head).send("one");
    let answer = peer.expect_head();
    assert_eq!((answer.status(), answer.get("x-own")), (201, Some("mine")));
    assert_eq!(answer.get("x-lighter-status"), None, "nobody speaks for the sidecar");
    // What was sent comes back before the rest is sent.
    assert_eq!(peer.bytes(8), b"3\r\none\r\n");
    peer.send("twothre");
    let Body::Whole(rest) = peer.body(&answer) else { panic!("a cut answer") };
    assert_eq!(rest, b"twothre");
    // Much of it, without a limit to what is sent.
    let much = "x".repeat(150_000);
    let request =
        format!("POST /echo/x HTTP/1.1\r\nHost: data\r\nContent-Length: {}\r\n\r\n{much}", much.len());
    assert_eq!(text(Peer::connect(device.at).exchange(request).1), much);
    let request =
        "GET /echo/x HTTP/1.1\r\nHost: data\r\nX-Mine: yes\r\nConnection: X-Other\r\nX-Other: 1\r\n\r\n";
    assert!(text(Peer::connect(device.at).exchange(request).1).ends_with(" /echo/x yes None\n"));
    // A body of unknown length passes, whatever the method; what sidecars say to each other does not.
    let request = "GET /echo/body HTTP/1.1\r\nHost: data\r\nX-Lighter-Mine: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let (head, body) = Peer::connect(device.at).exchange(request);
    assert_eq!((head.status(), text(body).as_str()), (200, "abcde []"));
    let head = Peer::connect(device.at)
        .exchange("DELETE /echo/x HTTP/1.1\r\nHost: data\r\nConnection: close\r\n\r\n")
        .0;
    assert_eq!(head.status(), 501, "what methods there are it says itself");

    // Its limits are those of every function.
    let more = "x".repeat(250_000);
    let request =
        format!("POST /echo/x HTTP/1.1\r\nHost: data\r\nContent-Length: {}\r\n\r\n{more}", more.len());
    let mut peer = Peer::connect(device.at);
    peer.try_send(request);
    let head = peer.expect_head();
    assert!(matches!(peer.body(&head), Body::Cut(_)));
    let (head, body) = device.get("/echo/sleep");
    assert_eq!((head.status(), head.get("x-lighter-status")), (504, Some("CS_IO_TIMEOUT")));
    assert!(text(body).contains("not done within 5s"));
    let left = asked(&device, "/echo/sleep");
    wait_until("it runs", || device.in_flight() == 1.0);
    drop(left);
    wait_until("it has ended", || device.in_flight() == 0.0);
    let ended = |status| of_echo(&device, "lighter_device_runs_total", &[("status", status)]);
    wait_until("all are counted", || {
        ["CS_OUT_OF_RESOURCES", "CS_IO_TIMEOUT"].map(ended) == [1.0, 1.0] && ended("CS_SUCCESS") == 6.0
    });
    assert!(device.counted("lighter_device_result_bytes_total", &[("function", "echo")]) >= 150_000.0);
    Ok(())
}

fn dies() -> Result<(), String> {
    let device = device("", ", limits: {runs: 2}")?;
    let first = pid(&text(device.get("/echo/a").1));
    // One that is in the middle of something learns why, and so does the one that it was about.
    let mut other = asked(&device, "/echo/sleep");
    wait_until("it runs", || device.in_flight() == 1.0);
    let (head, body) = device.get("/echo/die");
    assert_eq!((head.status(), head.get("x-lighter-status")), (500, Some("CS_ERROR_IN_EXECUTION")));
    let why = text(body);
    assert!(why.contains("it was ended by signal 9 before its answer was whole"), "{why}");
    let head = other.expect_head();
    assert_eq!(head.status(), 500);
    assert!(text(other.body(&head)).contains("it was ended by signal 9"));
    wait_until("that is counted", || of_echo(&device, "lighter_device_exits_total", &[]) == 1.0);
    wait_until("it is there again, though nobody asks", || {
        of_echo(&device, "lighter_device_function_active", &[]) == 1.0
    });
    let second = text(device.get("/echo/a").1);
    assert_ne!(pid(&second), first);
    assert_eq!(of_echo(&device, "lighter_device_activations_total", &[("by", "self")]), 2.0);

    // Half an answer never looks whole, even where nothing but the end of its connection says where it ends.
    for (exits, half) in [(2.0, "/echo/half"), (3.0, "/echo/half/unsized")] {
        let (head, body) = device.get(half);
        assert_eq!(head.status(), 200);
        assert!(matches!(body, Body::Cut(_)), "{half}");
        wait_until("that is counted too", || of_echo(&device, "lighter_device_exits_total", &[]) == exits);
        wait_until("it is there again", || of_echo(&device, "lighter_device_function_active", &[]) == 1.0);
    }
    // A sidecar that is killed leaves nothing behind.
    wait_until("it is there again", || of_echo(&device, "lighter_device_function_active", &[]) == 1.0);
    let third = pid(&text(device.get("/echo/a").1));
    device.sidecar.program.signal(Signal::KILL);
    wait_until("it is gone", || test_kill_process(third).is_err());
    Ok(())
}

fn no_start() -> Result<(), String> {
    // It is never ready.
    let device = device(", startTimeout: 500ms, probe: {http: /echo/sleep}, stopTimeout: 100ms", "")?;
    let (head, body) = device.get("/echo/a");
    assert_eq!((head.status(), head.cause()), (503, Some("inactive")));
    assert!(text(body).contains("cannot be made active"));
    assert_eq!(programs(&device), 0, "it does not stay");
    let said = device.sidecar.program.said();
    assert!(said.contains("it was not ready on port"), "{said}");
    let (head, _) = device.get("/echo/a");
    assert_eq!((head.status(), programs(&device)), (503, 0), "nor is it tried over and over");
    assert_eq!(of_echo(&device, "lighter_device_waits_total", &[("outcome", "failed")]), 2.0);
    assert_eq!(text(device.get("/scan/a").1), "x\n1\n", "others do not mind");
    Ok(())
}

fn file_alone() -> Result<(), String> {
    let device = device("", "")?;
    // Nothing that a caller says is more than the name of a function.
    for target in ["/sh/-c?exec=true", "/..%2Fecho/a", "/echo%00/a", "//bin/true"] {
        let (head, _) = device.get(target);
        assert_eq!(head.status(), 404, "{target}");
    }
    let (head, _) = Peer::connect(device.at).exchange(
        "POST /exec/a HTTP/1.1\r\nHost: data\r\nContent-Length: 22\r\n\r\n{\"exec\": [\"/bin/true\"]}",
    );
    assert_eq!((head.status(), programs(&device)), (404, 0));
    // No operator's word is either, nor what resources say.
    for function in ["sh", "%2Fbin%2Ftrue", "echo2"] {
        let target = format!("/device/activate?function={function}");
        assert_eq!(ask(device.sidecar.admin, "POST", &target).0, 404, "{function}");
    }
    let before = device.counted("lighter_config_loads_total", &[("outcome", "rejected")]);
    device.sidecar.apply(
        "apiVersion: mesh.lighter.dev/v1\nkind: Function\nmetadata: {name: echo}\nspec: {state: stateless, exec: [/bin/true]}\n",
    );
    assert_eq!(ask(device.sidecar.admin, "POST", "/reload").0 / 100, 2);
    wait_until("that is refused", || {
        device.counted("lighter_config_loads_total", &[("outcome", "rejected")]) > before
    });
    assert!(device.sidecar.program.said().contains("unknown field `exec`"));
    assert_eq!(programs(&device), 0);
    let pid = pid(&text(device.get("/echo/a").1));
    let _ = kill_process(pid, Signal::KILL);
    Ok(())
}
