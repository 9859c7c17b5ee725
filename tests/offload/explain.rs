//! Why requests went where they did.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;

use crate::support::sidecar::LIGHTER;
use crate::support::{metrics, test};
use crate::world::{Does, SCAN, Said, Server, World, said};

pub fn tests() -> Vec<Trial> {
    vec![
        test("explain::a_decision_is_told_in_words", in_words),
        test("explain::a_log_is_made_again_and_one_that_was_changed_is_found", made_again),
        test("explain::only_what_is_asked_for_is_told", asked_for),
    ]
}

fn lighter(args: &[&str]) -> Output {
    Command::new(LIGHTER).args(args).output().unwrap()
}

fn text(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).unwrap()
}

fn world() -> (Server, Server, World) {
    let (host, device) = (Server::start("host", Does::After(30)), Server::start("device", Does::After(0)));
    let world = World::start(host.address(), device.address(), &SCAN);
    (host, device, world)
}

fn in_words() {
    let (host, device, world) = world();
    world.until("device", 20);
    let admin = world.sidecar.admin.to_string();
    let out = lighter(&["explain", "--admin", &admin]);
    assert!(out.status.success(), "{out:?}");
    let told = text(&out);
    let first = told.lines().next().unwrap();
    assert!(first.starts_with("default/orders:80 default/orders/scan → default/csd: "), "{told}");
    let line = |name: &str| told.lines().find(|line| line.starts_with(&format!("  {name}: "))).unwrap();
    assert!(line("host").contains(" ms expected = "), "{told}");
    assert!(line("default/csd").contains(" answers; "), "{told}");
    assert!(
        first.contains("; the host is asked after ") && first.ends_with(" ms without an answer"),
        "{told}"
    );

    let said = Said { device: "datasets: [{name: orders, version: '8'}]", ..SCAN };
    world.sidecar.apply(&crate::world::resources("http", host.address(), device.address(), &said));
    world.until("host", 40);
    let told = text(&lighter(&["explain", "--admin", &admin]));
    assert!(told.contains("→ host: no device may run it\n"), "{told}");
    assert!(told.contains("  default/csd: not asked: it holds the data at another version"), "{told}");
}

fn made_again() {
    let (_host, device, world) = world();
    world.until("device", 20);
    device.set(Does::Status(500));
    world.until("host", 20);
    let admin = world.sidecar.admin.to_string();
    let log = text(&lighter(&["explain", "--admin", &admin, "--last", "1000", "--json"]));
    let lines = log.lines().count();
    assert!(lines >= 41, "{lines}");
    assert!(log.contains("\"reason\":\"failed\"") && log.contains("\"reason\":\"cheapest\""));

    let file = world.sidecar.path("log");
    std::fs::write(&file, &log).unwrap();
    let out = lighter(&["explain", "--check", file.to_str().unwrap()]);
    assert_eq!(text(&out), format!("{lines} decisions are made again as they were, 0 are not\n"));
    assert!(out.status.success());

    // Whoever says that it was decided otherwise is found out.
    let other = log.replacen("\"decision\":{\"place\":1", "\"decision\":{\"place\":0", 1);
    assert_ne!(other, log);
    let mut child = Command::new(LIGHTER)
        .args(["explain", "--check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(other.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(
        text(&out).ends_with(&format!("{} decisions are made again as they were, 1 are not\n", lines - 1))
    );

    // How long a device was waited for is part of it.
    let other = log.replacen("\"timeout_seconds\":7.5}", "\"timeout_seconds\":7.25}", 1);
    assert_ne!(other, log);
    std::fs::write(&file, &other).unwrap();
    let out = lighter(&["explain", "--check", file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(text(&out).contains(" are made again as they were, 1 are not\n"), "{out:?}");

    // What is no log says where it is not.
    std::fs::write(&file, "").unwrap();
    assert_eq!(lighter(&["explain", "--check", file.to_str().unwrap()]).status.code(), Some(1));
    std::fs::write(&file, format!("{}\nno\n", log.lines().next().unwrap())).unwrap();
    let out = lighter(&["explain", "--check", file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("line 2 of"), "{out:?}");
}

fn asked_for() {
    let (_host, _device, world) = world();
    let admin = world.sidecar.admin;
    assert_eq!(metrics::get(admin, "/decisions"), (200, String::new()));
    for _ in 0..5 {
        said(world.get("/scan"));
        said(world.get("/other"));
    }
    let lines = |path: &str| metrics::get(admin, path).1.lines().count();
    assert_eq!(lines("/decisions"), 5);
    assert_eq!(lines("/decisions?last=3"), 3);
    assert_eq!(lines("/decisions?route=default/orders/scan"), 5);
    assert_eq!(lines("/decisions?route=default/orders/other"), 0);
    assert_eq!(metrics::get(admin, "/decisions?last=x").0, 400);
    assert_eq!(metrics::ask(admin, "POST", "/decisions").0, 405);
    let dump: serde_json::Value = serde_json::from_str(&metrics::get(admin, "/config_dump").1).unwrap();
    let policy = "\"policy\":\"default/scans\"";
    assert_eq!(dump.to_string().matches(policy).count(), 1, "of one rule: {dump:#}");
    // Nobody there.
    let out = lighter(&["explain", "--admin", "127.0.0.1:9"]);
    assert_eq!(out.status.code(), Some(1));
}
