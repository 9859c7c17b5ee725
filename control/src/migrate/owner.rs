//! Whose a Service with state is while nothing of it moves: one instance serves, and it is kept which.
//!
//! What is decided follows from what is kept and from what sidecars say of their places, and is kept before anybody is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lighter_config::name::ServiceName;
use lighter_config::xds::wire::lighter::registry::v1::JournalStand;
use lighter_migrate::{Command, Epoch, Order, Report, Source, Stamp, Stand};
use lighter_proxy::stateful::wire::Told;

use super::drive::World;
use super::standby::{Heir, Parts, Standby, heir};
use super::story::{Holder, Moved, OLD};
use crate::registry::Presence;
use crate::state::State;
use crate::store::StoreError;

/// What is remembered of a Service between two looks at it.
#[derive(Default)]
pub(super) struct Keeping {
    /// What each instance was told last.
    told: BTreeMap<Arc<str>, Said>,
    /// And of the journal.
    pub(super) parts: Parts,
    /// When a standby that is to drain was told last that nobody is there to follow it.
    pub(super) released: Option<Instant>,
    /// Before that nothing is done: the store did not take what it was to write.
    pub(super) rests_until: Option<Instant>,
}

/// What an instance was told.
struct Said {
    given: Given,
    stamp: Stamp,
    at: Instant,
}

/// An instance of a Service with state.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) presence: Presence,
    /// What its sidecar said of its place last. None: nothing since it came, or it is not heard.
    pub(super) report: Option<Report>,
    /// And of the journal.
    pub(super) journal: Option<JournalStand>,
}

/// The instances of a Service as they are now.
pub(super) fn seen(service: &ServiceName, state: &State) -> BTreeMap<Arc<str>, Seen> {
    let presences = state.registry.presences(service).into_iter();
    presences
        .map(|(name, presence)| {
            let id = presence.id(&name);
            let sidecars = &state.registry.sidecars;
            let report = id.as_ref().and_then(|id| sidecars.place(id)).map(|(report, _)| report);
            let journal = id.and_then(|id| sidecars.journal(&id));
            (name, Seen { presence, report, journal })
        })
        .collect()
}

impl Keeping {
    /// Decides whose the Service is, and tells instances. `write`: to be durable when it returns. Returns whether nobody is waited
    /// for.
    pub(super) fn keep(
        &mut self,
        service: &ServiceName,
        moved: &mut Moved,
        world: &World<'_>,
        write: &impl Fn(&Moved) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let State { registry, index, metrics, .. } = world.state;
        let seen = seen(service, world.state);
        if let Some(after) = decide(moved, &seen, world.are_all_back()) {
            write(&after)?;
            let (instance, epoch) =
                (after.owner.as_ref().map_or("", |owner| &*owner.instance), after.epoch.0);
            if after.losses > moved.losses {
                metrics.state_losses.fetch_add(after.losses - moved.losses, Relaxed);
                tracing::warn!(%service, instance, epoch, losses = after.losses, "the state of a service is lost: it begins with nothing");
            } else if after.epoch > moved.epoch
                && after.owner.as_ref().is_some_and(|owner| owner.source == Source::Journal)
            {
                metrics.state_takeovers.fetch_add(1, Relaxed);
                tracing::warn!(%service, instance, epoch, "an instance takes over a service, with what the journal has");
            } else if after.listed.is_some() {
                tracing::info!(%service, instance, epoch, "an instance serves a service with state");
            }
            *moved = after;
        }
        registry.list_alone(service, moved.listed.clone(), index);
        let mut orders = orders(moved, &seen);
        self.told.retain(|name, _| orders.contains_key(name));
        // Where it sends on to, one that has left says nothing of: that it has heard it is enough.
        orders.retain(|name, given| {
            let report = seen.get(name).and_then(|seen| seen.report);
            let left = report.filter(|report| report.stand.has_left());
            let said = self.told.get(name).filter(|said| said.given == *given);
            left.zip(said).is_none_or(|(report, said)| report.heard < said.stamp)
        });
        // Those whose sidecars know nothing of state never answer; and who has yet to come says so.
        let is_settled = orders.values().all(|(order, _)| *order == Order::Ask);
        for (name, given) in orders {
            let (order, to) = given.clone();
            let again = if order == Order::Ask { ASKED_AGAIN } else { AGAIN };
            let waits = |at: Instant| world.now.saturating_duration_since(at) < again;
            let is_told = self.told.get(&name).is_some_and(|said| said.given == given && waits(said.at));
            let Some(Seen { presence, report, .. }) = seen.get(&name).filter(|_| !is_told) else { continue };
            let heard = report.map(|report| report.heard).unwrap_or_default();
            let stamp = after(heard, moved.number);
            let command = Command { stamp, incarnation: report.map(|report| report.incarnation), order };
            let told = Told { command, token: Vec::new(), from: None, to };
            if let Some(id) = presence.id(&name) {
                // What does not arrive is said again.
                registry.sidecars.tell(&id, &told);
                self.told.insert(name, Said { given, stamp, at: world.now });
            }
        }
        Ok(is_settled)
    }
}

/// What is to be kept from now on, if that is something else. `are_back`: whoever was there before a restart has had the time to
/// come back.
pub(super) fn decide(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>, are_back: bool) -> Option<Moved> {
    let reports = || seen.iter().filter_map(|(name, seen)| Some((name, &seen.presence, seen.report?)));
    let heard = reports().map(|(.., report)| report.heard.migration).max().unwrap_or_default();
    let number = moved.number.max(heard);
    let holders = || reports().filter_map(|(name, _, report)| Some((report.stand.holds()?, name, report)));
    let last = holders().max_by_key(|(epoch, name, _)| (*epoch, *name));
    let most = last.map_or(moved.epoch, |(epoch, ..)| epoch.max(moved.epoch));
    if let Some((epoch, name, report)) = last.filter(|(epoch, ..)| *epoch > moved.epoch) {
        // What was kept of it is gone, as a store was begun anew or is that of a backup. Whoever served meanwhile gives up what
        // it has.
        let other = moved.owner.as_ref().is_some_and(|owner| owner.instance != *name);
        let losses = moved.losses + u64::from(other);
        let incarnation = report.incarnation;
        let owner = Some(Holder { instance: name.clone(), incarnation, source: Source::Nothing });
        let listed = report.stand.serves().map(|_| name.clone());
        // Whoever kept the journal meanwhile is not known here.
        return Some(Moved { number, epoch, owner, losses, listed, ..without_heir(moved) });
    }
    let grant = |name: &Arc<str>, report: Report| {
        let owner =
            Holder { instance: name.clone(), incarnation: report.incarnation, source: Source::Nothing };
        Moved {
            number: number.saturating_add(1),
            // No place has had it, whatever is kept here.
            epoch: most.next(),
            losses: moved.losses + u64::from(moved.owner.is_some()),
            owner: Some(owner),
            listed: None,
            // Whatever somebody has of the journal, it is of what is lost.
            ..without_heir(moved)
        }
    };
    let has_left = |seen: &Seen| seen.presence.draining && !seen.presence.is_heard && are_back;
    let there = |owner: &Holder| seen.get(&owner.instance).filter(|seen| !has_left(seen));
    if let Some((owner, there)) = moved.owner.as_ref().and_then(|owner| Some((owner, there(owner)?))) {
        let report = there.report?;
        let is_rival =
            |(epoch, name, _): (Epoch, &Arc<str>, Report)| epoch == moved.epoch && *name != owner.instance;
        if report.incarnation == owner.incarnation
            && report.stand.holds().is_some()
            && holders().any(is_rival)
        {
            // An older store has given an epoch to one that was another's by then: what that one answered is lost.
            let owner = Some(Holder { source: Source::Kept, ..owner.clone() });
            let (epoch, losses) = (most.next(), moved.losses + 1);
            return Some(Moved {
                number: number.saturating_add(1),
                epoch,
                owner,
                losses,
                next: None,
                ..moved.clone()
            });
        }
        let is_listed = moved.listed.as_ref() == Some(&owner.instance);
        // It did serve the epoch.
        let has_lost = is_listed && report.stand.holds().is_none();
        if report.incarnation > owner.incarnation || report.incarnation == owner.incarnation && has_lost {
            return match heir(moved, seen) {
                Heir::Is(heir) => Some(inherits(moved, seen, heir)),
                Heir::Awaited => None,
                Heir::None => Some(grant(&owner.instance, report)),
            };
        }
        let serves = report.incarnation == owner.incarnation && report.stand.serves() == Some(moved.epoch);
        let listed = Some(owner.instance.clone());
        return (serves && !is_listed).then(|| Moved { listed, ..moved.clone() });
    }
    if moved.owner.is_some() && !are_back {
        return None;
    }
    match heir(moved, seen) {
        Heir::Is(heir) => return Some(inherits(moved, seen, heir)),
        Heir::Awaited => return None,
        Heir::None => {}
    }
    // Whoever has something of an earlier epoch gives that up first.
    let mut ready =
        reports().filter(|(_, presence, report)| presence.ready && report.stand.holds().is_none());
    ready.next().map(|(name, _, report)| grant(name, report))
}

/// What is kept once whoever has the journal serves.
pub(super) fn inherits(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>, heir: Holder) -> Moved {
    let reports = || seen.values().filter_map(|seen| seen.report);
    let heard = reports().map(|report| report.heard.migration).max().unwrap_or_default();
    let had = reports().filter_map(|report| report.stand.holds()).max().unwrap_or_default();
    Moved {
        number: moved.number.max(heard).saturating_add(1),
        epoch: moved.epoch.max(had).next(),
        owner: Some(heir),
        listed: None,
        next: None,
        ..moved.clone()
    }
}

/// What is kept where nobody has what was acknowledged.
fn without_heir(moved: &Moved) -> Moved {
    let standby = moved.standby.clone().map(|standby| Standby { instance: None, ..standby });
    Moved { standby, next: None, ..moved.clone() }
}

/// An order, and where the Service is reached by its ports, if that is told.
type Given = (Order, BTreeMap<u16, SocketAddr>);

/// What each instance is to be told, by what is kept.
pub(super) fn orders(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> BTreeMap<Arc<str>, Given> {
    let epoch = moved.epoch;
    let owner = moved.owner.as_ref();
    let at = owner.and_then(|owner| seen.get(&owner.instance)).map(|seen| seen.presence.addresses.clone());
    let order = |(name, seen): (&Arc<str>, &Seen)| {
        let Some(Report { incarnation, stand, .. }) = seen.report else {
            let ask = (name.clone(), (Order::Ask, BTreeMap::new()));
            return seen.presence.is_heard.then_some(ask);
        };
        let owner = owner?;
        if *name == owner.instance {
            let is_its = incarnation == owner.incarnation && stand.serves() != Some(epoch);
            let from = match stand {
                // A migration of which nothing is known any more was under way.
                Stand::Parking { epoch: had } | Stand::Frozen { epoch: had } if had == epoch => Source::Kept,
                _ => owner.source,
            };
            return is_its.then(|| (name.clone(), (Order::Serve { epoch, from }, BTreeMap::new())));
        }
        let given = match stand {
            Stand::Serving { epoch: had }
            | Stand::Opening { epoch: had }
            | Stand::Parking { epoch: had }
            | Stand::Frozen { epoch: had }
                if had < epoch =>
            {
                (Order::Move { to: OLD, epoch }, at.clone().unwrap_or_default())
            }
            // It sends on to where it was told, and that may be elsewhere by now.
            Stand::Moved | Stand::Drained { .. } if moved.listed.as_ref() == Some(&owner.instance) => {
                (Order::Move { to: OLD, epoch }, at.clone().filter(|at| !at.is_empty())?)
            }
            Stand::Reserved | Stand::Warm | Stand::Copied { .. } | Stand::Ready { .. } => {
                (Order::Discard, BTreeMap::new())
            }
            _ => return None,
        };
        Some((name.clone(), given))
    };
    seen.iter().filter_map(order).collect()
}

/// The stamp of a command to a place that has heard this: whatever it says, it is newer.
fn after(heard: Stamp, number: u64) -> Stamp {
    if heard.migration < number {
        return Stamp { migration: number, term: 1, sequence: 1 };
    }
    Stamp { sequence: heard.sequence.saturating_add(1), ..heard }
}

/// After how long what was not answered is said again.
const AGAIN: Duration = Duration::from_millis(200);
/// After how long somebody is asked again who has not said what it is.
const ASKED_AGAIN: Duration = Duration::from_secs(2);
