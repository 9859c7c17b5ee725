//! The control plane dies under load, and while it is away two sidecars start again, one after the other, as for an update.
//! Everything goes on as it was told last. The control plane comes back, finds its sidecars again, and what is pushed then
//! arrives.

use std::time::Duration;

use serde_json::{Value, json};

use super::push::push;
use super::shift::check_share;
use super::{Stage, check, check_none_failed, until};
use crate::demo::client::ask;
use crate::demo::load::{Counts, Load};
use crate::demo::report::Evidence;
use crate::demo::resources::Split;
use crate::demo::say;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    load.measure(stage.requests, stage.limit).await?;

    let plane = stage.world.plane()?;
    let (killed, _) = plane.process()?;
    evidence.keep("killed", json!({"name": "control plane", "pid": killed.pid, "signal": "SIGKILL"}));
    plane.kill().await?;
    connected(stage, 0.0).await?;
    let away = load.measure(stage.requests, stage.limit).await?;
    evidence.keep("requests_while_away", away.requests);
    check_share("while it is away", TOLD_LAST, &away)?;

    let mut rows = Vec::new();
    let [one, other] = INSTANCES;
    for ((name, _), (_, other)) in [(one, other), (other, one)] {
        rows.push(restart(stage, &load, name, other).await?);
        evidence.keep("restarted", &rows);
    }
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

/// The instances that start again, and how each signs its answers.
const INSTANCES: [(&str, &str); 2] = [("reviews-v2-a", "v2/a"), ("reviews-v2-b", "v2/b")];

/// Waits until every sidecar has a stream to the control plane, or until none has.
async fn connected(stage: &mut Stage<'_>, expected: f64) -> Result<(), String> {
    for instance in &stage.world.instances {
        // Whoever lost it tries again less and less often.
        until(stage.limit.max(LONGEST_BACK_OFF), async || {
            let connected = instance.samples().await?.sum("lighter_xds_connected", &[]);
            let wrong = if connected == 0.0 { "has lost the control plane" } else { "has a control plane" };
            check(connected == expected, || format!("{} {wrong}", instance.name))
        })
        .await?;
    }
    Ok(())
}

/// Ends an instance in good order and starts it again: with nobody to ask, it is who it was, and lets in whom it was told
/// to. In between, the one that signs as `other` answers alone.
async fn restart(
    stage: &mut Stage<'_>,
    load: &Load,
    name: &'static str,
    other: &str,
) -> Result<Value, String> {
    let instance = stage.world.instance(name)?;
    let before = instance.runner_pid();
    instance.stop().await;
    let answers = |counts: &Counts| counts.instances.get(other).copied().unwrap_or_default();
    let alone = load.wait(stage.limit, |counts| answers(counts) >= ENOUGH).await;
    let alone = alone.map_err(|error| format!("without {name}: {error}"))?;
    instance.start_again()?;
    instance.serves().await?;
    let certificates = [("outcome", "received")];
    let certificates = instance.samples().await?.count("lighter_identity_requests_total", &certificates);
    let told = ask(instance.inbound, "/reviews").await.map_err(say(name))?;
    let restarted = json!({
        "name": name,
        "sidecar_pid": before,
        "sidecar_pid_after": instance.runner_pid(),
        "instances_meanwhile": alone.instances,
        "certificates_received": certificates,
        "plain_text_caller": told.cause,
    });
    check(certificates == 0, || format!("{name} asked somebody for an identity"))?;
    check(told.cause.as_deref() == Some("plaintext_refused"), || {
        format!("{name} answered a caller in plain text {} after its restart", told.status)
    })?;
    // As in any update, the next one has to wait until callers take this one for good.
    until(stage.limit, async || {
        let ejected = stage.web().await?.sum("lighter_endpoint_ejected", &[]);
        check(ejected == 0.0, || format!("web's sidecar still leaves {name} alone"))
    })
    .await?;
    Ok(restarted)
}

/// Longest wait of a sidecar before it tries to reach the control plane again.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(25);

/// Answers by which an instance is seen to serve.
const ENOUGH: u64 = 10;
