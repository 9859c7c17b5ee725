//! What is done where the instance that has a Service's state is to drain: a Migration is asked for, as an operator would, to
//! another instance that can take it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use lighter_config::manifest::{Key as ResourceKey, Manifest};
use lighter_config::name::ServiceName;
use lighter_config::resource::{LIGHTER, Spec, migration::MigrationSpec};
use lighter_config::snapshot::OnDrain;
use serde_json::json;

use super::drive::World;
use super::owner::{self, Seen};
use super::{All, name_of};
use crate::store::{Author, Push};

/// What was done for an instance that is to drain.
pub(super) struct Leaving {
    instance: Arc<str>,
    /// Where its state was to go, by now.
    tried: BTreeSet<Arc<str>>,
    /// When it was told last that there is nowhere.
    released: Option<Instant>,
}

impl All {
    /// Asks for the Migrations of Services whose instance is to drain, and lets those go whose state stays.
    pub(super) fn see_to_those_who_leave(&mut self, world: &World<'_>) {
        for service in self.stateful.keys().cloned().collect::<Vec<_>>() {
            let owner = self.moved.get(&service).and_then(|moved| moved.owner.as_ref());
            let Some(instance) = owner.map(|owner| owner.instance.clone()) else { continue };
            let seen = owner::seen(&service, world.state);
            let Some(leaves) = seen.get(&instance).filter(|there| there.presence.leaving) else {
                self.leaving.remove(&service);
                continue;
            };
            let fresh = || Leaving { instance: instance.clone(), tried: BTreeSet::new(), released: None };
            let leaving = self.leaving.entry(service.clone()).or_insert_with(fresh);
            if leaving.instance != instance {
                *leaving = fresh();
            }
            // One migration after the other, whoever asked for it.
            let over = |key: &ResourceKey| self.over.get(&*name_of(key)).is_some_and(|story| !story.is_gone);
            let is_asked = self.wanted.iter().any(|(key, asked)| asked.service == service && !over(key));
            if is_asked || self.under_way.contains_key(&service) || !leaves.presence.is_heard {
                continue;
            }
            let wait = waits(&service, world);
            let next =
                may_move(&service, world).then(|| next(&seen, &instance, leaves, &leaving.tried)).flatten();
            let Some(to) = next.filter(|to| self.ask(&service, (&instance, to), wait, world)) else {
                self.release(&service, leaves, world);
                continue;
            };
            if let Some(leaving) = self.leaving.get_mut(&service) {
                leaving.tried.insert(to);
            }
        }
    }

    /// Asks for a Migration, in place of those that were asked for like that before and are over. Returns whether it could be.
    fn ask(
        &self,
        service: &ServiceName,
        (from, to): (&Arc<str>, &Arc<str>),
        quiesce: Duration,
        world: &World<'_>,
    ) -> bool {
        let (store, namespace) = (&world.state.store, &service.namespace);
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("{}-leaves-", service.name);
        let name = format!("{prefix}{}", since.as_millis());
        let before: Vec<ResourceKey> = self
            .wanted
            .iter()
            .filter(|(key, asked)| asked.service == *service && key.name.starts_with(&prefix))
            .map(|(key, _)| key.clone())
            .collect();
        let document = json!({
            "apiVersion": LIGHTER,
            "kind": MigrationSpec::KIND,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "service": service.name,
                "from": {"instance": from},
                "to": {"instance": to},
                "quiesceTimeout": format!("{}ms", quiesce.as_millis()),
            },
        });
        let pushed = Manifest::parse(AUTHOR, &document.to_string(), namespace)
            .map_err(|errors| errors.to_string())
            .and_then(|manifests| {
                let push = Push { manifests, ..Push::default() };
                store.apply(push, Author { name: AUTHOR, now }, false).map_err(|error| error.to_string())
            });
        match pushed {
            Ok(_) => {
                tracing::info!(%service, migration = name, %from, %to, "an instance is to drain: its state moves before");
                world.state.metrics.state_leaves.fetch_add(1, Relaxed);
                if let Err(error) = store.delete(&before, true, false) {
                    tracing::warn!(%error, %service, "Migrations of instances that have left stay listed");
                }
                true
            }
            Err(error) => {
                tracing::error!(error, %service, %from, "an instance is to drain, and its state cannot be asked to move");
                false
            }
        }
    }

    /// Lets the instance go, with its state.
    fn release(&mut self, service: &ServiceName, leaves: &Seen, world: &World<'_>) {
        let Some(leaving) = self.leaving.get_mut(service) else { return };
        if leaving.released.is_some_and(|at| world.now.saturating_duration_since(at) < AGAIN) {
            return;
        }
        let id = leaves.presence.id(&leaving.instance);
        if !id.is_some_and(|id| world.state.registry.sidecars.release(&id)) {
            return;
        }
        // What does not arrive is said again.
        if leaving.released.replace(world.now).is_none() {
            world.state.metrics.state_releases.fetch_add(1, Relaxed);
            tracing::warn!(%service, instance = %leaving.instance, "an instance is to drain, and its state does not move before");
        }
    }
}

/// Whether the Service's state is to move by itself.
fn may_move(service: &ServiceName, world: &World<'_>) -> bool {
    let snapshot = world.state.store.snapshot();
    let state = snapshot.services.get(service).and_then(|service| service.state.as_ref());
    state.is_some_and(|state| state.on_drain == OnDrain::Move)
}

/// How long what runs may take to end, and the application to give its state: a third of what requests may wait, so that as much
/// is left for the copy. Nobody is there to ask for more.
fn waits(service: &ServiceName, world: &World<'_>) -> Duration {
    let snapshot = world.state.store.snapshot();
    let state = snapshot.services.get(service).and_then(|service| service.state.as_ref());
    let wait = state.map_or(Duration::ZERO, |state| state.park.wait / 3);
    wait.clamp(SHORTEST, LONGEST)
}

/// Which instance takes the state next: the first that can, and was not tried.
fn next(
    seen: &std::collections::BTreeMap<Arc<str>, Seen>,
    from: &Arc<str>,
    leaves: &Seen,
    tried: &BTreeSet<Arc<str>>,
) -> Option<Arc<str>> {
    let may = |(name, there): &(&Arc<str>, &Seen)| {
        let presence = &there.presence;
        *name != from
            && !tried.contains(*name)
            && presence.ready
            && presence.is_heard
            && !presence.leaving
            && presence.link.is_some()
            && there.report.is_some()
            && presence.ports.is_superset(&leaves.presence.ports)
    };
    seen.iter().find(may).map(|(name, _)| name.clone())
}

/// Who asks, in the history of the resources.
const AUTHOR: &str = "control-plane";

/// What a Migration takes as `quiesceTimeout`.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(86_400);

/// After how long an instance is told again that it need not wait.
const AGAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use lighter_migrate::{Incarnation, Report, Stamp, Stand};

    use super::*;
    use crate::registry::Presence;

    pub(in super::super) fn there(change: impl FnOnce(&mut Presence)) -> Seen {
        let mut presence = Presence {
            identity: "spiffe://mesh.lighter/ns/default/sa/shop".into(),
            ready: true,
            draining: false,
            leaving: false,
            is_heard: true,
            ports: [80].into(),
            addresses: BTreeMap::new(),
            link: Some(([10, 0, 0, 1], 15443).into()),
            remembering: None,
        };
        change(&mut presence);
        let report = Report {
            incarnation: Incarnation(1),
            revision: 1,
            heard: Stamp::default(),
            stand: Stand::Empty,
            copy: None,
            declined: None,
        };
        Seen { presence, report: Some(report), journal: None }
    }

    #[test]
    fn whoever_can_take_the_state_is_tried_once() {
        let seen: BTreeMap<Arc<str>, Seen> = [
            ("leaves", there(|place| place.leaving = true)),
            ("leaves-too", there(|place| place.leaving = true)),
            ("drains", there(|place| (place.ready, place.draining) = (false, true))),
            ("is-silent", there(|place| place.is_heard = false)),
            ("has-no-link", there(|place| place.link = None)),
            ("has-other-ports", there(|place| place.ports = [81].into())),
            ("is-older", Seen { report: None, ..there(|_| {}) }),
            ("one", there(|_| {})),
            ("two", there(|place| place.ports = [80, 81].into())),
        ]
        .map(|(name, seen)| (name.into(), seen))
        .into();
        let from: Arc<str> = "leaves".into();
        let mut tried = BTreeSet::new();
        for wanted in [Some("one"), Some("two"), None] {
            let found = next(&seen, &from, &seen[&from], &tried);
            assert_eq!(found.as_deref(), wanted);
            tried.extend(found);
        }
    }
}
