//! Services reach each other by name though nobody told them of a mesh: their connections are redirected in network
//! namespaces of their own, and counted per route at both ends.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Stage, check, check_unharmed};
use crate::demo::SERVE;
use crate::demo::client::fetch;
use crate::demo::instance::Instance;
use crate::demo::processes;
use crate::demo::report::Evidence;
use crate::demo::samples::Samples;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    check_namespaces(stage, evidence)?;
    let rules_before = rules(stage.world.instance("web")?).await?;
    let before = Ends::read(stage).await?;

    let load = stage.load()?;
    load.measure(stage.requests, stage.limit).await?;
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_unharmed(&total)?;

    let rules_after = rules(stage.world.instance("web")?).await?;
    check_rules(&rules_before, &rules_after, evidence)?;
    Ends::read(stage).await?.check_since(&before, total.requests, evidence)
}

/// Every application is a process of its own in a network namespace of its own.
fn check_namespaces(stage: &Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let host = processes::network_namespace("self").map_err(|error| error.to_string())?;
    let mut namespaces = BTreeSet::from([host]);
    let mut seen = Vec::new();
    for instance in &stage.world.instances {
        let runner = instance.runner_pid().ok_or_else(|| format!("{} is not running", instance.name))?;
        let application = processes::application(runner, SERVE)
            .map_err(|error| format!("{}'s application: {error}", instance.name))?;
        namespaces.insert(application.network_namespace);
        seen.push(json!({
            "name": instance.name,
            "pid": application.pid,
            "sidecar_pid": runner,
            "network_namespace": application.network_namespace,
        }));
    }
    evidence.keep("host_network_namespace", host);
    evidence.keep("services", seen);
    check(namespaces.len() == 1 + stage.world.instances.len(), || {
        "two services, or a service and the host, share a network namespace".into()
    })
}

/// `/intercept` of a sidecar.
#[derive(Deserialize)]
struct Interception {
    rules: Vec<Rule>,
}

/// A rule in the kernel, with what it has redirected.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Rule {
    rule: String,
    packets: u64,
}

async fn rules(instance: &Instance) -> Result<Vec<Rule>, String> {
    let text = fetch(instance.admin, "/intercept").await.map_err(|error| format!("/intercept: {error}"))?;
    let interception: Interception =
        serde_json::from_str(&text).map_err(|error| format!("/intercept: {error}: {text}"))?;
    Ok(interception.rules)
}

/// The kernel's own counters rose: connections and name look-ups went through the rules.
fn check_rules(before: &[Rule], after: &[Rule], evidence: &mut Evidence) -> Result<(), String> {
    let packets = |rules: &[Rule], named: &str| -> u64 {
        rules.iter().filter(|rule| rule.rule.starts_with(named)).map(|rule| rule.packets).sum()
    };
    let rows: Vec<_> = after
        .iter()
        .map(|rule| json!({"rule": rule.rule, "before": packets(before, &rule.rule), "after": rule.packets}))
        .collect();
    evidence.keep("web_rules", rows);
    for (rule, what) in [("outbound", "connection"), ("dns", "name look-up")] {
        check(packets(after, rule) > packets(before, rule), || format!("no {what} of web was redirected"))?;
    }
    Ok(())
}

/// Requests to one Service as counted at both ends: by web's sidecar, and by the sidecars of those it went to.
pub(super) struct Ends {
    catalog: [u64; 2],
    reviews: [u64; 2],
}

impl Ends {
    pub(super) async fn read(stage: &mut Stage<'_>) -> Result<Self, String> {
        let web = stage.world.instance("web")?.samples().await?;
        let mut received = [0, 0];
        for instance in &stage.world.instances {
            let at = match instance.service {
                "web" => continue,
                "catalog" => 0,
                _ => 1,
            };
            received[at] += requests(&instance.samples().await?, "inbound", instance.service);
        }
        Ok(Ends {
            catalog: [requests(&web, "outbound", "catalog"), received[0]],
            reviews: [requests(&web, "outbound", "reviews"), received[1]],
        })
    }

    /// Each page made one request to each Service, which was counted once at each end. The counters of `before`
    /// have the readiness checks in them, which did not come from web.
    pub(super) fn check_since(
        &self,
        before: &Ends,
        pages: u64,
        evidence: &mut Evidence,
    ) -> Result<(), String> {
        let mut rows = Vec::new();
        for (service, now, before) in
            [("catalog", self.catalog, before.catalog), ("reviews", self.reviews, before.reviews)]
        {
            let [sent, received] = [now[0] - before[0], now[1] - before[1]];
            rows.push(json!({"service": service, "sent_by_web": sent, "received": received}));
            evidence.keep("requests", &rows);
            check(sent == pages && received == pages, || {
                format!("{pages} pages, but {sent} requests to {service} sent and {received} received")
            })?;
        }
        Ok(())
    }
}

fn requests(samples: &Samples, direction: &str, service: &str) -> u64 {
    let service = format!("default/{service}");
    samples.count("lighter_requests_total", &[("direction", direction), ("service", &service)])
}
