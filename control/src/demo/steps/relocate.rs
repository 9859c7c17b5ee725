//! A counter that lives in the memory of its service moves from one instance to another and to a third, while it is used. No
//! request fails, and each counts once. It is a plain server that gives its state and takes it when it is asked: what a function
//! on a device remembers moves in the same way, and needs `--features wasm`.

use std::time::Duration;

use serde_json::json;

use super::{CALLERS, Stage, check, check_none_failed, until};
use crate::demo::client::fetch;
use crate::demo::instance::Instance;
use crate::demo::load::{Counts, Load};
use crate::demo::plane::Plane;
use crate::demo::report::Evidence;
use crate::demo::runner::Runner;
use crate::demo::{ports, resources, say};

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let (requests, pause, limit) = (stage.requests, stage.pause, stage.limit);
    let folder = stage.world.folder().to_owned();
    let plane = stage.world.plane()?;
    plane.apply(&(resources::service(SERVICE) + STATE + &resources::service(CALLER))).await?;
    let mut places = Vec::new();
    for [name, place] in PLACES {
        let instance = Instance::new([name, SERVICE, "counter", "v1", place], &folder);
        let mut instance = instance.map_err(say("a free port"))?;
        let before = registered(plane).await?;
        instance.start(plane.invite(&instance).await?)?;
        instance.serves().await?;
        instance.registered().await?;
        let known = registered(plane).await?.into_iter().find(|known| !before.contains(known));
        places.push((place, known.ok_or("the control plane does not know who it is")?, instance));
    }
    let at = ports::free(2).map_err(say("a free port"))?;
    let (door, admin) = (at[0], at[1]);
    let own = format!(
        "admin: {admin}\nworkers: 1\ndrainDeadline: 200ms\nlisteners: [{{listen: '{door}', service: {SERVICE}, port: 80}}]\n{}",
        plane.invite_as(CALLER, CALLER).await?.to_yaml()
    );
    let file = folder.join("caller.yaml");
    std::fs::write(&file, own).map_err(say("the caller's file"))?;
    let proxy = ["proxy", "--config", &file.display().to_string()].map(str::to_owned);
    let mut caller = Runner::spawn("caller", &folder.join("caller.log"), &proxy)?;
    caller.until(async |_: &str| fetch(admin, "/ready").await.map(drop).map_err(say("the caller"))).await?;
    until(limit, async || fetch(door, "/healthz").await.map(drop).map_err(say("the counter"))).await?;

    let load = Load::start(door, CALLERS, pause);
    load.measure(requests, limit).await?;
    let mut moves = Vec::new();
    for pair in places.windows(2) {
        let [(from, old, _), (to, new, _)] = pair else { continue };
        let key = format!("counter/{to}");
        let arguments = ["migrate", SERVICE, "--from", old, "--to", new];
        let (said, meanwhile) = tokio::join!(
            plane.lighter(&arguments),
            load.wait(limit, |counts| counts.instances.contains_key(&key))
        );
        let (said, meanwhile) = (said?, meanwhile?);
        let after = load.measure(requests / 2, limit).await?;
        moves.push(json!({
            "from": from,
            "to": to,
            "longest_ms_without_an_answer": ms(meanwhile.longest_gap()),
            "longest_answer_ms": ms(meanwhile.longest()),
            "said": said.lines().last(),
        }));
        evidence.keep("moves", &moves);
        check(after.instances.keys().eq([&key]), || {
            format!("others answer than {to}: {:?}", after.instances)
        })?;
    }
    let total = load.finish().await;
    evidence.keep("load", &total);
    let counted = total.highest;
    evidence.keep("counter", counted);
    let losses = plane.samples().await?.count("lighter_control_state_losses_total", &[]);
    evidence.keep("states_lost", losses);
    caller.stop().await;
    for (_, _, mut instance) in places {
        instance.stop().await;
    }
    check_whole(&total, losses)
}

/// No request failed, each was counted once, and nothing was forgotten.
fn check_whole(total: &Counts, losses: u64) -> Result<(), String> {
    check_none_failed(total)?;
    check(total.highest == total.requests, || {
        format!("{} requests were answered, and the counter is at {}", total.requests, total.highest)
    })?;
    check(losses == 0, || format!("the state of a service was lost {losses} times"))
}

/// The instances of the counter that the control plane knows.
async fn registered(plane: &Plane) -> Result<Vec<String>, String> {
    let begins = format!("default/{SERVICE}/");
    let all = plane.sidecars().await?.into_iter();
    let names = all.filter_map(|sidecar| Some(sidecar["id"].as_str()?.strip_prefix(&begins)?.to_owned()));
    Ok(names.filter(|name| !name.is_empty()).collect())
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

const SERVICE: &str = "counter";
const CALLER: &str = "caller";

/// What the demo calls them, and what they say of where they are.
const PLACES: [[&str; 2]; 3] = [["counter-one", "one"], ["counter-two", "two"], ["counter-host", "host"]];

/// More of the Service.
const STATE: &str = "  state: {class: volatile, snapshot: /state, restore: /state}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_counted_twice_or_forgotten_is_found() {
        let good = Counts { requests: 100, highest: 100, ..Counts::default() };
        assert_eq!(check_whole(&good, 0), Ok(()));
        for highest in [99, 101] {
            let wrong = check_whole(&Counts { highest, ..good.clone() }, 0).unwrap_err();
            assert_eq!(wrong, format!("100 requests were answered, and the counter is at {highest}"));
        }
        assert!(check_whole(&good, 1).unwrap_err().contains("was lost 1 times"));
        let failed = Counts { failed: 1, failures: vec!["503: x".into()], ..good };
        assert!(check_whole(&failed, 0).unwrap_err().contains("503: x"));
    }
}
