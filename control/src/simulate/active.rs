//! Which functions are active on which devices, and which requests are held there until theirs is: everywhere from the start, as far as
//! there is memory and never changed, or as the control plane's planner has it.

use std::collections::VecDeque;
use std::sync::Arc;

use lighter_config::scenario::Functions;
use lighter_place::{PlanRules, Planner, Request, Site, SiteFunction, Time, Want, Work, foresee};

use super::draw;
use super::policy::Asked;
use super::trace::Trace;
use super::world::{self, World};

/// Who says which functions are active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// All are, whatever memory there is.
    Everywhere,
    /// Those of the routes that are the most popular at the start, as many as there is memory for.
    Fixed,
    /// The planner, again and again.
    Planned,
}

/// A function of a device, by the number of the device and its place among that device's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    pub device: usize,
    function: usize,
}

/// The functions of all devices.
pub struct Active {
    how: How,
    said: Option<Functions>,
    seed: u64,
    devices: Vec<Device>,
    planner: Planner,
    sites: Vec<Site>,
    /// By part of a data set: each is read by a policy of its own, as only its holders have it.
    wants: Vec<Want>,
    /// Requests of each since the planner decided last.
    asked: Vec<u32>,
    /// How many devices have the function of each route active.
    places: Vec<u32>,
    kept: Kept,
}

struct Device {
    budget: u64,
    functions: Vec<OnDevice>,
    /// Those that are to be active, the first first.
    wanted: Vec<usize>,
}

struct OnDevice {
    route: usize,
    memory: u64,
    state: State,
    under_way: u32,
    /// Since the planner decided last.
    ended: u64,
    seconds: f64,
    /// Requests, the first first.
    held: VecDeque<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Inactive,
    Activating,
    Active,
    /// It takes no new requests, and goes with the last that is there.
    Leaving,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    held: u64,
    in_vain: u64,
    activations: u64,
    /// Bytes that are taken now, and at most were.
    taken: u64,
    most: u64,
    since: f64,
    byte_seconds: f64,
    at_zero_seconds: f64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// Requests that were held at a device.
    pub held: u64,
    /// Those that went to their host after they had asked a device itself: held for too long, or not at all.
    pub in_vain: u64,
    pub activations: u64,
    /// How much of the time a function was active nowhere, in percent: the mean of all.
    pub at_zero_percent: f64,
    /// Of all devices together, in bytes: the mean over time, and the most.
    pub mean_bytes: f64,
    pub most_bytes: u64,
}

impl Active {
    /// All are active, and nothing is said of memory.
    pub fn everywhere() -> Self {
        Active {
            how: How::Everywhere,
            said: None,
            seed: 0,
            devices: Vec::new(),
            planner: Planner::new(PlanRules { idle_seconds: 0.0, settle_seconds: 0.0 }),
            sites: Vec::new(),
            wants: Vec::new(),
            asked: Vec::new(),
            places: Vec::new(),
            kept: Kept::default(),
        }
    }

    /// As a scenario says.
    pub fn new(how: How, said: &Functions, world: &World<'_>, trace: &Trace) -> Self {
        let mut active = Active {
            how,
            said: Some(said.clone()),
            seed: world.scenario.seed,
            devices: devices(said, world, trace),
            planner: Planner::new(PlanRules {
                idle_seconds: said.idle.0.as_secs_f64(),
                settle_seconds: said.settle.0.as_secs_f64(),
            }),
            sites: Vec::new(),
            wants: wants(world, trace),
            asked: vec![0; trace.shards.len()],
            places: vec![0; trace.costs.len()],
            kept: Kept::default(),
        };
        active.sites = (0..active.devices.len()).map(|device| active.site(device, world)).collect();
        for device in 0..active.devices.len() {
            if how == How::Everywhere {
                active.devices[device].budget = u64::MAX;
            }
            if how != How::Planned {
                // The numbers of routes are their ranks at the start.
                active.devices[device].wanted = (0..active.devices[device].functions.len()).collect();
                for which in active.settle(device, 0.0) {
                    active.activated(which, 0.0);
                }
            }
        }
        active
    }

    /// How often the planner decides, in seconds, if one does.
    pub fn interval(&self) -> Option<f64> {
        let said = self.said.as_ref().filter(|_| self.how == How::Planned)?;
        Some(said.interval.0.as_secs_f64())
    }

    /// How long it takes until one is active, in seconds.
    pub fn startup(&self) -> f64 {
        self.said.as_ref().map_or(0.0, |said| said.startup.0.as_secs_f64())
    }

    /// For how long a request is held, in seconds.
    pub fn patience(&self) -> f64 {
        self.said.as_ref().map_or(0.0, |said| said.activation_timeout.0.as_secs_f64())
    }

    /// Whether the function of a route can be asked there. Only of one that holds its data.
    pub fn is_active(&self, device: usize, route: usize) -> bool {
        self.said.is_none()
            || self.which(device, route).is_none_or(|which| self.of(which).state == State::Active)
    }

    /// The device that is asked itself for this request, whoever decides: always the same.
    pub fn direct(&self, asked: &Asked<'_>) -> Option<usize> {
        let percent = self.said.as_ref()?.direct_percent;
        let mut random = fastrand::Rng::with_seed(self.seed ^ (asked.index as u64 + 1).wrapping_mul(MIXES));
        if random.f64() * 100.0 >= percent {
            return None;
        }
        let holders = asked.world.admissible(asked.trace, asked.call);
        let count = holders.clone().count();
        let node = holders.clone().nth(random.usize(..count.max(1)))?;
        Some(node - asked.world.scenario.hosts.count as usize)
    }

    /// A request of a policy comes, which may go anywhere.
    pub fn asked(&mut self, shard: usize) {
        if let Some(asked) = self.asked.get_mut(shard) {
            *asked += 1;
        }
    }

    /// Holds a request until its function is active. None: it will never be.
    pub fn hold(&mut self, device: usize, route: usize, call: usize) -> Option<Which> {
        let which = self.which(device, route).filter(|_| self.how == How::Planned);
        self.kept.in_vain += u64::from(which.is_none());
        let which = which?;
        self.kept.held += 1;
        self.of_mut(which).held.push_back(call);
        Some(which)
    }

    /// One has been held for too long. False: it is not held any more.
    pub fn give_up(&mut self, which: Which, call: usize) -> bool {
        let held = &mut self.of_mut(which).held;
        let at = held.iter().position(|other| *other == call);
        let is_held = at.and_then(|at| held.remove(at)).is_some();
        self.kept.in_vain += u64::from(is_held);
        is_held
    }

    /// The next that is let in at a device, the first that came first.
    pub fn let_in(&mut self, device: usize) -> Option<usize> {
        let functions = &mut self.devices.get_mut(device)?.functions;
        let active = functions.iter_mut().filter(|function| function.state == State::Active);
        active
            .filter(|function| !function.held.is_empty())
            .min_by_key(|function| function.held.front().copied())?
            .held
            .pop_front()
    }

    /// A run begins.
    pub fn begun(&mut self, device: usize, route: usize) {
        if let Some(which) = self.which(device, route) {
            self.of_mut(which).under_way += 1;
        }
    }

    /// A run has ended that took so long, or came to nothing. What becomes active then.
    pub fn ended(&mut self, device: usize, route: usize, seconds: Option<f64>, at: f64) -> Vec<Which> {
        let Some(which) = self.which(device, route) else { return Vec::new() };
        let function = self.of_mut(which);
        function.under_way -= 1;
        if let Some(seconds) = seconds {
            function.ended += 1;
            function.seconds += seconds;
        }
        match function.state {
            State::Leaving => self.settle(device, at),
            _ => Vec::new(),
        }
    }

    /// The planner decides. `is_regular`: it has the numbers of a whole interval. What becomes active then.
    pub fn plan(&mut self, is_regular: bool, at: f64) -> Vec<Which> {
        let Some(interval) = self.interval() else { return Vec::new() };
        if is_regular {
            for (want, asked) in self.wants.iter_mut().zip(&mut self.asked) {
                want.rate = f64::from(std::mem::take(asked)) / interval;
            }
        }
        for (site, device) in self.sites.iter_mut().zip(&mut self.devices) {
            for (said, function) in site.functions.iter_mut().zip(&mut device.functions) {
                said.is_active = function.state == State::Active;
                said.is_waited_for = !function.held.is_empty();
                said.runs = std::mem::take(&mut function.ended);
                said.run_seconds = std::mem::take(&mut function.seconds);
                said.in_flight = function.under_way;
            }
        }
        let planned = self.planner.plan(&self.sites, &self.wants, Time::from_seconds(at));
        let mut begins = Vec::new();
        for (device, planned) in planned.into_iter().enumerate() {
            let active = planned.into_iter().filter(|planned| planned.because.is_active());
            let names = &self.sites[device].functions;
            let place = |name: &Arc<str>| names.iter().position(|function| function.name == *name);
            self.devices[device].wanted = active.filter_map(|planned| place(&planned.function)).collect();
            begins.extend(self.settle(device, at));
        }
        begins
    }

    /// One is active that was to be.
    pub fn activated(&mut self, which: Which, at: f64) {
        self.note(at);
        self.kept.activations += 1;
        self.of_mut(which).state = State::Active;
        let route = self.of(which).route;
        self.places[route] += 1;
    }

    /// What came of it all.
    pub fn activity(&mut self, at: f64) -> Activity {
        self.note(at);
        let (kept, seconds) = (self.kept, at.max(f64::MIN_POSITIVE));
        Activity {
            held: kept.held,
            in_vain: kept.in_vain,
            activations: kept.activations,
            at_zero_percent: kept.at_zero_seconds * 100.0 / seconds / self.places.len().max(1) as f64,
            mean_bytes: kept.byte_seconds / seconds,
            most_bytes: kept.most,
        }
    }

    /// Has go what is not wanted, and begin what is, as far as there is room.
    fn settle(&mut self, device: usize, at: f64) -> Vec<Which> {
        self.note(at);
        let Active { devices, places, kept, .. } = self;
        let Device { budget, functions, wanted } = &mut devices[device];
        for (number, function) in functions.iter_mut().enumerate() {
            let is_wanted = wanted.contains(&number);
            match function.state {
                State::Active if !is_wanted => {
                    function.state = State::Leaving;
                    places[function.route] -= 1;
                }
                State::Leaving if is_wanted => {
                    function.state = State::Active;
                    places[function.route] += 1;
                }
                _ => {}
            }
            if function.state == State::Leaving && function.under_way == 0 {
                function.state = State::Inactive;
                kept.taken -= function.memory;
            }
        }
        let takes = functions.iter().filter(|function| function.state != State::Inactive);
        let mut left = budget.saturating_sub(takes.map(|function| function.memory).sum());
        let mut begins = Vec::new();
        for number in wanted.iter().copied() {
            let function = &mut functions[number];
            if function.state == State::Inactive && function.memory <= left {
                left -= function.memory;
                function.state = State::Activating;
                kept.taken += function.memory;
                begins.push(Which { device, function: number });
            }
        }
        kept.most = kept.most.max(kept.taken);
        begins
    }

    /// What is so now has been so since it was last asked.
    fn note(&mut self, at: f64) {
        let kept = &mut self.kept;
        let lasted = (at - kept.since).max(0.0);
        kept.since = at;
        if lasted > 0.0 {
            kept.byte_seconds += kept.taken as f64 * lasted;
            kept.at_zero_seconds += self.places.iter().filter(|places| **places == 0).count() as f64 * lasted;
        }
    }

    fn which(&self, device: usize, route: usize) -> Option<Which> {
        let functions = &self.devices.get(device)?.functions;
        let function = functions.binary_search_by_key(&route, |function| function.route).ok()?;
        Some(Which { device, function })
    }

    fn of(&self, which: Which) -> &OnDevice {
        &self.devices[which.device].functions[which.function]
    }

    fn of_mut(&mut self, which: Which) -> &mut OnDevice {
        &mut self.devices[which.device].functions[which.function]
    }

    fn site(&self, device: usize, world: &World<'_>) -> Site {
        let class = world.class(device);
        let function = |function: &OnDevice| SiteFunction {
            name: name(function.route),
            memory_bytes: function.memory,
            is_active: false,
            is_waited_for: false,
            runs: 0,
            run_seconds: 0.0,
            in_flight: 0,
        };
        Site {
            name: format!("device-{device}").into(),
            memory_bytes: Some(self.devices[device].budget),
            slots: class.slots,
            allowed: class.allowed_slots.unwrap_or(class.slots),
            functions: self.devices[device].functions.iter().map(function).collect(),
        }
    }
}

/// What each device could run: the functions of the routes whose data it holds.
fn devices(said: &Functions, world: &World<'_>, trace: &Trace) -> Vec<Device> {
    let mut random = fastrand::Rng::with_seed(world.scenario.seed ^ MIXES);
    let bytes: Vec<f64> =
        trace.costs.iter().map(|_| draw::log_normal(said.megabytes, &mut random) * MEGA).collect();
    let mut routes = vec![Vec::new(); world.scenario.devices as usize];
    for shard in &trace.shards {
        shard.holders.iter().for_each(|(device, _)| routes[*device].push(shard.route));
    }
    let device = |(number, mut routes): (usize, Vec<usize>)| {
        routes.sort_unstable();
        routes.dedup();
        let budget = (world.class(number).memory_megabytes * MEGA) as u64;
        let function = |route: usize| OnDevice {
            route,
            // One that never fits would only say something of itself.
            memory: (bytes[route] as u64).clamp(1, budget),
            state: State::Inactive,
            under_way: 0,
            ended: 0,
            seconds: 0.0,
            held: VecDeque::new(),
        };
        Device { budget, functions: routes.into_iter().map(function).collect(), wanted: Vec::new() }
    };
    routes.into_iter().enumerate().map(device).collect()
}

/// What there is to want, of which nothing is wanted yet. As hosts' sidecars think of devices and functions at the start.
fn wants(world: &World<'_>, trace: &Trace) -> Vec<Want> {
    let scan_bytes = (world.scenario.workload.scan_kibibytes.median * 1024.0) as u64;
    let out_share = world.scenario.workload.selectivity_percent.median / 100.0;
    let request = Request { work: Work::Stateless, bytes_in: 0, scan_bytes };
    let host = world::host(world.scenario);
    let want = |(number, shard): (usize, &super::trace::Shard)| {
        let cost = world.believed_cost(&trace.costs[shard.route]);
        let at = |device: usize| {
            let places = (&host, &world.believed(device));
            let (seconds, worth) = foresee(places, &world.weights, &request, (&cost, out_share));
            lighter_place::Foreseen { site: device, seconds, worth }
        };
        let holders = shard.holders.iter().filter(|(_, is_new)| *is_new);
        Want {
            policy: format!("part-{number}").into(),
            function: name(shard.route),
            rate: 0.0,
            at: holders.map(|(device, _)| at(*device)).collect(),
        }
    };
    trace.shards.iter().enumerate().map(want).collect()
}

fn name(route: usize) -> Arc<str> {
    format!("function-{route}").into()
}

const MEGA: f64 = 1e6;
/// Odd, with as many ones as zeros.
const MIXES: u64 = 0x9e37_79b9_7f4a_7c15;
