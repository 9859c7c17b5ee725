//! Whether the state of a Service moves to where it would be served better: looked at every few seconds, beside what people ask for.
//!
//! What a move brings is what callers wait less, over all requests of a while to come. What it costs is what they wait while nobody
//! serves, which weighs more than the same time in many small parts, and what both ends have to do for the copy. It is asked for
//! only where it brings more than it costs by a margin, and the same place has been the better one for a while. How places compare
//! is what is said of them, until moves have shown it; and a move that did not bring what it promised makes the next one harder.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::profile::Profile;
use crate::time::Time;

/// When the state of a Service moves for gain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoveRules {
    /// What is saved counts for so long, in seconds.
    pub horizon_seconds: f64,
    /// By how much the gain has to be more than the cost: 0.5 is by half of it.
    pub margin: f64,
    /// So long after it came to where it is it stays there, and so long another place has to be better, in seconds.
    pub settle_seconds: f64,
}

/// A Service with state that may move for gain, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Seated {
    /// What it is called. No two have one name.
    pub name: Arc<str>,
    /// When it moves.
    pub rules: MoveRules,
    /// Where it is, among `places`.
    pub at: usize,
    /// How many requests come now, a second.
    pub rate: f64,
    /// How many are under way.
    pub in_flight: u64,
    /// How long one took of late where it is, in seconds. None: none ended.
    pub seconds: Option<f64>,
    /// How long nobody serves while it moves, in seconds, as far as that can be foreseen.
    pub blackout_seconds: f64,
    /// How much there is to copy.
    pub state_bytes: u64,
    /// It moves already, or is about to.
    pub is_moving: bool,
    /// Where it is, and where else it could be.
    pub places: Vec<Seat>,
}

/// Where a Service with state is, or could be.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat {
    /// What it is called. No two of a Service have one name.
    pub name: Arc<str>,
    /// What is said of it.
    pub profile: Profile,
    /// How many runs its limits let there be at once now, and how many there are. None: nobody knows, as it is no device.
    pub runs: Option<(u32, u32)>,
    /// How long one that comes now waits behind those, in seconds.
    pub queue_seconds: f64,
}

/// A move as it is foreseen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Where to, among the places.
    pub to: usize,
    /// What callers wait less over the horizon, in seconds of all of them together.
    pub gain_seconds: f64,
    /// What it costs, in the same.
    pub cost_seconds: f64,
    /// How long a request takes where it is, and is expected to take there.
    pub request_seconds: [f64; 2],
}

/// Why the state of a Service stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stays {
    /// Nobody has asked for anything for a while, and nothing is under way.
    Idle,
    /// It is not known yet how long requests take where it is.
    Unmeasured,
    /// No other instance can take it, or has room for its requests.
    NoCandidate,
    /// Nowhere it would bring more than it costs, by the margin.
    NotPaid,
    /// It would, but it has not been so for long enough, or it has only just come to where it is.
    Settling,
    /// The last try failed not long ago.
    BackingOff,
    /// It moves already, or another Service does for gain.
    Moving,
}

impl Stays {
    /// Every reason.
    pub const ALL: [Stays; 7] = [
        Stays::Idle,
        Stays::Unmeasured,
        Stays::NoCandidate,
        Stays::NotPaid,
        Stays::Settling,
        Stays::BackingOff,
        Stays::Moving,
    ];

    /// Its word in logs, in metrics and for people.
    pub const fn label(self) -> &'static str {
        match self {
            Stays::Idle => "idle",
            Stays::Unmeasured => "unmeasured",
            Stays::NoCandidate => "no_candidate",
            Stays::NotPaid => "not_paid",
            Stays::Settling => "settling",
            Stays::BackingOff => "backing_off",
            Stays::Moving => "moving",
        }
    }
}

/// What is decided of a Service in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decided {
    /// The best that it could do, where there is something to compare.
    pub best: Option<Move>,
    /// Why it is not done. None: it is to be.
    pub stays: Option<Stays>,
    /// The last move for gain has been there for long enough to be judged: whether it brought at least half of what it promised.
    pub has_paid: Option<bool>,
}

/// Decides it for all Services, one move at a time.
#[derive(Clone, Debug, Default)]
pub struct Mover {
    services: BTreeMap<Arc<str>, Known>,
}

/// What is remembered of a Service.
#[derive(Clone, Debug)]
struct Known {
    /// Where it was seen last, and since when.
    at: Arc<str>,
    since: Time,
    /// It has moved there: it was seen elsewhere before.
    has_moved: bool,
    /// When it was looked at last.
    seen: Time,
    /// Smoothed.
    rate: f64,
    seconds: Option<f64>,
    /// When anybody had asked for something last.
    asked: Option<Time>,
    /// About how many requests that is of.
    requests: f64,
    /// The better place, since when, and in how many rounds.
    better: Option<(Arc<str>, Time, u32)>,
    /// How the place compares where it is.
    factor: f64,
    /// Where it was before, until that is compared with how it is now.
    before: Option<Before>,
    /// Where a move was to lead that was asked for, and how long a request was to take there.
    promised: Option<(Arc<str>, f64)>,
    /// How places compare, as moves have shown: in the unit of [`Profile::compute_factor`].
    factors: BTreeMap<Arc<str>, f64>,
    /// Moves that did not pay, less those that did.
    strikes: i32,
    /// Tries that failed, one after the other, and until when there is none.
    failures: i32,
    rests_until: Option<Time>,
}

/// Where a Service was before. It may not be listed any more.
#[derive(Clone, Debug)]
struct Before {
    name: Arc<str>,
    /// How long a request took there.
    seconds: f64,
    /// How it compares.
    factor: f64,
}

impl Mover {
    /// Decides for each of these, in their order. One of them at most is to move, and none while another moves: `is_any_moving` says
    /// whether one does that may not be among these, as nobody serves it.
    pub fn decide(&mut self, services: &[Seated], is_any_moving: bool, now: Time) -> Vec<Decided> {
        let mut before = std::mem::take(&mut self.services);
        let mut decided = Vec::with_capacity(services.len());
        for service in services {
            let Some(at) = service.places.get(service.at) else {
                decided.push(Decided { best: None, stays: Some(Stays::NoCandidate), has_paid: None });
                continue;
            };
            let known = before.remove(&service.name);
            let mut known = known.unwrap_or_else(|| Known::new(at.name.clone(), now));
            // Of how it was while nobody looked, nothing is known.
            let elapsed = now.seconds_since(known.seen).clamp(0.0, FORGET_SECONDS);
            let has_paid = known.see(service, at, elapsed, now);
            known.seen = now;
            let (best, stays) = known.judge(service, now);
            decided.push(Decided { best, stays, has_paid });
            self.services.insert(service.name.clone(), known);
        }
        // Of a Service that nobody serves for a moment, as when it moves, nothing is forgotten.
        before.retain(|_, known| now.seconds_since(known.seen) < KEPT_SECONDS);
        self.services.append(&mut before);
        let is_moving = is_any_moving || services.iter().any(|service| service.is_moving);
        let worth = |decided: &Decided| {
            let best = decided.best.filter(|_| decided.stays.is_none());
            best.map(|best| best.gain_seconds - best.cost_seconds)
        };
        let first =
            decided.iter().enumerate().filter_map(|(number, decided)| Some((number, worth(decided)?)));
        let first = first.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(number, _)| number);
        for (number, decided) in decided.iter_mut().enumerate() {
            if decided.stays.is_none() && (is_moving || first != Some(number)) {
                decided.stays = Some(Stays::Moving);
            }
        }
        decided
    }

    /// A move that was decided is asked for: what it promises is compared with what comes of it.
    pub fn asked(&mut self, service: &Seated, decided: &Move) {
        let to = service.places.get(decided.to).map(|place| place.name.clone());
        if let (Some(known), Some(to)) = (self.services.get_mut(&service.name), to) {
            known.promised = Some((to, decided.request_seconds[1]));
        }
    }

    /// One that was asked for has ended. `has_moved`: the Service is where it was to go; otherwise nothing is asked for again for
    /// a while, which is longer from time to time.
    pub fn ended(&mut self, service: &str, has_moved: bool, rules: &MoveRules, now: Time) {
        let Some(known) = self.services.get_mut(service) else { return };
        if has_moved {
            known.failures = 0;
            return;
        }
        known.promised = None;
        let pause = (rules.settle_seconds.max(1.0) * doubled(known.failures)).min(LONGEST_PAUSE);
        known.failures = (known.failures + 1).min(MOST_DOUBLED);
        known.rests_until = Some(Time::from_nanos(now.nanos() + (pause * 1e9) as u64));
    }
}

impl Known {
    fn new(at: Arc<str>, now: Time) -> Self {
        Known {
            at,
            since: now,
            has_moved: false,
            seen: now,
            rate: 0.0,
            seconds: None,
            asked: None,
            requests: 0.0,
            better: None,
            factor: 1.0,
            before: None,
            promised: None,
            factors: BTreeMap::new(),
            strikes: 0,
            failures: 0,
            rests_until: None,
        }
    }

    /// Takes in how it is now. Returns whether its last move has paid, once that is known.
    fn see(&mut self, service: &Seated, at: &Seat, elapsed: f64, now: Time) -> Option<bool> {
        if self.at != at.name {
            let was = std::mem::replace(&mut self.at, at.name.clone());
            // What hardly anybody asked for was hardly measured.
            let measured = self.seconds.filter(|_| self.requests >= LEAST_REQUESTS);
            self.before = measured.map(|seconds| Before { name: was, seconds, factor: self.factor });
            // Somebody moved it elsewhere: that is not what was promised.
            self.promised = self.promised.take().filter(|(to, _)| *to == at.name);
            (self.since, self.has_moved, self.better) = (now, true, None);
            (self.rate, self.seconds, self.requests, self.asked) = (0.0, None, 0.0, None);
        }
        self.factor = self.factor_of(at);
        let share = (elapsed / FORGET_SECONDS).min(1.0);
        let rate = sane(service.rate);
        if rate > 0.0 || service.in_flight > 0 {
            self.asked = Some(now);
        }
        self.rate = if self.rate > 0.0 { self.rate + (rate - self.rate) * share } else { rate };
        // Callers that waited while it moved are among the first.
        let is_first = self.has_moved && now.seconds_since(self.since) < FIRST_SECONDS;
        if let Some(seconds) = service.seconds.filter(|_| !is_first).map(sane) {
            self.seconds = Some(self.seconds.map_or(seconds, |before| before + (seconds - before) * share));
            self.requests += rate * elapsed;
        }
        let is_settled = now.seconds_since(self.since) >= service.rules.settle_seconds;
        let seconds = self.seconds.filter(|_| is_settled && self.requests >= LEAST_REQUESTS)?;
        let before = self.before.take()?;
        if before.seconds > 0.0 && seconds > 0.0 {
            self.factor = before.factor * seconds / before.seconds;
            self.factors.insert(before.name.clone(), before.factor);
            self.factors.insert(at.name.clone(), self.factor);
            self.forget_factors(service, &before.name);
        }
        let (_, foreseen) = self.promised.take().filter(|(to, _)| *to == at.name)?;
        let before = before.seconds;
        let has_paid = before - seconds >= (before - foreseen) * PAID_SHARE;
        self.strikes = (self.strikes + if has_paid { -1 } else { 1 }).clamp(0, MOST_DOUBLED);
        Some(has_paid)
    }

    /// Instances have new names whenever they begin again: where there are too many, those are kept that it could be at.
    fn forget_factors(&mut self, service: &Seated, was: &Arc<str>) {
        if self.factors.len() > MOST_FACTORS {
            let is_listed = |name: &Arc<str>| service.places.iter().any(|place| place.name == *name);
            self.factors.retain(|name, _| name == was || is_listed(name));
        }
    }

    /// The best that it could do, and why that is not done, if it is not.
    fn judge(&mut self, service: &Seated, now: Time) -> (Option<Move>, Option<Stays>) {
        let measured = self.seconds.filter(|_| self.requests >= LEAST_REQUESTS);
        // Of few requests that take long none may end in a round.
        let is_asked = self.asked.is_some_and(|asked| now.seconds_since(asked) < FORGET_SECONDS);
        let here = match (is_asked, measured) {
            (false, _) => return self.stays(None, Stays::Idle),
            (_, None) => return self.stays(None, Stays::Unmeasured),
            (_, Some(here)) => here,
        };
        let moves = (0..service.places.len()).filter(|to| *to != service.at);
        let moves = moves.filter_map(|to| self.foresee(service, here, to));
        let worth = |one: &Move| one.gain_seconds - one.cost_seconds;
        let Some(best) = moves.max_by(|one, other| worth(one).total_cmp(&worth(other))) else {
            return self.stays(None, Stays::NoCandidate);
        };
        let [here, there] = best.request_seconds;
        let enough = best.cost_seconds * (1.0 + sane(service.rules.margin)) * doubled(self.strikes);
        if best.gain_seconds <= enough || there > here * (1.0 - LEAST_SAVED) {
            return self.stays(Some(best), Stays::NotPaid);
        }
        let to = &service.places[best.to].name;
        let (since, rounds) = match self.better.take() {
            Some((better, since, rounds)) if better == *to => (since, rounds.saturating_add(1)),
            _ => (now, 1),
        };
        self.better = Some((to.clone(), since, rounds));
        let settle = sane(service.rules.settle_seconds);
        let has_settled = now.seconds_since(self.since) >= settle * doubled(self.strikes);
        let stays = if self.rests_until.is_some_and(|until| now < until) {
            Some(Stays::BackingOff)
        } else if !has_settled || now.seconds_since(since) < settle || rounds < LEAST_ROUNDS {
            Some(Stays::Settling)
        } else {
            service.is_moving.then_some(Stays::Moving)
        };
        (Some(best), stays)
    }

    fn stays(&mut self, best: Option<Move>, why: Stays) -> (Option<Move>, Option<Stays>) {
        self.better = None;
        (best, Some(why))
    }

    /// What comes of a move to this place. None: there is no room for the requests.
    fn foresee(&self, service: &Seated, here: f64, to: usize) -> Option<Move> {
        let (from, there) = (service.places.get(service.at)?, service.places.get(to)?);
        // What waits for others here does not wait there for the same ones.
        let alone = (here - sane(from.queue_seconds)).max(here * LEAST_ALONE);
        let worked = alone * self.factor_of(there) / self.factor_of(from);
        let seconds = worked + sane(there.queue_seconds);
        if let Some((allowed, running)) = there.runs {
            let busy = self.rate * worked + f64::from(running);
            if busy > f64::from(allowed) * FULL {
                return None;
            }
        }
        let blackout = sane(service.blackout_seconds);
        // Whoever comes meanwhile waits for half of it, in the mean.
        let held = self.rate * blackout * blackout / 2.0 * HELD_WEIGHT;
        let copy = |place: &Seat| service.state_bytes as f64 / place.profile.link_bytes_per_second.max(1.0);
        // Those that run meanwhile share both ends with it.
        let copied = (copy(from) + copy(there)) * (1.0 + self.rate * here);
        let horizon = sane(service.rules.horizon_seconds);
        let gain_seconds = self.rate * horizon * (here - seconds);
        let cost_seconds = held + copied;
        let is_sane = gain_seconds.is_finite() && cost_seconds.is_finite();
        is_sane.then_some(Move { to, gain_seconds, cost_seconds, request_seconds: [here, seconds] })
    }

    fn factor_of(&self, place: &Seat) -> f64 {
        let factor = self.factors.get(&place.name).copied().unwrap_or(place.profile.compute_factor);
        if factor.is_finite() { factor.max(LEAST_FACTOR) } else { 1.0 }
    }
}

/// 1, 2, 4 and so on.
fn doubled(times: i32) -> f64 {
    2f64.powi(times.clamp(0, MOST_DOUBLED))
}

/// An amount, as far as it is one.
fn sane(number: f64) -> f64 {
    if number.is_finite() { number.max(0.0) } else { 0.0 }
}

/// Rates and times are smoothed over so many seconds, and who has asked for nothing for as long is idle.
const FORGET_SECONDS: f64 = 10.0;
/// What ended in the first seconds after a move says nothing of the place.
const FIRST_SECONDS: f64 = 3.0;
/// Of fewer requests nobody knows how long they take.
const LEAST_REQUESTS: f64 = 20.0;
/// In so many rounds a place has to be the better one.
const LEAST_ROUNDS: u32 = 3;
/// A request has to take less by so much of its time: what is closer is not told apart.
const LEAST_SAVED: f64 = 0.2;
/// A move has paid that brought so much of what it promised.
const PAID_SHARE: f64 = 0.5;
/// A second for which somebody waits at once weighs as much as so many in small parts.
const HELD_WEIGHT: f64 = 10.0;
/// How much of its runs a place is given to do, so that requests do not queue.
const FULL: f64 = 0.7;
/// A request takes so much of its time by itself, at least, and waits for others for the rest.
const LEAST_ALONE: f64 = 0.1;
/// Of so many places it is remembered how they compare, or of those that there are.
const MOST_FACTORS: usize = 64;
/// No place is faster by more.
const LEAST_FACTOR: f64 = 1e-6;
/// What is known of a Service that is not there is kept for so long.
const KEPT_SECONDS: f64 = 3600.0;
/// So often what grows is doubled, at most.
const MOST_DOUBLED: i32 = 6;
/// Nobody waits for longer after a try that failed, in seconds.
const LONGEST_PAUSE: f64 = 3600.0;

#[cfg(test)]
mod tests;
