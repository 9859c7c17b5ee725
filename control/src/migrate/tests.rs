//! A control plane that dies before or after any of its writes, in virtual time.

use std::cell::Cell;
use std::path::Path;

use lighter_config::control::ControlConfig;
use lighter_config::identity::Spiffe;
use lighter_config::xds::wire::lighter::registry::v1 as wire;
use lighter_config::xds::wire::lighter::registry::v1::report_response::Order;
use tokio::sync::mpsc;

use super::*;
use crate::registry::Instance;
use crate::registry::sidecars::Id;

mod gains;
mod holds;
mod mesh;
mod stateful;

/// What a control plane has to do with: its store, and the sidecars of both instances.
struct Bench {
    state: State,
    /// By which `a` and `b` are registered.
    streams: [u64; 2],
    old: Id,
    orders: mpsc::Receiver<Order>,
    now: Instant,
}

/// How a control plane ends.
#[derive(Clone, Copy)]
struct Dies {
    /// At which of its writes.
    at: usize,
    /// The store has it already.
    is_written: bool,
}

const SHOP: &str = "spiffe://mesh.lighter/ns/default/sa/shop";

fn open_state(folder: &Path) -> State {
    let config = ControlConfig { state: folder.to_path_buf(), ..ControlConfig::default() };
    crate::serve::open(config).unwrap().0
}

fn asked() -> Migration {
    let second = Duration::from_secs(1);
    let service = ServiceName::new("default", "shop");
    Migration {
        service,
        from: "a".into(),
        to: "b".into(),
        class: None,
        prepare: 10 * second,
        quiesce: 2 * second,
        rounds: 0,
        switch: 5 * second,
        drain: 30 * second,
    }
}

impl Bench {
    /// One in this folder, where `a` and `b` are registered.
    fn open(folder: &Path) -> Self {
        let state = open_state(folder);
        let old = Id { identity: Spiffe::parse(SHOP).unwrap(), instance: "a".into() };
        let (sender, orders) = mpsc::channel(4);
        state.registry.sidecars.enter(old.clone(), 1, sender);
        let streams = [0; 2].map(|_| state.registry.stream());
        let bench = Bench { state, streams, old, orders, now: Instant::now() };
        bench.register("a", bench.streams[0], &[80]);
        bench.register("b", bench.streams[1], &[80]);
        bench
    }

    fn register(&self, name: &str, stream: u64, ports: &[u32]) {
        let (name, instance) = instance(name, ports);
        self.state.registry.register(stream, &name, instance, &self.state.index).unwrap();
    }

    /// Ends the leases that run. Returns how many those were.
    fn leases_end(&self) -> usize {
        let end = self.now + 2 * self.state.config.lease;
        self.state.registry.expire(end, &self.state.index)
    }

    /// Looks at it `rounds` times, while the old instance says that nothing is under way there.
    fn look(&mut self, driver: &mut Driver, moved: &mut Moved, rounds: u32) {
        for _ in 0..rounds {
            let write = |story: &Story, moved: &Moved| write(&self.state.store, story, moved);
            driver.drive(moved, &self.world(), &write).unwrap();
            self.answer();
            self.now += Duration::from_millis(20);
        }
    }

    fn answer(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            let Order::Count(wire::Count { number }) = order else { panic!("{order:?}") };
            self.state.registry.sidecars.counts(&self.old, wire::Counted { number, in_flight: 0 });
        }
    }

    fn world(&self) -> World<'_> {
        World { state: &self.state, start: self.state.began, now: self.now }
    }

    /// Drives until it is over, or has died.
    fn drive(&mut self, driver: &mut Driver, moved: &mut Moved, dies: Option<Dies>) -> bool {
        let writes = Cell::new(0);
        for _ in 0..1000 {
            let world = self.world();
            let write = |story: &Story, moved: &Moved| {
                let number = writes.replace(writes.get() + 1);
                let end = dies.filter(|dies| dies.at == number);
                if end.is_none_or(|dies| dies.is_written) {
                    write(&self.state.store, story, moved)?;
                }
                end.map_or(Ok(()), |_| Err(StoreError::Backup("it has died".to_owned())))
            };
            if driver.drive(moved, &world, &write).is_err() {
                return false;
            }
            if driver.is_over() {
                return true;
            }
            self.answer();
            self.now += Duration::from_millis(20);
        }
        panic!("it is never over");
    }
}

fn instance(name: &str, ports: &[u32]) -> (Arc<str>, Instance) {
    let port = |port: &u32| wire::InstancePort {
        port: *port,
        address: format!("10.0.0.{}:{port}", name.as_bytes()[0]),
        link_address: String::new(),
    };
    let (instance, service) = (name.to_owned(), "default/shop".to_owned());
    let ports = ports.iter().map(port).collect();
    let said = wire::Registration { instance, service, ports, ready: true, ..wire::Registration::default() };
    Instance::read(&said, &Spiffe::parse(SHOP).unwrap()).unwrap().unwrap()
}

fn register(folder: &Path) {
    let facts = ["a", "b"].map(|name| {
        let (name, instance) = instance(name, &[80]);
        (format!("default/shop {name}"), Some(instance.keep(&name)))
    });
    open_state(folder).store.set_facts("instance", &facts).unwrap();
}

/// A migration is begun where `b` has no callers (`is_withdrawn`) or has some, and the control plane dies. Another one goes on.
/// Returns whether it had the time to die.
fn died(is_withdrawn: bool, dies: Dies) -> bool {
    let folder = tempfile::tempdir().unwrap();
    register(folder.path());
    let asked = asked();
    let mut moved = Moved::default();
    moved.withdrawn.extend(is_withdrawn.then(|| asked.to.clone()));
    let begin = |bench: &Bench, moved: &Moved| {
        let story = Story::new("default/m".into(), &asked, Class::Stateless, 1, is_withdrawn);
        Driver::begin(story, asked.service.clone(), moved, &bench.world())
    };
    let mut bench = Bench::open(folder.path());
    let mut driver = begin(&bench, &moved);
    // What an earlier migration left.
    let left = (fact(SERVICE, "default/shop"), serde_json::to_vec(&moved).ok());
    bench.state.store.set_facts(FACTS, &[left]).unwrap();
    let is_over = bench.drive(&mut driver, &mut moved.clone(), Some(dies));
    if !is_over && !dies.is_written {
        let kept = withdrawn(&bench.state.store).unwrap().remove(&asked.service).unwrap_or_default();
        assert!(bench.state.registry.withdrawn() <= kept.len(), "callers are told what is not decided");
    }
    drop((driver, bench));

    let mut bench = Bench::open(folder.path());
    open(&bench.state).unwrap();
    // Before anybody has done anything, somebody serves; where one did alone, one does.
    let before = bench.state.registry.withdrawn();
    assert!(before <= 1 && (!is_withdrawn || before == 1), "{before} are withdrawn");
    let mut all = std::mem::take(&mut *bench.state.migrations.lock());
    let mut moved = all.moved.remove(&asked.service).unwrap();
    let story = all.over.remove("default/m").unwrap_or_else(|| {
        let left = all.under_way.remove(&asked.service);
        // Where nothing was written it is still asked for.
        let mut driver = left.unwrap_or_else(|| begin(&bench, &moved));
        assert!(bench.drive(&mut driver, &mut moved, None));
        driver.story
    });
    assert_eq!(story.outcome, Some(Outcome::Done), "{:?}", story.because);
    let phases: Vec<&str> = story.phases().map(|(phase, _)| phase.label()).collect();
    assert_eq!(phases, ["plan", "prepare", "warm", "switch", "drain_old", "done"]);
    assert_eq!(moved.withdrawn, [asked.from.clone()].into());
    assert_eq!(withdrawn(&bench.state.store).unwrap()[&asked.service], moved.withdrawn);
    assert_eq!(bench.state.registry.withdrawn(), 1);
    !is_over
}

#[test]
fn whenever_a_control_plane_dies_the_next_one_goes_on() {
    for is_withdrawn in [false, true] {
        for is_written in [false, true] {
            let mut at = 0;
            while died(is_withdrawn, Dies { at, is_written }) {
                at += 1;
            }
            assert!(at >= 5, "there are {at} writes");
        }
    }
}

#[test]
fn what_is_decided_for_nobody_ends() {
    let folder = tempfile::tempdir().unwrap();
    register(folder.path());
    let bench = Bench::open(folder.path());
    let (asked, mut moved) = (asked(), Moved::default());
    let story = Story::new("default/m".into(), &asked, Class::Stateless, 1, false);
    let mut driver = Driver::begin(story, asked.service.clone(), &moved, &bench.world());
    let write = |story: &Story, moved: &Moved| write(&bench.state.store, story, moved);
    driver.drive(&mut moved, &bench.world(), &write).unwrap();
    // The old instance's sidecar has yet to answer.
    assert_eq!(driver.story.phase(), Some(Phase::DrainOld));
    assert!(!driver.is_over());
    assert_eq!(bench.state.registry.withdrawn(), 1);
    for stream in bench.streams {
        bench.state.registry.lost(stream, bench.now);
    }
    assert_eq!(bench.leases_end(), 2);
    driver.drive(&mut moved, &bench.world(), &write).unwrap();
    assert!(driver.is_over());
    assert_eq!(driver.story.outcome, Some(Outcome::Lost));
    assert_eq!(bench.state.registry.withdrawn(), 0);
    // Whoever begins again has nothing to go on with.
    drop((driver, bench));
    let bench = Bench::open(folder.path());
    open(&bench.state).unwrap();
    assert!(bench.state.migrations.lock().under_way.is_empty());
}

#[test]
fn a_new_place_that_goes_away_gives_the_work_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(folder.path());
    let (asked, mut moved) = (asked(), Moved::default());
    let story = Story::new("default/m".into(), &asked, Class::Stateless, 1, false);
    let mut driver = Driver::begin(story, asked.service.clone(), &moved, &bench.world());
    bench.look(&mut driver, &mut moved, 1);
    assert_eq!((driver.story.phase(), moved.withdrawn.len()), (Some(Phase::DrainOld), 1));
    bench.state.registry.lost(bench.streams[1], bench.now);
    bench.look(&mut driver, &mut moved, 100);
    assert_eq!(driver.story.phase(), Some(Phase::DrainOld), "it may come back");
    assert_eq!(bench.leases_end(), 1);
    bench.look(&mut driver, &mut moved, 1);
    assert_eq!(driver.story.outcome, Some(Outcome::RolledBack));
    assert_eq!((moved.withdrawn.len(), bench.state.registry.withdrawn()), (0, 0));
}

#[test]
fn one_that_comes_back_has_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(folder.path());
    let (asked, mut moved) = (asked(), Moved::default());
    bench.state.registry.lost(bench.streams[1], bench.now);
    let story = Story::new("default/m".into(), &asked, Class::Stateless, 1, false);
    let mut driver = Driver::begin(story, asked.service.clone(), &moved, &bench.world());
    bench.look(&mut driver, &mut moved, 100);
    assert_eq!((driver.story.phase(), moved.withdrawn.len()), (Some(Phase::Warm), 0), "is it there?");
    bench.register("b", bench.streams[1], &[80]);
    bench.look(&mut driver, &mut moved, 1);
    assert_eq!(driver.story.phase(), Some(Phase::DrainOld));
    bench.state.registry.lost(bench.streams[1], bench.now);
    bench.look(&mut driver, &mut moved, 100);
    bench.register("b", bench.streams[1], &[80]);
    bench.look(&mut driver, &mut moved, 100);
    assert_eq!(driver.story.outcome, Some(Outcome::Done), "{:?}", driver.story.because);
    assert_eq!(moved.withdrawn, [asked.from].into());
}

#[test]
fn one_without_a_port_that_is_served_does_not_get_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(folder.path());
    let (asked, mut moved) = (asked(), Moved::default());
    let why = |bench: &Bench| why_not(&asked, Class::Stateless, &Moved::default(), &bench.state);
    assert_eq!(why(&bench), None);
    bench.register("b", bench.streams[1], &[81]);
    assert_eq!(why(&bench).as_deref(), Some("`b` does not have port 80, which `a` has"));
    bench.register("b", bench.streams[1], &[]);
    assert!(why(&bench).is_some());
    // Nor where it loses it meanwhile.
    let story = Story::new("default/m".into(), &asked, Class::Stateless, 1, false);
    let mut driver = Driver::begin(story, asked.service.clone(), &moved, &bench.world());
    bench.look(&mut driver, &mut moved, 10);
    assert_eq!((driver.story.phase(), moved.withdrawn.len()), (Some(Phase::Warm), 0));
    bench.register("b", bench.streams[1], &[80, 81]);
    bench.look(&mut driver, &mut moved, 1);
    assert_eq!(driver.story.phase(), Some(Phase::DrainOld));
}

#[test]
fn what_ends_the_one_way_or_the_other_leaves_one_place() {
    let asked = asked();
    let mut moved = Moved::default();
    let mut story = Story::new("default/m".into(), &asked, Class::Stateless, 1, true);
    moved.withdrawn.insert(asked.to.clone());
    let cell = story.begin(&moved);
    let decided =
        |moved: &Moved, decision| moved.decided(&story, &lighter_migrate::Cell { decision, ..cell });
    use lighter_migrate::Decision::{Aborted, Fenced, Returned};
    assert_eq!(decided(&moved, Aborted).withdrawn, moved.withdrawn);
    let fenced = decided(&moved, Fenced);
    assert_eq!(fenced.withdrawn, [asked.from.clone()].into());
    assert_eq!(decided(&fenced, Returned).withdrawn, moved.withdrawn);
    // Whoever had callers before has them again.
    story.was_withdrawn = false;
    let returned = fenced.decided(&story, &lighter_migrate::Cell { decision: Returned, ..cell });
    assert!(returned.withdrawn.is_empty());
}

#[test]
fn whoever_was_to_follow_the_standby_is_not_to_in_the_epoch_after() {
    let asked = asked();
    let epoch = lighter_migrate::Epoch(3);
    let next = standby::Standby { epoch, view: 6, number: 0, instance: Some("d".into()), token: Vec::new() };
    let moved = Moved { epoch, next: Some(next), ..Moved::default() };
    let mut story = Story::new("default/m".into(), &asked, Class::Volatile, 1, false);
    let cell = story.begin(&moved);
    for (now, is_kept) in [(epoch, true), (epoch.next(), false)] {
        let after = moved.decided(&story, &lighter_migrate::Cell { epoch: now, ..cell });
        assert_eq!((after.epoch, after.next.is_some()), (now, is_kept));
    }
}
