//! What the steps in which a service with state moves have in common.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Stage, check, check_none_failed, until};
use crate::demo::client::fetch;
use crate::demo::load::{Counts, Load};
use crate::demo::plane::Plane;
use crate::demo::report::Evidence;
use crate::demo::runner::Runner;
use crate::demo::{ports, resources, say};

/// A sidecar by which callers that know nothing of the mesh get at a service.
pub struct Door {
    /// Where they come.
    pub listens: SocketAddr,
    runner: Runner,
}

impl Door {
    /// Starts one to the Service, as somebody who is called so, and waits until `path` there is answered.
    async fn open(
        plane: &Plane,
        folder: &Path,
        name: &'static str,
        service: &str,
        path: &str,
        limit: Duration,
    ) -> Result<Self, String> {
        let at = ports::free(2).map_err(say("a free port"))?;
        let (listens, admin) = (at[0], at[1]);
        let own = format!(
            "admin: {admin}\nworkers: 1\ndrainDeadline: 200ms\nlisteners: [{{listen: '{listens}', service: {service}, port: 80}}]\n{}",
            plane.invite_as(name, CALLER).await?.to_yaml()
        );
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, own).map_err(say("the caller's file"))?;
        let mut runner = proxy(name, folder, &file)?;
        runner
            .until(async |_: &str| fetch(admin, "/ready").await.map(drop).map_err(say("the caller")))
            .await?;
        until(limit, async || fetch(listens, path).await.map(drop).map_err(say(name))).await?;
        Ok(Door { listens, runner })
    }

    /// Ends it in an orderly way.
    pub async fn close(self) {
        self.runner.stop().await;
    }
}

/// What moves, and who asks for it.
pub struct Subject {
    pub service: &'static str,
    /// What is said of its state.
    pub state: &'static str,
    /// What the callers' door is called, and what it asks for once it opens.
    pub caller: &'static str,
    pub path: &'static str,
}

/// A Service with state at the first of its places, and a door to it.
pub struct Scene<'a, P> {
    plane: &'a Plane,
    pub door: Door,
    pub places: Vec<Place<P>>,
    service: &'static str,
    requests: u64,
    limit: Duration,
    /// States that were lost before, as with the last instance of a step that is over.
    lost: u64,
}

/// Where the state can be.
pub struct Place<P> {
    /// What the demo calls it.
    pub name: &'static str,
    pub runs: P,
    /// What the control plane calls it.
    instance: String,
}

impl<'a, P> Scene<'a, P> {
    /// Tells the control plane of the Service, starts its places by what is said of each, one after the other, and opens the
    /// door. `start` returns once the place is registered.
    pub async fn set<Q>(
        stage: &'a mut Stage<'_>,
        subject: &Subject,
        said: impl IntoIterator<Item = Q>,
        start: impl AsyncFn(&Plane, &Path, Q) -> Result<(&'static str, P), String>,
    ) -> Result<Self, String> {
        let Subject { service, state, caller, path } = *subject;
        let (requests, limit) = (stage.requests, stage.limit);
        let folder = stage.world.folder().to_owned();
        let plane: &Plane = stage.world.plane()?;
        plane.apply(&with_state(service, state)).await?;
        let mut places = Vec::new();
        for said in said {
            let before = registered(plane, service).await?;
            let (name, runs) = start(plane, &folder, said).await?;
            let new = registered(plane, service).await?.into_iter().find(|known| !before.contains(known));
            let instance = new.ok_or("the control plane does not know who it is")?;
            places.push(Place { name, runs, instance });
        }
        let door = Door::open(plane, &folder, caller, service, path, limit).await?;
        let lost = losses(plane).await?;
        Ok(Scene { plane, door, places, service, requests, limit, lost })
    }

    /// Has the state go from each place to the next under the load. `arrived` gets what was seen there then.
    pub async fn play(
        &self,
        load: &Load,
        evidence: &mut Evidence,
        arrived: impl Fn(&str, &Counts) -> Result<(), String>,
    ) -> Result<(), String> {
        load.measure(self.requests, self.limit).await?;
        let mut moves = Vec::new();
        for pair in self.places.windows(2) {
            let [old, new] = pair else { continue };
            let both = [&*old.instance, &new.instance];
            let mut moved = migrate(self.plane, load, self.service, both, self.limit).await?;
            (moved["from"], moved["to"]) = (old.name.into(), new.name.into());
            moves.push(moved);
            evidence.keep("moves", &moves);
            arrived(new.name, &load.measure(self.requests / 2, self.limit).await?)?;
        }
        Ok(())
    }

    /// Ends the load: no request failed, each was counted once, and the control plane has lost no state.
    pub async fn finish(&self, load: Load, evidence: &mut Evidence) -> Result<Counts, String> {
        let total = load.finish().await;
        evidence.keep("load", &total);
        evidence.keep("counter", total.highest());
        let losses = losses(self.plane).await?.saturating_sub(self.lost);
        evidence.keep("states_lost", losses);
        check_whole(&total, losses)?;
        Ok(total)
    }
}

/// Starts a sidecar that is alone, with this file.
pub fn proxy(name: &'static str, folder: &Path, file: &Path) -> Result<Runner, String> {
    let arguments = ["proxy", "--config", &file.display().to_string()].map(str::to_owned);
    Runner::spawn(name, &folder.join(format!("{name}.log")), &arguments)
}

/// Moves the service from one instance to another, and says what was seen of it under the load that goes on.
async fn migrate(
    plane: &Plane,
    load: &Load,
    service: &str,
    [from, to]: [&str; 2],
    limit: Duration,
) -> Result<Value, String> {
    let over = Cell::new(false);
    let command = async {
        let said = plane.lighter(&["migrate", service, "--from", from, "--to", to]).await;
        over.set(true);
        said
    };
    // To the first answer behind it, at least.
    let (said, meanwhile) = tokio::join!(command, load.wait(limit, |_| over.get()));
    let (said, meanwhile) = (said?, meanwhile?);
    Ok(json!({
        "longest_ms_without_an_answer": ms(meanwhile.longest_gap()),
        "longest_answer_ms": ms(meanwhile.longest()),
        "said": said.lines().last(),
    }))
}

/// How often the state of a service was lost.
async fn losses(plane: &Plane) -> Result<u64, String> {
    Ok(plane.samples().await?.count("lighter_control_state_losses_total", &[]))
}

/// The instances of a Service that the control plane knows.
async fn registered(plane: &Plane, service: &str) -> Result<Vec<String>, String> {
    let begins = format!("default/{service}/");
    let all = plane.sidecars().await?.into_iter();
    let names = all.filter_map(|sidecar| Some(sidecar["id"].as_str()?.strip_prefix(&begins)?.to_owned()));
    Ok(names.filter(|name| !name.is_empty()).collect())
}

/// What the control plane is told of a service that keeps state, and of who calls it.
fn with_state(service: &str, state: &str) -> String {
    format!("{}  state: {state}\n{}", resources::service(service), resources::service(CALLER))
}

fn check_whole(total: &Counts, losses: u64) -> Result<(), String> {
    check_none_failed(total)?;
    check(total.counted_each_once(), || {
        format!(
            "{} requests were answered, not each with a number of its own, and the counter is at {}",
            total.requests,
            total.highest()
        )
    })?;
    check(losses == 0, || format!("the state of a service was lost {losses} times"))
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Whom callers' sidecars speak for.
const CALLER: &str = "caller";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_counted_twice_or_forgotten_is_found() {
        let good = Counts { requests: 100, counted: (1..=100).rev().collect(), ..Counts::default() };
        assert_eq!(check_whole(&good, 0), Ok(()));
        let twice = (1..=100).map(|count| if count == 50 { 51 } else { count });
        for counted in [(1..=99).collect(), (2..=101).collect(), twice.collect()] {
            let wrong = check_whole(&Counts { counted, ..good.clone() }, 0).unwrap_err();
            assert!(wrong.starts_with("100 requests were answered, not each"), "{wrong}");
        }
        assert!(check_whole(&good, 1).unwrap_err().contains("was lost 1 times"));
        let failed = Counts { failed: 1, failures: vec!["503: x".into()], ..good };
        assert!(check_whole(&failed, 0).unwrap_err().contains("503: x"));
    }
}
