//! Functions that come and go: what [`Activation`] decides is done here, each on a thread of its own, as it may take seconds.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lighter_config::sidecar::{DeviceConfig, PlannedConfig};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::activation::{Activation, Effect, Entry, Number, Planner, State, Ticket, Why};
use super::active::{Active, Wait};
use super::hold::Hold;
use super::{FunctionHost, Held, priority};
use crate::error::Cause;
use crate::telemetry::histogram::nanos;

/// How often it is looked whether limits that hold for a while leave places for those who wait.
const LOOK: Duration = Duration::from_millis(100);

/// The functions of a device that are active while they are wanted.
pub(crate) struct Planned {
    host: Arc<dyn FunctionHost>,
    held: Vec<Held>,
    config: PlannedConfig,
    most_waiting: usize,
    hold: Arc<Hold>,
    /// Places for runs, and how many there are of them. One is taken while `core` is held, so that it is there for whom it is said
    /// to be.
    places: Arc<Semaphore>,
    most_runs: usize,
    core: Mutex<Core>,
    active: Active,
    /// What was run of each function.
    ran: Vec<Ran>,
    /// Which functions are active, or waited for, has changed.
    news: watch::Sender<()>,
    /// What is to be done next comes sooner than was thought.
    sooner: Notify,
}

struct Core {
    activation: Activation,
    waits: HashMap<Ticket, Waiting>,
    /// When there may be something to do.
    next: Option<Instant>,
    /// Of each function, as it was told last: it is active, and waited for.
    told: Vec<(bool, bool)>,
    /// How many wait and what functions take, as it was shown last.
    shown: (usize, u64),
}

/// A request that waits.
struct Waiting {
    since: Instant,
    hears: oneshot::Sender<Result<LetIn, Why>>,
}

#[derive(Default)]
struct Ran {
    runs: AtomicU64,
    nanos: AtomicU64,
}

/// What is to be done once `core` is free.
enum Due {
    Work(Effect),
    LetIn(Number, Option<Waiting>, OwnedSemaphorePermit),
    Refuse(Number, Option<Waiting>, Why),
}

/// What a run has. Its place is free before others are looked for who may have it.
pub(super) struct LetIn {
    pub(super) place: OwnedSemaphorePermit,
    pub(super) in_use: InUse,
}

/// A function stays while it is in use.
pub(super) struct InUse {
    planned: Arc<Planned>,
    /// None: a run of what there is no function of.
    number: Option<Number>,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotIn {
    /// Its function did not become active in time.
    Late,
    /// It could not be made active.
    Failed,
    /// As many wait as may.
    Full,
    /// It is active, and a limit of the device leaves no place for a run: which.
    Busy(Cause),
}

/// How one function stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    pub(crate) state: &'static str,
    /// Requests that were let in and have not ended, and those that wait.
    pub(crate) in_use: usize,
    pub(crate) waiting: usize,
    /// Runs that ended, and how long they took together.
    pub(crate) runs: u64,
    pub(crate) run_seconds: f64,
}

impl Planned {
    pub(super) fn new(
        device: &DeviceConfig,
        config: PlannedConfig,
        host: Arc<dyn FunctionHost>,
        (hold, places): (Arc<Hold>, Arc<Semaphore>),
    ) -> Arc<Self> {
        let held = host.functions();
        let memory: Vec<u64> = held.iter().map(|held| held.memory_bytes).collect();
        let most_waiting = device.limits.waiting;
        let budget = config.memory_bytes.unwrap_or(u64::MAX);
        let core = Core {
            activation: Activation::new(&memory, budget, config.timeout, most_waiting),
            waits: HashMap::new(),
            next: None,
            told: vec![(false, false); held.len()],
            shown: (0, 0),
        };
        let planned = Arc::new(Planned {
            active: Active::planned(&held),
            ran: held.iter().map(|_| Ran::default()).collect(),
            core: Mutex::new(core),
            news: watch::Sender::new(()),
            sooner: Notify::new(),
            host,
            held,
            config,
            most_waiting,
            most_runs: device.limits.runs,
            places,
            hold,
        });
        let device = Arc::downgrade(&planned);
        planned.host.when_lost(Box::new(move |function| {
            if let Some(planned) = device.upgrade() {
                planned.lost(function);
            }
        }));
        planned
    }

    /// One that is active cannot be run any more.
    fn lost(self: &Arc<Self>, function: &str) {
        let Some(number) = self.number(function) else { return };
        if self.act(|core, _, _| core.activation.lost(number)) {
            self.active.lost(number);
        }
    }

    /// Does what time brings, as long as it is let.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            let next = self.core().next;
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.act(|_, _, _| ()),
                () = self.sooner.notified() => {}
            }
        }
    }

    /// Waits until `function` can be run, and has a place for that. Whoever does not wait any more drops this.
    pub(super) async fn enter(self: &Arc<Self>, function: &str) -> Result<LetIn, NotIn> {
        let number = self.number(function);
        let entered = self.act(|core, now, _| {
            // What there is none of is told by a run, which has a place like any other one.
            let Some(number) = number else { return self.take_place(core).map(Ok) };
            match core.activation.enter(number, self.free(), now) {
                Entry::Runs => {
                    self.take_place(core).map(Ok).inspect_err(|_| core.activation.end(number, now))
                }
                Entry::Busy => Err(NotIn::Busy(self.busy())),
                Entry::Full => Err(NotIn::Full),
                Entry::Fails => Err(NotIn::Failed),
                Entry::Waits(ticket) => {
                    let (hears, heard) = oneshot::channel();
                    core.waits.insert(ticket, Waiting { since: now, hears });
                    Ok(Err((number, ticket, heard)))
                }
            }
        });
        if let (Some(number), Err(not_in @ (NotIn::Full | NotIn::Failed))) = (number, &entered) {
            let wait = if *not_in == NotIn::Full { Wait::Full } else { Wait::Failed };
            self.active.waited(number, wait, None);
        }
        let (number, ticket, heard) = match entered? {
            Ok(place) => return Ok(LetIn { place, in_use: InUse { planned: self.clone(), number } }),
            Err(waits) => waits,
        };
        let patient = Patient { planned: self, number, ticket };
        let heard = heard.await;
        std::mem::forget(patient);
        match heard {
            Ok(Ok(let_in)) => Ok(let_in),
            Ok(Err(Why::Late)) => Err(NotIn::Late),
            Ok(Err(Why::NoPlace)) => Err(NotIn::Busy(self.busy())),
            // Whoever would tell is there as long as this device.
            Ok(Err(Why::Failed)) | Err(_) => Err(NotIn::Failed),
        }
    }

    /// A place for one who came last.
    fn take_place(&self, core: &Core) -> Result<OwnedSemaphorePermit, NotIn> {
        if self.free() == 0 || core.activation.waits_for_place() {
            return Err(NotIn::Busy(self.busy()));
        }
        self.places.clone().try_acquire_owned().map_err(|_| NotIn::Busy(Cause::ConcurrencyLimit))
    }

    /// How many runs may begin now.
    fn free(&self) -> usize {
        let free = self.places.available_permits();
        let under_way = self.most_runs.saturating_sub(free);
        free.min(self.hold.most_runs().saturating_sub(under_way))
    }

    /// Which limit leaves none.
    fn busy(&self) -> Cause {
        let free = self.places.available_permits();
        let by_hold = self.hold.admit(self.most_runs.saturating_sub(free) + 1).err();
        by_hold.filter(|_| free > 0).unwrap_or(Cause::ConcurrencyLimit)
    }

    /// A control plane hears this sidecar.
    pub(crate) fn connected(self: &Arc<Self>) {
        self.act(|core, now, _| core.activation.connected(now));
    }

    /// None does any more.
    pub(crate) fn disconnected(self: &Arc<Self>) {
        self.act(|core, _, _| core.activation.disconnected());
    }

    /// It says which functions are to be active. Of those that are not here it may know from another sidecar.
    pub(crate) fn plan(self: &Arc<Self>, names: &[String]) {
        let plan = names.iter().filter_map(|name| self.number(name)).collect();
        self.act(|core, _, _| core.activation.plan(plan));
    }

    /// An operator wants this one active. False: there is none of this name.
    pub(crate) fn ask(self: &Arc<Self>, name: &str) -> bool {
        let number = self.number(name);
        number.map(|number| self.act(|core, now, _| core.activation.ask(number, now))).is_some()
    }

    /// An operator wants it to go. False: there is none of this name.
    pub(crate) fn dismiss(self: &Arc<Self>, name: &str) -> bool {
        let number = self.number(name);
        number.map(|number| self.act(|core, _, _| core.activation.dismiss(number))).is_some()
    }

    /// Resolves when other functions are active, or waited for.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// The names of those that are active.
    pub(crate) fn active(&self) -> Vec<String> {
        self.names(|activation, number| activation.state(number) == State::Active)
    }

    /// The names of those that requests wait for.
    pub(crate) fn waited_for(&self) -> Vec<String> {
        self.names(|activation, number| activation.waiting_for(number) > 0)
    }

    /// How each function stands.
    pub(crate) fn standing(&self) -> Vec<Standing> {
        let core = self.core();
        let standing = |(number, held): (Number, &Held)| Standing {
            name: held.name.clone(),
            memory_bytes: held.memory_bytes,
            state: label(core.activation.state(number)),
            in_use: core.activation.runs(number),
            waiting: core.activation.waiting_for(number),
            runs: self.ran[number].runs.load(Relaxed),
            run_seconds: Duration::from_nanos(self.ran[number].nanos.load(Relaxed)).as_secs_f64(),
        };
        self.held.iter().enumerate().map(standing).collect()
    }

    /// What those that are not inactive take, in bytes.
    pub(crate) fn taken(&self) -> u64 {
        self.core().activation.taken()
    }

    /// What they may take. None: there is no limit.
    pub(crate) fn budget(&self) -> Option<u64> {
        self.config.memory_bytes
    }

    /// Most requests that wait at once.
    pub(crate) fn most_waiting(&self) -> usize {
        self.most_waiting
    }

    /// In a word, who says which functions are to be active.
    pub(crate) fn planner(&self) -> &'static str {
        match self.core().activation.planner() {
            Planner::Absent => "absent",
            Planner::Expected(_) => "expected",
            Planner::Silent => "silent",
            Planner::Plans(_) => "plans",
        }
    }

    fn number(&self, name: &str) -> Option<Number> {
        self.held.iter().position(|held| held.name == name)
    }

    fn names(&self, which: impl Fn(&Activation, Number) -> bool) -> Vec<String> {
        let core = self.core();
        let named = self.held.iter().enumerate().filter(|(number, _)| which(&core.activation, *number));
        named.map(|(_, held)| held.name.clone()).collect()
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happens; then all that follows from it is done.
    fn act<T>(self: &Arc<Self>, happens: impl FnOnce(&mut Core, Instant, &mut Vec<Effect>) -> T) -> T {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut core = self.core();
        // Those who wait have the places that are free before one who comes.
        if core.activation.waits_for_place() {
            self.settle(&mut core, now, Vec::new(), &mut due);
        }
        let mut effects = Vec::new();
        let happened = happens(&mut core, now, &mut effects);
        self.settle(&mut core, now, effects, &mut due);
        let mut next = core.activation.next(now);
        // Nobody says when limits leave more.
        if core.activation.waits_for_place() && self.hold.most_runs() < self.most_runs {
            next = Some(next.map_or(now + LOOK, |next| next.min(now + LOOK)));
        }
        let is_sooner = next.is_some_and(|next| core.next.is_none_or(|last| next < last));
        core.next = next;
        let is_news = self.tell(&mut core);
        drop(core);
        if is_sooner {
            self.sooner.notify_one();
        }
        if is_news {
            self.news.send_replace(());
        }
        for due in due {
            match due {
                Due::Work(effect) => self.start(effect),
                Due::LetIn(number, waiting, place) => {
                    let in_use = InUse { planned: self.clone(), number: Some(number) };
                    self.hear(waiting, number, Wait::Run, Ok(LetIn { place, in_use }));
                }
                Due::Refuse(number, waiting, why) => {
                    let wait = if why == Why::Failed { Wait::Failed } else { Wait::Timeout };
                    self.hear(waiting, number, wait, Err(why));
                }
            }
        }
        happened
    }

    /// What follows, beside `effects`, is due. Who is let in has a place from here on.
    fn settle(&self, core: &mut Core, now: Instant, mut effects: Vec<Effect>, due: &mut Vec<Due>) {
        core.activation.settle(self.free(), now, &mut effects);
        for effect in effects {
            due.push(match effect {
                Effect::Activate(..) | Effect::Deactivate(_) => Due::Work(effect),
                Effect::Refuse(number, ticket, why) => Due::Refuse(number, core.waits.remove(&ticket), why),
                Effect::Release(number, ticket) => {
                    let waiting = core.waits.remove(&ticket);
                    match self.places.clone().try_acquire_owned() {
                        Ok(place) => Due::LetIn(number, waiting, place),
                        // Nobody else takes one without `core`.
                        Err(_) => {
                            core.activation.end(number, now);
                            Due::Refuse(number, waiting, Why::NoPlace)
                        }
                    }
                }
            });
        }
    }

    /// A request waits no more. One that has left in this moment lets go of what it is given.
    fn hear(&self, waiting: Option<Waiting>, number: Number, wait: Wait, said: Result<LetIn, Why>) {
        if let Some(waiting) = waiting {
            self.active.waited(number, wait, Some(waiting.since.elapsed()));
            let _ = waiting.hears.send(said);
        }
    }

    /// Shows what has changed. True: others want to know as well.
    fn tell(&self, core: &mut Core) -> bool {
        let mut is_news = false;
        let Core { activation, told, shown, .. } = core;
        for (number, told) in told.iter_mut().enumerate() {
            let is_active = activation.state(number) == State::Active;
            let now = (is_active, activation.waiting_for(number) > 0);
            if told.0 != is_active {
                self.active.is_active(number, is_active);
            }
            is_news |= *told != now;
            *told = now;
        }
        let now = (activation.waiting(), activation.taken());
        if std::mem::replace(shown, now) != now {
            self.active.show(now.0, now.1);
        }
        is_news
    }

    /// Makes a function active, or lets it go.
    fn start(self: &Arc<Self>, effect: Effect) {
        let planned = self.clone();
        let work = move || {
            // To compile one takes as much as to run it.
            priority::take(planned.hold.priority);
            let done = catch_unwind(AssertUnwindSafe(|| planned.work(effect)));
            planned.done(effect, done.unwrap_or_else(|_| Err("a fault of the sidecar".into())));
        };
        if let Err(error) = std::thread::Builder::new().name("activation".into()).spawn(work) {
            self.done(effect, Err(format!("no thread for it: {error}")));
        }
    }

    fn work(&self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Activate(number, _) => self.host.activate(&self.held[number].name),
            Effect::Deactivate(number) => self.host.deactivate(&self.held[number].name),
            Effect::Release(..) | Effect::Refuse(..) => Ok(()),
        }
    }

    fn done(self: &Arc<Self>, effect: Effect, done: Result<(), String>) {
        let (number, by) = match effect {
            Effect::Activate(number, by) => (number, Some(by)),
            Effect::Deactivate(number) => (number, None),
            Effect::Release(..) | Effect::Refuse(..) => return,
        };
        let (function, is_well, begins) = (&self.held[number].name, done.is_ok(), by.is_some());
        match done {
            Ok(()) => tracing::debug!(function, active = begins, "function"),
            Err(why) if begins => tracing::warn!(function, why, "the function cannot be made active"),
            Err(why) => tracing::warn!(function, why, "the function does not go"),
        }
        match by {
            Some(by) if is_well => self.active.came(number, by),
            None if is_well => self.active.went(number),
            _ => {}
        }
        self.act(|core, now, effects| match begins {
            true => core.activation.activated(number, is_well, now, effects),
            false => core.activation.deactivated(number, is_well, now),
        });
    }
}

impl InUse {
    /// Its run has ended, which took so long.
    pub(super) fn ran(&self, took: Duration) {
        let Some(ran) = self.number.map(|number| &self.planned.ran[number]) else { return };
        ran.runs.fetch_add(1, Relaxed);
        ran.nanos.fetch_add(nanos(took), Relaxed);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // Even where nothing was in use: its place may be somebody's who waits.
        self.planned.act(|core, now, _| {
            if let Some(number) = self.number {
                core.activation.end(number, now);
            }
        });
    }
}

/// One who waits, until this is dropped.
struct Patient<'a> {
    planned: &'a Arc<Planned>,
    number: Number,
    ticket: Ticket,
}

impl Drop for Patient<'_> {
    fn drop(&mut self) {
        let left = self.planned.act(|core, _, _| {
            let waited = core.activation.leave(self.number, self.ticket);
            core.waits.remove(&self.ticket).filter(|_| waited)
        });
        if let Some(waiting) = left {
            self.planned.active.waited(self.number, Wait::Left, Some(waiting.since.elapsed()));
        }
    }
}

const fn label(state: State) -> &'static str {
    match state {
        State::Inactive => "inactive",
        State::Activating => "activating",
        State::Active => "active",
        State::Leaving => "leaving",
        State::Deactivating => "deactivating",
    }
}
