//! `lighter simulate` as a person or a script meets it: the same seed makes the same output, the placement is better than what it
//! is compared with, and devices that something befalls are left alone.

#![allow(clippy::unwrap_used)] // A test may.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn simulate(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_lighter"))
        .arg("simulate")
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.unwrap_or_else(|error| panic!("lighter simulate {arguments:?}: {error}"))
}

fn json(arguments: &[&str]) -> Value {
    let output = simulate(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn policy<'v>(result: &'v Value, name: &str) -> &'v Value {
    let policies = result["policies"].as_array().unwrap();
    policies.iter().find(|policy| policy["name"] == name).unwrap_or_else(|| panic!("no {name} in {result}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn regret(result: &Value, name: &str) -> f64 {
    number(&policy(result, name)["regret"]["percent"])
}

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/simulate/faults.yaml");
    path.to_str().unwrap().to_owned()
}

fn scenario(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scenario.yaml");
    std::fs::write(&path, text).unwrap();
    let name = path.to_str().unwrap().to_owned();
    (folder, name)
}

#[test]
fn the_same_seed_makes_the_same_output_to_the_byte() {
    let few = ["--requests", "4000", "--devices", "100", "--explain", "5"];
    for form in [&[][..], &["--json"]] {
        let run = |seed| simulate(&[&few[..], form, &["--seed", seed]].concat()).stdout;
        assert_eq!(run("7"), run("7"));
        assert_ne!(run("7"), run("8"));
    }
    let (folder, path) = scenario("seed: 7\nrequests: 4000\ndevices: 100\n");
    let flags = simulate(&["--requests", "4000", "--devices", "100", "--seed", "7"]);
    assert_eq!(simulate(&["--scenario", &path]).stdout, flags.stdout, "{folder:?}");
}

#[test]
fn placement_by_what_is_measured_is_better_than_one_place_for_all() {
    let result = json(&[]);
    assert_eq!((&result["load"], &result["energy_source"]), (&"synthetic".into(), &"modelled".into()));
    assert_eq!((&result["devices"], &result["requests"]), (&1000.into(), &200_000.into()));
    let names = ["lighter", "host-only", "always-device", "static", "p2c", "oracle"];
    assert_eq!(result["policies"].as_array().unwrap().len(), names.len());
    for name in names {
        let policy = policy(&result, name);
        assert_eq!(policy["answered"], 200_000, "{name}: each has one answer");
        let latency = &policy["latency_seconds"];
        assert!(number(&latency["p50"]) <= number(&latency["p99"]), "{policy}");
        for field in
            ["slo_misses", "bytes_moved", "joules", "device_percent", "refused_tries", "failed_tries"]
        {
            assert!(number(&policy[field]) >= 0.0, "{name} {field}");
        }
    }
    for list in ["assumed", "sources"] {
        assert!(!result[list].as_array().unwrap().is_empty());
    }
    let lighter = regret(&result, "lighter");
    assert!(lighter >= 0.0 && regret(&result, "oracle") == 0.0, "{lighter}");
    for other in ["host-only", "always-device", "static", "p2c"] {
        assert!(
            lighter < regret(&result, other),
            "{lighter} is not below {other}: {}",
            regret(&result, other)
        );
    }
    let misses = |name| number(&policy(&result, name)["slo_miss_percent"]);
    assert!(misses("lighter") <= misses("host-only") + 0.1);
    let again = &result["placement"]["recomputed"];
    assert_eq!(again["different"], 0);
    assert!(number(&again["same"]) >= 200_000.0, "every decision is made again");
}

#[test]
fn devices_that_something_befalls_are_left_alone_within_a_window() {
    let result = json(&["--scenario", &example()]);
    let lighter = policy(&result, "lighter");
    let events = lighter["events"].as_array().unwrap();
    let what: Vec<_> = events.iter().map(|event| event["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["stall", "slow", "die"]);
    for event in events {
        let before = number(&event["sent_in_window_before"]);
        let after: Vec<f64> = event["sent_in_windows_after"].as_array().unwrap().iter().map(number).collect();
        // In the window in which it happens it is found out; after it, only to find out if it is over.
        assert!(before > 100.0 && after[1] + after[2] <= before * 0.4, "{event}");
    }
    // Nobody knows of it by not asking.
    let always = policy(&result, "always-device")["events"].as_array().unwrap();
    assert!(always.iter().all(|event| number(&event["sent_in_windows_after"][1]) > 100.0), "{always:?}");
    assert_eq!(lighter["answered"], result["requests"], "nothing is lost with a device");
    let misses = |name| number(&policy(&result, name)["slo_miss_percent"]);
    assert!(misses("lighter") <= misses("host-only") + 0.1, "{result}");
    assert!(number(&lighter["failed_tries"]) * 5.0 < number(&policy(&result, "p2c")["failed_tries"]));
}

#[test]
fn it_learns_what_it_was_told_wrong() {
    let (_folder, wrong) = scenario(
        "devices: 40\nrequests: 60000\nrequestsPerSecond: 1000\nhosts: {count: 4}\nworkload: {routes: 4}\n\
         believed: {mediaFactor: 0.1, computeFactor: 10, functionFactor: 0.1}\n",
    );
    let result = json(&["--scenario", &wrong]);
    let lighter = regret(&result, "lighter");
    assert!(lighter < regret(&result, "host-only") && lighter < regret(&result, "always-device"), "{result}");
}

#[test]
fn the_objective_says_what_is_saved() {
    let by = |objective: &str| {
        let (_folder, path) = scenario(&format!("objective: {objective}\ndevices: 200\nrequests: 20000\n"));
        json(&["--scenario", &path])
    };
    let [latency, energy, bytes] = ["latency", "energy", "bytes"].map(by);
    let of = |result: &Value, field| number(&policy(result, "lighter")[field]);
    assert!(of(&energy, "joules") < of(&latency, "joules") * 0.8);
    assert!(of(&bytes, "bytes_moved") < of(&latency, "bytes_moved") * 0.5);
}

#[test]
fn decisions_are_told_in_words() {
    let output = simulate(&["--requests", "2000", "--devices", "50", "--explain", "4"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("request ")).count(), 4, "{text}");
    assert!(text.contains(" ms expected = "), "{text}");
    for part in ["synthetic", "POLICY", "REGRET", "assumed: ", "made again from their records: "] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn a_faulty_scenario_is_refused_with_line_field_and_hint() {
    let (_folder, path) = scenario("devices: 10\nslo: 100\nworkload: {replica: 3}\n");
    let output = simulate(&["--scenario", &path]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    for part in [
        &*format!("{path}:2:6: slo: "),
        &format!("{path}:3:12: workload.replica: unknown field `replica`"),
        "did you mean `replicas`?",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(output.stdout.is_empty());

    let (_folder, path) = scenario("events: [{at: 1s, what: die, devices: [70]}]\n");
    assert_eq!(simulate(&["--scenario", &path, "--requests", "100"]).status.code(), Some(0));
    let fewer = simulate(&["--scenario", &path, "--devices", "70"]);
    assert_eq!(fewer.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&fewer.stderr).contains("there is no device 70"), "{fewer:?}");
    assert_eq!(simulate(&["--scenario", "/nonexistent.yaml"]).status.code(), Some(1));
    assert_eq!(simulate(&["--devices", "0"]).status.code(), Some(2));
}
