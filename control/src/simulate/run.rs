//! One run: what is asked meets places whose requests a policy decides about, event by event.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use lighter_config::scenario::What;
use lighter_place::{Answer, Failure, Outcome, Refusal, Setback, Ticket};

use super::active::{Active, Activity, Which};
use super::node::slowed;
use super::policy::{Asked, Policy, Sent, setback};
use super::tally::Tally;
use super::trace::Trace;
use super::world::World;

/// Runs all that is asked by one policy, with these functions active.
pub fn run(world: &World<'_>, trace: &Trace, policy: &mut dyn Policy, active: Active) -> (Tally, Activity) {
    let tally = Tally::new(world);
    let mut run = Run {
        world: world.clone(),
        trace,
        policy,
        active,
        is_planning: false,
        coming: BinaryHeap::new(),
        order: 0,
        tries: Vec::new(),
        open: 0,
        next: 0,
        tally,
    };
    run.begin();
    let mut last = 0.0;
    while let Some((at, what)) = run.coming() {
        run.meet(at, what);
        last = at;
    }
    let activity = run.active.activity(last);
    (run.tally, activity)
}

struct Run<'r> {
    world: World<'r>,
    trace: &'r Trace,
    policy: &'r mut dyn Policy,
    active: Active,
    /// The planner is to decide before its time, as requests are held.
    is_planning: bool,
    coming: BinaryHeap<Reverse<Coming>>,
    /// How many events were foreseen. Of two at one time, the one that was foreseen first comes first.
    order: u64,
    tries: Vec<Try>,
    /// How many requests have not been answered.
    open: usize,
    /// The request that comes next.
    next: usize,
    tally: Tally,
}

/// A request at a node.
struct Try {
    call: usize,
    node: usize,
    ticket: Option<Ticket>,
    /// When it will be done there.
    done: f64,
    waited: f64,
    busy: f64,
    /// How often that has changed.
    version: u32,
    /// Whether somebody waits for it.
    is_awaited: bool,
}

#[derive(Clone, Copy)]
enum Event {
    /// The next request comes.
    Call,
    /// A try is done, unless that has changed.
    Done { index: usize, version: u32 },
    /// A node does not take a try.
    Bounced { index: usize, setback: Setback },
    /// A device had enough time for a try.
    GivenUp { index: usize },
    /// All nodes say how long one would wait.
    Report,
    /// The planner decides which functions are active; `is_regular`: as it does now and then.
    Plan { is_regular: bool },
    /// A function is active.
    Activated(Which),
    /// A request has been held for too long.
    HeldTooLong { which: Which, call: usize },
    /// A device has no such function for a request that asked it itself.
    SentAway { call: usize },
    /// Something befalls devices.
    Befalls(usize),
    /// That is over.
    Passes(usize),
}

struct Coming {
    at: f64,
    order: u64,
    event: Event,
}

impl Run<'_> {
    fn begin(&mut self) {
        for (index, event) in self.world.scenario.events.iter().enumerate() {
            let at = event.at.0.as_secs_f64();
            self.foresee(at, Event::Befalls(index));
            if let Some(lasts) = event.lasts {
                self.foresee(at + lasts.0.as_secs_f64(), Event::Passes(index));
            }
        }
        if self.policy.has_reports() {
            self.foresee(0.0, Event::Report);
        }
        if let Some(interval) = self.active.interval() {
            self.foresee(interval, Event::Plan { is_regular: true });
        }
    }

    fn foresee(&mut self, at: f64, event: Event) {
        self.order += 1;
        self.coming.push(Reverse(Coming { at, order: self.order, event }));
    }

    /// What comes next.
    fn coming(&mut self) -> Option<(f64, Event)> {
        let call = self.trace.calls.get(self.next).map(|call| call.at);
        let is_over = call.is_none() && self.open == 0;
        match (call, self.coming.peek()) {
            _ if is_over => None,
            (Some(at), event) if event.is_none_or(|Reverse(event)| at < event.at) => Some((at, Event::Call)),
            _ => self.coming.pop().map(|Reverse(coming)| (coming.at, coming.event)),
        }
    }

    fn meet(&mut self, at: f64, event: Event) {
        match event {
            Event::Call => {
                self.open += 1;
                self.next += 1;
                self.send(self.next - 1, None, at);
            }
            Event::Done { index, version } => self.done(index, version, at),
            Event::Bounced { index, setback } => self.set_back(index, setback, at),
            Event::GivenUp { index } => {
                if self.tries[index].is_awaited {
                    self.set_back(index, Setback::Failed(Failure::TimedOut), at);
                }
            }
            Event::Report => {
                self.policy.report(&self.world, at);
                let interval = self.world.scenario.report_interval.0.as_secs_f64();
                self.foresee(at + interval, Event::Report);
            }
            Event::Plan { is_regular } => self.plan(is_regular, at),
            Event::Activated(which) => {
                self.active.activated(which, at);
                self.let_in(which.device, at);
            }
            Event::HeldTooLong { which, call } => {
                if self.active.give_up(which, call) {
                    self.go_on_to_host(call, at);
                }
            }
            Event::SentAway { call } => self.go_on_to_host(call, at),
            Event::Befalls(index) => self.befalls(index, at),
            Event::Passes(index) => self.passes(index, at),
        }
    }

    fn send(&mut self, call: usize, after: Option<Setback>, at: f64) {
        let about = &self.trace.calls[call];
        let (world, active) = (&self.world, &self.active);
        let asked = Asked { world, trace: self.trace, active, index: call, call: about, at };
        if after.is_none()
            && let Some(device) = self.active.direct(&asked)
        {
            return self.ask(device, call, at);
        }
        if after.is_none() && !about.is_stateful {
            self.active.asked(about.shard as usize);
        }
        let (world, active) = (&self.world, &self.active);
        let asked = Asked { world, trace: self.trace, active, index: call, call: about, at };
        let Sent { node, ticket } = match after {
            None => self.policy.place(&asked),
            Some(setback) => self.policy.again(&asked, setback),
        };
        self.tally.sent(node, node != about.host as usize, after.is_some(), at);
        self.arrive(call, node, ticket, at);
    }

    /// A request asks a device itself, which holds it until it can run.
    fn ask(&mut self, device: usize, call: usize, at: f64) {
        let node = self.world.node_of(device);
        self.tally.sent(node, true, false, at);
        let route = self.route(call);
        if self.active.is_active(device, route) {
            return self.arrive(call, node, None, at);
        }
        let Some(which) = self.active.hold(device, route, call) else {
            let need = self.world.need(self.trace, call, &self.trace.calls[call], node);
            return self.foresee(at + need.input + ROUND_TRIP, Event::SentAway { call });
        };
        self.foresee(at + self.active.patience(), Event::HeldTooLong { which, call });
        if self.active.interval().is_some() && !std::mem::replace(&mut self.is_planning, true) {
            self.foresee(at + SOON, Event::Plan { is_regular: false });
        }
    }

    /// A device that was asked itself does not run it.
    fn go_on_to_host(&mut self, call: usize, at: f64) {
        let setback = Setback::Refused(Refusal::Reserve);
        self.tally.set_back(setback);
        self.send(call, Some(setback), at);
    }

    fn plan(&mut self, is_regular: bool, at: f64) {
        match self.active.interval().filter(|_| is_regular) {
            Some(interval) => self.foresee(at + interval, Event::Plan { is_regular }),
            None => self.is_planning = false,
        }
        let begins = self.active.plan(is_regular, at);
        self.begin_all(begins, at);
    }

    fn begin_all(&mut self, begins: Vec<Which>, at: f64) {
        let startup = self.active.startup();
        begins.into_iter().for_each(|which| self.foresee(at + startup, Event::Activated(which)));
    }

    /// Those who are held at a device, and whose function is active, come in while there is room.
    fn let_in(&mut self, device: usize, at: f64) {
        let node = self.world.node_of(device);
        while !self.world.nodes[node].is_silent() && self.world.nodes[node].queue_seconds(at) <= 0.0 {
            let Some(call) = self.active.let_in(device) else { return };
            self.arrive(call, node, None, at);
        }
    }

    fn route(&self, call: usize) -> usize {
        self.trace.shards[self.trace.calls[call].shard as usize].route
    }

    /// The device that a node is.
    fn device(&self, node: usize) -> Option<usize> {
        node.checked_sub(self.world.scenario.hosts.count as usize)
    }

    /// A request is where it was sent.
    fn arrive(&mut self, call: usize, node: usize, ticket: Option<Ticket>, at: f64) {
        let about = &self.trace.calls[call];
        let timeout = ticket.as_ref().and_then(|ticket| ticket.timeout_seconds);
        let is_device = node != about.host as usize;
        let need = self.world.need(self.trace, call, about, node);
        let taken = self.world.nodes[node].take(&need, at);
        let (done, waited, busy) =
            taken.as_ref().map_or((f64::INFINITY, 0.0, 0.0), |done| (done.at, done.waited, done.busy));
        let index = self.tries.len();
        self.tries.push(Try { call, node, ticket, done, waited, busy, version: 0, is_awaited: true });
        match taken {
            Ok(_) => {
                self.world.nodes[node].tries.push(index);
                if let Some(device) = self.device(node) {
                    self.active.begun(device, self.route(call));
                }
                self.foresee(done, Event::Done { index, version: 0 });
                if is_device {
                    let patience = timeout.unwrap_or_else(|| {
                        let scenario = self.world.scenario;
                        scenario.try_timeout.unwrap_or(scenario.slo).0.as_secs_f64()
                    });
                    self.foresee(at + patience, Event::GivenUp { index });
                }
            }
            Err(closed) => {
                self.foresee(
                    at + need.input + ROUND_TRIP,
                    Event::Bounced { index, setback: setback(closed) },
                );
            }
        }
    }

    fn done(&mut self, index: usize, version: u32, at: f64) {
        let Try { call, node, waited, busy, is_awaited, .. } = self.tries[index];
        if self.tries[index].version != version || self.world.nodes[node].is_stalled() {
            return;
        }
        self.world.nodes[node].tries.retain(|other| *other != index);
        if let Some(device) = self.device(node) {
            let begins = self.active.ended(device, self.route(call), Some(busy), at);
            self.begin_all(begins, at);
            self.let_in(device, at);
        }
        let call = &self.trace.calls[call];
        let (joules, moved) = self.world.spent(call, node, busy);
        self.tally.spent(joules, moved);
        if !is_awaited {
            return;
        }
        self.tries[index].is_awaited = false;
        self.open -= 1;
        self.tally.answered(at - call.at);
        if let Some(ticket) = &self.tries[index].ticket {
            let answer = Answer { waited_seconds: Some(waited), bytes_out: call.bytes_out };
            self.policy.ended(call.host, ticket, &Outcome::Answered(answer), at);
            self.policy.heard(call.host, node, self.world.nodes[node].queue_seconds(at), at);
        }
    }

    /// A try has not succeeded: the request goes to its host.
    fn set_back(&mut self, index: usize, setback: Setback, at: f64) {
        let one = &mut self.tries[index];
        one.is_awaited = false;
        let call = one.call;
        self.tally.set_back(setback);
        if let Some(ticket) = &one.ticket {
            let host = self.trace.calls[call].host;
            self.policy.ended(host, ticket, &Outcome::SetBack(setback), at);
        }
        self.send(call, Some(setback), at);
    }

    fn befalls(&mut self, index: usize, at: f64) {
        let event = &self.world.scenario.events[index];
        let factor = event.factor.unwrap_or(SLOWER);
        for node in self.world.befallen(event) {
            match event.what {
                What::Stall => self.world.nodes[node].stall(at),
                What::Slow => self.slow_down(node, factor, at),
                What::Die => {
                    self.world.nodes[node].die(at);
                    for index in std::mem::take(&mut self.world.nodes[node].tries) {
                        self.tries[index].version += 1;
                        if let Some(device) = self.device(node) {
                            let route = self.route(self.tries[index].call);
                            let begins = self.active.ended(device, route, None, at);
                            self.begin_all(begins, at);
                        }
                        if self.tries[index].is_awaited {
                            let setback = Setback::Failed(Failure::Lost);
                            self.foresee(at, Event::Bounced { index, setback });
                            // Nobody gives up what is about to come back.
                            self.tries[index].is_awaited = false;
                        }
                    }
                }
            }
        }
    }

    fn passes(&mut self, index: usize, at: f64) {
        let event = &self.world.scenario.events[index];
        let factor = event.factor.unwrap_or(SLOWER);
        for node in self.world.befallen(event) {
            match event.what {
                What::Stall => {
                    let late = self.world.nodes[node].resume(at);
                    self.shift(node, |done| done + late);
                }
                What::Slow => self.slow_down(node, 1.0 / factor, at),
                What::Die => self.world.nodes[node].revive(),
            }
        }
    }

    fn slow_down(&mut self, node: usize, factor: f64, at: f64) {
        self.world.nodes[node].slow_down(factor, at);
        self.shift(node, |done| slowed(done, factor, at));
    }

    /// What is at a node will be done at other times.
    fn shift(&mut self, node: usize, to: impl Fn(f64) -> f64) {
        for position in 0..self.world.nodes[node].tries.len() {
            let index = self.world.nodes[node].tries[position];
            let one = &mut self.tries[index];
            one.done = to(one.done);
            one.version += 1;
            let (done, version) = (one.done, one.version);
            self.foresee(done, Event::Done { index, version });
        }
    }
}

impl PartialEq for Coming {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Coming {}

impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Coming {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at).then(self.order.cmp(&other.order))
    }
}

/// How long it takes until a planner decides that hears of a request which is held, in seconds.
const SOON: f64 = 0.25;
/// How long it takes to hear that a device does not take a request, in seconds, beside sending it.
const ROUND_TRIP: f64 = 200e-6;
/// How many times as slow a device becomes that becomes slow.
const SLOWER: f64 = 10.0;
