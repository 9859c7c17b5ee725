//! The control plane dies under load, and one sidecar has to start again while it is away. Everything goes on as it was
//! told last. The control plane comes back, finds its sidecars again, and what is pushed then arrives.

use serde_json::json;

use super::push::push;
use super::shift::check_share;
use super::{Stage, check, check_none_failed, until};
use crate::demo::client::ask;
use crate::demo::load::Counts;
use crate::demo::report::Evidence;
use crate::demo::resources::Split;
use crate::demo::say;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    let both = |counts: &Counts| counts.requests >= stage.requests && counts.instances.len() == 2;
    load.wait(stage.limit, both).await.map_err(|error| format!("not both instances: {error}"))?;

    let plane = stage.world.plane()?;
    let (killed, _) = plane.process()?;
    evidence.keep("killed", json!({"name": "control plane", "pid": killed.pid, "signal": "SIGKILL"}));
    plane.kill().await?;
    connected(stage, 0.0).await?;
    let away = load.measure(stage.requests, stage.limit).await?;
    evidence.keep("requests_while_away", away.requests);
    check_share("while it is away", TOLD_LAST, &away)?;

    restart(stage, evidence).await?;
    let back = |counts: &Counts| counts.instances.get(SIGNATURE).is_some_and(|count| *count >= ENOUGH);
    let after = load.wait(stage.limit, back).await;
    let after = after.map_err(|error| format!("{RESTARTED} gets no traffic after its restart: {error}"))?;
    evidence.keep("instances_after_restart", &after.instances);
    check_none_failed(&load.total())?;

    let plane = stage.world.plane()?;
    plane.start().await?;
    evidence.keep("control_plane_pid_after", plane.process()?.0.pid);
    connected(stage, 1.0).await?;
    for instance in &mut stage.world.instances {
        instance.registered().await?;
    }
    push(stage, &load, PUSHED_THEN, evidence).await?;
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_none_failed(&total)
}

/// What the step before pushed.
const TOLD_LAST: Split = Split { v1: 0, v2: 100 };
const PUSHED_THEN: Split = Split { v1: 100, v2: 0 };

/// The instance that starts again, and how it signs its answers.
const RESTARTED: &str = "reviews-v2-a";
const SIGNATURE: &str = "v2/a";

/// Answers by which an instance is seen to be back.
const ENOUGH: u64 = 10;

/// Waits until every sidecar has a stream to the control plane, or until none has.
async fn connected(stage: &mut Stage<'_>, expected: f64) -> Result<(), String> {
    for instance in &stage.world.instances {
        until(stage.limit, async || {
            let connected = instance.samples().await?.sum("lighter_xds_connected", &[]);
            let wrong = if connected == 0.0 { "has lost the control plane" } else { "has a control plane" };
            check(connected == expected, || format!("{} {wrong}", instance.name))
        })
        .await?;
    }
    Ok(())
}

/// Ends one instance in good order, as for an update, and starts it again: with nobody to ask, it is who it was, and lets
/// in whom it was told to.
async fn restart(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let instance = stage.world.instance(RESTARTED)?;
    let before = instance.runner_pid();
    instance.stop().await;
    instance.start_again()?;
    instance.serves().await?;
    let samples = instance.samples().await?;
    let asked = samples.count("lighter_identity_requests_total", &[("outcome", "received")]);
    let told = ask(instance.inbound, "/reviews").await.map_err(say(RESTARTED))?;
    evidence.keep(
        "restarted",
        json!({
            "name": RESTARTED,
            "sidecar_pid": before,
            "sidecar_pid_after": instance.runner_pid(),
            "certificates_received": asked,
            "plain_text_caller": told.cause,
        }),
    );
    check(asked == 0, || format!("{RESTARTED} asked somebody for an identity"))?;
    check(told.cause.as_deref() == Some("plaintext_refused"), || {
        format!("{RESTARTED} answered a caller in plain text {} after its restart", told.status)
    })
}
