//! The link from web to catalog goes over to memory that both sidecars share, while web works. The ring is broken again
//! and again; the link goes back to TCP and over again, and no request fails.

use std::io;

use serde_json::{Value, json};

use super::{Stage, check, check_unharmed, until};
use crate::demo::client::post;
use crate::demo::report::Evidence;
use crate::demo::resources::WEB;
use crate::demo::samples::Samples;
use crate::demo::{rings, say};

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    load.measure(stage.requests, stage.limit).await?;
    evidence.keep("lighter_apply", stage.world.plane()?.apply(POLICY).await?);
    over_shm(stage).await?;
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
        over_shm(stage).await?;
    }
    check_listed(stage, evidence).await?;
    let total = load.finish().await;
    evidence.keep("load", &total);
    evidence.keep("rings_broken", broken);
    let mut rows = Vec::new();
    for name in ENDS {
        let samples = stage.world.instance(name)?.samples().await?;
        rows.push(wires(name, &samples));
        evidence.keep("bytes_by_wire", &rows);
        check(bytes(&samples, "sent", "shm") > 0 && bytes(&samples, "received", "shm") > 0, || {
            format!("{name} carried nothing over shared memory")
        })?;
        let fell = samples.count("lighter_link_fallbacks_total", &[]);
        check(fell >= u64::from(BREAKS), || {
            format!("{BREAKS} breaks, and {name} went back to TCP {fell} times")
        })?;
    }
    check_unharmed(&total)
}

/// Waits until `lighter get links` shows both ends of the link on shared memory. Sidecars report every few seconds.
async fn check_listed(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let limit = stage.limit;
    let plane = stage.world.plane()?;
    until(limit, async || {
        let links = plane.links().await?;
        let is_end = |link: &&Value| {
            let [from, to] =
                [&link["sidecar"], &link["identity"]].map(|name| name.as_str().unwrap_or_default());
            let is_web = from.starts_with("default/web/") && to.ends_with("/sa/catalog");
            let is_catalog = from.starts_with("default/catalog/") && to == WEB;
            (is_web || is_catalog) && link["sendsOver"] == "shm" && link["receivesOver"] == "shm"
        };
        let ends: Vec<&Value> = links.iter().filter(is_end).collect();
        evidence.keep("lighter_get_links", &ends);
        check(ends.len() == ENDS.len(), || {
            format!("`lighter get links` shows {} ends on shared memory", ends.len())
        })
    })
    .await
}

/// The two ends of the link.
const ENDS: [&str; 2] = ["web", "catalog"];

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

/// Waits until both ends send over shared memory.
async fn over_shm(stage: &mut Stage<'_>) -> Result<(), String> {
    for name in ENDS {
        let instance = stage.world.instance(name)?;
        until(stage.limit, async || {
            let links = instance.samples().await?.sum("lighter_link_wire", &[("wire", "shm")]);
            check(links >= 1.0, || format!("{name} sends over TCP alone"))
        })
        .await?;
    }
    Ok(())
}

/// What one end counted for each wire.
fn wires(name: &str, samples: &Samples) -> Value {
    let of =
        |wire| json!({"sent": bytes(samples, "sent", wire), "received": bytes(samples, "received", wire)});
    json!({
        "name": name,
        "shm": of("shm"),
        "tcp": of("tcp"),
        "replayed": samples.count("lighter_link_replayed_bytes_total", &[]),
        "switches": samples.count("lighter_link_switches_total", &[]),
        "fallbacks": samples.count("lighter_link_fallbacks_total", &[]),
    })
}

fn bytes(samples: &Samples, direction: &str, wire: &str) -> u64 {
    samples.count("lighter_link_bytes_total", &[("direction", direction), ("wire", wire)])
}
