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
    example_of("faults")
}

fn example_of(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/simulate/{name}.yaml"));
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

/// What came out with these functions active.
fn with<'v>(result: &'v Value, active: &str) -> &'v Value {
    let all = result["functions"].as_array().unwrap();
    all.iter().find(|one| one["active"] == active).unwrap_or_else(|| panic!("no {active} in {result}"))
}

#[test]
fn what_is_planned_needs_less_memory_and_helps_more_than_a_fixed_set() {
    let path = example_of("planned");
    let result = json(&["--scenario", &path]);
    let [everywhere, fixed, planned] = ["everywhere", "fixed", "planned"].map(|active| with(&result, active));
    for one in [everywhere, fixed, planned] {
        assert_eq!(one["answered"], result["requests"], "{one}");
    }
    let memory = |one: &Value, what| number(&one["memory_bytes"][what]);
    // As much as devices have, and half of what all would take.
    let budget = 60.0 * 128e6;
    assert!(memory(planned, "most") <= budget && memory(fixed, "most") <= budget, "{planned}");
    assert!(memory(planned, "mean") < memory(fixed, "mean"), "{planned} {fixed}");
    assert!(memory(planned, "mean") < memory(everywhere, "mean") * 0.5, "{planned} {everywhere}");
    assert_eq!(
        (memory(everywhere, "mean"), &everywhere["at_zero_percent"]),
        (memory(everywhere, "most"), &0.0.into())
    );
    // What is wanted moves on, and what is fixed does not.
    assert!(number(&planned["device_percent"]) > number(&fixed["device_percent"]), "{planned} {fixed}");
    assert!(number(&planned["bytes_moved"]) < number(&fixed["bytes_moved"]));
    assert!(number(&planned["activations"]) > number(&fixed["activations"]));
    assert!(number(&planned["at_zero_percent"]) > 0.0, "{planned}");
    // Who asks a device itself waits, and gets it.
    assert!(number(&planned["held"]) > 100.0 && planned["asked_in_vain"] == 0, "{planned}");
    assert!(fixed["held"] == 0 && number(&fixed["asked_in_vain"]) > 100.0, "{fixed}");
    assert_eq!((&everywhere["held"], &everywhere["asked_in_vain"]), (&0.into(), &0.into()));

    let text = || simulate(&["--scenario", &path]).stdout;
    let first = text();
    assert_eq!(first, text(), "the same seed");
    let first = String::from_utf8(first).unwrap();
    for part in ["ACTIVE ", "AT ZERO", "everywhere ", "fixed ", "planned ", "what functions take of memory"] {
        assert!(first.contains(part), "no {part} in {first}");
    }
    // Policies know nothing of it.
    let without = json(&["--requests", "2000", "--devices", "50"]);
    assert_eq!(without["functions"].as_array().unwrap().len(), 0);
}

#[test]
fn what_nobody_wants_goes_and_what_has_no_run_left_gets_nothing() {
    let planned = |more: &str, functions: &str| {
        let text = format!(
            "devices: 30\nrequests: 12000\nrequestsPerSecond: 600\nhosts: {{count: 4}}\n\
             workload: {{routes: 12, popularityExponent: 3, popularityShift: 5s}}\nfunctions: {{settle: 0s, {functions}}}\n{more}"
        );
        let (_folder, path) = scenario(&text);
        with(&json(&["--scenario", &path]), "planned").clone()
    };
    let (soon, late) =
        (planned("", "idle: 2s, directPercent: 0"), planned("", "idle: 60s, directPercent: 0"));
    let memory = |one: &Value| number(&one["memory_bytes"]["mean"]);
    assert!(memory(&soon) < memory(&late), "{soon} {late}");
    assert!(number(&soon["at_zero_percent"]) > number(&late["at_zero_percent"]));
    assert_eq!((&soon["held"], &late["held"]), (&0.into(), &0.into()));
    // Main task and power limit leave them nothing.
    let none = "deviceClasses: [{name: csd, share: 1, allowedSlots: 0}]\n";
    let none = planned(none, "directPercent: 0");
    assert_eq!((&none["activations"], &none["device_percent"]), (&0.into(), &0.0.into()), "{none}");
    // Who waits does so for as long as is said, where it takes longer until one is active.
    let slow = planned("", "startup: 3s, activationTimeout: 1s, directPercent: 2, idle: 2s");
    assert!(
        number(&slow["asked_in_vain"]) > 0.0 && number(&slow["held"]) >= number(&slow["asked_in_vain"]),
        "{slow}"
    );
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
