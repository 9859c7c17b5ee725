//! A Service with state: two places as sidecars have them, messages that get lost, come twice and late, and a control plane that
//! dies before or after any of its writes. In virtual time.

use lighter_migrate::{
    Arrival, Bounds, Command, Digest, End, Epoch, Incarnation, Kind, Order as PlaceOrder, Place, PlaceAction,
    Report, RequestId, SourceId, Stamp, Stand,
};
use lighter_proxy::stateful::wire as stateful;

use super::*;

/// A sidecar with its application.
struct Sidecar {
    name: &'static str,
    place: Place,
    /// What the application has in its memory.
    memory: u64,
    /// What it gave when it was frozen.
    copy: Option<u64>,
    /// It fetches no copy.
    is_slow: bool,
    /// It does not hear that the service is its.
    is_deaf: bool,
    /// Commands on their way: when they arrive.
    coming: Vec<(u64, wire::PlaceCommand)>,
    orders: Option<mpsc::Receiver<Order>>,
}

/// A control plane with two sidecars.
struct Mesh {
    /// None: it has died.
    state: Option<State>,
    sidecars: [Sidecar; 2],
    /// Reports on their way to it: when they arrive, and whose.
    reports: Vec<(u64, usize, Report)>,
    /// What has yet to be done at each.
    todo: [Vec<PlaceAction>; 2],
    keeping: Keeping,
    moved: Moved,
    driver: Option<Driver>,
    over: Option<Story>,
    random: Option<fastrand::Rng>,
    has_begun: bool,
    /// A sidecar was not heard for a lease, and may be there.
    is_parted: bool,
    began: Instant,
    round: u64,
}

const NAMES: [&str; 2] = ["a", "b"];
const SAVED: u64 = 42;

fn digest(memory: u64) -> Digest {
    Digest([memory as u8; 32])
}

fn id(name: &str) -> Id {
    Id { identity: Spiffe::parse(SHOP).unwrap(), instance: name.into() }
}

impl Mesh {
    fn new(folder: &Path, seed: Option<u64>) -> Self {
        let sidecar = |name: &'static str| Sidecar {
            name,
            place: Place::new(Class::Volatile, Incarnation(100), Bounds::default()),
            memory: 0,
            copy: None,
            is_slow: false,
            is_deaf: false,
            coming: Vec::new(),
            orders: None,
        };
        let mut mesh = Mesh {
            state: None,
            sidecars: NAMES.map(sidecar),
            reports: Vec::new(),
            todo: Default::default(),
            keeping: Keeping::default(),
            moved: Moved::default(),
            driver: None,
            over: None,
            random: seed.map(fastrand::Rng::with_seed),
            has_begun: false,
            is_parted: false,
            began: Instant::now(),
            round: 0,
        };
        mesh.open(folder);
        mesh
    }

    /// A control plane begins, by what the last one has kept. Both sidecars come to it.
    fn open(&mut self, folder: &Path) {
        self.reports.clear();
        let state = open_state(folder);
        self.began = state.began;
        let service = asked().service;
        let kept = read::<Moved>(&state.store, SERVICE).unwrap();
        self.moved = kept.into_iter().next().map(|(_, moved)| moved).unwrap_or_default();
        state.registry.list_alone(&service, self.moved.listed.clone(), &state.index);
        self.state = Some(state);
        self.round += 1;
        for at in 0..2 {
            self.connect(at);
        }
        let story = read::<Story>(&self.state().store, STORY).unwrap().pop().map(|(_, story)| story);
        if let Some(story) = story {
            self.driver = Driver::resume(story.clone(), &self.world());
            self.over = self.driver.is_none().then_some(story);
        }
    }

    fn state(&self) -> &State {
        self.state.as_ref().expect("it runs")
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_millis(20) * u32::try_from(self.round).unwrap()
    }

    fn world(&self) -> World<'_> {
        World { state: self.state(), start: self.began, now: self.now() }
    }

    fn connect(&mut self, at: usize) {
        let stream = self.state().registry.stream();
        let (name, instance) = with_link(NAMES[at]);
        let state = self.state();
        state.registry.register(stream, &name, instance, &state.index).unwrap();
        let (sender, orders) = mpsc::channel(4);
        state.registry.sidecars.enter(id(NAMES[at]), stream, sender);
        self.sidecars[at].orders = Some(orders);
        self.ask(at);
    }

    /// It says how its place is.
    fn ask(&mut self, at: usize) {
        let ask = Command { stamp: Stamp::default(), incarnation: None, order: PlaceOrder::Ask };
        self.sidecars[at].place.command(ask, Duration::ZERO, &mut self.todo[at]);
    }

    /// A sidecar and its application are started again.
    fn restart(&mut self, at: usize, incarnation: u64) {
        let sidecar = &mut self.sidecars[at];
        sidecar.place = Place::new(Class::Volatile, Incarnation(incarnation), Bounds::default());
        (sidecar.memory, sidecar.copy) = (0, None);
        self.todo[at].clear();
        self.ask(at);
    }

    /// It is gone, and its lease is over.
    fn leave(&mut self, at: usize) {
        let stream = self.state().registry.stream();
        let (name, instance) = with_link(NAMES[at]);
        let state = self.state();
        state.registry.register(stream, &name, instance, &state.index).unwrap();
        state.registry.sidecars.enter(id(NAMES[at]), stream, mpsc::channel(1).0);
        state.registry.sidecars.leave(&id(NAMES[at]), stream);
        state.registry.lost(stream, self.now());
        let end = self.now() + state.config.lease;
        assert_eq!(state.registry.expire(end, &state.index), 1);
        let lease = self.state().config.lease;
        self.sidecars[at].orders = None;
        self.is_parted = true;
        self.round += u64::try_from(lease.as_millis() / 20).unwrap();
    }

    /// When something that is sent arrives: not at all, once, or twice.
    fn arrivals(&mut self) -> Vec<u64> {
        // Whoever is heard first has the service first.
        let Some(random) = self.random.as_mut().filter(|_| self.has_begun) else { return vec![self.round] };
        let times = [0, 1, 1, 1, 2][random.usize(..5)];
        (0..times).map(|_| self.round + if random.bool() { 0 } else { random.u64(..30) }).collect()
    }

    /// Everything that happens in a moment. Returns whether the control plane lives.
    fn pass(&mut self, write: &dyn Fn(Option<&Story>, &Moved) -> Result<(), StoreError>) -> bool {
        let service = asked().service;
        let due = std::mem::take(&mut self.reports);
        for (when, at, report) in due {
            match when <= self.round {
                true => {
                    let said = stateful::encode_report(&report, 0);
                    self.state().registry.sidecars.places(&id(NAMES[at]), said).unwrap();
                }
                false => self.reports.push((when, at, report)),
            }
        }
        let (mut keeping, mut moved) = (std::mem::take(&mut self.keeping), self.moved.clone());
        let mut driver = self.driver.take();
        let lives = match &mut driver {
            Some(driver) => {
                driver.drive(&mut moved, &self.world(), &|story, moved| write(Some(story), moved)).is_ok()
            }
            None => keeping.keep(&service, &mut moved, &self.world(), &|moved| write(None, moved)).is_ok(),
        };
        (self.keeping, self.moved, self.driver) = (keeping, moved, driver);
        if !lives {
            (self.state, self.driver, self.keeping) = (None, None, Keeping::default());
            self.sidecars.iter_mut().for_each(|sidecar| sidecar.orders = None);
            return false;
        }
        if self.driver.as_ref().is_some_and(Driver::is_over) {
            self.over = self.driver.take().map(|driver| driver.story);
        }
        self.sidecars_act();
        self.round += 1;
        let [a, b] = [0, 1].map(|at| self.stand(at).serves());
        assert!(a.is_none() || a != b, "two serve an epoch");
        assert!(self.is_parted || a.is_none() || b.is_none(), "two serve");
        true
    }

    fn sidecars_act(&mut self) {
        let now = Duration::from_millis(20) * u32::try_from(self.round).unwrap();
        for at in 0..2 {
            while let Some(order) =
                self.sidecars[at].orders.as_mut().and_then(|orders| orders.try_recv().ok())
            {
                let Order::Place(command) = order else { panic!("{order:?}") };
                if self.sidecars[at].is_deaf
                    && self.moved.owner.as_ref().is_some_and(|owner| *owner.instance == *NAMES[at])
                {
                    continue;
                }
                for when in self.arrivals() {
                    self.sidecars[at].coming.push((when, command.clone()));
                }
            }
            let due = std::mem::take(&mut self.sidecars[at].coming);
            for (when, command) in due {
                match when <= self.round {
                    true => {
                        let told = stateful::decode_command(command).unwrap();
                        check_told(&told, NAMES[at]);
                        self.sidecars[at].place.command(told.command, now, &mut self.todo[at]);
                    }
                    false => self.sidecars[at].coming.push((when, command)),
                }
            }
            if self.sidecars[at].place.timeout().is_some_and(|timeout| timeout <= now) {
                self.sidecars[at].place.on_timeout(now, &mut self.todo[at]);
            }
            while !self.todo[at].is_empty() {
                for action in std::mem::take(&mut self.todo[at]) {
                    self.act(at, action);
                }
            }
        }
    }

    /// What a sidecar does for its place.
    fn act(&mut self, at: usize, action: PlaceAction) {
        let other = self.sidecars[1 - at].copy;
        let (sidecar, out) = (&mut self.sidecars[at], &mut self.todo[at]);
        match action {
            PlaceAction::Report(report) => {
                if sidecar.orders.is_some() {
                    for when in self.arrivals() {
                        self.reports.push((when, at, report));
                    }
                }
            }
            PlaceAction::Reserve => sidecar.place.reserved(true, out),
            PlaceAction::Warm => sidecar.place.warmed(true, out),
            PlaceAction::Freeze => {
                sidecar.copy = Some(sidecar.memory);
                sidecar.place.frozen(digest(sidecar.memory), 8, out);
            }
            PlaceAction::Fetch(copy, offset) => {
                let Some(memory) = other.filter(|_| !sidecar.is_slow) else { return };
                if sidecar.place.fetched(copy, offset, copy.bytes - offset) {
                    sidecar.memory = memory;
                    sidecar.place.restored(copy, digest(memory), out);
                }
            }
            PlaceAction::Activate(_) => sidecar.place.opened(true, out),
            PlaceAction::Begin(_) => {
                sidecar.memory = 0;
                sidecar.place.opened(true, out);
            }
            PlaceAction::DropFrozen => sidecar.copy = None,
            PlaceAction::Thaw | PlaceAction::Discard | PlaceAction::Run(_) => {}
            other => panic!("{}: {other:?}", sidecar.name),
        }
    }

    /// Lets time pass until this is so.
    fn until(&mut self, what: &str, is_so: impl Fn(&Mesh) -> bool) {
        for _ in 0..5000 {
            if is_so(self) {
                return;
            }
            let store = self.state().store.clone();
            assert!(self.pass(&|story, moved| keep(&store, story, moved)));
        }
        let stands = self.sidecars.each_ref().map(|sidecar| sidecar.place.stand());
        let phase = self.driver.as_ref().and_then(|driver| driver.story.phase());
        panic!("{what}: {stands:?} {phase:?} {:?}", self.moved);
    }

    /// Lets `a` serve, and keep something.
    fn serving(folder: &Path) -> Self {
        let mut mesh = Mesh::new(folder, None);
        mesh.until("a serves", |mesh| mesh.listed() == ["10.0.0.97:80"]);
        mesh.sidecars[0].memory = SAVED;
        mesh
    }

    fn begin(&mut self) {
        self.sidecars[0].memory = SAVED;
        self.has_begun = true;
        let mut story =
            Story::new("default/m".into(), &asked(), Class::Volatile, self.moved.number + 1, false);
        story.token = vec![7; 32];
        self.moved.number = story.number;
        self.driver = Some(Driver::begin(story, asked().service, &self.moved, &self.world()));
    }

    fn phase(&self) -> Option<Phase> {
        self.driver.as_ref().and_then(|driver| driver.story.phase())
    }

    fn stand(&self, at: usize) -> Stand {
        self.sidecars[at].place.stand()
    }

    fn serves(&self, at: usize) -> bool {
        self.stand(at).serves() == Some(self.moved.epoch)
    }

    fn owner(&self) -> &str {
        self.moved.owner.as_ref().map_or("", |owner| &owner.instance)
    }

    /// Where callers are told that it is.
    fn listed(&self) -> Vec<String> {
        let port = lighter_config::name::ServicePort { service: asked().service, port: 80 };
        let listed = self.state().registry.endpoints(&port).listed;
        listed.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    /// It is over, and whoever serves alone has everything.
    fn check(&mut self) -> Outcome {
        self.until("it is over", |mesh| mesh.over.is_some());
        self.until("nobody is waited for", |mesh| {
            let outcome = mesh.over.as_ref().and_then(|story| story.outcome);
            mesh.serves(usize::from(outcome == Some(Outcome::Done))) && mesh.listed().len() == 1
        });
        let outcome = self.over.as_ref().and_then(|story| story.outcome).unwrap();
        let at = usize::from(outcome == Outcome::Done);
        assert_eq!(self.owner(), NAMES[at]);
        assert_eq!(self.listed(), [format!("10.0.0.{}:80", NAMES[at].as_bytes()[0])]);
        assert_eq!((self.sidecars[at].memory, self.moved.losses), (SAVED, 0));
        assert!(self.stand(1 - at).serves().is_none());
        let kept = read::<Moved>(&self.state().store, SERVICE).unwrap().pop().unwrap().1;
        assert_eq!(
            (kept.owner, kept.epoch, kept.listed),
            (self.moved.owner.clone(), self.moved.epoch, self.moved.listed.clone())
        );
        outcome
    }
}

/// A copy is fetched from where it is, and whoever is sent on is sent to where the service is.
fn check_told(told: &stateful::Told, name: &str) {
    match told.command.order {
        PlaceOrder::Restore(_) => {
            assert_eq!((name, told.from.map(|from| from.to_string())), ("b", Some("10.0.0.97:15008".into())));
            assert_eq!(told.token, [7; 32]);
        }
        PlaceOrder::Move { .. } if name == "a" && !told.to.is_empty() => {
            assert_eq!(told.to, [(80, "10.0.0.98:80".parse().unwrap())].into());
        }
        _ => {}
    }
}

fn with_link(name: &str) -> (Arc<str>, Instance) {
    let (name, mut instance) = instance(name, &[80]);
    for port in &mut instance.ports {
        port.link = Some((port.address.ip(), 15008).into());
    }
    (name, instance)
}

fn keep(store: &Store, story: Option<&Story>, moved: &Moved) -> Result<(), StoreError> {
    match story {
        Some(story) => write(store, story, moved),
        None => write_moved(store, &asked().service, moved),
    }
}

/// A service is given to `a`, and moves to `b`; meanwhile the control plane dies. Returns whether it had the time to.
fn died(dies: Dies, seed: Option<u64>) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::new(folder.path(), seed);
    let writes = Cell::new(0);
    let mut has_died = false;
    for _ in 0..5000 {
        let store = mesh.state().store.clone();
        let lives = mesh.pass(&|story, moved| {
            let number = writes.replace(writes.get() + 1);
            let end = (number == dies.at).then_some(());
            if end.is_none() || dies.is_written {
                keep(&store, story, moved)?;
            }
            end.map_or(Ok(()), |()| Err(StoreError::Backup("it has died".to_owned())))
        });
        drop(store);
        if !lives {
            has_died = true;
            mesh.open(folder.path());
        }
        if mesh.over.is_some() {
            break;
        }
        if mesh.driver.is_none() && mesh.serves(0) && mesh.listed().len() == 1 {
            mesh.begin();
        }
    }
    let outcome = mesh.check();
    // Without trouble on the way it moves.
    assert!(seed.is_some() || outcome == Outcome::Done, "{:?}", mesh.over.and_then(|story| story.because));
    if seed.is_none() {
        let story = mesh.over.unwrap();
        let phases: Vec<&str> = story.phases().map(|(phase, _)| phase.label()).collect();
        let expected = [
            "plan",
            "prepare",
            "warm",
            "quiesce",
            "finalcopy",
            "fence",
            "activate",
            "switch",
            "forward",
            "drain_old",
            "done",
        ];
        assert_eq!(phases, expected);
        assert_eq!(story.left, Some(0));
    }
    has_died
}

#[test]
fn whenever_a_control_plane_dies_one_place_serves_what_there_is() {
    for seed in [None, Some(1), Some(2)] {
        for is_written in [false, true] {
            let mut at = 0;
            while died(Dies { at, is_written }, seed) {
                at += 1;
            }
            assert!(at >= 9, "there are {at} writes");
        }
    }
}

#[test]
fn whoever_has_lost_its_memory_begins_anew_and_that_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let epoch = mesh.moved.epoch;
    mesh.restart(0, 101);
    mesh.until("a serves again", |mesh| mesh.moved.losses == 1 && mesh.serves(0));
    assert!(mesh.moved.epoch > epoch);
    mesh.until("a is listed", |mesh| mesh.listed() == ["10.0.0.97:80"]);
    assert_eq!(mesh.state().metrics.state_losses.load(Relaxed), 1);
    // Whoever is gone for good is followed by another.
    mesh.leave(0);
    assert!(mesh.listed().is_empty(), "nobody serves what a had");
    mesh.until("b serves", |mesh| mesh.serves(1) && mesh.listed() == ["10.0.0.98:80"]);
    assert_eq!((mesh.moved.losses, mesh.owner()), (2, "b"));
    // One that was taken for dead, and was not, serves no more.
    mesh.connect(0);
    mesh.until("a has moved", |mesh| mesh.stand(0) == Stand::Moved);
    assert!(mesh.serves(1) && mesh.moved.losses == 2);
}

#[test]
fn what_is_aborted_before_it_is_decided_serves_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let epoch = mesh.moved.epoch;
    mesh.sidecars[1].is_slow = true;
    mesh.begin();
    mesh.until("it copies", |mesh| mesh.phase() == Some(Phase::Finalcopy));
    assert_eq!(mesh.stand(0), Stand::Frozen { epoch });
    let mut driver = mesh.driver.take().unwrap();
    assert!(driver.abort(&mesh.world()));
    mesh.driver = Some(driver);
    assert_eq!(mesh.check(), Outcome::Aborted);
    assert_eq!((mesh.moved.epoch, mesh.stand(1)), (epoch, Stand::Empty));
    let story = mesh.over.take().unwrap();
    assert_eq!(story.because.as_deref(), Some("somebody asked for it"));
    // And it can be moved later.
    mesh.sidecars[1].is_slow = false;
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Done);
}

#[test]
fn requests_that_do_not_end_keep_it_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let arrival = Arrival {
        id: RequestId(1),
        source: SourceId(1),
        bytes: 0,
        deadline: None,
        kind: Kind::Stream,
        is_inside: false,
        is_kept: false,
        is_forwarded: false,
    };
    let mut out = Vec::new();
    mesh.sidecars[0].place.arrive(arrival, Duration::ZERO, &mut out);
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Aborted);
    let because = mesh.over.as_ref().and_then(|story| story.because.clone()).unwrap();
    assert!(because.starts_with("`a` did not freeze"), "{because}");
    mesh.sidecars[0].place.finished(RequestId(1), Kind::Stream, End::Wrote, Duration::ZERO, &mut out);
    mesh.over = None;
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Done);
}

#[test]
fn where_the_new_place_is_gone_the_old_one_has_everything_still() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let lease = mesh.state().config.lease;
    mesh.round += u64::try_from(lease.as_millis() / 20).unwrap();
    mesh.sidecars[1].is_deaf = true;
    mesh.begin();
    mesh.until("it is decided", |mesh| mesh.owner() == "b");
    assert!(!mesh.serves(1), "it has not begun");
    mesh.leave(1);
    mesh.until("it is over", |mesh| mesh.over.is_some());
    assert_eq!(mesh.over.as_ref().and_then(|story| story.outcome), Some(Outcome::RolledBack));
    mesh.until("a serves", |mesh| mesh.serves(0) && mesh.listed() == ["10.0.0.97:80"]);
    // The new place was told to serve: what it may have done is not known.
    assert_eq!((mesh.sidecars[0].memory, mesh.moved.losses, mesh.owner()), (SAVED, 1, "a"));
}

#[test]
fn what_was_decided_for_nobody_is_lost_and_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let lease = mesh.state().config.lease;
    mesh.round += u64::try_from(lease.as_millis() / 20).unwrap();
    mesh.begin();
    mesh.until("it is decided", |mesh| mesh.owner() == "b");
    mesh.leave(1);
    mesh.leave(0);
    mesh.until("it is over", |mesh| mesh.over.is_some());
    assert_eq!(mesh.over.as_ref().and_then(|story| story.outcome), Some(Outcome::Lost));
    mesh.restart(0, 102);
    mesh.connect(0);
    mesh.until("a serves", |mesh| mesh.serves(0) && mesh.listed() == ["10.0.0.97:80"]);
    assert_eq!((mesh.sidecars[0].memory, mesh.moved.losses), (0, 1));
}

#[test]
fn a_state_is_not_moved_from_whoever_does_not_have_it_nor_where_it_cannot_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let why = |mesh: &Mesh, asked: &Migration| {
        why_not(asked, Class::Volatile, &mesh.moved, mesh.state()).unwrap_or_default()
    };
    assert_eq!(why(&mesh, &asked()), "");
    let back = Migration { from: "b".into(), to: "a".into(), ..asked() };
    assert_eq!(why(&mesh, &back), "`b` does not serve default/shop: `a` does");
    mesh.moved.listed = None;
    assert_eq!(why(&mesh, &asked()), "`a` is about to serve default/shop, and does not yet");
    let stream = mesh.state().registry.stream();
    mesh.state().registry.sidecars.enter(id("b"), stream, mpsc::channel(1).0);
    let said = why(&mesh, &asked());
    assert!(said.starts_with("`b` has not said what it is to default/shop"), "{said}");
    let (name, instance) = instance("b", &[80]);
    mesh.state().registry.register(stream, &name, instance, &mesh.state().index).unwrap();
    assert_eq!(why(&mesh, &asked()), "`b` accepts no links, over which the state would move");
    let of = |class, keeps| super::super::stateful::why_not_of(&Migration { class, ..asked() }, keeps);
    use lighter_config::snapshot::{Keeps, StateClass::Volatile};
    assert_eq!(of(None, Some(Volatile)).or(of(None, None)), None);
    assert_eq!(of(Some(Keeps::State(Volatile)), Some(Volatile)).or(of(Some(Keeps::Nothing), None)), None);
    let other = "default/shop is volatile, and the Migration says stateless: leave its `class` out";
    assert_eq!(of(Some(Keeps::Nothing), Some(Volatile)).as_deref(), Some(other));
}

#[test]
fn whoever_serves_a_later_epoch_than_is_kept_has_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    // The store is that of an old backup, in which nothing was given to anybody.
    mesh.moved = Moved::default();
    let before = mesh.stand(0);
    assert!(before.serves() > Some(Epoch(1)));
    mesh.until("it is seen", |mesh| mesh.owner() == "a");
    assert_eq!((mesh.serves(0), mesh.stand(0), mesh.moved.losses), (true, before, 0));
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Done);
}
