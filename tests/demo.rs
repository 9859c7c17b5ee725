//! `lighter demo`, whole: what it shows, to whom, and that nothing of it stays.

#![allow(clippy::unwrap_used)] // A test may.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::thread::UnshareFlags;
use serde_json::Value;

type Outcome = Result<Completion, Failed>;

fn main() -> ExitCode {
    if std::env::var_os(APART).is_some() {
        println!("{APART} is set: the demo is not shown here");
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // Each starts a mesh of its own; side by side they would measure each other.
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::ignorable_test("every_step_passes_with_evidence", every_step_passes_with_evidence),
        Trial::ignorable_test("an_unprivileged_user_sees_the_same", an_unprivileged_user_sees_the_same),
        Trial::ignorable_test(
            "people_read_what_happened_and_an_interrupted_demo_leaves_nothing",
            people_read_what_happened_and_an_interrupted_demo_leaves_nothing,
        ),
        Trial::ignorable_test("a_killed_demo_leaves_no_process", a_killed_demo_leaves_no_process),
        Trial::test("what_cannot_be_done_is_skipped", what_cannot_be_done_is_skipped),
        Trial::test("a_machine_that_cannot_be_had_is_skipped", a_machine_that_cannot_be_had_is_skipped),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn every_step_passes_with_evidence() -> Outcome {
    let place = Place::new()?;
    if let Some(missing) = place.missing()? {
        return Ok(missing);
    }
    let output = place.lighter(&["demo", "--json", "--strict"]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert!(output.status.success(), "{report:#}\n{}", String::from_utf8_lossy(&output.stderr));
    check_report(&report);
    place.check_empty()
}

/// What the steps must have seen. The report's own verdict is not trusted.
fn check_report(report: &Value) {
    assert_eq!(report["ok"], true);
    assert_eq!(report.as_object().unwrap().len(), 2, "only what is documented");
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, STEPS);
    for step in steps {
        assert_eq!(step["status"], "passed", "{step:#}");
        assert_eq!(step["reason"], Value::Null, "{step:#}");
        let load = &step["evidence"]["load"];
        assert!(load["requests"].as_u64().unwrap() >= 300, "{step:#}");
        assert_eq!(load["failed"], 0, "{step:#}");
        assert_eq!(load["services_lost"], 0, "{step:#}");
    }

    let intercept = &steps[0]["evidence"];
    let services = intercept["services"].as_array().unwrap();
    let all =
        |key: &str| services.iter().map(|service| service[key].as_u64().unwrap()).collect::<BTreeSet<_>>();
    assert_eq!(all("pid").len(), 5, "{intercept:#}");
    let mut namespaces = all("network_namespace");
    namespaces.insert(intercept["host_network_namespace"].as_u64().unwrap());
    assert_eq!(namespaces.len(), 6, "{intercept:#}");
    let rules = intercept["web_rules"].as_array().unwrap();
    let rose = |rule: &Value| rule["after"].as_u64() > rule["before"].as_u64();
    assert!(rules.iter().any(|rule| rule["rule"] == "outbound" && rose(rule)), "{intercept:#}");
    for service in intercept["requests"].as_array().unwrap() {
        assert_eq!(service["sent_by_web"], service["received"], "{intercept:#}");
    }

    let phases = steps[1]["evidence"]["phases"].as_array().unwrap();
    let v2: Vec<_> = phases.iter().map(|phase| phase["v2"].as_f64().unwrap()).collect();
    assert!(v2[0] == 0.0 && (0.3..0.7).contains(&v2[1]) && v2[2] == 1.0, "{phases:#?}");

    let heal = &steps[2]["evidence"];
    assert!(heal["retries"].as_f64().unwrap() > 0.0 && heal["ejections"].as_f64().unwrap() > 0.0, "{heal:#}");
    assert_ne!(heal["killed"]["sidecar_pid"], heal["sidecar_pid_after"]);
    assert_eq!(heal["instances_while_dead"].as_object().unwrap().len(), 1, "{heal:#}");
    let killed = heal["killed"]["name"].as_str().unwrap().replace("reviews-v2-", "v2/");
    assert!(heal["instances_before"][&killed].as_u64() > Some(0), "{heal:#}");
    assert!(heal["instances_after"][&killed].as_u64() > Some(0), "{heal:#}");

    let [mtls, push, down] = [3, 4, 5].map(|step| &steps[step]["evidence"]);
    check_mtls(mtls, &intercept["host_network_namespace"]);
    check_push(push);
    assert_eq!(down["killed"]["pid"], mtls["control_plane"]["pid"]);
    assert_ne!(down["control_plane_pid_after"], down["killed"]["pid"], "{down:#}");
    assert!(down["requests_while_away"].as_u64().unwrap() >= 300, "{down:#}");
    for restarted in down["restarted"].as_array().unwrap() {
        assert_ne!(restarted["sidecar_pid"], restarted["sidecar_pid_after"], "{down:#}");
        assert_eq!(restarted["certificates_received"], 0, "{down:#}");
        assert_eq!(restarted["plain_text_caller"], "plaintext_refused", "{down:#}");
        let meanwhile = restarted["instances_meanwhile"].as_object().unwrap();
        let own = restarted["name"].as_str().unwrap().replace("reviews-v2-", "v2/");
        assert!(meanwhile.len() == 1 && !meanwhile.contains_key(&own), "{down:#}");
    }
    assert_eq!(down["restarted"].as_array().map(Vec::len), Some(2), "{down:#}");
    check_accepted(down);
    check_shm(&steps[6]["evidence"]);
    check_quic(&steps[7]["evidence"]);
    check_move(&steps[8]["evidence"]);
    check_function(&steps[9]["evidence"]);
    check_offload(&steps[10]["evidence"], &steps[11]["evidence"]);
    assert_ne!(down["lighter_get_sidecars"]["version"], push["lighter_get_sidecars"]["version"]);
}

const STEPS: [&str; 12] = [
    "intercept",
    "route-shift",
    "heal",
    "mtls",
    "push",
    "control-down",
    "wire-shm",
    "link-quic",
    "move",
    "move-function",
    "offload",
    "offload-return",
];

/// The link carried each scan's data where the host scanned, and its rows where the device did; both said the same.
fn check_offload(offload: &Value, back: &Value) {
    let [host, device] = [0, 1].map(|phase| &offload["phases"][phase]);
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {offload:#}"));
    let data = number(&offload["bytes_of_orders"]);
    assert!(number(&host["link_bytes_each"]) >= data, "{offload:#}");
    assert!(number(&host["link_bytes"]) >= 100 * data, "{offload:#}");
    assert!(number(&device["link_bytes_each"]) * 50 <= data, "{offload:#}");
    assert_eq!(offload["answered_by"]["host"], 0, "{offload:#}");
    assert_eq!(offload["answered_by"]["device"], device["requests"], "{offload:#}");
    assert!(number(&offload["scans_counted_by_device"]) >= number(&device["requests"]), "{offload:#}");
    let processor = |phase: &Value, who: &str| number(&phase["processor_ms"][who]);
    // Whoever has nothing to do still ticks.
    assert!(processor(host, "orders") > processor(host, "device"), "{offload:#}");
    assert!(
        processor(device, "device") > processor(device, "orders") + processor(device, "storage"),
        "{offload:#}"
    );
    assert_eq!(offload["load"]["versions"].as_object().unwrap().len(), 1, "{offload:#}");
    let explained = offload["lighter_explain"][0].as_str().unwrap();
    assert!(explained.starts_with("default/orders:80 default/orders/scan → default/csd: "), "{offload:#}");
    let again = offload["lighter_explain_check"].as_str().unwrap();
    assert!(again.ends_with(" are made again as they were, 0 are not"), "{offload:#}");

    assert!(back["meanwhile"]["answered_by_host"].as_u64() >= Some(50), "{back:#}");
    assert!(back["meanwhile"]["given_up_at_device"].as_u64() >= Some(1), "{back:#}");
    assert_eq!(
        back["load"]["versions"],
        offload["load"]["versions"].as_object().map_or(Value::Null, |versions| {
            let sum = versions.keys().next().cloned().unwrap_or_default();
            serde_json::json!({ sum: back["load"]["requests"] })
        })
    );
}

/// Both ends say that shared memory carried the bytes, and that it broke.
fn check_shm(shm: &Value) {
    assert!(shm["rings_broken"].as_u64() >= Some(5), "{shm:#}");
    let ends = shm["bytes_by_wire"].as_array().unwrap();
    assert_eq!(ends.iter().map(|end| &end["name"]).collect::<Vec<_>>(), ["web", "catalog"]);
    assert_eq!(shm["lighter_get_links"].as_array().map(Vec::len), Some(2), "{shm:#}");
    for end in ends {
        for direction in ["sent", "received"] {
            assert!(end["shm"][direction].as_u64() > Some(10_000), "{shm:#}");
        }
        assert!(end["fallbacks"].as_u64() >= Some(5) && end["switches"].as_u64() >= Some(12), "{shm:#}");
    }
}

/// Both ends say that QUIC carried requests, twice, and TCP others between.
fn check_quic(quic: &Value) {
    let ends = quic["quic"].as_array().unwrap();
    assert_eq!(ends.iter().map(|end| &end["name"]).collect::<Vec<_>>(), ["web", "catalog"]);
    assert_eq!(quic["lighter_get_links"].as_array().map(Vec::len), Some(2), "{quic:#}");
    for end in ends {
        for what in ["sent", "received"] {
            assert!(end[what].as_u64() > Some(10_000), "{quic:#}");
        }
        assert!(end["streams"].as_u64() > Some(100) && end["handshakes"].as_u64() >= Some(2), "{quic:#}");
    }
    assert!(ends[0]["switches_to_quic"].as_u64() >= Some(2), "{quic:#}");
    assert!(ends[0]["switches_to_tcp"].as_u64() >= Some(1), "{quic:#}");
}

/// The counter was at three places, one after the other, and counted each request once.
fn check_move(moved: &Value) {
    check_moves(moved, ["one", "two", "host"]);
    let at = |place: &str| moved["load"]["instances"][&format!("counter/{place}")].as_u64();
    assert!(["one", "two", "host"].into_iter().all(|place| at(place) > Some(100)), "{moved:#}");
}

/// What the function counted was at two devices and the host, and each of them says what it ran of that and what came and went.
fn check_function(moved: &Value) {
    check_moves(moved, ["csd", "dpu", "host"]);
    let places = moved["places"].as_array().unwrap();
    let all = |key: &str| places.iter().map(|place| place[key].as_u64().unwrap()).collect::<Vec<_>>();
    let runs = all("runs");
    assert!(runs.len() == 3 && runs.iter().all(|runs| *runs > 100), "{moved:#}");
    assert_eq!(moved["load"]["requests"], runs.iter().sum::<u64>(), "{moved:#}");
    let (freezes, restores) = (all("freezes"), all("restores"));
    assert!(freezes[0] > 0 && freezes[1] > 0 && freezes[2] == 0, "{moved:#}");
    assert!(restores[0] == 0 && restores[1] > 0 && restores[2] > 0, "{moved:#}");
    let (sent, received) = (all("copied_bytes_sent"), all("copied_bytes_received"));
    assert!(sent[0] > 0 && sent[1] > 0 && sent[2] == 0, "{moved:#}");
    assert!(received[0] == 0 && received[1] > 0 && received[2] > 0, "{moved:#}");
    assert!(all("epoch").is_sorted_by(|one, next| one < next), "{moved:#}");
}

/// It went from each place to the next under load; nothing was lost, and no request counted twice.
fn check_moves(moved: &Value, [first, second, third]: [&str; 3]) {
    let moves = moved["moves"].as_array().unwrap();
    let ends: Vec<_> = moves.iter().map(|one| (one["from"].as_str(), one["to"].as_str())).collect();
    assert_eq!(ends, [(Some(first), Some(second)), (Some(second), Some(third))], "{moved:#}");
    for one in moves {
        assert!(one["longest_ms_without_an_answer"].as_f64() > Some(0.0), "{moved:#}");
        assert!(
            one["said"].as_str().unwrap().contains("nothing is under way at the old instance"),
            "{moved:#}"
        );
    }
    assert_eq!(moved["counter"], moved["load"]["requests"], "{moved:#}");
    assert_eq!((&moved["states_lost"], &moved["load"]["failed"]), (&0.into(), &0.into()), "{moved:#}");
}

fn check_mtls(mtls: &Value, host_network_namespace: &Value) {
    assert_ne!(&mtls["control_plane"]["network_namespace"], host_network_namespace, "{mtls:#}");
    let identity = |service: &str| format!("spiffe://mesh.lighter/ns/default/sa/{service}");
    let members = ["web", "catalog", "reviews-v1", "reviews-v2", "reviews-v2"].map(identity);
    // They join side by side, so that who is first is chance. These are in the order of their names but for web.
    let mut issued: Vec<_> =
        mtls["identities"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    issued.sort_unstable();
    issued.rotate_right(1);
    assert_eq!(issued, members);
    let mut streams = 0;
    for row in mtls["connections"].as_array().unwrap() {
        streams += row["link_streams"].as_u64().unwrap();
        assert_eq!(row["caller"], members[0], "{mtls:#}");
        assert!(row["connections"].as_u64() > Some(0), "{mtls:#}");
        assert_eq!(row["connections"], row["all_connections"], "{mtls:#}");
    }
    assert!(streams >= 600 && mtls["link_streams_of_web"] == streams, "{mtls:#}");
    for service in mtls["requests"].as_array().unwrap() {
        assert_eq!(service["sent_by_web"], service["received"], "{mtls:#}");
    }
    let plain = serde_json::json!({"status": 403, "cause": "plaintext_refused", "refused_at_catalog": 1});
    assert_eq!(mtls["plain_text_caller"], plain);
    let stranger = &mtls["wrong_identity_caller"];
    assert_eq!(
        (&stranger["identity"], &stranger["denied_at_catalog"]),
        (&identity("stranger").into(), &1.into())
    );
    assert!(stranger["was_told"].as_str().unwrap().contains("catalog answered 403"), "{stranger:#}");
}

fn check_push(push: &Value) {
    check_accepted(push);
    assert!(push["generation"]["after"].as_u64() > push["generation"]["before"].as_u64(), "{push:#}");
    assert!(push["routes_accepted"].as_u64() > Some(0), "{push:#}");
    assert_eq!(push["upstream_connections_closed"], 0, "{push:#}");
    let v2: Vec<_> = push["phases"].as_array().unwrap().iter().map(|phase| phase["v2"].as_f64()).collect();
    assert_eq!(v2, [Some(0.0), Some(1.0)]);
}

/// A route was pushed, and web's sidecar said that it took it.
fn check_accepted(evidence: &Value) {
    assert_eq!(evidence["lighter_apply"], serde_json::json!(["HTTPRoute default/reviews configured"]));
    let sidecar = &evidence["lighter_get_sidecars"];
    assert!(sidecar["name"].as_str().unwrap().starts_with("default/web/"), "{sidecar:#}");
    assert!(!sidecar["version"].as_str().unwrap().is_empty(), "{sidecar:#}");
    assert_eq!((&sidecar["accepted"], &sidecar["rejected"]), (&sidecar["version"], &Value::Null));
}

fn an_unprivileged_user_sees_the_same() -> Outcome {
    if !geteuid().is_root() {
        return Ok(Completion::ignored_with("not root: the other tests are unprivileged already"));
    }
    let place = Place::new()?.for_user(NOBODY)?;
    if let Some(missing) = place.missing()? {
        return Ok(missing);
    }
    let output = place.lighter(&["demo", "--json", "--strict"]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert!(output.status.success(), "{report:#}\n{}", String::from_utf8_lossy(&output.stderr));
    check_report(&report);
    place.check_empty()
}

/// Also what they read while it is kept, so that the whole story is not told once more for that.
fn people_read_what_happened_and_an_interrupted_demo_leaves_nothing() -> Outcome {
    let place = Place::new()?;
    if let Some(missing) = place.missing()? {
        return Ok(missing);
    }
    let mut demo = place.lighter(&["demo", "--keep", "--requests", "60"]);
    let mut demo = demo.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let readers = wait_for_line(&mut demo, "everything runs")?;
    assert!(place.processes().len() > 10, "five sidecars and five services run");
    signal(&demo, Signal::INT);
    let status = demo.wait()?;
    assert!(status.success(), "Ctrl-C is how a kept demo ends: {status}");
    let text = readers.join().map_err(|_| "standard output cannot be read")?;
    let passed = STEPS.map(|step| format!("passed  {step}"));
    for expected in passed.iter().map(String::as_str).chain(["network_namespace", "p99 ms"]) {
        assert!(text.contains(expected), "no {expected} in\n{text}");
    }
    let all = format!("{} passed, 0 failed, 0 skipped", STEPS.len());
    assert!(text.trim_end().ends_with(&all), "{text}");
    place.check_empty()
}

fn a_killed_demo_leaves_no_process() -> Outcome {
    let place = Place::new()?;
    if let Some(missing) = place.missing()? {
        return Ok(missing);
    }
    let mut demo = place.lighter(&["demo", "--requests", "1000000"]);
    let mut demo = demo.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let readers = wait_for_line(&mut demo, "intercept")?;
    assert!(place.processes().len() > 10, "five sidecars and five services run");
    signal(&demo, Signal::KILL);
    demo.wait()?;
    let _ = readers.join();
    place.check_no_process()
}

/// Where not even a namespace can be made, everything is skipped, and why is said.
fn what_cannot_be_done_is_skipped() -> Result<(), Failed> {
    let place = Place::new()?;
    let output = without_namespaces(place.lighter(&["demo", "--json"])).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert!(output.status.success(), "{report:#}");
    for step in report["steps"].as_array().unwrap() {
        assert_eq!(step["status"], "skipped");
        assert!(step["reason"].as_str().unwrap().contains("namespace"), "{step:#}");
    }
    let strict = without_namespaces(place.lighter(&["demo", "--json", "--strict"])).output()?;
    assert_eq!(strict.status.code(), Some(2));
    place.check_empty().map(drop)
}

/// Nothing to fetch a virtual machine with is a reason, and no failure.
fn a_machine_that_cannot_be_had_is_skipped() -> Result<(), Failed> {
    let place = Place::new()?;
    let output = place.lighter(&["demo", "--rdma-vm", "--json"]).env("PATH", place.temporary()).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert!(output.status.success(), "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(
        (steps.len(), &steps[0]["name"], &steps[0]["status"]),
        (1, &"wire-rdma".into(), &"skipped".into())
    );
    let reason = steps[0]["reason"].as_str().unwrap();
    assert!(reason.contains("not installed") || reason.contains("x86-64"), "{reason}");
    let mut strict = place.lighter(&["demo", "--rdma-vm", "--json", "--strict"]);
    assert_eq!(strict.env("PATH", place.temporary()).output()?.status.code(), Some(2));
    place.check_empty().map(drop)
}

/// Has the command run where no further namespace may be made.
fn without_namespaces(mut command: Command) -> Command {
    let forbid = || {
        // The limits are those of a user namespace. Where none can be made there is nothing to forbid.
        // SAFETY: only namespaces are left, no descriptor changes hands.
        if unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.is_ok() {
            std::fs::write("/proc/sys/user/max_net_namespaces", "0")?;
            std::fs::write("/proc/sys/user/max_user_namespaces", "0")?;
        }
        Ok(())
    };
    // SAFETY: the child has one thread, and does nothing here that another thread's locks could hold up.
    unsafe { command.pre_exec(forbid) };
    command
}

/// A user who may do nothing special.
const NOBODY: u32 = 65534;

/// Set where whoever runs all suites one after the other runs this one apart.
const APART: &str = "LIGHTER_DEMO_APART";

/// Names another `lighter` to be shown than the one that was built with this: one that is built to be fast.
const PROGRAM: &str = "LIGHTER_DEMO";

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder in which one demo lives, and by which all that it starts is known.
struct Place {
    folder: tempfile::TempDir,
    program: PathBuf,
    user: Option<u32>,
}

impl Place {
    fn new() -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("tmp"))?;
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_lighter").into());
        Ok(Place { folder, program: program.into(), user: None })
    }

    /// The same for another user, with a copy of the program that this user can read.
    fn for_user(mut self, user: u32) -> std::io::Result<Self> {
        let program = self.folder.path().join("lighter");
        std::fs::copy(&self.program, &program)?;
        for path in [self.folder.path(), &program] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        chown(self.temporary(), Some(user), Some(user))?;
        (self.program, self.user) = (program, Some(user));
        Ok(self)
    }

    fn lighter(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("TMPDIR", self.temporary()).current_dir("/").stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Why this machine cannot show the demo, if it cannot.
    fn missing(&self) -> Result<Option<Completion>, Failed> {
        let output = self.lighter(&["check", "--json"]).output()?;
        let found: Value = serde_json::from_slice(&output.stdout)?;
        let needed = ["network namespaces", "nf_tables"];
        let missing = found["machine"]
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["ok"] == false && needed.iter().any(|name| finding["name"] == *name));
        Ok(missing
            .map(|finding| Completion::ignored_with(format!("{}: {}", finding["name"], finding["detail"]))))
    }

    fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// Every process with this place in its environment.
    fn processes(&self) -> Vec<PathBuf> {
        let mark = format!("TMPDIR={}", self.temporary().display());
        let is_ours = |process: &PathBuf| {
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let all = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        all.filter(is_ours).collect()
    }

    fn check_no_process(&self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            if Instant::now() > deadline {
                let lines = self.processes().into_iter().map(|process| command_line(&process));
                return Err(format!("still there: {:?}", lines.collect::<Vec<_>>()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Completion::Completed)
    }

    /// No process and no file is left.
    fn check_empty(&self) -> Outcome {
        let left: Vec<_> = std::fs::read_dir(self.temporary())?.collect();
        assert!(left.is_empty(), "{left:?}");
        self.check_no_process()
    }
}

fn command_line(process: &Path) -> String {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Reads standard error until `text` comes, and goes on reading so that nobody waits for a full pipe. Returns what comes on
/// standard output.
fn wait_for_line(demo: &mut Child, text: &str) -> Result<std::thread::JoinHandle<String>, Failed> {
    let mut errors = BufReader::new(demo.stderr.take().ok_or("standard error is piped")?);
    let mut stdout = demo.stdout.take().ok_or("standard output is piped")?;
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        let _ = stdout.read_to_string(&mut said);
        said
    });
    let mut seen = String::new();
    while !seen.lines().last().is_some_and(|line| line.contains(text)) {
        if errors.read_line(&mut seen)? == 0 {
            return Err(format!("it ended without {text}:\n{seen}").into());
        }
    }
    Ok(std::thread::spawn(move || {
        let _ = errors.read_to_end(&mut Vec::new());
        said.join().unwrap_or_default()
    }))
}

fn signal(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}
