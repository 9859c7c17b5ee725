//! The journal: everything that keeps it, beside a service that begins, dies, moves, and is cut off from the control plane.
//!
//! What the application has is the set of what was written there. Messages may come late, in another order, never, and twice. What
//! keeps the journal, and who that is, are the types that run in production; that somebody has the service is simpler here: it
//! moves at once, and goes to the heir where its owner is not there.

mod explore;
mod instance;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use instance::Instance;

use crate::id::Epoch;
use crate::journal::keepers::{Change, Heir, Kept, Part as Says, Said, Seen, Standby};
use crate::journal::{Measured, Part, Round, Taken, Told};
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

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u8),
    Send(u8, usize),
    Come(Message),
    ComeAndStay(Message),
    Report(u8),
    Tell(u8),
    /// The control plane changes who keeps the journal.
    Choose,
    /// It gives the service to another one, as the one that had it is gone.
    Grant,
    /// The owner of the epoch begins to take what there is for it, or to serve.
    Serve,
    /// One that had it before gives up what it has.
    GiveUp(u8),
    Die(u8),
    Cut(u8),
    Leave(u8),
    Move(u8),
    Lose(u8, usize),
    Restart(u8),
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

    fn seen(&self) -> BTreeMap<u8, Seen> {
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

    fn kept(&self, limits: &Limits) -> Kept<'_, u8> {
        let of = (self.epoch, Some(&self.owner), self.is_served);
        Kept { faults: faults(limits.planted), ..Kept::new(of, self.standby.as_ref(), self.next.as_ref()) }
    }

    /// The control plane hears how things are there.
    fn report(&mut self, at: u8) {
        let Some(there) = self.get(at) else { return };
        let (said, serves) = (there.says(), there.serves);
        if let Some(heard) = self.heard.get_mut(&at) {
            *heard = (said, serves);
        }
    }

    /// What may happen, and whether that is how things get on.
    fn steps(&self, limits: &Limits) -> Vec<(Step, bool)> {
        let mut steps = Vec::new();
        let [deaths, cuts, leaves, moves, doubles, losses, restarts] = self.spent;
        for at in 0..limits.instances {
            let Some(there) = self.get(at) else { continue };
            let is_heard = self.heard.contains_key(&at);
            if there.serves.is_some() {
                if self.written < limits.writes {
                    steps.push((Step::Write(at), false));
                }
                for seat in 0..2 {
                    let mut probe = there.clone();
                    if probe.send(seat).is_some_and(|(round, to, given)| {
                        !self.net.contains(&there.give(at, round, to, given))
                    }) {
                        steps.push((Step::Send(at, seat), true));
                    }
                }
                if losses < limits.losses {
                    for seat in 0..2 {
                        if !there.lost[seat] && there.ledger.part() == Part::Beside {
                            steps.push((Step::Lose(at, seat), false));
                        }
                    }
                }
                if there.serves == Some(self.epoch) && restarts < limits.restarts {
                    steps.push((Step::Restart(at), false));
                }
                if is_heard && there.serves < Some(self.epoch) {
                    steps.push((Step::GiveUp(at), true));
                }
            }
            if let Some(heard) = self.heard.get(&at) {
                if *heard != (there.says(), there.serves) {
                    steps.push((Step::Report(at), true));
                }
                if deaths == 0 && cuts < limits.cuts {
                    steps.push((Step::Cut(at), false));
                }
                if !there.is_leaving && leaves < limits.leaves {
                    steps.push((Step::Leave(at), false));
                }
            }
            if deaths < limits.deaths {
                steps.push((Step::Die(at), false));
            }
        }
        let seen = self.seen();
        for (at, told) in self.parts(limits, &seen) {
            if !self.net.contains(&told) {
                steps.push((Step::Tell(at), true));
            }
        }
        if self.kept(limits).choose(&seen).is_some() {
            steps.push((Step::Choose, true));
        }
        let is_there = self.heard.contains_key(&self.owner);
        let has_lost = self.is_served && self.heard.get(&self.owner).is_some_and(|heard| heard.1.is_none());
        if (!is_there || has_lost) && !self.heard.is_empty() {
            steps.push((Step::Grant, true));
        }
        if is_there
            && self.get(self.owner).is_some_and(|there| there.serves < Some(self.epoch))
            && !self.is_served
        {
            steps.push((Step::Serve, true));
        }
        let is_quiet = |there: &Instance| there.serves == Some(self.epoch) && there.waiting.is_empty();
        if moves < limits.moves && self.is_served && is_there && self.get(self.owner).is_some_and(is_quiet) {
            steps
                .extend(self.heard.keys().filter(|at| **at != self.owner).map(|at| (Step::Move(*at), false)));
        }
        for message in &self.net {
            steps.push((Step::Come(*message), true));
            if doubles < limits.doubles {
                steps.push((Step::ComeAndStay(*message), false));
            }
        }
        steps
    }

    /// What is to be told, as messages.
    fn parts(&self, limits: &Limits, seen: &BTreeMap<u8, Seen>) -> Vec<(u8, Message)> {
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

    fn take(&mut self, step: Step, limits: &Limits) -> Result<(), String> {
        match step {
            Step::Write(at) => {
                let bit = 1 << self.written;
                self.written += 1;
                if let Some(there) = self.at(at) {
                    there.has |= bit;
                    let ticket = there.ledger.rounds.ask();
                    there.waiting.push((ticket, there.has));
                }
            }
            Step::Send(at, seat) => {
                let sent = self.at(at).and_then(|there| {
                    let sent = there.send(seat)?;
                    let is_unreached = limits.unreached == Some(sent.1);
                    there.lost[seat] |= is_unreached;
                    (!is_unreached).then(|| (sent, there.clone()))
                });
                self.net.extend(sent.map(|((round, to, given), there)| there.give(at, round, to, given)));
            }
            Step::Come(message) => {
                self.net.remove(&message);
                self.come(message)?;
            }
            Step::ComeAndStay(message) => {
                self.spent[4] += 1;
                self.come(message)?;
            }
            Step::Report(at) => self.report(at),
            Step::Tell(at) => {
                let told = self.parts(limits, &self.seen()).into_iter().find(|(to, _)| *to == at);
                self.net.extend(told.map(|(_, told)| told));
            }
            Step::Choose => self.choose(limits),
            Step::Grant => self.grant(limits)?,
            Step::Serve => self.serve()?,
            Step::GiveUp(at) => {
                if let Some(there) = self.at(at) {
                    there.serves = None;
                    there.ledger.lose();
                }
            }
            Step::Die(at) => {
                self.spent[0] += 1;
                if let Some(there) = self.instances.get_mut(usize::from(at)) {
                    *there = None;
                }
                self.heard.remove(&at);
            }
            Step::Cut(at) => {
                self.spent[1] += 1;
                self.heard.remove(&at);
                self.net.retain(|message| !matches!(message, Message::Tell { to, .. } if *to == at));
            }
            Step::Leave(at) => {
                self.spent[2] += 1;
                if let Some(there) = self.at(at) {
                    there.is_leaving = true;
                }
            }
            Step::Move(to) => self.moves(to),
            Step::Lose(at, seat) => {
                self.spent[5] += 1;
                if let Some(there) = self.at(at) {
                    there.lost[seat] = true;
                }
            }
            Step::Restart(at) => {
                self.spent[6] += 1;
                if let Some(there) = self.at(at) {
                    (there.has, there.serves) = (0, None);
                    there.ledger.lose();
                }
            }
        }
        self.answer()
    }

    fn come(&mut self, message: Message) -> Result<(), String> {
        let newest = self.epoch;
        match message {
            Message::Give { from, to, epoch, round, given } => {
                let Some(there) = self.at(to) else { return Ok(()) };
                let of = (epoch, round.view);
                let taken = match there.ledger.take(of, round.number, round.is_whole, given, MOST) {
                    Ok(taken) => taken,
                    Err(crate::journal::Shut::Closed) => Taken::Closed,
                    Err(crate::journal::Shut::Unknown) => return Ok(()),
                };
                self.net.insert(Message::Took { to: from, round, given, taken });
            }
            Message::Took { to, round, given, taken } => {
                let Some(there) = self.at(to).filter(|there| there.ledger.rounds.is_under_way(round)) else {
                    return Ok(());
                };
                let seat = there.sending.iter().position(|sent| sent.is_some_and(|sent| sent.0 == round));
                match taken {
                    Taken::All => {
                        there.ledger.rounds.took(round, round.is_whole, given.bytes());
                        if let Some(seat) = seat {
                            there.given[seat] = Some((round.view, given.to));
                            there.lost[seat] = false;
                        }
                    }
                    Taken::Lacks => there.ledger.rounds.lacks(round),
                    Taken::Closed if there.ledger.shut(round) && there.serves == Some(newest) => {
                        return Err("whoever serves is told that it does not".to_owned());
                    }
                    Taken::Closed => {}
                }
            }
            Message::Tell { to, epoch, number, told } => {
                let Some(there) = self.at(to) else { return Ok(()) };
                let told = match told {
                    Saying::Keeps => Told::Keeps,
                    Saying::LetsGo | Saying::Serves { heir: None, next: None } => Told::Alone,
                    Saying::Serves { heir, next } => {
                        Told::Beside { heir: heir.map(|(view, at)| (view, Some(at))), next }
                    }
                };
                if there.ledger.told(epoch, number, told, false) {
                    there.lost = [false; 2];
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, limits: &Limits) {
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
    fn grant(&mut self, limits: &Limits) -> Result<(), String> {
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
