//! A counter that lives in the memory of its service moves from one instance to another and to a third, while it is used. No
//! request fails, and each counts once. It is a plain server that gives its state and takes it when it is asked.

use super::migrate::{self, Door, registered, with_state};
use super::{CALLERS, Stage, check};
use crate::demo::instance::Instance;
use crate::demo::load::Load;
use crate::demo::report::Evidence;
use crate::demo::say;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let (requests, pause, limit) = (stage.requests, stage.pause, stage.limit);
    let folder = stage.world.folder().to_owned();
    let plane = stage.world.plane()?;
    plane.apply(&with_state(SERVICE, STATE)).await?;
    let mut places = Vec::new();
    for [name, place] in PLACES {
        let instance = Instance::new([name, SERVICE, "counter", "v1", place], &folder);
        let mut instance = instance.map_err(say("a free port"))?;
        let before = registered(plane, SERVICE).await?;
        instance.start(plane.invite(&instance).await?)?;
        instance.serves().await?;
        instance.registered().await?;
        let known = registered(plane, SERVICE).await?.into_iter().find(|known| !before.contains(known));
        places.push((place, known.ok_or("the control plane does not know who it is")?, instance));
    }
    let door = Door::open(plane, &folder, "caller", SERVICE, "/healthz", limit).await?;

    let load = Load::start(door.listens, CALLERS, pause);
    load.measure(requests, limit).await?;
    let mut moves = Vec::new();
    for pair in places.windows(2) {
        let [(from, old, _), (to, new, _)] = pair else { continue };
        let mut moved = migrate::migrate(plane, &load, SERVICE, [old, new], limit).await?;
        (moved["from"], moved["to"]) = ((*from).into(), (*to).into());
        moves.push(moved);
        evidence.keep("moves", &moves);
        let after = load.measure(requests / 2, limit).await?;
        check(after.instances.keys().eq([&format!("counter/{to}")]), || {
            format!("others answer than {to}: {:?}", after.instances)
        })?;
    }
    migrate::finish(plane, load, evidence).await?;
    door.close().await;
    for (_, _, mut instance) in places {
        instance.stop().await;
    }
    Ok(())
}

const SERVICE: &str = "counter";

/// What the demo calls them, and what they say of where they are.
const PLACES: [[&str; 2]; 3] = [["counter-one", "one"], ["counter-two", "two"], ["counter-host", "host"]];

/// What is said of its state.
const STATE: &str = "{class: volatile, snapshot: /state, restore: /state}";
