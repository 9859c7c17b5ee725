//! Everything that takes part in a migration: the types that run in production, and what lies between them.
//!
//! The service is one register. Commands and reports are messages that may come late, in another order, or never, and twice
//! where that is asked for. Requests go over links, in order, which may break. Whoever dies loses what was in memory, but not the
//! store. What is journaled has a [model](super::journal) of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::parts::{Body, Client, Link, Net, Sidecar, Store, Up};
use crate::planted::Planted;
use crate::*;

/// How far is looked.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) class: Class,
    /// What each client asks for, one after the other.
    pub(super) scripts: &'static [&'static [Op]],
    /// How much memory each of that takes where it waits, and how much may.
    pub(super) bytes: usize,
    pub(super) room: crate::Bounds,
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
    /// The old place is not heard for longer than its lease, though it lives.
    pub(super) leases: bool,
    /// An operator vouches for whoever is dead.
    pub(super) vouches: bool,
    /// An operator vouches for whoever is not dead.
    pub(super) lies: bool,
    /// How many times what a place asks its service for fails, of everything but freezing.
    pub(super) fails: u8,
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
    /// The new place was the old one of a migration before this one, and knows where the service went.
    pub(super) was_there: bool,
    /// What requests are; streams are cut where they do not end.
    pub(super) kind: Kind,
    /// A place that has died may stay away, which is looked at for as many deadlines.
    pub(super) stays: u8,
}

#[derive(Clone, Hash)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) store: Store,
    pub(super) control: Option<Coordinator>,
    pub(super) zombie: Option<Coordinator>,
    pub(super) places: [Option<Body>; 2],
    pub(super) lives: [u64; 2],
    pub(super) sidecar: Option<Sidecar>,
    /// The sidecar of callers died at least once.
    pub(super) orphaned: bool,
    pub(super) clients: Vec<Client>,
    pub(super) net: BTreeSet<Net>,
    pub(super) links: [Link; 2],
    /// From one place, in this life, to the other.
    pub(super) forwards: VecDeque<(usize, RequestId, u64)>,
    pub(super) registry: (PlaceId, Epoch),
    pub(super) switched: Option<Epoch>,
    pub(super) history: History,
    /// In which epochs something ran, and where.
    pub(super) served: BTreeMap<Epoch, (usize, u64)>,
    /// A place that was vouched for was not dead: what it does in its epoch is its own.
    pub(super) lied: bool,
    /// How many times what writes has run.
    pub(super) runs: BTreeMap<u64, u8>,
    pub(super) deaths: u8,
    pub(super) breaks: u8,
    pub(super) timeouts: u8,
    pub(super) fails: u8,
    /// To reserve and to become healthy takes time, and may fail.
    pub(super) slow: bool,
    pub(super) again: u8,
    /// How many times everything waited for time to pass, where somebody stays away.
    pub(super) passed: u8,
    pub(super) aborted: bool,
    pub(super) gone: bool,
    pub(super) died: BTreeSet<u8>,
    /// What must not be.
    pub(super) wrong: Option<String>,
    /// The control plane dies after so many more actions.
    pub(super) tear: Option<usize>,
}

pub(super) const OLD: PlaceId = PlaceId(1);
pub(super) const NEW: PlaceId = PlaceId(2);
pub(super) const HOLDER: HolderId = HolderId(1);
pub(super) const FIRST: Epoch = Epoch(5);
/// Rooms for so many requests.
pub(super) const ROOM: crate::Bounds = crate::Bounds { count: 1, bytes: 10, time: Duration::from_secs(5) };
/// Rooms that bytes fill before so many have come.
pub(super) const WIDE: crate::Bounds = crate::Bounds { count: 2, ..ROOM };

/// There is no time to try as often as is tried outside.
pub(super) const TRIES: u8 = 4;

pub(super) fn role_at(at: usize) -> Role {
    Role::BOTH[at]
}

pub(super) fn at(role: Role) -> usize {
    role as usize
}

pub(super) fn at_place(place: PlaceId) -> usize {
    usize::from(place == NEW)
}

pub(super) fn digest(value: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    Digest(bytes)
}

impl World {
    /// The next migration, back to where the service was before this one.
    pub(super) fn back(self, bounds: &Bounds) -> World {
        let owner = Owner { place: OLD, incarnation: Incarnation(self.lives[1]) };
        let mut cell = Cell::new(self.store.cell.migration + 1, self.store.cell.epoch, owner);
        cell.take_over(1);
        let [old, new] = self.places;
        let value = new.as_ref().map_or(0, |body| body.value);
        let mut places = [new, old];
        // What it is called by that migration is what the other one was called by the one before.
        if let [_, Some(body)] = &mut places {
            body.place.leave_behind(OLD, cell.epoch);
        }
        World::begin(bounds, cell, places, [self.lives[1], self.lives[0]], value)
    }

    pub(super) fn new(bounds: &Bounds) -> World {
        let owner = Owner { place: OLD, incarnation: Incarnation(1) };
        let mut cell = Cell::new(1, FIRST, owner);
        cell.take_over(1);
        let mut old = Place::serving(bounds.class, Incarnation(1), FIRST, bounds.room);
        let mut new = Place::new(bounds.class, Incarnation(1), bounds.room);
        if bounds.was_there {
            new.leave_behind(OLD, FIRST);
        }
        for place in [&mut old, &mut new] {
            place.faults.planted = bounds.planted;
            place.parked.faults.planted = bounds.planted;
        }
        World::begin(bounds, cell, [Some(Body::new(old)), Some(Body::new(new))], [1, 1], 0)
    }

    fn begin(bounds: &Bounds, cell: Cell, places: [Option<Body>; 2], lives: [u64; 2], value: u64) -> World {
        let epoch = cell.epoch;
        let (route, since) = if bounds.astray { (NEW, Epoch(epoch.0 - 1)) } else { (OLD, epoch) };
        let sidecar = Sidecar::new((route, since), bounds);
        let mut world = World {
            now: Duration::ZERO,
            store: Store {
                cell,
                records: Vec::new(),
                unwritten: Vec::new(),
                was_active: false,
                asks: BTreeSet::new(),
                answer: None,
            },
            control: None,
            zombie: None,
            places,
            lives,
            sidecar: Some(sidecar),
            orphaned: false,
            clients: bounds.scripts.iter().map(|_| Client::default()).collect(),
            net: BTreeSet::new(),
            links: [Link::default(), Link::default()],
            forwards: VecDeque::new(),
            registry: (OLD, epoch),
            switched: None,
            history: History::new(value),
            served: BTreeMap::new(),
            lied: false,
            runs: BTreeMap::new(),
            deaths: 0,
            breaks: 0,
            timeouts: 0,
            fails: 0,
            slow: bounds.fails > 0,
            again: 0,
            passed: 0,
            aborted: false,
            gone: false,
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
        let mut control = Coordinator::new(plan(bounds, &cell), cell, world.now, &mut out);
        control.faults.planted = bounds.planted;
        world.control = Some(control);
        world.perform(out, false);
        world
    }

    pub(super) fn ask_store(&mut self, ask: usize, bounds: &Bounds) {
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
            let had = !self.died.contains(&(Actor::Old as u8)) && !self.store.was_active;
            if after.source == Source::Nothing && had && !self.lied {
                self.wrong = Some("what the old place has frozen is given up".into());
            }
        }
        if transaction.from.term == term {
            // In one transaction with all that there is to write.
            self.store.write();
            self.store.answer = Some(after);
        }
    }

    pub(super) fn control(&mut self, does: impl FnOnce(&mut Coordinator, Duration, &mut Vec<Action>)) {
        let Some(control) = &mut self.control else { return };
        let mut out = Vec::new();
        does(control, self.now, &mut out);
        self.perform(out, false);
    }

    pub(super) fn zombie(&mut self, does: impl FnOnce(&mut Coordinator, Duration, &mut Vec<Action>)) {
        let Some(zombie) = &mut self.zombie else { return };
        let mut out = Vec::new();
        does(zombie, self.now, &mut out);
        self.perform(out, true);
    }

    pub(super) fn perform(&mut self, actions: Vec<Action>, by_zombie: bool) {
        for action in actions {
            if let Some(left) = &mut self.tear {
                if *left == 0 {
                    self.tear = None;
                    self.control = None;
                    self.store.unwritten.clear();
                    return;
                }
                *left -= 1;
            }
            // Callers may be told where the service is before that is written.
            if matches!(action, Action::Send(..) | Action::Hold(..)) && !by_zombie {
                self.store.write_what_binds();
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
                    self.store.was_active |= record == Record::Entered(Phase::Switch);
                    self.store.unwritten.push(record);
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
        if !by_zombie {
            self.store.write_what_binds();
        }
        self.tear = None;
    }

    pub(super) fn hear(&mut self, message: usize, bounds: &Bounds) -> Result<(), String> {
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
                self.told(stamp, order)?;
            }
        }
        Ok(())
    }

    pub(super) fn die(&mut self, actor: Actor, bounds: &Bounds) {
        self.deaths += 1;
        self.died.insert(actor as u8);
        match actor {
            Actor::Control => {
                let control = self.control.take();
                self.store.answer = None;
                self.store.unwritten.clear();
                self.switched = None;
                if !bounds.doubles {
                    // What was on its way to it is as lost as it is.
                    self.net.retain(|message| !matches!(message, Net::FromPlace(..)));
                }
                if bounds.zombies {
                    self.zombie = control;
                }
            }
            Actor::Old => self.die_place(0),
            Actor::New => self.die_place(1),
            Actor::Caller => {
                self.sidecar = None;
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

    pub(super) fn restart_control(&mut self, bounds: &Bounds) {
        let term = self.store.cell.term + 1;
        self.store.cell.take_over(term);
        let mut out = Vec::new();
        let (cell, records) = (self.store.cell, &self.store.records);
        let mut control = Coordinator::resume(plan(bounds, &cell), cell, records, self.now, &mut out);
        control.faults.planted = bounds.planted;
        self.control = Some(control);
        self.perform(out, false);
    }

    pub(super) fn note(&mut self, result: Result<(), String>) {
        if let Err(wrong) = result {
            self.wrong.get_or_insert(wrong);
        }
    }
}

pub(super) const LATE: Duration = Duration::from_secs(100);

pub(super) fn plan(bounds: &Bounds, cell: &Cell) -> Plan {
    Plan {
        migration: cell.migration,
        class: bounds.class,
        old: OLD,
        new: NEW,
        holders: if bounds.holds { vec![HOLDER] } else { Vec::new() },
        rules: Rules {
            rounds: bounds.rounds,
            streams: if bounds.kind == Kind::Stream { Streams::Cut } else { Streams::Wait },
            ..Rules::default()
        },
    }
}
