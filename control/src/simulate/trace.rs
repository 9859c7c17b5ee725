//! What is asked, when and of which data: drawn once, and the same for all policies.

use lighter_config::scenario::{Scenario, Workload};
use lighter_place::FunctionCost;

use super::draw::{self, Weighted};

/// Everything that is asked.
pub struct Trace {
    /// What the functions of routes are really like, by route.
    pub costs: Vec<FunctionCost>,
    /// Parts of data sets.
    pub shards: Vec<Shard>,
    /// In the order in which they come.
    pub calls: Vec<Call>,
}

/// A part of a route's data set.
pub struct Shard {
    pub route: usize,
    /// The devices that hold it, and whether that is the version which the host would read.
    pub holders: Vec<(usize, bool)>,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it comes, in seconds since the beginning.
    pub at: f64,
    /// At which host.
    pub host: u32,
    pub shard: u32,
    pub is_stateful: bool,
    pub bytes_in: u64,
    pub scan_bytes: u64,
    pub bytes_out: u64,
}

impl Trace {
    /// As the scenario says.
    pub fn draw(scenario: &Scenario) -> Self {
        let mut random = fastrand::Rng::with_seed(scenario.seed);
        let workload = &scenario.workload;
        let popularity = |route: u32| f64::from(route + 1).powf(-workload.popularity_exponent);
        let popular = Weighted::new((0..workload.routes).map(popularity));
        let costs: Vec<_> = (0..workload.routes).map(|_| cost(workload, &mut random)).collect();
        let selectivity: Vec<f64> = (0..workload.routes)
            .map(|_| draw::log_normal(workload.selectivity_percent, &mut random).min(100.0) / 100.0)
            .collect();
        let shards = shards(scenario, &popular, &mut random);
        let mut of_route = vec![Vec::new(); costs.len()];
        for (index, shard) in shards.iter().enumerate() {
            of_route[shard.route].push(index as u32);
        }
        let mut calls = Vec::with_capacity(scenario.requests as usize);
        // Users call by chance, each time for several requests, of which there are so many in a second.
        let mean = mean_fan_out(scenario, &mut random.fork());
        let (mut at, per_second) = (0.0, scenario.requests_per_second / mean);
        while calls.len() < scenario.requests as usize {
            at -= (1.0 - random.f64()).ln() / per_second;
            let host = random.u32(..scenario.hosts.count);
            let route = moved_on(workload, popular.draw(&mut random), at);
            for _ in 0..draw::fan_out(workload.fan_out, &mut random) {
                let shard = of_route[route][random.usize(..of_route[route].len())];
                let scan_bytes =
                    (draw::log_normal(workload.scan_kibibytes, &mut random) * 1024.0).min(LARGEST) as u64;
                let share = selectivity[route] * (0.5 + random.f64());
                calls.push(Call {
                    at,
                    host,
                    shard,
                    is_stateful: random.f64() * 100.0 < workload.stateful_percent,
                    bytes_in: random.u64(200..2000),
                    scan_bytes,
                    bytes_out: (scan_bytes as f64 * share.min(1.0)) as u64,
                });
            }
        }
        calls.truncate(scenario.requests as usize);
        Trace { costs, shards, calls }
    }
}

/// The route that is so popular by now.
fn moved_on(workload: &Workload, rank: usize, at: f64) -> usize {
    let shifts = workload.popularity_shift.map_or(0.0, |shift| (at / shift.0.as_secs_f64()).floor());
    (rank + shifts as usize) % (workload.routes as usize)
}

fn cost(workload: &Workload, random: &mut fastrand::Rng) -> FunctionCost {
    let micros = draw::log_normal(workload.compute_microseconds, random).clamp(20.0, 20_000.0);
    let nanos_per_kib = draw::log_normal(workload.compute_nanoseconds_per_kibibyte, random);
    FunctionCost { seconds: micros * 1e-6, seconds_per_byte: nanos_per_kib * 1e-9 / 1024.0 }
}

/// The more popular a route, the more parts its data set has; each has one.
fn shards(scenario: &Scenario, popular: &Weighted, random: &mut fastrand::Rng) -> Vec<Shard> {
    let workload = &scenario.workload;
    let (devices, replicas) = (scenario.devices as usize, workload.replicas as usize);
    let wanted = devices * workload.shards_per_device as usize / replicas;
    let routes = workload.routes as usize;
    let mut shards = Vec::new();
    for index in 0..wanted.max(routes) {
        let route = if index < routes { index } else { popular.draw(random) };
        let mut holders: Vec<(usize, bool)> = Vec::with_capacity(replicas);
        while holders.len() < replicas {
            let device = random.usize(..devices);
            if holders.iter().all(|(other, _)| *other != device) {
                holders.push((device, random.f64() * 100.0 >= workload.stale_percent));
            }
        }
        shards.push(Shard { route, holders });
    }
    shards
}

fn mean_fan_out(scenario: &Scenario, random: &mut fastrand::Rng) -> f64 {
    const DRAWS: u32 = 10_000;
    let sum: u32 = (0..DRAWS).map(|_| draw::fan_out(scenario.workload.fan_out, random)).sum();
    f64::from(sum) / f64::from(DRAWS)
}

/// Nothing is larger, whatever the tail of a distribution: a terabyte.
const LARGEST: f64 = 1e12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_as_often_as_is_said_and_find_their_data() {
        let scenario = Scenario { requests: 50_000, devices: 100, ..Scenario::default() };
        let trace = Trace::draw(&scenario);
        assert_eq!(trace.calls.len(), 50_000);
        let seconds = trace.calls[49_999].at;
        assert!((50_000.0 / seconds / scenario.requests_per_second - 1.0).abs() < 0.1, "{seconds}");
        assert!(trace.calls.windows(2).all(|pair| pair[0].at <= pair[1].at));
        for shard in &trace.shards {
            assert_eq!(shard.holders.len(), 3);
            assert!(shard.holders.iter().all(|(device, _)| *device < 100));
        }
        let same = Trace::draw(&scenario);
        assert!(
            trace.calls.iter().zip(&same.calls).all(|(a, b)| a.scan_bytes == b.scan_bytes && a.at == b.at)
        );
    }
}
