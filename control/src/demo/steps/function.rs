//! What a function on a device remembers moves from one device to an unlike one and to the host, while it is used. No request
//! fails, and each counts once: it is `counters`, to which callers add, and both ends say what they ran and what was copied.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::migrate::{Scene, Subject, proxy};
use super::{CALLERS, Stage, check, until};
use crate::demo::instance::samples;
use crate::demo::load::{Counts, Load};
use crate::demo::plane::Plane;
use crate::demo::report::Evidence;
use crate::demo::runner::Runner;
use crate::demo::samples::Samples;
use crate::demo::{ports, say};

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let (pause, limit) = (stage.pause, stage.limit);
    let scene = Scene::set(stage, &VISITS, PROFILES, Device::start).await?;
    let load = Load::adding(scene.door.listens, CALLERS, pause);
    scene.play(&load, evidence, |_, _| Ok(())).await?;
    let total = scene.finish(load, evidence).await?;
    // A run is counted when its answer has been read, which may have been a moment ago.
    until(limit, async || {
        let mut rows = Vec::new();
        for place in &scene.places {
            rows.push(row(place.name, &samples(place.runs.admin).await?));
        }
        evidence.keep("places", &rows);
        check_places(&total, &rows)
    })
    .await?;
    scene.door.close().await;
    for place in scene.places {
        place.runs.runner.stop().await;
    }
    Ok(())
}

/// A device, or a host that has the same function.
struct Device {
    admin: SocketAddr,
    runner: Runner,
}

impl Device {
    async fn start(plane: &Plane, folder: &Path, profile: Profile) -> Result<(&'static str, Self), String> {
        let Profile { name, class, more } = profile;
        let at = ports::free(4).map_err(say("a free port"))?;
        let [inbound, admin, link, functions] = [at[0], at[1], at[2], at[3]];
        let service = VISITS.service;
        let own = format!(
            "admin: {admin}\nservice: {service}\nlink: '{link}'\nworkers: 1\ndrainDeadline: 200ms\n\
             inbound: [{{listen: '{inbound}', app: '{functions}', port: 80}}]\n\
             device: {{class: {class}, listen: '{functions}', datasets: [], functions: [counters], {more}}}\n{}",
            plane.invite_as(name, service).await?.to_yaml()
        );
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, own).map_err(say("a device's file"))?;
        let mut runner = proxy(name, folder, &file)?;
        let ready = async |_: &str| {
            let known = samples(admin).await?.sum("lighter_registry_ready", &[]);
            check(known == 1.0, || "it is not registered".into())
        };
        runner.until(ready).await?;
        Ok((class, Device { admin, runner }))
    }
}

/// What one place counted: what it ran, and what came to it and went from it.
fn row(class: &str, samples: &Samples) -> Value {
    let hooks = |hook| samples.count("lighter_state_hooks_total", &[("hook", hook), ("outcome", "done")]);
    let copied = |direction| samples.count("lighter_state_copy_bytes_total", &[("direction", direction)]);
    let runs = [("function", "counters"), ("status", "CS_SUCCESS")];
    json!({
        "name": class,
        "runs": samples.count("lighter_device_runs_total", &runs),
        "serves": samples.count("lighter_state_serving", &[]) == 1,
        "epoch": samples.count("lighter_state_epoch", &[]),
        "freezes": hooks("freeze"),
        "restores": hooks("restore"),
        "copied_bytes_sent": copied("sent"),
        "copied_bytes_received": copied("received"),
    })
}

/// Each request was run once, at one of them; the state went from each to the next, and is at the last.
fn check_places(total: &Counts, rows: &[Value]) -> Result<(), String> {
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_default();
    let runs: u64 = rows.iter().map(|row| number(row, "runs")).sum();
    check(runs == total.requests, || {
        format!("{} requests were answered, and {runs} runs were counted", total.requests)
    })?;
    for (at, row) in rows.iter().enumerate() {
        let (is_first, is_last) = (at == 0, at + 1 == rows.len());
        let name = &row["name"];
        check(number(row, "runs") > 0, || format!("nothing was run at {name}"))?;
        check(row["serves"] == is_last, || format!("the state is not at the last of them alone: {name}"))?;
        let [came, went] = ["copied_bytes_received", "copied_bytes_sent"].map(|key| number(row, key));
        check((came > 0) != is_first && (went > 0) != is_last, || {
            format!("{came} bytes of the state came to {name}, and {went} went from there")
        })?;
    }
    let epochs: Vec<_> = rows.iter().map(|row| number(row, "epoch")).collect();
    check(epochs.is_sorted_by(|one, next| one < next), || format!("the epochs are {epochs:?}"))
}

/// How a device differs from the others.
#[derive(Clone, Copy)]
struct Profile {
    name: &'static str,
    class: &'static str,
    more: &'static str,
}

/// No two are alike in what they are and in what they let a run take.
const PROFILES: [Profile; 3] = [
    Profile {
        name: "visits-csd",
        class: "csd",
        more: "mediaBytesPerSecond: 1000000, limits: {runs: 16, memoryBytes: 4194304, keyBytes: 65536}",
    },
    Profile {
        name: "visits-dpu",
        class: "dpu",
        more: "priority: low, limits: {runs: 32, memoryBytes: 8388608, deadline: 30s, keyBytes: 1048576}",
    },
    Profile { name: "visits-host", class: "host", more: "limits: {runs: 64, keyBytes: 67108864}" },
];

const VISITS: Subject =
    Subject { service: "visits", state: "{class: volatile, function: counters}", caller: "adder", path: "/" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_two_places_ran_and_a_state_that_is_elsewhere_are_found() {
        let total = Counts { requests: 100, ..Counts::default() };
        let row = |name: &str, runs: u64, [came, went]: [u64; 2], epoch: u64, serves: bool| {
            json!({"name": name, "runs": runs, "serves": serves, "epoch": epoch, "copied_bytes_received": came,
                "copied_bytes_sent": went})
        };
        let good = [
            row("csd", 50, [0, 90], 1, false),
            row("dpu", 30, [90, 90], 2, false),
            row("host", 20, [90, 0], 3, true),
        ];
        assert_eq!(check_places(&total, &good), Ok(()));
        let found = |at: usize, instead: Value, why: &str| {
            let mut rows = good.clone();
            rows[at] = instead;
            let said = check_places(&total, &rows).unwrap_err();
            assert!(said.contains(why), "{said}");
        };
        found(0, row("csd", 51, [0, 90], 1, false), "101 runs were counted");
        found(0, row("csd", 49, [0, 90], 1, false), "99 runs were counted");
        found(1, row("dpu", 30, [90, 90], 2, true), "not at the last of them alone: \"dpu\"");
        found(1, row("dpu", 30, [90, 0], 2, false), "0 went from there");
        found(2, row("host", 20, [90, 0], 2, true), "the epochs are [1, 2, 2]");
    }
}
