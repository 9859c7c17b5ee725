//! The paths through a whole sidecar, with routing, balancing and metrics.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Case, callgrind, load};

pub fn cases() -> Vec<Case> {
    let case = |name, unit, count, limit, protocol, upstream: fn() -> u16, drive: fn(u16, u64)| Case {
        name,
        unit,
        count,
        steady: !matches!(name, "http1-64k" | "tcp"),
        limit,
        run: Box::new(move |file, count| {
            through_sidecar(file, protocol, upstream(), |port| drive(port, count))
        }),
    };
    vec![
        // As a sidecar lives, and as `peers` measures: 64 connections, so that one turn of the runtime (one `epoll_wait`)
        // serves many of them. This is the case with the limit.
        case(
            "http1-small",
            "request",
            64 * 40,
            Some(9_000.0),
            "http",
            || load::http1_upstream(128),
            |port, count| load::http1(port, 128, 64, count),
        ),
        // One request at a time, with two turns of the runtime to itself.
        case(
            "http1-alone",
            "request",
            1000,
            None,
            "http",
            || load::http1_upstream(128),
            |port, count| load::http1(port, 128, 1, count),
        ),
        case(
            "http1-64k",
            "request",
            500,
            None,
            "http",
            || load::http1_upstream(64 * 1024),
            |port, count| load::http1(port, 64 * 1024, 1, count),
        ),
        case("http2-grpc", "call", 500, None, "grpc", load::grpc_upstream, load::grpc),
        case("tcp", "MiB", 200, None, "tcp", load::tcp_upstream, load::tcp),
    ]
}

fn through_sidecar(file: &Path, protocol: &str, upstream: u16, drive: impl FnOnce(u16)) {
    let folder = tempfile::tempdir().unwrap();
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [port, admin] = held.each_ref().map(|listener| listener.local_addr().unwrap().port());
    drop(held);
    let resources = folder.path().join("resources.yaml");
    std::fs::write(
        &resources,
        format!(
            "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: bench}}\nspec:\n  \
             ports: [{{name: main, port: 80, targetPort: {upstream}, appProtocol: {protocol}}}]\n  \
             endpoints: [{{address: 127.0.0.1}}]\n"
        ),
    )
    .unwrap();
    let config = folder.path().join("sidecar.yaml");
    std::fs::write(
        &config,
        format!(
            "resources: [{}]\nworkers: 1\nadmin: 127.0.0.1:{admin}\n\
             listeners: [{{listen: '127.0.0.1:{port}', service: bench, port: 80}}]\n",
            resources.display()
        ),
    )
    .unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut sidecar = callgrind(file, env!("CARGO_BIN_EXE_lighter"))
        .args(["proxy", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(sidecar.try_wait().unwrap().is_none(), "the sidecar ended at its start:\n{}", said());
        assert!(start.elapsed() < Duration::from_secs(60), "the sidecar does not listen:\n{}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
    drive(port);
    kill_process(Pid::from_child(&sidecar), Signal::TERM).unwrap();
    sidecar.wait().unwrap();
}
