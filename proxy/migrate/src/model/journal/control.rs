//! The control plane: what it hears, what it says, and what it decides.

use std::collections::BTreeMap;

use super::{Limits, Message, Saying, World, faults};
use crate::id::Epoch;
use crate::journal::keepers::{Change, Heir, Kept, Part as Says, Said, Seen, Standby};

impl World {
    pub(super) fn seen(&self) -> BTreeMap<u8, Seen> {
        let one = |(at, (said, holds)): (&u8, &(Option<Said>, Option<Epoch>))| {
            let is_leaving = self.get(*at).is_some_and(|there| there.is_leaving);
            let serves = *at == self.owner && *holds == Some(self.epoch);
            let seen = Seen {
                is_heard: true,
                may_keep: true,
                has_link: true,
                is_leaving,
                has_said: true,
                holds: holds.is_some(),
                serves,
                said: *said,
            };
            (*at, seen)
        };
        self.heard.iter().map(one).collect()
    }

    pub(super) fn kept(&self, limits: &Limits) -> Kept<'_, u8> {
        let of = (self.epoch, Some(&self.owner), self.is_served);
        Kept { faults: faults(limits.planted), ..Kept::new(of, self.standby.as_ref(), self.next.as_ref()) }
    }

    /// The control plane hears how things are there.
    pub(super) fn report(&mut self, at: u8) {
        let Some(there) = self.get(at) else { return };
        let (said, serves) = (there.says(), there.serves);
        if let Some(heard) = self.heard.get_mut(&at) {
            *heard = (said, serves);
        }
    }

    /// What is to be told, as messages.
    pub(super) fn parts(&self, limits: &Limits, seen: &BTreeMap<u8, Seen>) -> Vec<(u8, Message)> {
        let named = |standby: &Standby<u8>| Some((standby.view, standby.instance?));
        let kept = self.kept(limits);
        let parts = kept.parts(seen).into_iter();
        parts
            .map(|(at, (number, part))| {
                let told = match part {
                    Says::Keeps(_) => Saying::Keeps,
                    Says::Serves { heir, next } => {
                        Saying::Serves { heir: heir.and_then(named), next: next.and_then(named) }
                    }
                    Says::LetsGo => Saying::LetsGo,
                };
                (*at, Message::Tell { to: *at, epoch: self.epoch, number, told })
            })
            .collect()
    }

    pub(super) fn choose(&mut self, limits: &Limits) {
        let seen = self.seen();
        let Some(change) = self.kept(limits).choose(&seen) else { return };
        let view = self.views + 1;
        let named = |instance: Option<&u8>| {
            Some(Standby {
                epoch: self.epoch,
                view,
                number: 0,
                instance: instance.copied(),
                token: Vec::new(),
            })
        };
        (self.standby, self.next) = match change {
            Change::Name(instance) => (named(instance), None),
            Change::Follow(instance) => (self.standby.clone(), named(Some(instance))),
            Change::Promote => (self.next.clone().map(|next| Standby { number: view, ..next }), None),
            Change::Drop => (self.standby.clone().map(|standby| Standby { number: view, ..standby }), None),
        };
        self.views = view;
    }

    /// Whoever has the journal serves, or somebody begins with nothing.
    pub(super) fn grant(&mut self, limits: &Limits) -> Result<(), String> {
        let seen = self.seen();
        let heir = match self.kept(limits).heir(&seen) {
            Heir::Awaited => return Ok(()),
            Heir::Is(heir) => Some(*heir),
            Heir::None => None,
        };
        self.epoch = self.epoch.next();
        self.next = None;
        self.is_served = false;
        if let Some(heir) = heir {
            self.owner = heir;
            return Ok(());
        }
        let standby = self.standby.as_ref().and_then(|standby| standby.instance);
        let has_any = self.required() != 0;
        if has_any && standby.is_some_and(|standby| self.heard.contains_key(&standby)) {
            return Err("a loss though whoever keeps the journal is there".to_owned());
        }
        self.begun = self.epoch;
        self.standby = self.standby.take().map(|standby| Standby { instance: None, ..standby });
        self.owner = self.heard.keys().next().copied().unwrap_or_default();
        Ok(())
    }
}
