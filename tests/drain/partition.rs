//! The old place of a move is cut off from the control plane, in every phase that can be [held](crate::stage) from outside, under
//! load. Callers and the new place reach it as before.
//!
//! However long that lasts, no epoch is served by two places, and what callers were answered is linearizable. What was decided
//! meanwhile the old place hears once it is heard again. Where it is not heard for longer than its lease, and nobody else has what
//! it has, the service begins anew, with another epoch: that is said to be a loss, and what the old place has answered is
//! linearizable by itself.
//!
//! Somebody asks at the old place's own door all the time: what is answered there, and what callers are, is of one place at a time, and
//! nothing is done twice.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::Trial;
use lighter_migrate::Phase;

use crate::callers::{Beside, Callers, Said, UNKNOWN, check_sums, check_turns};
use crate::migrate::{phases, story};
use crate::places::{Place, alone, caller, losses};
use crate::registers::App;
use crate::stage::{Answer, PHASES, PRECOPY, Stage, Times, ask};
use crate::support::metrics::Metrics;
use crate::support::{at_rest, full, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    let ways = [Way::Ends, Way::Silent].into_iter().flat_map(|way| LASTS.map(|lasts| (way, lasts)));
    let all = ways.flat_map(|(way, lasts)| PHASES.into_iter().map(move |at| (way, at, lasts)));
    let all = all.filter(|one| one.1 != Phase::Done && (full() || SOME.contains(one)));
    let test = |(way, at, lasts): (Way, Phase, Lasts)| {
        let name = format!("partition::an_old_place_{}_in_{}{}", way.label(), at.label(), lasts.label());
        alone(name, move || run(way, at, lasts))
    };
    all.map(test).collect()
}

/// How it is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its connections end, and it gets no others.
    Ends,
    /// Nothing comes through, and nobody is told.
    Silent,
}

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    /// For less than its lease.
    Shortly,
    /// Until its lease is over, and everything that follows from that has come about.
    Long,
}

fn run(way: Way, at: Phase, lasts: Lasts) {
    let times = Times::SHORT;
    let world = match lasts {
        Lasts::Shortly => World::new(),
        Lasts::Long => World::with("leaseSeconds: 2"),
    };
    world.apply(&times.shop(at));
    let relays = [Relay::to(world.address), Relay::to(world.address)];
    let [old, new] = Place::both_by(
        &world,
        App::start(&world.path(""), "b"),
        [&relays[0], &relays[1]].map(|relay| relay.address),
    );
    let (_web, listen) = caller(&world);
    let other = (at == Phase::Switch).then(|| world.caller("other", "shop"));
    if let Some((other, _)) = &other {
        wait_until("it knows who serves", || other.endpoints() == 1);
    }
    let callers = Callers::start(listen);
    callers.more(100);
    let mut stage = Stage { at, is_unfetched: false, world, old, new, third: None, other, stays: None };
    let serving = Serving::watch([&stage.old, &stage.new]);
    // To give its epoch away the old place was given one first.
    let door = if at == Phase::Activate { stage.new.door() } else { stage.old.door() };
    let beside = Beside::start(door, &callers.record);
    stage.set(times, &callers);
    let set = callers.record.now();
    // With what the new place would begin, from the first round.
    let begins = ["r0", "r1", "r2", "r3", "beside"].map(|register| match at {
        PRECOPY => stage.new.app.register(register),
        _ => 0,
    });
    let relay = &relays[usize::from(at == Phase::Activate)];
    relay.set(Some(way));
    let is_long = lasts == Lasts::Long;
    let lease_ends = || {
        let expired = || stage.world.counts().sum("lighter_control_expired_leases_total", &[]);
        wait_until("the lease of the old place is over", || expired() == 1.0);
    };
    // That nothing comes through is seen by when an answer is due: who is stopped does not get that far.
    let is_seen_held = is_long && way == Way::Ends;
    if is_seen_held {
        lease_ends();
    }
    stage.release([true, true]);
    // It serves on, and for longer than others wait for it: the round goes on once it is heard.
    let goes_on = at == PRECOPY && !is_long;
    if goes_on {
        callers.more_of(&stage.old.app.name, 100);
        relay.set(None);
    }
    wait_until("it is over", || !story(&stage.world, "move")["outcome"].is_null());
    if is_long && !is_seen_held {
        lease_ends();
    }
    let told = story(&stage.world, "move");
    println!("{way:?} in {}: {} {}", at.label(), told["outcome"], told["because"]);
    // Until it is frozen nobody but the old place has the state; once its copy is fetched it is not needed.
    let is_needed = at < Phase::Finalcopy && !goes_on;
    assert_eq!(told["outcome"], if is_needed { "aborted" } else { "done" }, "{told}");
    assert_eq!(told["because"].is_string(), is_needed, "{told}");
    assert!(phases(&told).iter().any(|phase| phase == at.label()), "{told}");
    let is_lost = is_long && is_needed;
    if is_lost && is_seen_held {
        assert!(told["because"].as_str().is_some_and(|why| why.contains("its lease is over")), "{told}");
    }
    let there = if is_needed && !is_lost { &stage.old } else { &stage.new };
    if at != Phase::Quiesce || is_lost {
        callers.more_of(&there.app.name, 50);
    }
    let stays = is_lost.then(|| begins_anew(&stage, &beside)).flatten();
    relay.set(None);
    if let Some(stays) = stage.stays.take() {
        let (status, cause) = stays.join().unwrap().expect("an answer");
        assert!(status == 200 || cause.is_some(), "{status}");
    }
    let other = if is_needed && !is_lost { &stage.new } else { &stage.old };
    wait_until("one place serves", || there.serves() && !other.serves());
    if let Some(stays) = stays {
        stage.old.app.tell("go/stay");
        assert_eq!(
            stays.join().unwrap(),
            Some((503, Some(UNKNOWN.to_owned()))),
            "what it has done is not there any more"
        );
    }
    if is_lost {
        is_asked_no_more(&stage);
    }
    callers.more_of(&there.app.name, 100);
    let answered = beside.answered(&there.app.name);
    wait_until("so is who asks at the old door", || beside.answered(&there.app.name) > answered + 10);
    let (record, beside) = (callers.end(), beside.end());
    let [of_old, of_new] = serving.end();
    assert!(of_old.is_disjoint(&of_new), "both served: {of_old:?} and {of_new:?}");

    let (failures, unanswered) = (record.failures(), record.unanswered());
    println!("{} requests failed", failures.len());
    assert_eq!((unanswered, record.unnamed()), (0, 0), "{failures:#?}");
    // What waits at a place that does not hear what was decided waits in vain; nothing else fails.
    let last = if is_long { Phase::Forward } else { Phase::Activate };
    let waits = (Phase::Quiesce..=last).contains(&at);
    let may_fail = |why: &String| is_lost || waits && why.contains("park_timeout");
    assert!(failures.iter().all(may_fail), "{failures:#?}");
    let are_named = |said: &Said| said.by.is_some() || said.cause.is_some();
    assert!(beside.iter().all(are_named), "{beside:#?}");
    let names = [&stage.old, &stage.new].map(|place| &*place.app.name);
    if is_lost {
        for (name, begins) in names.into_iter().zip([[0; 5], begins]) {
            record.check_of(name, &begins).unwrap();
            let of_it = beside.iter().filter(|said| said.by.is_none() || said.is_by(name));
            check_sums(of_it, begins[4]).unwrap();
        }
        // Whoever is not heard does not know it: but at one door it is one after the other.
        check_turns(&beside, names).unwrap();
    } else {
        record.check().unwrap();
        check_sums(&beside, 0).unwrap();
        record.check_turns(&beside, set, names).unwrap();
        if is_needed {
            record.check_silent(&beside, set, names[1]).unwrap();
        }
    }
    let numbers = stage.numbers();
    record.check_once(&numbers).unwrap();
    record.check_done(&numbers).unwrap();
    for place in [&stage.old, &stage.new] {
        assert_eq!(place.app.count("thawing"), 0, "nothing is asked of what is frozen");
    }
    assert_eq!(losses(&stage.world), if is_lost { 1.0 } else { 0.0 });
}

/// The new place serves with nothing, and what the old one has is said to be lost, which may serve on for whoever reaches it. Returns
/// a request that runs there.
fn begins_anew(stage: &Stage, beside: &Beside) -> Option<JoinHandle<Answer>> {
    let Stage { world, old, new, .. } = stage;
    assert_eq!(losses(world), 1.0);
    let told = story(world, "move");
    assert_eq!((&told["owner"], &told["losses"]), (&new.instance.as_str().into(), &1.into()), "{told}");
    assert_eq!(told["epoch"], new.epoch() as u64, "{told}");
    assert!(new.epoch() > old.epoch(), "{} and {}", new.epoch(), old.epoch());
    if !old.serves() {
        // It is frozen, and stays so.
        return None;
    }
    let answered = beside.answered(&old.app.name);
    wait_until("whoever reaches it is answered", || beside.answered(&old.app.name) > answered + 10);
    old.app.tell("hold/stay");
    let door = old.door();
    let stays = std::thread::spawn(move || {
        ask(door, "GET /stay HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    });
    wait_until("it runs there", || old.app.count("stay.waits") == 1);
    Some(stays)
}

/// What comes to the old place is not for its application any more, whoever asks.
fn is_asked_no_more(stage: &Stage) {
    let asked = || stage.old.app.count("requests");
    let before = at_rest(Duration::from_millis(100), asked);
    let add = "POST /r/late/add HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (status, cause) = ask(stage.old.door(), add).expect("an answer");
    assert!(status == 200 || cause.is_some(), "{status}");
    assert_eq!((asked(), stage.new.app.register("late")), (before, u64::from(status == 200)));
}

/// Forwards connections, until it is told not to.
pub struct Relay {
    pub address: SocketAddr,
    wire: Arc<Wire>,
}

#[derive(Default)]
struct Wire {
    cut: Mutex<Cut>,
    changed: Condvar,
}

#[derive(Default)]
struct Cut {
    way: Option<Way>,
    /// Both ends of each connection.
    open: Vec<TcpStream>,
}

impl Relay {
    pub fn to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { address: listener.local_addr().unwrap(), wire: Arc::default() };
        let wire = relay.wire.clone();
        std::thread::spawn(move || {
            for came in listener.incoming() {
                let (Ok(came), wire) = (came, wire.clone()) else { continue };
                std::thread::spawn(move || wire.serve(came, address));
            }
        });
        relay
    }

    /// From now on it is cut so. None: it is not.
    pub fn set(&self, way: Option<Way>) {
        let mut cut = self.wire.cut.lock().unwrap();
        // What was silent does not go on where it was: by now either side may have given it up.
        for stream in cut.open.drain(..).filter(|_| way != Some(Way::Silent)) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        cut.way = way;
        self.wire.changed.notify_all();
    }
}

impl Wire {
    fn serve(&self, came: TcpStream, address: SocketAddr) {
        let Ok(there) = TcpStream::connect(address) else { return };
        let copies = || Some([came.try_clone().ok()?, there.try_clone().ok()?]);
        let (Some(kept), Some(other)) = (copies(), copies()) else { return };
        {
            let mut cut = self.cut.lock().unwrap();
            if cut.way == Some(Way::Ends) {
                return;
            }
            cut.open.extend(kept);
        }
        std::thread::scope(|scope| {
            let [came_too, there_too] = other;
            scope.spawn(move || self.copy(came_too, there_too));
            self.copy(there, came);
        });
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let cut = self.cut.lock().unwrap();
            drop(self.changed.wait_while(cut, |cut| cut.way == Some(Way::Silent)).unwrap());
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

/// The epochs that places say they serve, looked at all the time.
struct Serving {
    is_over: Arc<AtomicBool>,
    threads: [JoinHandle<BTreeSet<u64>>; 2],
}

impl Serving {
    fn watch(places: [&Place; 2]) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let threads = places.map(|place| {
            let (admin, is_over) = (place.sidecar.admin, is_over.clone());
            std::thread::spawn(move || {
                let mut epochs = BTreeSet::new();
                while !is_over.load(Relaxed) {
                    let metrics = Metrics::of(admin);
                    if metrics.sum("lighter_state_serving", &[]) == 1.0 {
                        epochs.insert(metrics.sum("lighter_state_epoch", &[]) as u64);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                epochs
            })
        });
        Serving { is_over, threads }
    }

    fn end(self) -> [BTreeSet<u64>; 2] {
        self.is_over.store(true, Relaxed);
        self.threads.map(|thread| thread.join().unwrap())
    }
}

impl Way {
    const fn label(self) -> &'static str {
        match self {
            Way::Ends => "cut_off",
            Way::Silent => "that_hears_nothing",
        }
    }
}

impl Lasts {
    const fn label(self) -> &'static str {
        match self {
            Lasts::Shortly => "",
            Lasts::Long => "_for_longer_than_its_lease",
        }
    }
}

const LASTS: [Lasts; 2] = [Lasts::Shortly, Lasts::Long];

/// Those that every run sees; `LIGHTER_FULL=1` sees all.
const SOME: [(Way, Phase, Lasts); 4] = [
    (Way::Ends, PRECOPY, Lasts::Shortly),
    (Way::Ends, Phase::Finalcopy, Lasts::Shortly),
    (Way::Silent, Phase::DrainOld, Lasts::Shortly),
    (Way::Ends, Phase::Warm, Lasts::Long),
];
