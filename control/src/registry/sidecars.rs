//! What sidecars report of themselves beside where they are, and what one is told to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lighter_config::identity::Spiffe;
use lighter_config::xds::Kind;
use lighter_config::xds::wire::lighter::registry::v1 as wire;
use lighter_config::xds::wire::lighter::registry::v1::report_response::Order;
use lighter_migrate::Report;
use lighter_proxy::stateful::wire::{self as stateful, Malformed, Told};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

mod holding;
mod served;

pub use served::Served;

/// Every sidecar that reports now.
#[derive(Debug, Default)]
pub struct Sidecars {
    all: Mutex<BTreeMap<Id, Reporting>>,
    /// Requests wait somewhere for a function that is not active, or for another one than before; or a device is new here.
    pub waited: Notify,
}

/// Which sidecar: a name that it gives itself, among those of who it proved to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Who it proved to be.
    pub identity: Spiffe,
    /// What it calls itself.
    pub instance: Arc<str>,
}

#[derive(Debug)]
struct Reporting {
    stream: u64,
    reported: Reported,
    orders: mpsc::Sender<Order>,
    /// Which functions it was told to have active.
    plan: Option<Vec<String>>,
    /// Its last answer to what callers have under way: to which question, and how much.
    counted: Option<(u64, u64)>,
    /// What it is to its Service, if that keeps something between requests, and how many requests wait there.
    place: Option<(Report, u64)>,
    /// What it is to the journal of that.
    journal: Option<wire::JournalStand>,
    /// It can have its callers' requests wait while a Service moves.
    holds: bool,
}

/// What a sidecar said last.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// The version of each kind that it runs by.
    pub in_force: BTreeMap<Kind, Arc<str>>,
    /// How much there is to do.
    pub load: Option<Load>,
    /// Its links.
    pub links: Vec<Link>,
    /// How busy its functions are, if it is a device.
    pub device: Option<DeviceLoad>,
    /// What its callers' requests came to at devices, by the Device.
    pub offloaded: BTreeMap<String, Offloaded>,
    /// How its functions do, if they are planned.
    pub functions: BTreeMap<String, FunctionLoad>,
    /// Its functions that requests wait for, as they are not active.
    pub waited_for: BTreeSet<String>,
    /// What its policies' requests want, by the OffloadPolicy.
    pub demands: BTreeMap<String, Demand>,
    /// How it serves the state of its Service, where that may move for gain.
    pub served: Option<Served>,
    /// When it reported its load.
    at: Option<Instant>,
}

/// What a device said last of functions that are planned.
#[derive(Clone, Debug, Default)]
pub struct OfPlanned {
    /// How they do.
    pub functions: BTreeMap<String, FunctionLoad>,
    /// Those that requests wait for, as they are not active.
    pub waited_for: BTreeSet<String>,
    /// How many runs its limits let there be at once now, if it says so.
    pub runs_allowed: Option<u32>,
}

/// What was asked of a function of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionLoad {
    /// Runs that ended since its process began.
    pub runs: u64,
    /// Runs under way.
    pub runs_in_flight: u32,
    /// How long runs took, together.
    pub run_seconds: f64,
    /// Runs that ended since the planner looked last.
    #[serde(skip)]
    pub lately: u64,
    /// How long these took.
    #[serde(skip)]
    pub lately_seconds: f64,
}

/// What the requests of one OffloadPolicy want at one sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// How many there were since its process began.
    pub requests: u64,
    /// How many there were a second, between the last two reports.
    pub rate: f64,
}

/// What there is to do for the functions of a device, and what was counted of them since its process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceLoad {
    /// Runs under way.
    pub runs_in_flight: u32,
    /// How long a request that comes now would have to wait.
    pub queue_seconds: f64,
    /// Runs that ended.
    pub runs: u64,
    /// Requests that were refused before they ran.
    pub refused: u64,
    /// Processor time of runs.
    pub busy_seconds: f64,
    /// What was read of datasets.
    pub read_bytes: u64,
    /// What of them did not have to be read.
    pub skipped_bytes: u64,
    /// Of results.
    pub result_bytes: u64,
    /// How many runs its limits let there be at once now, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs_allowed: Option<u32>,
    /// Energy that the device took.
    pub joules: f64,
    /// From where that is known. None: it is not.
    pub energy_source: Option<EnergySource>,
}

/// From where it is known how much energy a device took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnergySource {
    /// Its machine counts it.
    Rapl,
    /// By a model of its power.
    Modelled,
    /// Of several, some in one way and some in the other.
    Mixed,
}

impl EnergySource {
    /// What is called so.
    fn of(label: &str) -> Option<Self> {
        match label {
            "rapl" => Some(EnergySource::Rapl),
            "modelled" => Some(EnergySource::Modelled),
            _ => None,
        }
    }

    /// From where a sum is known.
    pub fn and(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if one != other => Some(EnergySource::Mixed),
            _ => one.or(other),
        }
    }
}

/// What callers' sidecars counted of the requests that they placed on a device, since each of their processes began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offloaded {
    /// Requests that it answered.
    pub answered: u64,
    /// Bytes of requests and answers, and of data that was moved there for them.
    pub moved_bytes: u64,
    /// Bytes of data that were not moved to the host.
    pub avoided_bytes: u64,
    /// Energy for them, by the policies' models of the device.
    pub joules: f64,
}

/// A link to another sidecar, as one end reports it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Who is at the other end.
    pub identity: String,
    /// Where that is.
    pub address: String,
    /// Whether this end opened it.
    pub opened: bool,
    /// How many streams are open on it.
    pub streams: u32,
    /// Of the wire that was agreed on last; 0: none was.
    pub generation: u32,
    /// The wire over which this end sends.
    pub sends_over: String,
    /// The wire over which it receives.
    pub receives_over: String,
    /// What each wire carried.
    pub bytes: Vec<LinkBytes>,
}

/// What a wire of a link carried, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkBytes {
    /// Which wire.
    pub wire: String,
    /// From this end.
    pub sent: u64,
    /// To this end.
    pub received: u64,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Requests and opaque connections that it carries.
    pub requests_in_flight: u64,
    /// How many of them ended, a second.
    pub requests_per_second: f64,
    /// Processor time of its process, in processors.
    pub cpus: f64,
}

/// All of them in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// How many there are.
    pub sidecars: usize,
    /// What they have to do together.
    pub load: Load,
}

impl std::fmt::Display for Id {
    /// `namespace/name/instance`, of what it proved to be of.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.identity.service_name() {
            Some(service) => write!(f, "{service}/{}", self.instance),
            None => write!(f, "{}/{}", self.identity, self.instance),
        }
    }
}

impl Sidecars {
    /// A sidecar speaks on a stream. One of its name on another stream is gone, and not known to be yet.
    pub fn enter(&self, id: Id, stream: u64, orders: mpsc::Sender<Order>) {
        let mut all = self.lock();
        let reported = all.remove(&id).map(|before| before.reported).unwrap_or_default();
        // What another process waited for or was told is no matter of this one.
        let reported = Reported { waited_for: BTreeSet::new(), ..reported };
        let (plan, counted, place, journal) = (None, None, None, None);
        let new = Reporting { stream, reported, orders, plan, counted, place, journal, holds: false };
        all.insert(id, new);
        drop(all);
        self.waited.notify_one();
    }

    /// Its stream was lost.
    pub fn leave(&self, id: &Id, stream: u64) {
        let mut all = self.lock();
        if all.get(id).is_some_and(|reporting| reporting.stream == stream) {
            all.remove(id);
        }
    }

    /// Takes over by what it runs. Kinds that are not known are of something newer.
    pub fn in_force(&self, id: &Id, said: wire::InForce) {
        if let Some(reporting) = self.lock().get_mut(id) {
            let known = said.versions.iter().filter_map(|(url, version)| {
                Some((
                    Kind::of_url(url)?,
                    Arc::from(&version[..version.floor_char_boundary(LONGEST_VERSION)]),
                ))
            });
            reporting.reported.in_force = known.collect();
        }
    }

    /// Takes over how much there is to do. What is no number is none.
    pub fn load(&self, id: &Id, said: wire::Load, now: Instant) {
        if let Some(reporting) = self.lock().get_mut(id) {
            reporting.reported.load = Some(Load {
                requests_in_flight: said.requests_in_flight,
                requests_per_second: number(said.requests_per_second),
                cpus: number(said.cpus),
            });
            let since = reporting.reported.at.replace(now).map(|before| now.duration_since(before));
            let seconds = since.map(|since| since.as_secs_f64()).filter(|seconds| *seconds > 0.0);
            reporting.reported.demands = demands(&reporting.reported.demands, said.demands, seconds);
            let served = said.served.as_ref();
            reporting.reported.served =
                served.map(|served| Served::read(served, reporting.reported.served, seconds));
            let of_device = said.device.as_ref();
            let loads = of_device.map(|device| device.functions.as_slice()).unwrap_or_default();
            reporting.reported.functions = functions(&reporting.reported.functions, loads);
            reporting.reported.device = said.device.map(|said| DeviceLoad {
                runs_in_flight: said.runs_in_flight,
                queue_seconds: number(said.queue_seconds),
                runs: said.runs,
                refused: said.refused,
                busy_seconds: number(said.busy_seconds),
                read_bytes: said.read_bytes,
                skipped_bytes: said.skipped_bytes,
                result_bytes: said.result_bytes,
                runs_allowed: said.runs_allowed,
                joules: number(said.joules),
                energy_source: EnergySource::of(&said.energy_source),
            });
            reporting.reported.offloaded =
                said.offloaded.into_iter().take(MOST_DEVICES).map(Offloaded::read).collect();
            reporting.reported.links = said.links.into_iter().take(MOST_LINKS).map(Link::read).collect();
        }
    }

    /// What a sidecar said last.
    pub fn reported(&self, id: &Id) -> Option<Reported> {
        self.lock().get(id).map(|reporting| reporting.reported.clone())
    }

    /// What `look` finds in what a sidecar said last.
    pub fn found<T>(&self, id: &Id, look: impl FnOnce(&Reported) -> T) -> Option<T> {
        self.lock().get(id).map(|reporting| look(&reporting.reported))
    }

    /// Has the sidecar drain that is called so; `now`: without waiting long for what runs. Returns whether there is one to hear it.
    pub fn drain(&self, name: &str, cause: &str, now: bool) -> bool {
        let all = self.lock();
        let Some((_, reporting)) = all.iter().find(|(id, _)| id.to_string() == name) else { return false };
        // One that has not taken the orders before it does not take this one either.
        reporting.orders.try_send(Order::Drain(wire::Drain { cause: cause.to_owned(), now })).is_ok()
    }

    /// Tells one that waits for its state to move that it stays where it is. Returns whether there is one to hear it.
    pub fn release(&self, id: &Id) -> bool {
        let all = self.lock();
        let Some(reporting) = all.get(id) else { return false };
        reporting.orders.try_send(Order::Release(wire::Release {})).is_ok()
    }

    /// Asks a sidecar what callers have under way. Returns whether there is one to hear it.
    pub fn count(&self, id: &Id, number: u64) -> bool {
        let all = self.lock();
        let Some(reporting) = all.get(id) else { return false };
        reporting.orders.try_send(Order::Count(wire::Count { number })).is_ok()
    }

    /// Takes over what it answers to that.
    pub fn counts(&self, id: &Id, said: wire::Counted) {
        if let Some(reporting) = self.lock().get_mut(id) {
            reporting.counted = Some((said.number, said.in_flight));
        }
    }

    /// Its last answer: to which question, and how much is under way.
    pub fn counted(&self, id: &Id) -> Option<(u64, u64)> {
        self.lock().get(id)?.counted
    }

    /// Takes over what it is to its Service, which keeps something between requests. Later ones say all that earlier ones did.
    pub fn places(&self, id: &Id, said: wire::PlaceReport) -> Result<(), Malformed> {
        let journal = said.journal;
        let place = stateful::decode_report(said)?;
        if let Some(reporting) = self.lock().get_mut(id) {
            let order = |(report, _): (Report, u64)| (report.incarnation, report.revision);
            if reporting.place.is_none_or(|before| order(before) <= order(place)) {
                (reporting.place, reporting.journal) = (Some(place), journal);
            }
        }
        Ok(())
    }

    /// What it said last of that, and how many requests wait there. None: it has said nothing since it came.
    pub fn place(&self, id: &Id) -> Option<(Report, u64)> {
        self.lock().get(id)?.place
    }

    /// What it said last of the journal of its Service. None: nothing.
    pub fn journal(&self, id: &Id) -> Option<wire::JournalStand> {
        self.lock().get(id)?.journal
    }

    /// Tells it what it is to the journal of its Service.
    pub fn journals(&self, id: &Id, part: wire::JournalPart) {
        // Who knows nothing of it hears a question.
        let command = wire::PlaceCommand {
            stamp: Some(wire::Stamp::default()),
            order: Some(wire::place_command::Order::Ask(wire::Nothing {})),
            journal: Some(part),
            ..wire::PlaceCommand::default()
        };
        if let Some(reporting) = self.lock().get(id) {
            // What does not arrive is said again.
            let _ = reporting.orders.try_send(Order::Place(command));
        }
    }

    /// Tells it what is to be done with its Service. Returns whether there is one to hear it.
    pub fn tell(&self, id: &Id, told: &Told) -> bool {
        let all = self.lock();
        let Some(reporting) = all.get(id) else { return false };
        reporting.orders.try_send(Order::Place(stateful::encode_command(told))).is_ok()
    }

    /// Takes over for which functions requests wait.
    pub fn waiting(&self, id: &Id, said: wire::Waiting) {
        let mut all = self.lock();
        let Some(reporting) = all.get_mut(id) else { return };
        let functions = said.functions.into_iter().take(MOST_FUNCTIONS).map(short).collect();
        if reporting.reported.waited_for != functions {
            reporting.reported.waited_for = functions;
            drop(all);
            self.waited.notify_one();
        }
    }

    /// Tells a device which functions are to be active, unless it was told so already. Returns whether there was something to
    /// tell.
    pub fn plan(&self, id: &Id, active: &[String]) -> bool {
        let mut all = self.lock();
        let Some(reporting) = all.get_mut(id) else { return false };
        if reporting.plan.as_deref() == Some(active) {
            return false;
        }
        // One that does not take it is told in the next round.
        let plan = Order::Plan(wire::Plan { active: active.to_vec() });
        let is_told = reporting.orders.try_send(plan).is_ok();
        if is_told {
            reporting.plan = Some(active.to_vec());
        }
        is_told
    }

    /// What a sidecar said last that matters to a plan. What ended lately is told once.
    pub fn planned(&self, id: &Id) -> Option<OfPlanned> {
        let mut all = self.lock();
        let Reported { functions, waited_for, device, .. } = &mut all.get_mut(id)?.reported;
        let runs_allowed = device.and_then(|load| load.runs_allowed);
        let told = functions.clone();
        for load in functions.values_mut() {
            (load.lately, load.lately_seconds) = (0, 0.0);
        }
        Some(OfPlanned { functions: told, waited_for: waited_for.clone(), runs_allowed })
    }

    /// How many requests each OffloadPolicy's callers have a second, of all that report now.
    pub fn demands(&self) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (policy, demand) in self.lock().values().flat_map(|reporting| &reporting.reported.demands) {
            *sums.entry(policy.clone()).or_default() += demand.rate;
        }
        sums
    }

    /// What all of them that report now counted of a device.
    pub fn offloaded(&self, device: &str) -> Offloaded {
        let all = self.lock();
        let counted = all.values().filter_map(|reporting| reporting.reported.offloaded.get(device));
        counted.fold(Offloaded::default(), |sum, one| Offloaded {
            answered: sum.answered.saturating_add(one.answered),
            moved_bytes: sum.moved_bytes.saturating_add(one.moved_bytes),
            avoided_bytes: sum.avoided_bytes.saturating_add(one.avoided_bytes),
            joules: sum.joules + one.joules,
        })
    }

    /// All of them in numbers.
    pub fn sum(&self) -> Sum {
        let all = self.lock();
        let mut sum = Sum { sidecars: all.len(), ..Sum::default() };
        for load in all.values().filter_map(|reporting| reporting.reported.load) {
            sum.load.requests_in_flight = sum.load.requests_in_flight.saturating_add(load.requests_in_flight);
            sum.load.requests_per_second += load.requests_per_second;
            sum.load.cpus += load.cpus;
        }
        sum
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Reporting>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How functions do by now, where they did so `before`.
fn functions(
    before: &BTreeMap<String, FunctionLoad>,
    said: &[wire::FunctionLoad],
) -> BTreeMap<String, FunctionLoad> {
    let function = |said: &wire::FunctionLoad| {
        let run_seconds = number(said.run_seconds);
        // A process that counts from nothing again has done all that since.
        let before = before.get(&said.name).copied().unwrap_or_default();
        let known = if before.runs <= said.runs { before } else { FunctionLoad::default() };
        let load = FunctionLoad {
            runs: said.runs,
            runs_in_flight: said.runs_in_flight,
            run_seconds,
            lately: before.lately.saturating_add(said.runs - known.runs),
            lately_seconds: before.lately_seconds + (run_seconds - known.run_seconds).max(0.0),
        };
        (short(said.name.clone()), load)
    };
    said.iter().take(MOST_FUNCTIONS).map(function).collect()
}

/// What policies' requests want by now, where they wanted this `before`, so many seconds ago. What was wanted before the first
/// report may have been long ago.
fn demands(
    before: &BTreeMap<String, Demand>,
    said: Vec<wire::Demand>,
    seconds: Option<f64>,
) -> BTreeMap<String, Demand> {
    let demand = |said: wire::Demand| {
        let known = before.get(&said.policy).map_or(0, |known| known.requests);
        // There are fewer where a rule of the policy has gone with what it counted: nobody knows what of the rest is new.
        let more = said.requests.saturating_sub(known);
        let rate = seconds.map_or(0.0, |seconds| (more as f64 / seconds.max(1.0)).min(MOST_RATE));
        (short(said.policy), Demand { requests: said.requests, rate })
    };
    said.into_iter().take(MOST_POLICIES).map(demand).collect()
}

/// An amount that was reported, as far as it is one.
fn number(number: f64) -> f64 {
    if number.is_finite() { number.max(0.0) } else { 0.0 }
}

/// As much of a name as is kept.
fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_NAME));
    text
}

impl Offloaded {
    /// What was reported of a device, and its name.
    fn read(said: wire::Offloaded) -> (String, Self) {
        let wire::Offloaded { device, answered, moved_bytes, avoided_bytes, joules } = said;
        (short(device), Offloaded { answered, moved_bytes, avoided_bytes, joules: number(joules) })
    }
}

impl Link {
    /// What was reported, as much as is kept of it.
    fn read(said: wire::Link) -> Self {
        let bytes = |said: wire::LinkBytes| LinkBytes {
            wire: short(said.wire),
            sent: said.sent,
            received: said.received,
        };
        Link {
            identity: short(said.identity),
            address: short(said.address),
            opened: said.opened,
            streams: said.streams,
            generation: said.generation,
            sends_over: short(said.sends_over),
            receives_over: short(said.receives_over),
            bytes: said.bytes.into_iter().take(MOST_WIRES).map(bytes).collect(),
        }
    }
}

/// Most links of a sidecar that are kept, and most wires of one.
const MOST_LINKS: usize = 256;
const MOST_WIRES: usize = 8;
/// No sidecar carries more requests a second.
const MOST_RATE: f64 = 1e6;
/// Most functions of a device, and most policies of a sidecar, of which counts are kept.
const MOST_FUNCTIONS: usize = 256;
const MOST_POLICIES: usize = 256;
/// Most devices of which a sidecar's counts are kept.
const MOST_DEVICES: usize = 256;

/// Most bytes of a name of a link that are kept: a SPIFFE ID is no longer.
const LONGEST_NAME: usize = 2048;

/// Most bytes of a version that are kept.
const LONGEST_VERSION: usize = 128;

#[cfg(test)]
mod tests;
