//! What comes in force, and what is wanted for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Client, Codec, Held, Key};

impl<C: Codec> Client<C> {
    /// Puts in force what can be, and out of it what nobody wants.
    pub(super) fn settle(&mut self) {
        let ready = self.ready();
        for key in ready {
            let Some(held) = self.held.get(&key) else { continue };
            if !self.in_force.get(&key).is_some_and(|old| Arc::ptr_eq(old, held)) {
                self.in_force.insert(key, held.clone());
                self.revision += 1;
            }
        }
        self.reached = self.reach();
        let reached = &self.reached;
        let before = self.in_force.len();
        self.in_force.retain(|key, _| reached.contains(key));
        if self.in_force.len() != before {
            self.revision += 1;
        }
        // The server may think that what it was asked for a moment ago need not be told again.
        let unheld: Vec<Key> = (self.held.keys().chain(&self.absent).chain(self.refused.keys()))
            .filter(|key| !reached.contains(key) && !self.subscription(key.kind).hears_of(&key.name))
            .cloned()
            .collect();
        for key in unheld {
            self.held.remove(&key);
            self.absent.remove(&key);
            self.refused.remove(&key);
        }
    }

    /// Everything that is wanted: for its own sake, by what is in force, by what is to come in force.
    fn reach(&self) -> BTreeSet<Key> {
        // Whether a key is wanted for its own sake.
        let mut found: BTreeMap<Key, bool> = BTreeMap::new();
        let mut open: Vec<(Key, bool)> = self.wanted.iter().map(|key| (key.clone(), true)).collect();
        while let Some((key, own)) = open.pop() {
            match found.get(&key) {
                Some(known) if *known || !own => continue,
                _ => {}
            }
            for held in self.held.get(&key).into_iter().chain(self.in_force.get(&key)) {
                open.extend(held.decoded.needs.iter().map(|need| (need.clone(), false)));
                if own {
                    open.extend(held.decoded.leads.iter().map(|lead| (lead.clone(), true)));
                }
            }
            found.insert(key, own);
        }
        found.into_keys().collect()
    }

    /// What is held and can be in force: the largest set in which everything that is needed is in the set, or in force
    /// already, or does not exist. Resources may need each other in a circle.
    fn ready(&self) -> Vec<Key> {
        let is_new = |(key, held): &(&Key, &Arc<Held<C::Resource>>)| {
            !self.in_force.get(*key).is_some_and(|old| Arc::ptr_eq(old, held))
        };
        let mut ready: BTreeMap<&Key, &Arc<Held<C::Resource>>> = self.held.iter().filter(is_new).collect();
        loop {
            let usable = |need: &Key| {
                ready.contains_key(need) || self.in_force.contains_key(need) || self.absent.contains(need)
            };
            let blocked: BTreeSet<&Key> = (ready.iter())
                .filter(|(_, held)| !held.decoded.needs.iter().all(usable))
                .map(|(key, _)| *key)
                .collect();
            if blocked.is_empty() {
                return ready.into_keys().cloned().collect();
            }
            ready.retain(|key, _| !blocked.contains(key));
        }
    }
}
