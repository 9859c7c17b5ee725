//! What callers asked and were answered, and whether that can be.

mod each;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lighter_migrate::{History, Op};
use tokio::time::Instant;

use super::REGISTERS;

/// What they asked and were answered.
pub struct Record {
    over: AtomicBool,
    /// Nothing is written any more.
    only_reads: AtomicBool,
    began: Instant,
    numbers: AtomicU64,
    /// Of each register.
    events: [Mutex<Vec<Event>>; REGISTERS],
    answers: Mutex<Vec<Answered>>,
    /// What was added to the registers that are added to, by their answers: each has what all before it added.
    sums: Mutex<BTreeMap<&'static str, Vec<u64>>>,
    /// Numbers of what changed something, by its answer.
    done: Mutex<Vec<u64>>,
    not_done: Mutex<Vec<u64>>,
    /// What was not answered as it should be, and why.
    failures: Mutex<Vec<String>>,
    /// Requests that had no whole answer at all, streams apart.
    pub(super) unanswered: AtomicU64,
    /// Answers that say that it may have been done, streams apart.
    pub(super) unknown: AtomicU64,
    /// Whole answers that are neither as they should be nor name a cause.
    pub(super) unnamed: AtomicU64,
    /// What the caller's own sidecar or whoever was asked did not take, as it said itself.
    pub(super) refused: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Begins(u64, Op),
    Done(u64, Option<u64>),
    NotDone(u64),
    Unknown(u64),
    /// Whoever had the state is gone, and the register has this from then on.
    Lost(u64),
    /// Whoever had the state is gone, and what it has not done by then it never does.
    Settled,
}

/// An answer as it should be.
#[derive(Clone, Debug)]
struct Answered {
    /// Since the beginning.
    at: Duration,
    took: Duration,
    by: String,
    /// Of the request. 0: it is a stream.
    number: u64,
    /// Of a write: what it has overwritten.
    over: Option<u64>,
}

impl Record {
    pub(super) fn new() -> Self {
        Record {
            over: AtomicBool::default(),
            only_reads: AtomicBool::default(),
            began: Instant::now(),
            numbers: AtomicU64::new(1),
            events: Default::default(),
            answers: Mutex::default(),
            sums: Mutex::default(),
            done: Mutex::default(),
            not_done: Mutex::default(),
            failures: Mutex::default(),
            unanswered: AtomicU64::default(),
            unknown: AtomicU64::default(),
            unnamed: AtomicU64::default(),
            refused: AtomicU64::default(),
        }
    }

    /// How long it is since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whoever had the state is gone, and with it what was there: nothing runs there any more.
    pub fn lost(&self) {
        self.lost_to(|_| 0);
    }

    /// Whoever had the state is gone, and nothing that it was asked for is done any more.
    pub fn settled(&self) {
        for events in &self.events {
            events.lock().unwrap().push(Event::Settled);
        }
    }

    /// Fails where two of those that add were answered the same: one was lost behind its answer.
    pub fn check_distinct(&self) -> Result<(), String> {
        for (name, sums) in &*self.sums.lock().unwrap() {
            let mut all = BTreeSet::new();
            if let Some(sum) = sums.iter().find(|sum| !all.insert(**sum)) {
                return Err(format!("{name}: {sum} was answered twice"));
            }
        }
        Ok(())
    }

    /// The same, where whoever serves next has something of before: what, by the name of a register.
    pub fn lost_to(&self, has: impl Fn(&str) -> u64) {
        for (at, events) in self.events.iter().enumerate() {
            let now = has(&format!("r{at}"));
            events.lock().unwrap().push(Event::Lost(now));
        }
    }

    /// How many were answered as they should be.
    pub fn answered(&self) -> usize {
        self.answers.lock().unwrap().len()
    }

    /// How many of these were answered by one.
    pub(super) fn answered_by(&self, by: &str) -> usize {
        self.answers.lock().unwrap().iter().filter(|answer| answer.by == by).count()
    }

    /// What was not answered as it should be.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    /// How many requests had no whole answer at all, streams apart.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Relaxed)
    }

    /// How many requests were answered as what may have been done, streams apart.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Relaxed)
    }

    /// How many answers were not as they should be, and did not say why, streams apart.
    pub fn unnamed(&self) -> u64 {
        self.unnamed.load(Relaxed)
    }

    /// Fails where one register cannot have answered so, or what was added was not added once.
    pub fn check(&self) -> Result<(), String> {
        for (at, events) in self.events.iter().enumerate() {
            let mut history = History::new(0);
            for (line, event) in events.lock().unwrap().iter().enumerate() {
                let taken = match *event {
                    Event::Begins(number, op) => {
                        history.begin(number, op);
                        Ok(())
                    }
                    Event::Done(number, read) => history.done(number, read),
                    Event::NotDone(number) => history.not_done(number),
                    Event::Unknown(number) => {
                        history.unknown(number);
                        Ok(())
                    }
                    Event::Lost(now) => {
                        history.lose(now);
                        Ok(())
                    }
                    Event::Settled => {
                        history.settle();
                        Ok(())
                    }
                };
                taken.map_err(|violation| format!("register r{at}, event {line}: {violation}"))?;
            }
        }
        Ok(())
    }

    /// Fails where two writes have overwritten one, or one of those that add was not counted once. For a record without losses
    /// and failures.
    pub fn check_sums(&self) -> Result<(), String> {
        let mut overwritten = BTreeSet::new();
        for over in self.answers.lock().unwrap().iter().filter_map(|answer| answer.over) {
            // Every register begins with 0.
            if over != 0 && !overwritten.insert(over) {
                return Err(format!("two writes have overwritten {over}"));
            }
        }
        for (name, sums) in &*self.sums.lock().unwrap() {
            let mut sums = sums.clone();
            sums.sort_unstable();
            let wrong = sums.iter().zip(1..).find(|(sum, expected)| *sum != expected);
            if let Some((sum, expected)) = wrong {
                return Err(format!("{name}: nobody was answered {expected}, but somebody {sum}"));
            }
        }
        Ok(())
    }

    /// Fails where something was done twice, or what was answered as not done was. `numbers`: of what applications have done.
    pub fn check_once(&self, numbers: &[u64]) -> Result<(), String> {
        let mut all = BTreeSet::new();
        if let Some(number) = numbers.iter().find(|number| !all.insert(**number)) {
            return Err(format!("number {number} was done twice"));
        }
        match self.not_done.lock().unwrap().iter().find(|number| all.contains(number)) {
            Some(number) => Err(format!("number {number} was answered as not done, and was done")),
            None => Ok(()),
        }
    }

    /// Fails where something was answered as done, and was not. `numbers`: of all that was done.
    pub fn check_done(&self, numbers: &[u64]) -> Result<(), String> {
        let all: BTreeSet<&u64> = numbers.iter().collect();
        match self.done.lock().unwrap().iter().find(|number| !all.contains(number)) {
            Some(number) => Err(format!("number {number} was answered, and nobody has done it")),
            None => Ok(()),
        }
    }

    /// The time between the last answer of one and the first one of the other, of what was answered in `span`.
    pub fn blackout(&self, from: &str, to: &str, span: (Duration, Duration)) -> Option<Duration> {
        let answers = self.answers.lock().unwrap();
        let within = || answers.iter().filter(|answer| (span.0..=span.1).contains(&answer.at));
        let first = within().filter(|answer| answer.by == to).map(|answer| answer.at).min()?;
        let last = within().filter(|answer| answer.by == from).map(|answer| answer.at).max()?;
        Some(first.saturating_sub(last))
    }

    /// How long half of them took at most, and how long 99 of a hundred: of those that were answered in one of `spans`, and of
    /// the others.
    pub fn latencies(&self, spans: &[(Duration, Duration)]) -> [(Duration, Duration); 2] {
        let answers = self.answers.lock().unwrap();
        let (mut within, mut others) = (Vec::new(), Vec::new());
        for Answered { at, took, .. } in &*answers {
            let is_within = spans.iter().any(|(from, to)| (from..=to).contains(&at));
            if is_within { &mut within } else { &mut others }.push(*took);
        }
        [within, others].map(|mut took| {
            took.sort_unstable();
            let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
            (at(50), at(99))
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Relaxed);
    }

    pub(super) fn only_reads(&self) -> bool {
        self.only_reads.load(Relaxed)
    }

    pub(super) fn only_read(&self) {
        self.only_reads.store(true, Relaxed);
    }

    /// What was added has made this of a register.
    pub(super) fn sum(&self, name: &'static str, sum: u64) {
        self.sums.lock().unwrap().entry(name).or_default().push(sum);
    }

    pub(super) fn done(&self, number: u64) {
        self.done.lock().unwrap().push(number);
    }

    pub(super) fn not_done(&self, number: u64) {
        self.not_done.lock().unwrap().push(number);
    }

    pub(super) fn event(&self, register: usize, event: Event) {
        self.events[register].lock().unwrap().push(event);
    }

    pub(super) fn fail(&self, what: &str, why: String) {
        self.failures.lock().unwrap().push(format!("{:?} {what}: {why}", self.now()));
    }

    pub(super) fn answer(&self, began: Instant, by: Option<&str>, number: u64, over: Option<u64>) {
        let by = by.unwrap_or_default().to_owned();
        let answered = Answered { at: self.now(), took: began.elapsed(), by, number, over };
        self.answers.lock().unwrap().push(answered);
    }
}
