//! How many requests an application can work on at once, found out by how long its answers take.
//!
//! As Envoy's gradient controller and Netflix's concurrency limits do: in each interval the limit is multiplied by how long an
//! answer takes at rest, divided by how long it takes now, and gets a little room, the square root of it, to be tried out. So it
//! grows as long as answers are as quick as at rest, and falls as soon as requests queue. Unlike there, whatever comes at
//! rest says how quick the application is, so that the limit has to fall for that only where it refuses requests for long;
//! and the limit does not grow away from what is used, so that a rush does not find it wide open.

use std::time::{Duration, Instant};

use lighter_config::snapshot::Overload;

/// The limit of one port. Time comes in with what happens.
#[derive(Debug)]
pub(super) struct Gradient {
    said: Overload,
    limit: f64,
    /// How long an answer takes at rest. None: there is no limit but the largest yet.
    baseline: Option<Duration>,
    /// That is not known, and taken for the least that an interval has seen.
    is_guess: bool,
    /// Latencies at rest since that was last found out.
    at_rest: Vec<Duration>,
    /// When more than a few were last seen under way.
    crowded: Option<Instant>,
    /// Latencies in this interval.
    window: Window,
    /// Time in which as many were under way as may be, since it was last found out.
    busy: Duration,
    /// How much of that there has to be before it is asked for.
    patience: Duration,
    /// Since when it is asked for: nothing but a few are let through.
    asking: Option<Instant>,
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// When its request came.
    pub(super) began: Instant,
    /// From the request to the answer's head.
    pub(super) latency: Duration,
    /// No more than `min_concurrency` are under way, this one among them.
    pub(super) few: bool,
    /// The most that were under way at once since the last interval began.
    pub(super) peak: u32,
    /// Now.
    pub(super) now: Instant,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    latencies: Vec<Duration>,
    /// Where the next one goes once there are many.
    next: usize,
}

impl Gradient {
    pub(super) fn new(said: Overload, now: Instant) -> Self {
        Gradient {
            said,
            limit: said.max_concurrency.into(),
            baseline: None,
            is_guess: true,
            at_rest: Vec::new(),
            crowded: None,
            window: Window { since: now, latencies: Vec::new(), next: 0 },
            busy: Duration::ZERO,
            patience: FIRST_PATIENCE.min(said.baseline_interval),
            asking: None,
        }
    }

    /// Goes on by another policy, with what is known.
    pub(super) fn set(&mut self, said: Overload) {
        self.said = said;
        self.patience = self.patience.min(said.baseline_interval);
        if self.baseline.is_none() {
            self.limit = said.max_concurrency.into();
        }
        self.bound();
    }

    /// How many may be under way at once.
    pub(super) fn limit(&self) -> u32 {
        match self.asking {
            Some(_) => self.said.min_concurrency,
            None => self.limit as u32,
        }
    }

    /// How long an answer takes at rest.
    pub(super) fn baseline(&self) -> Option<Duration> {
        self.baseline
    }

    /// Whether it is found out right now how long an answer takes at rest.
    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// An answer came. Returns whether an interval is over, so that a new one begins for its peak. `draw` gives a number from
    /// 0 to 1 by chance, so that not all instances of a Service ask at the same time.
    pub(super) fn answered(&mut self, answer: Answer, draw: impl Fn() -> f64) -> bool {
        let Answer { began, latency, few, peak, now } = answer;
        if !few {
            self.crowded = Some(now);
        } else if self.crowded.is_none_or(|at| at < began) {
            // Whoever came and went meanwhile was seen going.
            self.at_rest.push(latency);
        }
        let late = self.asking.is_some_and(|since| now.saturating_duration_since(since) >= LONGEST_ASKING);
        let most = self.said.baseline_requests as usize;
        let enough = if late { most.min(FEWEST_AT_REST) } else { most };
        if self.at_rest.len() >= enough {
            self.found(peak, now, &draw);
        }
        if self.asking.is_some() {
            return false;
        }
        self.window.put(latency);
        // What the last change did shows once those are answered that came after it.
        let shortest = self.said.interval.max(self.baseline.unwrap_or_default());
        if now.saturating_duration_since(self.window.since) < shortest || self.window.latencies.len() < FEWEST
        {
            return false;
        }
        self.turn(peak, now, draw);
        true
    }

    /// An interval is over.
    fn turn(&mut self, peak: u32, now: Instant, draw: impl Fn() -> f64) {
        let lasted = now.saturating_duration_since(self.window.since);
        let sample = percentile(&mut self.window.latencies, self.said.percentile);
        self.window.begin(now);
        if peak >= self.limit() {
            // One in which little came says little of how busy it was.
            self.busy += lasted.min(2 * self.said.interval);
        }
        if self.is_guess {
            if self.baseline.is_none() {
                self.limit = roomy(peak);
            }
            self.baseline = Some(self.baseline.map_or(sample, |known| known.min(sample)));
        }
        if let Some(baseline) = self.baseline {
            let borne = baseline.as_secs_f64() * (1.0 + f64::from(self.said.tolerance_percent) / 100.0);
            let borne = borne + SLACK.as_secs_f64();
            let gradient = (borne / sample.as_secs_f64().max(f64::MIN_POSITIVE)).clamp(0.5, 2.0);
            let next = self.limit * gradient + self.limit.sqrt();
            self.limit = if next > self.limit { next.min(roomy(peak).max(self.limit)) } else { next };
            self.bound();
        }
        if self.busy >= self.patience {
            if self.at_rest.len() >= FEWEST_AT_REST.min(self.said.baseline_requests as usize) {
                self.found(peak, now, draw);
            } else {
                self.asking = Some(now);
                self.at_rest.clear();
            }
        }
    }

    /// How long an answer takes at rest is known, for a while.
    fn found(&mut self, peak: u32, now: Instant, draw: impl Fn() -> f64) {
        if self.baseline.is_none() {
            self.limit = roomy(peak);
            self.bound();
        }
        self.is_guess = false;
        self.baseline = Some(percentile(&mut self.at_rest, self.said.percentile));
        self.at_rest.clear();
        self.busy = Duration::ZERO;
        self.patience = self.said.baseline_interval.mul_f64(1.0 + JITTER * draw());
        if self.asking.take().is_some() {
            self.window.begin(now);
        }
    }

    fn bound(&mut self) {
        self.limit = self.limit.clamp(self.said.min_concurrency.into(), self.said.max_concurrency.into());
    }
}

impl Window {
    fn put(&mut self, latency: Duration) {
        if self.latencies.len() < MOST {
            self.latencies.push(latency);
        } else {
            self.latencies[self.next] = latency;
            self.next = (self.next + 1) % MOST;
        }
    }

    fn begin(&mut self, now: Instant) {
        self.latencies.clear();
        self.next = 0;
        self.since = now;
    }
}

/// The limit above which it does not grow while so many are used.
fn roomy(peak: u32) -> f64 {
    (2.0 * f64::from(peak)).max(ROOM)
}

/// The latency that this part of them, of which there are some, do not exceed.
fn percentile(latencies: &mut [Duration], percent: u8) -> Duration {
    let place = (latencies.len() * usize::from(percent) / 100).min(latencies.len().saturating_sub(1));
    *latencies.select_nth_unstable(place).1
}

/// Fewest answers by which the limit is changed, as in Envoy.
const FEWEST: usize = 5;
/// So many answers at rest do where no more came in time.
const FEWEST_AT_REST: usize = 10;
/// Most latencies of an interval that are kept: the last ones.
const MOST: usize = 512;
/// A rush of so many is let through by an application that was never seen to be slow at it.
const ROOM: f64 = 32.0;
/// Less than this says more of the host than of the application.
const SLACK: Duration = Duration::from_micros(500);
/// How long nothing is known of an application that is busy from the beginning.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long few are let through so that it can be found out how long an answer takes at rest, unless very few came.
const LONGEST_ASKING: Duration = Duration::from_secs(1);
/// The baseline is believed for up to this part of its time longer.
const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests;
