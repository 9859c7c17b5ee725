//! Asks this workload's application whether it is well. Of the control thread.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lighter_config::probe::Probe;
use lighter_probe::Judge;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::dial;
use crate::worker::Shared;

/// Asks time after time, and says what is thought of it, until it is dropped. Nothing good is thought before the first answer.
pub(super) async fn run(shared: Arc<Shared>, probe: Probe, opinion: watch::Sender<bool>) {
    describe_counter!(
        "lighter_probe_answers_total",
        "Times that this workload's application was asked whether it is well."
    );
    describe_gauge!("lighter_probe_well", "Whether this workload's application is taken for well.");
    let answers = |outcome: &'static str| counter!("lighter_probe_answers_total", "outcome" => outcome);
    let (passed, failed, well) = (answers("passed"), answers("failed"), gauge!("lighter_probe_well"));
    let mut judge = Judge::new(false);
    well.set(0.0);
    loop {
        let Some(at) = application(&shared) else {
            // Its Service is not known yet.
            sleep(LOOK).await;
            continue;
        };
        let connect =
            async |at| dial::connect(&*shared.inside, at, probe.timeout).await.map_err(std::io::Error::other);
        let answer = lighter_probe::ask(&probe, at, connect).await;
        if answer.is_ok() { &passed } else { &failed }.increment(1);
        if judge.hear(&answer, &probe) {
            well.set(f64::from(u8::from(judge.is_well())));
            match answer {
                Ok(()) => tracing::info!("the application answers its probe"),
                Err(fault) => tracing::warn!(%fault, "the application does not answer its probe"),
            }
            opinion.send_replace(judge.is_well());
        }
        sleep(probe.interval).await;
    }
}

/// Where the application is asked: at its first port.
fn application(shared: &Shared) -> Option<SocketAddr> {
    if let Some(inbound) = shared.config.inbound.first() {
        return Some(inbound.app);
    }
    let mesh = shared.mesh.load();
    let own = mesh.config.services.get(shared.service()?)?;
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, own.ports.first()?.target_port)))
}

/// How often it is looked for what the Service's ports are.
const LOOK: Duration = Duration::from_secs(1);
