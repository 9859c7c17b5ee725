//! A counter that lives in the memory of its service moves from one instance to another and to a third, while it is used. No
//! request fails, and each counts once. It is a plain server that gives its state and takes it when it is asked.

use std::path::Path;

use super::migrate::{Scene, Subject};
use super::{CALLERS, Stage, check};
use crate::demo::instance::Instance;
use crate::demo::load::{Counts, Load};
use crate::demo::plane::Plane;
use crate::demo::report::Evidence;
use crate::demo::say;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let pause = stage.pause;
    let scene = Scene::set(stage, &COUNTER, PLACES, start).await?;
    let load = Load::start(scene.door.listens, CALLERS, pause);
    let arrived = |to: &str, after: &Counts| {
        check(after.instances.keys().eq([&format!("counter/{to}")]), || {
            format!("others answer than {to}: {:?}", after.instances)
        })
    };
    scene.play(&load, evidence, arrived).await?;
    scene.finish(load, evidence).await?;
    scene.door.close().await;
    for mut place in scene.places {
        place.runs.stop().await;
    }
    Ok(())
}

async fn start(
    plane: &Plane,
    folder: &Path,
    [name, place]: [&'static str; 2],
) -> Result<(&'static str, Instance), String> {
    let instance = Instance::new([name, COUNTER.service, "counter", "v1", place], folder);
    let mut instance = instance.map_err(say("a free port"))?;
    instance.start(plane.invite(&instance).await?)?;
    instance.serves().await?;
    instance.registered().await?;
    Ok((place, instance))
}

const COUNTER: Subject = Subject {
    service: "counter",
    state: "{class: volatile, snapshot: /state, restore: /state}",
    caller: "caller",
    path: "/healthz",
};

/// What the demo calls them, and what they say of where they are.
const PLACES: [[&str; 2]; 3] = [["counter-one", "one"], ["counter-two", "two"], ["counter-host", "host"]];
