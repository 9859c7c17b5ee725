//! The link from web to catalog goes over to RDMA, while web works. An operator sends it back to TCP again and again; it goes
//! over again, and no request fails. Only where there is a device.

use serde_json::json;

use super::{Stage, check, wire};
use crate::demo::client::post;
use crate::demo::report::Evidence;
use crate::demo::say;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    evidence.keep("lighter_apply", stage.world.plane()?.apply(POLICY).await?);
    wire::over(stage, WIRE).await?;
    load.measure(stage.requests, stage.limit).await?;
    for _ in 0..BREAKS {
        let catalog = stage.world.instance("catalog")?.admin;
        post(catalog, "/links/freeze").await.map_err(say("catalog"))?;
        load.measure(stage.requests / u64::from(BREAKS), stage.limit).await?;
        wire::over(stage, WIRE).await?;
    }
    wire::finish(stage, load, WIRE, BREAKS, evidence).await?;
    let messages = stage.web().await?;
    let messages = ["sent", "received"]
        .map(|direction| messages.count("lighter_rdma_messages_total", &[("direction", direction)]));
    evidence.keep("messages_of_web", json!({"sent": messages[0], "received": messages[1]}));
    check(!messages.contains(&0), || "no message went through the device".into())
}

const WIRE: &str = "rdma";

/// How often the link is sent back.
const BREAKS: u32 = 3;

/// RDMA from the beginning, though these sidecars could share memory.
const POLICY: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: LinkPolicy
metadata: {name: links}
spec:
  wires: {shm: mustNot, rdma: should}
  backOff: 20ms
";
