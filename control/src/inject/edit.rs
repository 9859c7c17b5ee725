//! Puts a sidecar into pods, and takes it out again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sidecar;
use super::wishes::{self, Defaults, Wishes, annotation};
use super::workload::{self, Workload};
use super::yaml::{Node, Scalar};

/// The annotation that says what was put in, so that it can be taken out.
pub(super) const INJECTED: &str = "injected";
/// The annotation with the sidecar's own file.
pub(super) const SIDECAR: &str = "sidecar";

/// What became of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has a sidecar as it is to be: by now, or it had it before.
    Injected,
    /// It was left as it was, or without a sidecar, for this reason.
    LeftOut(&'static str),
    /// Its annotations are at fault, and it was left as it was.
    Refused(Vec<String>),
    /// Its sidecar was taken out.
    Removed,
}

/// Sees to it that every workload of `document` has the sidecar that its annotations ask for. Done twice, it does nothing
/// the second time.
pub fn inject(document: &mut Node, defaults: &Defaults) -> Vec<(Workload, Outcome)> {
    each(document, |document, workload| {
        let mut pod = workload.pod(document)?.clone();
        undo(&mut pod);
        let opted_out = workload.resource(document).is_some_and(wishes::opts_out) || wishes::opts_out(&pod);
        let reason = opted_out.then_some(OPTED_OUT).or_else(|| unfit(&pod));
        let outcome = match reason {
            Some(reason) => Outcome::LeftOut(reason),
            None => match wishes::read(document, workload, &pod, defaults)
                .and_then(|wishes| put_in(&mut pod, &wishes))
            {
                Ok(()) => Outcome::Injected,
                Err(faults) => return Some(Outcome::Refused(faults)),
            },
        };
        *workload.pod_mut(document)? = pod;
        Some(outcome)
    })
}

/// Takes out of every workload of `document` what was put in.
pub fn uninject(document: &mut Node) -> Vec<(Workload, Outcome)> {
    each(document, |document, workload| match undo(workload.pod_mut(document)?) {
        true => Some(Outcome::Removed),
        false => Some(Outcome::LeftOut("it has no sidecar that was injected")),
    })
}

/// Whether a pod was injected before.
pub fn is_injected(pod: &Node) -> bool {
    pod.at(&["metadata", "annotations"]).is_some_and(|all| all.get(&annotation(INJECTED)).is_some())
}

fn each(
    document: &mut Node,
    mut act: impl FnMut(&mut Node, &Workload) -> Option<Outcome>,
) -> Vec<(Workload, Outcome)> {
    let workloads = workload::find(document);
    workloads
        .into_iter()
        .filter_map(|workload| act(document, &workload).map(|done| (workload, done)))
        .collect()
}

/// What has to be undone beside what can be told by its name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    /// Which version of Lighter did it.
    version: String,
    /// Collections that were not there.
    made: Vec<String>,
    /// Containers whose end is delayed, and whether they had no `lifecycle` at all.
    delayed: BTreeMap<String, bool>,
    /// The grace period before it was raised; null: there was none.
    grace: Option<Grace>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Grace {
    before: Option<i64>,
}

/// Why a pod cannot have a sidecar.
fn unfit(pod: &Node) -> Option<&'static str> {
    let spec = pod.get("spec").filter(|spec| spec.fields().is_some());
    let Some(spec) = spec else { return Some("it has no `spec`") };
    if spec.get("hostNetwork").is_some_and(Node::is_true) {
        return Some("it is in its host's network, whose rules are not its own");
    }
    if spec.text_at(&["os", "name"]) == Some("windows") {
        return Some("it is for Windows");
    }
    let own = containers(spec).any(|container| container.text_at(&["name"]) == Some(sidecar::CONTAINER));
    own.then_some("it has a container of the sidecar's name that was not injected")
}

/// Every container of a pod, those that run first and those that stay.
fn containers(spec: &Node) -> impl Iterator<Item = &Node> {
    ["initContainers", "containers"].into_iter().filter_map(|list| spec.get(list)).flat_map(Node::items)
}

/// Puts the sidecar in. On faults, what became of `pod` is of no use.
fn put_in(pod: &mut Node, wishes: &Wishes) -> Result<(), Vec<String>> {
    let mut record = Record { version: env!("CARGO_PKG_VERSION").to_owned(), ..Record::default() };
    check_ports(pod)?;
    let deadline = grace(pod, wishes, &mut record);
    let file = sidecar::file(wishes, pod, deadline)?;
    let broken = || vec!["it is no pod".to_owned()];
    let spec = pod.get_mut("spec").ok_or_else(broken)?;
    if wishes.service.is_some() {
        delay(spec, wishes.app_stop_delay, &mut record);
    }
    let mut collection = |fields: &mut Node, name: &str, usual: Node| -> Option<()> {
        let (_, made) = fields.fields_mut()?.collection(name, usual);
        record.made.extend(made.then(|| name.to_owned()));
        Some(())
    };
    let empty = || Node::List(Vec::new());
    collection(spec, "initContainers", empty()).ok_or_else(broken)?;
    collection(spec, "volumes", empty()).ok_or_else(broken)?;
    let none = || Node::map::<&str>([]);
    collection(pod, "metadata", none()).ok_or_else(broken)?;
    let metadata = pod.get_mut("metadata").ok_or_else(broken)?;
    collection(metadata, "annotations", none()).ok_or_else(broken)?;
    let items = |pod: &'_ mut Node, name, add: &mut dyn FnMut(&mut Vec<Node>)| {
        let items = pod.at_mut(&["spec", name]).and_then(Node::items_mut);
        items.map(add).ok_or_else(|| vec![format!("spec.{name} is no list")])
    };
    // First, so that what the others say while they prepare the pod is carried too.
    items(pod, "initContainers", &mut |all| all.insert(0, sidecar::container(wishes)))?;
    items(pod, "volumes", &mut |all| all.extend(sidecar::volumes(wishes)))?;
    let record = serde_json::to_string(&record).map_err(|error| vec![error.to_string()])?;
    let annotations = pod.at_mut(&["metadata", "annotations"]).and_then(Node::fields_mut);
    let annotations = annotations.ok_or_else(|| vec!["metadata.annotations are no fields".to_owned()])?;
    annotations.set(&annotation(INJECTED), record);
    annotations.set(&annotation(SIDECAR), file);
    Ok(())
}

fn check_ports(pod: &Node) -> Result<(), Vec<String>> {
    let ports =
        pod.get("spec").into_iter().flat_map(containers).filter_map(|container| container.get("ports"));
    let taken = ports.flat_map(Node::items).filter_map(|port| port.get("containerPort")?.number());
    let taken = taken.filter(|port| sidecar::PORTS.iter().any(|own| i64::from(*own) == *port));
    let faults: Vec<_> =
        taken.map(|port| format!("containerPort {port} is one of the sidecar's own")).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// How long a drain may take: as long as the pod has, but for what its end itself needs. A longer wish makes the pod's
/// longer.
fn grace(pod: &mut Node, wishes: &Wishes, record: &mut Record) -> Duration {
    let said = pod.at(&["spec", FIELD]).and_then(Node::number);
    let has = said.and_then(|said| u64::try_from(said).ok()).unwrap_or(USUAL_GRACE);
    let Some(wanted) = wishes.drain_deadline.map(|wanted| wanted.as_secs()) else {
        return Duration::from_secs(has.saturating_sub((has / 4).min(LAST_WORDS)).max(1));
    };
    if has < wanted + LAST_WORDS
        && let Some(spec) = pod.get_mut("spec").and_then(Node::fields_mut)
    {
        record.grace = Some(Grace { before: said });
        spec.set(FIELD, wanted + LAST_WORDS);
    }
    Duration::from_secs(wanted)
}

/// Has the applications go on for a while after the pod was told to end: callers hear of it, and leave, meanwhile. One
/// that has a hook of its own knows better.
fn delay(spec: &mut Node, delay: Duration, record: &mut Record) {
    let grace = spec.get(FIELD).and_then(Node::number).and_then(|said| u64::try_from(said).ok());
    if delay.is_zero() || delay.as_secs() > grace.unwrap_or(USUAL_GRACE) / 2 {
        return;
    }
    let containers = spec.get_mut("containers").and_then(Node::items_mut).into_iter().flatten();
    for container in containers {
        let Some(name) = container.text_at(&["name"]).map(str::to_owned) else { continue };
        if container.at(&["lifecycle", "preStop"]).is_some() {
            continue;
        }
        let Some(fields) = container.fields_mut() else { continue };
        let (lifecycle, made) = fields.collection("lifecycle", Node::map::<&str>([]));
        let Some(lifecycle) = lifecycle.fields_mut() else { continue };
        lifecycle.set("preStop", sleep(delay));
        record.delayed.insert(name, made);
    }
}

fn sleep(delay: Duration) -> Node {
    Node::map([("sleep", Node::map([("seconds", Node::from(delay.as_secs()))]))])
}

/// Takes the sidecar out, if one was put in; tells whether.
fn undo(pod: &mut Node) -> bool {
    let Some(record) = pod.text_at(&["metadata", "annotations", &annotation(INJECTED)]) else { return false };
    // One that somebody wrote over says nothing; the rest is known by its name.
    let record: Record = serde_json::from_str(record).unwrap_or_default();
    let made = |name: &str| record.made.iter().any(|made| made == name);
    if let Some(annotations) = pod.at_mut(&["metadata", "annotations"]).and_then(Node::fields_mut) {
        annotations.remove(&annotation(INJECTED));
        annotations.remove(&annotation(SIDECAR));
    }
    if let Some(metadata) = pod.get_mut("metadata") {
        drop_empty(metadata, "annotations", made("annotations"));
    }
    drop_empty(pod, "metadata", made("metadata"));
    let Some(spec) = pod.get_mut("spec") else { return true };
    for list in ["initContainers", "volumes"] {
        if let Some(items) = spec.get_mut(list).and_then(Node::items_mut) {
            items.retain(|item| !item.text_at(&["name"]).is_some_and(|name| sidecar::owns(list, name)));
        }
        drop_empty(spec, list, made(list));
    }
    for container in spec.get_mut("containers").and_then(Node::items_mut).into_iter().flatten() {
        let Some(made) = container.text_at(&["name"]).and_then(|name| record.delayed.get(name)) else {
            continue;
        };
        if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Node::fields_mut) {
            // Another hook is somebody else's by now.
            if lifecycle.get("preStop").is_some_and(|hook| hook.get("sleep").is_some()) {
                lifecycle.remove("preStop");
            }
        }
        drop_empty(container, "lifecycle", *made);
    }
    if let (Some(Grace { before }), Some(fields)) = (record.grace, spec.fields_mut()) {
        match before {
            Some(before) => fields.set(FIELD, Node::Scalar(Scalar::plain(before.to_string()))),
            None => drop(fields.remove(FIELD)),
        }
    }
    true
}

/// Takes out a collection that was made for us, if nobody else uses it.
fn drop_empty(fields: &mut Node, name: &str, made: bool) {
    if made
        && fields.get(name).is_some_and(Node::is_empty)
        && let Some(fields) = fields.fields_mut()
    {
        fields.remove(name);
    }
}

/// Why a pod is left out that wants to be.
pub(super) const OPTED_OUT: &str = "its annotation says so";
const FIELD: &str = "terminationGracePeriodSeconds";
/// What a pod has that says nothing, in seconds.
const USUAL_GRACE: u64 = 30;
/// What is kept of it for ends that come after a drain, in seconds.
const LAST_WORDS: u64 = 5;
