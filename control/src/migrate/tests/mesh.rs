//! Two places as sidecars have them, messages that get lost, come twice and late, and a control plane that can die. In virtual
//! time.

use lighter_migrate::{
    Bounds, Command, Digest, Incarnation, Order as PlaceOrder, Place, PlaceAction, Report, Stamp, Stand,
};
use lighter_proxy::stateful::wire as stateful;

use super::*;

/// A sidecar with its application.
pub(super) struct Sidecar {
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// What the application has in its memory.
    pub(super) memory: u64,
    /// What it gave when it was frozen.
    pub(super) copy: Option<u64>,
    /// It fetches no copy.
    pub(super) is_slow: bool,
    /// It does not hear that the service is its.
    pub(super) is_deaf: bool,
    /// Commands on their way: when they arrive.
    pub(super) coming: Vec<(u64, wire::PlaceCommand)>,
    pub(super) orders: Option<mpsc::Receiver<Order>>,
}

/// A control plane with two sidecars.
pub(super) struct Mesh {
    /// None: it has died.
    pub(super) state: Option<State>,
    pub(super) sidecars: [Sidecar; 2],
    /// Reports on their way to it: when they arrive, and whose.
    pub(super) reports: Vec<(u64, usize, Report)>,
    /// What has yet to be done at each.
    pub(super) todo: [Vec<PlaceAction>; 2],
    /// What each says of the journal.
    pub(super) journals: [Option<wire::JournalStand>; 2],
    pub(super) keeping: Keeping,
    pub(super) moved: Moved,
    pub(super) driver: Option<Driver>,
    pub(super) over: Option<Story>,
    pub(super) random: Option<fastrand::Rng>,
    pub(super) has_begun: bool,
    /// A sidecar was not heard for a lease, and may be there.
    pub(super) is_parted: bool,
    pub(super) began: Instant,
    pub(super) round: u64,
}

/// Makes durable what is kept, or fails.
pub(super) type Writes<'w> = dyn Fn(Option<&Story>, &Moved) -> Result<(), StoreError> + 'w;

pub(super) const NAMES: [&str; 2] = ["a", "b"];
pub(super) const SAVED: u64 = 42;

pub(super) fn digest(memory: u64) -> Digest {
    Digest([memory as u8; 32])
}

pub(super) fn id(name: &str) -> Id {
    Id { identity: Spiffe::parse(SHOP).unwrap(), instance: name.into() }
}

impl Mesh {
    pub(super) fn new(folder: &Path, seed: Option<u64>) -> Self {
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
            journals: [None; 2],
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
    pub(super) fn open(&mut self, folder: &Path) {
        self.reports.clear();
        let state = open_state(folder);
        self.began = state.began;
        let service = asked().service;
        let kept = read::<Moved>(&state.store, SERVICE).unwrap();
        self.moved = kept.into_iter().next().map(|(_, moved)| moved).unwrap_or_default();
        state.registry.list_alone(&service, self.moved.listed.clone(), &state.index);
        self.state = Some(state);
        self.round += 1;
        for at in [0, 1] {
            self.connect(at);
        }
        let story = read::<Story>(&self.state().store, STORY).unwrap().pop().map(|(_, story)| story);
        if let Some(story) = story {
            self.driver = Driver::resume(story.clone(), &self.world());
            self.over = self.driver.is_none().then_some(story);
        }
    }

    pub(super) fn state(&self) -> &State {
        self.state.as_ref().expect("it runs")
    }

    pub(super) fn now(&self) -> Instant {
        self.began + Duration::from_millis(20) * u32::try_from(self.round).unwrap()
    }

    pub(super) fn world(&self) -> World<'_> {
        World { state: self.state(), start: self.began, now: self.now() }
    }

    pub(super) fn connect(&mut self, at: usize) {
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
    pub(super) fn ask(&mut self, at: usize) {
        let ask = Command { stamp: Stamp::default(), incarnation: None, order: PlaceOrder::Ask };
        self.sidecars[at].place.command(ask, Duration::ZERO, &mut self.todo[at]);
    }

    /// A sidecar and its application are started again.
    pub(super) fn restart(&mut self, at: usize, incarnation: u64) {
        let sidecar = &mut self.sidecars[at];
        sidecar.place = Place::new(Class::Volatile, Incarnation(incarnation), Bounds::default());
        (sidecar.memory, sidecar.copy) = (0, None);
        self.todo[at].clear();
        self.ask(at);
    }

    /// It is gone, and its lease is over.
    pub(super) fn leave(&mut self, at: usize) {
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
    pub(super) fn arrivals(&mut self) -> Vec<u64> {
        // Whoever is heard first has the service first.
        let Some(random) = self.random.as_mut().filter(|_| self.has_begun) else { return vec![self.round] };
        let times = [0, 1, 1, 1, 2][random.usize(..5)];
        (0..times).map(|_| self.round + if random.bool() { 0 } else { random.u64(..30) }).collect()
    }

    /// The control plane hears what has arrived.
    pub(super) fn deliver(&mut self) {
        let due = std::mem::take(&mut self.reports);
        for (when, at, report) in due {
            match when <= self.round {
                true => {
                    let journal = self.journals[at];
                    let said = wire::PlaceReport { journal, ..stateful::encode_report(&report, 0) };
                    self.state().registry.sidecars.places(&id(NAMES[at]), said).unwrap();
                }
                false => self.reports.push((when, at, report)),
            }
        }
    }

    /// Everything that happens in a moment. Returns whether the control plane lives.
    pub(super) fn pass(&mut self, write: &Writes<'_>) -> bool {
        let service = asked().service;
        self.deliver();
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

    pub(super) fn sidecars_act(&mut self) {
        let now = Duration::from_millis(20) * u32::try_from(self.round).unwrap();
        for at in [0, 1] {
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
    pub(super) fn act(&mut self, at: usize, action: PlaceAction) {
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
                sidecar.place.frozen(digest(sidecar.memory), 8, true, out);
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
            PlaceAction::Recover(_) => {
                sidecar.memory = if self.journals[at].is_some_and(|said| said.whole) { SAVED } else { 0 };
                sidecar.place.opened(true, out);
            }
            PlaceAction::DropFrozen => sidecar.copy = None,
            PlaceAction::Thaw => sidecar.place.thawed(out),
            // Only what was sent on is ever under way here when something is cut.
            PlaceAction::CutAll => {
                for _ in 0..sidecar.place.running().forwarded {
                    sidecar.place.forwarded(out);
                }
            }
            PlaceAction::Discard | PlaceAction::Run(_) => {}
            other => panic!("{}: {other:?}", sidecar.name),
        }
    }

    /// Lets time pass until this is so.
    pub(super) fn until(&mut self, what: &str, is_so: impl Fn(&Mesh) -> bool) {
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
    pub(super) fn serving(folder: &Path) -> Self {
        let mut mesh = Mesh::new(folder, None);
        mesh.until("a serves", |mesh| mesh.listed() == ["10.0.0.97:80"]);
        mesh.sidecars[0].memory = SAVED;
        mesh
    }

    pub(super) fn begin(&mut self) {
        self.sidecars[0].memory = SAVED;
        self.has_begun = true;
        let mut story =
            Story::new("default/m".into(), &asked(), Class::Volatile, self.moved.number + 1, false);
        story.token = vec![7; 32];
        self.moved.number = story.number;
        self.driver = Some(Driver::begin(story, asked().service, &self.moved, &self.world()));
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        self.driver.as_ref().and_then(|driver| driver.story.phase())
    }

    pub(super) fn stand(&self, at: usize) -> Stand {
        self.sidecars[at].place.stand()
    }

    pub(super) fn serves(&self, at: usize) -> bool {
        self.stand(at).serves() == Some(self.moved.epoch)
    }

    pub(super) fn owner(&self) -> &str {
        self.moved.owner.as_ref().map_or("", |owner| &owner.instance)
    }

    /// Where callers are told that it is.
    pub(super) fn listed(&self) -> Vec<String> {
        let port = lighter_config::name::ServicePort { service: asked().service, port: 80 };
        let listed = self.state().registry.endpoints(&port).listed;
        listed.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    /// It is over, and whoever serves alone has everything.
    pub(super) fn check(&mut self) -> Outcome {
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
pub(super) fn check_told(told: &stateful::Told, name: &str) {
    match told.command.order {
        PlaceOrder::Restore(_) => {
            assert_eq!((name, told.from.map(|from| from.to_string())), ("b", Some("10.0.0.97:15008".into())));
            assert_eq!(told.token.len(), 32, "whoever fetches it shows something");
        }
        PlaceOrder::Move { .. } if name == "a" && !told.to.is_empty() => {
            assert_eq!(told.to, [(80, "10.0.0.98:80".parse().unwrap())].into());
        }
        _ => {}
    }
}

pub(super) fn with_link(name: &str) -> (Arc<str>, Instance) {
    let (name, mut instance) = instance(name, &[80]);
    for port in &mut instance.ports {
        port.link = Some((port.address.ip(), 15008).into());
    }
    (name, instance)
}

pub(super) fn keep(store: &Store, story: Option<&Story>, moved: &Moved) -> Result<(), StoreError> {
    match story {
        Some(story) => write(store, story, moved),
        None => write_moved(store, &asked().service, moved),
    }
}
