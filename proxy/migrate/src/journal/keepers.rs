//! Who keeps the journal, by what the control plane has in its store and hears of instances. Without I/O.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::id::Epoch;
use crate::planted::{Plan as Faults, Planted};

/// Somebody who keeps the journal of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standby<I> {
    /// Of which epoch.
    pub epoch: Epoch,
    /// It grows whenever it is somebody else.
    pub view: u64,
    /// What is told of it has this number, where that is greater than its view: it has followed another one since, or is followed by
    /// nobody any more.
    #[serde(default)]
    pub number: u64,
    /// None: nobody.
    pub instance: Option<I>,
    /// What whoever serves shows to it.
    pub token: Vec<u8>,
}

/// What is in the store of those who keep the journal.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a, I> {
    /// The epoch of the service.
    pub epoch: Epoch,
    /// Whose that is.
    pub owner: Option<&'a I>,
    /// The owner has served it.
    pub is_served: bool,
    /// The heir: who has all that was acknowledged.
    pub standby: Option<&'a Standby<I>>,
    /// Who is to follow it, once it has everything as well.
    pub next: Option<&'a Standby<I>>,
    pub(crate) faults: Faults,
}

/// An instance, as it is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It is heard, so that it can be told something.
    pub is_heard: bool,
    /// It may be chosen.
    pub may_keep: bool,
    /// It accepts links.
    pub has_link: bool,
    /// It is about to leave.
    pub is_leaving: bool,
    /// It has said what it has.
    pub has_said: bool,
    /// It has something of a state.
    pub holds: bool,
    /// It is the owner, in the life that it was given the epoch, and serves that.
    pub serves: bool,
    /// What it says of the journal.
    pub said: Option<Said>,
}

/// What an instance says of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Said {
    /// What it was told last.
    pub epoch: Epoch,
    /// The number of that.
    pub view: u64,
    /// In which view it has all that was acknowledged. 0: it does not.
    pub whole: u64,
    /// It serves, and does not reach the heir.
    pub is_lost: bool,
    /// Nor the one that is to follow that.
    pub is_next_lost: bool,
    /// It serves, and in this view there is one to follow the heir that has everything as well. 0: there is none.
    pub confirmed: u64,
    /// It knows that one follows another.
    pub hands_over: bool,
}

/// Who serves next, with all that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir<'a, I> {
    /// This one.
    Is(&'a I),
    /// It is not known yet: somebody is there who has not said what it has.
    Awaited,
    /// Nobody.
    None,
}

/// What is to be in the store instead, of those who keep the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a, I> {
    /// This one keeps it, or nobody does, whatever was before.
    Name(Option<&'a I>),
    /// This one is to follow the heir.
    Follow(&'a I),
    /// Whoever is to follow the heir is the heir.
    Promote,
    /// Nobody follows the heir.
    Drop,
}

/// What an instance is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a, I> {
    /// It keeps the journal, as this one.
    Keeps(&'a Standby<I>),
    /// It serves. None: nobody keeps the journal.
    Serves {
        /// The heir. None: nothing can be acknowledged yet.
        heir: Option<&'a Standby<I>>,
        /// Who is to follow it.
        next: Option<&'a Standby<I>>,
    },
    /// It keeps nothing any more.
    LetsGo,
}

impl<I> Standby<I> {
    /// The number of what is told of it.
    pub fn number(&self) -> u64 {
        self.number.max(self.view)
    }
}

impl<'a, I: Ord> Kept<'a, I> {
    /// What is in the store.
    pub fn new(
        (epoch, owner, is_served): (Epoch, Option<&'a I>, bool),
        standby: Option<&'a Standby<I>>,
        next: Option<&'a Standby<I>>,
    ) -> Self {
        Kept { epoch, owner, is_served, standby, next, faults: Faults::default() }
    }

    /// Who has all that was acknowledged.
    ///
    /// The standby may be that of an earlier epoch: nobody has acknowledged anything in a later one. Whoever serves does that once
    /// it was told that the heir is of its epoch, or that nobody keeps the journal, and that is here before. So whatever that one
    /// has had everything of since is good as well, and stays so once it is not to follow itself any more: it may have nothing
    /// else by then.
    pub fn heir(&self, seen: &BTreeMap<I, Seen>) -> Heir<'a, I> {
        let named = self.standby.and_then(|standby| Some((standby, standby.instance.as_ref()?)));
        let Some((standby, name)) = named else { return Heir::None };
        let Some(there) = seen.get(name) else { return Heir::None };
        if !there.has_said {
            return Heir::Awaited;
        }
        let may_be_later = standby.epoch != self.epoch && !self.faults.has(Planted::ExactView);
        let is_whole = there.said.is_some_and(|said| match may_be_later {
            true => said.whole >= standby.view,
            false => said.whole == standby.view,
        });
        if is_whole { Heir::Is(name) } else { Heir::None }
    }

    /// What is to be otherwise from now on.
    pub fn choose(&self, seen: &'a BTreeMap<I, Seen>) -> Option<Change<'a, I>> {
        let owner = self.owner?;
        let there = seen.get(owner)?;
        if !there.serves || !self.is_served {
            return None;
        }
        let said = there.said.unwrap_or_default();
        let now = self.standby.filter(|standby| standby.epoch == self.epoch);
        // Nobody has acknowledged anything in this epoch yet, and this one has all of what was before.
        let earlier = self.standby.filter(|standby| standby.epoch != self.epoch);
        let earlier =
            earlier.and_then(|standby| standby.instance.as_ref()).filter(|name| seen.contains_key(name));
        let kept = now.and_then(|now| now.instance.as_ref());
        match self.next {
            // It does not know that one follows another, and would take it that nobody keeps the journal.
            Some(_) if there.said.is_some_and(|said| !said.hands_over) => return Some(Change::Drop),
            Some(next) => return self.follow(next, said, owner, (kept, earlier), seen),
            None => {}
        }
        let keeps = kept.and_then(|name| seen.get(name));
        let is_lost = now.is_some_and(|now| said.is_lost && said.view == now.number());
        if keeps.is_some_and(|keeps| !keeps.is_leaving && !is_lost) {
            return None;
        }
        let other = other([owner], kept.or(earlier), seen);
        match (other, now) {
            // Nothing is acknowledged by what it has before it is heard here that it has everything.
            (Some(other), _) if said.hands_over && !self.faults.has(Planted::NameAtOnce) => {
                Some(Change::Follow(other))
            }
            // It has what was acknowledged, and nobody else can keep what will be.
            (None, None) if earlier.is_some_and(|name| name != owner && may_keep(name, seen)) => earlier
                .map(|name| if said.hands_over { Change::Follow(name) } else { Change::Name(Some(name)) }),
            // Nobody is better than before.
            (None, Some(now)) if keeps.is_some() || now.instance.is_none() => None,
            (other, _) => Some(Change::Name(other)),
        }
    }

    /// What becomes of the one that is to follow the heir.
    fn follow(
        &self,
        next: &Standby<I>,
        said: Said,
        owner: &I,
        (kept, earlier): (Option<&I>, Option<&I>),
        seen: &'a BTreeMap<I, Seen>,
    ) -> Option<Change<'a, I>> {
        let there = next.instance.as_ref().and_then(|name| seen.get(name));
        let is_told = said.view >= next.view;
        let is_lost = is_told && said.is_next_lost && next.epoch == self.epoch;
        // One that accepts no links whoever serves is not told of.
        let may_follow =
            |there: &&Seen| next.epoch == self.epoch && !there.is_leaving && there.has_link && !is_lost;
        let Some(there) = there.filter(may_follow) else {
            // The heir of before is tried like any other once one was not reached: it may be the only one that is.
            let heir = if is_lost { kept } else { kept.or(earlier) };
            let other = other([owner, heir.unwrap_or(owner)], next.instance.as_ref(), seen);
            let has_heir = kept.or(earlier).is_some();
            return Some(match other {
                Some(other) => Change::Follow(other),
                None if has_heir => Change::Drop,
                // Whoever serves is to know that nobody keeps the journal.
                None => Change::Name(None),
            });
        };
        let is_whole = there.said.is_some_and(|said| said.whole == next.view);
        let is_confirmed = said.confirmed == next.view || self.faults.has(Planted::PromoteEarly);
        (is_told && is_confirmed && is_whole).then_some(Change::Promote)
    }

    /// What instances are to be told that do not know it, and the number of that.
    ///
    /// Whoever kept the journal of an earlier epoch, whole or not, lets go of it before whoever serves is told: from then on nobody
    /// who served before, and is not heard, acknowledges anything. In the same epoch it does so last, as whoever serves goes
    /// on with it until then.
    pub fn parts(&self, seen: &'a BTreeMap<I, Seen>) -> BTreeMap<&'a I, (u64, Part<'a, I>)> {
        let now = self.standby.filter(|standby| standby.epoch == self.epoch);
        let next = self.next.filter(|next| next.epoch == self.epoch);
        let Some(number) = now.map(Standby::number).max(next.map(|next| next.view)) else {
            return BTreeMap::new();
        };
        let number = number.max(self.standby.map_or(0, Standby::number));
        let told = |name: &I| seen.get(name).and_then(|seen| seen.said).map_or(0, |said| said.view);
        let keeps = |name: &I| {
            let of = |standby: Option<&'a Standby<I>>| {
                standby.filter(|standby| standby.instance.as_ref() == Some(name))
            };
            of(next).or(of(self.standby))
        };
        let is_owner = |name: &I| self.owner == Some(name);
        let lets_go = |(name, seen): (&I, &Seen)| {
            // One that serves still gives that up by an order of its own.
            let is_other = !is_owner(name) && keeps(name).is_none() && seen.is_heard && !seen.holds;
            is_other && told(name) < number
        };
        let is_earlier = |seen: &Seen| seen.said.is_some_and(|said| said.view > 0 && said.epoch < self.epoch);
        let is_open = seen.iter().any(|(name, seen)| is_earlier(seen) && lets_go((name, seen)));
        let does_owner_know =
            self.owner.is_some_and(|owner| told(owner) >= number) || self.faults.has(Planted::LetGoFirst);
        let part = |(name, there): (&'a I, &Seen)| {
            if !there.is_heard {
                return None;
            }
            let (number, part) = match keeps(name) {
                _ if is_owner(name) => {
                    (number, Part::Serves { heir: now.filter(|now| now.instance.is_some()), next })
                }
                Some(standby) if standby.epoch == self.epoch => (standby.view, Part::Keeps(standby)),
                Some(_) => return None,
                None => (number, Part::LetsGo),
            };
            let is_due = match part {
                Part::Serves { .. } => !is_open,
                // As what it keeps so far whoever serves may still go on with.
                Part::Keeps(_) => {
                    let is_new = there.said.is_none_or(|said| said.whole == 0 || said.epoch != self.epoch);
                    is_new || does_owner_know
                }
                Part::LetsGo => {
                    lets_go((name, there))
                        && (is_earlier(there)
                            || does_owner_know && there.said.is_some_and(|said| said.whole > 0))
                }
            };
            (is_due && told(name) < number).then_some((name, (number, part)))
        };
        seen.iter().filter_map(part).collect()
    }
}

/// Somebody who can keep it, other than these. Behind the one before, so that of three none is tried again and again where another one
/// is there.
fn other<'a, I: Ord, const N: usize>(
    but: [&I; N],
    before: Option<&I>,
    seen: &'a BTreeMap<I, Seen>,
) -> Option<&'a I> {
    let may =
        |(name, _): &(&'a I, &Seen)| !but.contains(name) && Some(*name) != before && may_keep(*name, seen);
    let behind = before
        .and_then(|before| seen.range((Bound::Excluded(before), Bound::Unbounded)).find(|pair| may(pair)));
    behind.or_else(|| seen.iter().find(|pair| may(pair))).map(|(name, _)| name)
}

fn may_keep<I: Ord>(name: &I, seen: &BTreeMap<I, Seen>) -> bool {
    seen.get(name).is_some_and(|seen| seen.may_keep && seen.is_heard && !seen.is_leaving && !seen.holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Epoch = Epoch(3);
    const NOW: Epoch = Epoch(4);

    fn standby(name: &'static str, epoch: Epoch, view: u64) -> Standby<&'static str> {
        Standby { epoch, view, number: 0, instance: Some(name), token: Vec::new() }
    }

    /// One that could keep the journal, and has everything in this view.
    fn whole(view: u64) -> Seen {
        let said = Said { epoch: NOW, view, whole: view, hands_over: true, ..Said::default() };
        let seen = Seen { is_heard: true, may_keep: true, has_link: true, has_said: true, ..Seen::default() };
        Seen { said: Some(said), ..seen }
    }

    /// One that serves, and was told this.
    fn serves(view: u64) -> Seen {
        let said = Said { epoch: NOW, view, hands_over: true, ..Said::default() };
        Seen { holds: true, serves: true, said: Some(said), ..whole(0) }
    }

    /// What is to become of the one that is to follow the heir.
    fn follow(
        next: &Standby<&'static str>,
        owner: Seen,
        others: &[(&'static str, Seen)],
    ) -> Option<Change<'static, &'static str>> {
        let before = standby("b", BEFORE, 5);
        let mut seen: BTreeMap<_, _> = others.iter().copied().collect();
        seen.insert("c", owner);
        let kept = Kept::new((NOW, Some(&"c"), true), Some(&before), Some(next));
        kept.choose(&seen).map(|change| match change {
            Change::Follow(name) => Change::Follow(["a", "b", "d"].iter().find(|of| *of == name).unwrap()),
            Change::Name(name) => Change::Name(name.map(|_| &"")),
            Change::Promote => Change::Promote,
            Change::Drop => Change::Drop,
        })
    }

    #[test]
    fn where_another_one_is_not_reached_after_a_move_the_heir_of_before_is_tried_in_its_turn() {
        let mut lost = serves(7);
        lost.said = lost.said.map(|said| Said { is_next_lost: true, ..said });
        let all = ["a", "b", "d"].map(|name| (name, whole(5)));
        for (before, next) in [("a", &"b"), ("b", &"d"), ("d", &"a")] {
            assert_eq!(follow(&standby(before, NOW, 7), lost, &all), Some(Change::Follow(next)));
        }
        assert_eq!(follow(&standby("a", NOW, 7), lost, &all[..2]), Some(Change::Follow(&"b")));
        // Nobody else is there, and it goes on to have what it has.
        assert_eq!(follow(&standby("b", NOW, 7), lost, &all[1..2]), Some(Change::Drop));
        assert_eq!(
            follow(&standby("a", NOW, 7), lost, &all[..1]),
            Some(Change::Name(None)),
            "nobody is the heir"
        );
        let leaves = Seen { is_leaving: true, ..whole(0) };
        let others = [("a", leaves), all[1], all[2]];
        assert_eq!(follow(&standby("a", NOW, 7), serves(7), &others), Some(Change::Follow(&"d")));
    }

    #[test]
    fn nobody_is_waited_for_whom_whoever_serves_is_not_told_of() {
        let next = standby("a", NOW, 7);
        let all = ["a", "b", "d"].map(|name| (name, whole(5)));
        assert_eq!(follow(&next, serves(7), &all), None, "it has not everything yet");
        let closed = [("a", Seen { has_link: false, ..whole(5) }), all[1], all[2]];
        assert_eq!(follow(&next, serves(6), &closed), Some(Change::Follow(&"d")));
        let mut knows_nothing = serves(6);
        knows_nothing.said = knows_nothing.said.map(|said| Said { hands_over: false, ..said });
        assert_eq!(follow(&next, knows_nothing, &all), Some(Change::Drop));
    }

    #[test]
    fn an_heir_of_an_earlier_epoch_that_has_had_everything_of_this_one_since_stays_the_heir() {
        let before = standby("b", BEFORE, 5);
        let heir = |epoch, next: Option<&Standby<_>>, has| {
            let kept = Kept::new((epoch, None, false), Some(&before), next);
            kept.heir(&[("b", whole(has))].into()) == Heir::Is(&"b")
        };
        let itself = standby("b", NOW, 6);
        let other = standby("d", NOW, 7);
        for next in [Some(&itself), Some(&other), None] {
            let is_heir = [4, 5, 6].map(|has| heir(NOW, next, has));
            assert_eq!(is_heir, [false, true, true], "{next:?}");
        }
        // Something may have been acknowledged by now that only the one that is named has.
        assert_eq!([4, 5, 6].map(|has| heir(BEFORE, None, has)), [false, true, false]);
    }
}
