//! Everything that takes part in a migration: the types that run in production, and what lies between them.
//!
//! The service is one register. Commands and reports are messages that may come late, in another order, or never, and twice
//! where that is asked for. Requests go over links, in order, which may break. Whoever dies loses what was in memory, but not the
//! store and the journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::parts::{Body, Client, Down, Link, Net, Origin, Step, Store, Up, key, number, op_of};
use crate::planted::Planted;
use crate::*;

/// How far is looked.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) class: Class,
    /// What each client asks for, one after the other.
    pub(super) scripts: &'static [&'static [Op]],
    /// Callers' sidecars keep the beginning of requests.
    pub(super) keeps: bool,
    pub(super) rounds: u32,
    /// Whether the sidecar of callers is told to hold.
    pub(super) holds: bool,
    /// Who may die, and how often together.
    pub(super) mortal: &'static [Actor],
    pub(super) deaths: u8,
    /// Links that break.
    pub(super) breaks: u8,
    /// Timeouts that come before anything else does.
    pub(super) timeouts: u8,
    /// Messages come more than once.
    pub(super) doubles: bool,
    /// A control plane that was replaced goes on for a while.
    pub(super) zombies: bool,
    /// An operator aborts.
    pub(super) aborts: bool,
    /// An operator vouches for whoever is dead.
    pub(super) vouches: bool,
    /// The service may not take what was copied.
    pub(super) fails: bool,
    pub(super) planted: Option<Planted>,
    /// The store changes the cell whatever it is.
    pub(super) careless_store: bool,
    /// A migration before this one was aborted, and what was said then may come still.
    pub(super) leftovers: bool,
    /// Until then nothing goes wrong, and nobody asks for anything.
    pub(super) from: Phase,
    /// Commands of one control plane: more than it ever needs, however much goes wrong within bounds.
    pub(super) said: u64,
    /// The sidecar of callers was told something else long ago.
    pub(super) astray: bool,
}

#[derive(Clone, Hash)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) store: Store,
    pub(super) control: Option<Coordinator>,
    zombie: Option<Coordinator>,
    pub(super) places: [Option<Body>; 2],
    lives: [u64; 2],
    pub(super) holder: Option<Holder>,
    /// The sidecar of callers died at least once.
    orphaned: bool,
    pub(super) clients: Vec<Client>,
    pub(super) net: BTreeSet<Net>,
    links: [Link; 2],
    /// From the old place to the new one, by the life of the old one.
    forwards: VecDeque<(RequestId, u64)>,
    /// What the journal has, and of which epoch.
    journal: (Epoch, u64),
    registry: (PlaceId, Epoch),
    switched: Option<Epoch>,
    pub(super) history: History,
    /// The last epoch in which something ran, and where.
    served: Option<(Epoch, (usize, u64))>,
    /// How many times what writes has run.
    runs: BTreeMap<u64, u8>,
    deaths: u8,
    breaks: u8,
    timeouts: u8,
    again: u8,
    aborted: bool,
    pub(super) died: BTreeSet<u8>,
    /// What must not be.
    pub(super) wrong: Option<String>,
    /// The control plane dies after so many more actions.
    pub(super) tear: Option<usize>,
}

pub(super) const OLD: PlaceId = PlaceId(1);
pub(super) const NEW: PlaceId = PlaceId(2);
const HOLDER: HolderId = HolderId(1);
pub(super) const FIRST: Epoch = Epoch(5);
/// Rooms for so many requests.
const ROOM: crate::Bounds = crate::Bounds { count: 1, bytes: 10, time: Duration::from_secs(5) };

pub(super) fn role_at(at: usize) -> Role {
    Role::BOTH[at]
}

fn at(role: Role) -> usize {
    role as usize
}

fn at_place(place: PlaceId) -> usize {
    usize::from(place == NEW)
}

pub(super) fn digest(value: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    Digest(bytes)
}

impl World {
    pub(super) fn new(bounds: &Bounds) -> World {
        let owner = Owner { place: OLD, incarnation: Incarnation(1) };
        let mut cell = Cell::new(1, FIRST, owner);
        cell.take_over(1);
        let mut old = Place::serving(bounds.class, Incarnation(1), FIRST, ROOM);
        let mut new = Place::new(bounds.class, Incarnation(1), ROOM);
        let (route, since) = if bounds.astray { (NEW, Epoch(FIRST.0 - 1)) } else { (OLD, FIRST) };
        let mut holder = Holder::new(route, since, ROOM);
        old.faults.planted = bounds.planted;
        old.parked.faults.planted = bounds.planted;
        new.faults.planted = bounds.planted;
        new.parked.faults.planted = bounds.planted;
        holder.plant(bounds.planted);
        let mut world = World {
            now: Duration::ZERO,
            store: Store { cell, records: Vec::new(), asks: BTreeSet::new(), answer: None },
            control: None,
            zombie: None,
            places: [Some(Body::new(old)), Some(Body::new(new))],
            lives: [1, 1],
            holder: Some(holder),
            orphaned: false,
            clients: bounds.scripts.iter().map(|_| Client::default()).collect(),
            net: BTreeSet::new(),
            links: [Link::default(), Link::default()],
            forwards: VecDeque::new(),
            journal: (FIRST, 0),
            registry: (OLD, FIRST),
            switched: None,
            history: History::new(0),
            served: None,
            runs: BTreeMap::new(),
            deaths: 0,
            breaks: 0,
            timeouts: 0,
            again: 0,
            aborted: false,
            died: BTreeSet::new(),
            wrong: None,
            tear: None,
        };
        if bounds.leftovers {
            let said = |sequence, order| Command {
                stamp: Stamp { migration: 0, term: 1, sequence },
                incarnation: Some(Incarnation(1)),
                order,
            };
            let serve = said(2, Order::Serve { epoch: FIRST, from: Source::Kept });
            world.place(0, |place, now, out| place.command(serve, now, out));
            world.net = BTreeSet::from([Net::ToPlace(Role::Old, serve)]);
        }
        let mut out = Vec::new();
        let mut control = Coordinator::new(plan(bounds), cell, world.now, &mut out);
        control.faults.planted = bounds.planted;
        world.control = Some(control);
        world.perform(out, false);
        world
    }

    /// Goes to where it begins to be looked at.
    pub(super) fn get_to(&mut self, bounds: &Bounds) -> Result<(), String> {
        while self.control.as_ref().is_some_and(|control| control.phase() < bounds.from) {
            let (on, _) = self.steps(bounds);
            let step = on.into_iter().find(|step| !matches!(step, Step::Call(_) | Step::Push));
            self.take(step.ok_or("it does not get there")?, bounds)?;
        }
        Ok(())
    }

    /// What may happen next: that by which it gets on, and that by which it does not have to.
    pub(super) fn steps(&self, bounds: &Bounds) -> (Vec<Step>, Vec<Step>) {
        let (mut on, mut off) = (Vec::new(), Vec::new());
        for (client, at) in self.clients.iter().zip(0..) {
            if self.holder.is_some() && client.waits.is_none() && client.next < bounds.scripts[at].len() {
                on.push(Step::Call(at));
            }
        }
        for at in 0..2 {
            let link = &self.links[at];
            if let Some(body) = &self.places[at] {
                if !link.up.is_empty() {
                    on.push(Step::Up(at));
                }
                on.extend((0..body.running.len()).map(|run| Step::Run(at, run)));
                on.extend((!body.appends.is_empty()).then_some(Step::Append(at)));
                if body.hook.is_some() {
                    on.push(Step::Hook(at, true));
                    if bounds.fails && body.fails() {
                        off.push(Step::Hook(at, false));
                    }
                }
                if at == 1 && self.can_fetch() {
                    on.push(Step::Fetch);
                }
                if body.place.timeout().is_some() && self.timeouts < bounds.timeouts {
                    off.push(Step::PlaceLate(at));
                }
            } else {
                on.push(Step::Restart(at));
                let vouched = self.control.as_ref().is_some_and(|control| {
                    !self.store.records.contains(&Record::Vouched(role_at(at)))
                        && !control.phase().is_terminal()
                });
                if bounds.vouches && vouched {
                    off.push(Step::Vouch(at));
                }
            }
            if self.holder.is_some() && !link.down.is_empty() {
                on.push(Step::Down(at));
            }
            if self.holder.is_some() && link.broken {
                on.push(Step::Notice(at));
            }
            let used = !link.up.is_empty() || !link.down.is_empty() || !link.open.is_empty();
            if self.breaks < bounds.breaks && !link.broken && used {
                off.push(Step::Break(at));
            }
        }
        if !self.forwards.is_empty() {
            on.push(Step::Forward);
        }
        if let Some(holder) = &self.holder {
            if holder.place() != self.registry && self.registry.1 > holder.place().1 {
                on.push(Step::Push);
            }
            if holder.timeout().is_some() && self.timeouts < bounds.timeouts {
                off.push(Step::HolderLate);
            }
        } else {
            on.push(Step::RestartHolder);
        }
        on.extend((0..self.store.asks.len()).map(Step::Store));
        match &self.control {
            Some(control) => {
                if self.store.answer.is_some() {
                    on.push(Step::StoreAnswer);
                }
                if self.switched.is_some() {
                    on.push(Step::Switched);
                }
                if control.timeout().is_some() && self.timeouts < bounds.timeouts {
                    off.extend([Step::Late, Step::Again]);
                }
                if bounds.aborts && !self.aborted {
                    off.push(Step::Abort);
                }
            }
            None => on.push(Step::RestartControl),
        }
        for (message, to) in self.net.iter().zip(0..) {
            if self.can_hear(message) {
                on.push(Step::Net(to));
            }
        }
        // However often it says so.
        if self.zombie.as_ref().is_some_and(|zombie| !zombie.is_superseded()) && self.again < 1 {
            off.push(Step::ZombieAgain);
        }
        if self.deaths < bounds.deaths {
            for actor in bounds.mortal {
                let lives = match actor {
                    Actor::Control => self.control.is_some(),
                    Actor::Old => self.places[0].is_some(),
                    Actor::New => self.places[1].is_some(),
                    Actor::Caller => self.holder.is_some(),
                };
                if lives {
                    off.push(Step::Die(*actor));
                }
            }
        }
        (on, off)
    }

    fn can_hear(&self, message: &Net) -> bool {
        match message {
            Net::ToPlace(role, _) => self.places[at(*role)].is_some(),
            Net::FromPlace(..) | Net::FromHolder(_) => self.control.is_some(),
            Net::ToHolder(..) => self.holder.is_some(),
        }
    }

    /// Does `step`.
    pub(super) fn take(&mut self, step: Step, bounds: &Bounds) -> Result<(), String> {
        match step {
            Step::Call(client) => self.call(client, bounds),
            Step::Up(at) => self.up(at, bounds),
            Step::Run(at, run) => self.run(at, run, bounds)?,
            Step::Append(at) => self.append(at),
            Step::Hook(at, works) => self.hook(at, works),
            Step::Fetch => self.fetch(),
            Step::Down(at) => self.down(at)?,
            Step::Notice(at) => self.notice(at)?,
            Step::Break(at) => {
                self.breaks += 1;
                self.break_link(at);
                if self.places[at].is_some() {
                    // It hears of it when it comes to it.
                    let link = &mut self.links[at];
                    link.up.push_back(Up::Gone(link.life));
                }
            }
            Step::Forward => self.forward(bounds),
            Step::Push => {
                let (place, epoch) = self.registry;
                self.hold(|holder, now, out| holder.route(place, epoch, now, out))?;
            }
            Step::Store(ask) => self.ask_store(ask, bounds),
            Step::StoreAnswer => {
                if let Some(cell) = self.store.answer.take() {
                    self.control(|control, now, out| control.answered(cell, now, out));
                }
            }
            Step::Switched => {
                if let Some(epoch) = self.switched.take() {
                    self.control(|control, now, out| control.switched(epoch, now, out));
                }
            }
            Step::Net(message) => self.hear(message, bounds)?,
            Step::ZombieAgain => {
                self.again += 1;
                self.zombie(|zombie, now, out| zombie.on_timeout(now + Duration::from_secs(1), out));
            }
            Step::Late => {
                self.timeouts += 1;
                self.control(|control, now, out| {
                    control.on_timeout(now.max(control.timeout().unwrap_or_default()) + LATE, out);
                });
            }
            Step::Again => {
                self.timeouts += 1;
                self.control(|control, _, out| {
                    control.on_timeout(control.timeout().unwrap_or_default(), out);
                });
            }
            Step::PlaceLate(at) => {
                self.timeouts += 1;
                self.place(at, |place, _, out| place.on_timeout(place.timeout().unwrap_or_default(), out));
            }
            Step::HolderLate => {
                self.timeouts += 1;
                self.hold(|holder, _, out| holder.on_timeout(holder.timeout().unwrap_or_default(), out))?;
            }
            Step::Abort => {
                self.aborted = true;
                self.control(|control, now, out| {
                    control.abort(now, out);
                });
            }
            Step::Vouch(at) => {
                self.control(|control, now, out| control.vouch(role_at(at), now, out));
            }
            Step::Die(actor) => self.die(actor, bounds),
            Step::Restart(at) => self.restart(at, bounds),
            Step::RestartControl => self.restart_control(bounds),
            Step::RestartHolder => {
                let mut holder = Holder::new(self.registry.0, self.registry.1, ROOM);
                holder.plant(bounds.planted);
                self.holder = Some(holder);
            }
        }
        self.check(bounds)
    }

    fn call(&mut self, client: usize, bounds: &Bounds) {
        let index = self.clients[client].next;
        let id = number(client, index);
        self.clients[client].next += 1;
        self.clients[client].waits = Some(id);
        self.history.begin(id, op_of(bounds.scripts, id));
        let call = Call {
            id: RequestId(id),
            source: SourceId(client as u64),
            bytes: 1,
            deadline: None,
            is_repeatable: op_of(bounds.scripts, id) == Op::Read,
            is_kept: bounds.keeps,
        };
        let result = self.hold(|holder, now, out| holder.call(call, now, out));
        self.note(result);
    }

    /// The holder does something, and what follows from it.
    pub(super) fn hold(
        &mut self,
        does: impl FnOnce(&mut Holder, Duration, &mut Vec<HoldAction>),
    ) -> Result<(), String> {
        let Some(holder) = &mut self.holder else { return Ok(()) };
        let mut out = Vec::new();
        does(holder, self.now, &mut out);
        for action in out {
            match action {
                HoldAction::Send { id, to, tries } => {
                    let link = &mut self.links[at_place(to)];
                    let key = key(id, tries);
                    if !link.broken {
                        link.up.push_back(Up::Request(key));
                        link.open.insert(key);
                    }
                }
                HoldAction::Fail(id, failure) => self.answer(id.0, Err(failure.is_unknown()))?,
                HoldAction::Holding(stamp) => {
                    self.net.insert(Net::FromHolder(stamp));
                }
            }
        }
        Ok(())
    }

    /// A client gets its answer: what was done, or whether nobody knows.
    fn answer(&mut self, id: u64, outcome: Result<Option<u64>, bool>) -> Result<(), String> {
        let client = &mut self.clients[(id / 16) as usize];
        if client.waits != Some(id) {
            return Err(format!("request {id} is answered again"));
        }
        client.waits = None;
        match outcome {
            Ok(read) => {
                client.done += 1;
                self.history.done(id, read).map_err(|wrong| wrong.to_string())
            }
            Err(true) => {
                client.unknown += 1;
                self.history.unknown(id);
                Ok(())
            }
            Err(false) => {
                client.failed += 1;
                self.history.not_done(id).map_err(|wrong| wrong.to_string())
            }
        }
    }

    fn up(&mut self, at: usize, bounds: &Bounds) {
        match self.links[at].up.pop_front() {
            Some(Up::Request(key)) => {
                let arrival = Arrival {
                    id: key,
                    source: SourceId(self.links[at].life),
                    bytes: 1,
                    deadline: None,
                    kind: Kind::Unary,
                    is_inside: false,
                    is_kept: bounds.keeps,
                    is_forwarded: false,
                };
                let origin = Origin::Link(self.links[at].life);
                self.arrive(at, arrival, origin);
            }
            Some(Up::Gone(life)) => self.place(at, |place, _, out| place.gone(SourceId(life), out)),
            None => {}
        }
    }

    fn arrive(&mut self, at: usize, arrival: Arrival, origin: Origin) {
        let Some(body) = &mut self.places[at] else { return };
        let key = arrival.id;
        body.origins.insert(key, origin);
        let mut out = Vec::new();
        let verdict = body.place.arrive(arrival, self.now, &mut out);
        match verdict {
            Verdict::Run => body.running.push(key),
            Verdict::Park => {}
            Verdict::Refuse(refusal) => self.reply(at, key, Down::Refused(key, refusal)),
            Verdict::Forward(_) => self.forwards.push_back((key, self.lives[at])),
        }
        self.perform_place(at, out);
    }

    /// A place does something, and what follows from it.
    pub(super) fn place(
        &mut self,
        at: usize,
        does: impl FnOnce(&mut Place, Duration, &mut Vec<PlaceAction>),
    ) {
        let Some(body) = &mut self.places[at] else { return };
        let mut out = Vec::new();
        does(&mut body.place, self.now, &mut out);
        self.perform_place(at, out);
    }

    fn perform_place(&mut self, at: usize, actions: Vec<PlaceAction>) {
        for action in actions {
            let Some(body) = &mut self.places[at] else { return };
            match action {
                PlaceAction::Report(report) => {
                    self.net.insert(Net::FromPlace(role_at(at), report));
                }
                PlaceAction::Run(key) => body.running.push(key),
                PlaceAction::Refuse(key, refusal) => self.reply(at, key, Down::Refused(key, refusal)),
                PlaceAction::Forward(key, _) => self.forwards.push_back((key, self.lives[at])),
                PlaceAction::Append(epoch, key) => body.appends.push((epoch, key, body.value)),
                PlaceAction::Answer(key) => {
                    let read = body.reads.remove(&key).unwrap_or_default();
                    self.reply(at, key, Down::Done(key, read));
                }
                PlaceAction::AnswerUnknown(key) => {
                    body.reads.remove(&key);
                    self.reply(at, key, Down::Unknown(key));
                }
                PlaceAction::CutStreams => {}
                PlaceAction::CutAll => {
                    let keys: Vec<RequestId> = body.running.drain(..).collect();
                    let forwarded: Vec<RequestId> = self.forwards.drain(..).map(|(key, _)| key).collect();
                    for key in keys.into_iter().chain(forwarded) {
                        self.reply(at, key, Down::Unknown(key));
                    }
                }
                // These take no time.
                PlaceAction::Reserve => self.place(at, |place, _, out| place.reserved(true, out)),
                PlaceAction::Warm => self.place(at, |place, _, out| place.warmed(true, out)),
                PlaceAction::Snapshot { round } => {
                    let value = body.value;
                    let copy = Copy { round, base: round - 1, bytes: 2, digest: digest(value), last: false };
                    body.copy = Some((copy, value));
                    self.place(at, |place, _, out| place.copied(copy, out));
                }
                PlaceAction::Fetch(copy, have) => body.fetching = Some((copy, have)),
                PlaceAction::Thaw | PlaceAction::DropFrozen => {
                    body.copy = None;
                    body.hook = None;
                }
                PlaceAction::Discard => {
                    body.fetching = None;
                    body.fetched.clear();
                    body.value = 0;
                }
                PlaceAction::Freeze
                | PlaceAction::Activate(_)
                | PlaceAction::Recover(_)
                | PlaceAction::Begin(_) => body.hook = Some(action),
            }
        }
    }

    fn reply(&mut self, at: usize, key: RequestId, down: Down) {
        let Some(body) = &mut self.places[at] else { return };
        match body.origins.remove(&key) {
            Some(Origin::Link(life)) => {
                let link = &mut self.links[at];
                if link.life == life && !link.broken {
                    link.open.remove(&key);
                    link.down.push_back(down);
                }
            }
            // The one that sent it on passes the answer on, if it is still there.
            Some(Origin::Place(life)) if self.lives[0] == life && self.places[0].is_some() => {
                self.place(0, |place, _, out| place.forwarded(out));
                self.reply(0, key, down);
            }
            Some(Origin::Place(_)) | None => {}
        }
    }

    /// A request runs, and is done.
    fn run(&mut self, at: usize, run: usize, bounds: &Bounds) -> Result<(), String> {
        let Some(body) = &mut self.places[at] else { return Ok(()) };
        let key = body.running.remove(run);
        let id = key.0 / 128;
        let op = op_of(bounds.scripts, id);
        if op != Op::Read {
            let count = self.runs.entry(id).or_default();
            *count += 1;
            if *count > 1 {
                return Err(format!("request {id} runs twice"));
            }
        }
        if bounds.class != Class::Stateless {
            let epoch = match body.place.stand() {
                Stand::Serving { epoch } | Stand::Parking { epoch } => epoch,
                // The planted fault.
                Stand::Frozen { epoch } => epoch,
                stand => return Err(format!("a request runs at a place that is {stand:?}")),
            };
            let who = (at, self.lives[at]);
            match self.served {
                Some((last, _)) if last > epoch => {
                    return Err(format!("{epoch:?} is served after {last:?}"));
                }
                Some((last, other)) if last == epoch && other != who => {
                    return Err(format!("{epoch:?} is served by two"));
                }
                _ => self.served = Some((epoch, who)),
            }
        }
        let read = match op {
            Op::Read => Some(body.value),
            Op::Write(value) => {
                body.value = value;
                None
            }
        };
        body.reads.insert(key, read);
        self.place(at, |place, now, out| place.finished(key, Kind::Unary, op != Op::Read, now, out));
        // What is not linearizable for want of state is none of a stateless service's.
        Ok(())
    }

    fn append(&mut self, at: usize) {
        let Some(body) = &mut self.places[at] else { return };
        let (epoch, key, value) = body.appends.remove(0);
        let is_taken = epoch >= self.journal.0;
        if is_taken {
            self.journal = (epoch, value);
        }
        self.place(at, |place, now, out| place.journaled(key, Kind::Unary, is_taken, now, out));
    }

    fn hook(&mut self, at: usize, works: bool) {
        let Some(body) = &mut self.places[at] else { return };
        match body.hook.take() {
            Some(PlaceAction::Freeze) => {
                let value = body.value;
                self.place(at, |place, _, out| place.frozen(digest(value), 2, out));
                let Some(body) = &mut self.places[at] else { return };
                if let Some(report) = body.place.copy() {
                    body.copy = Some((report, value));
                }
            }
            Some(PlaceAction::Recover(epoch)) => {
                self.journal.0 = self.journal.0.max(epoch);
                body.value = self.journal.1;
                self.place(at, |place, _, out| place.opened(true, out));
            }
            Some(PlaceAction::Begin(_)) => {
                body.value = 0;
                self.place(at, |place, _, out| place.opened(true, out));
            }
            Some(_) => self.place(at, |place, _, out| place.opened(works, out)),
            None => {}
        }
    }

    fn can_fetch(&self) -> bool {
        let [Some(old), Some(new)] = &self.places else { return false };
        match (&old.copy, &new.fetching) {
            (Some((copy, _)), Some((wanted, _))) => copy == wanted,
            _ => false,
        }
    }

    /// The next half of a copy comes.
    fn fetch(&mut self) {
        let [Some(old), Some(new)] = &mut self.places else { return };
        let (Some((copy, value)), Some((_, have))) = (old.copy, new.fetching) else { return };
        if new.place.fetched(copy, have, 1) {
            new.fetched.push(value);
            new.fetching = Some((copy, have + 1));
        }
        if new.place.is_whole() {
            new.fetching = None;
            let halves = std::mem::take(&mut new.fetched);
            new.value = halves.last().copied().unwrap_or_default();
            let is_one = halves.iter().all(|half| *half == new.value);
            let found = digest(if is_one { new.value } else { u64::MAX });
            self.place(1, |place, _, out| place.restored(copy, found, out));
        }
    }

    fn down(&mut self, at: usize) -> Result<(), String> {
        match self.links[at].down.pop_front() {
            Some(Down::Done(key, read)) => self.hear_answer(key, Ok(read)),
            Some(Down::Unknown(key)) => self.hear_answer(key, Err(true)),
            Some(Down::Refused(key, refusal)) => {
                let id = RequestId(key.0 / 128);
                self.hold(|holder, now, out| holder.refused(id, refusal, now, out))
            }
            None => Ok(()),
        }
    }

    fn hear_answer(&mut self, key: RequestId, outcome: Result<Option<u64>, bool>) -> Result<(), String> {
        let id = RequestId(key.0 / 128);
        let Some(holder) = &mut self.holder else { return Ok(()) };
        let before = holder.in_flight();
        holder.answered(id);
        if holder.in_flight() == before { Ok(()) } else { self.answer(id.0, outcome) }
    }

    fn break_link(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.broken = true;
        link.up.clear();
        link.down.clear();
        link.open.clear();
    }

    /// The sidecar of callers sees that a link is lost, and makes another.
    fn notice(&mut self, at: usize) -> Result<(), String> {
        self.links[at].broken = false;
        self.links[at].life += 1;
        let place = if at == 0 { OLD } else { NEW };
        self.hold(|holder, now, out| holder.lost(place, now, out))
    }

    /// What the old place sends on comes to the new one, or does not.
    fn forward(&mut self, bounds: &Bounds) {
        let Some((key, life)) = self.forwards.pop_front() else { return };
        if self.places[1].is_none() {
            if self.lives[0] == life && self.places[0].is_some() {
                self.place(0, |place, _, out| place.forwarded(out));
                self.reply(0, key, Down::Unknown(key));
            }
            return;
        }
        let arrival = Arrival {
            id: key,
            source: SourceId(u64::MAX),
            bytes: 1,
            deadline: None,
            kind: Kind::Unary,
            is_inside: false,
            is_kept: bounds.keeps,
            is_forwarded: true,
        };
        self.arrive(1, arrival, Origin::Place(life));
    }

    fn ask_store(&mut self, ask: usize, bounds: &Bounds) {
        let Some(transaction) = self.store.asks.iter().nth(ask).copied() else { return };
        self.store.asks.remove(&transaction);
        let before = self.store.cell;
        let term = before.term;
        if bounds.careless_store {
            self.store.cell = Cell { term, ..transaction.to };
        } else {
            self.store.cell.apply(&transaction);
        }
        let after = self.store.cell;
        if after.losses > before.losses {
            let kept = match (after.source, &self.places[at_place(after.owner.place)]) {
                (Source::Kept, Some(body)) => body.value,
                _ => 0,
            };
            self.history.lose(kept);
            let is_active = |record: &Record| *record == Record::Entered(Phase::Switch);
            let had = !self.died.contains(&(Actor::Old as u8)) && !self.store.records.iter().any(is_active);
            if after.source == Source::Nothing && had {
                self.wrong = Some("what the old place has frozen is given up".into());
            }
        }
        if transaction.from.term == term {
            self.store.answer = Some(after);
        }
    }

    pub(super) fn control(&mut self, does: impl FnOnce(&mut Coordinator, Duration, &mut Vec<Action>)) {
        let Some(control) = &mut self.control else { return };
        let mut out = Vec::new();
        does(control, self.now, &mut out);
        self.perform(out, false);
    }

    fn zombie(&mut self, does: impl FnOnce(&mut Coordinator, Duration, &mut Vec<Action>)) {
        let Some(zombie) = &mut self.zombie else { return };
        let mut out = Vec::new();
        does(zombie, self.now, &mut out);
        self.perform(out, true);
    }

    fn perform(&mut self, actions: Vec<Action>, by_zombie: bool) {
        for action in actions {
            if let Some(left) = &mut self.tear {
                if *left == 0 {
                    self.tear = None;
                    self.control = None;
                    return;
                }
                *left -= 1;
            }
            match action {
                Action::Journal(record) => {
                    if by_zombie {
                        // The store is another's by now.
                        if let Some(zombie) = &mut self.zombie {
                            zombie.supersede();
                        }
                        return;
                    }
                    self.store.records.push(record);
                }
                Action::Commit(transaction) => {
                    self.store.asks.insert(transaction);
                }
                Action::Send(role, command) => {
                    self.net.insert(Net::ToPlace(role, command));
                }
                Action::Hold(_, stamp, order) => {
                    self.net.insert(Net::ToHolder(stamp, order));
                }
                Action::Endpoints(place, epoch) => {
                    if epoch > self.registry.1 {
                        self.registry = (place, epoch);
                    }
                    self.switched = Some(epoch);
                }
            }
        }
        self.tear = None;
    }

    fn hear(&mut self, message: usize, bounds: &Bounds) -> Result<(), String> {
        let Some(message) = self.net.iter().nth(message).copied() else { return Ok(()) };
        if !bounds.doubles {
            self.net.remove(&message);
        }
        match message {
            Net::ToPlace(role, command) => {
                self.place(at(role), |place, now, out| place.command(command, now, out));
            }
            Net::FromPlace(role, report) => {
                self.control(|control, now, out| control.report(role, report, now, out));
            }
            Net::ToHolder(stamp, order) => {
                self.hold(|holder, now, out| holder.command(stamp, order, now, out))?;
            }
            Net::FromHolder(stamp) => {
                self.control(|control, now, out| control.holds(HOLDER, stamp, now, out));
            }
        }
        Ok(())
    }

    fn die(&mut self, actor: Actor, bounds: &Bounds) {
        self.deaths += 1;
        self.died.insert(actor as u8);
        match actor {
            Actor::Control => {
                let control = self.control.take();
                self.store.answer = None;
                self.switched = None;
                if !bounds.doubles {
                    // What was on its way to it is as lost as it is.
                    self.net.retain(|message| !matches!(message, Net::FromPlace(..) | Net::FromHolder(_)));
                }
                if bounds.zombies {
                    self.zombie = control;
                }
            }
            Actor::Old => self.die_place(0),
            Actor::New => self.die_place(1),
            Actor::Caller => {
                self.holder = None;
                self.orphaned = true;
                for at in 0..2 {
                    self.break_link(at);
                    let link = &mut self.links[at];
                    link.up.push_back(Up::Gone(link.life));
                    link.broken = false;
                    link.life += 1;
                }
                for client in &mut self.clients {
                    if let Some(id) = client.waits.take() {
                        self.history.unknown(id);
                    }
                }
            }
        }
    }

    fn die_place(&mut self, at: usize) {
        let Some(body) = self.places[at].take() else { return };
        self.break_link(at);
        if at == 1 {
            // Whoever sent something on finds out.
            for (key, origin) in body.origins {
                if let Origin::Place(life) = origin
                    && life == self.lives[0]
                    && self.places[0].is_some()
                {
                    self.place(0, |place, _, out| place.forwarded(out));
                    self.reply(0, key, Down::Unknown(key));
                }
            }
        } else {
            self.forwards.clear();
        }
    }

    fn restart(&mut self, at: usize, bounds: &Bounds) {
        self.lives[at] += 1;
        let mut place = Place::new(bounds.class, Incarnation(self.lives[at]), ROOM);
        place.faults.planted = bounds.planted;
        place.parked.faults.planted = bounds.planted;
        self.places[at] = Some(Body::new(place));
        // Whoever begins says so.
        self.ask(at);
    }

    /// A place says how it is.
    pub(super) fn ask(&mut self, at: usize) {
        let ask = Command { stamp: Stamp::default(), incarnation: None, order: Order::Ask };
        self.place(at, |place, now, out| place.command(ask, now, out));
    }

    fn restart_control(&mut self, bounds: &Bounds) {
        let term = self.store.cell.term + 1;
        self.store.cell.take_over(term);
        let mut out = Vec::new();
        let (cell, records) = (self.store.cell, &self.store.records);
        let mut control = Coordinator::resume(plan(bounds), cell, records, self.now, &mut out);
        control.faults.planted = bounds.planted;
        self.control = Some(control);
        self.perform(out, false);
    }

    fn note(&mut self, result: Result<(), String>) {
        if let Err(wrong) = result {
            self.wrong.get_or_insert(wrong);
        }
    }

    /// What has to hold always.
    fn check(&mut self, bounds: &Bounds) -> Result<(), String> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let serves =
            |body: &Option<Body>| body.as_ref().is_some_and(|body| body.place.stand().serves().is_some());
        if bounds.class != Class::Stateless && self.places.iter().all(serves) {
            return Err("both places serve".into());
        }
        for body in self.places.iter().flatten() {
            if body.place.parked().len() > ROOM.count {
                return Err("more is parked than may be".into());
            }
        }
        if let Some(holder) = &self.holder
            && (holder.held().len() > ROOM.count || holder.waiting().len() > ROOM.count)
        {
            return Err("more is held than may be".into());
        }
        if self.control.as_ref().is_some_and(|control| control.said() > bounds.said) {
            return Err("it does not get on, however often it is said".into());
        }
        // Before it quiesces nobody notices anything.
        let quiet = self.died.is_empty() && self.zombie.is_none();
        let early = |record: &Record| matches!(record, Record::Entered(phase) if *phase >= Phase::Quiesce);
        if quiet && !self.store.records.iter().any(early) && !serves(&self.places[0]) {
            return Err("nobody serves before the old place is to quiesce".into());
        }
        Ok(())
    }

    /// Where nothing more happens, everything has.
    pub(super) fn check_rest(&self, bounds: &Bounds) -> Result<(), String> {
        let control = self.control.as_ref().ok_or("there is no control plane")?;
        if !control.is_settled() {
            return Err(format!("it does not get on from {:?}: {:?}", control.phase(), control.cell()));
        }
        let cell = self.store.cell;
        if cell != *control.cell() {
            return Err("the control plane does not know what was decided".into());
        }
        for (at, body) in self.places.iter().enumerate() {
            let Some(body) = body else { return Err("a place is dead".into()) };
            let owns = at == at_place(cell.owner.place);
            let takes = body.place.stand().serves().is_some() || body.place.stand() == Stand::Warm;
            if owns != takes {
                return Err(format!("{:?} is {:?}", role_at(at), body.place.stand()));
            }
            if body.place.running() != Running::default() || !body.place.parked().is_empty() {
                return Err(format!("{:?} has not finished", role_at(at)));
            }
        }
        if bounds.class != Class::Stateless
            && let Some(owner) = &self.places[at_place(cell.owner.place)]
        {
            // Whoever asks last.
            let mut history = self.history.clone();
            history.begin(u64::MAX, Op::Read);
            history.done(u64::MAX, Some(owner.value)).map_err(|wrong| wrong.to_string())?;
        }
        let holder = self.holder.as_ref().ok_or("there is no sidecar of callers")?;
        let has_route = holder.place().0 == cell.owner.place;
        if holder.is_holding() || !holder.held().is_empty() || !has_route {
            return Err(format!("the sidecar of callers is left behind: {:?}", holder.place()));
        }
        for (client, script) in self.clients.iter().zip(bounds.scripts) {
            if client.waits.is_some() || client.next < script.len() {
                return Err("a request is not answered".into());
            }
            let is_calm = self.died.is_empty() && self.breaks == 0;
            if is_calm && client.unknown > 0 {
                return Err("an outcome is unknown though nobody died".into());
            }
            // Two may not have room to wait.
            if is_calm && bounds.timeouts == 0 && bounds.keeps && client.failed > 0 && self.clients.len() < 2
            {
                return Err("a request failed though nobody died".into());
            }
        }
        Ok(())
    }

    /// Everything that waits for time to pass is done.
    pub(super) fn pass(&mut self) -> Result<(), String> {
        self.timeouts = self.timeouts.saturating_sub(4);
        self.control(|control, _, out| {
            if let Some(timeout) = control.timeout() {
                control.on_timeout(timeout, out);
            }
        });
        for at in 0..2 {
            self.place(at, |place, _, out| {
                if let Some(timeout) = place.timeout() {
                    place.on_timeout(timeout, out);
                }
            });
        }
        self.hold(|holder, _, out| {
            if let Some(timeout) = holder.timeout() {
                holder.on_timeout(timeout, out);
            }
        })
    }

    /// States that differ in moments and counts only are one, and so are those that differ in messages only that do nothing.
    pub(super) fn rest(&mut self, bounds: &Bounds) {
        self.forget(bounds);
        for body in self.places.iter_mut().flatten() {
            body.place.rest();
        }
        self.control.iter_mut().chain(&mut self.zombie).for_each(Coordinator::rest);
        if let Some(holder) = &mut self.holder {
            holder.rest();
        }
    }

    /// Messages that would be answered only by what is known are as good as lost.
    fn forget(&mut self, bounds: &Bounds) {
        let is_careless = bounds.planted == Some(Planted::AnyStamp);
        let any_life = bounds.planted == Some(Planted::AnyLife);
        if bounds.doubles || is_careless {
            return;
        }
        let World { net, control, places, .. } = self;
        let known = |role: Role, report: &Report| {
            control.as_ref().is_none_or(|control| control.has_heard(role, report))
        };
        let said: Vec<(Role, Option<Report>)> = Role::BOTH
            .into_iter()
            .map(|role| (role, places[at(role)].as_ref().and_then(|body| body.place.said())))
            .collect();
        let under_way: Vec<(Role, Report)> = net
            .iter()
            .filter_map(|message| match message {
                Net::FromPlace(role, report) => Some((*role, *report)),
                _ => None,
            })
            .collect();
        net.retain(|message| match message {
            // Nothing but what was said already would be said.
            Net::ToPlace(role, command) if command.order == Order::Ask => match said[at(*role)].1 {
                Some(report) => !known(*role, &report) && !under_way.contains(&(*role, report)),
                None => true,
            },
            Net::ToPlace(role, command) => match &places[at(*role)] {
                Some(body) => {
                    let lives = any_life || command.incarnation >= Some(body.place.incarnation);
                    lives && command.stamp > body.place.gate
                }
                None => true,
            },
            Net::FromPlace(role, report) => !known(*role, report),
            _ => true,
        });
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

const LATE: Duration = Duration::from_secs(100);

pub(super) fn plan(bounds: &Bounds) -> Plan {
    Plan {
        migration: 1,
        class: bounds.class,
        old: OLD,
        new: NEW,
        holders: if bounds.holds { vec![HOLDER] } else { Vec::new() },
        rules: Rules { rounds: bounds.rounds, ..Rules::default() },
    }
}
