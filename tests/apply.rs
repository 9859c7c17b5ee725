//! Operators and the control plane, both as they are started from a shell: what is pushed, shown, compared, removed,
//! kept and refused.

#![allow(clippy::unwrap_used)] // A test may.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[path = "support/mod.rs"]
mod support;

use support::process::free_port;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

const SHOP: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: reviews}
spec:
  ports:
  - port: 80
    appProtocol: http
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs:
  - {kind: Service, name: reviews}
  rules:
  - backendRefs:
    - {name: reviews, port: 80}
";

#[test]
fn what_is_applied_is_shown_compared_pruned_and_kept() {
    let world = World::new();
    let shop = world.file("shop.yaml", SHOP);
    let first = world.lighter(&["apply", "-f", &shop]);
    assert_eq!(first.said(), "Service default/reviews created\nHTTPRoute default/reviews created\n");
    assert_eq!(world.lighter(&["apply", "-f", &shop]).said().matches(" unchanged\n").count(), 2);
    assert_eq!(world.lighter(&["diff", "-f", &shop]).said(), "");

    // A difference is shown, and nothing is changed by it.
    let changed = world.file("shop.yaml", &SHOP.replace("- port: 80", "- port: 80\n    targetPort: 9080"));
    for _ in 0..2 {
        let diff = world.lighter(&["diff", "-f", &changed]);
        assert_eq!(diff.status, 1, "{diff:?}");
        assert!(diff.out.contains("+++ Service default/reviews (files)\n"), "{diff:?}");
        assert!(diff.out.contains("+    targetPort: 9080\n"), "{diff:?}");
    }
    let dry = world.lighter(&["apply", "--dry-run", "-f", &changed]).said();
    assert!(dry.contains("Service default/reviews configured (dry run)\n"), "{dry}");
    world.lighter(&["apply", "-f", &changed]).said();

    // What is shown can be read by people and programs, and pushed again.
    let table = world.lighter(&["get", "-o", "wide"]).said();
    let route = table.lines().find(|line| line.starts_with("HTTPRoute")).unwrap();
    for word in ["reviews", "True", "operator", "default"] {
        assert!(route.contains(word), "{table}");
    }
    let json: Value =
        serde_json::from_str(&world.lighter(&["get", "svc/reviews", "-o", "json"]).said()).unwrap();
    assert_eq!(json["spec"]["ports"][0]["targetPort"], 9080);
    assert_eq!(json["status"]["conditions"][0]["type"], "Accepted");
    let yaml = world.lighter(&["get", "-o", "yaml"]).said();
    let again = world.lighter_with(&["apply", "-f", "-"], &yaml).said();
    assert_eq!(again.matches(" unchanged\n").count(), 2, "{again}");

    // A restart keeps everything; a set loses what its files no longer have, and others lose nothing.
    let world = world.restarted();
    let other = world.file("other.yaml", &SHOP.replace("reviews", "ratings"));
    world.lighter(&["apply", "--set", "other", "-f", &other]).said();
    let only_service = world.file("shop.yaml", SHOP.split("---").next().unwrap());
    let pruned = world.lighter(&["apply", "--prune", "-f", &only_service]).said();
    assert_eq!(pruned, "Service default/reviews configured\nHTTPRoute default/reviews pruned\n");
    let names = world.lighter(&["get", "httproutes"]).said();
    assert!(names.contains("ratings") && !names.contains("reviews"), "{names}");

    // Every change is in the audit log, and nothing but changes.
    let audit = std::fs::read_to_string(world.folder.path().join("audit.log")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let generations: Vec<u64> = lines.iter().map(|line| line["generation"].as_u64().unwrap()).collect();
    assert_eq!(generations, [1, 2, 3, 4], "{audit}");
    assert_eq!(lines[3]["resources"][1]["change"], "pruned");
}

#[test]
fn an_operator_with_a_certificate_needs_no_token_and_is_named() {
    let world = World::new();
    let folder = world.folder.path();
    let state = folder.join("state").display().to_string();
    let ca = |arguments: &[&str]| {
        let output =
            Command::new(LIGHTER).arg("ca").args(arguments).args(["--state", &state]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let alice = folder.join("alice").display().to_string();
    assert_eq!(ca(&["operator", "alice", "--out", &alice]), "spiffe://mesh.lighter/lighter/operator/alice\n");
    let (certificate, key) = (format!("{alice}/certificate.pem"), format!("{alice}/key.pem"));
    let with = |arguments: &[&str]| {
        let shown = ["--cert-file", &certificate, "--key-file", &key, "--token-file", "/nonexistent"];
        world.lighter(&[arguments, &shown[..]].concat())
    };
    let shop = world.file("shop.yaml", SHOP);
    assert!(with(&["apply", "-f", &shop]).said().contains("created"));
    let table = with(&["get", "-o", "wide"]).said();
    assert!(table.contains("operator:alice"), "{table}");
    let audit = std::fs::read_to_string(folder.join("audit.log")).unwrap();
    assert!(audit.contains("\"who\":\"operator:alice\""), "{audit}");

    // A workload is no operator, and neither is somebody of another authority.
    let web = folder.join("web").display().to_string();
    ca(&["issue", "--service", "web", "--out", &web]);
    let elsewhere = folder.join("elsewhere").display().to_string();
    let forged = folder.join("forged").display().to_string();
    for arguments in [&["init"][..], &["operator", "alice", "--out", &forged]] {
        let said =
            Command::new(LIGHTER).arg("ca").args(arguments).args(["--state", &elsewhere]).output().unwrap();
        assert!(said.status.success());
    }
    for other in [web, forged] {
        let (certificate, key) = (format!("{other}/certificate.pem"), format!("{other}/key.pem"));
        let refused = world.lighter(&["get", "--cert-file", &certificate, "--key-file", &key]);
        assert_ne!(refused.status, 0, "{refused:?}");
    }

    // Join tokens by the API: made, listed, taken back.
    let token = with(&["ca", "token", "--service", "web", "--remote"]).said();
    assert!(token.starts_with("lighter-join.default.web."), "{token}");
    let listed = with(&["ca", "list", "--remote"]).said();
    let id = listed.split_whitespace().nth(1).unwrap().to_owned();
    assert!(listed.contains("open     default/web") && !listed.contains(token.trim()), "{listed}");
    assert_eq!(ca(&["list"]).matches(&id).count(), 1);
    assert_eq!(with(&["ca", "revoke", &id, "--remote"]).said(), format!("token {id} is taken back\n"));
    assert_eq!(with(&["ca", "list", "--remote"]).said(), "");
    for gone in [id.as_str(), "../authority", "zz"] {
        assert_eq!(with(&["ca", "revoke", gone, "--remote"]).status, 1);
        assert_ne!(world.lighter(&["ca", "revoke", gone, "--state", &state]).status, 0);
    }
    let audit = std::fs::read_to_string(folder.join("audit.log")).unwrap();
    let actions: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = &actions[actions.len() - 2..];
    assert_eq!((&last[0]["action"], &last[1]["action"]), (&"token".into(), &"revoke".into()));
    assert_eq!((&last[1]["service"], &last[1]["who"]), (&"default/web".into(), &"operator:alice".into()));
}

#[test]
fn a_bad_push_names_file_line_and_column_and_changes_nothing() {
    let world = World::new();
    world.lighter(&["apply", "-f", &world.file("shop.yaml", SHOP)]).said();
    let before = world.lighter(&["get", "-o", "yaml"]).said();
    let folder = world.folder.path().join("mesh");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.yaml"), SHOP.replace("reviews", "ratings")).unwrap();
    std::fs::write(
        folder.join("b.yaml"),
        SHOP.replace("reviews", "details").replace("port: 80\n", "port: 0\n"),
    )
    .unwrap();
    let folder = folder.to_str().unwrap();
    for (command, status) in [("apply", 1), ("diff", 2)] {
        let refused = world.lighter(&[command, "-f", folder]);
        assert_eq!(refused.status, status, "{refused:?}");
        let place = format!("{folder}/b.yaml:6:11: spec.ports[0].port: 0 is not a port");
        assert!(refused.err.contains(&place) && refused.err.contains("- port: 0"), "{refused:?}");
    }
    let refused = world.lighter_with(&["apply", "-f", "-"], "kind: Service\nmetadata: {nmae: a}\n");
    assert!(refused.err.contains("-:2:12: metadata.nmae: unknown field `nmae`"), "{refused:?}");
    assert!(refused.err.contains("metadata: {nmae: a}"), "the excerpt: {refused:?}");
    // What is asked for together is judged together with what there is.
    let refused = world.lighter(&["delete", "svc", "reviews"]);
    assert!(refused.status == 1 && refused.err.contains("HTTPRoute default/reviews"), "{refused:?}");
    assert_eq!(world.lighter(&["get", "-o", "yaml"]).said(), before);

    // Someone else was faster.
    let old = world.file("old.yaml", &before.replace("port: 80", "port: 81"));
    world.lighter(&["apply", "-f", &world.file("new.yaml", &SHOP.replace("port: 80", "port: 82"))]).said();
    let refused = world.lighter(&["apply", "-f", &old]);
    assert_eq!(refused.status, 1);
    assert!(refused.err.contains("metadata.resourceVersion: made from generation 1"), "{refused:?}");
}

#[test]
fn resources_are_deleted_by_name_or_file_all_or_none() {
    let world = World::new();
    let shop = world.file("shop.yaml", SHOP);
    world.lighter(&["apply", "-n", "shop", "-f", &shop]).said();
    assert!(world.lighter(&["get", "-A"]).said().contains("shop"));
    assert!(world.lighter(&["get"]).err.contains("there are no such resources"));
    let absent = world.lighter(&["delete", "-n", "shop", "httproute/reviews", "svc/gone"]);
    assert!(absent.status == 1 && absent.err.contains("not found: Service shop/gone"), "{absent:?}");
    assert!(world.lighter(&["get", "sidecars"]).err.contains("no sidecar is connected"));
    let unknown = world.lighter(&["delete", "pod", "x"]);
    assert!(unknown.status == 2 && unknown.err.contains("unknown kind `pod`"), "{unknown:?}");
    let deleted = world.lighter(&["delete", "-n", "shop", "httproute", "reviews"]).said();
    assert_eq!(deleted, "HTTPRoute shop/reviews deleted\n");
    let rest = world.lighter(&["delete", "-n", "shop", "--ignore-not-found", "-f", &shop]).said();
    assert_eq!(rest, "Service shop/reviews deleted\n");
    let missing = world.lighter(&["get", "-n", "shop", "svc/reviews"]);
    assert!(
        missing.status == 1 && missing.err.contains("there is no Service reviews in namespace shop"),
        "{missing:?}"
    );
}

#[test]
fn a_backup_brings_the_store_back() {
    let world = World::new();
    world.lighter(&["apply", "-f", &world.file("shop.yaml", SHOP)]).said();
    let file = world.path("backup.json");
    assert_eq!(world.lighter(&["backup", &file]).said(), "2 resources of generation 1\n");
    let before = world.lighter(&["get", "svc", "-o", "yaml"]).said();
    world.lighter(&["apply", "-f", &world.file("other.yaml", &SHOP.replace("reviews", "ratings"))]).said();
    world.lighter(&["delete", "httproute", "reviews"]).said();
    let restored = world.lighter(&["restore", &file]).said();
    for line in ["HTTPRoute default/reviews created", "Service default/ratings deleted"] {
        assert!(restored.contains(line), "{restored}");
    }
    let world = world.restarted();
    assert_eq!(world.lighter(&["get", "svc", "-o", "yaml"]).said(), before);
    let bad = world.lighter(&["restore", &world.file("bad.json", "{\"resources\": []}")]);
    assert!(bad.status == 1 && bad.err.contains("no backup"), "{bad:?}");
    assert_eq!(world.lighter(&["get", "svc", "-o", "yaml"]).said(), before);
}

#[test]
fn who_is_not_trusted_gets_nothing() {
    let world = World::new();
    let token = world.file("token", "0123456789abcdef0123456789abcdef\n");
    let refused = world.lighter(&["get", "--token-file", &token]);
    assert!(refused.status == 1 && refused.err.contains("does not know the token"), "{refused:?}");
    let metrics = world.curl("/metrics");
    assert!(metrics.contains("lighter_control_api_refused_total{cause=\"unauthorized\"} 1\n"), "{metrics}");
    assert!(world.log().contains("the operator's token is missing or wrong"));

    // Nor does the client show its token to someone who is not the control plane.
    let stranger = World::new();
    let foreign = stranger.folder.path().join("state/api.pem");
    let refused = world.lighter(&["get", "--ca-file", foreign.to_str().unwrap()]);
    assert!(refused.status == 1 && refused.err.contains("cannot be trusted"), "{refused:?}");
    let plain = world.lighter(&["get", "--server", &format!("http://127.0.0.1:{}", world.api)]);
    assert!(plain.status == 1 && plain.err.contains("nothing but TLS"), "{plain:?}");

    // Secrets are for their owner alone.
    use std::os::unix::fs::PermissionsExt;
    for name in ["operator-token", "api-key.pem", "store.redb"] {
        let mode =
            std::fs::metadata(world.folder.path().join("state").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_store_has_one_process_and_without_one_commands_say_so() {
    let world = World::new();
    let second = Command::new(LIGHTER)
        .args(["control", "--config", &world.path("control.yaml")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let second = Ended::of(second);
    assert!(second.status == 1 && second.err.contains("in use by another process"), "{second:?}");

    let world = world.stopped();
    let shop = world.file("shop.yaml", SHOP);
    let args: [&[&str]; 3] = [&["get"], &["apply", "-f", &shop], &["delete", "svc", "a"]];
    for args in args {
        let away = world.lighter(args);
        assert!(away.status == 1 && away.err.contains("cannot be reached"), "{away:?}");
        assert!(away.err.contains("is `lighter control` running there?"), "{away:?}");
    }
    assert_eq!(world.lighter(&["diff", "-f", &shop]).status, 2);
}

/// A control plane with a state folder of its own.
struct World {
    folder: tempfile::TempDir,
    api: u16,
    control: Option<Child>,
}

/// What a command said, and how it ended.
#[derive(Debug)]
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Ended {
        Ended {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Its standard output, if all went well.
    #[track_caller]
    fn said(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let (api, ads) = (free_port(), free_port());
        let config =
            format!("state: state\napi: 127.0.0.1:{api}\nads: 127.0.0.1:{ads}\nauditLog: audit.log\n");
        std::fs::write(folder.path().join("control.yaml"), config).unwrap();
        World { folder, api, control: None }.started()
    }

    fn started(mut self) -> World {
        let log = File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new(LIGHTER)
            .args(["control", "--config", &self.path("control.yaml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let child = self.control.insert(child);
        let began = Instant::now();
        let log = self.folder.path().join("log");
        let said = || std::fs::read_to_string(&log).unwrap();
        while !said().contains(" ready ") {
            assert!(child.try_wait().unwrap().is_none(), "{}", said());
            assert!(began.elapsed() < Duration::from_secs(60), "{}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    fn stopped(mut self) -> World {
        let mut child = self.control.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
        self
    }

    fn restarted(self) -> World {
        self.stopped().started()
    }

    fn lighter(&self, arguments: &[&str]) -> Ended {
        self.lighter_with(arguments, "")
    }

    /// Runs a command with this standard input.
    fn lighter_with(&self, arguments: &[&str], input: &str) -> Ended {
        let state = self.folder.path().join("state");
        std::fs::write(self.folder.path().join("input"), input).unwrap();
        let output = Command::new(LIGHTER)
            .args(arguments)
            .env("LIGHTER_SERVER", format!("https://127.0.0.1:{}", self.api))
            .env("LIGHTER_TOKEN_FILE", state.join("operator-token"))
            .env("LIGHTER_CA_FILE", state.join("api.pem"))
            .env("NO_COLOR", "1")
            .stdin(File::open(self.folder.path().join("input")).unwrap())
            .output();
        Ended::of(output.unwrap())
    }

    /// Gets a page as any other client would, which needs no token for it.
    fn curl(&self, path: &str) -> String {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert"])
            .arg(self.folder.path().join("state/api.pem"))
            .arg(format!("https://127.0.0.1:{}{path}", self.api))
            .output();
        Ended::of(output.unwrap()).said()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file, and returns its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(Path::new(&path), text).unwrap();
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.control.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
