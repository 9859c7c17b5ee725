//! The link from web to catalog goes over QUIC, while web works; then a policy forbids that, and allows it again. No request
//! fails.

use serde_json::{Value, json};

use super::wire::{self, ENDS};
use super::{Stage, check, check_unharmed, until};
use crate::demo::report::Evidence;
use crate::demo::samples::Samples;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    load.measure(stage.requests, stage.limit).await?;
    for turn in ["lighter_apply", "lighter_apply_again"] {
        evidence.keep(turn, stage.world.plane()?.apply(&policy("should")).await?);
        wire::over(stage, WIRE).await?;
        load.measure(stage.requests, stage.limit).await?;
        if turn == "lighter_apply" {
            wire::check_listed(stage, WIRE, evidence).await?;
            let left = |samples: &Samples| {
                let labels = [("to", "tcp"), ("cause", "forbidden")];
                samples.count("lighter_quic_switches_total", &labels)
            };
            let before = left(&stage.world.instance("web")?.samples().await?);
            evidence.keep("lighter_apply_must_not", stage.world.plane()?.apply(&policy("mustNot")).await?);
            let (web, limit) = (stage.world.instance("web")?, stage.limit);
            until(limit, async || {
                let samples = web.samples().await?;
                let links = samples.sum("lighter_link_wire", &[("wire", WIRE)]);
                check(links == 0.0, || "web still sends over QUIC".into())?;
                // Catalog hears of the policy as well, and may leave the link before web has looked. Until web has, it is not to
                // hear of another one.
                check(left(&samples) > before, || "web has not gone back to TCP".into())
            })
            .await?;
            load.measure(stage.requests, stage.limit).await?;
        }
    }
    let total = load.finish().await;
    evidence.keep("load", &total);
    let mut rows = Vec::new();
    for name in ENDS {
        let row = row(name, &stage.world.instance(name)?.samples().await?);
        let streams = row["streams"].as_u64();
        rows.push(row);
        evidence.keep("quic", &rows);
        check(streams > Some(0), || format!("{name} carried nothing over QUIC"))?;
    }
    check_unharmed(&total)
}

/// What one end counted.
fn row(name: &str, samples: &Samples) -> Value {
    let bytes =
        |direction| samples.count("lighter_link_bytes_total", &[("direction", direction), ("wire", WIRE)]);
    json!({
        "name": name,
        "streams": samples.count("lighter_quic_streams_total", &[]),
        "handshakes": samples.count("lighter_quic_handshakes_total", &[("outcome", "done")]),
        "switches_to_quic": samples.count("lighter_quic_switches_total", &[("to", "quic")]),
        "switches_to_tcp": samples.count("lighter_quic_switches_total", &[("to", "tcp")]),
        "sent": bytes("sent"),
        "received": bytes("received"),
    })
}

fn policy(uses: &str) -> String {
    POLICY.replace("USES", uses)
}

const WIRE: &str = "quic";

/// Shared memory stays out of it: catalog is on the same machine.
const POLICY: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: LinkPolicy
metadata: {name: links}
spec:
  wires: {shm: mustNot, quic: USES}
";
