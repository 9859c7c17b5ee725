//! Reload and drain, as clients see them.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::*;
use lighter_config::snapshot::Protocol;

fn start(resources: &str) -> Sidecar {
    Sidecar::start(resources, |config| config.listeners = vec![listener("svc", Protocol::Auto)])
}

#[test]
fn reload_keeps_connections() {
    let (old, new) = (echo_bytes(b'o'), echo_bytes(b'n'));
    let sidecar = start(&service("svc", &[old], "appProtocol: tcp"));
    let mut kept = sidecar.connect(0);
    assert_eq!(ask(&mut kept).unwrap(), b'o');
    sidecar.replace(&service("svc", &[new], "appProtocol: tcp"));
    eventually("new connections go to the new endpoint", || ask(&mut sidecar.connect(0)).unwrap() == b'n');
    assert_eq!(ask(&mut kept).unwrap(), b'o');
}

#[test]
fn every_way_to_change_a_file_is_noticed() {
    let first = echo_bytes(b'0');
    let sidecar = start(&service("svc", &[first], "appProtocol: tcp"));
    let file = sidecar.file();
    let resources = |tag: u8| service("svc", &[echo_bytes(tag)], "appProtocol: tcp");
    let sees = |tag: u8| {
        eventually("the change is in force", || ask(&mut sidecar.connect(0)).unwrap() == tag);
    };
    // In place.
    std::fs::write(&file, resources(b'1')).unwrap();
    sees(b'1');
    // As some editors do: the old file is moved away, a new one made.
    std::fs::rename(&file, file.with_extension("bak")).unwrap();
    std::fs::write(&file, resources(b'2')).unwrap();
    sees(b'2');
    // As a ConfigMap: the file becomes a link through a link, and that one is turned.
    let folder = file.parent().unwrap();
    for (version, tag) in [("v3", b'3'), ("v4", b'4')] {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("mesh.yaml"), resources(tag)).unwrap();
        std::os::unix::fs::symlink(version, folder.join("..tmp")).unwrap();
        std::fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        if tag == b'3' {
            std::os::unix::fs::symlink("..data/mesh.yaml", folder.join("link")).unwrap();
            std::fs::rename(folder.join("link"), &file).unwrap();
        }
        sees(tag);
    }
}

#[test]
fn a_faulty_file_changes_nothing_and_is_counted() {
    let sidecar = start(&service("svc", &[echo_bytes(b'o')], "appProtocol: tcp"));
    let rejected = |metrics: &str| -> f64 {
        let line =
            metrics.lines().find(|line| line.contains("config") && line.contains("outcome=\"rejected\""));
        line.and_then(|line| line.rsplit_once(' ')).map_or(0.0, |(_, count)| count.parse().unwrap())
    };
    let before = rejected(&sidecar.admin("GET", "/metrics"));
    sidecar.replace(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: svc}\nspec: {prots: []}\n",
    );
    eventually("the fault is counted", || rejected(&sidecar.admin("GET", "/metrics")) > before);
    assert_eq!(ask(&mut sidecar.connect(0)).unwrap(), b'o');
    sidecar.replace(&service("svc", &[echo_bytes(b'n')], "appProtocol: tcp"));
    eventually("a sound file is taken again", || ask(&mut sidecar.connect(0)).unwrap() == b'n');
}

#[test]
fn nothing_at_all_is_put_in_force_only_when_asked_for() {
    let sidecar = start(&service("svc", &[echo_bytes(b'o')], "appProtocol: tcp"));
    let loads = |outcome: &str| -> f64 {
        let metrics = sidecar.admin("GET", "/metrics");
        let sample = format!("lighter_config_loads_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&sample));
        line.map_or(0.0, |count| count.trim().parse().unwrap())
    };
    let (rejected, applied) = (loads("rejected"), loads("applied"));
    // As an editor does that empties the file before it writes.
    std::fs::write(sidecar.file(), "").unwrap();
    eventually("it is refused", || loads("rejected") > rejected);
    assert_eq!(ask(&mut sidecar.connect(0)).unwrap(), b'o');
    assert!(sidecar.admin("POST", "/reload").starts_with("HTTP/1.1 200"));
    eventually("it is meant", || loads("applied") > applied);
    eventually("there is no Service", || !matches!(ask(&mut sidecar.connect(0)), Ok(b'o')));
}

#[test]
fn a_sidecar_does_not_start_with_faulty_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, "kind: Nonsense\n").unwrap();
    let output = run_binary(folder.path(), &format!("resources: [a.yaml]\nadmin: {}\n", free_address()))
        .wait_with_output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a.yaml:1"), "{said}");
}

#[test]
fn drain_finishes_what_runs_and_closes_the_door() {
    let mut sidecar = start(&service("svc", &[echo_bytes(b'o')], "appProtocol: tcp"));
    let mut kept = sidecar.connect(0);
    assert_eq!(ask(&mut kept).unwrap(), b'o');
    sidecar.drain();
    let address = sidecar.config.listeners[0].listen;
    eventually("the door is closed", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    // What runs is carried to its own end.
    assert_eq!(ask(&mut kept).unwrap(), b'o');
    drop(kept);
    assert_eq!(sidecar.end().cut.total(), 0);
}

#[test]
fn the_drain_deadline_cuts_with_a_reset_and_says_so() {
    let resources = service("svc", &[echo_bytes(b'o')], "appProtocol: tcp");
    let sidecar = Sidecar::start(&resources, |config| {
        config.listeners = vec![listener("svc", Protocol::Auto)];
        config.drain_deadline = Duration::from_millis(300);
    });
    let mut kept = sidecar.connect(0);
    assert_eq!(ask(&mut kept).unwrap(), b'o');
    assert_eq!(sidecar.end().cut.total(), 1);
    assert_eq!(kept.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn sigterm_drains_the_process_and_sighup_reloads() {
    let folder = tempfile::tempdir().unwrap();
    let (listen, admin) = (free_address(), free_address());
    std::fs::write(folder.path().join("a.yaml"), service("svc", &[echo_bytes(b'o')], "appProtocol: tcp"))
        .unwrap();
    let child = run_binary(
        folder.path(),
        &format!(
            "resources: [a.yaml]\nadmin: {admin}\nlisteners: [{{listen: \"{listen}\", service: svc}}]\n\
             drainDeadline: 10s\n"
        ),
    );
    eventually("it listens", || TcpStream::connect(listen).is_ok());
    let mut kept = dial(listen);
    assert_eq!(ask(&mut kept).unwrap(), b'o');
    let signal = |signal| {
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
    };
    signal(rustix::process::Signal::HUP);
    assert_eq!(ask(&mut kept).unwrap(), b'o');
    signal(rustix::process::Signal::TERM);
    eventually("the door is closed", || TcpStream::connect(listen).is_err());
    assert_eq!(ask(&mut kept).unwrap(), b'o');
    kept.flush().unwrap();
    drop(kept);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

fn run_binary(folder: &std::path::Path, config: &str) -> std::process::Child {
    let file = folder.join("sidecar.yaml");
    std::fs::write(&file, config).unwrap();
    std::process::Command::new(env!("CARGO_BIN_EXE_lighter-proxy"))
        .arg("--config")
        .arg(file)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}
