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
mod tests {
    use lighter_migrate::{Incarnation, Stamp, Stand};

    use super::super::leave::tests::there;
    use super::super::owner::decide;
    use super::*;

    fn with(stand: Stand, journal: Option<JournalStand>) -> Seen {
        let seen = there(|_| {});
        Seen { report: seen.report.map(|report| Report { stand, ..report }), journal, ..seen }
    }

    fn said(view: u64, whole: bool) -> Option<JournalStand> {
        Some(JournalStand { epoch: 3, view, whole, lost: false, ..JournalStand::default() })
    }

    /// `a` serves, and `b` keeps its journal.
    fn moved() -> Moved {
        let token = vec![7; 32];
        let standby = Standby { epoch: Epoch(3), view: 5, number: 0, instance: Some("b".into()), token };
        let incarnation = there(|_| {}).report.map_or(Incarnation(0), |report| report.incarnation);
        let owner = Holder { instance: "a".into(), incarnation, source: Source::Nothing };
        Moved {
            epoch: Epoch(3),
            owner: Some(owner),
            listed: Some("a".into()),
            standby: Some(standby),
            ..Moved::default()
        }
    }

    /// Who is to keep the journal instead, at once.
    fn choose(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> Option<Option<Arc<str>>> {
        match kept(moved).choose(&sights(moved, seen))? {
            Change::Name(instance) => Some(instance.cloned()),
            other => panic!("{other:?}"),
        }
    }

    fn all(of: [(&str, Seen); 2]) -> BTreeMap<Arc<str>, Seen> {
        of.into_iter().map(|(name, seen)| (name.into(), seen)).collect()
    }

    #[test]
    fn whoever_has_all_that_was_acknowledged_serves_next_and_nothing_is_lost() {
        let (moved, c) = (moved(), || ("c", with(Stand::Empty, None)));
        let after = |b: Seen| decide(&moved, &all([("b", b), c()]), true);
        let next = after(with(Stand::Empty, said(5, true))).unwrap();
        let owner = next.owner.unwrap();
        assert_eq!((&*owner.instance, owner.source), ("b", Source::Journal));
        assert_eq!((next.epoch, next.losses, next.listed), (Epoch(4), 0, None));
        // Who has yet to say what it has is waited for.
        let silent = Seen { report: None, ..with(Stand::Empty, None) };
        assert!(decide(&moved, &all([("b", silent), c()]), true).is_none());
        assert!(decide(&moved, &all([("b", with(Stand::Empty, said(5, true))), c()]), false).is_none());
        for lacks in [None, said(5, false), said(4, true)] {
            let next = after(with(Stand::Empty, lacks)).unwrap();
            assert_eq!((next.owner.unwrap().source, next.losses), (Source::Nothing, 1), "{lacks:?}");
        }
        // Nobody was named in a later epoch, so that nothing was acknowledged there, whoever served.
        let source = Source::Restored(lighter_migrate::Digest([0; 32]));
        let owner = moved.owner.clone().map(|owner| Holder { source, ..owner });
        let later = Moved { epoch: Epoch(4), owner, ..moved.clone() };
        let next = decide(&later, &all([("b", with(Stand::Empty, said(5, true))), c()]), true).unwrap();
        let owner = next.owner.unwrap();
        assert_eq!((&*owner.instance, owner.source), ("b", Source::Journal));
        assert_eq!((next.epoch, next.losses), (Epoch(5), 0));
    }

    #[test]
    fn a_store_that_is_an_old_one_says_nothing_of_who_has_the_journal() {
        let moved = moved();
        let a = with(Stand::Serving { epoch: Epoch(6) }, said(9, false));
        let seen = all([("a", a), ("b", with(Stand::Empty, said(5, true)))]);
        let next = decide(&moved, &seen, true).unwrap();
        assert_eq!((next.epoch, next.losses), (Epoch(6), 0));
        let b = ("b", with(Stand::Empty, said(5, true)));
        let last = decide(&next, &all([b, ("c", with(Stand::Empty, None))]), true).unwrap();
        assert_eq!((last.owner.unwrap().source, last.losses), (Source::Nothing, 1));
    }

    #[test]
    fn an_owner_that_has_begun_again_is_followed_and_so_is_an_heir_that_did_not_get_to_serve() {
        let moved = moved();
        let mut a = with(Stand::Empty, None);
        a.report = a.report.map(|report| Report {
            incarnation: Incarnation(report.incarnation.0 + 1),
            heard: Stamp::default(),
            ..report
        });
        let b = with(Stand::Empty, said(5, true));
        let next = decide(&moved, &all([("a", a.clone()), ("b", b.clone())]), true).unwrap();
        assert_eq!((&*next.owner.as_ref().unwrap().instance, next.losses), ("b", 0));
        // Its application has begun again before it served.
        let mut again = b;
        again.report = again
            .report
            .map(|report| Report { incarnation: Incarnation(report.incarnation.0 + 1), ..report });
        let last = decide(&next, &all([("a", a), ("b", again)]), true).unwrap();
        let owner = last.owner.unwrap();
        assert_eq!((&*owner.instance, owner.source, last.losses), ("b", Source::Journal, 0));
    }

    #[test]
    fn another_keeps_the_journal_where_the_one_before_is_gone_or_not_reached() {
        let serves = || with(Stand::Serving { epoch: Epoch(3) }, said(5, false));
        let moved = moved();
        let one = |name: &'static str| (name, with(Stand::Empty, None));
        assert_eq!(choose(&moved, &all([("a", serves()), one("b")])), None, "it is there");
        assert_eq!(choose(&moved, &all([("a", serves()), one("c")])), Some(Some("c".into())));
        let alone: BTreeMap<Arc<str>, Seen> = [("a".into(), serves())].into();
        assert_eq!(choose(&moved, &alone), Some(None));
        let nobody = moved.standby.clone().map(|standby| Standby { instance: None, ..standby });
        assert_eq!(choose(&Moved { standby: nobody, ..moved.clone() }, &alone), None, "as before");
        let lost =
            Seen { journal: said(5, false).map(|said| JournalStand { lost: true, ..said }), ..serves() };
        let mut three = all([("a", lost.clone()), one("b")]);
        assert_eq!(choose(&moved, &three), None, "nobody is better");
        three.insert("c".into(), with(Stand::Empty, None));
        assert_eq!(choose(&moved, &three), Some(Some("c".into())));
        // One that leaves is kept until another one is there.
        for leaves in [true, false] {
            let mut b = with(Stand::Empty, None);
            (b.presence.leaving, b.presence.draining) = (leaves, !leaves);
            let mut few = all([("a", serves()), ("b", b)]);
            assert_eq!(choose(&moved, &few), None, "nobody is better");
            few.insert("c".into(), with(Stand::Empty, None));
            assert_eq!(choose(&moved, &few), Some(Some("c".into())));
        }
        // Whoever is not reached is followed by the next one, and not by one that was not reached before.
        let owner = moved.owner.clone().map(|owner| Holder { instance: "s".into(), ..owner });
        let far = Moved { owner, listed: Some("s".into()), ..moved.clone() };
        let mut four = all([("s", lost.clone()), ("b", with(Stand::Empty, None))]);
        four.extend(["a", "c"].map(|name| (name.into(), with(Stand::Empty, None))));
        assert_eq!(choose(&far, &four), Some(Some("c".into())));
        let other = Moved { epoch: Epoch(4), ..moved.clone() };
        let serves = with(Stand::Serving { epoch: Epoch(4) }, None);
        assert_eq!(choose(&other, &all([("a", serves), one("b")])), Some(Some("b".into())), "a new epoch");
        let opening = with(Stand::Opening { epoch: Epoch(3) }, None);
        assert_eq!(choose(&moved, &all([("a", opening), one("c")])), None, "it does not serve yet");
    }

    #[test]
    fn the_heir_of_before_is_not_let_go_since_it_cannot_be_told_anything_for_a_moment() {
        let epoch = Epoch(4);
        let owner = moved().owner.map(|owner| Holder { instance: "c".into(), ..owner });
        let moved = Moved { epoch, owner, listed: Some("c".into()), ..moved() };
        let c =
            || ("c", knowing(Stand::Serving { epoch }, JournalStand { epoch: 4, ..JournalStand::default() }));
        let early = |change: fn(&mut crate::registry::Presence), serves_alone, are_back| {
            let b = Seen { journal: said(5, true), ..there(change) };
            let seen = all([("b", b), c()]);
            let sights = sights(&moved, &seen);
            let change = kept(&moved).choose(&sights).unwrap();
            assert_eq!(change, Change::Name(None));
            is_early(&moved, &seen, &change, serves_alone, are_back)
        };
        let changes: [fn(&mut crate::registry::Presence); 3] =
            [|b| b.is_heard = false, |b| b.ready = false, |b| b.link = None];
        for change in changes {
            assert!(early(change, false, true) && early(change, true, false) && !early(change, true, true));
        }
        assert!(!early(|b| b.leaving = true, false, true), "it goes");
        // Nor is it where the control plane has just begun, and may not have heard of another one.
        let alone: BTreeMap<Arc<str>, Seen> = [c()].map(|(name, seen)| (name.into(), seen)).into();
        let is_early = |are_back| is_early(&moved, &alone, &Change::Name(None), false, are_back);
        assert!(is_early(false) && !is_early(true));
    }

    #[test]
    fn who_is_to_drain_and_was_to_follow_the_standby_is_let_go_where_whoever_serves_is_gone() {
        let next = Standby { view: 6, instance: Some("c".into()), ..moved().standby.unwrap() };
        let moved = Moved { next: Some(next), ..moved() };
        let leaves = |name, leaving| {
            let mut there = with(Stand::Empty, said(6, true));
            there.presence.leaving = leaving;
            (name, there)
        };
        let a = || with(Stand::Serving { epoch: Epoch(3) }, said(6, false));
        let stranded = |moved: &Moved, seen: &BTreeMap<_, _>| {
            super::stranded(moved, seen, true).map(|(name, _)| name.to_string())
        };
        let both = all([leaves("b", true), leaves("c", true)]);
        assert_eq!(stranded(&moved, &both).as_deref(), Some("c"), "the heir has everything");
        assert!(super::stranded(&moved, &both, false).is_none(), "whoever serves may come back");
        assert_eq!(stranded(&moved, &all([leaves("b", true), leaves("c", false)])), None);
        // Whoever serves, or just does not for a moment, sees to it.
        for stand in [a(), with(Stand::Frozen { epoch: Epoch(3) }, None), Seen { report: None, ..a() }] {
            let mut there = both.clone();
            there.insert("a".into(), stand);
            assert_eq!(stranded(&moved, &there), None);
        }
        let mut again = both.clone();
        let report = a().report.map(|report| Report { incarnation: Incarnation(99), ..report });
        again.insert("a".into(), Seen { report, ..a() });
        assert_eq!(stranded(&moved, &again).as_deref(), Some("c"));
        // It may be the heir, or serve next.
        let heir = Moved { standby: moved.next.clone(), ..moved.clone() };
        assert_eq!(stranded(&heir, &both), None);
        let owner = moved.owner.clone().map(|owner| Holder { instance: "c".into(), ..owner });
        assert_eq!(stranded(&Moved { owner, ..moved.clone() }, &both), None);
        // As before, of a standby that nobody follows.
        let last = Moved { next: None, ..moved };
        let alone = all([("a", a()), leaves("b", true)]);
        assert_eq!(stranded(&last, &alone).as_deref(), Some("b"));
        assert_eq!(stranded(&last, &both), None);
    }

    #[test]
    fn both_are_told_until_they_know() {
        let moved = moved();
        let serves = |journal| with(Stand::Serving { epoch: Epoch(3) }, journal);
        let told = parts(&moved, &all([("a", serves(None)), ("b", with(Stand::Empty, said(4, false)))]));
        let (a, b) = (&told["a"], &told["b"]);
        assert!(b.keeps && !a.keeps && !a.standby.is_empty() && a.token == b.token && a.token.len() == 32);
        assert_eq!((a.view, b.view, a.epoch), (5, 5, 3));
        let told =
            parts(&moved, &all([("a", serves(said(5, false))), ("c", with(Stand::Empty, said(2, true)))]));
        let c = &told["c"];
        assert!(told.len() == 1 && !c.keeps && c.standby.is_empty() && c.token.is_empty(), "it lets go");
    }

    #[test]
    fn whoever_kept_the_journal_of_an_earlier_epoch_lets_go_before_whoever_serves_is_told_whole_or_not() {
        let moved = moved();
        let serves = || with(Stand::Serving { epoch: Epoch(3) }, None);
        let earlier =
            |whole| Some(JournalStand { epoch: 2, view: 4, whole, lost: false, ..JournalStand::default() });
        let told = |c: Seen| {
            let mut seen = all([("a", serves()), ("b", with(Stand::Empty, None))]);
            seen.insert("c".into(), c);
            parts(&moved, &seen).into_keys().map(|name| name.to_string()).collect::<Vec<_>>()
        };
        for whole in [false, true] {
            assert_eq!(told(with(Stand::Empty, earlier(whole))), ["b", "c"], "{whole}");
        }
        assert_eq!(told(with(Stand::Empty, said(5, false))), ["a", "b"], "it knows");
        assert_eq!(told(with(Stand::Serving { epoch: Epoch(2) }, earlier(false))), ["a", "b"]);
        let mut unheard = with(Stand::Empty, earlier(false));
        unheard.presence.is_heard = false;
        assert_eq!(told(unheard), ["a", "b"]);
    }

    /// One that knows that one follows another.
    fn knowing(stand: Stand, said: JournalStand) -> Seen {
        with(stand, Some(JournalStand { hands_over: true, ..said }))
    }

    #[test]
    fn the_standby_is_the_heir_until_another_one_has_everything_and_lets_go_last() {
        let stand = |view| JournalStand { epoch: 3, view, ..JournalStand::default() };
        let whole = |view| JournalStand { whole: true, whole_view: view, ..stand(view) };
        let a = |said| ("a", knowing(Stand::Serving { epoch: Epoch(3) }, said));
        let b = || {
            let mut b = knowing(Stand::Empty, whole(5));
            b.presence.draining = true;
            ("b", b)
        };
        let c = |said: Option<JournalStand>| ("c".into(), with(Stand::Empty, said));
        let mut moved = moved();
        let mut seen = all([a(stand(5)), b()]);
        seen.extend([c(None)]);
        let mut step = |seen: &BTreeMap<Arc<str>, Seen>| {
            let sights = sights(&moved, seen);
            let change = kept(&moved).choose(&sights);
            let is_changed = change.is_some();
            if let Some(change) = change {
                moved = changed(&moved, &change, &sights, vec![9; 32]);
            }
            let heir = match heir(
                &moved,
                &seen
                    .iter()
                    .filter(|(name, _)| &***name != "a")
                    .map(|(name, seen)| (name.clone(), seen.clone()))
                    .collect(),
            ) {
                Heir::Is(heir) => heir.instance.to_string(),
                other => format!("{other:?}"),
            };
            let told: Vec<String> = parts(&moved, seen).into_keys().map(|name| name.to_string()).collect();
            (is_changed, heir, told.join(" "), parts(&moved, seen).remove("a"))
        };
        let (_, heir, told, part) = step(&seen);
        let part = part.unwrap();
        assert_eq!((&*heir, &*told), ("b", "a c"));
        assert!(part.seat == 5 && part.view == 6 && part.next_seat == 6, "{part:?}");
        assert!(!part.standby.is_empty() && !part.next.is_empty() && part.token != part.next_token);
        // It has everything, and whoever serves has not said so; then that one says it, and the other one does not.
        for (said, other) in
            [(stand(6), Some(whole(6))), (JournalStand { confirmed: 6, ..stand(6) }, Some(stand(6)))]
        {
            seen.extend([c(other)]);
            seen.extend([a(said)].map(|(name, seen)| (name.into(), seen)));
            let (is_changed, heir, told, _) = step(&seen);
            assert!(!is_changed && heir == "b" && told.is_empty(), "{heir} {told}");
        }
        seen.extend([c(Some(whole(6)))]);
        let (_, heir, told, part) = step(&seen);
        assert_eq!((&*heir, &*told), ("c", "a"), "the one before does not let go yet");
        let part = part.unwrap();
        assert!(part.seat == 6 && part.view == 7 && part.next.is_empty(), "{part:?}");
        seen.extend([a(stand(7))].map(|(name, seen)| (name.into(), seen)));
        let (is_changed, heir, told, _) = step(&seen);
        assert_eq!((is_changed, &*heir, &*told), (false, "c", "b"));
    }

    #[test]
    fn whoever_had_everything_before_a_move_is_the_heir_until_another_one_has_it() {
        let token = vec![7; 32];
        let epoch = Epoch(4);
        let owner = moved().owner.map(|owner| Holder { instance: "c".into(), ..owner });
        let moved = Moved { epoch, owner, listed: Some("c".into()), ..moved() };
        let said = |view, whole_view| JournalStand {
            epoch: 3,
            view,
            whole_view,
            hands_over: true,
            ..JournalStand::default()
        };
        let c = || ("c", with(Stand::Serving { epoch }, Some(said(0, 0))));
        let mut seen = all([("b", with(Stand::Empty, Some(said(5, 5)))), c()]);
        // It is the only one that is left, and keeps what it has beside what is new.
        assert_eq!(kept(&moved).choose(&sights(&moved, &seen)), Some(Change::Follow(&"b".into())));
        seen.insert("a".into(), with(Stand::Moved, None));
        let sights = sights(&moved, &seen);
        let change = kept(&moved).choose(&sights).unwrap();
        assert_eq!(change, Change::Follow(&"a".into()));
        let moved = changed(&moved, &change, &sights, token);
        assert!(matches!(heir(&moved, &seen), Heir::Is(heir) if &*heir.instance == "b"));
        let told = parts(&moved, &seen);
        let part = &told["c"];
        assert!(
            part.seat == 0 && part.standby.is_empty() && part.next_seat == 6,
            "nothing is acknowledged yet"
        );
        assert!(told["a"].keeps && !told.contains_key("b"));
    }
}
