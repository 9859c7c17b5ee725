//! The journal: everything that keeps it, beside a service that begins, dies, moves, and is cut off from the control plane.
//!
//! What the application has is the set of what was written there. Messages may come late, in another order, never, and twice. What
//! keeps the journal, and who that is, are the types that run in production; that somebody has the service is simpler here: it
//! moves at once, and goes to the heir where its owner is not there.

mod control;
mod explore;
mod instance;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use instance::Instance;

use crate::id::Epoch;
use crate::journal::keepers::{Said, Standby};
use crate::journal::{Measured, Round, Taken};
use crate::planted::{Plan as Faults, Planted};

/// What is given: everything, or what is new since something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Given {
    since: u8,
    to: u8,
}

impl Measured for Given {
    fn bytes(&self) -> u64 {
        u64::from(self.since != self.to)
    }
}

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    instances: u8,
    writes: u8,
    /// Instances die.
    deaths: u8,
    /// Instances are not heard any more, and hear nothing from the control plane.
    cuts: u8,
    /// They are to leave.
    leaves: u8,
    /// The service moves.
    moves: u8,
    /// Messages come twice.
    doubles: u8,
    /// Somebody who keeps the journal is not reached, or that is what is said.
    losses: u8,
    /// An application begins again, and its sidecar lives.
    restarts: u8,
    /// Nobody keeps the journal yet.
    is_first: bool,
    /// Something was acknowledged, the service has moved since, and the one that had it is gone or not reached: only the
    /// standby of before is there to keep the journal.
    is_moved: bool,
    /// Nobody reaches this one.
    unreached: Option<u8>,
    planted: Option<Planted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    /// What a round gives.
    Give { from: u8, to: u8, epoch: Epoch, round: Round, given: Given },
    /// What became of it.
    Took { to: u8, round: Round, given: Given, taken: Taken },
    /// What the control plane says.
    Tell { to: u8, epoch: Epoch, number: u64, told: Saying },
}

/// What it says, with names only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Saying {
    Keeps,
    Serves { heir: Option<(u64, u8)>, next: Option<(u64, u8)> },
    LetsGo,
}

#[derive(Clone, Hash)]
struct World {
    instances: Vec<Option<Instance>>,
    net: BTreeSet<Message>,
    /// Those that the control plane hears, and what each has said of the journal, and serves.
    heard: BTreeMap<u8, (Option<Said>, Option<Epoch>)>,
    epoch: Epoch,
    owner: u8,
    is_served: bool,
    standby: Option<Standby<u8>>,
    next: Option<Standby<u8>>,
    /// The greatest number of a view.
    views: u64,
    /// The epoch that began with nothing last.
    begun: Epoch,
    /// What was acknowledged, by epochs.
    acknowledged: BTreeMap<Epoch, u8>,
    written: u8,
    spent: [u8; 7],
}

impl World {
    /// One serves, and nobody was told anything.
    fn new(limits: &Limits) -> Self {
        let instances = (0..limits.instances).map(|_| Some(Instance::new(limits.planted))).collect();
        let mut world = World {
            instances,
            net: BTreeSet::new(),
            heard: (0..limits.instances).map(|at| (at, (None, None))).collect(),
            epoch: Epoch(1),
            owner: 0,
            is_served: true,
            standby: None,
            next: None,
            views: 0,
            begun: Epoch(1),
            acknowledged: BTreeMap::new(),
            written: 0,
            spent: [0; 7],
        };
        if let Some(Some(first)) = world.instances.first_mut() {
            first.serves = Some(Epoch(1));
            first.ledger.begins();
        }
        for at in 0..limits.instances {
            world.report(at);
        }
        world
    }

    fn at(&mut self, at: u8) -> Option<&mut Instance> {
        self.instances.get_mut(usize::from(at))?.as_mut()
    }

    fn get(&self, at: u8) -> Option<&Instance> {
        self.instances.get(usize::from(at))?.as_ref()
    }

    fn serve(&mut self) -> Result<(), String> {
        let (epoch, is_new, required) = (self.epoch, self.begun == self.epoch, self.required());
        let Some(there) = self.at(self.owner) else { return Ok(()) };
        let Some(has) = there.takes.take() else {
            there.takes = match there.ledger.inherit() {
                _ if is_new => Some(0),
                Some((base, changes)) => Some(
                    changes
                        .iter()
                        .try_fold(base.to, |has, changes| {
                            // What lies in between is missing otherwise.
                            (changes.since & !has == 0).then_some(has | changes.to)
                        })
                        .ok_or("changes do not follow")?,
                ),
                None => return Err("it is to serve with what the journal has, and has none".to_owned()),
            };
            return Ok(());
        };
        (there.has, there.serves) = (has, Some(epoch));
        there.ledger.begins();
        self.is_served = true;
        self.hears(self.owner);
        self.report(self.owner);
        if required & !has != 0 {
            return Err(format!("{required:b} was acknowledged, and it begins with {has:b}"));
        }
        Ok(())
    }

    /// It moves at once: nothing waits for an answer.
    fn moves(&mut self, to: u8) {
        self.spent[3] += 1;
        let Some(old) = self.at(self.owner) else { return };
        let has = old.has;
        old.serves = None;
        old.ledger.lose();
        self.epoch = self.epoch.next();
        (self.owner, self.next) = (to, None);
        let epoch = self.epoch;
        if let Some(new) = self.at(to) {
            (new.has, new.serves) = (has, Some(epoch));
            new.ledger.begins();
        }
        self.hears(to);
        self.report(to);
    }

    /// What it is told comes over one stream: what was said before it was to serve does not come after that.
    fn hears(&mut self, at: u8) {
        self.net.retain(|message| !matches!(message, Message::Tell { to, .. } if *to == at));
    }

    /// What was acknowledged and has to be there.
    fn required(&self) -> u8 {
        self.acknowledged.range(self.begun..).fold(0, |all, (_, shown)| all | shown)
    }

    /// Whatever may go on goes on.
    fn answer(&mut self) -> Result<(), String> {
        for at in 0..self.instances.len() as u8 {
            let Some(there) = self.at(at) else { continue };
            let Some(epoch) = there.serves.or(Some(Epoch(0))) else { continue };
            let mut waiting = std::mem::take(&mut there.waiting);
            let mut shown = Vec::new();
            waiting.retain(|(ticket, shows)| match there.ledger.rounds.is_journaled(*ticket) {
                Some(true) => {
                    shown.push(*shows);
                    false
                }
                Some(false) => false,
                None => true,
            });
            there.waiting = waiting;
            for shows in shown {
                if self.acknowledged.keys().last().is_some_and(|last| *last > epoch) {
                    return Err(format!("{at} acknowledges in {epoch:?} what a later epoch does not know"));
                }
                *self.acknowledged.entry(epoch).or_default() |= shows;
            }
        }
        let newest = self.instances.iter().flatten().max_by_key(|there| there.serves);
        let required = self.required();
        match newest.filter(|there| there.serves >= Some(self.begun)) {
            Some(there) if required & !there.has != 0 => {
                Err(format!("{required:b} was acknowledged, and whoever serves has {:b}", there.has))
            }
            _ => Ok(()),
        }
    }

    /// What makes no difference any more is not there.
    fn rest(&mut self) {
        let net = std::mem::take(&mut self.net);
        let makes_a_difference = |message: &Message| match message {
            Message::Took { to, round, .. } => {
                self.get(*to).is_some_and(|there| there.ledger.rounds.is_under_way(*round))
            }
            Message::Give { from, to, round, .. } => {
                let wants = self.get(*from).is_some_and(|there| there.ledger.rounds.is_under_way(*round));
                let view = self.get(*to).map(|there| there.ledger.view());
                wants || view.is_some_and(|view| view <= round.view)
            }
            Message::Tell { to, number, .. } => {
                self.get(*to).is_some_and(|there| there.ledger.view() < *number)
            }
        };
        self.net = net.into_iter().filter(makes_a_difference).collect();
    }

    /// Nothing gets on: everybody who can be has what there is to have.
    fn check_rest(&self) -> Result<(), String> {
        let Some(owner) = self.heard.get(&self.owner).and_then(|_| self.get(self.owner)) else {
            return Ok(());
        };
        let is_alone =
            self.heard.iter().filter(|(at, _)| !self.get(**at).is_some_and(|there| there.is_leaving)).count();
        let others = is_alone - usize::from(!owner.is_leaving);
        if others == 0 || owner.lost != [false; 2] {
            return Ok(());
        }
        if owner.serves != Some(self.epoch) {
            return Err("nobody serves".to_owned());
        }
        if !owner.waiting.is_empty() {
            return Err("an answer waits for ever".to_owned());
        }
        let standby = self.standby.as_ref().filter(|standby| standby.epoch == self.epoch);
        let keeper = standby.and_then(|standby| Some((standby.view, self.get(standby.instance?)?)));
        match keeper {
            Some((view, keeper)) if keeper.ledger.whole() == Some(view) && self.next.is_none() => Ok(()),
            _ => Err("nobody keeps the journal".to_owned()),
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

fn faults(planted: Option<Planted>) -> Faults {
    Faults { planted }
}

/// No state is longer.
const MOST: u64 = 1 << 20;
