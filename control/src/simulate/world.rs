//! All places of a scenario: what they are really like, and what hosts' sidecars think of them at the start.

use lighter_config::scenario::{DeviceClass, Event, Objective, Scenario};
use lighter_place::{FunctionCost, Profile, Request, Weights, Work};

use super::draw::{self, Weighted};
use super::node::{Need, Node};
use super::trace::{Call, Trace};

/// The hosts, then the devices.
#[derive(Clone)]
pub struct World<'s> {
    pub scenario: &'s Scenario,
    pub nodes: Vec<Node>,
    /// The kind of each device.
    classes: Vec<usize>,
    pub weights: Weights,
}

/// The one version of data that is not old.
pub const VERSION: u64 = 1;

impl<'s> World<'s> {
    pub fn new(scenario: &'s Scenario) -> Self {
        // Apart from what is asked, so that one does not change the other.
        let mut random = fastrand::Rng::with_seed(scenario.seed ^ 0x006c_6967_6874_6572);
        let hosts = (0..scenario.hosts.count).map(|_| Node::new(host(scenario), f64::INFINITY));
        let mut nodes: Vec<_> = hosts.collect();
        let kinds = Weighted::new(scenario.device_classes.iter().map(|class| class.share.into()));
        let classes: Vec<_> = (0..scenario.devices).map(|_| kinds.draw(&mut random)).collect();
        for class in &classes {
            let class = &scenario.device_classes[*class];
            let speed = (class.spread_sigma * draw::normal(&mut random)).exp();
            let nominal = device(class);
            let slots = class.allowed_slots.unwrap_or(class.slots);
            let profile = Profile {
                data_bytes_per_second: nominal.data_bytes_per_second * speed,
                compute_factor: nominal.compute_factor / speed,
                slots,
                ..nominal
            };
            // One that is left no slot takes nothing, however little there is to wait.
            let max_queue = if slots > 0 { class.max_queue.0.as_secs_f64() } else { -1.0 };
            nodes.push(Node::new(profile, max_queue));
        }
        World { scenario, nodes, classes, weights: objective(scenario.objective).weights() }
    }

    /// The number of a device among all nodes.
    pub fn node_of(&self, device: usize) -> usize {
        self.scenario.hosts.count as usize + device
    }

    /// What kind a device is of.
    pub fn class(&self, device: usize) -> &'s DeviceClass {
        &self.scenario.device_classes[self.classes[device]]
    }

    /// The devices that hold what a request needs, at the right version, as nodes. None, if only the host can run it.
    pub fn admissible<'t>(
        &self,
        trace: &'t Trace,
        call: &Call,
    ) -> impl Iterator<Item = usize> + Clone + use<'t> {
        let hosts = self.scenario.hosts.count as usize;
        let holders = trace.shards[call.shard as usize].holders.iter();
        let is_stateful = call.is_stateful;
        holders.filter(move |(_, is_new)| *is_new && !is_stateful).map(move |(device, _)| hosts + device)
    }

    /// What a request really needs at a node.
    pub fn need(&self, trace: &Trace, index: usize, call: &Call, node: usize) -> Need {
        let profile = &self.nodes[node].profile;
        let cost = &trace.costs[trace.shards[call.shard as usize].route];
        let noise = draw::noise(self.scenario.workload.noise_sigma, self.scenario.seed, index, node);
        let bytes = (call.bytes_in + call.scan_bytes) as f64;
        let compute = (cost.seconds + cost.seconds_per_byte * bytes) * profile.compute_factor;
        Need {
            input: call.bytes_in as f64 / profile.link_bytes_per_second,
            scan: call.scan_bytes as f64 / profile.data_bytes_per_second * noise,
            compute: compute * noise,
            output: call.bytes_out as f64 / profile.link_bytes_per_second,
        }
    }

    /// Joules, by the model, and bytes that cross the network.
    pub fn spent(&self, call: &Call, node: usize, busy: f64) -> (f64, f64) {
        let profile = &self.nodes[node].profile;
        let moved = profile.moved_bytes(&request(call), call.bytes_out as f64);
        (profile.busy_watts * busy + profile.joules_per_byte * moved, moved)
    }

    /// What the sidecars of hosts think of a device at the start: as its kind is, by the factors of the scenario.
    pub fn believed(&self, device: usize) -> Profile {
        let nominal = self::device(&self.scenario.device_classes[self.classes[device]]);
        let wrong = &self.scenario.believed;
        Profile {
            link_bytes_per_second: nominal.link_bytes_per_second * wrong.link_factor,
            data_bytes_per_second: nominal.data_bytes_per_second * wrong.media_factor,
            compute_factor: nominal.compute_factor * wrong.compute_factor,
            ..nominal
        }
    }

    /// The same of a function.
    pub fn believed_cost(&self, really: &FunctionCost) -> FunctionCost {
        let factor = self.scenario.believed.function_factor;
        FunctionCost { seconds: really.seconds * factor, seconds_per_byte: really.seconds_per_byte * factor }
    }

    /// The nodes that an event befalls.
    pub fn befallen(&self, event: &Event) -> Vec<usize> {
        let devices = self.scenario.devices as usize;
        let Some(percent) = event.percent else {
            return event.devices.iter().map(|device| self.node_of(*device as usize)).collect();
        };
        let count = (devices as f64 * percent / 100.0).round() as usize;
        (0..count).map(|nth| self.node_of(nth * devices / count)).collect()
    }
}

/// A call as the placement core is asked about it.
pub fn request(call: &Call) -> Request {
    let work = if call.is_stateful { Work::Stateful } else { Work::Versioned(VERSION) };
    Request { work, bytes_in: call.bytes_in, scan_bytes: call.scan_bytes }
}

/// What is wanted least of, in the words of the placement core.
pub fn objective(said: Objective) -> lighter_place::Objective {
    match said {
        Objective::Latency => lighter_place::Objective::Latency,
        Objective::Energy => lighter_place::Objective::Energy,
        Objective::Bytes => lighter_place::Objective::Bytes,
    }
}

/// What every host is like, and is known to be like.
pub fn host(scenario: &Scenario) -> Profile {
    let hosts = &scenario.hosts;
    Profile {
        link_bytes_per_second: hosts.link_megabytes_per_second * MEGA,
        data_bytes_per_second: hosts.link_megabytes_per_second * MEGA,
        compute_factor: 1.0,
        slots: hosts.slots,
        busy_watts: hosts.busy_watts,
        joules_per_byte: hosts.joules_per_gigabyte / GIGA,
        is_data_moved: true,
    }
}

fn device(class: &DeviceClass) -> Profile {
    Profile {
        link_bytes_per_second: class.link_megabytes_per_second * MEGA,
        data_bytes_per_second: class.media_megabytes_per_second * MEGA,
        compute_factor: class.compute_factor,
        slots: class.slots,
        busy_watts: class.busy_watts,
        joules_per_byte: class.joules_per_gigabyte / GIGA,
        is_data_moved: false,
    }
}

const MEGA: f64 = 1e6;
const GIGA: f64 = 1e9;
