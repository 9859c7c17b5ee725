//! Requests that may run on a device near the data: where each of them goes, and what came of it.
//!
//! A [`Placement`] decides for all rules that one OffloadPolicy is about at one port, whose backends are its host. Workers
//! share it, since what one of them learns of a device is true for all: it is asked under a lock that is held for one
//! decision, which takes less than a microsecond, and by requests of those rules alone. It outlives configurations that say
//! the same of offload, with all that it has learned.
//!
//! Only what reads nothing or data of a known version is placed, so a request that failed on a device, or was refused there,
//! is always tried again on the host, once, beside what a retry policy says.

mod counts;
mod demand;
mod log;
mod placed;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lighter_config::name::ServicePort;
use lighter_config::snapshot::{
    self, Objective, Offload, OffloadDevice, PlaceProfile, Port, RequestParts, Route,
};
use lighter_place::{
    Exploration, FunctionCost, GuardRules, HOST, Offer, PlaceId, Placer, Profile, RouteId, RouteRules,
    Setback, Spent, Ticket, Time, Work,
};

use self::counts::Counts;
pub(crate) use self::demand::demands;
use self::log::Log;
pub(crate) use self::log::decisions;
pub(crate) use self::placed::{Placed, setback};
use crate::balance::{Avoid, Cluster, Outcome, Picked};
use crate::error::Cause;
use crate::mesh::{Destination, RouteState};
use crate::retry::REPLAY;
/// What is known of a request before it runs.
pub(crate) use lighter_place::Request as Placing;

/// By which an application says how much of a dataset its request reads, in bytes.
const SCAN_BYTES_HINT: &str = "x-lighter-hint-scan-bytes";

/// So much of a queue is believed, in seconds: then the device is asked again, should it have been wrong, or another since.
const MOST_QUEUE_SECONDS: f64 = 10.0;

/// Decides for the rules at a port that one policy is about.
pub(crate) struct Placement {
    key: ServicePort,
    said: Arc<Offload>,
    /// In the order in which the placer numbers them.
    rules: Box<[Rule]>,
    /// How the placer knows the devices.
    devices: Box<[PlaceId]>,
    began: (Instant, SystemTime),
    state: Mutex<State>,
}

/// A rule that the policy is about.
struct Rule {
    name: Arc<str>,
    id: RouteId,
    counts: Arc<Counts>,
}

struct State {
    placer: Placer,
    log: Log,
    /// Requests that could be placed, so far.
    asked: u64,
}

/// The placement of one rule's requests.
pub(crate) struct OfRoute {
    placement: Arc<Placement>,
    route: RouteId,
    offers: Box<[Offer]>,
    /// By the number of the place, without the host.
    clusters: Box<[Option<Arc<Cluster>>]>,
    host: Option<Arc<Cluster>>,
    /// What its requests do with state.
    work: Work,
    counts: Arc<Counts>,
}

/// Where a request goes.
pub(crate) enum Chosen {
    /// To this endpoint of a device.
    OnDevice(Picked),
    /// To the route's own backends. With what is to be ended with the try there, where that was decided by the placement.
    OnHost(Option<Placed>),
}

/// The placements of a port, each for one policy. Those of `old`, the same port before a change of configuration, stay where
/// the same is said.
pub(crate) fn placements(port: &Port, old: Option<&Destination>) -> Vec<Arc<Placement>> {
    let mut said: Vec<(&Arc<Offload>, Vec<Arc<str>>)> = Vec::new();
    for Route { name, offload, .. } in &port.routes.routes {
        let Some(offload) = offload else { continue };
        match said.iter_mut().find(|(known, _)| *known == offload) {
            // A rule with several matches is one.
            Some((_, names)) if names.contains(name) => {}
            Some((_, names)) => names.push(name.clone()),
            None => said.push((offload, vec![name.clone()])),
        }
    }
    let known = |said: &Offload, names: &[Arc<str>]| {
        let old = old?.routes.iter().filter_map(|route| route.offload.as_ref());
        let mut old = old.map(|of_route| &of_route.placement);
        old.find(|old| *old.said == *said && old.rules.iter().map(|rule| &rule.name).eq(names)).cloned()
    };
    let before = |said: &Offload| {
        let old = old?.routes.iter().filter_map(|route| route.offload.as_ref());
        let mut old = old.map(|of_route| &of_route.placement);
        old.find(|old| differs_in_devices_alone(&old.said, said))
    };
    let made = said.into_iter().map(|(said, names)| {
        let made = || Arc::new(Placement::new(&port.key, said, names.clone(), before(said)));
        known(said, &names).unwrap_or_else(made)
    });
    made.collect()
}

/// Whether two policies, or one at two times, say the same but for devices, which come and go by themselves.
fn differs_in_devices_alone(one: &Offload, other: &Offload) -> bool {
    let without = |said: &Offload| Offload { devices: Vec::new(), ..said.clone() };
    without(one) == without(other)
}

impl Placement {
    /// One for these rules. With what `before` has learned, where that said the same but for devices.
    fn new(
        key: &ServicePort,
        said: &Arc<Offload>,
        names: Vec<Arc<str>>,
        before: Option<&Arc<Placement>>,
    ) -> Self {
        let mut placer = Placer::new(profile(&said.host), fastrand::u64(..));
        let devices: Box<[PlaceId]> =
            said.devices.iter().map(|device| placer.add_device(profile(&device.profile))).collect();
        let rules = names.into_iter().map(|name| Rule {
            id: placer.add_route(route_rules(said), devices.iter().copied()),
            counts: Arc::new(Counts::new(key, &name, said)),
            name,
        });
        let rules: Box<[Rule]> = rules.collect();
        let mut began = (Instant::now(), SystemTime::now());
        let (mut log, mut asked) = (Log::default(), 0);
        if let Some(before) = before {
            let known = before.said.devices.iter().zip(&before.devices);
            let places = said.devices.iter().zip(&devices).filter_map(|(device, place)| {
                let known = known
                    .clone()
                    .find(|(known, _)| (&known.name, &known.target) == (&device.name, &device.target));
                Some((*place, *known?.1))
            });
            let of_rules = rules.iter().filter_map(|rule| {
                Some((rule.id, before.rules.iter().find(|known| known.name == rule.name)?.id))
            });
            let (places, of_rules): (Vec<_>, Vec<_>) = (places.collect(), of_rules.collect());
            let mut state = before.lock();
            placer.inherit(&state.placer, &places, &of_rules);
            asked = state.asked;
            // As long as its numbers mean the same.
            if before.has_names_of(said, &rules) {
                log = std::mem::take(&mut state.log);
            }
            drop(state);
            // Its times are those of the other's clock.
            began = before.began;
        }
        let state = Mutex::new(State { placer, log, asked });
        Placement { key: key.clone(), said: said.clone(), rules, devices, began, state }
    }

    /// Whether its places and rules are called as those of another, in one order.
    fn has_names_of(&self, said: &Offload, rules: &[Rule]) -> bool {
        let names =
            |said: &Offload| said.devices.iter().map(|device| device.name.clone()).collect::<Vec<_>>();
        let rules_of = |rules: &[Rule]| rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
        names(&self.said) == names(said) && rules_of(&self.rules) == rules_of(rules)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What panicked in there had not changed it by halves: a decision is made, then noted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self, now: Instant) -> Time {
        Time::from_nanos(0).after(now.saturating_duration_since(self.began.0))
    }

    fn ended(&self, ticket: &Ticket, outcome: &lighter_place::Outcome, now: Instant) -> Option<Spent> {
        let now = self.time(now);
        self.lock().placer.ended(ticket, outcome, now)
    }

    fn report(&self, place: PlaceId, queue_seconds: f64, now: Instant) {
        let now = self.time(now);
        self.lock().placer.report(place, queue_seconds.min(MOST_QUEUE_SECONDS), now);
    }

    /// What a place is called.
    fn name(&self, place: PlaceId) -> &str {
        match place.number().checked_sub(1) {
            None => "host",
            Some(at) => self.said.devices.get(at as usize).map_or("?", |device| &device.name),
        }
    }
}

impl RouteState {
    /// What is known of a request before it runs, where it may run on a device.
    #[inline]
    pub(crate) fn asked<R: RequestParts + ?Sized>(&self, request: &R) -> Option<Placing> {
        self.offload.as_ref().and_then(|offload| offload.asked(request))
    }

    /// How long a try may take until it is answered: less on a device, if its policy or what is expected of it says so.
    #[inline]
    pub(crate) fn try_timeout(&self, picked: &Picked) -> Option<Duration> {
        first(self.retries.try_timeout, picked.device_timeout())
    }

    /// How long it may take at most, wherever it will be; `may_be_placed`: that can be on a device.
    #[inline]
    pub(crate) fn longest_try(&self, may_be_placed: bool) -> Option<Duration> {
        let on_device = self.offload.as_ref().filter(|_| may_be_placed).map(OfRoute::longest_silence);
        first(self.retries.try_timeout, on_device)
    }

    /// How long the device of a try may be silent within its answer. None: it is on none. Nobody can be asked instead by then, so that
    /// it has the whole time, where its policy says nothing.
    #[inline]
    pub(crate) fn longest_silence(&self, picked: &Picked) -> Option<Duration> {
        let on_device = self.offload.as_ref().filter(|_| picked.is_on_device());
        on_device.and_then(|offload| first(self.retries.try_timeout, Some(offload.longest_silence())))
    }
}

/// The shorter of two times, as far as there are any.
fn first(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

impl OfRoute {
    fn longest_silence(&self) -> Duration {
        let said = &self.placement.said;
        said.try_timeout.unwrap_or(said.slo)
    }

    /// That of a route, by one of the port's `placements`. `host`: one of its own clusters.
    pub(crate) fn of(
        route: &Route,
        placements: &[Arc<Placement>],
        host: Option<&Arc<Cluster>>,
        clusters: &HashMap<ServicePort, Arc<Cluster>>,
    ) -> Option<Self> {
        let said = route.offload.as_ref()?;
        let placement = placements.iter().find(|placement| placement.said == *said)?;
        let rule = placement.rules.iter().find(|rule| rule.name == route.name)?;
        // One that is not known yet is not offered, nor one without endpoints: it is away, and has failed nobody.
        let is_there = |device: &OffloadDevice| {
            clusters.get(&device.target).is_some_and(|cluster| !cluster.endpoints().is_empty())
        };
        let devices = placement.devices.iter().zip(&said.devices);
        let offers = devices.filter(|(_, device)| is_there(device)).map(|(place, device)| Offer {
            place: *place,
            has_function: device.has_function,
            dataset: device.dataset.as_deref().map(version),
        });
        let dataset = said.dataset.as_ref();
        Some(OfRoute {
            route: rule.id,
            work: dataset.map_or(Work::Stateless, |dataset| Work::Versioned(version(&dataset.version))),
            offers: offers.collect(),
            clusters: said.devices.iter().map(|device| clusters.get(&device.target).cloned()).collect(),
            host: host.cloned(),
            counts: rule.counts.clone(),
            placement: placement.clone(),
        })
    }

    /// What is known of a request before it runs. None: its body is too long to be kept, so there would be no way back.
    fn asked<R: RequestParts + ?Sized>(&self, request: &R) -> Option<Placing> {
        let number = |name| std::str::from_utf8(request.header(name)?).ok()?.trim().parse().ok();
        let dataset = self.placement.said.dataset.as_ref();
        let bytes_in = number("content-length").unwrap_or(0);
        (bytes_in <= REPLAY as u64).then(|| Placing {
            work: self.work,
            bytes_in,
            scan_bytes: dataset.map_or(0, |dataset| number(SCAN_BYTES_HINT).unwrap_or(dataset.bytes)),
        })
    }

    /// Picks an endpoint of the device to which the request goes, unless that is the host. `connects`: it needs a connection
    /// of its own there.
    pub(crate) fn pick(
        &self,
        (asked, connects): (&Placing, bool),
        hash: &mut dyn FnMut(&Cluster) -> Option<u64>,
        (is_first, avoid): (bool, Option<&Avoid>),
        now: Instant,
    ) -> Chosen {
        let mut after = avoid.and_then(Avoid::setback);
        if !is_first && after.is_none() {
            // The host failed it: who else there is to ask is for the balancer to say.
            return Chosen::OnHost(None);
        }
        loop {
            let (cluster, mut placed) = self.choose(asked, after, now);
            let Some(cluster) = cluster else { return Chosen::OnHost(Some(placed)) };
            let picked = cluster.pick(None, hash(cluster), now).and_then(|mut picked| {
                if connects {
                    picked.needs_connection()?;
                }
                // There are limits to what is sent there, and nobody waits where the host is free.
                if picked.waits() { Err(Cause::ConcurrencyLimit) } else { Ok(picked) }
            });
            match picked {
                Ok(mut picked) => {
                    // What is asked of the host, should it come to that, goes by the host's own hash.
                    if let Some(host) = &self.host {
                        hash(host);
                    }
                    picked.place(placed);
                    return Chosen::OnDevice(picked);
                }
                Err(cause) => {
                    after = placed.set_back(unpicked(cause));
                    placed.end(Outcome::Failed, now);
                }
            }
        }
    }

    /// Where a request goes. `after`: why a device did not answer it.
    fn choose(
        &self,
        asked: &Placing,
        after: Option<Setback>,
        now: Instant,
    ) -> (Option<&Arc<Cluster>>, Placed) {
        let at = self.placement.time(now);
        let (ticket, decision) = {
            let mut state = self.placement.lock();
            let State { placer, log, asked: count } = &mut *state;
            let placed = match after {
                None => placer.place(self.route, asked, &self.offers, at),
                Some(setback) => placer.again(self.route, asked, setback, at),
            };
            log.push(placed.record);
            *count += u64::from(after.is_none());
            (placed.ticket, placed.record.decision)
        };
        self.counts.decided(&decision);
        let cluster = match decision.place {
            HOST => None,
            device => self.clusters.get(device.number() as usize - 1).and_then(Option::as_ref),
        };
        let placed = Placed::new(self.placement.clone(), self.counts.clone(), ticket, *asked);
        (cluster, placed)
    }
}

/// What an endpoint that cannot even be picked says of a device.
fn unpicked(cause: Cause) -> Setback {
    match cause {
        Cause::NoEndpoint | Cause::NoBackend => Setback::Failed(lighter_place::Failure::Lost),
        // A limit of what is sent there is reached.
        _ => Setback::Refused(lighter_place::Refusal::Reserve),
    }
}

/// A version as a number: others are others, with all but certainty.
fn version(text: &str) -> u64 {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(text);
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn route_rules(said: &Offload) -> RouteRules {
    RouteRules {
        objective: match said.objective {
            Objective::Latency => lighter_place::Objective::Latency,
            Objective::Energy => lighter_place::Objective::Energy,
            Objective::Bytes => lighter_place::Objective::Bytes,
        },
        guard: GuardRules {
            slo_seconds: said.slo.as_secs_f32(),
            miss_share: said.miss_share as f32,
            window_seconds: said.window.as_secs_f32(),
        },
        try_timeout_seconds: said.try_timeout.map(|limit| limit.as_secs_f64()),
        exploration: Exploration { share: said.explore_share as f32 },
        margin: said.margin as f32,
        cost: FunctionCost {
            seconds: said.function.seconds,
            seconds_per_byte: said.function.seconds_per_byte,
        },
        out_share: said.function.out_share as f32,
    }
}

fn profile(said: &PlaceProfile) -> Profile {
    let snapshot::PlaceProfile {
        compute_factor,
        slots,
        link_bytes_per_second,
        data_bytes_per_second,
        busy_watts,
        joules_per_byte,
        is_data_moved,
    } = *said;
    Profile {
        link_bytes_per_second,
        data_bytes_per_second,
        compute_factor,
        slots,
        busy_watts,
        joules_per_byte,
        is_data_moved,
    }
}

#[cfg(test)]
mod tests;
