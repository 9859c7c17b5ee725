//! Lighter beside its peers: the same load through each of them, in turns, in one run.
//!
//! `cargo bench --bench peers` builds Lighter as it is shipped, starts it (alone, and as a pair), HAProxy, nginx and
//! Envoy with one worker each, and sends the same requests through each, round after round, so that a change of
//! the machine's mood falls on all alike. Then it does the same with a pair of each, with mTLS in between, and with
//! pairs of Lighter whose links have one wire each. It prints the medians as Markdown, and as JSON with `--json FILE`.
//!
//! What is measured is the proxy's own processor time: it is steadier than throughput, and it is what a sidecar takes
//! from the service beside it. Load generator and upstream run in this process and are not counted. Where there
//! are two processors or more the proxies have the last one to themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../../tests/support/envoy.rs"]
mod envoy;
mod epoll;
mod grpc;
mod http1;
mod measure;
mod moving;
mod options;
#[path = "../../tests/support/ports.rs"]
#[allow(dead_code)] // It has more than is needed here.
mod ports;
mod profile;
mod proxies;
mod report;
#[path = "../../tests/support/root.rs"]
#[allow(dead_code)]
mod root;
mod stream;
mod wires;

use std::time::Duration;

use measure::Sample;
use options::Options;
use proxies::{Proxy, Upstreams};
use report::Report;
use rustix::thread::CpuSet;
use wires::{Carried, Share};

/// Those who meet in one run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Each proxy by itself, in plain text.
    Plain,
    /// Two of each: the caller's and the service's. Between them both prove who they are.
    Mtls,
    /// Pairs of Lighter: one for each wire beneath a link.
    Links,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::Plain, Part::Mtls, Part::Links];

    pub fn name(self) -> &'static str {
        match self {
            Part::Plain => "plain",
            Part::Mtls => "mtls",
            Part::Links => "links",
        }
    }

    /// Those beside whom every processor time is shown, as its share of theirs.
    pub fn yardsticks(self) -> &'static [&'static str] {
        match self {
            Part::Plain | Part::Mtls => &["nginx", "haproxy"],
            Part::Links => &["lighter-link"],
        }
    }
}

/// One kind of load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// HTTP/1.1, 64 connections, answers of 128 bytes, as fast as it goes.
    Small,
    /// HTTP/1.1, 64 connections, answers of 64 KiB, as fast as it goes.
    Large,
    /// HTTP/2 on both sides, unary calls as gRPC makes them.
    Grpc,
    /// Opaque TCP from the upstream to the client, as fast as it goes. Counted per MiB.
    Tcp,
    /// HTTP/1.1, small answers, 1,000 requests a second.
    Fixed,
}

impl Scenario {
    pub const ALL: [Scenario; 5] =
        [Scenario::Small, Scenario::Large, Scenario::Grpc, Scenario::Tcp, Scenario::Fixed];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Small => "http1-small",
            Scenario::Large => "http1-64k",
            Scenario::Grpc => "http2-grpc",
            Scenario::Tcp => "tcp",
            Scenario::Fixed => "http1-1000rps",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Scenario::Small => "HTTP/1.1, 64 connections, 128-byte answers",
            Scenario::Large => "HTTP/1.1, 64 connections, 64 KiB answers",
            Scenario::Grpc => "HTTP/2, gRPC-like unary calls, 8 connections of 16 streams",
            Scenario::Tcp => "Opaque TCP, 4 connections, per MiB",
            Scenario::Fixed => "HTTP/1.1, 1,000 requests a second",
        }
    }

    /// Whether requests come at a pace of their own. Then latency is that of the proxy and not of a queue, and the best
    /// round is the one that the machine disturbed least.
    pub fn is_paced(self) -> bool {
        self == Scenario::Fixed
    }

    /// Whether the proxies of `part` are to carry it: what is opaque goes over mTLS by links only.
    pub fn is_of(self, part: Part) -> bool {
        part != Part::Mtls || self != Scenario::Tcp
    }

    /// Whether it gets through a proxy at all.
    pub fn probe(self, ports: proxies::Ports) -> bool {
        match self {
            Scenario::Small | Scenario::Large | Scenario::Fixed => http1::probe(ports.http),
            Scenario::Grpc => grpc::probe(ports.grpc),
            Scenario::Tcp => stream::probe(ports.tcp),
        }
    }

    fn load(self, proxy: &Proxy, time: Duration) -> measure::Load {
        match self {
            Scenario::Small => http1::closed_loop(proxy.ports.http, "/small", 64, time),
            Scenario::Large => http1::closed_loop(proxy.ports.http, "/large", 64, time),
            Scenario::Grpc => grpc::closed_loop(proxy.ports.grpc, 8, 16, time),
            Scenario::Tcp => stream::read(proxy.ports.tcp, 4, time),
            Scenario::Fixed => http1::fixed_rate(proxy.ports.http, "/small", 64, 1000, time * 2),
        }
    }
}

fn main() {
    let options = Options::from_args();
    measure::raise_descriptor_limit();
    // A child has its parent's affinity, so the proxies are started from where they shall run.
    let (ours, theirs) = measure::split_processors(options.pin);
    measure::run_on(&ours);
    let upstreams = Upstreams::start();
    let mut parts = serde_json::Map::new();
    let mut astray = Vec::new();
    for part in options.parts.iter().copied() {
        if options.profile {
            profile(part, &upstreams, &options, [&ours, &theirs]);
            continue;
        }
        let report = run(part, &upstreams, &options, [&ours, &theirs]);
        println!("{}", report.markdown());
        astray.extend(report.astray());
        parts.insert(part.name().into(), report.json());
    }
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&options, parts)).expect("the JSON file can be written");
    }
    // Nobody is to take for the numbers of one wire what another has carried.
    if !astray.is_empty() {
        eprintln!("Not as its row says: {}.", astray.join("; "));
        std::process::exit(1);
    }
}

/// Starts the proxies of a part, measures them in turns, and ends them.
fn run<'a>(
    part: Part,
    upstreams: &Upstreams,
    options: &'a Options,
    [ours, theirs]: [&CpuSet; 2],
) -> Report<'a> {
    measure::run_on(theirs);
    let (proxies, missing) = proxies::start_all(part, upstreams, options);
    measure::run_on(ours);

    let memory = proxies.iter().map(|proxy| measure::memory(proxy, options.idle)).collect();

    let scenarios: Vec<_> = options.scenarios_of(part).collect();
    let mut samples = vec![vec![Vec::<Sample>::new(); proxies.len()]; scenarios.len()];
    let mut shares = vec![vec![Vec::<Share>::new(); proxies.len()]; scenarios.len()];
    let mut quic_streams = [0.0; 2];
    for round in 0..options.rounds {
        for ((scenario, row), shares) in scenarios.iter().zip(&mut samples).zip(&mut shares) {
            for ((proxy, cell), shares) in proxies.iter().zip(row.iter_mut()).zip(shares) {
                proxy.wait_until_over_quic(|| {
                    assert!(scenario.probe(proxy.ports), "{} carries on", proxy.name)
                });
                warm_up(*scenario, proxy, options.time / 5);
                let streams = proxy.streams();
                let carried = Carried::until_now(proxy);
                let before = proxy.cpu();
                let load = scenario.load(proxy, options.time);
                let sample = Sample::new(load, before, proxy.cpu());
                let (part, scenario) = (part.name(), scenario.name());
                eprintln!("round {}: {part:5} {scenario:14} {:14} {sample}", round + 1, proxy.name);
                cell.push(sample);
                shares.extend(carried.and_then(|carried| carried.share_since(proxy)));
                if proxy.name == proxies::QUIC {
                    let [quic, all] = proxy.streams();
                    quic_streams[0] += quic - streams[0];
                    quic_streams[1] += all - streams[1];
                }
            }
        }
    }
    let moved = (part == Part::Links && scenarios.contains(&Scenario::Fixed)).then_some(options.changes);
    let changes = moved.filter(|times| *times > 0).and_then(|times| {
        let proxy = proxies.iter().find(|proxy| proxy.name == proxies::MOVES)?;
        warm_up(Scenario::Small, proxy, options.time / 5);
        moving::measure(proxy, times)
    });
    Report { options, part, proxies, samples, shares, changes, memory, quic_streams, missing }
}

/// Starts the proxies of a part, shows where their time goes, and ends them.
fn profile(part: Part, upstreams: &Upstreams, options: &Options, [ours, theirs]: [&CpuSet; 2]) {
    measure::run_on(theirs);
    let (proxies, _) = proxies::start_all(part, upstreams, options);
    measure::run_on(ours);
    for scenario in options.scenarios_of(part) {
        let those = proxies.iter().filter(|proxy| !proxy.is_direct());
        let found: Vec<_> =
            those.map(|proxy| (proxy.name, profile::take(scenario, proxy, options.time))).collect();
        println!("{}", profile::table(scenario, &found));
    }
}

/// Lets a proxy open its connections and fill its caches. One that hardly gets the processor is given more time, or
/// handshakes would be measured as if they were requests.
fn warm_up(scenario: Scenario, proxy: &Proxy, time: Duration) {
    let mut done = 0.0;
    for _ in 0..10 {
        done += scenario.load(proxy, time).units;
        if done >= 500.0 {
            break;
        }
    }
}
