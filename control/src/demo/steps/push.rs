//! An operator pushes another route to the control plane. The sidecars that it concerns take it, and say so; no request
//! fails, and no connection is closed.

use serde_json::{Value, json};

use super::shift::{check_share, closed, rounded};
use super::{Stage, check, check_unharmed, until};
use crate::demo::load::{Counts, Load};
use crate::demo::plane::Plane;
use crate::demo::report::Evidence;
use crate::demo::resources::{self, Split};
use crate::demo::samples::Samples;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    // Every caller's first request opens connections; what is counted comes after.
    load.measure(stage.requests, stage.limit).await?;
    let closed_before = closed(&stage.web().await?);
    let told_before = Told::of(&stage.world.plane()?.samples().await?);
    let before = load.measure(stage.requests, stage.limit).await?;
    check_share("before", BEFORE, &before)?;

    let after = push(stage, &load, AFTER, evidence).await?;
    let told = Told::of(&stage.world.plane()?.samples().await?);
    evidence.keep("generation", json!({"before": told_before.generation, "after": told.generation}));
    evidence.keep("routes_pushed", told.pushes - told_before.pushes);
    evidence.keep("routes_accepted", told.acks - told_before.acks);
    let row = |phase: &str, counts: &Counts| {
        let [v1, v2] = ["v1", "v2"].map(|version| rounded(counts.share(version)));
        json!({"phase": phase, "requests": counts.requests, "v1": v1, "v2": v2})
    };
    evidence.keep("phases", [row("before", &before), row("after", &after)]);
    let closed = closed(&stage.web().await?) - closed_before;
    evidence.keep("upstream_connections_closed", closed);
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_unharmed(&total)?;
    check(closed == 0, || format!("web's sidecar closed {closed} connections to its upstreams"))?;
    check(told.acks > told_before.acks && told.generation > told_before.generation, || {
        "the control plane does not count that the route was accepted".into()
    })
}

const BEFORE: Split = Split { v1: 100, v2: 0 };
const AFTER: Split = Split { v1: 0, v2: 100 };

/// Pushes a route that leads to one version alone, and waits until the traffic goes there and `lighter get sidecars` shows
/// that web's sidecar has accepted it. Returns what was counted from then on.
pub(super) async fn push(
    stage: &mut Stage<'_>,
    load: &Load,
    split: Split,
    evidence: &mut Evidence,
) -> Result<Counts, String> {
    let plane = stage.world.plane()?;
    evidence.keep("lighter_apply", plane.apply(&resources::route(split)).await?);
    let version = if split.v2 == 0 { "v1" } else { "v2" };
    let arrived = |counts: &Counts| counts.versions.contains_key(version);
    load.wait(stage.limit, arrived).await.map_err(|error| format!("the push does not arrive: {error}"))?;
    let counts = load.measure(stage.requests, stage.limit).await?;
    check_share("after", split, &counts)?;
    until(stage.limit, async || {
        let route = web_route(plane).await?;
        evidence.keep("lighter_get_sidecars", &route);
        check(route["accepted"] == route["version"] && route["rejected"].is_null(), || {
            format!("web's sidecar has not accepted the route: {route}")
        })
    })
    .await?;
    Ok(counts)
}

/// How web's sidecar stands with its routes.
async fn web_route(plane: &Plane) -> Result<Value, String> {
    let sidecars = plane.sidecars().await?;
    let is_web =
        |sidecar: &&Value| sidecar["node"].as_str().is_some_and(|node| node.starts_with("default/web/"));
    let web = sidecars.iter().find(is_web).ok_or("the control plane has no stream of web's sidecar")?;
    let kinds = web["kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
    let route = kinds.iter().find(|kind| kind["kind"] == "route").ok_or("web's sidecar asks for no route")?;
    Ok(json!({
        "name": web["node"],
        "version": route["version"],
        "accepted": route["accepted"],
        "rejected": route["rejected"],
    }))
}

/// What the control plane counts.
struct Told {
    generation: u64,
    pushes: u64,
    acks: u64,
}

impl Told {
    fn of(samples: &Samples) -> Self {
        let routes = [("type", "route")];
        Told {
            generation: samples.count("lighter_control_store_generation", &[]),
            pushes: samples.count("lighter_control_pushes_total", &routes),
            acks: samples.count("lighter_control_acks_total", &routes),
        }
    }
}
