//! The link from web to catalog goes over to memory that both sidecars share, while web works. The ring is broken again
//! and again; the link goes back to TCP and over again, and no request fails.

use std::io;

use super::{Stage, check, wire};
use crate::demo::client::post;
use crate::demo::report::Evidence;
use crate::demo::{rings, say};

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    load.measure(stage.requests, stage.limit).await?;
    evidence.keep("lighter_apply", stage.world.plane()?.apply(POLICY).await?);
    wire::over(stage, WIRE).await?;
    load.measure(stage.requests, stage.limit).await?;

    let mut broken = 0;
    for _ in 0..BREAKS {
        let (catalog, before) = (stage.world.instance("catalog")?, broken);
        let pid = catalog.runner_pid().ok_or("catalog is not running")?;
        match rings::end_all(pid) {
            Ok(ended) => broken += ended,
            // In a container nobody may trace, and so reach into, another process. The sidecar does it to itself.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                post(catalog.admin, "/links/freeze").await.map_err(say("catalog"))?;
                evidence.keep("broken_by", "the operator, as no other process may be traced here");
                broken += 1;
            }
            Err(error) => return Err(format!("the ring cannot be broken: {error}")),
        }
        load.measure(stage.requests / u64::from(BREAKS), stage.limit).await?;
        check(broken > before, || "there was no ring to break".into())?;
        wire::over(stage, WIRE).await?;
    }
    evidence.keep("rings_broken", broken);
    wire::finish(stage, load, WIRE, BREAKS, evidence).await
}

const WIRE: &str = "shm";

/// How often the ring is broken.
const BREAKS: u32 = 5;

/// Shared memory from the beginning, and again soon after it failed: on a quiet demo no link is hot.
const POLICY: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: LinkPolicy
metadata: {name: links}
spec:
  wires: {shm: should}
  backOff: 20ms
";
