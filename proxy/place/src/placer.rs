//! Where everything comes together: what is known of places and routes, asked for each request and told of each end.

use crate::choose::choose;
use crate::health::{Failure, Health, Setback};
use crate::learn::{Layer, Surprise};
use crate::load::Load;
use crate::profile::Profile;
use crate::record::{Candidate, Candidates, Decision, Inputs, Reason, Record, Side, Standing};
use crate::request::{HOST, Offer, PlaceId, Request, SizeClass, Work};
use crate::route::{Route, RouteId, RouteRules};
use crate::time::Time;

/// Decides for all routes of one host.
#[derive(Clone, Debug)]
pub struct Placer {
    /// The host first.
    pub(crate) places: Vec<Place>,
    pub(crate) routes: Vec<Route>,
    /// A device that reports and has not for so long is left alone, in seconds.
    longest_silence: f64,
    random: fastrand::Rng,
}

/// A request that has its place.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// To be given back when it ends there.
    pub ticket: Ticket,
    /// For the log.
    pub record: Record,
}

/// A request that is under way. Each is [ended](Placer::ended) once.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Where it is.
    pub place: PlaceId,
    /// How long a device has until its answer begins, in seconds. None: it is the host.
    pub timeout_seconds: Option<f64>,
    route: RouteId,
    /// Where the route keeps what it knows of the place.
    slot: u32,
    class: SizeClass,
    began: Time,
    worked_bytes: u64,
    prior_seconds: f32,
    /// Of them, those that are for the place to work, and for its processor.
    busy_seconds: f32,
    compute_seconds: f32,
    queue_seconds: f32,
    /// Whether the host was expected to be in time.
    host_in_time: bool,
}

impl Ticket {
    /// The request was held until now.
    pub fn begins(&mut self, now: Time) {
        self.began = now;
    }

    fn spent(&self, seconds: f64, service_seconds: f64) -> Spent {
        let part = |of: f32| service_seconds * f64::from(of / self.prior_seconds.max(f32::MIN_POSITIVE));
        Spent {
            seconds,
            busy_seconds: part(self.busy_seconds),
            processor_seconds: part(self.compute_seconds),
        }
    }
}

/// How a request ended where it was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It was answered.
    Answered(Answer),
    /// It was not.
    SetBack(Setback),
    /// Whoever asked does not wait for it any more: it says nothing of the place.
    Abandoned,
}

/// What an answer says beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answer {
    /// How long the request waited there before it ran, in seconds, where the place says so.
    pub waited_seconds: Option<f64>,
    /// How large the answer was.
    pub bytes_out: u64,
}

/// What an answer took at its place: the time is measured, and what of it was work is as the prior says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// From when the request was sent until its answer had come, in seconds.
    pub seconds: f64,
    /// Of them, those in which the place worked for it: it waited for nobody else, and nothing was on its way.
    pub busy_seconds: f64,
    /// Of those, the ones that its processor took, and not its medium.
    pub processor_seconds: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) profile: Profile,
    pub(crate) load: Load,
    pub(crate) health: Health,
    /// What its answers on all routes have in common.
    pub(crate) bias: Layer,
    pub(crate) surprise: Surprise,
}

impl Placer {
    /// One that knows the host, and no route. The same seed makes the same draws.
    pub fn new(host: Profile, seed: u64) -> Self {
        Placer {
            places: vec![Place::new(host)],
            routes: Vec::new(),
            longest_silence: f64::INFINITY,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Devices report at least so often, in seconds: one that misses three reports has stalled or is gone, and nobody's request
    /// is needed to find out.
    pub fn expect_reports(&mut self, interval_seconds: f64) {
        self.longest_silence = interval_seconds * MISSED_REPORTS;
    }

    /// The same with other draws: what another sidecar would begin with that was told the same.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.random = fastrand::Rng::with_seed(seed);
        self
    }

    /// A device becomes known.
    pub fn add_device(&mut self, profile: Profile) -> PlaceId {
        self.places.push(Place::new(profile));
        PlaceId(u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX))
    }

    /// A route becomes known, which may use these devices.
    pub fn add_route(&mut self, rules: RouteRules, devices: impl IntoIterator<Item = PlaceId>) -> RouteId {
        self.routes.push(Route::new(rules, devices.into_iter().collect()));
        RouteId(u32::try_from(self.routes.len() - 1).unwrap_or(u32::MAX))
    }

    /// A place says how long a request that comes now would wait there, in seconds.
    pub fn report(&mut self, place: PlaceId, queue_seconds: f64, now: Time) {
        self.places[place.0 as usize].load.report(queue_seconds, now);
    }

    /// Where a request goes. Of more offers than fit into one decision, those that are admissible are drawn.
    pub fn place(&mut self, route: RouteId, request: &Request, offers: &[Offer], now: Time) -> Placed {
        self.decide(route, request, offers, None, now)
    }

    /// Where a request goes that was sent to a device in vain: to the host.
    pub fn again(&mut self, route: RouteId, request: &Request, setback: Setback, now: Time) -> Placed {
        self.decide(route, request, &[], Some(setback), now)
    }

    /// A request has ended where it was sent. Returns what an answer took there; of what was not answered nothing is known.
    pub fn ended(&mut self, ticket: &Ticket, outcome: &Outcome, now: Time) -> Option<Spent> {
        let place = &mut self.places[ticket.place.0 as usize];
        let route = &mut self.routes[ticket.route.0 as usize];
        let seconds = now.seconds_since(ticket.began);
        let is_late = seconds > f64::from(route.rules.guard.slo_seconds);
        let is_news = match outcome {
            Outcome::Abandoned => {
                place.health.abandoned(ticket.began, now);
                false
            }
            Outcome::SetBack(setback) if ticket.place != HOST => {
                place.health.set_back(*setback, ticket.began, now, || self.random.f32())
            }
            _ => {
                place.health.answered(ticket.began, now);
                true
            }
        };
        if ticket.place != HOST {
            let outstanding = &mut route.outstanding[ticket.class.index()];
            *outstanding = outstanding.saturating_sub(1);
            match outcome {
                Outcome::Answered(_) => {
                    route.guard.ended(is_late && ticket.host_in_time, &route.rules.guard, now);
                }
                // A place that fails is left alone: what else was there when it failed says nothing of the route.
                Outcome::SetBack(Setback::Failed(failure)) if is_news => {
                    // Who was left early is not late: the host has its time.
                    let is_missed = is_late || *failure != Failure::TimedOut;
                    route.guard.ended(is_missed, &route.rules.guard, now);
                }
                Outcome::SetBack(_) | Outcome::Abandoned => {}
            }
        }
        match outcome {
            Outcome::Answered(answer) => {
                route.learn_bytes_out(answer.bytes_out, ticket.worked_bytes);
                let waited = answer.waited_seconds.unwrap_or_else(|| f64::from(ticket.queue_seconds));
                // A place that waits longer than it says works no faster for it.
                let service_seconds = (seconds - waited).max(seconds * LEAST_WORK);
                learn(place, route, ticket, service_seconds, now);
                return Some(ticket.spent(seconds, service_seconds));
            }
            // It took at least so long. That is said of the place: others may be as ever.
            Outcome::SetBack(Setback::Failed(_)) if is_late => {
                let error = error_log(place, route, ticket, seconds);
                place.bias.learn(error.max(0.0), DEVICE_PARTS[0], FLOOR, now);
            }
            // It was waited for as long as was thought to be enough. Where nothing was answered of late, that was thought wrongly:
            // the next one is waited for longer. Where something was, it has stalled more likely than become slower.
            Outcome::SetBack(Setback::Failed(Failure::TimedOut)) if is_news => {
                let error = error_log(place, route, ticket, seconds);
                let cell = route.cell_mut(ticket.slot as usize, ticket.class);
                if cell.fresh_answers(now) == 0 {
                    cell.jump(error.max(0.0));
                }
            }
            Outcome::SetBack(_) | Outcome::Abandoned => {}
        }
        None
    }

    #[inline]
    fn decide(
        &mut self,
        route_id: RouteId,
        request: &Request,
        offers: &[Offer],
        after: Option<Setback>,
        now: Time,
    ) -> Placed {
        let Placer { places, routes, longest_silence, random } = self;
        let route = &mut routes[route_id.0 as usize];
        let class = SizeClass::of(request);
        let bytes_out = route.bytes_out(request.worked_bytes());
        let asked = Asked { request, class, bytes_out, longest_silence: *longest_silence, now };
        let mut candidates = Candidates::of_host(asked.candidate(&places[0], HOST, route, 0));
        let has_room = offers.len() < crate::record::MAX_PLACES;
        let first = if has_room { 0 } else { random.usize(..offers.len()) };
        for offer in offers[first..].iter().chain(&offers[..first]) {
            if candidates.is_full() {
                break;
            }
            let place = &mut places[offer.place.0 as usize];
            let slot = route.slot(offer.place).filter(|_| offer.place != HOST);
            let standing = match slot {
                Some(_) => asked.standing(offer, place, route, random),
                None => Standing::NotOfRoute,
            };
            if standing != Standing::Admissible && !has_room {
                continue;
            }
            let candidate = asked.candidate(place, offer.place, route, slot.unwrap_or(0));
            candidates.push(Candidate { standing, ..candidate });
        }
        let inputs = Inputs {
            request: *request,
            after,
            weights: route.rules.objective.weights(),
            slo_seconds: route.rules.guard.slo_seconds,
            try_timeout_seconds: route.rules.try_timeout_seconds,
            share: route.guard.share(&route.rules.guard, now),
            draw: random.f32(),
            is_probing: route.guard.is_probing(),
            kept: route.kept[class.index()],
            margin: route.rules.margin,
            may_explore: route.purse.has_one(),
            candidates,
        };
        let decision = choose(&inputs);
        let ticket =
            asked.begin(&inputs, &decision, (route_id, route), &mut places[decision.place.0 as usize]);
        Placed { ticket, record: Record { at: now, route: route_id, class, inputs, decision } }
    }
}

/// What is asked about one request.
struct Asked<'r> {
    request: &'r Request,
    class: SizeClass,
    /// As expected.
    bytes_out: f64,
    longest_silence: f64,
    now: Time,
}

impl Asked<'_> {
    #[inline]
    fn standing(
        &self,
        offer: &Offer,
        place: &mut Place,
        route: &Route,
        random: &mut fastrand::Rng,
    ) -> Standing {
        let data = match (self.request.work, offer.dataset) {
            (Work::Stateful, _) => Standing::Stateful,
            (Work::Versioned(_), None) => Standing::NoData,
            (Work::Versioned(wanted), Some(held)) if wanted != held => Standing::OtherVersion,
            _ => Standing::Admissible,
        };
        if !offer.has_function {
            return Standing::NoFunction;
        }
        if data != Standing::Admissible {
            return data;
        }
        // The more is known of devices in general, the more is risked on one of which nothing is known.
        let class = self.class.index();
        let known = route.on_devices[class].answers();
        let is_unproven = known == 0 && route.outstanding[class] > 0
            || place.bias.fresh_answers(self.now) == 0
                && place.health.outstanding() > known.min(MOST_UNPROVEN);
        match place.health.standing(self.now, || random.f32()) {
            Standing::Admissible if place.load.silent_seconds(self.now) > self.longest_silence => {
                Standing::Silent
            }
            Standing::Admissible if is_unproven => Standing::Unproven,
            standing => standing,
        }
    }

    #[inline]
    fn candidate(&self, place: &Place, id: PlaceId, route: &Route, slot: usize) -> Candidate {
        let profile = &place.profile;
        let terms = profile.terms(self.request, self.bytes_out, &route.rules.cost);
        let cell = route.cell(slot, self.class);
        let known = match id {
            HOST => cell.fresh_answers(self.now),
            _ => {
                let elsewhere = route.on_devices[self.class.index()].fresh_answers(self.now);
                cell.fresh_answers(self.now).max(elsewhere.min(place.bias.fresh_answers(self.now)))
            }
        };
        Candidate {
            place: id,
            standing: Standing::Admissible,
            answers: known,
            queue_seconds: place.load.queue_seconds(self.now) as f32,
            input_seconds: terms.input as f32,
            scan_seconds: terms.scan as f32,
            compute_seconds: terms.compute as f32,
            output_seconds: terms.output as f32,
            correction: correction_log(place, route, id, slot, self.class).exp(),
            busy_watts: profile.busy_watts as f32,
            joules_per_byte: profile.joules_per_byte as f32,
            moved_bytes: profile.moved_bytes(self.request, self.bytes_out) as f32,
        }
    }

    fn begin(
        &self,
        inputs: &Inputs,
        decision: &Decision,
        (route_id, route): (RouteId, &mut Route),
        place: &mut Place,
    ) -> Ticket {
        let class = self.class.index();
        let has_choice = !matches!(decision.reason, Reason::Setback(_) | Reason::Stateful | Reason::NoDevice);
        if has_choice {
            route.purse.put(&route.rules.exploration);
        }
        match decision.reason {
            Reason::Explored => route.purse.take(),
            Reason::Cheapest => {
                route.kept[class] = if decision.place == HOST { Side::Host } else { Side::Device };
            }
            _ => {}
        }
        let is_there = |candidate: &&Candidate| candidate.place == decision.place;
        let chosen = inputs.candidates.iter().find(is_there).unwrap_or(inputs.candidates.host());
        let slo = f64::from(inputs.slo_seconds);
        // What one request says of itself is believed as far as the objective goes: nobody waits longer for it.
        place.load.begin(occupied_seconds(chosen, place.profile.slots).min(slo), self.now);
        if decision.place != HOST {
            route.outstanding[class] += 1;
        }
        place.health.begin(slo.max(PATIENCE * decision.estimate.seconds), self.now);
        Ticket {
            place: decision.place,
            timeout_seconds: decision.timeout_seconds,
            route: route_id,
            slot: route.slot(decision.place).unwrap_or(0) as u32,
            class: self.class,
            began: self.now,
            worked_bytes: self.request.worked_bytes(),
            prior_seconds: chosen.prior_seconds(),
            busy_seconds: chosen.scan_seconds + chosen.compute_seconds,
            compute_seconds: chosen.compute_seconds,
            queue_seconds: chosen.queue_seconds,
            host_in_time: inputs.candidates.host().estimate(&inputs.weights).seconds <= slo,
        }
    }
}

impl Place {
    fn new(profile: Profile) -> Self {
        Place {
            profile,
            load: Load::default(),
            health: Health::default(),
            bias: Layer::default(),
            surprise: Surprise::default(),
        }
    }
}

/// For how long nobody else can be served: all read from one medium, and a slot works on one request.
fn occupied_seconds(chosen: &Candidate, slots: u32) -> f64 {
    let (scan, compute) = (f64::from(chosen.scan_seconds), f64::from(chosen.compute_seconds));
    scan.max((scan + compute) / f64::from(slots.max(1))) * f64::from(chosen.correction)
}

#[inline]
fn correction_log(place: &Place, route: &Route, id: PlaceId, slot: usize, class: SizeClass) -> f32 {
    let common = if id == HOST { 0.0 } else { route.on_devices[class.index()].log() };
    place.bias.log() + common + route.cell(slot, class).log()
}

/// The request took so long without waiting.
fn learn(place: &mut Place, route: &mut Route, ticket: &Ticket, service_seconds: f64, now: Time) {
    let (slot, class) = (ticket.slot as usize, ticket.class);
    let error = error_log(place, route, ticket, service_seconds);
    if place.surprise.is_change(error) {
        place.bias.jump(error * CHANGE);
        return;
    }
    let parts = if ticket.place == HOST { &HOST_PARTS } else { &DEVICE_PARTS };
    place.bias.learn(error, parts[0], FLOOR, now);
    if ticket.place != HOST {
        route.on_devices[class.index()].learn(error, parts[1], FLOOR, now);
    }
    route.cell_mut(slot, class).learn(error, parts[2], FLOOR, now);
}

/// So many reports of a device have to be missing.
const MISSED_REPORTS: f64 = 3.0;
/// Most requests at once at a place that has not answered yet.
const MOST_UNPROVEN: u32 = 4;
/// The logarithm of how many times as long as expected it took, by what is believed now: since it was sent, others may have said
/// the same.
fn error_log(place: &Place, route: &Route, ticket: &Ticket, service_seconds: f64) -> f32 {
    let seen = (service_seconds as f32).max(SHORTEST) / ticket.prior_seconds.max(SHORTEST);
    seen.ln() - correction_log(place, route, ticket.place, ticket.slot as usize, ticket.class)
}

/// What part of an error the place, the route on all devices, and both together with the size explain.
const DEVICE_PARTS: [f32; 3] = [0.3, 0.3, 0.4];
const HOST_PARTS: [f32; 3] = [0.3, 0.0, 0.7];
/// So much of each later error is believed.
const FLOOR: f32 = 0.08;
/// So much of the error is believed when a place has changed.
const CHANGE: f32 = 0.7;
/// A request that was said to wait worked for at least this part of its time.
const LEAST_WORK: f64 = 0.05;
/// Shorter times are not told apart, in seconds.
const SHORTEST: f32 = 1e-6;
/// A place has stalled that answers nothing for so many times what was expected, and for longer than the objective.
const PATIENCE: f64 = 3.0;
