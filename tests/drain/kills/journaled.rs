//! The same of a state that is journaled, where a third instance keeps the journal. Whoever dies, everything that was acknowledged is
//! there: at whoever would go on with a state that is not journaled and was kept, and at the third one where it was lost.

use libtest_mimic::Trial;
use lighter_migrate::{Ending, InFlight, Phase, State};

use super::{Who, serving, strike, times, toll};
use crate::callers::Callers;
use crate::journaled::{LEASE, is_ready, keeps};
use crate::migrate::story;
use crate::places::{Place, alone, caller, losses};
use crate::stage::{PHASES, Stage, Times};
use crate::support::{full, wait_until};
use crate::world::World;

pub(super) fn tests() -> impl Iterator<Item = Trial> {
    let all = ACTORS.into_iter().flat_map(|who| PHASES.into_iter().map(move |at| (who, at)));
    let all = all.filter(|pair| full() || SOME.contains(pair));
    let all = all.map(|(who, at)| {
        let name = format!("kills::{}_of_a_journaled_state_dies_in_{}", who.label(), at.label());
        alone(name, move || run(who, at))
    });
    let alone = [
        alone("kills::what_has_moved_to_its_standby_is_lost_with_it_where_nobody_else_is_there", || {
            to_the_standby(false)
        }),
        alone("kills::what_has_moved_to_its_standby_is_kept_once_another_one_has_everything", || {
            to_the_standby(true)
        }),
    ];
    all.chain(alone.into_iter().filter(|_| full()))
}

fn run(who: Who, at: Phase) {
    let (times, toll) = (times(who, at), toll(who, at));
    let world = World::with(LEASE);
    world.apply(&times.journaled());
    let old = Place::another(&world, "a");
    wait_until("the first one serves", || old.serves());
    let third = Place::another(&world, "c");
    wait_until("another one keeps the journal", || keeps(&third));
    let new = Place::another(&world, "b");
    wait_until("all are ready", || [&old, &third, &new].into_iter().all(is_ready));
    let (_web, listen) = caller(&world);
    let other = (at == Phase::Switch).then(|| world.caller("other", "shop"));
    if let Some((other, _)) = &other {
        wait_until("it knows who serves", || other.endpoints() == 1);
    }
    // What a stream says behind the head of its answer is not journaled.
    let callers = Callers::start_requests(listen);
    callers.more(100);
    let is_unfetched = who == Who::OldSidecar;
    let mut stage = Stage { at, is_unfetched, world, old, new, third: Some(third), other, stays: None };
    stage.set(times, &callers);

    let mut numbers = stage.numbers();
    strike(who, &mut stage, &callers, listen, (State::Kept, toll.ending));

    let is_inherited = toll.state == State::Lost;
    wait_until("one place serves", || serving(who, &stage).len() == 1);
    let serves = goes_on(&stage, is_inherited, toll.ending == Ending::GoesOn);
    wait_until("it is one that has everything", || {
        serving(who, &stage).first().is_some_and(|name| serves.iter().any(|place| place.app.name == *name))
    });
    let name = serving(who, &stage).remove(0);
    callers.more_of(&name, 50);
    if is_inherited {
        callers.record.settled();
    }
    callers.more_of(&name, 50);
    let record = callers.end();
    numbers.extend(stage.numbers());

    let (failures, unanswered) = (record.failures(), record.unanswered());
    let (failed, unknown) = (failures.len(), record.unknown());
    println!("{failed} requests failed, {unknown} of them as what may be done, and {name} serves");
    assert_eq!((unanswered, record.unnamed()), (0, 0), "{failures:#?}");
    if toll.in_flight != InFlight::Unknown {
        // While nobody says who keeps the journal nothing runs.
        let may_fail = |why: &String| who == Who::Plane && why.contains("no_standby");
        assert!(failures.iter().all(may_fail), "{failures:#?}");
    }
    record.check().unwrap();
    record.check_distinct().unwrap();
    record.check_once(&stage.numbers()).unwrap();
    if !is_inherited {
        record.check_done(&numbers).unwrap();
    }
    assert_eq!(serving(who, &stage), std::slice::from_ref(&name));
    let takeovers = stage.world.counts().sum("lighter_control_state_takeovers_total", &[]);
    assert_eq!((losses(&stage.world), takeovers), (0.0, f64::from(u8::from(is_inherited))));
    let told = story(&stage.world, "move");
    let owner = stage.places().find(|place| place.app.name == name).expect("one of them");
    assert_eq!((&told["class"], &told["losses"]), (&"journaled".into(), &0.into()), "{told}");
    assert_eq!(told["owner"], owner.instance, "{told}");
    assert!(told["standby"].is_string() && told["standby"] != told["owner"], "{told}");
}

/// It moves to who has kept the journal, which dies there.
fn to_the_standby(has_another: bool) {
    let world = World::with(LEASE);
    let times = Times { switch: 3, ..Times::LONG };
    world.apply(&times.journaled());
    let old = Place::another(&world, "a");
    wait_until("the first one serves", || old.serves());
    let new = Place::another(&world, "c");
    wait_until("another one keeps the journal", || keeps(&new));
    let another = has_another.then(|| Place::another(&world, "b"));
    let (_web, listen) = caller(&world);
    let callers = Callers::start_requests(listen);
    callers.more(100);
    // As long as the old one's sidecar is stopped it keeps nothing.
    let at = if has_another { Phase::Done } else { Phase::Forward };
    let mut stage = Stage { at, is_unfetched: false, world, old, new, third: None, other: None, stays: None };
    stage.set(times, &callers);
    if has_another {
        callers.more_of("c", 50);
    }
    stage.new.app.kill();
    if !has_another {
        callers.record.lost();
    }
    stage.new.app.start_again(&stage.world.path(""));
    stage.release([true, true]);
    wait_until("it is over", || story(&stage.world, "move")["outcome"] == "done");
    let serves = || stage.places().chain(&another).find(|place| place.serves());
    wait_until("another one serves, or the same once more", || {
        serves().is_some_and(|place| (place.app.name == "c") != has_another)
    });
    let name = serves().expect("one").app.name.clone();
    callers.more_of(&name, 50);
    let record = callers.end();
    let failures = record.failures();
    println!("{} requests failed, and {name} serves", failures.len());
    assert_eq!((record.unanswered(), record.unnamed()), (0, 0), "{failures:#?}");
    record.check().unwrap();
    let takeovers = stage.world.counts().sum("lighter_control_state_takeovers_total", &[]);
    let costs = if has_another { (0.0, 1.0) } else { (1.0, 0.0) };
    assert_eq!((losses(&stage.world), takeovers), costs);
}

/// Who may serve in the end: who has what was kept, or the journal. The old one may have that as well, of what the new one served.
fn goes_on(stage: &Stage, is_inherited: bool, is_done: bool) -> Vec<&Place> {
    match (is_inherited, is_done) {
        (true, true) => stage.third.iter().chain([&stage.old]).collect(),
        (true, false) => stage.third.iter().collect(),
        (false, true) => vec![&stage.new],
        (false, false) => vec![&stage.old],
    }
}

const ACTORS: [Who; 5] = [Who::Plane, Who::OldSidecar, Who::OldApp, Who::NewSidecar, Who::NewApp];

/// Those that every run sees; `LIGHTER_FULL=1` sees all.
const SOME: [(Who, Phase); 2] = [(Who::OldApp, Phase::Quiesce), (Who::NewApp, Phase::DrainOld)];
