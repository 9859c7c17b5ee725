//! The sidecars of callers while the state of a Service moves: new requests to it wait there, and go where it is then. It is an
//! optimization: who is not there, does not answer, or comes later is passed over, and the old place has its requests wait.
//!
//! All sidecars are asked that report now and can do it, but those of the two places: a sidecar that does not know the Service
//! says so at once. None is waited for for long.

use std::collections::BTreeSet;

use lighter_config::name::ServiceName;
use lighter_migrate::{Action, Bounds, Class, HoldOrder, HolderId, Phase, Role, Stamp};
use lighter_proxy::stateful::held::wire::{Said, What};

use super::drive::{Driver, World};
use super::story::Story;
use crate::registry::Key;
use crate::registry::sidecars::Id;

/// The sidecars of callers that a migration has hold. Nobody is after a restart of the control plane: whoever lost its stream to it
/// has let go what waited.
#[derive(Default)]
pub(super) struct Callers(Vec<Asked>);

struct Asked {
    id: Id,
    /// It says that requests wait, or is gone.
    holds: bool,
}

impl Callers {
    /// Those that there are as a migration of this Service begins.
    pub(super) fn of(story: &Story, service: &ServiceName, world: &World<'_>) -> Self {
        if story.class == Class::Stateless {
            return Callers::default();
        }
        let registry = &world.state.registry;
        let place = |name: &std::sync::Arc<str>| {
            registry.presence(&Key { service: service.clone(), name: name.clone() })?.id(name)
        };
        let places = [&story.from, &story.to].map(place);
        let all = registry.sidecars.holders().into_iter();
        let callers = all.filter(|id| !places.iter().flatten().any(|place| place == id));
        Callers(callers.map(|id| Asked { id, holds: false }).collect())
    }

    /// The names that the coordinator has them by.
    pub(super) fn holders(&self) -> Vec<HolderId> {
        (0..self.0.len() as u64).map(HolderId).collect()
    }

    fn at(&self, holder: HolderId) -> Option<&Asked> {
        self.0.get(usize::try_from(holder.0).ok()?)
    }
}

impl Driver {
    /// Tells the sidecar of callers to hold, or to let go.
    pub(super) fn hold(&self, holder: HolderId, stamp: Stamp, order: HoldOrder, world: &World<'_>) {
        let Some(asked) = self.callers.at(holder) else { return };
        let what = match order {
            HoldOrder::Release => What::Release,
            HoldOrder::Hold(longest, epoch) => {
                let old = self.presence(Role::Old, world);
                let from: BTreeSet<_> = old.into_iter().flat_map(|old| old.addresses.into_values()).collect();
                What::Hold { longest, epoch, from, bounds: self.room(world) }
            }
        };
        let said = Said { service: self.service.clone(), stamp, what };
        world.state.registry.sidecars.hold(&asked.id, &said);
    }

    /// How much may wait at each: as much as at the old place.
    fn room(&self, world: &World<'_>) -> Bounds {
        let snapshot = world.state.store.snapshot();
        let keeps = snapshot.services.get(&self.service).and_then(|service| service.state.as_ref());
        let park = keeps.map(|keeps| keeps.park).unwrap_or_default();
        Bounds {
            count: usize::try_from(park.requests).unwrap_or(usize::MAX),
            bytes: usize::try_from(park.bytes).unwrap_or(usize::MAX),
            time: park.wait,
        }
    }

    /// Hears which of them hold. One that is gone holds nothing.
    pub(super) fn hear_callers(&mut self, world: &World<'_>, out: &mut Vec<Action>) {
        if self.coordinator.phase() != Phase::Hold {
            return;
        }
        let sidecars = &world.state.registry.sidecars;
        for (asked, number) in self.callers.0.iter_mut().zip(0..) {
            let said = sidecars.holding(&asked.id, &self.service);
            let is_gone = sidecars.found(&asked.id, |_| ()).is_none();
            let migration = self.story.number;
            if !asked.holds && (is_gone || said.is_some_and(|stamp| stamp.migration == migration)) {
                asked.holds = true;
                let stamp = Stamp { migration, ..Stamp::default() };
                self.coordinator.holds(HolderId(number), stamp, world.time(), out);
            }
        }
    }
}
