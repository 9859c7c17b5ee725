//! Functions that come and go in a time of the tests' own.

use std::collections::{BTreeMap, HashMap};

use super::*;

mod properties;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A device whose functions become active, and go, when the test says so.
struct World {
    now: Instant,
    activation: Activation,
    memory: Vec<u64>,
    budget: u64,
    /// Most runs at once.
    slots: usize,
    /// What is under way.
    works: Vec<Effect>,
    /// Runs under way, of each function.
    runs: HashMap<Number, usize>,
    /// Requests that wait, and for what.
    waiting: BTreeMap<Ticket, Number>,
    ended: HashMap<Ticket, &'static str>,
    begun: Vec<(Number, By)>,
}

impl World {
    fn new(memory: &[u64], budget: u64) -> Self {
        Self::with(memory, budget, 100)
    }

    fn with(memory: &[u64], budget: u64, most_waiting: usize) -> Self {
        World {
            now: Instant::now(),
            activation: Activation::new(memory, budget, TIMEOUT, most_waiting),
            memory: memory.to_vec(),
            budget,
            slots: usize::MAX,
            works: Vec::new(),
            runs: HashMap::new(),
            waiting: BTreeMap::new(),
            ended: HashMap::new(),
            begun: Vec::new(),
        }
    }

    fn places(&self) -> usize {
        self.slots - self.runs.values().sum::<usize>()
    }

    fn settle(&mut self, mut out: Vec<Effect>) {
        self.activation.settle(self.places(), self.now, &mut out);
        for effect in out {
            match effect {
                Effect::Activate(number, by) => {
                    self.begun.push((number, by));
                    self.works.push(effect);
                }
                Effect::Deactivate(number) => {
                    assert_eq!(self.runs.get(&number).copied().unwrap_or(0), 0, "a run is cut");
                    self.works.push(effect);
                }
                Effect::Release(number, ticket) => {
                    assert_eq!(self.waiting.remove(&ticket), Some(number));
                    assert_eq!(self.ended.insert(ticket, "run"), None);
                    assert!(matches!(self.activation.state(number), State::Active | State::Leaving));
                    *self.runs.entry(number).or_default() += 1;
                }
                Effect::Refuse(number, ticket, why) => {
                    assert_eq!(self.waiting.remove(&ticket), Some(number));
                    let why = match why {
                        Why::Late => "late",
                        Why::NoPlace => "no place",
                        Why::Failed => "failed",
                    };
                    assert_eq!(self.ended.insert(ticket, why), None);
                }
            }
        }
        let taken = (0..self.memory.len()).filter(|number| self.activation.state(*number) != State::Inactive);
        let taken: u64 = taken.map(|number| self.memory[number]).sum();
        assert!(taken <= self.budget, "{taken} of {}", self.budget);
        assert_eq!((taken, self.waiting.len()), (self.activation.taken(), self.activation.waiting()));
        for (number, runs) in &self.runs {
            let can_run = matches!(self.activation.state(*number), State::Active | State::Leaving);
            assert!(*runs == 0 || can_run, "a run of {number}, which is not active");
            assert_eq!(self.activation.runs(*number), *runs);
        }
        let mut again = Vec::new();
        self.activation.is_quiet = false;
        self.activation.settle(self.places(), self.now, &mut again);
        assert_eq!(again, [], "nothing happened in between");
        let has_place = self.places() > 0;
        assert!(
            !(has_place && self.activation.waits_for_place()),
            "a place is free, and somebody waits for it"
        );
    }

    fn enter(&mut self, number: Number) -> Entry {
        let entry = self.activation.enter(number, self.places(), self.now);
        match entry {
            Entry::Runs => *self.runs.entry(number).or_default() += 1,
            Entry::Waits(ticket) => assert_eq!(self.waiting.insert(ticket, number), None),
            Entry::Busy | Entry::Full | Entry::Fails => {}
        }
        self.settle(Vec::new());
        entry
    }

    fn waits(&mut self, number: Number) -> Ticket {
        match self.enter(number) {
            Entry::Waits(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, number: Number) {
        let runs = self.runs.entry(number).or_default();
        if *runs > 0 {
            *runs -= 1;
            self.activation.end(number, self.now);
            self.settle(Vec::new());
        }
    }

    fn leave(&mut self, ticket: Ticket) {
        if let Some(number) = self.waiting.remove(&ticket) {
            assert!(self.activation.leave(number, ticket));
            self.ended.insert(ticket, "left");
            self.settle(Vec::new());
        }
    }

    /// One of what is under way is done.
    fn done(&mut self, at: usize, is_well: bool) {
        if at >= self.works.len() {
            return;
        }
        let mut out = Vec::new();
        match self.works.remove(at) {
            Effect::Activate(number, _) => self.activation.activated(number, is_well, self.now, &mut out),
            Effect::Deactivate(number) => self.activation.deactivated(number, is_well, self.now),
            other => panic!("{other:?}"),
        }
        self.settle(out);
    }

    fn all_done(&mut self) {
        while !self.works.is_empty() {
            self.done(0, true);
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.activation.next(self.now).filter(|next| *next <= until) {
            assert!(next > self.now);
            self.now = next;
            self.settle(Vec::new());
        }
        self.now = until;
        self.settle(Vec::new());
    }

    fn lose(&mut self, number: Number) -> bool {
        let was_there = self.activation.lost(number);
        self.settle(Vec::new());
        was_there
    }

    fn plan(&mut self, plan: &[Number]) {
        self.activation.plan(plan.to_vec());
        self.settle(Vec::new());
    }

    fn connect(&mut self) {
        self.activation.connected(self.now);
        self.settle(Vec::new());
    }

    fn active(&self) -> Vec<Number> {
        (0..self.memory.len()).filter(|number| self.activation.state(*number) == State::Active).collect()
    }
}

#[test]
fn without_a_planner_what_is_wanted_gets_the_room_of_what_is_idle() {
    let mut world = World::new(&[10, 10, 10], 20);
    for number in [0, 1] {
        let ticket = world.waits(number);
        world.all_done();
        assert_eq!(world.ended[&ticket], "run");
        world.pass(Duration::from_millis(1));
        world.end(number);
    }
    assert_eq!(world.active(), [0, 1]);
    let ticket = world.waits(2);
    assert_eq!(world.works, [Effect::Deactivate(0)], "the least recently used");
    world.all_done();
    assert_eq!((world.active(), world.ended[&ticket]), (vec![1, 2], "run"));
    assert_eq!(world.begun, [(0, By::Own), (1, By::Own), (2, By::Own)]);
    assert_eq!(world.enter(1), Entry::Runs);
}

#[test]
fn what_is_asked_all_the_time_goes_after_a_while_and_is_not_cut() {
    let mut world = World::new(&[10, 10], 10);
    world.waits(0);
    world.all_done();
    let other = world.waits(1);
    assert!(world.works.is_empty(), "it runs");
    assert_eq!(world.enter(0), Entry::Runs);
    world.pass(PATIENCE);
    assert_eq!(world.activation.state(0), State::Leaving);
    let again = world.waits(0);
    world.end(0);
    assert!(world.works.is_empty(), "one of two has ended");
    world.end(0);
    world.all_done();
    assert_eq!((world.active(), world.ended[&other]), (vec![1], "run"));
    world.end(1);
    world.all_done();
    assert_eq!((world.active(), world.ended[&again]), (vec![0], "run"));
}

#[test]
fn one_that_was_to_go_stays_where_nobody_needs_its_room_any_more() {
    let mut world = World::new(&[10, 10], 10);
    world.waits(0);
    world.all_done();
    let other = world.waits(1);
    world.pass(PATIENCE);
    let again = world.waits(0);
    world.leave(other);
    assert_eq!((world.active(), world.ended[&again]), (vec![0], "run"));
    assert!(world.works.is_empty());
}

#[test]
fn a_large_one_is_not_kept_out_by_small_ones() {
    let mut world = World::new(&[30, 10, 10, 10], 30);
    for number in 1..4 {
        world.waits(number);
    }
    world.all_done();
    let large = world.waits(0);
    world.end(1);
    world.end(2);
    assert!(world.works.is_empty(), "there is not room enough yet");
    world.pass(PATIENCE);
    world.all_done();
    assert_eq!(world.active(), [] as [Number; 0]);
    let small = world.waits(1);
    assert!(world.works.is_empty(), "what is free is the large one's");
    world.end(3);
    world.all_done();
    assert_eq!((world.active(), world.ended[&large]), (vec![0], "run"));
    world.end(0);
    world.all_done();
    assert_eq!((world.active(), world.ended[&small]), (vec![1], "run"));
}

#[test]
fn a_plan_holds_as_far_as_there_is_room_in_its_order() {
    let mut world = World::new(&[10, 10, 20, 10], 30);
    world.connect();
    world.plan(&[2, 1, 0, 1]);
    assert_eq!(world.begun, [(2, By::Plan), (1, By::Plan)]);
    world.all_done();
    assert_eq!(world.enter(2), Entry::Runs);
    world.plan(&[0, 3, 2]);
    // There is room for 20 more, once 1 has gone; 2 is the last, for which there is none.
    assert_eq!(world.works, [Effect::Deactivate(1)]);
    world.all_done();
    assert_eq!((world.active(), world.activation.state(2)), (vec![0], State::Leaving));
    let left = world.waits(2);
    world.end(2);
    world.all_done();
    assert_eq!(world.active(), [0, 3]);
    world.pass(UNHEEDED.min(TIMEOUT / 2) - Duration::from_millis(1));
    assert_eq!((world.active(), world.works.len()), (vec![0, 3], 0), "the plan decides");
    world.leave(left);
    world.activation.disconnected();
    world.settle(Vec::new());
    assert_eq!(world.active(), [0, 3], "a lost planner takes nothing away");
    let ticket = world.waits(2);
    world.all_done();
    assert_eq!((world.active(), world.ended[&ticket]), (vec![3, 2].into_iter().rev().collect(), "run"));
}

#[test]
fn one_who_is_connected_and_does_not_plan_is_waited_for_once() {
    let mut world = World::new(&[10, 10], 20);
    world.connect();
    world.pass(PLANNER * 5);
    world.waits(0);
    world.pass(PLANNER - Duration::from_millis(1));
    assert!(world.begun.is_empty(), "it has not said yet what is to be");
    world.pass(Duration::from_millis(1));
    assert_eq!((world.begun.as_slice(), world.activation.planner()), (&[(0, By::Own)][..], &Planner::Silent));
    world.waits(1);
    assert_eq!(world.begun.len(), 2, "at once");
    world.plan(&[1]);
    world.all_done();
    world.end(0);
    world.all_done();
    assert_eq!(world.active(), [1], "who plans after all is heeded");
}

#[test]
fn what_cannot_be_made_active_is_told_and_tried_again_later() {
    let mut world = World::new(&[10], 10);
    let first = world.waits(0);
    world.done(0, false);
    assert_eq!(world.ended[&first], "failed");
    assert_eq!(world.enter(0), Entry::Fails);
    assert!(world.works.is_empty(), "it is not tried over and over");
    world.pass(FIRST_RETRY);
    let second = world.waits(0);
    world.done(0, false);
    assert_eq!(world.ended[&second], "failed");
    world.pass(FIRST_RETRY);
    assert_eq!(world.enter(0), Entry::Fails);
    world.pass(FIRST_RETRY);
    let third = world.waits(0);
    world.all_done();
    assert_eq!(world.ended[&third], "run");
}

#[test]
fn what_is_lost_goes_when_its_runs_have_ended_and_comes_back_after_a_while() {
    let mut world = World::new(&[10, 10], 20);
    assert!(!world.lose(0), "there is nothing to lose");
    world.waits(0);
    world.all_done();
    let mut wait = FIRST_RETRY;
    for _ in 0..8 {
        world.enter(0);
        assert!(world.lose(0));
        let held = world.waits(0);
        assert!(world.works.is_empty(), "its runs hear of it by themselves");
        while world.runs[&0] > 0 {
            world.end(0);
        }
        assert_eq!(world.works, [Effect::Deactivate(0)]);
        world.all_done();
        assert_eq!(world.activation.state(0), State::Inactive);
        // Who comes now is told at once; who came before may be late.
        assert_eq!(world.enter(0), Entry::Fails);
        world.pass(wait - Duration::from_millis(1));
        assert!(world.works.is_empty(), "it is not tried over and over");
        world.pass(Duration::from_millis(1));
        assert_eq!(world.works, [Effect::Activate(0, By::Own)], "though nobody may ask any more");
        world.all_done();
        assert_eq!(world.ended[&held], if wait < TIMEOUT { "run" } else { "late" });
        wait = (wait * 2).min(LAST_RETRY);
    }
    // After a good while it counts as well, and one that is lost on its way is lost at once.
    world.pass(STEADY);
    assert!(world.lose(0));
    while world.runs[&0] > 0 {
        world.end(0);
    }
    world.all_done();
    world.pass(FIRST_RETRY);
    assert!(world.lose(0));
    world.done(0, true);
    assert_eq!(world.works, [Effect::Deactivate(0)]);
    world.all_done();
    assert!(world.active().is_empty());
}

#[test]
fn a_plan_does_not_have_what_is_lost_tried_over_and_over() {
    let mut world = World::new(&[10, 10], 10);
    world.connect();
    world.plan(&[0]);
    world.all_done();
    world.lose(0);
    world.all_done();
    (0..3).for_each(|_| world.plan(&[0]));
    assert!(world.works.is_empty(), "the planner says the same as before");
    world.pass(FIRST_RETRY);
    assert_eq!(world.works, [Effect::Activate(0, By::Plan)]);
    world.all_done();
    // One that is not to be there any more does not come back.
    world.lose(0);
    world.plan(&[1]);
    world.all_done();
    world.pass(LAST_RETRY);
    assert_eq!(world.active(), [1]);
}

#[test]
fn a_plan_that_does_not_heed_who_waits_does_not_hold() {
    let mut world = World::new(&[10, 10], 20);
    world.connect();
    world.plan(&[0]);
    world.all_done();
    let waits = world.waits(1);
    world.pass(UNHEEDED.min(TIMEOUT / 2) - Duration::from_millis(1));
    assert!(world.works.is_empty());
    world.pass(Duration::from_millis(1));
    world.all_done();
    assert_eq!((world.ended[&waits], world.active()), ("run", vec![0, 1]));
    world.end(1);
    world.plan(&[0]);
    world.all_done();
    assert_eq!(world.active(), [0], "the next one does");
}

#[test]
fn as_many_wait_as_may_and_as_long_as_they_may() {
    let mut world = World::with(&[10, 20], 10, 2);
    let first = world.waits(1);
    let second = world.waits(0);
    assert_eq!(world.enter(0), Entry::Full);
    world.pass(TIMEOUT);
    assert_eq!((world.ended[&first], world.ended[&second]), ("late", "late"));
    assert_eq!(world.activation.waiting(), 0);
    world.all_done();
    assert_eq!(world.active(), [0], "what never fits keeps nobody out");
}

#[test]
fn none_of_many_who_wait_is_refused_for_want_of_a_place() {
    let mut world = World { slots: 3, ..World::new(&[10, 10], 20) };
    // Turn about for two functions.
    let tickets: Vec<Ticket> = (0..20).map(|nth| world.waits(nth % 2)).collect();
    world.done(0, true);
    assert_eq!((world.runs[&0], world.ended.len()), (3, 3), "as many as there are places");
    world.all_done();
    // From here on the first that came is the first, whatever it is for.
    let mut ended = 3;
    while ended < tickets.len() {
        world.pass(TIMEOUT / 100);
        let number = usize::from(world.runs[&0] == 0);
        assert_eq!(world.enter(0), Entry::Busy, "one who comes only now does not wait for a place");
        world.end(number);
        ended += 1;
        assert_eq!(world.ended.len(), ended);
        let (let_in, waits): (Vec<Ticket>, Vec<Ticket>) =
            tickets[5..].iter().copied().partition(|ticket| world.ended.contains_key(ticket));
        assert!(let_in.iter().max() < waits.iter().min() || waits.is_empty(), "{let_in:?} before {waits:?}");
    }
    assert!(tickets.iter().all(|ticket| world.ended[ticket] == "run"));
    assert!(!world.activation.waits_for_place());
    // A place that is free is anybody's then.
    let number = usize::from(world.runs[&0] == 0);
    world.end(number);
    assert_eq!(world.enter(0), Entry::Runs);
}

#[test]
fn who_waits_for_a_place_waits_no_longer_than_for_a_function() {
    let mut world = World { slots: 1, ..World::new(&[10, 10], 10) };
    let first = world.waits(0);
    let second = world.waits(0);
    let left = world.waits(0);
    world.all_done();
    assert_eq!((world.ended[&first], world.activation.waiting()), ("run", 2));
    world.leave(left);
    // The function of those who wait for a place is not idle, nor planned away by their waiting.
    world.connect();
    world.plan(&[0]);
    world.pass(TIMEOUT - Duration::from_millis(1));
    assert_eq!((world.activation.planner(), world.active()), (&Planner::Plans(vec![0]), vec![0]));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.ended[&second], "no place");
    assert_eq!((world.activation.waiting(), world.enter(0)), (0, Entry::Busy));
}

#[test]
fn an_operators_word_holds_until_there_is_another_plan() {
    let mut world = World::new(&[10, 10], 10);
    world.activation.ask(0, world.now);
    world.settle(Vec::new());
    world.all_done();
    assert_eq!((world.active(), world.begun.as_slice()), (vec![0], &[(0, By::Admin)][..]));
    world.activation.dismiss(0);
    world.settle(Vec::new());
    world.all_done();
    assert_eq!(world.active(), [] as [Number; 0]);
    world.connect();
    world.plan(&[0]);
    world.all_done();
    world.activation.ask(1, world.now);
    world.settle(Vec::new());
    world.all_done();
    assert_eq!(world.active(), [1]);
    world.plan(&[0]);
    world.all_done();
    assert_eq!(world.active(), [0]);
    world.activation.dismiss(0);
    world.settle(Vec::new());
    world.all_done();
    world.pass(TIMEOUT);
    assert_eq!(world.active(), [] as [Number; 0]);
}
