//! Does for a coordinator what it decides, and tells it how its places stand.
//!
//! A place of a stateless service is an instance that is registered; whether it serves is whether callers are told of it, which
//! is decided and kept here. So what a sidecar would say of itself as a place follows from its registration, and most orders
//! to places are done by what is kept. What only the old place's sidecar can say is what callers have under way there. What is
//! different of a Service with state is in `stateful`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lighter_config::name::ServiceName;
use lighter_migrate::{
    Action, Cell, Command, Coordinator, Decision, Epoch, Order, Phase, Plan, Record, Report, Role, Source,
    Stamp, Stand, Transaction, Why,
};

use super::hold::Callers;
use super::owner;
use super::standby::{Heir, heir};
use super::story::{LIFE, Moved, Outcome, Story};
use crate::registry::{Key, Presence};
use crate::state::State;
use crate::store::StoreError;

/// A migration that is under way.
pub(super) struct Driver {
    pub(super) story: Story,
    pub(super) service: ServiceName,
    pub(super) coordinator: Coordinator,
    /// What is to be done, in its order.
    todo: VecDeque<Action>,
    /// Something of the story is not written yet.
    pub(super) is_unwritten: bool,
    /// Since when, if nobody is told of it, and nothing else was to be written.
    is_unwritten_since: Option<Instant>,
    /// Before that nobody is told anything.
    is_bound: bool,
    old: Place,
    new: Place,
    /// Where the old place's sidecar accepts links, as was known last: whoever fetches its copy goes on by that.
    pub(super) copy_at: Option<SocketAddr>,
    /// It was told to prepare, and to become ready.
    is_prepared: bool,
    is_warmed: bool,
    is_discarded: bool,
    draining: Option<Draining>,
    /// Callers are told of this epoch by this change of the index.
    telling: Option<(Epoch, u64)>,
    /// Those whose requests wait meanwhile.
    pub(super) callers: Callers,
    /// Whoever has the journal has taken the Service over.
    is_inherited: bool,
    /// Of a Service with state: once it is over nobody is waited for.
    pub(super) is_settled: bool,
    /// It went on where another control plane was: its clients are waited for.
    is_resumed: bool,
    /// Before that nothing is done: the store did not take what it was to write.
    pub(super) rests_until: Option<Instant>,
}

/// What a place has said.
#[derive(Default)]
pub(super) struct Place {
    heard: Stamp,
    pub(super) said: Option<Report>,
    /// It was asked to say it again.
    is_asked: bool,
}

/// The old place is to have nothing under way.
#[derive(Default)]
struct Draining {
    /// The question that is open, and since when.
    asked: Option<(u64, Instant)>,
    /// When it answered last.
    answered: Option<Instant>,
    /// What it said.
    left: Option<u64>,
    /// How often it said in a row that there is nothing.
    zeros: u32,
    is_done: bool,
}

/// What a driver works with.
pub(super) struct World<'w> {
    pub(super) state: &'w State,
    /// When this control plane began.
    pub(super) start: Instant,
    pub(super) now: Instant,
}

impl World<'_> {
    pub(super) fn time(&self) -> Duration {
        self.now.saturating_duration_since(self.start)
    }

    /// Whether whoever was there before this control plane began has had the time to come back.
    pub(super) fn are_all_back(&self) -> bool {
        self.time() >= self.state.config.lease
    }
}

impl Driver {
    /// Begins.
    pub(super) fn begin(mut story: Story, service: ServiceName, moved: &Moved, world: &World<'_>) -> Self {
        let cell = story.begin(moved);
        let mut out = Vec::new();
        let callers = Callers::of(&story, &service, world);
        let plan = Plan { holders: callers.holders(), ..story.plan() };
        let coordinator = Coordinator::new(plan, cell, world.time(), &mut out);
        Driver { callers, ..Driver::with(story, service, coordinator, out) }
    }

    /// Goes on where another control plane was. None: it is over, or there is nothing to go on with.
    pub(super) fn resume(mut story: Story, world: &World<'_>) -> Option<Self> {
        let (service, mut cell) = (story.service()?, story.cell?);
        if story.outcome.is_some() || !cell.take_over(cell.term + 1) {
            return None;
        }
        story.cell = Some(cell);
        let mut out = Vec::new();
        let coordinator = Coordinator::resume(story.plan(), cell, &story.records(), world.time(), &mut out);
        let is_warmed = story.phase().is_some_and(|phase| phase >= Phase::Warm);
        let driver = Driver::with(story, service, coordinator, out);
        Some(Driver { is_prepared: is_warmed, is_warmed, is_resumed: true, ..driver })
    }

    fn with(story: Story, service: ServiceName, coordinator: Coordinator, out: Vec<Action>) -> Self {
        // What is said here was heard in this migration.
        let place =
            || Place { heard: Stamp { migration: story.number, ..Stamp::default() }, ..Place::default() };
        let (old, new) = (place(), place());
        Driver {
            story,
            service,
            coordinator,
            todo: out.into(),
            is_unwritten: true,
            is_unwritten_since: None,
            is_bound: true,
            old,
            new,
            copy_at: None,
            is_prepared: false,
            is_warmed: false,
            is_discarded: false,
            draining: None,
            telling: None,
            callers: Callers::default(),
            is_inherited: false,
            is_settled: false,
            is_resumed: false,
            rests_until: None,
        }
    }

    /// Everything that can be done now. `moved`: of its Service. `write`: to be durable when it returns.
    pub(super) fn drive(
        &mut self,
        moved: &mut Moved,
        world: &World<'_>,
        write: &impl Fn(&Story, &Moved) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            self.perform(moved, world, write)?;
            if self.has_nobody(world) {
                let mut story = self.story.clone();
                story.lose();
                write(&story, moved)?;
                self.story = story;
                break;
            }
            if self.is_inherited || matches!(self.todo.front(), Some(Action::Commit(_))) {
                // It is over, or somebody has yet to say what it has of the journal.
                break;
            }
            let mut out = Vec::new();
            let presence = Role::BOTH.map(|role| self.presence(role, world));
            let link = presence[Role::Old as usize].as_ref().and_then(|old| old.link);
            self.copy_at = link.or(self.copy_at);
            for role in Role::BOTH {
                match self.has_state() {
                    true => self.hear(role, presence[role as usize].as_ref(), world, &mut out),
                    false => self.report(role, &presence, world, &mut out),
                }
            }
            if self.has_state() {
                self.vouch(&presence, world, &mut out);
            }
            if presence[Role::New as usize].as_ref().is_some_and(|new| new.is_heard) {
                self.look_who_knows(world, &mut out);
            }
            if self.coordinator.timeout().is_some_and(|timeout| timeout <= world.time()) {
                self.coordinator.on_timeout(world.time(), &mut out);
            }
            self.todo.extend(out);
            if self.todo.is_empty() {
                self.look_who_serves(&presence);
                break;
            }
        }
        if self.is_over() {
            self.list(moved, world);
        }
        Ok(())
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.is_inherited
            || self.story.outcome == Some(Outcome::Lost)
            || self.coordinator.phase().is_terminal()
                && self.todo.is_empty()
                && (self.is_settled || !self.has_state())
    }

    /// Has callers told of whom they are to be told by what is kept.
    fn list(&self, moved: &Moved, world: &World<'_>) {
        let State { registry, index, .. } = world.state;
        match self.has_state() {
            true => registry.list_alone(&self.service, moved.listed.clone(), index),
            false => registry.withdraw(&self.service, moved.withdrawn.clone(), index),
        }
    }

    /// Whether it is decided, and neither place is there any more: the coordinator would wait for one without end.
    fn has_nobody(&self, world: &World<'_>) -> bool {
        let is_fenced = self.coordinator.cell().decision == Decision::Fenced;
        let is_over = self.coordinator.phase().is_terminal();
        is_fenced && !is_over && Role::BOTH.iter().all(|role| self.presence(*role, world).is_none())
    }

    /// Whether the coordinator takes it that somebody asks for an abort.
    pub(super) fn abort(&mut self, world: &World<'_>) -> bool {
        let mut out = Vec::new();
        let may = self.coordinator.abort(world.time(), &mut out);
        self.todo.extend(out);
        may
    }

    fn perform(
        &mut self,
        moved: &mut Moved,
        world: &World<'_>,
        write: &impl Fn(&Story, &Moved) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            // What is to be written down before the rest is written at once.
            while let Some(Action::Journal(record)) = self.todo.front().copied() {
                self.todo.pop_front();
                self.journal(record, world);
            }
            let next = self.todo.front().copied();
            if let Some(Action::Commit(transaction)) = next {
                match self.commit(&transaction, moved, world, write)? {
                    true => continue,
                    false => return Ok(()),
                }
            }
            // Whoever waits for a place is not to wait for the disk, where nothing depends on it; nor are callers, who may be
            // told where the service is.
            let waits = match next {
                None => self.is_unwritten && self.is_to_be_written(world),
                Some(Action::Send(..) | Action::Hold(..)) => self.is_bound,
                Some(_) => false,
            };
            if waits {
                write(&self.story, moved)?;
                self.is_written();
            }
            self.todo.pop_front();
            match next {
                None => return Ok(()),
                Some(Action::Send(role, command)) if self.has_state() => self.tell(role, command, world),
                Some(Action::Send(role, command)) => self.command(role, command),
                Some(Action::Endpoints(place, epoch)) => {
                    if self.has_state() {
                        moved.listed = Some(self.story.instance(place).clone());
                        self.is_unwritten = true;
                    }
                    self.list(moved, world);
                    self.telling = Some((epoch, world.state.index.last_change()));
                }
                Some(Action::Hold(holder, stamp, order)) => self.hold(holder, stamp, order, world),
                Some(Action::Journal(_) | Action::Commit(_)) => {}
            }
        }
    }

    /// Whether what is not written yet is to be written though nobody waits for it. What is heard meanwhile would wait for the
    /// disk, while nobody may serve: so it goes with what binds, which is soon, where it does not take long.
    fn is_to_be_written(&mut self, world: &World<'_>) -> bool {
        let since = *self.is_unwritten_since.get_or_insert(world.now);
        let is_due = world.now.saturating_duration_since(since) >= LATER;
        self.is_bound || is_due || self.coordinator.phase().is_terminal()
    }

    fn is_written(&mut self) {
        (self.is_unwritten, self.is_bound, self.is_unwritten_since) = (false, false, None);
    }

    fn journal(&mut self, record: Record, world: &World<'_>) {
        if let (Record::Entered(to), Some((from, since))) = (record, self.story.phases().last()) {
            world.state.metrics.migrated(from, super::story::since_1970().saturating_sub(since));
            tracing::info!(migration = %self.story.name, phase = to.label(), "a migration goes on");
        }
        let (clients, _) = world.state.streams.knowing(0, &world.state.registry.sidecars);
        self.story.clients = self.story.clients.max(clients);
        if record == Record::Entered(Phase::Done) {
            let is_drained = matches!(self.old.said.map(|said| said.stand), Some(Stand::Drained { .. }));
            self.story.left = match self.has_state() {
                true => is_drained.then_some(0),
                false => self.draining.as_ref().and_then(|draining| draining.left),
            };
        }
        self.story.write(record);
        self.is_unwritten = true;
        self.is_bound |= record.binds();
    }

    /// Asks the store: the cell, what is to be written down before it and behind it, and whom callers are told of change in one
    /// transaction. It is the first thing that there is to do. Returns whether it was done; it is not where whoever serves would begin
    /// with nothing, and another instance may have the journal.
    fn commit(
        &mut self,
        transaction: &Transaction,
        moved: &mut Moved,
        world: &World<'_>,
        write: &impl Fn(&Story, &Moved) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let Some(mut cell) = self.story.cell else { return Ok(true) };
        let is_done = cell.apply(transaction);
        if is_done && self.has_state() && cell.source == Source::Nothing {
            let seen = owner::seen(&self.service, world.state);
            match heir(moved, &seen) {
                Heir::Is(heir) => {
                    self.inherited(owner::inherits(moved, &seen, heir), &cell, moved, world, write)?;
                    return Ok(false);
                }
                Heir::Awaited => return Ok(false),
                Heir::None => {}
            }
        }
        let (mut out, mut coordinator) = (Vec::new(), self.coordinator.clone());
        coordinator.answered(cell, world.time(), &mut out);
        let mut out = VecDeque::from(out);
        if is_done {
            let before = (self.story.clone(), self.is_unwritten, self.is_bound);
            let after = moved.decided(&self.story, &cell);
            self.story.cell = Some(cell);
            // The phase that follows from it begins with it.
            while let Some(Action::Journal(record)) = out.front().copied() {
                out.pop_front();
                self.journal(record, world);
            }
            if let Err(error) = write(&self.story, &after) {
                (self.story, self.is_unwritten, self.is_bound) = before;
                return Err(error);
            }
            self.is_written();
            if after.losses > moved.losses {
                world.state.metrics.state_losses.fetch_add(after.losses - moved.losses, Relaxed);
                tracing::warn!(migration = %self.story.name, losses = after.losses, "the state of a service is lost, or may be");
            }
            *moved = after;
        }
        self.coordinator = coordinator;
        self.todo.pop_front();
        self.todo.extend(out);
        Ok(true)
    }

    /// Whoever has the journal serves `after` this, and the migration is over: its places have nothing of what was acknowledged.
    fn inherited(
        &mut self,
        after: Moved,
        cell: &Cell,
        moved: &mut Moved,
        world: &World<'_>,
        write: &impl Fn(&Story, &Moved) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut story, heir) =
            (self.story.clone(), after.owner.as_ref().map_or("", |owner| &*owner.instance));
        story.pass_on(cell.decision, heir);
        write(&story, &after)?;
        world.state.metrics.state_takeovers.fetch_add(1, Relaxed);
        tracing::warn!(migration = %story.name, instance = heir, epoch = after.epoch.0, "an instance takes over a service, with what the journal has");
        (self.story, *moved, self.is_inherited) = (story, after, true);
        self.todo.clear();
        Ok(())
    }

    fn command(&mut self, role: Role, command: Command) {
        let place = self.place(role);
        place.is_asked = true;
        if command.order == Order::Ask {
            return;
        }
        place.heard = place.heard.max(command.stamp);
        match command.order {
            Order::Prepare { .. } => (self.is_prepared, self.is_discarded) = (true, false),
            Order::Warm => self.is_warmed = true,
            Order::Discard => self.is_discarded = true,
            Order::Drain { force, .. } => {
                // What does not end in time is left to end where it is: the old place is not taken down.
                self.draining.get_or_insert_default().is_done |= force;
            }
            // The old place of a service without state serves whenever callers are told of it.
            Order::Serve { .. } => self.draining = None,
            // None is given where there is no state.
            Order::Ask
            | Order::Snapshot { .. }
            | Order::Restore(_)
            | Order::Quiesce { .. }
            | Order::Move { .. } => {}
        }
    }

    pub(super) fn instance(&self, role: Role) -> &Arc<str> {
        if role == Role::Old { &self.story.from } else { &self.story.to }
    }

    pub(super) fn presence(&self, role: Role, world: &World<'_>) -> Option<Presence> {
        let name = self.instance(role).clone();
        world.state.registry.presence(&Key { service: self.service.clone(), name })
    }

    fn report(
        &mut self,
        role: Role,
        [old, new]: &[Option<Presence>; 2],
        world: &World<'_>,
        out: &mut Vec<Action>,
    ) {
        let is_fenced = self.coordinator.cell().decision == Decision::Fenced;
        if is_fenced && new.as_ref().is_some_and(|new| !new.is_heard) {
            // Whether it has the work is known once it is heard again, or its lease is over.
            return;
        }
        let stand = match role {
            Role::Old => {
                self.ask_what_is_left(old.as_ref(), world);
                self.old_stands(old.as_ref())
            }
            Role::New => self.new_stands(old.as_ref(), new.as_ref()),
        };
        let place = self.place(role);
        let before = place.said;
        let revision = before.map_or(0, |said| said.revision);
        let mut report =
            Report { incarnation: LIFE, revision, heard: place.heard, stand, copy: None, declined: None };
        let is_new = before != Some(report);
        if !is_new && !std::mem::take(&mut place.is_asked) {
            return;
        }
        report.revision += u64::from(is_new);
        (place.said, place.is_asked) = (Some(report), false);
        self.coordinator.report(role, report, world.time(), out);
    }

    fn old_stands(&self, presence: Option<&Presence>) -> Stand {
        let cell = self.coordinator.cell();
        let is_fenced = cell.decision == Decision::Fenced;
        if is_fenced && self.draining.as_ref().is_some_and(|draining| draining.is_done) {
            return Stand::Drained { cut: 0 };
        }
        match presence {
            // It takes what comes, for as long as somebody comes.
            Some(presence) if presence.ready => {
                let epoch = Epoch(cell.epoch.0.saturating_sub(u64::from(is_fenced)));
                Stand::Serving { epoch }
            }
            _ => Stand::Empty,
        }
    }

    fn new_stands(&self, old: Option<&Presence>, presence: Option<&Presence>) -> Stand {
        let is_fenced = self.coordinator.cell().decision == Decision::Fenced;
        // Whoever has not been heard of of late is not given anything, nor who lacks a port that is to be served.
        let may_serve = |new: &Presence| {
            new.is_heard && old.is_none_or(|old| old.ports.is_subset(&new.ports)) && !new.ports.is_empty()
        };
        match presence {
            _ if self.is_discarded => Stand::Empty,
            None => Stand::Void { why: Why::Unhealthy },
            Some(presence) if presence.draining => Stand::Void { why: Why::Unhealthy },
            Some(presence) if presence.ready && self.is_warmed && (is_fenced || may_serve(presence)) => {
                Stand::Warm
            }
            Some(presence) if is_fenced && !presence.ready => Stand::Void { why: Why::Unhealthy },
            // It may become ready.
            Some(_) if self.is_prepared => Stand::Reserved,
            Some(_) => Stand::Empty,
        }
    }

    /// Asks the old place's sidecar what callers have under way, until that is nothing twice: of two answers one after the other,
    /// whoever was on the way during the first one has arrived at the second.
    fn ask_what_is_left(&mut self, presence: Option<&Presence>, world: &World<'_>) {
        let Some(draining) = &mut self.draining else { return };
        if draining.is_done {
            return;
        }
        let sidecars = &world.state.registry.sidecars;
        let Some(presence) = presence else {
            // It is gone, or cannot be reached: what it had is not known.
            (draining.is_done, draining.left) = (true, None);
            return;
        };
        let Some(id) = presence.id(&self.story.from) else { return };
        if let (Some((asked, _)), Some((answered, left))) = (draining.asked, sidecars.counted(&id))
            && asked == answered
        {
            draining.asked = None;
            draining.answered = Some(world.now);
            draining.left = Some(left);
            draining.zeros = if left == 0 { draining.zeros + 1 } else { 0 };
            draining.is_done = draining.zeros >= ENOUGH;
        }
        let waits = |since: Option<Instant>, time: Duration| {
            since.is_some_and(|since| world.now.saturating_duration_since(since) < time)
        };
        let is_open = waits(draining.asked.map(|(_, since)| since), ASKED_AGAIN);
        if !draining.is_done && !is_open && !waits(draining.answered, PAUSE) {
            let number = QUESTIONS.fetch_add(1, Relaxed);
            if sidecars.count(&id, number) {
                draining.asked = Some((number, world.now));
            }
        }
    }

    /// Whether all callers know where the service is, as far as can be known.
    fn look_who_knows(&mut self, world: &World<'_>, out: &mut Vec<Action>) {
        let Some((epoch, change)) = self.telling else { return };
        let (open, knowing) = world.state.streams.knowing(change, &world.state.registry.sidecars);
        // After a restart those who were there have yet to come back.
        let are_back = !self.is_resumed || open >= self.story.clients;
        if knowing == open && are_back {
            self.telling = None;
            self.coordinator.switched(epoch, world.time(), out);
        }
    }

    pub(super) fn place(&mut self, role: Role) -> &mut Place {
        match role {
            Role::Old => &mut self.old,
            Role::New => &mut self.new,
        }
    }
}

/// So many times in a row the old place's sidecar says that nothing is under way.
const ENOUGH: u32 = 2;
/// How long it is left alone between two answers.
const PAUSE: Duration = Duration::from_millis(100);
/// After how long what was not answered is asked again.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// For how long what nobody waits for may be unwritten.
const LATER: Duration = Duration::from_secs(1);

/// The number of the next question to a sidecar.
static QUESTIONS: AtomicU64 = AtomicU64::new(1);
