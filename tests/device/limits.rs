//! What a device refuses, and what a run may take of it.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::device::{Data, get, text};
use crate::support::raw::{Body, Head, Peer};
use crate::support::{at_rest, http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("limits::a_run_too_many_is_refused_before_it_begins", too_many),
        test("limits::a_slow_reader_holds_little_memory", slow_reader),
        test("limits::a_reader_who_does_not_read_is_cut_at_the_deadline", never_reads),
        test("limits::a_reader_who_leaves_ends_the_run", leaves),
        test("limits::what_is_above_a_limit_is_told_or_cut", above),
        test("limits::a_fault_in_the_middle_never_looks_whole", cut),
        test("limits::who_may_not_call_runs_nothing", denied),
    ]
}

/// How the body of a result is framed, for one who has read its head.
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A megabyte that a medium of so many bytes a second gives slowly.
fn megabyte() -> String {
    "x\n".to_owned() + &"123456789\n".repeat(100_000)
}

fn too_many() {
    let more = ", limits: {runs: 1}, mediaBytesPerSecond: 200000";
    let device = Data::new().with_text("a.csv", megabyte()).with_text("b.csv", "x\n1\n").start(more, "");
    let mut first = Peer::connect(device.at);
    first.send(get("/checksum/a"));
    wait_until("it runs", || device.in_flight() == 1.0);
    let (head, body) = device.get("/scan/b");
    assert_eq!(head.status(), 503);
    assert_eq!((head.cause(), head.get("retry-after")), (Some("concurrency_limit"), Some("1")));
    assert!(text(body).starts_with("CS_DEVICE_NOT_AVAILABLE"));
    http2::run(async {
        let client = http2::connect(device.at).await;
        let answer = http2::get(&client, "/scan/b").await.unwrap();
        assert_eq!(answer.head.headers["x-lighter-error"], "concurrency_limit");
    });
    let refused = |cause| device.counted("lighter_device_refusals_total", &[("cause", cause)]);
    assert_eq!(refused("concurrency_limit"), 2.0);
    assert_eq!(device.counted("lighter_device_runs_total", &[]), 0.0, "what is refused does not run");
    // What the device says of itself takes no place.
    assert_eq!(device.get("/").0.status(), 200);
    drop(first);
    wait_until("its place is free", || device.in_flight() == 0.0);
    assert_eq!(text(device.get("/scan/b").1), "x\n1\n");
}

fn slow_reader() {
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
    let whole = line.repeat(48 << 10);
    let device = Data::new().with_text("a.jsonl", &whole).start(", limits: {memoryBytes: 2097152}", "");
    assert_eq!(device.get("/scan/a?limit=1").0.status(), 200);
    let before = device.sidecar.program.held();
    let mut reader = Peer::connect(device.at);
    reader.send(get("/scan/a"));
    assert_eq!(reader.expect_head().status(), 200);
    // It reads no more: all that is on its way comes to rest.
    let held = at_rest(Duration::from_millis(500), || device.sidecar.program.held());
    assert_eq!(device.in_flight(), 1.0);
    assert!(held < before + (8 << 10), "from {before} to {held} KiB");
    let head = Head::parse(CHUNKED);
    let Body::Whole(bytes) = reader.body(&head) else { panic!("a whole body") };
    assert!(bytes == whole.as_bytes(), "{} bytes of {}", bytes.len(), whole.len());
    assert_eq!(device.counted("lighter_device_runs_total", &[("status", "CS_SUCCESS")]), 2.0);
}

fn never_reads() {
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
    let device =
        Data::new().with_text("a.jsonl", line.repeat(48 << 10)).start(", limits: {deadline: 2s}", "");
    let mut reader = Peer::connect(device.at);
    reader.send(get("/scan/a"));
    assert_eq!(reader.expect_head().status(), 200);
    wait_until("its run has ended", || device.in_flight() == 0.0);
    assert_eq!(device.counted("lighter_device_runs_total", &[("status", "CS_IO_TIMEOUT")]), 1.0);
    let head = Head::parse(CHUNKED);
    assert!(matches!(reader.body(&head), Body::Cut(_)));
}

fn leaves() {
    let device = Data::new().with_text("a.csv", megabyte()).start(", mediaBytesPerSecond: 50000", "");
    let mut reader = Peer::connect(device.at);
    // It would give nothing for twenty seconds.
    reader.send(get("/filter/a?where=x%3D0"));
    wait_until("it runs", || device.in_flight() == 1.0);
    drop(reader);
    wait_until("it has ended", || device.in_flight() == 0.0);
    assert_eq!(device.counted("lighter_device_runs_total", &[("status", "CS_NOT_DONE")]), 1.0);
    assert!(device.counted("lighter_device_read_bytes_total", &[]) < 500_000.0);
}

fn above() {
    let data = || {
        Data::new().with_text("a.csv", megabyte()).with_text("b.csv", format!("x\n{}\n", "y".repeat(3 << 20)))
    };
    let device = data().start(", limits: {memoryBytes: 1048576, resultRows: 100, resultBytes: 50000}", "");
    // Nothing has gone out yet: the status says it.
    for (target, status, name) in [
        ("/scan/a?where=x%3E0", 422, "CS_OUT_OF_RESOURCES"),
        ("/aggregate/a?compute=count&by=x", 200, ""),
        ("/scan/b", 507, "CS_NOT_ENOUGH_MEMORY"),
    ] {
        let (head, _) = device.get(target);
        assert_eq!(
            (head.status(), head.get("x-lighter-status").unwrap_or_default()),
            (status, name),
            "{target}"
        );
    }
    let device = data().start(", limits: {deadline: 300ms}, mediaBytesPerSecond: 100000", "");
    let (head, _) = device.get("/checksum/a");
    assert_eq!((head.status(), head.get("x-lighter-status")), (504, Some("CS_IO_TIMEOUT")));
    // Something has: the answer ends before its end.
    let device = data().start(", limits: {resultBytes: 500000}", "");
    let (head, body) = device.get("/scan/a");
    assert_eq!(head.status(), 200);
    assert!(matches!(body, Body::Cut(bytes) if bytes.len() <= 500_000));
    assert_eq!(device.counted("lighter_device_runs_total", &[("status", "CS_OUT_OF_RESOURCES")]), 1.0);
}

fn cut() {
    let text = "x\n".to_owned() + &"1\n".repeat(100_000) + "1,2\n";
    let device = Data::new().with_text("a.csv", text).start("", "");
    let (head, body) = device.get("/scan/a");
    assert_eq!(head.status(), 200);
    assert!(matches!(body, Body::Cut(_)));
    http2::run(async {
        let client = http2::connect(device.at).await;
        let answer = http2::get(&client, "/scan/a").await.unwrap();
        assert!(answer.cut.is_some());
    });
    let runs = device.counted("lighter_device_runs_total", &[("status", "CS_ERROR_IN_EXECUTION")]);
    assert_eq!(runs, 2.0);
}

/// A device is a service like any other.
fn denied() {
    let policy = "apiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {name: scans-only}\nspec: \
                  {targetRefs: [{kind: Service, name: data}], rules: [{to: [{paths: ['/scan/*']}]}]}\n";
    let device = Data::new().with_text("a.csv", "x\n1\n").start_with(policy, "", "");
    assert_eq!(device.get("/scan/a").0.status(), 200);
    let (head, _) = device.get("/checksum/a");
    assert_eq!((head.status(), head.cause()), (403, Some("denied")));
    assert_eq!(device.counted("lighter_device_runs_total", &[]), 1.0);
    let inbound = [("direction", "inbound"), ("service", "default/data")];
    assert_eq!(device.counted("lighter_requests_total", &inbound), 2.0);
}
