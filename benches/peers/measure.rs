//! What is measured, and how.

use std::fmt;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::http1;
use crate::proxies::Proxy;

/// What one run of a load did.
#[derive(Clone, Default)]
pub struct Load {
    /// Requests, or MiB.
    pub units: f64,
    /// How long it took.
    pub time: Duration,
    /// Nanoseconds, in no order; empty for streams.
    pub latencies: Vec<u32>,
}

/// Processor time of a proxy so far.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    /// In user code and in the kernel together, from the scheduler's own account: nanoseconds.
    pub total: f64,
    /// Clock ticks in user code: good enough for a share.
    pub user: f64,
    /// Clock ticks in the kernel.
    pub system: f64,
}

/// One measurement.
#[derive(Clone, Copy, Default)]
pub struct Sample {
    /// Requests (or MiB) a second.
    pub rate: f64,
    /// Processor microseconds a request (or MiB).
    pub cpu: f64,
    /// Those of them in user code.
    pub user: f64,
    /// Those of them in the kernel.
    pub system: f64,
    /// Median latency in microseconds.
    pub p50: f64,
    /// 99th percentile in microseconds.
    pub p99: f64,
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// After one request.
    pub idle: f64,
    /// What of that is no page of a file, and so does not depend on how much of the program the system happens to have mapped.
    pub own: f64,
    /// For each of the idle connections.
    pub per_connection: f64,
}

impl Sample {
    pub fn new(mut load: Load, before: Cpu, after: Cpu) -> Self {
        load.latencies.sort_unstable();
        let percentile = |share: f64| {
            let at = (load.latencies.len() as f64 * share) as usize;
            load.latencies.get(at).map_or(0.0, |nanos| f64::from(*nanos) / 1e3)
        };
        let cpu = (after.total - before.total) / 1e3 / load.units.max(1.0);
        let (user, system) = (after.user - before.user, after.system - before.system);
        let share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        Sample {
            rate: load.units / load.time.as_secs_f64(),
            cpu,
            user: cpu * share,
            system: cpu * (1.0 - share),
            p50: percentile(0.5),
            p99: percentile(0.99),
        }
    }

    /// The median of each number on its own.
    pub fn median(samples: &[Sample]) -> Sample {
        Sample::of_each(samples, |numbers| {
            let half = numbers.len() / 2;
            if numbers.len() % 2 == 1 { numbers[half] } else { (numbers[half - 1] + numbers[half]) / 2.0 }
        })
    }

    /// The median, but the latencies of the round that had the lowest.
    pub fn median_of_quiet(samples: &[Sample]) -> Sample {
        let Sample { p50, p99, .. } = Sample::of_each(samples, |numbers| numbers[0]);
        Sample { p50, p99, ..Sample::median(samples) }
    }

    /// What `pick` takes of the sorted values of each number.
    fn of_each(samples: &[Sample], pick: fn(&[f64]) -> f64) -> Sample {
        let of = |number: fn(&Sample) -> f64| {
            let mut numbers: Vec<f64> = samples.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            if numbers.is_empty() { 0.0 } else { pick(&numbers) }
        };
        Sample {
            rate: of(|sample| sample.rate),
            cpu: of(|sample| sample.cpu),
            user: of(|sample| sample.user),
            system: of(|sample| sample.system),
            p50: of(|sample| sample.p50),
            p99: of(|sample| sample.p99),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:9.0}/s {:7.2} µs CPU ({:.2} + {:.2})  p50 {:.0} µs  p99 {:.0} µs",
            self.rate, self.cpu, self.user, self.system, self.p50, self.p99
        )
    }
}

/// The processor time of a process so far, over all its threads.
pub fn cpu(pid: u32) -> Cpu {
    let tasks =
        std::fs::read_dir(format!("/proc/{pid}/task")).expect("a proxy lives as long as the benchmark");
    let total = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<f64>().ok())
        .sum();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is a name in brackets and may hold anything; the fields after it are counted from 3.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    Cpu { total, user: ticks(14), system: ticks(15) }
}

/// Idle memory, and what `connections` idle ones add to it.
pub fn memory(proxy: &Proxy, connections: usize) -> Memory {
    let (idle, own) = (proxy.resident("VmRSS"), proxy.resident("RssAnon"));
    if connections == 0 {
        return Memory { idle, own, per_connection: 0.0 };
    }
    let open = http1::idle(proxy.ports.http, connections);
    let grown = proxy.resident("VmRSS") - idle;
    drop(open);
    Memory { idle, own, per_connection: grown / connections as f64 }
}

/// Resident memory of a process in KiB, by its name in `/proc/PID/status`: `VmRSS`, or `RssAnon` of that.
pub fn resident(pid: u32, what: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.strip_prefix(what).is_some_and(|rest| rest.starts_with(':')));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
}

/// As many descriptors as the system lets us have; children inherit them.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Processors for load and upstream, and for proxies: the last one is the proxies' where there are two or more.
pub fn split_processors(pin: bool) -> (CpuSet, CpuSet) {
    let all = sched_getaffinity(None).unwrap();
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    if !pin || usable.len() < 2 {
        return (all, all);
    }
    let (mut ours, mut theirs) = (all, CpuSet::new());
    let last = usable[usable.len() - 1];
    ours.unset(last);
    theirs.set(last);
    (ours, theirs)
}

/// Keeps this thread, and what it starts from now on, on `processors`.
pub fn run_on(processors: &CpuSet) {
    let _ = sched_setaffinity(None, processors);
}
