//! The control plane of a big mesh: what it takes, and how long a change is on its way.
//!
//! `cargo bench --bench control` starts `lighter control` with thousands of Services and connects simulated sidecars to it.
//! Each is a stream over TLS that is driven by the client of a real sidecar ([`Client`]) and decodes everything it is
//! told. Prints a table as Markdown, for the README. `LIGHTER_SERVICES` and `LIGHTER_SIDECARS` say other numbers, `LIGHTER`
//! another binary.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../../tests/control/rpc.rs"]
#[allow(dead_code)] // It has more than is needed here.
mod rpc;
mod sidecar;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lighter_config::xds::Kind;
use tempfile::TempDir;

use rpc::Identity;
use sidecar::Event;
use support::process::{Program, cpu, free_address};
use support::sidecar::{LIGHTER, service};

/// Services that each sidecar calls, beside the one that all call.
const CALLED: usize = 10;

/// Sidecars that call a service which is not everybody's.
const FEW: usize = 2;

/// Changes that are measured.
const CHANGES: usize = 20;

/// How long nothing happens, to measure what that takes.
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    let (services, sidecars) = (number("LIGHTER_SERVICES", 5000), number("LIGHTER_SIDECARS", 200));
    assert!(services % CALLED == 0 && services > CALLED, "some tens of services");
    support::process::raise_descriptor_limit();
    let world = World::new(services);
    let started = Instant::now();
    let plane = world.start();
    let started = started.elapsed();
    let alone = plane.resident();

    let (events, heard) = mpsc::channel();
    let identity = Identity::of("default/simulated", &world.folder.path().join("state"));
    let (joining, before) = (Instant::now(), cpu(plane.pid()));
    for number in 0..sidecars {
        // Two neighbours have the services of their own in common. Those of the first two are nobody else's, however few there
        // are.
        let first = match number / FEW {
            0 => 0,
            pair => CALLED + (pair - 1) * CALLED % (services - CALLED),
        };
        let own = (first..first + CALLED).map(name);
        let calls: Vec<String> = own.chain(["everybody".to_owned()]).collect();
        sidecar::start(number, world.ads, &identity, &calls, events.clone());
    }
    wait(&heard, sidecars, |event| matches!(event, Event::Settled));
    let (joined, joining_cpu) = (joining.elapsed(), cpu(plane.pid()) - before);
    let with_sidecars = plane.resident();

    let before = cpu(plane.pid());
    std::thread::sleep(IDLE);
    let idle = cpu(plane.pid()) - before;
    assert!(heard.try_recv().is_err(), "something was pushed while nothing changed");

    let change = |service: &str, holders: usize| {
        let (mut times, before) = (Vec::new(), cpu(plane.pid()));
        for port in 0..CHANGES {
            let began = Instant::now();
            world.apply(&of(service, 1000 + port));
            times.push(
                wait(&heard, holders, |event| matches!(event, Event::Accepted(Kind::Endpoints))) - began,
            );
        }
        assert!(heard.try_recv().is_err(), "somebody was told who does not call {service}");
        times.sort();
        (times[CHANGES / 2], times[CHANGES - 1], (cpu(plane.pid()) - before) / CHANGES as u32)
    };
    let all = change("everybody", sidecars);
    let few = change(&name(0), FEW);

    let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    println!("| a control plane with {services} services and {sidecars} sidecars | |\n|---|--:|");
    let row = |what: &str, is: String| println!("| {what} | {is} |");
    row("from its start until it is ready", millis(started));
    row("resident memory without sidecars", mib(alone));
    row("resident memory with them", mib(with_sidecars));
    row("until all of them, coming at once, have all that they call", millis(joined));
    row("processor time for that", millis(joining_cpu));
    row("processor time in a second without a change", millis(idle / IDLE.as_secs() as u32));
    for (who, (median, worst, taken)) in [(sidecars, all), (FEW, few)] {
        let time = format!("{}, at worst {}", millis(median), millis(worst));
        row(&format!("from `lighter apply` of an endpoint to the last of {who} ACKs, median"), time);
        row(&format!("processor time for a change that {who} hold"), millis(taken));
    }
}

/// The control plane's files, and where it is reached.
struct World {
    folder: TempDir,
    ads: SocketAddr,
    api: SocketAddr,
}

impl World {
    fn new(services: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ads, api) = (free_address(), free_address());
        let mesh: Vec<String> = (0..services).map(|number| of(&name(number), 80)).collect();
        // As in the store, so that what is changed there was read from nowhere else.
        fs::write(folder.path().join("mesh.yaml"), mesh[1..].join("---\n")).unwrap();
        let own = format!("ads: {ads}\napi: {api}\nstate: state\nresources: [mesh.yaml]\n");
        fs::write(folder.path().join("control.yaml"), own).unwrap();
        let world = World { folder, ads, api };
        let plane = world.start();
        world.apply(&[of("everybody", 80), of(&name(0), 80)].join("---\n"));
        plane.signal(rustix::process::Signal::TERM);
        drop(plane);
        world
    }

    fn start(&self) -> Program {
        let mut command = Command::new(lighter());
        command.args(["control", "--config"]).arg(self.folder.path().join("control.yaml"));
        let mut plane = Program::start(command, self.folder.path()).gentle();
        plane.wait_until_it_says(" ready ");
        plane
    }

    fn apply(&self, resources: &str) {
        let at = |name: &str| self.folder.path().join(name);
        fs::write(at("pushed.yaml"), resources).unwrap();
        let mut command = Command::new(lighter());
        command.args(["apply", "--server", &format!("https://{}", self.api), "-f"]).arg(at("pushed.yaml"));
        command.arg("--token-file").arg(at("state/operator-token")).arg("--ca-file").arg(at("state/api.pem"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Waits for so many events that count; gives when the last of them was.
fn wait(heard: &mpsc::Receiver<(Instant, Event)>, count: usize, counts: impl Fn(&Event) -> bool) -> Instant {
    let mut last = Instant::now();
    let mut left = count;
    while left > 0 {
        let (at, event) = heard.recv_timeout(Duration::from_secs(120)).expect("every sidecar hears of it");
        if counts(&event) {
            left -= 1;
            last = at;
        }
    }
    last
}

/// A Service with one endpoint, which nobody calls.
fn of(name: &str, port: usize) -> String {
    service(name, "http", &[SocketAddr::from(([10, 0, 0, 1], port as u16))])
}

fn name(number: usize) -> String {
    format!("service-{number}")
}

fn lighter() -> OsString {
    std::env::var_os("LIGHTER").unwrap_or_else(|| LIGHTER.into())
}

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}
