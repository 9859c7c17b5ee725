//! The model check: every order of what may happen to two carriers, breadth first, on the type that runs in production.
//!
//! TLS writes records of six bytes in parts of three; the wire holds five; records of the carrier come in two parts. At
//! any point either side may leave the wire, die, or find that TCP is lost. Offers and answers are heard however late.
//!
//! In every run both sides switch, leave the wire and end, so that records of the carrier go both ways. Bytes of TLS go one way, from
//! the opener, in what every run looks at, and both ways in some of what is looked at with `LIGHTER_FULL=1`.
//!
//! States, as each exploration prints them:
//!
//! | records from opener, acceptor | generations | losses | lie | states |
//! |---|--:|---|--:|--:|
//! | 1, 0 | 1 | yes | | 176,107 |
//! | 1, 0 | 2 | | | 174,697 |
//! | 1, 0 | 1 | | -3 | 27,752 |
//! | 1, 0 | 1 | | 3 | 30,907 |
//! | 2, 0 (full) | 1 | yes | | 521,784 |
//! | 1, 1 (full) | 1 | yes | | 1,023,356 |
//! | 1, 1 (full) | 1 | | | 174,742 |
//! | 1, 1 (full) | 2 | | | 1,089,137 |
//! | 1, 0 (full) | 2 | yes | | 848,809 |
//!
//! A fault that is planted has to be found by what it breaks, and not by anything else.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use super::super::alarm::Alarms;
use super::super::generation::{Cause, Generation};
use super::super::machine::{Counts, Finish, In, Machine, Out, Planted};
use super::super::record::RECORD_TYPE;
use super::wire::{End, OVERWRITTEN};
use super::{Open, is_full};
use crate::link::carrier::Fatal;
use crate::link::session::Side;
use crate::link::wire::WireFault;

/// How far is looked.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Records of TLS that each side writes.
    records: [u64; 2],
    generations: u32,
    /// TCP may be lost, and sides may die.
    losses: bool,
    /// By how much the acceptor lies in RESUME.
    lie: i64,
    planted: Option<Planted>,
}

/// What may happen next, on the side named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The opener offers a wire.
    Offer,
    Accept,
    Decline,
    /// The opener hears the answer.
    Hear,
    /// The wire is proved.
    Switch(usize),
    /// TCP holds little.
    Drained(usize),
    Freeze(usize),
    Write(usize),
    /// What the other side has written comes in.
    Deliver(usize),
    Read(usize),
    /// The other side learns what was consumed.
    Publish(usize),
    Finish(usize),
    /// This side closes the connection, when it needs it no more.
    Leave(usize),
    /// The other side's end of the wire is seen to be gone.
    Gone(usize),
    Die(usize),
    /// TCP carries nothing more.
    Cut,
    /// This side notices that.
    Lose(usize),
}

/// Both ends, and what lies between them.
#[derive(Clone, Hash)]
struct World {
    machines: [Machine<End, Open>; 2],
    /// The wire of the generation named, while it is being proved.
    proving: [Option<(u32, End)>; 2],
    /// On TCP from each side.
    sent: [VecDeque<Chunk>; 2],
    offered: Option<u32>,
    answered: Option<(u32, bool)>,
    /// The opener has heard that it is accepted.
    agreed: u32,
    delivered: [u64; 2],
    finished: [bool; 2],
    /// TCP's way out is at its end.
    shut: [bool; 2],
    /// Whoever has closed the connection, and so was done with it.
    left: [bool; 2],
    dead: [bool; 2],
    cut: bool,
}

/// What comes in at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Chunk {
    Bytes(Vec<u8>),
    End,
}

/// How a state came about.
struct Path {
    step: Step,
    before: Option<Rc<Path>>,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// TLS of this side got what is not the next byte that the other's wrote.
    Byte { side: usize, at: u64, found: u8 },
    /// Bytes are replayed that are not stored any more.
    Overwritten,
    /// A direction that was cut off looks whole.
    LooksWhole,
    /// This side gave the link up, and nothing was lost.
    GaveUp { side: usize, fatal: Fatal },
    /// Nothing goes on, and not all has arrived.
    Stuck,
}

/// Where it came to that.
struct Violation {
    wrong: Wrong,
    path: Option<Rc<Path>>,
}

impl World {
    fn new(bounds: &Bounds) -> Self {
        let machine = |side| {
            let mut machine = Machine::new(side);
            machine.establish(Open);
            machine.planted = bounds.planted;
            machine
        };
        World {
            machines: [machine(Side::Opener), machine(Side::Acceptor)],
            proving: [None, None],
            sent: [VecDeque::new(), VecDeque::new()],
            offered: None,
            answered: None,
            agreed: 0,
            delivered: [0; 2],
            finished: [false; 2],
            shut: [false; 2],
            left: [false; 2],
            dead: [false; 2],
            cut: false,
        }
    }

    /// What may happen. The first are those by which the link gets on.
    fn steps(&self, bounds: &Bounds) -> (Vec<Step>, Vec<Step>) {
        let (mut on, mut off) = (Vec::new(), Vec::new());
        let lives = |side: usize| !self.dead[side] && !self.left[side];
        for side in 0..2 {
            let machine = &self.machines[side];
            let peer = 1 - side;
            if !lives(side) {
                continue;
            }
            let wrote = machine.outward.accepted == bounds.records[side] * RECORD;
            let tcp = machine.way_out() == Out::Tcp;
            if machine.asks_unsent() {
                on.push(Step::Drained(side));
            } else if !wrote && machine.way_out() != Out::Frozen && !(tcp && self.cut) {
                let has_room = |open: &Generation<End>| open.wire.as_ref().is_some_and(End::has_room);
                if tcp || machine.generation.as_ref().is_some_and(has_room) {
                    on.push(Step::Write(side));
                }
            }
            if wrote && !self.finished[side] {
                on.push(Step::Finish(side));
            }
            if !self.sent[peer].is_empty() && !self.cut {
                on.push(Step::Deliver(side));
            }
            if let Some(open) = &machine.generation
                && let Some(wire) = &open.wire
            {
                if machine.way_in() == In::Ring && wire.has_arrived() && !machine.is_ended() {
                    on.push(Step::Read(side));
                }
                if self.is_joined()
                    && let Some(other) = self.wire(peer)
                    && other.lags(wire)
                {
                    on.push(Step::Publish(side));
                }
                if !lives(peer) && open.frozen.is_none() {
                    off.push(Step::Gone(side));
                }
            }
            if self.finished[side] && machine.is_ended() && machine.clone().finish() != Ok(Finish::Wait) {
                on.push(Step::Leave(side));
            }
            if self.cut && !machine.lost {
                on.push(Step::Lose(side));
            }
            if let Some((number, _)) = &self.proving[side]
                && (side == ACCEPTOR || self.agreed == *number)
            {
                off.push(Step::Switch(side));
            }
            if machine.generation.as_ref().is_some_and(|open| open.frozen.is_none()) {
                off.push(Step::Freeze(side));
            }
            if bounds.losses && !self.cut && self.dead == [false; 2] && machine.was_used() {
                off.push(Step::Die(side));
            }
        }
        if lives(OPENER) && self.answered.is_some() {
            on.push(Step::Hear);
        }
        if lives(ACCEPTOR) && self.offered.is_some() {
            on.push(Step::Accept);
            if !bounds.losses {
                off.push(Step::Decline);
            }
        }
        if lives(OPENER)
            && self.offered.is_none()
            && self.answered.is_none()
            && self.machines[OPENER].next().is_some_and(|next| next <= bounds.generations)
        {
            off.push(Step::Offer);
        }
        if bounds.losses && !self.cut && self.dead == [false; 2] && self.left == [false; 2] {
            off.push(Step::Cut);
        }
        (on, off)
    }

    /// Does `step`. Fails where something is not as it must be.
    fn take(&mut self, step: Step, bounds: &Bounds) -> Result<(), Wrong> {
        match step {
            Step::Offer => {
                let number = self.machines[OPENER].next().expect("a generation is left");
                assert!(self.machines[OPENER].open(number));
                self.proving[OPENER] = Some((number, End::new(ROOM)));
                self.offered = Some(number);
            }
            Step::Accept => {
                let number = self.offered.take().expect("it was offered");
                if self.machines[ACCEPTOR].open(number) {
                    self.proving[ACCEPTOR] = Some((number, End::new(ROOM)));
                    self.answered = Some((number, true));
                }
            }
            Step::Decline => self.answered = self.offered.take().map(|number| (number, false)),
            Step::Hear => match self.answered.take() {
                Some((number, true)) => self.agreed = number,
                Some((number, false)) => self.machines[OPENER].withdraw(number),
                None => {}
            },
            Step::Switch(side) => {
                let (number, wire) = self.proving[side].take().expect("there is a wire");
                self.machines[side].switch(number, wire);
            }
            Step::Drained(side) => self.machines[side].learn_unsent(0),
            Step::Freeze(side) => {
                let number = self.machines[side].generation.as_ref().map_or(0, |open| open.number);
                let frozen = self.machines[side].freeze(number, Cause::Policy);
                self.check(side, frozen, bounds)?;
            }
            Step::Gone(side) => {
                if let Some(wire) = self.machines[side].wire() {
                    wire.lose();
                }
                // Whatever is done with it next finds out.
                let found = match self.machines[side].way_in() {
                    In::Ring => self.machines[side].read(&mut [0]).map(|_| ()),
                    In::Tcp | In::Wait => self.machines[side].fault(WireFault::Gone),
                };
                self.check(side, found, bounds)?;
            }
            Step::Write(side) => self.write(side, bounds)?,
            Step::Deliver(side) => self.deliver(side, bounds)?,
            Step::Read(side) => {
                let mut bytes = [0; 4];
                let read = self.machines[side].read(&mut bytes);
                let read = self.check(side, read, bounds)?.unwrap_or(0);
                self.arrive(side, &bytes[..read], bounds)?;
            }
            Step::Publish(side) => {
                let other = self.wire(side).cloned().expect("there is a wire");
                if let Some(wire) = self.wire_mut(1 - side) {
                    wire.learn(&other);
                }
            }
            Step::Finish(side) => {
                self.finished[side] = true;
                let finish = self.machines[side].finish();
                self.check(side, finish, bounds)?;
            }
            Step::Leave(side) => {
                self.left[side] = true;
                self.shut(side);
            }
            Step::Die(side) => {
                self.dead[side] = true;
                self.shut(side);
            }
            Step::Cut => {
                self.cut = true;
                self.sent.iter_mut().for_each(VecDeque::clear);
            }
            Step::Lose(side) => {
                let lost = self.machines[side].lose();
                self.check(side, lost, bounds)?;
            }
        }
        self.settle(bounds)
    }

    /// TLS writes the next part of a record.
    fn write(&mut self, side: usize, bounds: &Bounds) -> Result<(), Wrong> {
        let machine = &mut self.machines[side];
        let from = machine.outward.accepted;
        let part: Vec<u8> = (from..(from / PART + 1) * PART).map(|at| byte(side, at)).collect();
        if machine.way_out() == Out::Tcp {
            let most = machine.allowance(&part).unwrap_or(part.len());
            let sent = machine.sent([&part[..most]]);
            self.sent[side].push_back(Chunk::Bytes(part[..most].to_vec()));
            self.check(side, sent, bounds)?;
        } else {
            let written = machine.write(&part);
            self.check(side, written, bounds)?;
        }
        Ok(())
    }

    fn deliver(&mut self, side: usize, bounds: &Bounds) -> Result<(), Wrong> {
        match self.sent[1 - side].pop_front() {
            Some(Chunk::Bytes(mut bytes)) => {
                let kept = self.machines[side].recv(&mut bytes);
                let kept = self.check(side, kept, bounds)?.unwrap_or(0);
                self.arrive(side, &bytes[..kept], bounds)
            }
            Some(Chunk::End) => {
                let switched = self.machines[side].inward.has_switched();
                let ended = self.machines[side].recv_end();
                self.check(side, ended, bounds)?;
                let whole = self.delivered[side] == bounds.records[1 - side] * RECORD;
                if bounds.lie == 0
                    && switched
                    && self.machines[side].is_ended()
                    && !whole
                    && self.machines[side].fatal.is_none()
                {
                    return Err(Wrong::LooksWhole);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// TLS gets `bytes`.
    fn arrive(&mut self, side: usize, bytes: &[u8], bounds: &Bounds) -> Result<(), Wrong> {
        if side == ACCEPTOR && bounds.lie != 0 {
            // It gets what it asked for.
            return Ok(());
        }
        for found in bytes {
            let at = self.delivered[side];
            if at >= self.machines[1 - side].outward.accepted || *found != byte(1 - side, at) {
                return Err(Wrong::Byte { side, at, found: *found });
            }
            self.delivered[side] += 1;
        }
        Ok(())
    }

    /// What happens by itself: what the carrier has to say is said, wires show what is in them, and nobody looks back.
    fn settle(&mut self, bounds: &Bounds) -> Result<(), Wrong> {
        for side in 0..2 {
            if self.finished[side] && !self.dead[side] {
                let finish = self.machines[side].finish();
                self.check(side, finish, bounds)?;
            }
            let said = self.machines[side].transmit().to_vec();
            self.machines[side].transmitted(said.len());
            if said.contains(&OVERWRITTEN) {
                return Err(Wrong::Overwritten);
            }
            let mut said = said;
            if side == ACCEPTOR && bounds.lie != 0 && said.len() >= 45 && said[..6] == [0x4C, 3, 3, 0, 40, 2]
            {
                said[20] = said[20].saturating_add_signed(bounds.lie as i8);
            }
            if !self.cut && !self.dead[side] && self.machines[side].fatal.is_none() {
                self.sent[side].extend(said.chunks(25).map(|part| Chunk::Bytes(part.to_vec())));
            }
            if self.finished[side] && !self.dead[side] && self.machines[side].finish() == Ok(Finish::Shut) {
                self.shut(side);
            }
            let late = bounds.planted == Some(Planted::SwitchAfterResume);
            let is_wanted = |open: &&Generation<End>| late || open.frozen.is_none();
            let current = self.machines[side].generation.as_ref().filter(is_wanted).map(|open| open.number);
            self.proving[side].take_if(|(number, _)| current != Some(*number));
            let machine = &mut self.machines[side];
            machine.counts = Counts::default();
            machine.events.clear();
            machine.alarms = Alarms::default();
        }
        for side in 0..2 {
            if self.is_joined()
                && let Some(other) = self.wire(1 - side).cloned()
                && let Some(wire) = self.wire_mut(side)
            {
                wire.join(&other);
            }
        }
        Ok(())
    }

    /// Whether both ends are of one generation.
    fn is_joined(&self) -> bool {
        let number = |side: usize| match &self.proving[side] {
            Some((number, _)) => Some(*number),
            None => self.machines[side].generation.as_ref().map(|open| open.number),
        };
        number(OPENER) == number(ACCEPTOR)
    }

    fn wire(&self, side: usize) -> Option<&End> {
        match &self.proving[side] {
            Some((_, wire)) => Some(wire),
            None => self.machines[side].generation.as_ref()?.wire.as_ref(),
        }
    }

    fn wire_mut(&mut self, side: usize) -> Option<&mut End> {
        match &mut self.proving[side] {
            Some((_, wire)) => Some(wire),
            None => self.machines[side].generation.as_mut()?.wire.as_mut(),
        }
    }

    /// A link ends for a reason only.
    fn check<T>(&mut self, side: usize, did: Result<T, Fatal>, bounds: &Bounds) -> Result<Option<T>, Wrong> {
        let fatal = match did {
            Ok(done) => return Ok(Some(done)),
            Err(fatal) => fatal,
        };
        let peer_left = self.left[1 - side] && self.machines[side].is_ended();
        let lied = bounds.lie != 0 && (side == ACCEPTOR || matches!(fatal, Fatal::Replay | Fatal::Offset));
        if !(self.cut || self.dead[1 - side] || peer_left || lied) {
            return Err(Wrong::GaveUp { side, fatal });
        }
        self.dead[side] = true;
        self.shut(side);
        Ok(None)
    }

    fn shut(&mut self, side: usize) {
        if !std::mem::replace(&mut self.shut[side], true) && !self.cut {
            self.sent[side].push_back(Chunk::End);
        }
    }

    /// Where nothing more happens, everything has.
    fn check_rest(&self, bounds: &Bounds) -> Result<(), Wrong> {
        if self.cut || self.dead != [false; 2] || bounds.lie != 0 {
            return Ok(());
        }
        // Who has not switched in time leaves the wire, and so does who gets no room: that is looked at too.
        let waits = |machine: &Machine<End, Open>| match &machine.generation {
            Some(open) => open.frozen.is_none(),
            None => false,
        };
        if self.machines.iter().any(waits) && self.left == [false; 2] {
            return Ok(());
        }
        let whole = |side: usize| self.delivered[side] == bounds.records[1 - side] * RECORD;
        let ended = |side: usize| self.left[side] || self.machines[side].is_ended();
        if (0..2).all(|side| whole(side) && ended(side)) { Ok(()) } else { Err(Wrong::Stuck) }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut path = self.path.as_ref();
        while let Some(at) = path {
            steps.push(at.step);
            path = at.before.as_ref();
        }
        steps.reverse();
        write!(f, "{:?}, after {steps:?}", self.wrong)
    }
}

/// Looks at every state within `bounds`, and says how many there are.
fn explore(bounds: &Bounds) -> Result<usize, Violation> {
    let first = World::new(bounds);
    let mut seen = HashSet::from([first.fingerprint()]);
    let mut next = VecDeque::from([(first, None::<Rc<Path>>)]);
    while let Some((world, path)) = next.pop_front() {
        let (on, off) = world.steps(bounds);
        if on.is_empty() {
            world.check_rest(bounds).map_err(|wrong| Violation { wrong, path: path.clone() })?;
        }
        for step in on.into_iter().chain(off) {
            let mut then = world.clone();
            let path = Some(Rc::new(Path { step, before: path.clone() }));
            then.take(step, bounds).map_err(|wrong| Violation { wrong, path: path.clone() })?;
            if seen.insert(then.fingerprint()) {
                next.push_back((then, path));
            }
        }
    }
    Ok(seen.len())
}

/// Byte `at` of what `side` writes: records that carry the type of the carrier's, each with its number where TLS has its
/// version.
fn byte(side: usize, at: u64) -> u8 {
    match at % RECORD {
        0 => 23,
        1 => (at / RECORD) as u8 + 1,
        2 => side as u8 + 1,
        3 => 0,
        4 => 1,
        _ => 0x4C,
    }
}

const OPENER: usize = 0;
const ACCEPTOR: usize = 1;

/// Bytes of a record, and of what TLS writes at once.
const RECORD: u64 = 6;
const PART: u64 = 3;

/// What the wire holds.
const ROOM: usize = 5;

/// One way, one generation, nothing lost.
const ONE: Bounds = Bounds { records: [1, 0], generations: 1, losses: false, lie: 0, planted: None };

/// Looks at all of `bounds`, and prints how much that is.
fn show(bounds: &Bounds) {
    match explore(bounds) {
        Ok(states) => println!("{states} states: {bounds:?}"),
        Err(violation) => panic!("{bounds:?}: {violation}"),
    }
}

#[test]
fn every_byte_arrives_once_wherever_a_wire_or_tcp_breaks() {
    show(&Bounds { losses: true, ..ONE });
    if is_full() {
        show(&Bounds { records: [2, 0], losses: true, ..ONE });
        show(&Bounds { records: [1, 1], losses: true, ..ONE });
    }
}

#[test]
fn every_byte_arrives_once_over_two_generations() {
    show(&Bounds { generations: 2, ..ONE });
    if is_full() {
        show(&Bounds { records: [1, 1], ..ONE });
        show(&Bounds { records: [1, 1], generations: 2, ..ONE });
        show(&Bounds { generations: 2, losses: true, ..ONE });
    }
}

#[test]
fn a_peer_that_lies_about_what_it_has_gets_nothing_else() {
    for lie in [-3, 3] {
        show(&Bounds { lie, ..ONE });
    }
}

#[test]
fn every_planted_fault_is_found_by_what_it_breaks() {
    // A record of the carrier where the middle of one of TLS is due.
    let within = Wrong::Byte { side: ACCEPTOR, at: PART, found: RECORD_TYPE };
    let gave_up = |fatal| Wrong::GaveUp { side: OPENER, fatal };
    let faults = [
        (Planted::NoBase, Bounds { records: [2, 0], ..ONE }, Wrong::Overwritten),
        // More was consumed than was told.
        (Planted::ReadAfterFreeze, ONE, gave_up(Fatal::Replay)),
        (Planted::SwitchAfterResume, ONE, gave_up(Fatal::Generation)),
        // FIN takes the place of what is not replayed,
        (Planted::FinCancelsReplay, ONE, within),
        (Planted::NoBounds, Bounds { lie: -3, ..ONE }, Wrong::Overwritten),
        // or comes before it.
        (Planted::FinBeforeReplay, ONE, within),
        (Planted::NoBoundary, ONE, within),
        (Planted::NoFin, Bounds { losses: true, ..ONE }, Wrong::LooksWhole),
    ];
    for (planted, bounds, breaks) in faults {
        match explore(&Bounds { planted: Some(planted), ..bounds }) {
            Ok(states) => panic!("{planted:?} was not found in {states} states"),
            Err(violation) => {
                println!("{planted:?}: {violation}");
                assert_eq!(violation.wrong, breaks, "{planted:?}");
            }
        }
    }
}
