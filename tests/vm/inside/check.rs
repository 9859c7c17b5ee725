//! `lighter check` in the machine: with the device, and with each thing missing that may be.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use lighter_verbs::{Context, Event};
use serde_json::Value;

use super::DEVICE;
use super::side::{block_on, hears};
use crate::support::wait_until;

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("check_finds_the_device_and_its_address", check_finds_the_device_and_its_address),
        ("check_says_that_the_device_may_not_be_opened", check_says_that_the_device_may_not_be_opened),
        ("check_says_that_too_little_memory_may_be_locked", check_says_that_too_little_memory_may_be_locked),
        ("check_says_that_the_port_is_down", check_says_that_the_port_is_down),
        ("check_says_that_the_device_is_gone", check_says_that_the_device_is_gone),
        ("check_ends_where_the_loopback_is_down", check_ends_where_the_loopback_is_down),
    ]
}

fn check_finds_the_device_and_its_address() {
    let found = rdma(Command::new("lighter").args(["check", "--json"]));
    assert_eq!(found["ok"], true, "{found}");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.starts_with("rxe0 (") && detail.contains("127.0.0.1"), "{detail}");
}

fn check_says_that_the_device_may_not_be_opened() {
    let files: Vec<_> =
        std::fs::read_dir("/dev/infiniband").unwrap().map(|file| file.unwrap().path()).collect();
    let allow = |mode| {
        files
            .iter()
            .for_each(|file| std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap());
    };
    allow(0o600);
    let detail = missing(Command::new("lighter").args(["check", "--json"]).uid(NOBODY));
    allow(0o666);
    assert_eq!(detail, "no permission to open the RDMA device rxe0");
}

fn check_says_that_too_little_memory_may_be_locked() {
    let script = "ulimit -l 64; exec lighter check --json";
    let detail = missing(Command::new("busybox").args(["sh", "-c", script]).uid(NOBODY));
    assert_eq!(detail, "RLIMIT_MEMLOCK is 65536 bytes, too small to register 1048576 bytes");
    // Enough for one is enough.
    let script = "ulimit -l 2048; exec lighter check --json";
    let found = rdma(Command::new("busybox").args(["sh", "-c", script]).uid(NOBODY));
    assert_eq!(found["ok"], true, "{found}");
}

/// On a cable of its own: without the loopback a machine does nothing.
fn check_says_that_the_port_is_down() {
    run("rdma", &["link", "del", DEVICE]);
    run("ip", &["link", "add", "near", "type", "veth", "peer", "name", "far"]);
    run("ip", &["address", "add", "198.18.0.1/24", "dev", "near"]);
    run("ip", &["link", "set", "far", "up"]);
    run("ip", &["link", "set", "near", "up"]);
    run("rdma", &["link", "add", "rxe1", "type", "rxe", "netdev", "near"]);
    finds_soon("rxe1", "198.18.0.1");
    block_on(async {
        let context = Context::open("rxe1").unwrap();
        run("ip", &["link", "set", "near", "down"]);
        hears(&context, Event::PortDown).await;
        let detail = missing(Command::new("lighter").args(["check", "--json"]));
        assert_eq!(detail, "the port of the RDMA device rxe1 is down");
        run("ip", &["link", "set", "near", "up"]);
        hears(&context, Event::PortActive).await;
    });
    finds_soon("rxe1", "198.18.0.1");
    run("rdma", &["link", "del", "rxe1"]);
    run("ip", &["link", "del", "near"]);
    add_device();
}

fn check_says_that_the_device_is_gone() {
    run("rdma", &["link", "del", DEVICE]);
    let detail = missing(Command::new("lighter").args(["check", "--json"]));
    assert_eq!(detail, "there is no RDMA device");
    add_device();
}

/// Brings back what a test took away.
pub fn add_device() {
    run("rdma", &["link", "add", DEVICE, "type", "rxe", "netdev", "lo"]);
    finds_soon(DEVICE, "127.0.0.1");
}

/// A device has its addresses a moment after it has its link.
fn finds_soon(device: &str, address: &str) {
    wait_until("check finds the device and its address", || {
        let found = rdma(Command::new("lighter").args(["check", "--json"]));
        let detail = found["detail"].as_str().unwrap();
        found["ok"] == true && detail.starts_with(&format!("{device} (")) && detail.contains(address)
    });
}

fn check_ends_where_the_loopback_is_down() {
    let find = || {
        let mut command = Command::new("busybox");
        found(command.args(["timeout", "60", "lighter", "check", "--json"]), "splice")
    };
    run("ip", &["link", "set", "lo", "down"]);
    let without = find();
    run("ip", &["link", "set", "lo", "up"]);
    finds_soon(DEVICE, "127.0.0.1");
    assert_eq!(without["ok"], false, "{without}");
    let with = find();
    assert_eq!(with["ok"], true, "{with}");
}

/// What `lighter check` found of RDMA.
fn rdma(command: &mut Command) -> Value {
    found(command, "RDMA")
}

/// What `lighter check` found of one thing.
fn found(command: &mut Command, name: &str) -> Value {
    let output = command.output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {} {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let all = found["machine"].as_array().unwrap();
    all.iter().find(|finding| finding["name"] == name).unwrap().clone()
}

/// Why RDMA cannot be used.
fn missing(command: &mut Command) -> String {
    let found = rdma(command);
    assert_eq!((&found["ok"], found["fix"].is_string()), (&Value::Bool(false), true), "{found}");
    found["detail"].as_str().unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

const NOBODY: u32 = 65534;
