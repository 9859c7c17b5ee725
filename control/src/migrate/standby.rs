//! Who keeps the journal of a Service whose state is journaled, and when that one serves.
//!
//! What follows from what is kept and heard is a matter of [`Kept`]. Who it is, is in the store before anybody is told, and in a view
//! of its own, so that what whoever serves has acknowledged is at whoever is kept here: it is the one that follows the standby,
//! until it is heard here that it has everything, and that nothing is acknowledged any more that it does not have. Where the
//! instance that serves dies, the standby follows it. Until then it takes what that one gives; from then on it does not, so that nobody
//! who is not heard any more acknowledges anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::name::ServiceName;
use lighter_config::snapshot::{StateClass, WhenAlone};
use lighter_config::xds::wire::lighter::registry::v1::{JournalPart, JournalStand};
use lighter_migrate::journal::keepers::{self, Change, Kept, Part, Said};
use lighter_migrate::{Epoch, Report, Source};

use super::drive::World;
use super::owner::{self, Keeping, Seen};
use super::story::{Holder, Moved};
use crate::store::StoreError;

/// Who keeps the journal of an epoch.
pub(super) type Standby = keepers::Standby<Arc<str>>;

/// Who serves next, with all that was acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heir {
    /// This one.
    Is(Holder),
    /// It is not known yet: somebody is there who has not said what it has.
    Awaited,
    /// Nobody.
    None,
}

/// Who has all that was acknowledged.
pub(super) fn heir(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> Heir {
    let sights = sights(moved, seen);
    let name = match kept(moved).heir(&sights) {
        keepers::Heir::Is(name) => name,
        keepers::Heir::Awaited => return Heir::Awaited,
        keepers::Heir::None => return Heir::None,
    };
    match seen.get(name).and_then(|there| there.report) {
        Some(Report { incarnation, .. }) => {
            Heir::Is(Holder { instance: name.clone(), incarnation, source: Source::Journal })
        }
        None => Heir::Awaited,
    }
}

fn kept(moved: &Moved) -> Kept<'_, Arc<str>> {
    let owner = moved.owner.as_ref().map(|owner| &owner.instance);
    let is_served = owner.is_some() && moved.listed.as_ref() == owner;
    Kept::new((moved.epoch, owner, is_served), moved.standby.as_ref(), moved.next.as_ref())
}

/// Instances, as far as it matters to the journal.
fn sights(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> BTreeMap<Arc<str>, keepers::Seen> {
    let owner = moved.owner.as_ref().and_then(|owner| Some((owner, seen.get(&owner.instance)?)));
    let sight = |(name, seen): (&Arc<str>, &Seen)| {
        let presence = &seen.presence;
        let stand = seen.report.map(|report| report.stand);
        let is_owner = owner.is_some_and(|(owner, _)| {
            owner.instance == *name
                && seen.report.is_some_and(|report| report.incarnation == owner.incarnation)
        });
        let sight = keepers::Seen {
            is_heard: presence.is_heard,
            may_keep: presence.ready
                && presence.link.is_some()
                && stand.is_some()
                && owner.is_none_or(|(_, owner)| presence.ports.is_superset(&owner.presence.ports)),
            has_link: presence.link.is_some(),
            is_leaving: presence.draining || presence.leaving,
            has_said: stand.is_some(),
            holds: stand.is_some_and(|stand| stand.holds().is_some()),
            serves: is_owner && stand.and_then(|stand| stand.serves()) == Some(moved.epoch),
            said: seen.journal.as_ref().map(said),
        };
        (name.clone(), sight)
    };
    seen.iter().map(sight).collect()
}

fn said(stand: &JournalStand) -> Said {
    let whole = match stand.whole_view {
        0 if stand.whole => stand.view,
        view => view,
    };
    Said {
        epoch: Epoch(stand.epoch),
        view: stand.view,
        whole,
        is_lost: stand.lost,
        is_next_lost: stand.next_lost,
        confirmed: stand.confirmed,
        hands_over: stand.hands_over,
    }
}

impl Keeping {
    /// Decides who keeps the journal of the Service, and tells those whom it concerns. `write`: to be durable when it returns. Returns
    /// whether nobody is waited for.
    pub(super) fn keep_journal(
        &mut self,
        service: &ServiceName,
        class: StateClass,
        moved: &mut Moved,
        world: &World<'_>,
        write: &impl Fn(&Moved) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        if class != StateClass::Journaled {
            if moved.standby.is_some() || moved.next.is_some() {
                // What they have gets old.
                let after = Moved { standby: None, next: None, ..moved.clone() };
                write(&after)?;
                *moved = after;
            }
            return Ok(true);
        }
        let seen = owner::seen(service, world.state);
        let sights = sights(moved, &seen);
        let change = kept(moved).choose(&sights);
        if let Some(change) = change.filter(|change| {
            !is_early(moved, &seen, change, serves_alone(service, world), world.are_all_back())
        }) {
            let token = match crate::ca::random::<TOKEN>() {
                Ok(token) => token.to_vec(),
                Err(error) => {
                    tracing::error!(%error, %service, "nobody is chosen to keep the journal");
                    return Ok(true);
                }
            };
            let after = changed(moved, &change, &sights, token);
            tracing::info!(
                %service, epoch = after.epoch.0, view = after.views, standby = name(after.standby.as_ref()), next = name(after.next.as_ref()),
                "who keeps the journal"
            );
            write(&after)?;
            *moved = after;
        }
        self.release_standby(moved, &seen, world);
        Ok(self.tell_parts(moved, &seen, world))
    }

    /// Lets one go that is to drain, and that nobody who is there follows, or is followed by.
    fn release_standby(&mut self, moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>, world: &World<'_>) {
        let Some((name, there)) = stranded(moved, seen, world.are_all_back()) else {
            self.released = None;
            return;
        };
        // What does not arrive is said again.
        let is_said = self.released.is_some_and(|at| world.now.saturating_duration_since(at) < AGAIN);
        if let Some(id) = there.presence.id(name).filter(|_| !is_said)
            && world.state.registry.sidecars.release(&id)
            && self.released.replace(world.now).is_none()
        {
            tracing::warn!(instance = %name, "an instance that keeps a journal is to drain, and nobody is there to follow it");
        }
    }

    /// Says to each instance what it is to the journal, until it says that it knows. Returns whether all do.
    fn tell_parts(&mut self, moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>, world: &World<'_>) -> bool {
        let parts = parts(moved, seen);
        self.parts.retain(|name, _| parts.contains_key(name));
        for (name, part) in &parts {
            let is_told = self.parts.get(name).is_some_and(|(view, at)| {
                *view == part.view && world.now.saturating_duration_since(*at) < AGAIN
            });
            let id = seen.get(name).and_then(|seen| seen.presence.id(name));
            if let Some(id) = id.filter(|_| !is_told) {
                world.state.registry.sidecars.journals(&id, part.clone());
                self.parts.insert(name.clone(), (part.view, world.now));
            }
        }
        parts.is_empty() && moved.next.is_none()
    }
}

/// Who keeps the journal and is to drain, and waits for nothing: nobody is there to follow it, or whom it was to follow it will not.
fn stranded<'a>(
    moved: &'a Moved,
    seen: &'a BTreeMap<Arc<str>, Seen>,
    are_all_back: bool,
) -> Option<(&'a Arc<str>, &'a Seen)> {
    let sights = sights(moved, seen);
    let owner = moved.owner.as_ref();
    let serves = owner.and_then(|owner| sights.get(&owner.instance)).is_some_and(|owner| owner.serves);
    let named = |standby: &'a Option<Standby>| standby.as_ref()?.instance.as_ref();
    let heir = named(&moved.standby);
    let name = if serves {
        heir.filter(|_| moved.next.is_none() && kept(moved).choose(&sights).is_none())
    } else {
        // The heir may have to serve itself. Whoever was to follow it only whoever served could give the rest to.
        let is_gone = |owner: &Holder| {
            let there = seen.get(&owner.instance);
            there.map_or(are_all_back, |there| {
                there.report.is_some_and(|said| said.incarnation != owner.incarnation)
            })
        };
        named(&moved.next).filter(|next| Some(*next) != heir && owner.is_none_or(is_gone))
    }?;
    let there = seen.get(name).filter(|there| there.presence.leaving)?;
    owner.is_none_or(|owner| owner.instance != *name).then_some((name, there))
}

/// Whether the Service's requests are answered where nobody keeps the journal.
fn serves_alone(service: &ServiceName, world: &World<'_>) -> bool {
    let snapshot = world.state.store.snapshot();
    let state = snapshot.services.get(service).and_then(|service| service.state.as_ref());
    state.is_some_and(|state| state.when_alone == WhenAlone::Serve)
}

/// Whether it is too early to say that nobody keeps the journal: the only one may be there that has what was acknowledged, and
/// cannot be told anything yet, or just now. Where nothing is answered without a standby, nobody gains by that it lets go.
fn is_early(
    moved: &Moved,
    seen: &BTreeMap<Arc<str>, Seen>,
    change: &Change<'_, Arc<str>>,
    serves_alone: bool,
    are_back: bool,
) -> bool {
    let earlier = moved.standby.as_ref().filter(|standby| standby.epoch != moved.epoch);
    let owner = moved.owner.as_ref().map(|owner| &owner.instance);
    let Some(name) =
        earlier.and_then(|standby| standby.instance.as_ref()).filter(|name| Some(*name) != owner)
    else {
        return false;
    };
    let stays = || seen.get(name).is_some_and(|there| !there.presence.leaving && !there.presence.draining);
    *change == Change::Name(None) && (!are_back || !serves_alone && stays())
}

/// What is kept once this has changed.
fn changed(
    moved: &Moved,
    change: &Change<'_, Arc<str>>,
    sights: &BTreeMap<Arc<str>, keepers::Seen>,
    token: Vec<u8>,
) -> Moved {
    // Whatever is kept here of it: greater than any that somebody was told.
    let said = sights.values().filter_map(|seen| Some(seen.said?.view));
    let before = [&moved.standby, &moved.next].into_iter().flatten().map(Standby::number);
    let view = said.chain(before).max().unwrap_or_default().max(moved.views) + 1;
    let named = |instance: Option<&Arc<str>>| {
        Some(Standby { epoch: moved.epoch, view, number: 0, instance: instance.cloned(), token })
    };
    let again =
        |standby: &Option<Standby>| standby.clone().map(|standby| Standby { number: view, ..standby });
    let (standby, next) = match change {
        Change::Name(instance) => (named(*instance), None),
        Change::Follow(instance) => (moved.standby.clone(), named(Some(*instance))),
        Change::Promote => (again(&moved.next), None),
        Change::Drop => (again(&moved.standby), None),
    };
    Moved { standby, next, views: view, ..moved.clone() }
}

fn name(standby: Option<&Standby>) -> &str {
    standby.and_then(|standby| standby.instance.as_deref()).unwrap_or("-")
}

/// What instances are to be told of the journal that do not know it.
fn parts(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> BTreeMap<Arc<str>, JournalPart> {
    let sights = sights(moved, seen);
    let at = |standby: &Standby| {
        let there = standby.instance.as_ref().and_then(|name| seen.get(name));
        there.and_then(|there| there.presence.link).map(|at| at.to_string())
    };
    let part = |(name, (view, part)): (&Arc<str>, (u64, Part<'_, Arc<str>>))| {
        let told = JournalPart { epoch: moved.epoch.0, view, ..JournalPart::default() };
        let told = match part {
            Part::Keeps(standby) => JournalPart { keeps: true, token: standby.token.clone(), ..told },
            Part::LetsGo => told,
            Part::Serves { heir, next } => {
                let mut told = told;
                if let Some(heir) = heir {
                    (told.seat, told.token) = (heir.view, heir.token.clone());
                    // One that is not there is where it was.
                    told.standby = at(heir).unwrap_or_default();
                }
                if let Some(next) = next {
                    (told.next_seat, told.next_token, told.next) = (next.view, next.token.clone(), at(next)?);
                }
                told
            }
        };
        Some((name.clone(), told))
    };
    kept(moved).parts(&sights).into_iter().filter_map(part).collect()
}

/// When an instance was told what it is, and in which view.
pub(super) type Parts = BTreeMap<Arc<str>, (u64, Instant)>;

/// How many bytes nobody can guess whoever serves has to show.
const TOKEN: usize = 32;

/// After how long what was not heard is said again.
const AGAIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
