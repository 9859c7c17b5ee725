//! What is done where the instance that has a Service's state is to drain: a Migration is asked for, as an operator would, to
//! another instance that can take it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lighter_config::manifest::Key as ResourceKey;
use lighter_config::name::ServiceName;
use lighter_config::snapshot::OnDrain;
use lighter_migrate::Stand;

use super::drive::World;
use super::owner::{self, Seen};
use super::story::Reason;
use super::{All, name_of};

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
            let moved = self.moved.get(&service);
            let owner = moved.and_then(|moved| moved.owner.as_ref());
            let Some(instance) = owner.map(|owner| owner.instance.clone()) else { continue };
            let listed = moved.and_then(|moved| moved.listed.clone());
            let seen = owner::seen(&service, world.state);
            let Some(leaves) = seen.get(&instance).filter(|there| there.presence.leaving) else {
                self.leaving.remove(&service);
                continue;
            };
            // Where the state of another one was to go says nothing of this one's.
            if self.leaving.get(&service).is_some_and(|leaving| leaving.instance != instance) {
                self.leaving.remove(&service);
            }
            if listed.as_ref() != Some(&instance) && is_to_serve(leaves) {
                // A migration would be refused before it does, as would be one to whoever is next.
                continue;
            }
            let fresh = || Leaving { instance: instance.clone(), tried: BTreeSet::new(), released: None };
            let leaving = self.leaving.entry(service.clone()).or_insert_with(fresh);
            // One migration after the other, whoever asked for it.
            let over = |key: &ResourceKey| self.over.get(&*name_of(key)).is_some_and(|story| !story.is_gone);
            let is_asked = self.wanted.iter().any(|(key, asked)| asked.service == service && !over(key));
            if is_asked || self.under_way.contains_key(&service) || !leaves.presence.is_heard {
                continue;
            }
            let next =
                may_move(&service, world).then(|| next(&seen, &instance, leaves, &leaving.tried)).flatten();
            let reason = Reason::Leaves;
            // Where it cannot be asked for it is not asked for again either.
            if let (Some(to), Some(leaving)) = (&next, self.leaving.get_mut(&service)) {
                leaving.tried.insert(to.clone());
            }
            if next.is_some_and(|to| self.ask(&service, reason, (&instance, &to), world.state).is_some()) {
                world.state.metrics.state_leaves.fetch_add(1, Relaxed);
            } else {
                self.release(&service, leaves, world);
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

/// Whether it may get to serve what it was given, as far as it has said.
fn is_to_serve(there: &Seen) -> bool {
    there.report.is_none_or(|report| !matches!(report.stand, Stand::Void { .. }))
}

/// Whether the Service's state is to move by itself.
fn may_move(service: &ServiceName, world: &World<'_>) -> bool {
    let snapshot = world.state.store.snapshot();
    let state = snapshot.services.get(service).and_then(|service| service.state.as_ref());
    state.is_some_and(|state| state.on_drain == OnDrain::Move)
}

/// Which instance takes the state next: the first that can, and was not tried.
fn next(
    seen: &std::collections::BTreeMap<Arc<str>, Seen>,
    from: &Arc<str>,
    leaves: &Seen,
    tried: &BTreeSet<Arc<str>>,
) -> Option<Arc<str>> {
    let may = |(name, there): &(&Arc<str>, &Seen)| {
        *name != from && !tried.contains(*name) && can_take(there, leaves)
    };
    seen.iter().find(may).map(|(name, _)| name.clone())
}

/// Whether an instance can take the state from the other, by what is known of any state.
pub(super) fn can_take(there: &Seen, from: &Seen) -> bool {
    let presence = &there.presence;
    presence.ready
        && presence.is_heard
        && !presence.leaving
        && presence.link.is_some()
        && there.report.is_some()
        && presence.ports.is_superset(&from.presence.ports)
}

/// After how long an instance is told again that it need not wait.
const AGAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use lighter_migrate::{Incarnation, Report, Stamp, Why};

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
    fn whoever_is_about_to_serve_is_waited_for_unless_it_cannot() {
        let with = |stand| {
            let seen = there(|place| place.leaving = true);
            Seen { report: seen.report.map(|report| Report { stand, ..report }), ..seen }
        };
        let epoch = lighter_migrate::Epoch(3);
        assert!(is_to_serve(&with(Stand::Empty)) && is_to_serve(&with(Stand::Opening { epoch })));
        assert!(!is_to_serve(&with(Stand::Void { why: Why::Activation })));
        assert!(is_to_serve(&Seen { report: None, ..with(Stand::Empty) }));
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
