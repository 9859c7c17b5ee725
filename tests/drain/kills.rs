//! Whoever takes part while a service with state moves is killed (SIGKILL), in every phase that can be held from outside, under
//! load. What it costs is what [`Toll::of`] says, and is told.
//!
//! | phase | by what it is held |
//! |---|---|
//! | prepare | the new place's sidecar is stopped, and does not say that it has room |
//! | warm | the new application's probe fails |
//! | quiesce | the old application does not give its state yet |
//! | finalcopy | the new application does not take it yet; where the old sidecar is to die, the new one is stopped before it fetches |
//! | activate | the new application, which had the state before, does not thaw yet |
//! | switch | a caller's sidecar is stopped, and does not say that it knows |
//! | forward | the old place's sidecar is stopped once its copy is fetched, and does not say that it sends on |
//! | drain_old | the new application does not answer a request that the old place's sidecar has sent on |
//! | done | it is over |
//!
//! Plan lasts no longer than one look, and fence no longer than one transaction: of the latter the tests of the control plane see
//! to every write.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::Trial;
use lighter_migrate::{Actor, Class, Ending, InFlight, Phase, State, Toll};
use rustix::process::Signal;

use crate::callers::{Callers, Record};
use crate::migrate::{is_done, is_in, phases, story};
use crate::places::{Place, alone, begin, begin_with, caller, losses, shop};
use crate::registers::{App, NUMBER};
use crate::support::raw::{Body, Peer};
use crate::support::{at_rest, full, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    let all = Who::ALL.into_iter().flat_map(|who| PHASES.into_iter().map(move |at| (who, at)));
    let all = all.filter(|pair| full() || SOME.contains(pair));
    all.map(|(who, at)| {
        alone(format!("kills::{}_dies_in_{}", who.label(), at.label()), move || Case::run(who, at))
    })
    .collect()
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Plane,
    /// The sidecar of the old place. Its application runs on, and nobody reaches it.
    OldSidecar,
    OldApp,
    NewSidecar,
    NewApp,
    /// The sidecar of a caller.
    Caller,
}

/// So many seconds something may take in a migration.
#[derive(Clone, Copy)]
struct Times {
    prepare: u64,
    quiesce: u64,
    /// How long requests may wait. Less twice `quiesce` it is what the copy may take.
    wait: u64,
    switch: u64,
    drain: u64,
}

struct Case {
    who: Who,
    at: Phase,
    world: World,
    old: Place,
    new: Place,
    /// A caller beside the one with the load, where one is needed.
    other: Option<(Sidecar, SocketAddr)>,
    /// A request that the old place sends on.
    stays: Option<JoinHandle<Answer>>,
}

/// A status, and the cause that a sidecar names. None: the connection ended.
type Answer = Option<(u16, Option<String>)>;

impl Case {
    fn run(who: Who, at: Phase) {
        let toll = toll(who, at);
        let world = World::with("leaseSeconds: 2");
        let times = Times::of(who, at);
        world.apply(&shop(&format!(", timeout: 60s, park: {{wait: {}s}}", times.wait)));
        let [a, b] = Place::both(&world, App::start(&world.path(""), "b"));
        let (_web, listen) = caller(&world);
        let is_needed = at == Phase::Switch || who == Who::Caller;
        let other = is_needed.then(|| world.caller("other", "shop"));
        if let Some((other, _)) = &other {
            wait_until("it knows who serves", || other.endpoints() == 1);
        }
        let callers = Callers::start(listen);
        callers.more(100);
        let mut case = Case { who, at, world, old: a, new: b, other, stays: None };
        if at == Phase::Activate {
            // One that has been frozen before is thawed before it serves.
            begin(&case.world, "before", &case.old, &case.new);
            is_done(&case.world, "before");
            callers.more_of(&case.new.app.name, 20);
            std::mem::swap(&mut case.old, &mut case.new);
        }
        case.hold();
        begin_with(&case.world, "move", &case.old, &case.new, &times.to_string());
        case.arrive();
        let mut numbers = case.numbers();
        numbers.extend(case.kill(&callers.record, toll.state));
        case.restart();
        if (who, at) == (Who::OldApp, Phase::Finalcopy) {
            // What it gave has been fetched: once the new application has it, nothing is lost.
            wait_until("it is seen that it is gone", || !story(&case.world, "move")["outcome"].is_null());
        }
        case.release();
        let server = case.end(toll, &callers);
        let lost = if toll.state == State::Kept { 0.0 } else { 1.0 };
        wait_until("losses are said", || losses(&case.world) >= lost);
        callers.more_of(&server, 50);
        let record = callers.end();
        // Of one that serves on there are more by now.
        numbers.extend(case.numbers());
        case.look(toll, &record, &numbers);
    }

    /// Sees to it that the phase lasts.
    fn hold(&self) {
        match self.at {
            Phase::Prepare => self.new.sidecar.program.signal(Signal::STOP),
            Phase::Warm => {
                self.new.app.tell("fail/well");
                let is_ready = || self.new.sidecar.metrics().sum("lighter_registry_ready", &[]);
                wait_until("it is not well", || is_ready() == 0.0);
            }
            Phase::Quiesce => self.old.app.tell("hold/snapshot"),
            Phase::Finalcopy if self.who == Who::OldSidecar => self.old.app.tell("hold/snapshot"),
            Phase::Finalcopy | Phase::Forward => self.new.app.tell("hold/restore"),
            Phase::Activate => self.new.app.tell("hold/thaw"),
            Phase::Switch => self.other().program.signal(Signal::STOP),
            Phase::DrainOld => {
                self.new.app.tell("hold/restore");
                self.new.app.tell("hold/stay");
            }
            _ => {}
        }
    }

    /// Waits until it is there.
    fn arrive(&mut self) {
        let (old, new) = (&self.old, &self.new);
        let waits = |app: &App, what: &str| {
            wait_until(what, || app.count(&format!("{what}.waits")) > 0);
        };
        match self.at {
            Phase::Quiesce => waits(&old.app, "snapshot"),
            Phase::Finalcopy if self.who == Who::OldSidecar => {
                waits(&old.app, "snapshot");
                new.sidecar.program.signal(Signal::STOP);
                old.app.tell("go/snapshot");
            }
            Phase::Finalcopy => waits(&new.app, "restore"),
            Phase::Activate => waits(&new.app, "thaw"),
            Phase::Forward => {
                waits(&new.app, "restore");
                old.sidecar.program.signal(Signal::STOP);
                new.app.tell("go/restore");
            }
            Phase::DrainOld => {
                waits(&new.app, "restore");
                let parked = || old.sidecar.metrics().sum("lighter_state_parked_total", &[]);
                let before = at_rest(Duration::from_millis(200), parked);
                let door = old.door();
                self.stays = Some(std::thread::spawn(move || {
                    ask(door, "GET /stay HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
                }));
                wait_until("it waits at the old place", || parked() > before);
                new.app.tell("go/restore");
                waits(&new.app, "stay");
            }
            _ => {}
        }
        match self.at {
            Phase::Done => is_done(&self.world, "move"),
            at => is_in(&self.world, at.label()),
        }
    }

    /// Kills it. Returns the numbers of requests that another caller has asked for, and that were answered as done.
    fn kill(&mut self, record: &Record, state: State) -> Vec<u64> {
        // Of a new place's sidecar the next one is the old instance, whose application has what it was frozen with.
        let has = |register: &str| match self.who {
            Who::NewSidecar => self.old.app.register(register),
            _ => 0,
        };
        let lost: Vec<u64> = (0..4).map(|at| has(&format!("r{at}"))).collect();
        match self.who {
            Who::Plane => self.world.kill_plane(),
            Who::OldSidecar => self.old.kill_sidecar(),
            Who::OldApp => self.old.app.kill(),
            Who::NewSidecar => self.new.kill_sidecar(),
            Who::NewApp => self.new.app.kill(),
            Who::Caller => return self.kill_caller(),
        }
        if state == State::Lost {
            record.lost_to(|register| lost[register[1..].parse::<usize>().unwrap()]);
        }
        Vec::new()
    }

    /// Kills the sidecar of a caller while that asks: each of its connections ends, or is answered before.
    fn kill_caller(&mut self) -> Vec<u64> {
        let (mut other, door) = self.other.take().expect("a caller");
        let asks = (1 << 40..).take(8).map(|number: u64| {
            std::thread::spawn(move || {
                let request = format!(
                    "POST /r/other/add HTTP/1.1\r\nHost: shop\r\n{NUMBER}: {number}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                (number, ask(door, &request))
            })
        });
        let asks: Vec<_> = asks.collect();
        std::thread::sleep(Duration::from_millis(50));
        other.program.signal(Signal::KILL);
        other.program.wait();
        let answers = asks.into_iter().map(|ask| ask.join().unwrap());
        answers.filter_map(|(number, answer)| (answer?.0 == 200).then_some(number)).collect()
    }

    /// Starts again what comes back as it was. A sidecar that begins again is another instance.
    fn restart(&mut self) {
        let folder = self.world.path("");
        match self.who {
            Who::Plane => self.world.start_plane(),
            Who::OldApp => self.old.app.start_again(&folder),
            Who::NewApp => self.new.app.start_again(&folder),
            Who::OldSidecar | Who::NewSidecar | Who::Caller => {}
        }
    }

    /// Nothing is held any more.
    fn release(&mut self) {
        for place in self.live() {
            place.sidecar.program.signal(Signal::CONT);
        }
        for app in self.apps() {
            for what in ["snapshot", "restore", "thaw", "stay"] {
                app.tell(&format!("go/{what}"));
            }
            app.tell("mend/well");
        }
        if let Some((other, _)) = &self.other {
            other.program.signal(Signal::CONT);
        }
    }

    /// Waits until it is over and one place serves. Gives that one's name.
    fn end(&mut self, toll: Toll, callers: &Callers) -> String {
        wait_until("it is over", || !story(&self.world, "move")["outcome"].is_null());
        let story = story(&self.world, "move");
        let outcome = match toll.ending {
            Ending::GoesOn => "done",
            Ending::Aborts => "aborted",
            Ending::Returns => "rolled_back",
        };
        println!("{story}");
        assert_eq!(story["outcome"], outcome, "{story}");
        assert_eq!(story["because"].is_string(), outcome != "done", "{story}");
        let label = self.at.label().to_owned();
        assert!(phases(&story).contains(&label), "{story}");
        let told = self.world.operator(&["get", "migrations", "-o", "wide"]);
        assert!(told.lines().any(|line| line.starts_with("move ") && line.contains(outcome)), "{told}");
        if let Some(stays) = self.stays.take() {
            let answer = stays.join().unwrap();
            // It came by the sidecar of the old place.
            assert_eq!(answer.is_none(), self.who == Who::OldSidecar, "{answer:?}");
            assert!(answer.is_none_or(|(status, cause)| status == 200 || cause.is_some()));
        }
        let before = callers.record.answered();
        wait_until("somebody answers", || callers.record.answered() > before + 50);
        let serving = || -> Vec<String> {
            let live = self.live().into_iter().filter(|place| place.serves());
            live.map(|place| place.app.name.clone()).collect()
        };
        wait_until("one place serves", || serving().len() == 1);
        serving().remove(0)
    }

    fn look(&self, toll: Toll, record: &Record, numbers: &[u64]) {
        let (failures, unanswered) = (record.failures(), record.unanswered());
        println!("{} requests failed", failures.len());
        assert_eq!((unanswered, record.unnamed()), (0, 0), "{failures:#?}");
        if toll.in_flight != InFlight::Unknown {
            assert!(failures.is_empty(), "{failures:#?}");
        }
        record.check().unwrap();
        let mut done = numbers.to_vec();
        done.sort_unstable();
        done.dedup();
        record.check_once(&self.numbers()).unwrap();
        if toll.state != State::Lost {
            record.check_done(&done).unwrap();
        }
        let lost = if toll.state == State::Kept { 0.0 } else { 1.0 };
        assert_eq!(losses(&self.world), lost);
        assert_eq!(self.live().into_iter().filter(|place| place.serves()).count(), 1);
    }

    /// What the applications have done.
    fn numbers(&self) -> Vec<u64> {
        self.apps().into_iter().flat_map(App::numbers).collect()
    }

    fn apps(&self) -> [&App; 2] {
        [&self.old.app, &self.new.app]
    }

    /// The places whose sidecars run.
    fn live(&self) -> Vec<&Place> {
        let is_dead = [Who::OldSidecar, Who::NewSidecar].map(|dead| self.who == dead);
        let places = [&self.old, &self.new].into_iter().zip(is_dead);
        places.filter_map(|(place, is_dead)| (!is_dead).then_some(place)).collect()
    }

    fn other(&self) -> &Sidecar {
        &self.other.as_ref().expect("another caller").0
    }
}

impl Who {
    const ALL: [Who; 6] =
        [Who::Plane, Who::OldSidecar, Who::OldApp, Who::NewSidecar, Who::NewApp, Who::Caller];

    const fn label(self) -> &'static str {
        match self {
            Who::Plane => "the_control_plane",
            Who::OldSidecar => "the_old_sidecar",
            Who::OldApp => "the_old_application",
            Who::NewSidecar => "the_new_sidecar",
            Who::NewApp => "the_new_application",
            Who::Caller => "the_sidecar_of_a_caller",
        }
    }
}

/// What it costs.
fn toll(who: Who, at: Phase) -> Toll {
    let of = |actor, at| Toll::of(Class::Volatile, actor, at);
    match who {
        Who::Plane => of(Actor::Control, at),
        Who::Caller => of(Actor::Caller, at),
        Who::OldSidecar | Who::OldApp => of(Actor::Old, at),
        // It is another instance when it begins again: nobody is there who could be asked once more.
        Who::NewSidecar if at == Phase::Prepare => of(Actor::New, Phase::Warm),
        // It has nothing of the state yet, and its sidecar waits until it is well again.
        Who::NewApp if at < Phase::Finalcopy => of(Actor::New, Phase::Prepare),
        Who::NewSidecar | Who::NewApp => of(Actor::New, at),
    }
}

impl Times {
    /// What does not come any more is waited for until its time is over.
    fn of(who: Who, at: Phase) -> Self {
        let usual = Times { prepare: 60, quiesce: 60, wait: 180, switch: 60, drain: 60 };
        let times = match who {
            Who::OldSidecar => Times { quiesce: 4, wait: 14, switch: 3, drain: 3, ..usual },
            Who::NewSidecar => Times { prepare: 8, quiesce: 8, wait: 22, switch: 3, drain: 3 },
            _ => usual,
        };
        // The sidecar that is stopped is a caller too, and does not say that it knows.
        let switch = if at == Phase::Forward { 3 } else { times.switch };
        Times { switch, ..times }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Times { prepare, quiesce, switch, drain, .. } = self;
        write!(
            f,
            "prepareTimeout: {prepare}s, quiesceTimeout: {quiesce}s, switchTimeout: {switch}s, drainTimeout: {drain}s"
        )
    }
}

/// Asks once, by a connection of its own.
fn ask(door: SocketAddr, request: &str) -> Answer {
    let mut peer = Peer::connect_where_taken(door)?;
    if !peer.try_send(request) {
        return None;
    }
    let head = peer.head()?;
    let Body::Whole(_) = peer.body(&head) else { return None };
    assert!(peer.rest().is_empty(), "one answer");
    Some((head.status(), head.cause().map(str::to_owned)))
}

const PHASES: [Phase; 9] = [
    Phase::Prepare,
    Phase::Warm,
    Phase::Quiesce,
    Phase::Finalcopy,
    Phase::Activate,
    Phase::Switch,
    Phase::Forward,
    Phase::DrainOld,
    Phase::Done,
];

/// Those that every run sees; `LIGHTER_FULL=1` sees all.
const SOME: [(Who, Phase); 6] = [
    (Who::Plane, Phase::Forward),
    (Who::OldSidecar, Phase::DrainOld),
    (Who::OldApp, Phase::Finalcopy),
    (Who::NewSidecar, Phase::Activate),
    (Who::NewApp, Phase::DrainOld),
    (Who::Caller, Phase::Quiesce),
];
