//! What functions may take, so that a device's main task keeps its share: found out by how long the main task's answers take.
//!
//! As long as functions do nothing, the 99th percentile of the main task's answers is learned: the baseline. Once
//! they do something, an answer above `percent` of the baseline is late. One in a hundred may be. If clearly more are, by
//! more than chance, what functions take is halved; if clearly fewer are, they get a little more, and the longer they were
//! harmful after that, the later. If the least that they can be given is too much, no new run begins for a while. In
//! between, and as long as too little is known, nothing changes.

use std::time::{Duration, Instant};

use lighter_config::sidecar::MainTaskConfig;

use crate::telemetry::Counted;

/// The share of functions. Time comes in with what happens.
#[derive(Debug)]
pub(super) struct Reserve {
    percent: u32,
    /// Of the processors, as the share.
    least: f64,
    most: f64,
    share: f64,
    /// What functions took when it was too much the last time: near that it rises in small steps.
    harmful: f64,
    is_closed: bool,
    baseline: Baseline,
    /// What was seen since it was last judged.
    seen: Seen,
    /// The share has just fallen: the next answers were asked for before.
    is_settling: bool,
    /// Windows that were quiet in a row.
    quiet: u32,
    /// When the main task was last asked for something.
    asked: Option<Instant>,
    /// When the share last fell, or runs were last let in again.
    fell: Option<Instant>,
    /// Whether it has risen since.
    has_risen: bool,
    /// How long after that it may rise.
    patience: Duration,
    /// Since when functions do little, so that the baseline is found out again.
    asking: Option<Instant>,
}

/// What happened in a window.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// The main task's answers.
    pub(super) answers: Counted,
    /// By how much more of its requests have begun than ended.
    pub(super) begun: u64,
    /// The part of the processors that functions took.
    pub(super) used: f64,
    /// Its end.
    pub(super) now: Instant,
}

/// What became of the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Change {
    /// It was halved, as the main task's answers are late.
    Halved,
    /// The least is too much: no new run begins.
    Closed,
    /// New runs may begin again.
    Opened,
    /// Functions get a little more.
    Raised,
}

#[derive(Debug, Default)]
struct Seen {
    answers: Counted,
    most_used: f64,
    since: Option<Instant>,
}

/// How long answers take without functions: by the last of them and those before.
#[derive(Debug, Default)]
struct Baseline {
    before: Counted,
    last: Counted,
    /// When the first of the last came.
    began: Option<Instant>,
    /// When one was last learned.
    learned: Option<Instant>,
    p99: Option<Duration>,
}

impl Reserve {
    pub(super) fn new(said: &MainTaskConfig) -> Self {
        let most = 1.0 - f64::from(said.reserve_percent) / 100.0;
        Reserve {
            percent: said.p99_percent,
            least: (f64::from(said.least_percent) / 100.0).min(most),
            most,
            share: most,
            harmful: most,
            is_closed: false,
            baseline: Baseline::default(),
            seen: Seen::default(),
            is_settling: false,
            quiet: 0,
            asked: None,
            fell: None,
            has_risen: false,
            patience: FIRST_PATIENCE,
            asking: None,
        }
    }

    /// The part of the processors that running functions may take.
    pub(super) fn share(&self) -> f64 {
        match self.is_closed || self.asking.is_some() || self.is_waiting_for_a_baseline() {
            true => self.least,
            false => self.share,
        }
    }

    /// The same for what new runs are let in by. Zero: none is.
    pub(super) fn open(&self) -> f64 {
        if self.is_closed { 0.0 } else { self.share() }
    }

    /// The 99th percentile of the main task's answers without functions.
    pub(super) fn baseline(&self) -> Option<Duration> {
        self.baseline.p99
    }

    /// What it may be with them.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.baseline.p99.map(|p99| p99 * self.percent / 100)
    }

    /// A window is over.
    pub(super) fn turn(&mut self, window: &Window) -> Option<Change> {
        let now = window.now;
        if window.answers.len() + window.begun > 0 {
            self.asked = Some(now);
        }
        // What functions do at the least share is believed to be harmless only where nothing better can be had.
        let must_learn = self.asking.is_some() || self.is_waiting_for_a_baseline();
        let is_quiet = window.used <= if must_learn { self.least * 1.5 } else { NOTHING };
        // What they did shows for a while after they did it.
        self.quiet = if is_quiet { self.quiet.saturating_add(1) } else { 0 };
        if self.quiet > 1 {
            self.baseline.learn(&window.answers, now);
        }
        if self.is_learning(now) || std::mem::take(&mut self.is_settling) {
            self.seen = Seen::default();
            return None;
        }
        let verdict = self.judge(window)?;
        self.seen = Seen::default();
        match verdict {
            Verdict::Harmed(used) => self.fall(used, now),
            Verdict::Well => self.rise(STEP, now),
            Verdict::Idle => {
                self.harmful = self.most;
                self.rise(IDLE_STEP, now)
            }
            Verdict::Close => None,
        }
    }

    /// Nobody knows how long answers take, and there are some.
    fn is_waiting_for_a_baseline(&self) -> bool {
        self.baseline.p99.is_none() && self.asked.is_some()
    }

    /// Whether the baseline is found out right now, for the first time or again.
    fn is_learning(&mut self, now: Instant) -> bool {
        if self.is_waiting_for_a_baseline() {
            return true;
        }
        match (self.asking, self.baseline.learned) {
            (Some(since), _) if now.saturating_duration_since(since) >= LONGEST_ASKING => {
                // Little came. What is known has to do for another while.
                self.baseline.learned = Some(now);
                self.asking = None;
            }
            (Some(since), Some(learned)) if learned > since && self.baseline.last.len() >= ENOUGH => {
                self.asking = None;
            }
            (None, Some(learned)) if now.saturating_duration_since(learned) >= BELIEVED => {
                self.asking = Some(now);
            }
            _ => {}
        }
        self.asking.is_some()
    }

    /// How the main task does, if that can be told yet.
    fn judge(&mut self, window: &Window) -> Option<Verdict> {
        let since = *self.seen.since.get_or_insert(window.now);
        self.seen.answers.add(&window.answers);
        self.seen.most_used = self.seen.most_used.max(window.used);
        let (used, count) = (self.seen.most_used, self.seen.answers.len());
        let lasted = window.now.saturating_duration_since(since);
        if count == 0 && window.begun >= MANY {
            // It answers nobody at all.
            return Some(Verdict::Harmed(used));
        }
        if count == 0 {
            return (lasted >= JUDGED).then_some(Verdict::Idle);
        }
        let limit = self.limit()?;
        let late = self.seen.answers.longer_than(limit) as f64;
        let expected = count as f64 / 100.0;
        if late > expected + expected.sqrt() + 1.0 {
            return Some(Verdict::Harmed(used));
        }
        // What is near to the limit is not tried further, and looked at until it is clear.
        let is_well = late <= expected / 2.0 && (count >= ENOUGH || lasted >= JUDGED);
        if is_well {
            return Some(Verdict::Well);
        }
        (lasted >= LONGEST_JUDGED).then_some(Verdict::Close)
    }

    fn fall(&mut self, used: f64, now: Instant) -> Option<Change> {
        if used <= NOTHING {
            // It is not functions that harm it.
            return None;
        }
        if self.has_risen {
            // What was tried since then was too much.
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
        }
        (self.fell, self.has_risen, self.is_settling) = (Some(now), false, true);
        self.harmful = self.share.min(used).max(self.least);
        if self.share <= self.least {
            let was_closed = std::mem::replace(&mut self.is_closed, true);
            return (!was_closed).then_some(Change::Closed);
        }
        // They may have taken less than they might.
        self.share = (self.share.min(used) / 2.0).max(self.least);
        Some(Change::Halved)
    }

    fn rise(&mut self, step: f64, now: Instant) -> Option<Change> {
        let since = self.fell.map_or(LONGEST_PATIENCE, |fell| now.saturating_duration_since(fell));
        if since < self.patience {
            return None;
        }
        if self.is_closed {
            (self.is_closed, self.fell, self.has_risen) = (false, Some(now), true);
            return Some(Change::Opened);
        }
        if since >= LONGEST_PATIENCE {
            self.patience = FIRST_PATIENCE;
        }
        if self.share >= self.most {
            return None;
        }
        self.share = (self.share + step.min(self.harmful / 10.0)).min(self.most);
        if self.share > self.harmful {
            // It is not harmful any more.
            self.harmful = self.share * 2.0;
        }
        self.has_risen = true;
        Some(Change::Raised)
    }
}

enum Verdict {
    /// More answers are late than chance makes. Functions took so much at most.
    Harmed(f64),
    /// No more are late than may be.
    Well,
    /// Nobody asks it for anything.
    Idle,
    /// It cannot be told apart.
    Close,
}

impl Baseline {
    fn learn(&mut self, answers: &Counted, now: Instant) {
        if answers.len() == 0 {
            return;
        }
        let began = *self.began.get_or_insert(now);
        let lasted = now.saturating_duration_since(began);
        self.learned = Some(now);
        self.last.add(answers);
        let known = self.before.len() + self.last.len();
        if known >= ENOUGH || (known >= FEW && lasted >= LONGEST_LEARNING) {
            let mut all = self.before.clone();
            all.add(&self.last);
            self.p99 = all.percentile(99);
        }
        if lasted >= GENERATION && self.last.len() >= ENOUGH {
            self.before = std::mem::take(&mut self.last);
            self.began = None;
        }
    }
}

/// Functions that take less of the processors than this do nothing that could be measured.
const NOTHING: f64 = 0.002;
/// Answers by which it can be told what one in a hundred does, and fewer, where no more come.
const ENOUGH: u64 = 200;
const FEW: u64 = 10;
const LONGEST_LEARNING: Duration = Duration::from_secs(10);
/// How long answers make one half of the baseline, before they make the other one.
const GENERATION: Duration = Duration::from_secs(15);
/// How long a baseline is believed while functions leave no time to learn it.
const BELIEVED: Duration = Duration::from_secs(300);
const LONGEST_ASKING: Duration = Duration::from_secs(3);
/// So many requests without an answer to any are many.
const MANY: u64 = 10;
/// How long it is waited for `ENOUGH` answers.
const JUDGED: Duration = Duration::from_secs(2);
const LONGEST_JUDGED: Duration = Duration::from_secs(10);
/// How much more functions get at once, as a part of the processors, where it is not near to what was harmful.
const STEP: f64 = 0.02;
/// The same while the main task has nothing to do.
const IDLE_STEP: f64 = 0.1;
/// How long the share stays as it is after it fell. Doubled each time that what was tried then was too much.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
