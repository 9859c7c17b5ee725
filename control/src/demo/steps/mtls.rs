//! Everything starts anew around a control plane. The services get identities by join tokens, find each other without any
//! file, and call each other in mTLS. Who proves nothing, or to be somebody else than the one who may, is refused.

use serde_json::json;

use super::intercept::Ends;
use super::{Stage, check, check_unharmed};
use crate::demo::client::ask;
use crate::demo::report::Evidence;
use crate::demo::resources::{Split, WEB};
use crate::demo::samples::Samples;
use crate::demo::say;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    stage.world.join(SPLIT).await?;
    let plane = stage.world.plane()?;
    let (process, sidecar) = plane.process()?;
    evidence.keep(
        "control_plane",
        json!({"pid": process.pid, "sidecar_pid": sidecar, "network_namespace": process.network_namespace}),
    );
    let identities = plane.issued();
    evidence.keep("identities", &identities);
    check(identities.len() == stage.world.instances.len(), || "not every service got a certificate".into())?;

    let before = Ends::read(stage).await?;
    let load = stage.load()?;
    load.measure(stage.requests, stage.limit).await?;
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_unharmed(&total)?;
    Ends::read(stage).await?.check_since(&before, total.requests, evidence)?;
    check_proofs(stage, total.requests, evidence).await?;
    refuse_plain_text(stage, evidence).await?;
    refuse_stranger(stage, evidence).await
}

const SPLIT: Split = Split { v1: 100, v2: 0 };

/// The services that web called were called by web alone, which proved to be web each time, and every request went over a
/// link: one connection for all of them.
async fn check_proofs(stage: &mut Stage<'_>, pages: u64, evidence: &mut Evidence) -> Result<(), String> {
    let streams = |samples: &Samples, side| samples.count("lighter_link_streams_total", &[("side", side)]);
    let opened = streams(&stage.web().await?, "opener");
    evidence.keep("link_streams_of_web", opened);
    let mut rows = Vec::new();
    let mut accepted = 0;
    for name in ["catalog", "reviews-v1"] {
        let samples = stage.world.instance(name)?.samples().await?;
        let by_web = connections(&samples, &[("security", "mtls"), ("caller", WEB), ("outcome", "served")]);
        let served = connections(&samples, &[("outcome", "served")]);
        let taken = streams(&samples, "acceptor");
        accepted += taken;
        rows.push(json!({
            "service": name,
            "caller": WEB,
            "connections": by_web,
            "all_connections": served,
            "link_streams": taken,
        }));
        evidence.keep("connections", &rows);
        check(by_web > 0 && by_web == served, || {
            format!("{name} served {served} connections, and {by_web} of them to web in mTLS")
        })?;
        check(taken >= pages, || format!("{pages} pages, and {taken} requests to {name} over links"))?;
    }
    check(opened == accepted, || {
        format!("web sent {opened} requests over links, and {accepted} of them arrived")
    })
}

/// A caller that is not in the mesh.
async fn refuse_plain_text(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let catalog = stage.world.instance("catalog")?;
    let refused = [("security", "plaintext"), ("outcome", "refused")];
    let before = connections(&catalog.samples().await?, &refused);
    let told = ask(catalog.inbound, "/books").await.map_err(say("catalog"))?;
    let counted = connections(&catalog.samples().await?, &refused) - before;
    evidence.keep(
        "plain_text_caller",
        json!({"status": told.status, "cause": told.cause, "refused_at_catalog": counted}),
    );
    check(told.cause.as_deref() == Some("plaintext_refused") && counted == 1, || {
        format!("a caller in plain text was answered {}: {}", told.status, told.body.trim())
    })
}

/// A service of the mesh, with a good certificate, that does what web does and was never allowed to.
async fn refuse_stranger(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let denied =
        |samples: &Samples| samples.count("lighter_authorization_decisions_total", &[("decision", "denied")]);
    let before = denied(&stage.world.instance("catalog")?.samples().await?);
    let mut stranger = stage.world.stranger().await?;
    let told = ask(stranger.inbound, "/").await.map_err(say("stranger"))?;
    let identity = stage.world.plane()?.issued().pop();
    let counted = denied(&stage.world.instance("catalog")?.samples().await?) - before;
    evidence.keep(
        "wrong_identity_caller",
        json!({"identity": identity, "was_told": told.body.trim(), "denied_at_catalog": counted}),
    );
    stranger.stop().await;
    check(told.body.contains("catalog answered 403") && counted == 1, || {
        format!("the wrong caller was answered {}: {}", told.status, told.body.trim())
    })
}

fn connections(samples: &Samples, labels: &[(&str, &str)]) -> u64 {
    samples.count("lighter_inbound_connections_total", labels)
}
