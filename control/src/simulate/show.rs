//! What came out, as a table for people and as JSON for scripts.

use lighter_config::scenario::{Objective, Scenario};
use lighter_place::Reason;
use serde_json::{Map, Value, json};

use super::Simulated;
use super::active::Activity;
use super::sidecars::Log;
use super::tally::{Befell, Outcome};
use crate::client::table::{self, size, time};

/// A table under what was simulated, and what befell devices and why decisions were made below it.
pub fn text(scenario: &Scenario, simulated: &Simulated) -> String {
    let rows: Vec<_> =
        simulated.outcomes.iter().map(|(name, outcome)| cells(name, outcome, simulated)).collect();
    let mut parts = vec![head(scenario, simulated), table::write(&TITLES, &rows)];
    if !simulated.functions.is_empty() {
        let rows =
            simulated.functions.iter().map(|(name, outcome, activity)| active_cells(name, outcome, activity));
        parts.push(table::write(&ACTIVE_TITLES, &rows.collect::<Vec<_>>()));
    }
    let (lighter, _) = simulated.lighter_and_oracle();
    if !lighter.events.is_empty() {
        let befell = scenario.events.iter().zip(&lighter.events);
        let rows: Vec<_> = befell
            .map(|(event, befell)| {
                let after: Vec<_> = befell.after.iter().map(u64::to_string).collect();
                let at = time(event.at.0.as_secs_f64());
                let devices = befell.devices().to_string();
                vec![at, event.what.name().to_owned(), devices, befell.before.to_string(), after.join(" ")]
            })
            .collect();
        parts.push(table::write(&EVENT_TITLES, &rows));
    }
    let log = &simulated.log;
    let reasons = Reason::LABELS.iter().filter_map(|label| Some((label, log.reasons.get(label)?)));
    let reasons: Vec<_> = reasons.map(|(label, count)| format!("{count} {label}")).collect();
    parts.push(format!(
        "decisions of lighter: {}\nmade again from their records: {} the same, {} not",
        reasons.join(", "),
        log.recomputed,
        log.differing
    ));
    parts.extend(log.explained.iter().cloned());
    parts.push(format!("assumed: {}\nshaped after: {}", ASSUMED.join("; "), SOURCES.join("; ")));
    parts.join("\n\n")
}

/// One object.
pub fn json(scenario: &Scenario, simulated: &Simulated) -> Value {
    json!({
        "load": "synthetic",
        "seed": scenario.seed,
        "devices": scenario.devices,
        "hosts": scenario.hosts.count,
        "requests": scenario.requests,
        "simulated_seconds": simulated.seconds,
        "objective": name(scenario.objective),
        "slo_seconds": scenario.slo.0.as_secs_f64(),
        "energy_source": "modelled",
        "policies": simulated.outcomes.iter().map(|(name, outcome)| policy(name, outcome, scenario, simulated)).collect::<Vec<_>>(),
        "functions": simulated.functions.iter().map(functions).collect::<Vec<_>>(),
        "placement": placement(&simulated.log),
        "assumed": ASSUMED,
        "sources": SOURCES,
    })
}

fn policy(name: &str, outcome: &Outcome, scenario: &Scenario, simulated: &Simulated) -> Value {
    let (_, oracle) = simulated.lighter_and_oracle();
    let event = |(event, befell): (&lighter_config::scenario::Event, &Befell)| {
        json!({
            "what": event.what.name(),
            "at_seconds": event.at.0.as_secs_f64(),
            "devices": befell.devices(),
            "sent_in_window_before": befell.before,
            "sent_in_windows_after": befell.after,
        })
    };
    json!({
        "name": name,
        "answered": outcome.requests,
        "latency_seconds": {
            "mean": outcome.mean_seconds,
            "p50": outcome.p50_seconds,
            "p99": outcome.p99_seconds,
        },
        "slo_misses": outcome.late,
        "slo_miss_percent": outcome.late_percent,
        "bytes_moved": outcome.moved_bytes.round(),
        "joules": outcome.joules,
        "device_percent": outcome.device_percent,
        "refused_tries": outcome.refused,
        "failed_tries": outcome.failed,
        "regret": {
            "percent": outcome.regret_percent(oracle),
            "mean_seconds": outcome.mean_seconds - oracle.mean_seconds,
        },
        "events": scenario.events.iter().zip(&outcome.events).map(event).collect::<Vec<_>>(),
    })
}

fn functions((name, outcome, activity): &(&str, Outcome, Activity)) -> Value {
    json!({
        "active": name,
        "answered": outcome.requests,
        "latency_seconds": {
            "mean": outcome.mean_seconds,
            "p50": outcome.p50_seconds,
            "p99": outcome.p99_seconds,
        },
        "slo_miss_percent": outcome.late_percent,
        "bytes_moved": outcome.moved_bytes.round(),
        "joules": outcome.joules,
        "device_percent": outcome.device_percent,
        "held": activity.held,
        "asked_in_vain": activity.in_vain,
        "activations": activity.activations,
        "at_zero_percent": activity.at_zero_percent,
        "memory_bytes": {"mean": activity.mean_bytes.round(), "most": activity.most_bytes},
    })
}

fn active_cells(name: &str, outcome: &Outcome, activity: &Activity) -> Vec<String> {
    vec![
        name.to_owned(),
        time(outcome.mean_seconds),
        time(outcome.p50_seconds),
        time(outcome.p99_seconds),
        format!("{:.2}%", outcome.late_percent),
        size(outcome.moved_bytes),
        format!("{:.1}%", outcome.device_percent),
        activity.held.to_string(),
        activity.in_vain.to_string(),
        activity.activations.to_string(),
        format!("{:.1}%", activity.at_zero_percent),
        size(activity.mean_bytes),
        size(activity.most_bytes as f64),
    ]
}

fn placement(log: &Log) -> Value {
    let reasons: Map<String, Value> =
        log.reasons.iter().map(|(label, count)| ((*label).to_owned(), json!(count))).collect();
    json!({
        "reasons": reasons,
        "recomputed": {"same": log.recomputed, "different": log.differing},
        "explained": log.explained,
    })
}

fn head(scenario: &Scenario, simulated: &Simulated) -> String {
    let wanted = name(scenario.objective);
    format!(
        "simulated with synthetic load: {} devices, {} hosts, {} requests in {}, seed {}\nobjective {wanted}; {} for {}% of requests",
        scenario.devices,
        scenario.hosts.count,
        scenario.requests,
        time(simulated.seconds),
        scenario.seed,
        time(scenario.slo.0.as_secs_f64()),
        100.0 - scenario.slo_miss_percent,
    )
}

fn cells(name: &str, outcome: &Outcome, simulated: &Simulated) -> Vec<String> {
    let (_, oracle) = simulated.lighter_and_oracle();
    vec![
        name.to_owned(),
        time(outcome.mean_seconds),
        time(outcome.p50_seconds),
        time(outcome.p99_seconds),
        format!("{:.2}%", outcome.late_percent),
        size(outcome.moved_bytes),
        format!("{:.0}J", outcome.joules),
        format!("{:.1}%", outcome.device_percent),
        outcome.refused.to_string(),
        outcome.failed.to_string(),
        format!("{:.1}%", outcome.regret_percent(oracle)),
    ]
}

fn name(objective: Objective) -> &'static str {
    match objective {
        Objective::Latency => "latency",
        Objective::Energy => "energy",
        Objective::Bytes => "bytes",
    }
}

const TITLES: [&str; 11] =
    ["POLICY", "MEAN", "P50", "P99", "LATE", "MOVED", "ENERGY*", "DEVICES", "REFUSED", "FAILED", "REGRET"];

const ACTIVE_TITLES: [&str; 13] = [
    "ACTIVE",
    "MEAN",
    "P50",
    "P99",
    "LATE",
    "MOVED",
    "DEVICES",
    "HELD",
    "IN VAIN",
    "ACTIVATIONS",
    "AT ZERO",
    "MEMORY",
    "MOST",
];

const EVENT_TITLES: [&str; 5] = ["AT", "BEFALLS", "DEVICES", "SENT THERE IN THE WINDOW BEFORE", "AND AFTER"];

/// What no publication stands behind.
const ASSUMED: [&str; 6] = [
    "what functions take of memory, how much of that devices have, and how long it takes until one is active",
    "speeds, slots, watts and joules of hosts and devices",
    "sizes of reads and answers, and how much of them the function keeps",
    "medians of function times, and how unequal routes are",
    "the exponent of the fan-out, and that users call by chance (Poisson)",
    "energy is modelled: watts while busy, and joules for each byte moved",
];

/// Whose distributions the load is shaped after.
const SOURCES: [&str; 2] = [
    "function times as log-normal with sigma 2.36, and few functions with most invocations: Azure Functions, Shahrad et al., \
     Serverless in the Wild, USENIX ATC 2020",
    "a heavy tail of calls made at once: Alibaba microservices, Luo et al., Characterizing Microservice Dependency and \
     Performance, ACM SoCC 2021",
];
