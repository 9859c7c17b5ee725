//! The demo's steps. Each does something to what runs, and proves by what it then sees that it went well.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::POLL;
use super::load::{Counts, Load};
use super::report::Evidence;
use super::resources::Split;
use super::samples::Samples;
use super::world::World;

mod down;
mod function;
mod heal;
mod intercept;
mod migrate;
mod mtls;
mod push;
mod quic;
mod rdma;
mod relocate;
mod shift;
mod shm;
mod wire;

/// The steps' names, in order. From `mtls` on there is a control plane.
pub const NAMES: [&str; 10] = [
    "intercept",
    "route-shift",
    "heal",
    "mtls",
    "push",
    "control-down",
    "wire-shm",
    "link-quic",
    "move",
    "move-function",
];

/// Behind those, where there is an RDMA device.
pub const RDMA: &str = "wire-rdma";

/// What a step works with.
pub struct Stage<'a> {
    /// What runs.
    pub world: &'a mut World,
    /// Requests in each measured phase.
    pub requests: u64,
    /// Between a caller's requests.
    pub pause: Duration,
    /// Longest time for each phase.
    pub limit: Duration,
}

/// Does the step `name`, keeping in `evidence` what was seen. Fails with what was not as it should be.
pub async fn execute(name: &str, stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    match name {
        "intercept" => intercept::execute(stage, evidence).await,
        "route-shift" => shift::execute(stage, evidence).await,
        "heal" => heal::execute(stage, evidence).await,
        "mtls" => mtls::execute(stage, evidence).await,
        "push" => push::execute(stage, evidence).await,
        "control-down" => down::execute(stage, evidence).await,
        "wire-shm" => shm::execute(stage, evidence).await,
        "link-quic" => quic::execute(stage, evidence).await,
        "move" => relocate::execute(stage, evidence).await,
        "move-function" => function::execute(stage, evidence).await,
        RDMA => rdma::execute(stage, evidence).await,
        other => Err(format!("no step {other}")),
    }
}

/// Callers in parallel. Each has one connection.
const CALLERS: usize = 8;

impl Stage<'_> {
    /// Starts the load on web's sidecar.
    fn load(&mut self) -> Result<Load, String> {
        Ok(Load::start(self.world.instance("web")?.inbound, CALLERS, self.pause))
    }

    /// What web's sidecar has counted so far.
    async fn web(&mut self) -> Result<Samples, String> {
        self.world.instance("web")?.samples().await
    }

    /// Changes the resource file and waits until web's sidecar has taken notice.
    async fn split(&mut self, split: Split) -> Result<(), String> {
        let loads = |samples: &Samples, outcome: &str| {
            samples.count("lighter_config_loads_total", &[("outcome", outcome)])
        };
        let before = self.web().await?;
        self.world.split(split)?;
        let deadline = Instant::now() + self.limit;
        loop {
            let now = self.web().await?;
            let rose = |outcome| loads(&now, outcome) > loads(&before, outcome);
            check(!rose("rejected"), || "web's sidecar refuses the changed file".into())?;
            if rose("applied") || rose("unchanged") {
                return Ok(());
            }
            check(Instant::now() < deadline, || "web's sidecar takes no notice of the changed file".into())?;
            sleep(POLL).await;
        }
    }
}

/// Looks again and again until nothing is missing, for `limit` at most. Fails with what is missing then.
pub(super) async fn until(
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<(), String>,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Err(missing) if Instant::now() > deadline => return Err(missing),
            Err(_) => sleep(POLL).await,
            Ok(()) => return Ok(()),
        }
    }
}

/// Says what is wrong if `holds` is false.
pub(super) fn check(holds: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(wrong()) }
}

/// No request failed, and no connection was closed on anyone.
fn check_unharmed(total: &Counts) -> Result<(), String> {
    check_none_failed(total)?;
    check(total.dialled == CALLERS as u64, || {
        format!("{CALLERS} callers needed {} connections: some were closed on them", total.dialled)
    })?;
    check(total.services_lost == 0, || {
        format!("{} connections were closed on the services", total.services_lost)
    })
}

/// No request failed.
fn check_none_failed(total: &Counts) -> Result<(), String> {
    check(total.failed == 0, || {
        format!("{} of {} requests failed: {}", total.failed, total.requests, total.failures.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_or_request_is_found() {
        let good = Counts { requests: 100, dialled: CALLERS as u64, ..Counts::default() };
        assert_eq!(check_unharmed(&good), Ok(()));
        let lost = Counts { services_lost: 1, ..good.clone() };
        assert!(check_unharmed(&lost).unwrap_err().contains("closed on the services"));
        let redialled = Counts { dialled: CALLERS as u64 + 1, ..good.clone() };
        assert!(check_unharmed(&redialled).unwrap_err().contains("needed 9 connections"));
        let failed = Counts { failed: 1, failures: vec!["502: x".into()], ..good };
        assert_eq!(check_unharmed(&failed), Err("1 of 100 requests failed: 502: x".into()));
    }
}
