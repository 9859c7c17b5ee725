//! One run: what is asked meets places whose requests a policy decides about, event by event.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use lighter_config::scenario::What;
use lighter_place::{Answer, Failure, Outcome, Setback, Ticket};

use super::node::slowed;
use super::policy::{Asked, Policy, Sent, setback};
use super::tally::Tally;
use super::trace::Trace;
use super::world::World;

/// Runs all that is asked by one policy.
pub fn run(world: &World<'_>, trace: &Trace, policy: &mut dyn Policy) -> Tally {
    let tally = Tally::new(world);
    let mut run = Run {
        world: world.clone(),
        trace,
        policy,
        coming: BinaryHeap::new(),
        order: 0,
        tries: Vec::new(),
        open: 0,
        next: 0,
        tally,
    };
    run.begin();
    while let Some((at, what)) = run.coming() {
        run.meet(at, what);
    }
    run.tally
}

struct Run<'r> {
    world: World<'r>,
    trace: &'r Trace,
    policy: &'r mut dyn Policy,
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
            Event::Befalls(index) => self.befalls(index, at),
            Event::Passes(index) => self.passes(index, at),
        }
    }

    fn send(&mut self, call: usize, after: Option<Setback>, at: f64) {
        let about = &self.trace.calls[call];
        let asked = Asked { world: &self.world, trace: self.trace, index: call, call: about, at };
        let Sent { node, ticket } = match after {
            None => self.policy.place(&asked),
            Some(setback) => self.policy.again(&asked, setback),
        };
        let timeout = ticket.as_ref().and_then(|ticket| ticket.timeout_seconds);
        let is_device = node != about.host as usize;
        self.tally.sent(node, is_device, after.is_some(), at);
        let need = self.world.need(self.trace, call, about, node);
        let taken = self.world.nodes[node].take(&need, at);
        let (done, waited, busy) =
            taken.as_ref().map_or((f64::INFINITY, 0.0, 0.0), |done| (done.at, done.waited, done.busy));
        let index = self.tries.len();
        self.tries.push(Try { call, node, ticket, done, waited, busy, version: 0, is_awaited: true });
        match taken {
            Ok(_) => {
                self.world.nodes[node].tries.push(index);
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

/// How long it takes to hear that a device does not take a request, in seconds, beside sending it.
const ROUND_TRIP: f64 = 200e-6;
/// How many times as slow a device becomes that becomes slow.
const SLOWER: f64 = 10.0;
