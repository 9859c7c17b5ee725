//! An instance dies under load, sidecar and all, as when its machine goes away. No request fails: what it did not
//! answer is asked of the other instance, and it is left alone. It comes back, and gets its share again.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{CALLERS, Stage, check, check_none_failed};
use crate::demo::POLL;
use crate::demo::load::{Counts, Load};
use crate::demo::report::Evidence;
use crate::demo::resources::Split;
use crate::demo::samples::Samples;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    stage.split(SPLIT).await?;
    open_connections(stage).await?;
    let load = stage.load()?;
    // A balancer that goes by latency may leave the slower one alone for a while.
    let both =
        |counts: &Counts| counts.requests >= stage.requests && counts.instances.len() == INSTANCES.len();
    let before =
        load.wait(stage.limit, both).await.map_err(|error| format!("not both instances: {error}"))?;
    let counted_before = Counted::of(&stage.web().await?);
    evidence.keep("instances_before", &before.instances);

    // The busier one, so that requests are on their way to it.
    let taken = |signature: &str| before.instances.get(signature).copied();
    let [one, other] = INSTANCES;
    let (victim, signature) = if taken(one.1) > taken(other.1) { one } else { other };
    let instance = stage.world.instance(victim)?;
    evidence
        .keep("killed", json!({"name": victim, "sidecar_pid": instance.runner_pid(), "signal": "SIGKILL"}));
    instance.kill().await?;
    let during = load.measure(stage.requests, stage.limit).await?;
    evidence.keep("instances_while_dead", &during.instances);
    let counted = healed(stage, &counted_before).await?;
    evidence.keep("retries", counted.retries);
    evidence.keep("ejections", counted.ejections);
    check_none_failed(&load.total())?;
    check(!during.instances.contains_key(signature), || format!("{victim} answered after its death"))?;
    check(counted.retries > 0, || "no request was tried again".into())?;
    check(counted.ejections > 0, || "the dead instance was not ejected".into())?;

    let instance = stage.world.instance(victim)?;
    instance.start_elsewhere()?;
    instance.serves().await?;
    evidence.keep("sidecar_pid_after", instance.runner_pid());
    // Whoever lists endpoints lists one when it serves; here that is the file.
    stage.split(SPLIT).await?;
    let back = |count: &u64| *count >= ENOUGH;
    let after = load
        .wait(stage.limit, |counts| counts.instances.get(signature).is_some_and(back))
        .await
        .map_err(|error| format!("{victim} gets no traffic after its return: {error}"))?;
    evidence.keep("instances_after", &after.instances);
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_none_failed(&total)
}

/// Has web's sidecar open more connections to both instances than the load will need.
///
/// A request that may run twice is asked again when a kept connection is cut, but on a new one only where the instance
/// had not read it. This step promises that nothing fails, so it makes new connections rare.
async fn open_connections(stage: &mut Stage<'_>) -> Result<(), String> {
    let crowd = Load::start(stage.world.instance("web")?.inbound, 3 * CALLERS, Duration::ZERO);
    crowd.measure(stage.requests, stage.limit).await?;
    check_none_failed(&crowd.finish().await)
}

/// Everything goes to the version that has two instances.
const SPLIT: Split = Split { v1: 0, v2: 100 };

/// The instances of reviews-v2, and how each signs its answers.
const INSTANCES: [(&str, &str); 2] = [("reviews-v2-a", "v2/a"), ("reviews-v2-b", "v2/b")];

/// Answers by which an instance is seen to be back.
const ENOUGH: u64 = 10;

/// Waits until the dead instance is left alone: how soon it has failed often enough for that depends on how often it
/// is chosen. What was counted since `before` is given either way.
async fn healed(stage: &mut Stage<'_>, before: &Counted) -> Result<Counted, String> {
    let deadline = Instant::now() + stage.limit;
    loop {
        let counted = Counted::of(&stage.web().await?).since(before);
        if counted.ejections > 0 || Instant::now() > deadline {
            return Ok(counted);
        }
        sleep(POLL).await;
    }
}

/// What web's sidecar counted of the trouble.
struct Counted {
    retries: u64,
    ejections: u64,
}

impl Counted {
    fn of(samples: &Samples) -> Self {
        Counted {
            retries: samples.count("lighter_retries_total", &[("direction", "outbound")]),
            ejections: samples
                .count("lighter_endpoint_ejections_total", &[("service", "default/reviews-v2")]),
        }
    }

    fn since(&self, before: &Counted) -> Self {
        Counted { retries: self.retries - before.retries, ejections: self.ejections - before.ejections }
    }
}
