//! Who decides where requests run: the placement core as sidecars use it, and those it is compared with.

use lighter_config::scenario::Scenario;
use lighter_place::{Outcome, Setback, Ticket};

use super::active::Active;
use super::node::Closed;
use super::trace::{Call, Trace};
use super::world::World;

/// A request, when a policy is asked about it.
pub struct Asked<'a> {
    pub world: &'a World<'a>,
    pub trace: &'a Trace,
    pub active: &'a Active,
    /// The number of the request.
    pub index: usize,
    pub call: &'a Call,
    /// In seconds since the beginning.
    pub at: f64,
}

/// Where a request is sent, as the number of a node.
pub struct Sent {
    pub node: usize,
    pub ticket: Option<Ticket>,
}

/// Decides where requests run.
pub trait Policy {
    /// Where a request goes.
    fn place(&mut self, asked: &Asked<'_>) -> Sent;

    /// A request that was sent to a device in vain goes to its host.
    fn again(&mut self, asked: &Asked<'_>, _setback: Setback) -> Sent {
        Sent { node: asked.call.host as usize, ticket: None }
    }

    /// A request has ended where it was sent.
    fn ended(&mut self, _host: u32, _ticket: &Ticket, _outcome: &Outcome, _at: f64) {}

    /// An answer says how long a request would wait at a node.
    fn heard(&mut self, _host: u32, _node: usize, _queue_seconds: f64, _at: f64) {}

    /// Every node says it to all.
    fn report(&mut self, _world: &World<'_>, _at: f64) {}

    /// Whether it listens to that.
    fn has_reports(&self) -> bool {
        false
    }
}

impl Asked<'_> {
    fn host(&self) -> usize {
        self.call.host as usize
    }

    fn devices(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        self.world.admissible(self.trace, self.call)
    }

    fn any_device(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let count = self.devices().count();
        self.devices().nth(random.usize(..count.max(1)))
    }
}

/// What is without a ticket.
fn to(node: usize) -> Sent {
    Sent { node, ticket: None }
}

/// Everything runs on the host.
pub struct HostOnly;

impl Policy for HostOnly {
    fn place(&mut self, asked: &Asked<'_>) -> Sent {
        to(asked.host())
    }
}

/// Whatever may run on a device does, on any that holds the data.
pub struct AlwaysDevice(fastrand::Rng);

impl AlwaysDevice {
    pub fn new(scenario: &Scenario) -> Self {
        AlwaysDevice(fastrand::Rng::with_seed(scenario.seed))
    }
}

impl Policy for AlwaysDevice {
    fn place(&mut self, asked: &Asked<'_>) -> Sent {
        to(asked.any_device(&mut self.0).unwrap_or(asked.host()))
    }
}

/// What reads much runs on any device that holds the data.
pub struct StaticRule(fastrand::Rng);

impl StaticRule {
    pub fn new(scenario: &Scenario) -> Self {
        StaticRule(fastrand::Rng::with_seed(scenario.seed))
    }
}

impl Policy for StaticRule {
    fn place(&mut self, asked: &Asked<'_>) -> Sent {
        let is_large = asked.call.scan_bytes as f64 >= asked.world.scenario.static_rule_kibibytes * 1024.0;
        let device = if is_large { asked.any_device(&mut self.0) } else { None };
        to(device.unwrap_or(asked.host()))
    }
}

/// Of two places, the one with fewer requests. It knows of all of them, also of those that others sent.
pub struct TwoChoices(fastrand::Rng);

impl TwoChoices {
    pub fn new(scenario: &Scenario) -> Self {
        TwoChoices(fastrand::Rng::with_seed(scenario.seed))
    }
}

impl Policy for TwoChoices {
    fn place(&mut self, asked: &Asked<'_>) -> Sent {
        let places = || std::iter::once(asked.host()).chain(asked.devices());
        let count = places().count();
        let first = self.0.usize(..count);
        let second = if count > 1 { (first + self.0.usize(1..count)) % count } else { first };
        let drawn = [first, second].into_iter().filter_map(|nth| places().nth(nth));
        to(drawn.min_by_key(|node| asked.world.nodes[*node].tries.len()).unwrap_or(asked.host()))
    }
}

/// Knows how long each place will really take, and what has befallen it. It takes what is best for each request by itself, and
/// does not know what comes next.
pub struct Oracle;

impl Policy for Oracle {
    fn place(&mut self, asked: &Asked<'_>) -> Sent {
        let slo = asked.world.scenario.slo.0.as_secs_f64();
        let expected = |node: usize| {
            let place = &asked.world.nodes[node];
            let need = asked.world.need(asked.trace, asked.index, asked.call, node);
            let done = place.preview(&need, asked.at).ok().filter(|_| !place.is_stalled())?;
            let (joules, moved) = asked.world.spent(asked.call, node, done.busy);
            let seconds = done.at - asked.at;
            Some((node, seconds > slo, asked.world.weights.cost(seconds, joules, moved)))
        };
        let places = std::iter::once(asked.host()).chain(asked.devices()).filter_map(expected);
        let best = places.min_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)));
        to(best.map_or(asked.host(), |(node, ..)| node))
    }
}

/// Why a node takes nothing, in the words of the placement core.
pub fn setback(closed: Closed) -> Setback {
    match closed {
        Closed::Dead => Setback::Failed(lighter_place::Failure::Lost),
        Closed::Full => Setback::Refused(lighter_place::Refusal::Reserve),
    }
}
