//! Which functions of a device are active, and which requests wait for that. No clock, no thread and no function here:
//! what happens comes in with its time, and what is to be done comes out.
//!
//! The control plane's plan says which functions are to be active. Where there is no control plane, or one that does not
//! plan, requests say it: the longest wait is ended first, by room that is free, that of functions which are idle, the least
//! recently used first, or, after a while, that of functions which are asked all the time. No run is ever cut for that: a
//! function that is to go takes no new ones, and goes when the last has ended.
//!
//! Once a function is active, those who waited for it are let in as there are places for runs, in the order in which they
//! came, whatever they came for. One that comes then waits for no place, and gets none before them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

mod room;

/// A function, by its place in the list that the device was made with.
pub(super) type Number = usize;

/// A request that waits. Never used again for another one.
pub(super) type Ticket = u64;

/// How long one who is connected has to say what is to be active, before requests do.
const PLANNER: Duration = Duration::from_secs(1);
/// How long a request waits at most until functions that are not idle have to go for its own.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a request waits for the next plan, before requests decide until there is one. The control plane thinks every two
/// seconds, and at once when something is waited for.
const UNHEEDED: Duration = Duration::from_secs(4);
/// What could not be made active is tried again after this, and after twice as long each time, up to the other.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// What was active for so long before it was lost is tried again as if it had never been.
const STEADY: Duration = Duration::from_secs(60);

/// More than any machine has: what functions take can be added up.
const MOST_MEMORY: u64 = 1 << 48;

/// The functions of a device, and the requests that wait for them.
#[derive(Debug)]
pub(super) struct Activation {
    functions: Vec<Function>,
    budget: u64,
    timeout: Duration,
    most_waiting: usize,
    waiting: usize,
    last_ticket: Ticket,
    planner: Planner,
    /// Nobody waits for anything, and nothing has happened that could change what is decided: as long as all that happens is
    /// that functions are used which are active, there is nothing to do.
    is_quiet: bool,
}

#[derive(Debug)]
struct Function {
    memory: u64,
    state: State,
    /// Requests that were let in and have not ended.
    runs: usize,
    /// In the order in which they came.
    waiting: VecDeque<Waiter>,
    /// When a run of it last began or ended.
    used: Option<Instant>,
    /// Since when an operator wants it to be active.
    asked: Option<Instant>,
    /// An operator wants it to go.
    dismissed: bool,
    /// How often in a row it could not be made active, or go; and until when that is not tried again.
    failures: u32,
    retry: Option<Instant>,
    /// It cannot be run any more, through no doing of this device: it goes, and what is left of it with it.
    lost: bool,
    /// It was lost, and is to be back for those who will ask, where there is room.
    again: bool,
    /// Since when it is active.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    since: Instant,
}

/// How a function stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It takes no memory.
    Inactive,
    /// It is being made active.
    Activating,
    /// It can be run.
    Active,
    /// It takes no new runs, and goes when the last has ended.
    Leaving,
    /// It is going.
    Deactivating,
}

/// Who says what is to be active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Planner {
    /// Nobody is connected.
    Absent,
    /// Somebody is, since then, who has not said it yet.
    Expected(Instant),
    /// Somebody is, and does not say it when it is asked for.
    Silent,
    /// These, of which as many as there is room for, in this order.
    Plans(Vec<Number>),
}

/// On whose word a function becomes active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum By {
    /// The control plane's.
    Plan,
    /// That of requests for it.
    Own,
    /// An operator's.
    Admin,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Make it active, and tell [`Activation::activated`].
    Activate(Number, By),
    /// Let it go, and tell [`Activation::deactivated`].
    Deactivate(Number),
    /// This request may run now. Its run counts from here on.
    Release(Number, Ticket),
    /// This one may not.
    Refuse(Number, Ticket, Why),
}

/// Why a request that waited may not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has waited for as long as it may.
    Late,
    /// The same, while its function was active and there was no place for its run.
    NoPlace,
    /// Its function could not be made active.
    Failed,
}

/// What becomes of a request that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It runs. Tell [`Activation::end`] when it has ended.
    Runs,
    /// It waits.
    Waits(Ticket),
    /// Its function is active, and there is no place for its run.
    Busy,
    /// As many wait as may.
    Full,
    /// It could not be made active a moment ago, and is not tried again yet.
    Fails,
}

impl Activation {
    /// Functions that take so much memory each, none of which is active yet. `budget`: what those that are active may take
    /// together. A request waits for `timeout` at most, and `most_waiting` do at once.
    pub(super) fn new(memory: &[u64], budget: u64, timeout: Duration, most_waiting: usize) -> Self {
        let function = |memory: &u64| Function {
            memory: (*memory).min(MOST_MEMORY),
            state: State::Inactive,
            runs: 0,
            waiting: VecDeque::new(),
            used: None,
            asked: None,
            dismissed: false,
            failures: 0,
            retry: None,
            lost: false,
            again: false,
            since: None,
        };
        Activation {
            functions: memory.iter().map(function).collect(),
            budget,
            timeout,
            most_waiting,
            waiting: 0,
            last_ticket: 0,
            planner: Planner::Absent,
            is_quiet: false,
        }
    }

    /// A request for `function` comes. So many runs may begin now, of whatever function.
    pub(super) fn enter(&mut self, function: Number, places: usize, now: Instant) -> Entry {
        let has_place = places > 0 && !self.waits_for_place();
        let asked = &mut self.functions[function];
        if asked.state == State::Active {
            if !has_place {
                return Entry::Busy;
            }
            asked.begin(now);
            return Entry::Runs;
        }
        // They would only keep others from waiting.
        if asked.state == State::Inactive && !asked.may_try(now) {
            return Entry::Fails;
        }
        if self.waiting >= self.most_waiting {
            return Entry::Full;
        }
        self.is_quiet = false;
        self.waiting += 1;
        self.last_ticket += 1;
        asked.waiting.push_back(Waiter { ticket: self.last_ticket, since: now });
        Entry::Waits(self.last_ticket)
    }

    /// One that was let in has ended, or did not run after all.
    pub(super) fn end(&mut self, function: Number, now: Instant) {
        let ended = &mut self.functions[function];
        ended.runs = ended.runs.saturating_sub(1);
        // Of one that is to go, no other one is to go instead.
        match ended.state {
            State::Leaving => self.is_quiet = false,
            _ => ended.used = Some(now),
        }
    }

    /// One that waits has gone. False: it did not wait any more.
    pub(super) fn leave(&mut self, function: Number, ticket: Ticket) -> bool {
        self.is_quiet = false;
        let waiting = &mut self.functions[function].waiting;
        // Tickets rise, and so do those that wait.
        let found = waiting.binary_search_by_key(&ticket, |waiter| waiter.ticket);
        let was_there = found.ok().and_then(|at| waiting.remove(at)).is_some();
        self.waiting -= usize::from(was_there);
        was_there
    }

    /// Somebody is connected who may plan.
    pub(super) fn connected(&mut self, now: Instant) {
        self.is_quiet = false;
        self.planner = Planner::Expected(now);
    }

    /// Nobody is any more. What is active stays so.
    pub(super) fn disconnected(&mut self) {
        self.is_quiet = false;
        self.planner = Planner::Absent;
    }

    /// These are to be active, and no others.
    pub(super) fn plan(&mut self, plan: Vec<Number>) {
        self.is_quiet = false;
        self.functions.iter_mut().for_each(|function| function.dismissed = false);
        let before = match &self.planner {
            Planner::Plans(before) => &before[..],
            _ => &[],
        };
        // What it has wanted all along does not become better by its saying so again.
        for named in plan.iter().filter(|named| !before.contains(named)) {
            self.functions[*named].retry = None;
        }
        self.planner = Planner::Plans(plan);
    }

    /// An operator wants this one to be active: until there is another plan or, without one, until others need its room.
    pub(super) fn ask(&mut self, function: Number, now: Instant) {
        self.is_quiet = false;
        let asked = &mut self.functions[function];
        asked.dismissed = false;
        if asked.state != State::Active {
            asked.asked = Some(now);
            asked.retry = None;
        }
        if let Planner::Plans(plan) = &mut self.planner {
            plan.retain(|planned| *planned != function);
            plan.insert(0, function);
        }
    }

    /// An operator wants it to go: until there is another plan or, without one, until it is asked for.
    pub(super) fn dismiss(&mut self, function: Number) {
        self.is_quiet = false;
        let dismissed = &mut self.functions[function];
        (dismissed.asked, dismissed.again) = (None, false);
        dismissed.dismissed = dismissed.state != State::Inactive;
        if let Planner::Plans(plan) = &mut self.planner {
            plan.retain(|planned| *planned != function);
        }
    }

    /// What was to become active is, or could not be.
    pub(super) fn activated(&mut self, function: Number, is_well: bool, now: Instant, out: &mut Vec<Effect>) {
        self.is_quiet = false;
        let made = &mut self.functions[function];
        if is_well {
            made.state = State::Active;
            (made.used, made.since) = (Some(now), Some(now));
            (made.asked, made.again, made.retry) = (None, false, None);
            return;
        }
        made.state = State::Inactive;
        (made.asked, made.again, made.dismissed, made.lost) = (None, false, false, false);
        made.try_later(now);
        self.waiting -= made.waiting.len();
        let refused = made.waiting.drain(..);
        out.extend(refused.map(|waiter| Effect::Refuse(function, waiter.ticket, Why::Failed)));
    }

    /// It cannot be run any more, though nobody let it go. False: nobody would have run it.
    pub(super) fn lost(&mut self, function: Number) -> bool {
        let lost = &mut self.functions[function];
        if !lost.is_there() && lost.state != State::Activating {
            return false;
        }
        self.is_quiet = false;
        // Where it was to go, nobody wants it.
        lost.again = lost.state != State::Leaving;
        lost.lost = true;
        true
    }

    /// What was to go has gone, or could not go.
    pub(super) fn deactivated(&mut self, function: Number, is_well: bool, now: Instant) {
        self.is_quiet = false;
        let gone = &mut self.functions[function];
        if is_well && gone.lost {
            gone.state = State::Inactive;
            gone.lost = false;
            let is_steady = gone.since.is_some_and(|since| now >= since + STEADY);
            gone.failures = if is_steady { 0 } else { gone.failures };
            gone.try_later(now);
        } else if is_well {
            gone.state = State::Inactive;
            (gone.failures, gone.retry) = (0, None);
        } else {
            gone.state = State::Leaving;
            gone.try_later(now);
        }
    }

    /// Says what is to be done now, where so many runs may begin. To be asked after whatever happened, whenever there may be more
    /// places for runs, and at [`Activation::next`].
    pub(super) fn settle(&mut self, places: usize, now: Instant, out: &mut Vec<Effect>) {
        if self.is_quiet {
            return;
        }
        self.time_out(now, out);
        self.heed(now);
        // What is decided does not depend on who takes no new runs yet. So there is an end to it: a function begins, goes, or
        // stays for those who wait for it, at most once each, and so many are let in as there are places.
        let mut places = places;
        loop {
            while self.decide(now, out) || self.heed(now) {}
            // With those who are let in, their claim to what others wait for as well is gone.
            match self.let_in(places, now, out) {
                0 => break,
                let_in => places -= let_in,
            }
        }
        let is_quiet = |function: &Function| {
            let is_wanted = function.asked.is_some() || function.again;
            !is_wanted && !function.lost && function.may_try(now)
        };
        self.is_quiet = self.waiting == 0 && self.functions.iter().all(is_quiet);
    }

    /// When there may be something to do again, if nothing happens until then.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut at = |time: Instant| {
            if time > now {
                next = Some(next.map_or(time, |next| next.min(time)));
            }
        };
        for function in &self.functions {
            if let Some(since) = function.wanted_since() {
                at(since + self.timeout);
                at(since + self.patience());
                match self.planner {
                    Planner::Expected(connected) => at(since.max(connected) + PLANNER),
                    Planner::Plans(_) => at(since + self.unheeded()),
                    Planner::Absent | Planner::Silent => {}
                }
            }
            if let Some(waiter) = function.waiting.front() {
                at(waiter.since + self.timeout);
            }
            if let Some(retry) = function.retry {
                at(retry);
            }
        }
        next
    }

    /// How a function stands.
    pub(super) fn state(&self, function: Number) -> State {
        self.functions[function].state
    }

    /// Requests for it that were let in and have not ended.
    pub(super) fn runs(&self, function: Number) -> usize {
        self.functions[function].runs
    }

    /// Requests that wait for it.
    pub(super) fn waiting_for(&self, function: Number) -> usize {
        self.functions[function].waiting.len()
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Who says what is to be active.
    pub(super) fn planner(&self) -> &Planner {
        &self.planner
    }

    /// What all functions take that are not inactive.
    pub(super) fn taken(&self) -> u64 {
        let takes = self.functions.iter().filter(|function| function.state != State::Inactive);
        takes.map(|function| function.memory).sum()
    }

    /// A planner that does not heed who waits for long has no say. True: from now on.
    fn heed(&mut self, now: Instant) -> bool {
        let Some(oldest) = self.oldest_wait() else { return false };
        let is_heedless = match self.planner {
            Planner::Absent | Planner::Silent => false,
            Planner::Expected(since) => now >= oldest.max(since) + PLANNER,
            // What it does not heed, it does not know of: a plan is of what all instances of a Service have.
            Planner::Plans(_) => now >= oldest + self.unheeded(),
        };
        if is_heedless {
            self.planner = Planner::Silent;
        }
        is_heedless
    }

    /// One round of it. True: something has changed by which there may be more to decide.
    fn decide(&mut self, now: Instant, out: &mut Vec<Effect>) -> bool {
        let (before, mut stays_after_all) = (out.len(), false);
        let room::Decision { stays, begins } = match &self.planner {
            Planner::Plans(plan) => room::by_plan(self, plan, now),
            Planner::Expected(_) => room::by_requests(self, now, false),
            Planner::Absent | Planner::Silent => room::by_requests(self, now, true),
        };
        for (number, stays) in stays.into_iter().enumerate() {
            let stays = stays && !self.functions[number].lost;
            match (self.functions[number].state, stays) {
                (State::Active, false) => self.functions[number].state = State::Leaving,
                (State::Leaving, true) => {
                    self.functions[number].state = State::Active;
                    // Who asked for it has it, and no claim any more.
                    stays_after_all |= self.functions[number].asked.take().is_some();
                }
                _ => {}
            }
        }
        let by = if matches!(self.planner, Planner::Plans(_)) { By::Plan } else { By::Own };
        for number in begins {
            let begins = &mut self.functions[number];
            begins.state = State::Activating;
            out.push(Effect::Activate(number, if begins.asked.is_some() { By::Admin } else { by }));
        }
        for (number, function) in self.functions.iter_mut().enumerate() {
            if function.state == State::Leaving && function.runs == 0 && function.may_try(now) {
                function.state = State::Deactivating;
                function.dismissed = false;
                out.push(Effect::Deactivate(number));
            }
        }
        stays_after_all || out.len() > before
    }

    /// How long a request waits before functions that are not idle have to go for its own.
    fn patience(&self) -> Duration {
        PATIENCE.min(self.timeout / 2)
    }

    /// How long a request waits for a plan with its function in it, before the plan does not hold any more.
    fn unheeded(&self) -> Duration {
        UNHEEDED.min(self.timeout / 2)
    }

    /// Since when a request waits for what is not on its way.
    fn oldest_wait(&self) -> Option<Instant> {
        let is_on_its_way = |state: State| matches!(state, State::Activating | State::Active);
        let away = self.functions.iter().filter(|function| !is_on_its_way(function.state));
        away.filter_map(|function| function.waiting.front().map(|waiter| waiter.since)).min()
    }

    /// Whether a request waits for nothing but a place for its run.
    pub(super) fn waits_for_place(&self) -> bool {
        self.functions.iter().any(Function::waits_for_place)
    }

    /// So many of those who wait for nothing else may run, whoever came first. How many there were.
    fn let_in(&mut self, places: usize, now: Instant, out: &mut Vec<Effect>) -> usize {
        for let_in in 0..places {
            let waits = self.functions.iter().enumerate().filter(|(_, function)| function.waits_for_place());
            let first =
                waits.min_by_key(|(_, function)| function.waiting.front().map(|waiter| waiter.ticket));
            let Some((number, _)) = first else { return let_in };
            let function = &mut self.functions[number];
            let Some(waiter) = function.waiting.pop_front() else { return let_in };
            function.begin(now);
            self.waiting -= 1;
            out.push(Effect::Release(number, waiter.ticket));
        }
        places
    }

    fn time_out(&mut self, now: Instant, out: &mut Vec<Effect>) {
        for (number, function) in self.functions.iter_mut().enumerate() {
            let is_late = |waiter: &Waiter| now >= waiter.since + self.timeout;
            while let Some(waiter) = function.waiting.pop_front_if(|waiter| is_late(waiter)) {
                self.waiting -= 1;
                let why = if function.state == State::Active { Why::NoPlace } else { Why::Late };
                out.push(Effect::Refuse(number, waiter.ticket, why));
            }
            function.asked = function.asked.filter(|since| now < *since + self.timeout);
        }
    }
}

impl Function {
    fn begin(&mut self, now: Instant) {
        self.runs += 1;
        self.used = Some(now);
    }

    /// A request waits for it, and for nothing but a place.
    fn waits_for_place(&self) -> bool {
        self.state == State::Active && !self.waiting.is_empty()
    }

    /// It takes memory and can be run, or could until just now.
    fn is_there(&self) -> bool {
        matches!(self.state, State::Active | State::Leaving)
    }

    /// Since when somebody wants it who does not have it.
    fn wanted_since(&self) -> Option<Instant> {
        let waits = self.waiting.front().map(|waiter| waiter.since);
        waits.into_iter().chain(self.asked).min()
    }

    fn may_try(&self, now: Instant) -> bool {
        self.retry.is_none_or(|retry| now >= retry)
    }

    fn try_later(&mut self, now: Instant) {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(6)).min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now + wait);
    }
}

#[cfg(test)]
mod tests;
