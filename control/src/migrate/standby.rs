//! Who keeps the journal of a Service whose state is journaled, and when that one serves.
//!
//! Who it is, is in the store before anybody is told, and in a view of its own, so that what whoever serves has acknowledged is at
//! whoever is kept here, once that one has said that it has all of it. Where the instance that serves dies, the standby follows it.
//! Until then it takes what that one gives; from then on it does not, so that nobody who is not heard any more acknowledges anything.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::name::ServiceName;
use lighter_config::snapshot::StateClass;
use lighter_config::xds::wire::lighter::registry::v1::JournalPart;
use lighter_migrate::{Epoch, Report, Source};
use serde::{Deserialize, Serialize};

use super::drive::World;
use super::owner::{self, Keeping, Seen};
use super::story::{Holder, Moved};
use crate::store::StoreError;

/// Who keeps the journal of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Standby {
    pub(super) epoch: Epoch,
    /// It grows whenever it is somebody else.
    pub(super) view: u64,
    /// None: nobody.
    pub(super) instance: Option<Arc<str>>,
    /// What whoever serves shows to it.
    pub(super) token: Vec<u8>,
}

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
///
/// The standby may be that of an earlier epoch: nobody has acknowledged anything in a later one. Whoever serves does that once it
/// was told who keeps the journal there, or that nobody does, and before anybody is told that is kept here.
pub(super) fn heir(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> Heir {
    let Some(standby) = &moved.standby else { return Heir::None };
    let Some((name, there)) = standby.instance.as_ref().and_then(|name| Some((name, seen.get(name)?))) else {
        return Heir::None;
    };
    let Some(Report { incarnation, .. }) = there.report else { return Heir::Awaited };
    let is_whole = there.journal.is_some_and(|said| said.whole && said.view == standby.view);
    match is_whole {
        true => Heir::Is(Holder { instance: name.clone(), incarnation, source: Source::Journal }),
        false => Heir::None,
    }
}

/// Who is to keep the journal from now on, if that is somebody else than before; Some(None): nobody.
fn choose(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> Option<Option<Arc<str>>> {
    let owner = moved.owner.as_ref()?;
    let there = seen.get(&owner.instance)?;
    let report = there.report?;
    let serves = report.incarnation == owner.incarnation
        && report.stand.serves() == Some(moved.epoch)
        && moved.listed.as_ref() == Some(&owner.instance);
    if !serves {
        return None;
    }
    let now = moved.standby.as_ref().filter(|standby| standby.epoch == moved.epoch);
    let is_lost = now.zip(there.journal).is_some_and(|(now, said)| said.lost && said.view == now.view);
    let kept = now.and_then(|now| now.instance.as_ref());
    let keeps = kept.and_then(|name| seen.get(name));
    let is_leaving = keeps.is_some_and(|seen| seen.presence.draining || seen.presence.leaving);
    if keeps.is_some() && !is_leaving && !is_lost {
        return None;
    }
    let may = |(name, seen): &(&Arc<str>, &Seen)| {
        let presence = &seen.presence;
        **name != owner.instance
            && Some(*name) != kept
            && presence.ready
            && presence.is_heard
            && !presence.draining
            && !presence.leaving
            && presence.link.is_some()
            && seen.report.is_some_and(|report| report.stand.holds().is_none())
            && presence.ports.is_superset(&there.presence.ports)
    };
    // Behind the one before, so that of three none is tried again and again where another one is there.
    let behind =
        kept.and_then(|kept| seen.range::<Arc<str>, _>((Bound::Excluded(kept), Bound::Unbounded)).find(may));
    let other = behind.or_else(|| seen.iter().find(may)).map(|(name, _)| name.clone());
    match (&other, now) {
        // Nobody is better than before.
        (None, Some(now)) if keeps.is_some() || now.instance.is_none() => None,
        _ => Some(other),
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
            if moved.standby.is_some() {
                // What it has gets old.
                let after = Moved { standby: None, ..moved.clone() };
                write(&after)?;
                *moved = after;
            }
            return Ok(true);
        }
        let seen = owner::seen(service, world.state);
        if let Some(instance) = choose(moved, &seen) {
            let token = match crate::ca::random::<TOKEN>() {
                Ok(token) => token.to_vec(),
                Err(error) => {
                    tracing::error!(%error, %service, "nobody is chosen to keep the journal");
                    return Ok(true);
                }
            };
            // Whatever is kept here of it: greater than any that somebody was told.
            let said = seen.values().filter_map(|seen| Some(seen.journal?.view));
            let before = moved.standby.as_ref().map(|standby| standby.view);
            let view = said.chain(before).max().unwrap_or_default() + 1;
            let epoch = moved.epoch;
            tracing::info!(%service, epoch = epoch.0, view, standby = instance.as_deref().unwrap_or("-"), "who keeps the journal");
            let standby = Some(Standby { epoch, view, instance, token });
            let after = Moved { standby, ..moved.clone() };
            write(&after)?;
            *moved = after;
        }
        Ok(self.tell_parts(moved, &seen, world))
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
        parts.is_empty()
    }
}

/// What instances are to be told of the journal that do not know it.
///
/// Whoever kept the journal of an earlier epoch lets go of it, whole or not, before whoever serves is told: from then on nobody who
/// served before, and is not heard, acknowledges anything.
fn parts(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> BTreeMap<Arc<str>, JournalPart> {
    let Some(standby) = moved.standby.as_ref().filter(|standby| standby.epoch == moved.epoch) else {
        return BTreeMap::new();
    };
    let kept = standby.instance.as_ref();
    let at = kept.map(|kept| seen.get(kept).and_then(|seen| seen.presence.link));
    let is_owner = |name: &Arc<str>| moved.owner.as_ref().is_some_and(|owner| owner.instance == *name);
    let knows =
        |seen: &Seen| !seen.presence.is_heard || seen.journal.is_some_and(|said| said.view >= standby.view);
    // One that serves still gives that up by an order of its own.
    let lets_go = |seen: &Seen| {
        let serves = seen.report.is_some_and(|report| report.stand.holds().is_some());
        !serves && seen.journal.is_some_and(|said| said.whole || said.epoch < standby.epoch.0)
    };
    let is_open = seen.iter().any(|(name, seen)| {
        let is_earlier = seen.journal.is_some_and(|said| said.epoch < standby.epoch.0);
        !is_owner(name) && kept != Some(name) && !knows(seen) && is_earlier && lets_go(seen)
    });
    let part = |(name, seen): (&Arc<str>, &Seen)| {
        if knows(seen) {
            return None;
        }
        let (is_owner, keeps) = (is_owner(name), kept == Some(name));
        let (at, token) = match at {
            _ if keeps => (String::new(), standby.token.clone()),
            _ if is_owner && is_open => return None,
            Some(at) if is_owner => (at?.to_string(), standby.token.clone()),
            // Nobody keeps it, or it has what is old by now.
            None if is_owner => Default::default(),
            _ if lets_go(seen) => Default::default(),
            _ => return None,
        };
        let (epoch, view) = (standby.epoch.0, standby.view);
        Some((name.clone(), JournalPart { epoch, view, keeps, standby: at, token }))
    };
    seen.iter().filter_map(part).collect()
}

/// When an instance was told what it is, and in which view.
pub(super) type Parts = BTreeMap<Arc<str>, (u64, Instant)>;

/// How many bytes nobody can guess whoever serves has to show.
const TOKEN: usize = 32;

/// After how long what was not heard is said again.
const AGAIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use lighter_config::xds::wire::lighter::registry::v1::JournalStand;
    use lighter_migrate::{Incarnation, Stamp, Stand};

    use super::super::leave::tests::there;
    use super::super::owner::decide;
    use super::*;

    fn with(stand: Stand, journal: Option<JournalStand>) -> Seen {
        let seen = there(|_| {});
        Seen { report: seen.report.map(|report| Report { stand, ..report }), journal, ..seen }
    }

    fn said(view: u64, whole: bool) -> Option<JournalStand> {
        Some(JournalStand { epoch: 3, view, whole, lost: false })
    }

    /// `a` serves, and `b` keeps its journal.
    fn moved() -> Moved {
        let token = vec![7; 32];
        let standby = Standby { epoch: Epoch(3), view: 5, instance: Some("b".into()), token };
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
    fn both_are_told_until_they_know() {
        let moved = moved();
        let serves = |journal| with(Stand::Serving { epoch: Epoch(3) }, journal);
        let told = parts(&moved, &all([("a", serves(None)), ("b", with(Stand::Empty, said(4, true)))]));
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
        let earlier = |whole| Some(JournalStand { epoch: 2, view: 4, whole, lost: false });
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
}
