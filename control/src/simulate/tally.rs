//! What is counted of a run.

use lighter_place::{Setback, Weights};

use super::world::World;

/// What one run came to.
pub struct Tally {
    slo_seconds: f64,
    weights: Weights,
    /// Of each request, in seconds. Sorted once the run is over.
    latencies: Vec<f64>,
    late: u64,
    joules: f64,
    moved_bytes: f64,
    first_tries: u64,
    on_devices: u64,
    pub refused: u64,
    pub failed: u64,
    pub events: Vec<Befell>,
}

/// How many requests were sent to devices that something befell, window by window.
pub struct Befell {
    at: f64,
    window: f64,
    /// By number of the node.
    nodes: Vec<bool>,
    /// In the window before it.
    pub before: u64,
    /// In the windows after it.
    pub after: [u64; 5],
}

impl Befell {
    /// How many devices it befell.
    pub fn devices(&self) -> usize {
        self.nodes.iter().filter(|is_one| **is_one).count()
    }
}

impl Tally {
    pub fn new(world: &World<'_>) -> Self {
        let events = world.scenario.events.iter().map(|event| {
            let mut nodes = vec![false; world.nodes.len()];
            world.befallen(event).into_iter().for_each(|node| nodes[node] = true);
            let window = world.scenario.guard_window.0.as_secs_f64();
            Befell { at: event.at.0.as_secs_f64(), window, nodes, before: 0, after: [0; 5] }
        });
        Tally {
            slo_seconds: world.scenario.slo.0.as_secs_f64(),
            weights: world.weights,
            latencies: Vec::with_capacity(world.scenario.requests as usize),
            late: 0,
            joules: 0.0,
            moved_bytes: 0.0,
            first_tries: 0,
            on_devices: 0,
            refused: 0,
            failed: 0,
            events: events.collect(),
        }
    }

    pub fn sent(&mut self, node: usize, is_device: bool, is_again: bool, at: f64) {
        if !is_again {
            self.first_tries += 1;
            self.on_devices += u64::from(is_device);
        }
        for event in self.events.iter_mut().filter(|event| event.nodes[node]) {
            match ((at - event.at) / event.window).floor() {
                -1.0 => event.before += 1,
                windows if (0.0..5.0).contains(&windows) => event.after[windows as usize] += 1,
                _ => {}
            }
        }
    }

    pub fn answered(&mut self, seconds: f64) {
        self.latencies.push(seconds);
        self.late += u64::from(seconds > self.slo_seconds);
    }

    pub fn spent(&mut self, joules: f64, moved_bytes: f64) {
        self.joules += joules;
        self.moved_bytes += moved_bytes;
    }

    pub fn set_back(&mut self, setback: Setback) {
        match setback {
            Setback::Refused(_) => self.refused += 1,
            Setback::Failed(_) => self.failed += 1,
        }
    }

    /// What came out, once the run is over.
    pub fn outcome(mut self) -> Outcome {
        self.latencies.sort_by(f64::total_cmp);
        let requests = self.latencies.len().max(1) as f64;
        let seconds: f64 = self.latencies.iter().sum();
        Outcome {
            mean_seconds: seconds / requests,
            p50_seconds: percentile(&self.latencies, 50),
            p99_seconds: percentile(&self.latencies, 99),
            requests: self.latencies.len(),
            late: self.late,
            late_percent: self.late as f64 * 100.0 / requests,
            moved_bytes: self.moved_bytes,
            joules: self.joules,
            device_percent: self.on_devices as f64 * 100.0 / self.first_tries.max(1) as f64,
            refused: self.refused,
            failed: self.failed,
            mean_cost: self.weights.cost(seconds, self.joules, self.moved_bytes) / requests,
            events: self.events,
        }
    }
}

/// What came out of a run.
pub struct Outcome {
    pub requests: usize,
    pub mean_seconds: f64,
    pub p50_seconds: f64,
    pub p99_seconds: f64,
    /// Requests that missed the objective.
    pub late: u64,
    pub late_percent: f64,
    pub moved_bytes: f64,
    /// Modelled.
    pub joules: f64,
    /// What part of the requests went to a device at first.
    pub device_percent: f64,
    /// Tries that devices refused.
    pub refused: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Of a request, by the weights of the objective.
    pub mean_cost: f64,
    pub events: Vec<Befell>,
}

impl Outcome {
    /// By how much more than the oracle's a request costs, in percent of that.
    pub fn regret_percent(&self, oracle: &Outcome) -> f64 {
        (self.mean_cost / oracle.mean_cost - 1.0) * 100.0
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(0.0)
}
