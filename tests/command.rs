//! The `lighter` command as a person or a script meets it: what it prints and how it ends.

#![allow(clippy::unwrap_used)] // A test may.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn lighter(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_lighter")).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("lighter {arguments:?}: {error}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The sidecar alone is one thing under two names: what `lighter-proxy` can be told, `lighter proxy` can.
#[test]
fn the_sidecar_alone_logs_as_it_is_told_and_drains() {
    let (folder, path) = file("admin: 127.0.0.1:0\n");
    assert_eq!(status(&lighter(&["proxy", "--config", path.to_str().unwrap()])), 1, "0 is no port");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(&path, format!("admin: 127.0.0.1:{port}\nworkers: 1\n")).unwrap();
    let log = folder.path().join("log");
    let mut sidecar = Command::new(env!("CARGO_BIN_EXE_lighter"))
        .args(["proxy", "--log", "lighter_proxy=info", "--log-json", "--config"])
        .arg(&path)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    while !said().contains("ready") {
        assert!(sidecar.try_wait().unwrap().is_none(), "{}", said());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&sidecar);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(sidecar.wait().unwrap().code(), Some(0), "{}", said());
    for line in said().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line.is_object(), "{line}");
    }
    let faulty = lighter(&["proxy", "--log", "lighter_proxy=loud", "--config", path.to_str().unwrap()]);
    assert_eq!(status(&faulty), 2);
    assert!(String::from_utf8_lossy(&faulty.stderr).contains("--log"), "{faulty:?}");
}

/// A folder with one file.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn check(path: &Path, more: &[&str]) -> Output {
    lighter(&[&["check", "-f", path.to_str().unwrap()], more].concat())
}

const GOOD: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: reviews}
spec:
  ports: [{name: http, port: 80, targetPort: 9080, appProtocol: http}]
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{group: \"\", kind: Service, name: reviews, port: 80}]
  rules:
  - backendRefs: [{name: reviews, port: 80}]
";

#[test]
fn the_exit_status_says_how_it_went() {
    assert_eq!(status(&lighter(&["--help"])), 0);
    assert_eq!(status(&lighter(&["version"])), 0);
    for misunderstood in [&["no-such-command"][..], &["version", "--no-such-option"], &[]] {
        let output = lighter(misunderstood);
        assert_eq!(status(&output), 2, "{misunderstood:?}");
        assert!(!output.stderr.is_empty(), "{misunderstood:?}");
    }
}

#[test]
fn hidden_commands_are_not_shown() {
    let help = stdout(&lighter(&["--help"]));
    assert!(help.contains("  check "), "{help}");
    assert!(!help.contains("__"), "{help}");
}

#[test]
fn version_says_what_was_built() {
    let output = lighter(&["version", "--json"]);
    let version: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["target"].as_str().unwrap().contains("linux"), "{version}");
    assert!(!version["allocator"].as_str().unwrap().is_empty(), "{version}");
    let text = stdout(&lighter(&["version"]));
    assert!(text.contains(version["target"].as_str().unwrap()), "{text}");
}

#[test]
fn completions_know_every_command_in_every_common_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = lighter(&["completions", shell]);
        assert_eq!(status(&output), 0, "{shell}");
        let script = stdout(&output);
        for command in ["proxy", "run", "demo", "simulate", "check", "schema", "version", "completions"] {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
        for hidden in ["__serve", "__try-out"] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
    }
    assert_eq!(status(&lighter(&["completions", "no-such-shell"])), 2);
}

#[test]
fn every_kind_has_a_schema_that_is_json() {
    let list = stdout(&lighter(&["schema"]));
    let kinds: Vec<_> = list.lines().collect();
    assert!(kinds.contains(&"Service") && kinds.contains(&"HTTPRoute"), "{list}");
    for kind in kinds {
        let output = lighter(&["schema", kind]);
        assert_eq!(status(&output), 0, "{kind}");
        let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(schema["properties"].is_object(), "{kind}: {schema}");
    }
}

#[test]
fn a_kind_that_is_nearly_right_is_guessed_and_one_that_is_not_is_answered_with_the_list() {
    let near = lighter(&["schema", "httproute"]);
    assert_eq!(status(&near), 0, "case does not matter");
    let wrong = lighter(&["schema", "Servise"]);
    assert_eq!(status(&wrong), 2);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("Service"), "{wrong:?}");
}

#[test]
fn a_good_file_is_said_to_be_good() {
    let (_folder, path) = file(GOOD);
    let output = check(&path, &[]);
    assert_eq!(status(&output), 0, "{output:?}");
    assert!(stdout(&output).contains("2 resources"), "{output:?}");
}

#[test]
fn every_fault_is_named_with_its_line_its_field_and_a_hint() {
    let bad = GOOD
        .replace("port: 80, targetPort", "prot: 80, targetPort")
        .replace("kind: HTTPRoute", "kind: HTTPRout");
    let (_folder, path) = file(&bad);
    let output = check(&path, &[]);
    assert_eq!(status(&output), 1);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&format!("{}:5:", path.display())), "{text}");
    assert!(text.contains("spec.ports[0]") && text.contains("prot"), "{text}");
    assert!(text.contains(&format!("{}:9:", path.display())), "{text}");
    assert!(text.contains("did you mean `HTTPRoute`?"), "{text}");

    let output = check(&path, &["--json"]);
    assert_eq!(status(&output), 1);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["ok"], false);
    let errors = found["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{found}");
    assert_eq!((&errors[0]["line"], &errors[1]["line"]), (&5.into(), &9.into()), "{found}");
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let output = check(Path::new("/nonexistent/mesh.yaml"), &[]);
    assert_eq!(status(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/mesh.yaml"), "{output:?}");
}

#[test]
fn what_comes_through_a_pipe_is_checked_beside_files() {
    let (service, route) = GOOD.split_once("---\n").unwrap();
    let (_folder, path) = file(service);
    let piped = |text: &str, name: &str| {
        let mut lighter = Command::new(env!("CARGO_BIN_EXE_lighter"))
            .args(["check", "-f", path.to_str().unwrap(), name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        lighter.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        lighter.wait_with_output().unwrap()
    };
    for name in ["-", "/dev/stdin"] {
        let output = piped(route, name);
        assert_eq!(status(&output), 0, "{output:?}");
        assert!(stdout(&output).contains("2 resources"), "{output:?}");

        let output = piped(&route.replace("kind: HTTPRoute", "kind: HTTPRout"), name);
        assert_eq!(status(&output), 1);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&format!("{name}:2:")) && text.contains("kind: HTTPRout"), "{text}");
    }
    let output = piped("service: reviews\n", "-");
    assert!(status(&output) == 0 && stdout(&output).contains("1 sidecar file"), "{output:?}");
}

#[test]
fn a_sidecars_own_file_is_known_by_its_shape() {
    let (_folder, path) = file("service: reviews\nadmin: 127.0.0.1:15000\n");
    assert_eq!(status(&check(&path, &[])), 0);
    let (_folder, path) = file("service: reviews\nadmni: 127.0.0.1:15000\n");
    let output = check(&path, &[]);
    assert_eq!(status(&output), 1);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(":2:1") && text.contains("admni"), "{text}");
}

#[test]
fn the_machine_is_checked_when_no_file_is_named() {
    let output = lighter(&["check", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let machine = found["machine"].as_array().unwrap();
    let names: Vec<_> = machine.iter().map(|finding| finding["name"].as_str().unwrap()).collect();
    for name in
        ["kernel", "network namespaces", "user namespaces", "nf_tables", "splice", "descriptors", "RDMA"]
    {
        assert!(names.contains(&name), "{found}");
    }
    for finding in machine {
        assert_eq!(
            finding["ok"] == true,
            finding["fix"].is_null(),
            "what is missing says what to do: {finding}"
        );
    }
    let all = machine.iter().all(|finding| finding["ok"] == true || finding["needed"] == false);
    assert_eq!((found["ok"] == true, status(&output) == 0), (all, all), "{found}");
    let text = stdout(&lighter(&["check"]));
    let statuses = ["ok ", "missing ", "absent "];
    let lines = text.lines().filter(|line| statuses.iter().any(|status| line.starts_with(status)));
    assert_eq!(lines.count(), machine.len(), "{text}");
}

#[test]
fn a_machine_without_rdma_is_told_why_and_is_not_at_fault() {
    let output = lighter(&["check", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rdma = found["machine"].as_array().unwrap().iter().find(|finding| finding["name"] == "RDMA").unwrap();
    assert_eq!(rdma["needed"], false, "{found}");
    let devices = std::fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
    if devices == 0 {
        let detail = rdma["detail"].as_str().unwrap();
        let reasons = ["libibverbs cannot be loaded: libibverbs.so.1: ", "there is no RDMA device"];
        assert!(reasons.iter().any(|reason| detail.starts_with(reason)), "{detail}");
        assert_eq!(detail.lines().count(), 1, "{detail}");
        assert!(stdout(&lighter(&["check"])).contains("absent   RDMA: "));
    }
}
