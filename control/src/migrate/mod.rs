//! Migrations: a service moves from one registered instance to another, and no request notices.
//!
//! [`lighter_migrate::Coordinator`] decides; [`drive`] does what it decides. Of a Service with state one instance serves at a
//! time; which, [`owner`] decides while nothing moves. What is written down is in the store before anything
//! follows from it that depends on it, so that a control plane that begins again goes on where the last one was, however that ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lighter_config::manifest::Key as ResourceKey;
use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Migration, StateClass};
use lighter_migrate::{Class, Phase};
use tokio::sync::Notify;

use crate::registry::Key;
use crate::state::State;
use crate::store::{Store, StoreError};

mod ask;
mod drive;
mod function;
mod gain;
mod hold;
mod leave;
mod owner;
mod show;
mod standby;
mod stateful;
mod story;
#[cfg(test)]
mod tests;

use drive::{Driver, World};
pub use gain::{Answer, Fate, Seats};
use leave::Leaving;
use owner::Keeping;
#[cfg(test)]
pub use show::Entered;
pub use show::{Foreseen, Made, Shown};
pub use story::Outcome;
use story::{Moved, Reason, Story};

/// Every migration that there is or was.
#[derive(Default)]
pub struct Migrations {
    all: Mutex<All>,
    /// There is something to look at.
    woken: Notify,
    /// How many are under way in each phase: to be read while something is written to the disk.
    in_phases: [AtomicUsize; PHASES.len()],
}

#[derive(Default)]
struct All {
    /// What is asked for.
    wanted: Vec<(ResourceKey, Migration)>,
    /// Why those were asked for that the control plane asked for by itself, by name, as long as they have not begun.
    reasons: BTreeMap<Arc<str>, Reason>,
    /// Those that are over, by name.
    over: BTreeMap<Arc<str>, Story>,
    under_way: BTreeMap<ServiceName, Driver>,
    moved: BTreeMap<ServiceName, Moved>,
    /// The Services with state.
    stateful: BTreeMap<ServiceName, StateClass>,
    keeping: BTreeMap<ServiceName, Keeping>,
    /// Of those whose instance is to drain: what was done about it.
    leaving: BTreeMap<ServiceName, Leaving>,
}

/// Why somebody's wish for an abort is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAborted {
    /// There is none.
    #[error("there is no Migration {0}; `lighter get migrations` lists them")]
    Unknown(String),
    /// It waits.
    #[error("Migration {0} has not begun: `lighter delete migration` takes it back")]
    NotBegun(String),
    /// It has ended.
    #[error("Migration {0} is over: {1}")]
    Over(String, &'static str),
    /// The commit point is behind it.
    #[error(
        "Migration {0} is decided, and goes on: the new instance has the service. Once it is over, migrate back"
    )]
    Decided(String),
}

impl Migrations {
    /// Has somebody look at what has changed.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Has one aborted.
    pub fn abort(&self, name: &str, state: &State) -> Result<(), NotAborted> {
        let mut all = self.lock();
        let all = &mut *all;
        let world = World { state, start: state.began, now: Instant::now() };
        let named = || name.to_owned();
        if let Some(driver) = all.under_way.values_mut().find(|driver| &*driver.story.name == name) {
            if let Some(outcome) = driver.story.outcome {
                return Err(NotAborted::Over(named(), outcome.label()));
            }
            let may = driver.abort(&world);
            self.woken.notify_one();
            return if may { Ok(()) } else { Err(NotAborted::Decided(named())) };
        }
        if let Some(story) = all.over.get(name) {
            return Err(NotAborted::Over(named(), story.outcome.map_or("", Outcome::label)));
        }
        let is_wanted = all.wanted.iter().any(|(key, _)| is_called(key, name));
        Err(if is_wanted { NotAborted::NotBegun(named()) } else { NotAborted::Unknown(named()) })
    }

    /// Each of them, as people see it: by namespace and name.
    pub fn shown(&self, namespace: Option<&str>) -> Vec<Shown> {
        let all = self.lock();
        let stories = all.over.values().chain(all.under_way.values().map(|driver| &driver.story));
        let mut shown: Vec<Shown> =
            stories.map(|story| Shown::of(story, all.moved_of(&story.service))).collect();
        for (key, asked) in &all.wanted {
            let name = name_of(key);
            if !shown.iter().any(|shown| shown.is_called(&name) && !shown.gone) {
                let reason = all.reasons.get(&*name).copied().unwrap_or_default();
                shown.push(Shown::waiting(&name, asked, reason));
            }
        }
        for shown in &mut shown {
            let service = service_name(&shown.service);
            let class = service.and_then(|service| all.stateful.get(&service).copied());
            shown.is_of(class);
        }
        shown.retain(|shown| namespace.is_none_or(|namespace| shown.namespace == namespace));
        shown.sort_by(|a, b| (&a.namespace, a.began, &a.name).cmp(&(&b.namespace, b.began, &b.name)));
        shown
    }

    /// How many are in each phase, of those that are under way.
    pub fn phases(&self) -> impl Iterator<Item = (Phase, usize)> {
        PHASES.into_iter().zip(&self.in_phases).map(|(phase, count)| (phase, count.load(Relaxed)))
    }

    /// Looks at everything. Returns after how long it is to be looked at again, whatever happens.
    fn round(&self, state: &State, is_changed: bool) -> Option<Duration> {
        let mut all = self.lock();
        let again = all.round(state, is_changed);
        for (phase, count) in PHASES.iter().zip(&self.in_phases) {
            let phases = all.under_way.values().filter_map(|driver| driver.story.phase());
            count.store(phases.filter(|at| at.label() == phase.label()).count(), Relaxed);
        }
        again
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The phases in which time passes.
pub const PHASES: [Phase; 12] = [
    Phase::Plan,
    Phase::Prepare,
    Phase::Warm,
    // Of each round.
    Phase::Precopy(1),
    Phase::Hold,
    Phase::Quiesce,
    Phase::Finalcopy,
    Phase::Fence,
    Phase::Activate,
    Phase::Switch,
    Phase::Forward,
    Phase::DrainOld,
];

/// The instances that callers are not told of, by what is kept.
pub fn withdrawn(store: &Store) -> Result<BTreeMap<ServiceName, BTreeSet<Arc<str>>>, StoreError> {
    let moved = read::<Moved>(store, SERVICE)?;
    Ok(moved.into_iter().filter_map(|(name, moved)| Some((service_name(&name)?, moved.withdrawn))).collect())
}

/// The only instance of each Service with state that callers are told of, by what is kept.
pub fn alone(store: &Store) -> Result<BTreeMap<ServiceName, Option<Arc<str>>>, StoreError> {
    let moved = read::<Moved>(store, SERVICE)?;
    let mut kept: BTreeMap<ServiceName, Option<Arc<str>>> =
        moved.into_iter().filter_map(|(name, moved)| Some((service_name(&name)?, moved.listed))).collect();
    let stateful = with_state(store).into_keys();
    Ok(stateful.map(|service| (service.clone(), kept.remove(&service).flatten())).collect())
}

/// Drives migrations until the control plane stops.
pub async fn keep(state: Arc<State>) {
    let mut stopping = state.stopping();
    let mut changed = state.store.watch();
    let mut is_first = true;
    loop {
        let is_changed = std::mem::take(&mut is_first) || changed.has_changed().unwrap_or(false);
        if is_changed {
            // What changes from here on is seen next time.
            changed.mark_unchanged();
        }
        // Writing keeps a disk busy.
        let round = tokio::task::spawn_blocking({
            let state = state.clone();
            move || state.migrations.round(&state, is_changed)
        });
        let again = match round.await {
            Ok(again) => again,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let again = async {
            match again {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopping.asked() => return,
            () = state.migrations.woken.notified() => {}
            _ = changed.changed() => changed.mark_changed(),
            () = again => {}
        }
    }
}

/// Takes over what another control plane left. Before anybody listens.
pub fn open(state: &State) -> Result<(), StoreError> {
    let mut all = state.migrations.lock();
    let world = World { state, start: state.began, now: Instant::now() };
    for (name, mut moved) in read::<Moved>(&state.store, SERVICE)? {
        let Some(service) = service_name(&name) else { continue };
        // An instance's name is that of one process: whoever is gone does not come back under it.
        let is_there = |name: &Arc<str>| {
            let key = Key { service: service.clone(), name: name.clone() };
            state.registry.presence(&key).is_some()
        };
        moved.withdrawn.retain(is_there);
        all.moved.insert(service, moved);
    }
    for (name, reason) in read::<Reason>(&state.store, REASON)? {
        all.reasons.insert(name.into(), reason);
    }
    for (_, story) in read::<Story>(&state.store, STORY)? {
        all.reasons.remove(&story.name);
        match Driver::resume(story.clone(), &world) {
            Some(driver) => {
                tracing::info!(migration = %driver.story.name, "a migration goes on where it was");
                all.under_way.insert(driver.service.clone(), driver);
            }
            None => drop(all.over.insert(story.name.clone(), story)),
        }
    }
    Ok(())
}

impl All {
    /// Looks at everything. Returns after how long it is to be looked at again, whatever happens.
    fn round(&mut self, state: &State, is_changed: bool) -> Option<Duration> {
        let world = World { state, start: state.began, now: Instant::now() };
        if is_changed {
            self.wanted = state.store.migrations();
            self.stateful = with_state(&state.store);
            self.keeping.retain(|service, _| self.stateful.contains_key(service));
            state.registry.alone_are(|service| self.stateful.contains_key(service), &state.index);
            self.forget(&world);
        }
        let is_settled = self.keep_owners(&world);
        self.see_to_those_who_leave(&world);
        self.begin(&world);
        for driver in self.under_way.values_mut() {
            if driver.rests_until.is_some_and(|until| until > world.now) {
                continue;
            }
            driver.rests_until = None;
            let moved = self.moved.entry(driver.service.clone()).or_default();
            if let Err(error) = driver.drive(moved, &world, &|story, moved| write(&state.store, story, moved))
            {
                tracing::error!(%error, migration = %driver.story.name, "a migration is not written down: it does not go on");
                driver.rests_until = Some(world.now + RETRY);
            }
        }
        let is_settled = self.keep_journals(&world) && is_settled;
        for driver in self.under_way.values_mut() {
            // Nobody says that it serves of a Service that has no state any more.
            driver.is_settled |= !self.stateful.contains_key(&driver.service);
        }
        let has_none = |driver: &Driver| driver.has_state() && !self.stateful.contains_key(&driver.service);
        if self.under_way.values().any(has_none) {
            // Callers are told of all instances of it again, whatever its migration did.
            state.registry.alone_are(|service| self.stateful.contains_key(service), &state.index);
        }
        let over = self.under_way.extract_if(.., |_, driver| driver.is_over());
        let over: Vec<Story> = over.map(|(_, driver)| driver.story).collect();
        let has_ended = !over.is_empty();
        for story in over {
            self.end(story, state);
        }
        // Others may have waited for its end.
        let is_busy = has_ended || !self.under_way.is_empty() || !is_settled;
        // Who registers, and whose lease is over, is seen by looking.
        is_busy.then_some(TICK).or((!self.stateful.is_empty()).then_some(LOOK))
    }

    /// Sees to it that of each Service with state one instance serves, where nothing of it moves. Returns whether nobody is waited
    /// for.
    fn keep_owners(&mut self, world: &World<'_>) -> bool {
        let mut are_settled = true;
        for service in self.stateful.keys().filter(|service| !self.under_way.contains_key(service)) {
            let keeping = self.keeping.entry(service.clone()).or_default();
            if keeping.rests_until.is_some_and(|until| until > world.now) {
                continue;
            }
            let moved = self.moved.entry(service.clone()).or_default();
            let store = &world.state.store;
            match keeping.keep(service, moved, world, &|moved| write_moved(store, service, moved)) {
                Ok(is_settled) => are_settled &= is_settled,
                Err(error) => {
                    tracing::error!(%error, %service, "it is not written down whose a service is: nobody is told");
                    keeping.rests_until = Some(world.now + RETRY);
                }
            }
        }
        are_settled
    }

    /// Sees to it that somebody keeps the journal of each Service whose state is journaled, whether it moves or not. Returns whether
    /// nobody is waited for.
    fn keep_journals(&mut self, world: &World<'_>) -> bool {
        let mut are_settled = true;
        for (service, class) in &self.stateful {
            let keeping = self.keeping.entry(service.clone()).or_default();
            if keeping.rests_until.is_some_and(|until| until > world.now) {
                continue;
            }
            let moved = self.moved.entry(service.clone()).or_default();
            let store = &world.state.store;
            let write = |moved: &Moved| write_moved(store, service, moved);
            match keeping.keep_journal(service, *class, moved, world, &write) {
                Ok(is_settled) => are_settled &= is_settled,
                Err(error) => {
                    tracing::error!(%error, %service, "it is not written down who keeps a journal: nobody is told");
                    keeping.rests_until = Some(world.now + RETRY);
                }
            }
        }
        are_settled
    }

    /// What is kept of the Service of this name.
    fn moved_of(&self, service: &str) -> Option<&Moved> {
        self.moved.get(&service_name(service)?)
    }

    /// Begins what is asked for and has not begun, one at a time of each Service.
    fn begin(&mut self, world: &World<'_>) {
        for (key, asked) in &self.wanted {
            let name = name_of(key);
            let is_again = self.over.get(&*name).is_some_and(|story| story.is_gone);
            let is_known = self.over.contains_key(&*name) && !is_again;
            // One that was changed meanwhile is still the one that it was.
            let is_under_way = self.under_way.values().any(|driver| *driver.story.name == *name);
            if is_known || is_under_way || self.under_way.contains_key(&asked.service) {
                continue;
            }
            let moved = self.moved.entry(asked.service.clone()).or_default();
            let was_withdrawn = moved.withdrawn.contains(&asked.to);
            let keeps = self.stateful.get(&asked.service).copied();
            let class = stateful::class(keeps);
            let heard = if keeps.is_some() { stateful::heard(&asked.service, world.state) } else { 0 };
            let number = moved.number.max(heard).saturating_add(1);
            let mut story = Story::new(name.into(), asked, class, number, was_withdrawn);
            story.copy = stateful::copy_time(asked, world.state);
            story.rounds = stateful::rounds(asked, world.state);
            story.cuts = stateful::cuts(asked, world.state);
            story.reason = self.reasons.remove(&story.name).unwrap_or_default();
            tracing::info!(migration = %story.name, service = %asked.service, from = %asked.from, to = %asked.to, "a migration begins");
            let because =
                stateful::why_not_of(asked, keeps).or_else(|| why_not(asked, class, moved, world.state));
            let because = because.or_else(|| match crate::ca::random::<TOKEN>() {
                Ok(token) => {
                    story.token = token.to_vec();
                    None
                }
                Err(error) => Some(error.to_string()),
            });
            if let Some(because) = because {
                story.refuse(because);
                if let Err(error) = write(&world.state.store, &story, moved) {
                    tracing::error!(%error, "a migration that is refused is not written down");
                }
                count(&story, world.state);
                forget_reason(&story, world.state);
                self.over.insert(story.name.clone(), story);
                continue;
            }
            moved.number = story.number;
            self.over.remove(&story.name);
            self.under_way
                .insert(asked.service.clone(), Driver::begin(story, asked.service.clone(), moved, world));
        }
    }

    /// Aborts what is no longer asked for, where that is possible, and keeps no more of those that are over than is of use.
    fn forget(&mut self, world: &World<'_>) {
        let wanted: BTreeSet<String> = self.wanted.iter().map(|(key, _)| name_of(key)).collect();
        let is_wanted = |story: &Story| wanted.contains(&*story.name);
        for driver in self.under_way.values_mut().filter(|driver| !is_wanted(&driver.story)) {
            driver.story.is_gone = true;
            driver.abort(world);
        }
        let mut facts = Vec::new();
        for (name, _) in self.reasons.extract_if(.., |name, _| !wanted.contains(&**name)) {
            facts.push((fact(REASON, &name), None));
        }
        for story in self.over.values_mut() {
            if !story.is_gone && !is_wanted(story) {
                story.is_gone = true;
                facts.push((fact(STORY, &story.name), serde_json::to_vec(story).ok()));
            }
        }
        let mut gone: Vec<(Duration, Arc<str>)> = self
            .over
            .values()
            .filter(|story| story.is_gone)
            .map(|story| (story.began, story.name.clone()))
            .collect();
        gone.sort();
        for (_, name) in gone.iter().take(gone.len().saturating_sub(MOST_GONE)) {
            self.over.remove(name);
            facts.push((fact(STORY, name), None));
        }
        if let Err(error) = world.state.store.set_facts(FACTS, &facts) {
            tracing::error!(%error, "what is forgotten of migrations is not written");
        }
    }

    fn end(&mut self, story: Story, state: &State) {
        count(&story, state);
        let outcome = story.outcome.map_or("", Outcome::label);
        tracing::info!(migration = %story.name, outcome, because = story.because, "a migration is over");
        forget_reason(&story, state);
        self.over.insert(story.name.clone(), story);
    }
}

fn count(story: &Story, state: &State) {
    if let Some(outcome) = story.outcome {
        state.metrics.migrations[outcome as usize].fetch_add(1, Relaxed);
        if let Reason::Gain { .. } = story.reason {
            state.metrics.planned_migrations[outcome as usize].fetch_add(1, Relaxed);
        }
    }
}

/// Why it was asked for is in its story by now.
fn forget_reason(story: &Story, state: &State) {
    if story.reason == Reason::Asked {
        return;
    }
    if let Err(error) = state.store.set_facts(FACTS, &[(fact(REASON, &story.name), None)]) {
        tracing::warn!(%error, "why a migration was asked for is kept for longer than is of use");
    }
}

/// Why one cannot begin.
fn why_not(asked: &Migration, class: Class, moved: &Moved, state: &State) -> Option<String> {
    let mut ports = BTreeSet::new();
    for name in [&asked.from, &asked.to] {
        let key = Key { service: asked.service.clone(), name: name.clone() };
        let Some(presence) = state.registry.presence(&key) else {
            return Some(format!(
                "no instance `{name}` of {} is registered; `lighter get sidecars` lists them",
                asked.service
            ));
        };
        if presence.draining {
            return Some(format!("`{name}` drains"));
        }
        if let Some(port) = ports.difference(&presence.ports).next() {
            return Some(format!("`{name}` does not have port {port}, which `{}` has", asked.from));
        }
        ports = presence.ports;
    }
    if ports.is_empty() {
        return Some(format!("`{}` has no port at which callers would reach it", asked.to));
    }
    if class != Class::Stateless {
        return stateful::why_not(asked, moved, state);
    }
    moved.withdrawn.contains(&asked.from).then(|| {
        format!("callers are not sent to `{}`: another migration took its work elsewhere", asked.from)
    })
}

/// Writes all of it in one transaction.
fn write(store: &Store, story: &Story, moved: &Moved) -> Result<(), StoreError> {
    let unfit = |error: serde_json::Error| StoreError::Backup(error.to_string());
    let facts = [
        (fact(STORY, &story.name), Some(serde_json::to_vec(story).map_err(unfit)?)),
        (fact(SERVICE, &story.service), Some(serde_json::to_vec(moved).map_err(unfit)?)),
    ];
    store.set_facts(FACTS, &facts)
}

/// Writes whose a Service is.
fn write_moved(store: &Store, service: &ServiceName, moved: &Moved) -> Result<(), StoreError> {
    let moved = serde_json::to_vec(moved).map_err(|error| StoreError::Backup(error.to_string()))?;
    store.set_facts(FACTS, &[(fact(SERVICE, &service.to_string()), Some(moved))])
}

/// The Services that keep something between requests.
fn with_state(store: &Store) -> BTreeMap<ServiceName, StateClass> {
    let snapshot = store.snapshot();
    let services = snapshot.services.iter();
    services.filter_map(|(name, service)| Some((name.clone(), service.state.as_ref()?.class))).collect()
}

/// What is kept of this sort, by name.
fn read<T: serde::de::DeserializeOwned>(store: &Store, sort: &str) -> Result<Vec<(String, T)>, StoreError> {
    let mut found = Vec::new();
    for (name, bytes) in store.facts(FACTS)? {
        let Some(name) = name.strip_prefix(sort).and_then(|name| name.strip_prefix(' ')) else { continue };
        match serde_json::from_slice(&bytes) {
            Ok(fact) => found.push((name.to_owned(), fact)),
            Err(error) => tracing::error!(name, %error, "what is kept of a migration cannot be read"),
        }
    }
    Ok(found)
}

fn fact(sort: &str, name: &str) -> String {
    format!("{sort} {name}")
}

fn name_of(key: &ResourceKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

fn is_called(key: &ResourceKey, name: &str) -> bool {
    name.split_once('/') == Some((&*key.namespace, &*key.name))
}

fn service_name(text: &str) -> Option<ServiceName> {
    let (namespace, name) = text.split_once('/')?;
    Some(ServiceName::new(namespace, name))
}

/// What the store calls them.
const FACTS: &str = "migration";
const STORY: &str = "story";
const REASON: &str = "reason";
const SERVICE: &str = "service";

/// How often it is looked at those that are under way.
const TICK: Duration = Duration::from_millis(20);
/// How often it is looked at whose Services with state are, while nobody is waited for.
const LOOK: Duration = Duration::from_millis(200);
/// How many bytes nobody can guess whoever fetches a state has to show.
const TOKEN: usize = 32;
/// When what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// So many are kept whose resource is gone.
const MOST_GONE: usize = 100;
