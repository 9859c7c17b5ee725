//! A device that is held to a part of a processor, and a program beside it that reads files: how long that takes while
//! functions want all they can get, with the limits and without.
//!
//! A suite of its own, so that nothing else runs meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../device/device.rs"]
#[allow(dead_code)] // It has more than is needed here.
mod device;

#[path = "../device/clients.rs"]
#[allow(dead_code)] // Likewise.
mod clients;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use clients::{Clients, rows};
use device::{Data, Device, get};
use support::process::{Program, free_address, listens, python};
use support::quota::Quota;
use support::raw::{Body, Peer};
use support::{full, test_where, wait_until};

fn main() {
    support::run(vec![test_where("reserve::saturating_functions_leave_the_main_task_its_share", kept)]);
}

/// What the device has of a processor.
const PART: f64 = 0.5;
/// Looks at all rows, and gives two in a thousand.
const SCAN: &str = "/scan/a?where=amount%20%3E%20997";
/// How long it is measured in a round, without functions and with them.
const SECONDS: f64 = 4.0;
/// Requests of the main task a second.
const RATE: u32 = 50;
/// How often it is measured at most.
const ATTEMPTS: u32 = 3;
/// What its file has.
const BYTES: usize = 64 << 10;

/// A device, a program beside it, and both together held to a part of a processor.
struct Node {
    device: Device,
    /// Where the program is asked, by way of the sidecar.
    main: SocketAddr,
    _program: Program,
    _quota: Quota,
}

impl Node {
    /// `said` is what is said of the program in the device's section, for the port where it is asked.
    fn start(said: impl Fn(u16) -> String) -> Result<Self, String> {
        on_one_processor(|| Self::begin(said))
    }

    fn begin(said: impl Fn(u16) -> String) -> Result<Self, String> {
        let python = python("http.server")?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("block"), vec![b'x'; BYTES]).unwrap();
        let (main, app) = (free_address(), free_address());
        let mut command = Command::new(python);
        command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
        command.arg(folder.path()).arg(app.port().to_string());
        let mut program = Program::start(command, folder.path());
        program.wait_until("it listens", || listens(app));
        let inbound = format!("{{listen: '{main}', app: '{app}', port: 81, protocol: http}}");
        let data = Data::new().with_text("a.csv", rows());
        let device = data.start_beside(&inbound, &said(main.port()));
        let quota = Quota::of(&[device.sidecar.program.pid(), program.pid()])?;
        quota.set(PART)?;
        quota.put_first()?;
        // The folder is read as long as the program runs.
        std::mem::forget(folder);
        Ok(Node { device, main, _program: program, _quota: quota })
    }

    /// How long answers of the main task take, in a load that does not wait for them.
    fn measure(&self, seconds: f64) -> Vec<Duration> {
        const SENDERS: u32 = 4;
        let each = (f64::from(RATE) * seconds / f64::from(SENDERS)) as u32;
        let began = Instant::now();
        let send = |sender: u32| {
            let (mut peer, mut took) = (Peer::connect(self.main), Vec::new());
            for number in 0..each {
                let due = began + Duration::from_secs(1) * (number * SENDERS + sender) / RATE;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let (head, body) = peer.exchange(get("/block"));
                assert_eq!(head.status(), 200);
                assert!(matches!(body, Body::Whole(body) if body.len() == BYTES));
                took.push(due.elapsed());
            }
            took
        };
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS).map(|sender| scope.spawn(move || send(sender))).collect();
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
        })
    }

    fn functions(&self) -> Clients {
        // Who was refused asks again soon, though not at once: that takes something of the device as well.
        Clients::start(self.device.at, SCAN, 4, Duration::from_millis(100))
    }

    fn rest(&self) {
        wait_until("no function runs", || self.device.in_flight() == 0.0);
    }

    /// Processor time of functions.
    fn busy(&self) -> f64 {
        self.device.counted("lighter_device_busy_seconds_total", &[])
    }
}

/// Programs that `start` starts have the last processor, and no other one: a quota is handed out to each processor
/// apart, and whoever has none of it waits although there is some elsewhere.
fn on_one_processor<T>(start: impl FnOnce() -> T) -> T {
    let all = sched_getaffinity(None).unwrap();
    let mut last = CpuSet::new();
    let of_all = (0..CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu));
    last.set(of_all.expect("this runs on a processor"));
    sched_setaffinity(None, &last).unwrap();
    let started = start();
    sched_setaffinity(None, &all).unwrap();
    started
}

/// Answers without functions, and with them.
#[derive(Default)]
struct Taken {
    without: Vec<Duration>,
    with: Vec<Duration>,
    /// What functions took, in processors.
    busy: Vec<f64>,
    /// By how much the 99th percentile was larger with them.
    ratios: Vec<f64>,
}

impl Taken {
    /// Measures one after the other, so that what else the machine does is in both.
    fn round(&mut self, node: &Node, until_held: Duration) {
        let without = node.measure(SECONDS);
        let functions = node.functions();
        // The main task is asked all the time.
        node.measure(until_held.as_secs_f64());
        let busy = node.busy();
        let with = node.measure(SECONDS);
        let busy = (node.busy() - busy) / SECONDS;
        self.busy.push(busy);
        drop(functions);
        node.rest();
        let share = node.device.counted("lighter_device_share", &[]);
        println!(
            "  p99 {:.2} ms without functions, {:.2} with; they took {busy:.3} processors; share {share:.3}",
            ms(percentile(&without, 99)),
            ms(percentile(&with, 99))
        );
        self.ratios.push(ms(percentile(&with, 99)) / ms(percentile(&without, 99)));
        self.without.extend(without);
        self.with.extend(with);
    }

    fn ratio(&self, percent: usize) -> f64 {
        ms(percentile(&self.with, percent)) / ms(percentile(&self.without, percent))
    }

    /// In the middle of all rounds.
    fn p99_ratio(&self) -> f64 {
        middle(&self.ratios)
    }

    fn say(&self, what: &str) {
        for percent in [50, 99] {
            println!(
                "{what}: p{percent} {:.2} ms without functions, {:.2} with: {:.2} times",
                ms(percentile(&self.without, percent)),
                ms(percentile(&self.with, percent)),
                self.ratio(percent)
            );
        }
        println!(
            "{what}: in the middle of {} rounds p99 is {:.2} times",
            self.ratios.len(),
            self.p99_ratio()
        );
    }
}

fn middle(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percentile(taken: &[Duration], percent: usize) -> Duration {
    let mut sorted = taken.to_vec();
    sorted.sort();
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

fn kept() -> Result<(), String> {
    let rounds = if full() { 9 } else { 2 };
    // What else the machine does is not what the device does. Threads and programs that begin here have the same.
    setpriority_process(None, -15).map_err(|error| format!("this suite cannot go before others: {error}"))?;
    let held = Node::start(|port| format!(", mainTask: {{inbound: {port}}}"))?;
    let free = Node::start(|_| String::new())?;
    // The first answers load what later ones have.
    held.measure(1.0);
    free.measure(1.0);
    held.measure(4.0);
    wait_until("it is known how long answers take", || {
        held.measure(1.0);
        held.device.counted("lighter_device_main_task_baseline_seconds", &[]) > 0.0
    });
    let sum = |name: &str, labels: &[(&str, &str)]| held.device.counted(name, labels);
    let changes = |change| sum("lighter_device_share_changes_total", &[("change", change)]);
    // A machine that has more to do than this in one of them is measured once more.
    for attempt in 1..=ATTEMPTS {
        let (mut with_limits, mut without) = (Taken::default(), Taken::default());
        for round in 0..rounds {
            if round < 2 {
                without.round(&free, Duration::from_secs(1));
            }
            with_limits.round(&held, Duration::from_secs(3));
        }
        without.say("without limits");
        with_limits.say("with limits");
        let baseline = sum("lighter_device_main_task_baseline_seconds", &[]) * 1e3;
        let [halved, closed, raised] = ["halved", "closed", "raised"].map(changes);
        let refused = sum("lighter_device_refusals_total", &[("cause", "reserve")]);
        println!(
            "halved {halved}, closed {closed}, raised {raised}, refused {refused}, baseline {baseline:.2} ms"
        );
        // These hold whatever else the machine does: what was too much was taken away, and what ran went on.
        assert!(halved >= 1.0 && refused >= 1.0, "{halved} {refused}");
        assert!(sum("lighter_device_rested_seconds_total", &[]) > 1.0);
        let (held, free) = (middle(&with_limits.busy), middle(&without.busy));
        assert!(held > 0.0, "functions go on");
        let takes_less = held < 0.8 * free;
        let shows_harm = without.ratio(50) >= 2.0 && without.ratio(50) >= 1.5 * with_limits.ratio(50);
        let is_kept = !full() || with_limits.p99_ratio() <= 1.1;
        if shows_harm && is_kept && takes_less {
            return Ok(());
        }
        assert!(
            attempt < ATTEMPTS,
            "harm is shown: {shows_harm}, the share is kept: {is_kept}; functions took {held} of {free} processors"
        );
    }
    Ok(())
}
