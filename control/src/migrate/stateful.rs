//! What is different where the Service that moves has state: its places are in the two sidecars. They say themselves how they
//! stand, and are told what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Keeps, Migration, StateClass, Streams};
use lighter_migrate::{Action, Class, Command, Decision, Order, Phase, PlaceId, Role};
use lighter_proxy::stateful::wire::Told;

use super::drive::{Driver, World};
use super::story::Moved;
use super::{function, owner};
use crate::registry::Presence;
use crate::state::State;

impl Driver {
    /// Whether the Service that moves has state.
    pub(super) fn has_state(&self) -> bool {
        self.story.class != Class::Stateless
    }

    /// Hears what a place says of itself. One that is not registered, or has said nothing since it came back, is not heard.
    pub(super) fn hear(
        &mut self,
        role: Role,
        presence: Option<&Presence>,
        world: &World<'_>,
        out: &mut Vec<Action>,
    ) {
        let id = presence.and_then(|presence| presence.id(self.instance(role)));
        let Some((report, _)) = id.and_then(|id| world.state.registry.sidecars.place(&id)) else { return };
        if self.place(role).said.replace(report) != Some(report) {
            if role == Role::Old && report.heard.migration == self.story.number {
                self.is_unwritten |= self.story.copied(report.copy);
            }
            self.coordinator.report(role, report, world.time(), out);
        }
    }

    /// Tells a place what to do. What does not arrive is said again.
    pub(super) fn tell(&self, role: Role, command: Command, world: &World<'_>) {
        let Some(presence) = self.presence(role, world) else { return };
        let to = match command.order {
            Order::Move { to, .. } | Order::Drain { to, .. } => self.addresses(to, world),
            _ => BTreeMap::new(),
        };
        let from = match command.order {
            Order::Warm | Order::Restore(_) => self.copy_at,
            Order::Quiesce { .. } => self.presence(Role::New, world).and_then(|new| new.link),
            _ => None,
        };
        if from.is_none() && matches!(command.order, Order::Restore(_)) {
            // Where whoever has the copy is, is not known.
            return;
        }
        if let Some(id) = presence.id(self.instance(role)) {
            let told = Told { command, token: self.story.token.clone(), from, to };
            world.state.registry.sidecars.tell(&id, &told);
        }
    }

    /// Where a place is reached, by the ports of the Service.
    fn addresses(&self, place: PlaceId, world: &World<'_>) -> BTreeMap<u16, std::net::SocketAddr> {
        let role = if place == super::story::NEW { Role::New } else { Role::Old };
        self.presence(role, world).map(|presence| presence.addresses).unwrap_or_default()
    }

    /// The lease of a place is over. Of the new one, which was to serve: before it has begun the old one, which has everything still,
    /// takes the service back; later the migration is over, so that whoever is there can be given the service. Of the old one: it is
    /// over as well, as long as nobody else can have what that one has.
    pub(super) fn vouch(
        &mut self,
        [old, new]: &[Option<Presence>; 2],
        world: &World<'_>,
        out: &mut Vec<Action>,
    ) {
        let phase = self.coordinator.phase();
        let has_begun = phase > Phase::Activate;
        let is_fenced = self.coordinator.cell().decision == Decision::Fenced && !phase.is_terminal();
        if is_fenced && new.is_none() && (has_begun || old.is_some()) && world.are_all_back() {
            self.coordinator.vouch(Role::New, world.time(), out);
        }
        if old.is_none() && world.are_all_back() {
            self.coordinator.gone(world.time(), out);
        }
    }

    /// Whether whoever has the service by now has said that it serves, or is not there: then it is no matter of this migration.
    pub(super) fn look_who_serves(&mut self, [old, new]: &[Option<Presence>; 2]) {
        let is_new = self.coordinator.cell().owner.place == super::story::NEW;
        let owner = if is_new { new } else { old };
        self.is_settled = self.coordinator.is_settled() || owner.is_none();
    }
}

/// The class of a migration of a Service that keeps this.
pub(super) fn class(keeps: Option<StateClass>) -> Class {
    match keeps {
        None => Class::Stateless,
        // To a migration it is in the memory of one place: who keeps the journal is seen to beside.
        Some(StateClass::Volatile | StateClass::Journaled) => Class::Volatile,
    }
}

/// How long the copy of the state may take: who came first has waited for as long as running requests had to end, and the
/// application to give its state, and is not to wait in vain where the new place does not get on.
pub(super) fn copy_time(asked: &Migration, state: &State) -> Duration {
    let snapshot = state.store.snapshot();
    let keeps = snapshot.services.get(&asked.service).and_then(|service| service.state.as_ref());
    keeps.map_or(Duration::ZERO, |keeps| keeps.park.wait.saturating_sub(2 * asked.quiesce))
}

/// In how many rounds the state is copied while it serves: an application that gives all of it each time would be asked in vain.
pub(super) fn rounds(asked: &Migration, state: &State) -> u32 {
    let snapshot = state.store.snapshot();
    let keeps = snapshot.services.get(&asked.service).and_then(|service| service.state.as_ref());
    keeps.filter(|keeps| keeps.access.gives_changes()).map_or(0, |_| asked.rounds)
}

/// Whether streams that have not ended in time are cut.
pub(super) fn cuts(asked: &Migration, state: &State) -> bool {
    let snapshot = state.store.snapshot();
    let keeps = snapshot.services.get(&asked.service).and_then(|service| service.state.as_ref());
    keeps.is_some_and(|keeps| keeps.streams == Streams::Cut)
}

/// Why it cannot begin, by what is asked for and what the Service says of itself.
pub(super) fn why_not_of(asked: &Migration, keeps: Option<StateClass>) -> Option<String> {
    let keeps = keeps.map_or(Keeps::Nothing, Keeps::State);
    let other = asked.class.filter(|class| *class != keeps)?;
    let (service, keeps, other) = (&asked.service, keeps.label(), other.label());
    Some(format!("{service} is {keeps}, and the Migration says {other}: leave its `class` out"))
}

/// Why the state cannot move from the one to the other.
pub(super) fn why_not(asked: &Migration, moved: &Moved, state: &State) -> Option<String> {
    let seen = owner::seen(&asked.service, state);
    for name in [&asked.from, &asked.to] {
        let place = seen.get(name)?;
        if place.presence.link.is_none() {
            return Some(format!("`{name}` accepts no links, over which the state would move"));
        }
        if place.report.is_none() {
            return Some(format!(
                "`{name}` has not said what it is to {}: its sidecar is older, or not heard",
                asked.service
            ));
        }
    }
    if let Some(function) = function::of(&asked.service, state)
        && let [Some(from), Some(to)] = [&asked.from, &asked.to].map(|name| seen.get(name))
    {
        let places = [(&*asked.from, &from.presence), (&*asked.to, &to.presence)];
        if let Some(why) = function::why_not(&function, places) {
            return Some(why);
        }
    }
    let owner = moved.owner.as_ref();
    let serves = owner.filter(|owner| moved.listed.as_ref() == Some(&owner.instance));
    match (owner, serves) {
        (None, _) => Some(format!("nobody serves {}", asked.service)),
        (Some(owner), _) if owner.instance != asked.from => {
            Some(format!("`{}` does not serve {}: `{}` does", asked.from, asked.service, owner.instance))
        }
        (Some(_), None) => {
            Some(format!("`{}` is about to serve {}, and does not yet", asked.from, asked.service))
        }
        (Some(_), Some(_)) => None,
    }
}

/// The greatest number of a migration that an instance of the Service has heard of.
pub(super) fn heard(service: &ServiceName, state: &State) -> u64 {
    let seen = owner::seen(service, state);
    let heard = seen.values().filter_map(|seen| Some(seen.report?.heard.migration));
    heard.max().unwrap_or_default()
}
