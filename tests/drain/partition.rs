//! The old place of a move is cut off from the control plane, in every phase that can be [held](crate::stage) from outside, under
//! load. Callers and the new place reach it as before.
//!
//! However long that lasts, no epoch is served by two places, and what callers were answered is linearizable. What was decided
//! meanwhile the old place hears once it is heard again.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::Trial;
use lighter_migrate::Phase;

use crate::callers::Callers;
use crate::migrate::{phases, story};
use crate::places::{Place, alone, caller, losses};
use crate::registers::App;
use crate::stage::{PHASES, Stage, Times};
use crate::support::metrics::Metrics;
use crate::support::{full, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    let ways = [Way::Ends, Way::Silent];
    let all = ways.into_iter().flat_map(|way| PHASES.into_iter().map(move |at| (way, at)));
    let all = all.filter(|pair| pair.1 != Phase::Done && (full() || SOME.contains(pair)));
    let name = |way: Way, at: Phase| format!("partition::an_old_place_{}_in_{}", way.label(), at.label());
    all.map(|(way, at)| alone(name(way, at), move || run(way, at))).collect()
}

/// How it is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its connections end, and it gets no others.
    Ends,
    /// Nothing comes through, and nobody is told.
    Silent,
}

fn run(way: Way, at: Phase) {
    let times = Times::SHORT;
    let world = World::new();
    world.apply(&times.shop());
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
    let mut stage = Stage { at, is_unfetched: false, world, old, new, other, stays: None };
    let serving = Serving::watch([&stage.old, &stage.new]);
    stage.set(times, &callers);
    // To give its epoch away it was given one first.
    let relay = &relays[usize::from(at == Phase::Activate)];
    relay.set(Some(way));
    stage.release([true, true]);
    wait_until("it is over", || !story(&stage.world, "move")["outcome"].is_null());
    let story = story(&stage.world, "move");
    println!("{way:?} in {}: {} {}", at.label(), story["outcome"], story["because"]);
    // Until it is frozen nobody but the old place has the state; once its copy is fetched it is not needed.
    let is_needed = at < Phase::Finalcopy;
    assert_eq!(story["outcome"], if is_needed { "aborted" } else { "done" }, "{story}");
    assert_eq!(story["because"].is_string(), is_needed, "{story}");
    assert!(phases(&story).iter().any(|phase| phase == at.label()), "{story}");
    let there = if is_needed { &stage.old } else { &stage.new };
    if at != Phase::Quiesce {
        callers.more_of(&there.app.name, 50);
    }
    relay.set(None);
    if let Some(stays) = stage.stays.take() {
        let (status, cause) = stays.join().unwrap().expect("an answer");
        assert!(status == 200 || cause.is_some(), "{status}");
    }
    let is_alone = || stage.old.serves() == is_needed && stage.new.serves() != is_needed;
    wait_until("one place serves", is_alone);
    callers.more_of(&there.app.name, 100);
    let record = callers.end();
    let [of_old, of_new] = serving.end();
    assert!(of_old.is_disjoint(&of_new), "both served: {of_old:?} and {of_new:?}");

    let (failures, unanswered) = (record.failures(), record.unanswered());
    println!("{} requests failed", failures.len());
    assert_eq!((unanswered, record.unnamed()), (0, 0), "{failures:#?}");
    // What waits at a place that does not hear what was decided waits in vain; nothing else fails.
    let waits = (Phase::Quiesce..=Phase::Activate).contains(&at);
    assert!(failures.iter().all(|why| waits && why.contains("park_timeout")), "{failures:#?}");
    record.check().unwrap();
    let numbers = stage.numbers();
    record.check_once(&numbers).unwrap();
    record.check_done(&numbers).unwrap();
    for place in [&stage.old, &stage.new] {
        assert_eq!(place.app.count("thawing"), 0, "nothing is asked of what is frozen");
    }
    assert_eq!(losses(&stage.world), 0.0);
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

/// Those that every run sees; `LIGHTER_FULL=1` sees all.
const SOME: [(Way, Phase); 2] = [(Way::Ends, Phase::Finalcopy), (Way::Silent, Phase::DrainOld)];
