//! What the steps about wires have in common: what is seen of the link from web to catalog at both of its ends.

use serde_json::{Value, json};

use super::{Stage, check, check_unharmed, until};
use crate::demo::load::Load;
use crate::demo::report::Evidence;
use crate::demo::resources::WEB;
use crate::demo::samples::Samples;

/// The two ends of the link.
pub const ENDS: [&str; 2] = ["web", "catalog"];

/// Waits until both ends send over the wire.
pub async fn over(stage: &mut Stage<'_>, wire: &str) -> Result<(), String> {
    for name in ENDS {
        let instance = stage.world.instance(name)?;
        until(stage.limit, async || {
            let links = instance.samples().await?.sum("lighter_link_wire", &[("wire", wire)]);
            check(links >= 1.0, || format!("{name} sends nothing over {wire}"))
        })
        .await?;
    }
    Ok(())
}

/// Ends the load under which the link left the wire `breaks` times: everyone saw it there, and no request failed.
pub async fn finish(
    stage: &mut Stage<'_>,
    load: Load,
    wire: &str,
    breaks: u32,
    evidence: &mut Evidence,
) -> Result<(), String> {
    check_listed(stage, wire, evidence).await?;
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_carried(stage, wire, breaks, evidence).await?;
    check_unharmed(&total)
}

/// Waits until `lighter get links` shows both ends of the link on the wire. Sidecars report every few seconds.
pub async fn check_listed(stage: &mut Stage<'_>, wire: &str, evidence: &mut Evidence) -> Result<(), String> {
    let limit = stage.limit;
    let plane = stage.world.plane()?;
    until(limit, async || {
        let links = plane.links().await?;
        let is_end = |link: &&Value| {
            let [from, to] =
                [&link["sidecar"], &link["identity"]].map(|name| name.as_str().unwrap_or_default());
            let is_web = from.starts_with("default/web/") && to.ends_with("/sa/catalog");
            let is_catalog = from.starts_with("default/catalog/") && to == WEB;
            (is_web || is_catalog) && link["sendsOver"] == wire && link["receivesOver"] == wire
        };
        let ends: Vec<&Value> = links.iter().filter(is_end).collect();
        evidence.keep("lighter_get_links", &ends);
        check(ends.len() == ENDS.len(), || format!("`lighter get links` shows {} ends on {wire}", ends.len()))
    })
    .await
}

/// The wire carried bytes in both directions, and each end left it so often.
async fn check_carried(
    stage: &mut Stage<'_>,
    wire: &str,
    breaks: u32,
    evidence: &mut Evidence,
) -> Result<(), String> {
    let mut rows = Vec::new();
    for name in ENDS {
        let samples = stage.world.instance(name)?.samples().await?;
        rows.push(row(name, wire, &samples));
        evidence.keep("bytes_by_wire", &rows);
        check(bytes(&samples, "sent", wire) > 0 && bytes(&samples, "received", wire) > 0, || {
            format!("{name} carried nothing over {wire}")
        })?;
        let fell = samples.count("lighter_link_fallbacks_total", &[]);
        check(fell >= u64::from(breaks), || {
            format!("{breaks} breaks, and {name} went back to TCP {fell} times")
        })?;
    }
    Ok(())
}

/// What one end counted of the wire and of TCP.
fn row(name: &str, wire: &str, samples: &Samples) -> Value {
    let of =
        |wire| json!({"sent": bytes(samples, "sent", wire), "received": bytes(samples, "received", wire)});
    let mut row = json!({
        "name": name,
        "tcp": of("tcp"),
        "replayed": samples.count("lighter_link_replayed_bytes_total", &[]),
        "switches": samples.count("lighter_link_switches_total", &[]),
        "fallbacks": samples.count("lighter_link_fallbacks_total", &[]),
    });
    row[wire] = of(wire);
    row
}

fn bytes(samples: &Samples, direction: &str, wire: &str) -> u64 {
    samples.count("lighter_link_bytes_total", &[("direction", direction), ("wire", wire)])
}
