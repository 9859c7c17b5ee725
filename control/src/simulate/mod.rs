//! `lighter simulate`: tries out on simulated devices where requests run best.
//!
//! The same requests meet the same places under each policy. The one called `lighter` is the placement core that sidecars have;
//! the others are what it is compared with.

use std::path::PathBuf;
use std::time::Instant;

use lighter_config::scenario::Scenario;
use miette::miette;

use crate::exit::Exit;
use crate::output;
use active::{Active, Activity, How};
use policy::{AlwaysDevice, HostOnly, Oracle, Policy, StaticRule, TwoChoices};
use sidecars::{Log, Sidecars};
use tally::Outcome;
use trace::Trace;
use world::World;

mod active;
mod draw;
mod node;
mod policy;
mod run;
mod show;
mod sidecars;
mod tally;
mod trace;
mod world;

/// Arguments of `lighter simulate`. A flag goes before what the file says.
#[derive(Debug, clap::Args)]
#[command(after_help = COLUMNS)]
pub struct Args {
    /// What is simulated; without it, everything is as by default
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Where all chance comes from: the same seed makes the same output
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How many devices there are
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: Option<u32>,
    /// How many requests are sent
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    requests: Option<u32>,
    /// Say of so many decisions, spread over the run, why they were made
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    explain: usize,
    /// Write the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let begin = Instant::now();
    let scenario = scenario(args)?;
    let simulated = simulate(&scenario, args.explain);
    if args.json {
        output::json(&show::json(&scenario, &simulated))?;
    } else {
        output::line(show::text(&scenario, &simulated))?;
    }
    // Not with the result, which is the same each time.
    eprintln!("took {:.1} s", begin.elapsed().as_secs_f64());
    Ok(if simulated.log.differing == 0 { Exit::Ok } else { Exit::Internal })
}

fn scenario(args: &Args) -> miette::Result<Scenario> {
    let read = args.scenario.as_ref().map(|file| Scenario::read(file)).transpose();
    let mut scenario = read.map_err(|errors| miette!("{errors}"))?.unwrap_or_default();
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    scenario.devices = args.devices.unwrap_or(scenario.devices);
    scenario.requests = args.requests.unwrap_or(scenario.requests);
    match scenario.conflict() {
        Some(conflict) => Err(miette!("{conflict}")),
        None => Ok(scenario),
    }
}

/// What came out of a simulation.
struct Simulated {
    /// When the last request came.
    seconds: f64,
    /// By policy. The first is Lighter's, the last the oracle's.
    outcomes: [(&'static str, Outcome); 6],
    /// Lighter's placement, by which functions are active, where that is simulated.
    functions: Vec<(&'static str, Outcome, Activity)>,
    log: Log,
}

impl Simulated {
    fn lighter_and_oracle(&self) -> (&Outcome, &Outcome) {
        let [(_, lighter), .., (_, oracle)] = &self.outcomes;
        (lighter, oracle)
    }
}

fn simulate(scenario: &Scenario, explain: usize) -> Simulated {
    let (trace, world) = (Trace::draw(scenario), World::new(scenario));
    let by = |policy: &mut dyn Policy| run::run(&world, &trace, policy, Active::everywhere()).0.outcome();
    let mut sidecars = Sidecars::new(&world, &trace, explain);
    let outcomes = [
        ("lighter", by(&mut sidecars)),
        ("host-only", by(&mut HostOnly)),
        ("always-device", by(&mut AlwaysDevice::new(scenario))),
        ("static", by(&mut StaticRule::new(scenario))),
        ("p2c", by(&mut TwoChoices::new(scenario))),
        ("oracle", by(&mut Oracle)),
    ];
    let functions = scenario.functions.iter().flat_map(|said| {
        let (world, trace) = (&world, &trace);
        [("everywhere", How::Everywhere), ("fixed", How::Fixed), ("planned", How::Planned)].map(
            |(name, how)| {
                let active = Active::new(how, said, world, trace);
                let (tally, activity) = run::run(world, trace, &mut Sidecars::new(world, trace, 0), active);
                (name, tally.outcome(), activity)
            },
        )
    });
    let functions = functions.collect();
    let seconds = trace.calls.last().map_or(0.0, |call| call.at);
    Simulated { seconds, outcomes, functions, log: sidecars.log }
}

/// What the table says.
const COLUMNS: &str = "\
  LATE      requests that missed the objective for time
  MOVED     bytes that crossed the network
  ENERGY*   by a model, not measured
  DEVICES   requests that were sent to a device at first
  REFUSED   tries that a device did not take; FAILED: that it did not answer, or not in time. Both went on to the host
  REGRET    by how much more than the oracle's a request costs, by the objective

With `functions` in the scenario, the same requests once more, placed by lighter, some of which ask devices themselves:
  ACTIVE       which functions: all everywhere; fixed, as many on each device as fit, the most popular first; or planned
  HELD         requests that a device held until their function was active there
  IN VAIN      requests that asked a device itself and went to their host: held for too long, or where nothing changes
  ACTIVATIONS  how often a function became active on a device
  AT ZERO      how much of the time a function was active nowhere
  MEMORY       what functions took of all devices, the mean over time; MOST: at most

Policies: lighter is the placement that sidecars have; host-only and always-device say it all; static runs on a device what
reads much; p2c takes of two places the one with fewer requests; oracle knows how long each place will take.
All load is synthetic. The numbers compare policies with each other, and say nothing of any device that can be bought.";
