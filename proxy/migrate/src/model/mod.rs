//! The model check: every order of what may happen, breadth first, on the types that run in production.

mod callers;
mod checks;
mod journal;
mod parts;
mod places;
mod random;
mod steps;
mod tolls;
mod world;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::rc::Rc;

use self::parts::Step;
use self::world::{Bounds, ROOM, WIDE, World};
use crate::planted::Planted;
use crate::*;

/// How a state came about.
struct Path {
    step: String,
    before: Option<Rc<Path>>,
}

/// What must not be.
struct Wrong {
    what: String,
    path: Option<Rc<Path>>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut path = self.path.as_ref();
        while let Some(at) = path {
            steps.push(at.step.as_str());
            path = at.before.as_ref();
        }
        steps.reverse();
        write!(f, "{}, after {}", self.what, steps.join(", "))
    }
}

/// How much was looked at, and how it ended.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    states: usize,
    done: usize,
    aborted: usize,
    returned: usize,
}

/// Looks at every state within `bounds`.
fn explore(bounds: &Bounds) -> Result<Seen, Wrong> {
    let mut first = World::new(bounds);
    first.get_to(bounds).map_err(|what| Wrong { what, path: None })?;
    first.rest(bounds);
    let mut seen = HashSet::from([first.fingerprint()]);
    let mut next = VecDeque::from([(first, None::<Rc<Path>>)]);
    let mut ends = Seen::default();
    while let Some((world, path)) = next.pop_front() {
        if seen.len() > bounds.most() {
            return Err(Wrong { what: format!("{TOO_MANY} {} states", bounds.most()), path });
        }
        let here = world.fingerprint();
        let (on, off) = world.steps(bounds);
        let mut gets_on = false;
        for (step, is_on) in
            on.into_iter().map(|step| (step, true)).chain(off.into_iter().map(|step| (step, false)))
        {
            let mut then = world.clone();
            let path = || Some(Rc::new(Path { step: say(&world, step), before: path.clone() }));
            then.take(step, bounds).map_err(|what| Wrong { what, path: path() })?;
            then.rest(bounds);
            let fingerprint = then.fingerprint();
            gets_on |= is_on && fingerprint != here;
            if seen.insert(fingerprint) {
                next.push_back((then, path()));
            }
        }
        if gets_on {
            continue;
        }
        // Nothing but time does anything here.
        let mut then = world.clone();
        let later = || Some(Rc::new(Path { step: "time passes".into(), before: path.clone() }));
        let is_over = bounds.stays > 0 && world.passed >= bounds.stays;
        if !is_over {
            then.pass(bounds).map_err(|what| Wrong { what, path: later() })?;
        }
        then.rest(bounds);
        let fingerprint = then.fingerprint();
        if fingerprint != here {
            if seen.insert(fingerprint) {
                next.push_back((then, later()));
            }
            continue;
        }
        world.check_rest(bounds).map_err(|what| Wrong { what, path: path.clone() })?;
        match world.control.as_ref().map(Coordinator::phase) {
            Some(Phase::Done) => ends.done += 1,
            Some(Phase::Aborted) => ends.aborted += 1,
            _ => ends.returned += 1,
        }
    }
    ends.states = seen.len();
    Ok(ends)
}

/// A step, as a reader of a path wants it.
fn say(world: &World, step: Step) -> String {
    let brief =
        |text: String| text.replace(", 0", "").replace("Incarnation", "").replace("migration: 1, ", "");
    match step {
        Step::Net(at) => brief(format!("{:?}", world.net.iter().nth(at))),
        step => format!("{step:?}"),
    }
}

const TOO_MANY: &str = "there are more than";

const MOST: usize = 3_000_000;

const BASE: Bounds = Bounds {
    class: Class::Volatile,
    scripts: &[&[Op::Write(1), Op::Read]],
    bytes: 1,
    room: ROOM,
    keeps: true,
    rounds: 0,
    holds: false,
    mortal: &[],
    deaths: 0,
    breaks: 0,
    timeouts: 0,
    doubles: false,
    zombies: false,
    aborts: false,
    leases: false,
    vouches: false,
    lies: false,
    fails: 0,
    planted: None,
    careless_store: false,
    leftovers: false,
    from: Phase::Plan,
    said: 40,
    astray: false,
    was_there: false,
    stays: 0,
    kind: Kind::Unary,
};

/// One of these fills the room, though two would have it by their number.
const LARGE: Bounds = Bounds { bytes: 6, room: WIDE, ..BASE };

const CONTROL_AND_NEW: &[Actor] = &[Actor::Control, Actor::New];
const EVERYBODY: &[Actor] = &[Actor::Control, Actor::Old, Actor::New, Actor::Caller];

/// Looks at all of `bounds`, and prints how much that is.
fn show(what: &str, bounds: &Bounds) -> Seen {
    let began = std::time::Instant::now();
    match explore(bounds) {
        Ok(seen) => {
            println!("{what}, {}: {seen:?} in {:?}", bounds.class.label(), began.elapsed());
            seen
        }
        Err(wrong) => panic!("{what}, {}: {wrong}", bounds.class.label()),
    }
}

#[test]
fn nobody_notices_where_nobody_dies() {
    for (what, bounds) in [
        ("alone", BASE),
        ("held", Bounds { holds: true, ..BASE }),
        ("copied in rounds", Bounds { rounds: 2, ..BASE }),
        ("sent on", Bounds { keeps: false, ..BASE }),
        ("astray", Bounds { astray: true, ..BASE }),
        ("back", Bounds { was_there: true, astray: true, keeps: false, ..BASE }),
    ] {
        let seen = show(what, &bounds);
        assert!(seen.done > 0 && seen.done == seen.ends(), "{seen:?}");
    }
    let seen = show("reads", &Bounds { class: Class::Stateless, scripts: READS, ..BASE });
    assert!(seen.done > 0 && seen.done == seen.ends(), "{seen:?}");
    show("two clients", &Bounds { scripts: TWO, ..BASE });
    show("two that take much", &Bounds { scripts: TWO, holds: true, ..LARGE });
}

#[test]
fn messages_may_come_twice_and_late() {
    show("doubles", &Bounds { scripts: ONE, doubles: true, ..BASE });
    show("leftovers", &Bounds { leftovers: true, ..BASE });
    if is_full() {
        let doubles = Bounds { doubles: true, scripts: BASE.scripts, ..BASE };
        show("doubles", &Bounds { holds: true, ..doubles.clone() });
        show("doubles", &Bounds { rounds: 1, aborts: true, ..doubles });
    }
}

#[test]
fn whoever_dies_one_serves_and_nothing_is_lost_unsaid() {
    for actor in EVERYBODY {
        let dies = Bounds { scripts: ONE, mortal: std::slice::from_ref(actor), deaths: 1, ..BASE };
        let named = |what: &str| format!("{actor:?} dies{what}");
        show(&named(""), &dies);
        show(&named(""), &Bounds { class: Class::Stateless, scripts: READ, ..dies.clone() });
        if is_full() {
            show(&named(" while more is asked for"), &Bounds { scripts: BASE.scripts, ..dies.clone() });
            let twice = Bounds { deaths: 2, from: Phase::Finalcopy, scripts: &[], ..dies.clone() };
            show(&named(" twice"), &twice);
            show(&named(" where it is held"), &Bounds { holds: true, ..dies.clone() });
            show(&named(" where it is sent on"), &Bounds { keeps: false, ..dies.clone() });
            let back = Bounds { was_there: true, astray: true, keeps: false, ..dies.clone() };
            show(&named(" where it was before"), &back);
            show(&named(" where it is copied in rounds"), &Bounds { rounds: 1, ..dies });
        }
    }
}

#[test]
fn two_may_die() {
    let two = Bounds { scripts: &[], deaths: 2, ..BASE };
    let places = &EVERYBODY[1..3];
    show("both places die", &Bounds { from: Phase::Fence, mortal: places, ..two.clone() });
    let new = Bounds { stays: 1, from: Phase::Finalcopy, mortal: &[Actor::New], deaths: 1, ..two.clone() };
    show("the new place dies and stays away", &new);
    if is_full() {
        let late = Bounds { from: Phase::Activate, mortal: CONTROL_AND_NEW, ..two.clone() };
        show("the control plane and the new place die late", &late);
        let stays = Bounds { stays: 8, deaths: 1, scripts: ONE, ..two.clone() };
        show("the old place dies and stays away", &Bounds { mortal: &[Actor::Old], ..stays.clone() });
        show("the new place dies and stays away", &Bounds { mortal: &[Actor::New], ..stays });
        let new = Bounds { mortal: &[Actor::Control, Actor::New], deaths: 2, ..new.clone() };
        show("the new place and the control plane die", &new);
        show("both places die", &Bounds { from: Phase::Finalcopy, mortal: places, ..two.clone() });
        show("two die late", &Bounds { from: Phase::Switch, mortal: &EVERYBODY[..3], ..two });
    }
}

#[test]
fn links_may_break_and_time_may_pass() {
    let base = Bounds { class: Class::Stateless, scripts: READ, ..BASE };
    show("what does not drain is cut", &Bounds { timeouts: 3, from: Phase::Switch, ..base.clone() });
    show("what was sent on, too", &Bounds { timeouts: 3, keeps: false, from: Phase::Switch, ..base });
    let base = Bounds { scripts: ONE, ..BASE };
    show("a link breaks", &Bounds { breaks: 1, ..base.clone() });
    show("something takes long", &Bounds { timeouts: 1, holds: true, ..base.clone() });
    show("what is sent on is lost", &Bounds { breaks: 1, keeps: false, ..base.clone() });
    let back = Bounds { was_there: true, astray: true, keeps: false, ..base.clone() };
    show("who sends on takes back, and a link breaks", &Bounds { breaks: 1, ..back });
    show("what is held is let go", &Bounds { breaks: 1, holds: true, ..base.clone() });
    let streams = Bounds { kind: Kind::Stream, ..base.clone() };
    show("streams are cut", &Bounds { timeouts: 1, ..streams.clone() });
    if is_full() {
        show("streams are cut, and do not end", &Bounds { timeouts: 2, ..streams });
        show("two take long", &Bounds { timeouts: 2, ..base.clone() });
        show("links break", &Bounds { breaks: 2, scripts: BASE.scripts, ..base.clone() });
        let late = Bounds { from: Phase::Finalcopy, deaths: 1, mortal: EVERYBODY, ..base };
        show("a link breaks, and somebody dies", &Bounds { breaks: 1, ..late.clone() });
        let control = Bounds { mortal: &[Actor::Control], scripts: &[], ..late };
        show("something takes long, and the control plane dies", &Bounds { timeouts: 1, ..control });
    }
}

#[test]
fn operators_and_those_who_were_replaced_may_act_at_any_moment() {
    let control = Bounds { scripts: &[], mortal: &[Actor::Control], deaths: 1, ..BASE };
    show("who was replaced goes on", &Bounds { zombies: true, ..control.clone() });
    let base = Bounds { scripts: ONE, ..BASE };
    show("somebody aborts", &Bounds { aborts: true, ..base.clone() });
    let leases = Bounds { leases: true, ..base.clone() };
    show("the old place's lease ends", &leases);
    show("the service does not begin", &Bounds { fails: 1, ..base.clone() });
    let late = Bounds { fails: 1, scripts: &[], deaths: 1, from: Phase::Quiesce, ..base.clone() };
    show("nor where a place died", &Bounds { mortal: &EVERYBODY[1..3], ..late.clone() });
    let vouched = Bounds { vouches: true, scripts: &[], deaths: 1, ..base.clone() };
    show("a dead old place is vouched for", &Bounds { mortal: &[Actor::Old], ..vouched.clone() });
    show("a dead new place is vouched for", &Bounds { mortal: &[Actor::New], ..vouched.clone() });
    let lies = Bounds { lies: true, scripts: ONE, ..base.clone() };
    show("a place that is not dead is vouched for", &Bounds { from: Phase::Quiesce, ..lies.clone() });
    if is_full() {
        show("a place that is not dead is vouched for", &Bounds { scripts: BASE.scripts, ..lies.clone() });
        let dies = Bounds { deaths: 1, mortal: &EVERYBODY[..3], from: Phase::Finalcopy, ..lies };
        show("and another place dies", &dies);
        show("nor where more is asked for", &Bounds { scripts: ONE, mortal: EVERYBODY, ..late.clone() });
        show("nor twice", &Bounds { fails: 2, mortal: &EVERYBODY[..3], ..late });
        let dies = Bounds { deaths: 1, mortal: &EVERYBODY[..3], ..leases };
        show("the old place's lease ends, and somebody dies", &dies);
        let vouched = Bounds { scripts: ONE, ..vouched };
        show("a dead old place is vouched for", &Bounds { mortal: &[Actor::Old], ..vouched.clone() });
        show("a dead new place is vouched for", &Bounds { mortal: &[Actor::New], ..vouched });
        show("who was replaced goes on", &Bounds { zombies: true, aborts: true, ..control.clone() });
        show(
            "somebody aborts what is held",
            &Bounds { aborts: true, holds: true, scripts: BASE.scripts, ..base },
        );
    }
}

#[test]
fn a_stateless_service_that_does_not_begin_does_later() {
    let late = Bounds { class: Class::Stateless, fails: 1, scripts: READ, ..BASE };
    show("the service does not begin", &late);
    let dies = Bounds { mortal: &EVERYBODY[..3], deaths: 1, from: Phase::Warm, ..late };
    show("nor where somebody died", &Bounds { scripts: &[], ..dies.clone() });
    if is_full() {
        show("nor twice", &Bounds { fails: 2, ..dies });
    }
}

#[test]
fn every_planted_fault_is_found() {
    let control = Bounds { mortal: &[Actor::Control], deaths: 1, ..BASE };
    let late = Bounds { mortal: CONTROL_AND_NEW, deaths: 2, scripts: &[], from: Phase::Activate, ..BASE };
    let old = Bounds { mortal: &[Actor::Old], deaths: 1, ..BASE };
    let new = Bounds { mortal: &[Actor::New], deaths: 1, ..BASE };
    let faults = [
        (Planted::AnyStamp, Bounds { leftovers: true, scripts: ONE, ..BASE }, "both places serve"),
        (
            Planted::AnyLife,
            Bounds { deaths: 2, scripts: &[], from: Phase::Quiesce, ..old.clone() },
            "is served by another life than it was given to",
        ),
        (Planted::FreezeEarly, BASE, "Epoch(5) is served after Epoch(6)"),
        (
            Planted::StopEarly,
            Bounds { rounds: 1, ..BASE },
            "nobody serves before the old place is to quiesce",
        ),
        (Planted::ThawAlone, Bounds { timeouts: 1, ..BASE }, "both places serve"),
        (Planted::ForgetParked, BASE, "a request is not answered"),
        (Planted::NoDigest, Bounds { rounds: 1, ..BASE }, "not linearizable"),
        (
            Planted::ActivateEarly,
            Bounds { aborts: true, scripts: &[], ..control.clone() },
            "both places serve",
        ),
        (Planted::MoveEarly, Bounds { scripts: &[], ..new }, "it does not get on"),
        (Planted::TrustFrozen, late, "it does not get on"),
        (Planted::HideLoss, Bounds { scripts: ONE, ..old.clone() }, "not linearizable"),
        (Planted::SameEpoch, old, "Epoch(5) is served by two, or in two lives"),
        (Planted::RepeatAll, Bounds { breaks: 1, ..BASE }, "runs twice"),
        (Planted::ForgetLost, Bounds { breaks: 1, ..BASE }, "not linearizable"),
        (Planted::Unbounded, Bounds { scripts: TWO, ..BASE }, "more is parked than may be"),
        (Planted::Unbounded, Bounds { scripts: TWO, holds: true, ..BASE }, "more is held than may be"),
        (
            Planted::Unbounded,
            Bounds { scripts: TWO, from: Phase::DrainOld, ..BASE },
            "more is given back than may be",
        ),
        (Planted::AnyBytes, Bounds { scripts: TWO, ..LARGE }, "more bytes are parked than may be"),
        (Planted::AnyBytes, Bounds { scripts: TWO, holds: true, ..LARGE }, "more bytes are held than may be"),
        (
            Planted::AnyBytes,
            Bounds { scripts: TWO, from: Phase::DrainOld, ..LARGE },
            "more bytes are given back than may be",
        ),
        (
            Planted::HoldForever,
            Bounds { holds: true, scripts: &[], timeouts: 1, ..BASE },
            "the sidecar of callers does not do what is due",
        ),
    ];
    let careless = Bounds { careless_store: true, aborts: true, scripts: &[], ..control };
    match explore(&careless) {
        Ok(seen) => panic!("a store that does not compare was not found in {seen:?}"),
        Err(wrong) => {
            println!("a store that does not compare: {}", wrong.what);
            assert_eq!(wrong.what, "the control plane does not know what was decided");
        }
    }
    for (planted, bounds, breaks) in faults {
        match explore(&Bounds { planted: Some(planted), ..bounds }) {
            Ok(seen) => panic!("{planted:?} was not found in {seen:?}"),
            Err(wrong) => {
                println!("{planted:?}: {}", wrong.what);
                assert!(wrong.what.contains(breaks), "{planted:?} breaks something else: {wrong}");
            }
        }
    }
}

fn is_full() -> bool {
    std::env::var_os("LIGHTER_FULL").is_some_and(|full| full == "1")
}

const ONE: &[&[Op]] = &[&[Op::Write(1)]];
const READS: &[&[Op]] = &[&[Op::Read, Op::Read]];
const READ: &[&[Op]] = &[&[Op::Read]];
const TWO: &[&[Op]] = &[&[Op::Write(1)], &[Op::Read]];

impl Bounds {
    /// Whoever plants a fault looks for what is near.
    fn most(&self) -> usize {
        if self.planted.is_some() { MOST / 10 } else { MOST }
    }
}

impl Seen {
    fn ends(&self) -> usize {
        self.done + self.aborted + self.returned
    }
}
