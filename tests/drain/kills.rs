//! Whoever takes part while a service with state moves is killed (SIGKILL), in every phase that can be [held](crate::stage) from
//! outside, under load. What it costs is what [`Toll::of`] says, and is told.

mod journaled;

use std::net::SocketAddr;
use std::thread::JoinHandle;

use libtest_mimic::Trial;
use lighter_migrate::{Actor, Class, Ending, InFlight, Phase, State, Toll};
use rustix::process::Signal;

use crate::callers::{Callers, Record, UNKNOWN};
use crate::migrate::{phases, story};
use crate::places::{Place, alone, caller, losses};
use crate::registers::{App, NUMBER};
use crate::stage::{Answer, PHASES, PRECOPY, Stage, Times, ask};
use crate::support::{full, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    let all = Who::ALL.into_iter().flat_map(|who| PHASES.into_iter().map(move |at| (who, at)));
    let all = all.filter(|pair| full() || SOME.contains(pair));
    let all = all.map(|(who, at)| {
        alone(format!("kills::{}_dies_in_{}", who.label(), at.label()), move || run(who, at))
    });
    all.chain(journaled::tests()).collect()
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

fn run(who: Who, at: Phase) {
    let (times, toll) = (times(who, at), toll(who, at));
    let world = World::with("leaseSeconds: 2");
    world.apply(&times.shop(at));
    let [old, new] = Place::both(&world, App::start(&world.path(""), "b"));
    let (_web, listen) = caller(&world);
    let is_needed = at == Phase::Switch || who == Who::Caller;
    let other = is_needed.then(|| world.caller("other", "shop"));
    if let Some((other, _)) = &other {
        wait_until("it knows who serves", || other.endpoints() == 1);
    }
    let callers = Callers::start(listen);
    callers.more(100);
    let is_unfetched = who == Who::OldSidecar;
    let mut stage = Stage { at, is_unfetched, world, old, new, third: None, other, stays: None };
    stage.set(times, &callers);

    let mut numbers = stage.numbers();
    numbers.extend(strike(who, &mut stage, &callers, listen, (toll.state, toll.ending)));
    let before = callers.record.answered();
    wait_until("somebody answers", || callers.record.answered() > before + 50);
    let lost = if toll.state == State::Kept { 0.0 } else { 1.0 };
    wait_until("losses are said", || losses(&stage.world) >= lost);
    wait_until("one place serves", || serving(who, &stage).len() == 1);
    callers.more_of(&serving(who, &stage).remove(0), 50);
    let record = callers.end();
    // Of one that serves on there are more by now.
    numbers.extend(stage.numbers());

    let (failures, unanswered) = (record.failures(), record.unanswered());
    println!("{} requests failed, {} of them as what may be done", failures.len(), record.unknown());
    assert_eq!((unanswered, record.unnamed()), (0, 0), "{failures:#?}");
    if toll.in_flight != InFlight::Unknown {
        assert!(failures.is_empty(), "{failures:#?}");
    }
    record.check().unwrap();
    record.check_once(&stage.numbers()).unwrap();
    if toll.state != State::Lost {
        record.check_done(&numbers).unwrap();
    }
    assert_eq!(losses(&stage.world), lost);
    assert_eq!(serving(who, &stage).len(), 1);
}

/// Kills `who` in the phase that the stage is in, begins it again, lets the move go on, and sees it end as it is to. Of what it
/// kills `state` is left. Returns the numbers of requests that were done where that is gone by then.
fn strike(
    who: Who,
    stage: &mut Stage,
    callers: &Callers,
    listen: SocketAddr,
    (state, ending): (State, Ending),
) -> Vec<u64> {
    let runs = runs(who, stage, listen);
    let done = kill(who, stage, &callers.record, state);
    is_unknown(runs);
    restart(who, stage);
    if (who, stage.at) == (Who::OldApp, Phase::Finalcopy) {
        // What it gave has been fetched: once the new application has it, that may go on as if nobody were gone.
        wait_until("it is seen that it is gone", || !story(&stage.world, "move")["outcome"].is_null());
    }
    stage.release([who != Who::OldSidecar, who != Who::NewSidecar]);
    ends(who, stage, ending);
    if let Some(stays) = stage.stays.take() {
        is_told(who, stays.join().unwrap());
    }
    done
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
        Who::NewApp if at < Phase::Finalcopy && at != PRECOPY => of(Actor::New, Phase::Prepare),
        Who::NewSidecar | Who::NewApp => of(Actor::New, at),
    }
}

/// What does not come any more is waited for until its time is over.
fn times(who: Who, at: Phase) -> Times {
    let times = match who {
        Who::OldSidecar => Times::SHORT,
        Who::NewSidecar => Times { prepare: 8, quiesce: 8, wait: 22, ..Times::SHORT },
        _ => Times::LONG,
    };
    // The sidecar that is stopped is a caller too, and does not say that it knows.
    let switch = if at == Phase::Forward { 3 } else { times.switch };
    Times { switch, ..times }
}

/// A request that runs where the service is, where that is what is about to die.
fn runs(who: Who, stage: &Stage, door: SocketAddr) -> Option<JoinHandle<Answer>> {
    let serves = match who {
        Who::OldSidecar | Who::OldApp if stage.at < Phase::Quiesce => &stage.old,
        Who::NewSidecar | Who::NewApp if stage.at > Phase::Activate => &stage.new,
        _ => return None,
    };
    serves.app.tell("hold/stay");
    let waits = || serves.app.count("stay.waits");
    let before = waits();
    let runs = std::thread::spawn(move || {
        ask(door, "GET /stay HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    });
    wait_until("it runs", || waits() > before);
    Some(runs)
}

/// It is answered once, and by nothing else.
fn is_unknown(runs: Option<JoinHandle<Answer>>) {
    if let Some(runs) = runs {
        assert_eq!(runs.join().unwrap(), Some((503, Some(UNKNOWN.to_owned()))));
    }
}

/// What a request is answered that came by the sidecar of the old place, and is kept by the new application.
fn is_told(who: Who, answer: Answer) {
    match who {
        Who::OldSidecar => assert_eq!(answer, None),
        Who::NewSidecar | Who::NewApp => assert_eq!(answer, Some((503, Some(UNKNOWN.to_owned())))),
        _ => assert!(answer.is_some_and(|(status, cause)| status == 200 || cause.is_some())),
    }
}

/// Kills it. Returns the numbers of requests that another caller has asked for, and that were answered as done.
fn kill(who: Who, stage: &mut Stage, record: &Record, state: State) -> Vec<u64> {
    let has = |register: &str| match who {
        // The next one is the old instance, whose application has what it was frozen with.
        Who::NewSidecar => stage.old.app.register(register),
        // It is the new one, whose application has the copy that was made first.
        Who::OldSidecar => stage.new.app.register(register),
        _ => 0,
    };
    let lost: Vec<u64> = (0..4).map(|at| has(&format!("r{at}"))).collect();
    match who {
        Who::Plane => stage.world.kill_plane(),
        Who::OldSidecar => stage.old.kill_sidecar(),
        Who::OldApp => stage.old.app.kill(),
        Who::NewSidecar => stage.new.kill_sidecar(),
        Who::NewApp => stage.new.app.kill(),
        Who::Caller => return kill_caller(stage),
    }
    if state == State::Lost {
        record.lost_to(|register| lost[register[1..].parse::<usize>().unwrap()]);
    }
    Vec::new()
}

/// Kills the sidecar of a caller while that asks: each of its connections ends, or is answered before.
fn kill_caller(stage: &mut Stage) -> Vec<u64> {
    let (mut other, door) = stage.other.take().expect("a caller");
    let asks = (1 << 40..).take(8).map(|number: u64| {
        std::thread::spawn(move || {
            let request = format!(
                "POST /r/other/add HTTP/1.1\r\nHost: shop\r\n{NUMBER}: {number}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            (number, ask(door, &request))
        })
    });
    let asks: Vec<_> = asks.collect();
    std::thread::sleep(std::time::Duration::from_millis(50));
    other.program.signal(Signal::KILL);
    other.program.wait();
    let answers = asks.into_iter().map(|ask| ask.join().unwrap());
    answers.filter_map(|(number, answer)| (answer?.0 == 200).then_some(number)).collect()
}

/// Starts again what comes back as it was. A sidecar that begins again is another instance.
fn restart(who: Who, stage: &mut Stage) {
    let folder = stage.world.path("");
    if (who, stage.at) == (Who::NewApp, Phase::Finalcopy) {
        // One that is there again in time is just given the state once more.
        wait_until("it is given up", || !story(&stage.world, "move")["outcome"].is_null());
    }
    match who {
        Who::Plane => stage.world.start_plane(),
        Who::OldApp => stage.old.app.start_again(&folder),
        Who::NewApp => stage.new.app.start_again(&folder),
        Who::OldSidecar | Who::NewSidecar | Who::Caller => {}
    }
}

/// Waits until it is over, and is told as it was.
fn ends(who: Who, stage: &Stage, ending: Ending) {
    if (who, stage.at) == (Who::NewSidecar, PRECOPY) {
        // A round has a minute, and nobody waits for anything.
        let took = || story(&stage.world, "move")["took"].as_u64().unwrap();
        wait_until("that is nearly over", || took() > 40_000);
    }
    wait_until("it is over", || !story(&stage.world, "move")["outcome"].is_null());
    let story = story(&stage.world, "move");
    let outcome = match ending {
        Ending::GoesOn => "done",
        Ending::Aborts => "aborted",
        Ending::Returns => "rolled_back",
    };
    println!("{}: {} {}", who.label(), story["outcome"], story["because"]);
    assert_eq!(story["outcome"], outcome, "{story}");
    // What the new place had is gone with it, and it is said so where that is seen before all else is done: of its application, where
    // whoever has the journal goes on.
    let is_gone = who == Who::NewSidecar || who == Who::NewApp && stage.third.is_some();
    assert!(is_gone && outcome == "done" || story["because"].is_string() == (outcome != "done"), "{story}");
    assert!(phases(&story).iter().any(|phase| phase == stage.at.label()), "{story}");
    let told = stage.world.operator(&["get", "migrations", "-o", "wide"]);
    assert!(told.lines().any(|line| line.starts_with("move ") && line.contains(outcome)), "{told}");
}

/// Whoever serves of those whose sidecars run.
fn serving(who: Who, stage: &Stage) -> Vec<String> {
    let places = [(&stage.old, Who::OldSidecar), (&stage.new, Who::NewSidecar)];
    let live = places.into_iter().filter(|(_, dead)| *dead != who).map(|(place, _)| place);
    live.chain(&stage.third).filter(|place| place.serves()).map(|place| place.app.name.clone()).collect()
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

/// Those that every run sees; `LIGHTER_FULL=1` sees all.
const SOME: [(Who, Phase); 7] = [
    (Who::OldApp, PRECOPY),
    (Who::Plane, Phase::Forward),
    (Who::OldSidecar, Phase::DrainOld),
    (Who::OldApp, Phase::Finalcopy),
    (Who::NewSidecar, Phase::Activate),
    (Who::NewApp, Phase::DrainOld),
    (Who::Caller, Phase::Quiesce),
];
