//! The placement core, once for each host, as its sidecar has it.

use std::collections::BTreeMap;

use lighter_place::{
    GuardRules, HOST, Offer, Outcome, PlaceId, Placed, Placer, Reason, Record, RouteId, RouteRules, Setback,
    Ticket, recompute,
};

use super::policy::{Asked, Policy, Sent};
use super::trace::Trace;
use super::world::{self, VERSION, World};

/// The sidecars of all hosts.
pub struct Sidecars {
    placers: Vec<Placer>,
    /// By number of the device, the same for all.
    devices: Vec<PlaceId>,
    /// By number of the route, the same for all.
    routes: Vec<RouteId>,
    offers: Vec<Offer>,
    pub log: Log,
}

/// What is kept of decisions.
pub struct Log {
    /// How many there were, by why.
    pub reasons: BTreeMap<&'static str, u64>,
    /// How many were made again from their records and came out the same.
    pub recomputed: u64,
    /// How many came out otherwise.
    pub differing: u64,
    /// Some of them in words.
    pub explained: Vec<String>,
    /// Each so many requests, one is explained.
    every: Option<usize>,
}

impl Sidecars {
    /// `explain`: how many decisions are told in words.
    pub fn new(world: &World<'_>, trace: &Trace, explain: usize) -> Self {
        let scenario = world.scenario;
        let guard = GuardRules {
            slo_seconds: scenario.slo.0.as_secs_f32(),
            miss_share: (scenario.slo_miss_percent / 100.0) as f32,
            window_seconds: scenario.guard_window.0.as_secs_f32(),
        };
        let rules = RouteRules {
            guard,
            objective: world::objective(scenario.objective),
            try_timeout_seconds: scenario.try_timeout.map(|limit| limit.0.as_secs_f64()),
            ..RouteRules::default()
        };
        let mut placer = Placer::new(world::host(scenario), scenario.seed);
        placer.expect_reports(scenario.report_interval.0.as_secs_f64());
        let devices: Vec<_> =
            (0..scenario.devices as usize).map(|device| placer.add_device(world.believed(device))).collect();
        let mut used = vec![Vec::new(); trace.costs.len()];
        for shard in &trace.shards {
            used[shard.route].extend(shard.holders.iter().map(|(device, _)| devices[*device]));
        }
        let with_cost = trace.costs.iter().zip(used);
        let routes = with_cost
            .map(|(cost, used)| {
                placer.add_route(RouteRules { cost: world.believed_cost(cost), ..rules }, used)
            })
            .collect();
        let placers = (0..scenario.hosts.count)
            .map(|host| placer.clone().with_seed(scenario.seed.wrapping_add(u64::from(host))))
            .collect();
        let every = trace.calls.len().checked_div(explain).map(|every| every.max(1));
        let log = Log { reasons: BTreeMap::new(), recomputed: 0, differing: 0, explained: Vec::new(), every };
        Sidecars { placers, devices, routes, offers: Vec::new(), log }
    }

    fn sent(&mut self, asked: &Asked<'_>, placed: Placed) -> Sent {
        self.log.note(asked, &placed.record);
        let node = match placed.ticket.place {
            HOST => asked.call.host as usize,
            device => asked.world.node_of(device.number() as usize - 1),
        };
        Sent { node, ticket: Some(placed.ticket) }
    }

    fn route(&self, asked: &Asked<'_>) -> RouteId {
        self.routes[asked.trace.shards[asked.call.shard as usize].route]
    }
}

impl Policy for Sidecars {
    fn place(&mut self, asked: &Asked<'_>) -> Sent {
        let shard = &asked.trace.shards[asked.call.shard as usize];
        let holders = shard.holders.iter();
        self.offers.clear();
        self.offers.extend(holders.map(|(device, is_new)| Offer {
            place: self.devices[*device],
            has_function: asked.active.is_active(*device, shard.route),
            dataset: Some(if *is_new { VERSION } else { VERSION - 1 }),
        }));
        let (route, placer) = (self.route(asked), &mut self.placers[asked.call.host as usize]);
        let placed = placer.place(route, &world::request(asked.call), &self.offers, time(asked.at));
        self.sent(asked, placed)
    }

    fn again(&mut self, asked: &Asked<'_>, setback: Setback) -> Sent {
        let (route, placer) = (self.route(asked), &mut self.placers[asked.call.host as usize]);
        let placed = placer.again(route, &world::request(asked.call), setback, time(asked.at));
        self.sent(asked, placed)
    }

    fn ended(&mut self, host: u32, ticket: &Ticket, outcome: &Outcome, at: f64) {
        self.placers[host as usize].ended(ticket, outcome, time(at));
    }

    fn heard(&mut self, host: u32, node: usize, queue_seconds: f64, at: f64) {
        let place = match node.checked_sub(self.placers.len()) {
            Some(device) => self.devices[device],
            None => HOST,
        };
        self.placers[host as usize].report(place, queue_seconds, time(at));
    }

    fn report(&mut self, world: &World<'_>, at: f64) {
        let (hosts, devices) = world.nodes.split_at(self.placers.len());
        for (placer, host) in self.placers.iter_mut().zip(hosts) {
            placer.report(HOST, host.queue_seconds(at), time(at));
        }
        for (place, device) in self.devices.iter().zip(devices).filter(|(_, device)| !device.is_silent()) {
            let queue = device.queue_seconds(at);
            self.placers.iter_mut().for_each(|placer| placer.report(*place, queue, time(at)));
        }
    }

    fn has_reports(&self) -> bool {
        true
    }
}

impl Log {
    fn note(&mut self, asked: &Asked<'_>, record: &Record) {
        *self.reasons.entry(record.decision.reason.label()).or_default() += 1;
        let is_same = recompute(record) == record.decision;
        self.recomputed += u64::from(is_same);
        self.differing += u64::from(!is_same);
        let is_first = !matches!(record.decision.reason, Reason::Setback(_));
        if is_first && self.every.is_some_and(|every| asked.index % every == every - 1) {
            let name = |place| match place {
                HOST => format!("host {}", asked.call.host),
                device => format!("device {}", device.number() - 1),
            };
            let words = record.explain(name);
            self.explained.push(format!("request {} at {:.3} s: {words}", asked.index, asked.at));
        }
    }
}

fn time(seconds: f64) -> lighter_place::Time {
    lighter_place::Time::from_seconds(seconds)
}
