//! The sidecars of callers while the state of a Service moves: new requests to it wait there, and go where it is then. It is an
//! optimization: who is not there, or comes later is passed over, and the old place has its requests wait.
//!
//! All sidecars are told that report now and can do it, but those of the two places: one that does not know the Service does nothing.
//! None answers, as none is waited for.

use std::collections::BTreeSet;

use lighter_config::name::ServiceName;
use lighter_migrate::{Bounds, Class, HoldOrder, HolderId, Role, Stamp};
use lighter_proxy::stateful::held::wire::{Said, What};

use super::drive::{Driver, World};
use super::story::Story;
use crate::registry::Key;
use crate::registry::sidecars::Id;

/// The sidecars of callers that a migration has hold. Nobody is after a restart of the control plane: whoever lost its stream to it
/// has let go what waited.
#[derive(Default)]
pub(super) struct Callers(Vec<Id>);

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
        Callers(all.filter(|id| !places.iter().flatten().any(|place| place == id)).collect())
    }

    /// The names that the coordinator has them by.
    pub(super) fn holders(&self) -> Vec<HolderId> {
        (0..self.0.len() as u64).map(HolderId).collect()
    }

    fn at(&self, holder: HolderId) -> Option<&Id> {
        self.0.get(usize::try_from(holder.0).ok()?)
    }
}

impl Driver {
    /// Tells the sidecar of callers to hold, or to let go.
    pub(super) fn hold(&self, holder: HolderId, stamp: Stamp, order: HoldOrder, world: &World<'_>) {
        let Some(id) = self.callers.at(holder) else { return };
        let what = match order {
            HoldOrder::Release => What::Release,
            HoldOrder::Hold(longest, epoch) => {
                let old = self.presence(Role::Old, world);
                let from: BTreeSet<_> = old.into_iter().flat_map(|old| old.addresses.into_values()).collect();
                What::Hold { longest, epoch, from, bounds: self.room(world) }
            }
        };
        let said = Said { service: self.service.clone(), stamp, what };
        world.state.registry.sidecars.hold(id, &said);
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
}
