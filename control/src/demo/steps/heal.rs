//! An instance dies under load, sidecar and all, as when its machine goes away. No request fails: what it did not
//! answer is asked of the other instance, and it is left alone until it is back.

use serde_json::json;

use super::{Stage, check, check_none_failed};
use crate::demo::report::Evidence;
use crate::demo::resources::Split;
use crate::demo::samples::Samples;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    stage.split(Split { v1: 0, v2: 100 }).await?;
    let load = stage.load()?;
    let before = load.measure(stage.requests, stage.limit).await?;
    let counted_before = Counted::of(&stage.web().await?);
    evidence.keep("instances_before", &before.instances);
    check(before.instances.len() == 2, || "one of the two instances got no request".into())?;

    let victim = stage.world.instance(VICTIM)?;
    evidence.keep("killed", json!({"name": VICTIM, "sidecar_pid": victim.runner_pid(), "signal": "SIGKILL"}));
    victim.kill().await?;
    let during = load.measure(stage.requests, stage.limit).await?;
    evidence.keep("instances_while_dead", &during.instances);
    let counted = Counted::of(&stage.web().await?).since(&counted_before);
    evidence.keep("retries", counted.retries);
    evidence.keep("ejections", counted.ejections);
    check_none_failed(&load.total())?;
    check(!during.instances.contains_key(SIGNATURE), || format!("{SIGNATURE} answered after its death"))?;
    check(counted.retries > 0, || "no request was tried again".into())?;
    check(counted.ejections > 0, || "the dead instance was not ejected".into())?;

    let resources = stage.world.resources();
    let victim = stage.world.instance(VICTIM)?;
    victim.start(&resources)?;
    victim.serves().await?;
    evidence.keep("sidecar_pid_after", victim.runner_pid());
    let back = |count: u64| count >= ENOUGH;
    let after = load
        .wait(stage.limit, |counts| counts.instances.get(SIGNATURE).copied().is_some_and(back))
        .await
        .map_err(|error| format!("{VICTIM} gets no traffic after its return: {error}"))?;
    evidence.keep("instances_after", &after.instances);
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_none_failed(&total)
}

/// The instance that is killed.
const VICTIM: &str = "reviews-v2-a";

/// How it signs its answers.
const SIGNATURE: &str = "v2/a";

/// Answers by which it is seen to be back.
const ENOUGH: u64 = 10;

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
