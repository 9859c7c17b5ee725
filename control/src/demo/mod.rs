//! `lighter demo`: the whole story on one machine. Unchanged services in network namespaces of their own, with
//! sidecars beside them, carry real traffic while something is done to them, and each step proves itself.

use std::time::Duration;

use miette::miette;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

use crate::check::{machine, rdma};
use crate::exit::Exit;
use crate::output;

mod child;
mod client;
mod command;
mod instance;
mod load;
pub mod offload;
mod plane;
mod ports;
mod processes;
mod progress;
mod rdma_vm;
mod report;
mod resources;
mod rings;
mod runner;
mod samples;
pub mod serve;
mod steps;
mod table;
mod vm;
mod world;

use progress::Progress;
use report::{Evidence, Report, Step};
use resources::Split;
use steps::Stage;
use world::World;

/// The hidden command that runs one of the services.
pub const SERVE: &str = "__serve";

/// Arguments of `lighter demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the result as one JSON object on standard output
    #[arg(long)]
    json: bool,
    /// End with status 2 if a step was skipped
    #[arg(long)]
    strict: bool,
    /// Leave everything running after the last step, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Do all of it in a virtual machine that has RDMA in software: needs qemu, or Debian's archive to take it from
    #[arg(long, conflicts_with = "keep")]
    rdma_vm: bool,
    /// Requests in each measured phase
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    requests: u64,
    /// Between two requests of a caller, in milliseconds: so that the demo leaves the machine some air
    #[arg(long, hide = true, default_value_t = 2)]
    pause: u64,
    /// Longest time for each phase, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| miette!("cannot start: {error}"))?;
    let rdma = rdma::found();
    // The children are asked to end when this very thread ends, so everything is done on it.
    LocalSet::new().block_on(&runtime, demo(args, rdma))
}

/// Between two looks at something that is to change.
const POLL: Duration = Duration::from_millis(20);

/// Says of an error what it is about.
fn say(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// What the sidecars run by at first.
const FIRST_SPLIT: Split = Split { v1: 100, v2: 0 };

/// `rdma`: what there is of devices.
async fn demo(args: &Args, rdma: Option<Result<(), String>>) -> miette::Result<Exit> {
    let progress = Progress::new(args.json);
    let mut interrupt = Interrupt::new().map_err(|error| miette!("cannot watch signals: {error}"))?;
    if args.rdma_vm {
        return rdma_vm::execute(args, progress, interrupt).await;
    }
    if let Err(reason) = machine::isolation() {
        let names = steps::NAMES.into_iter().chain(offload::NAMES);
        let steps = names.map(|name| Step::skipped(name, &reason)).collect();
        return end(args, &progress, Report::new(steps));
    }
    let mut world = World::new().map_err(|error| miette!("cannot prepare: {error}"))?;
    let steps = tokio::select! {
        steps = steps(args, rdma, &progress, &mut world) => steps,
        status = interrupt.arrives() => {
            drop(progress);
            world.stop(false).await;
            return Ok(status);
        }
    };
    let report = Report::new(steps);
    if !args.json {
        progress.done(format!("\n{}", routes(&world).await));
    }
    if report.ok && args.keep {
        progress.done(how_to_look(&world));
        progress.now("everything runs; Ctrl-C ends it");
        interrupt.arrives().await;
    }
    progress.now("ending everything");
    let logs = (!report.ok).then(|| world.folder().to_owned());
    world.stop(logs.is_some()).await;
    if let Some(logs) = logs {
        progress.say(format!("The logs are in {}", logs.display()));
    }
    end(args, &progress, report)
}

/// Starts everything and does every step. Where a step fails the others are still tried.
async fn steps(
    args: &Args,
    rdma: Option<Result<(), String>>,
    progress: &Progress,
    world: &mut World,
) -> Vec<Step> {
    progress.now("starting five services, each in a network namespace of its own");
    if let Err(failure) = world.start(FIRST_SPLIT).await {
        let [first, rest @ ..] = steps::NAMES;
        let mut steps = vec![Step::done(first, Evidence::default(), Err(failure))];
        let rest = rest.into_iter().chain(offload::NAMES);
        steps.extend(rest.map(|name| Step::skipped(name, "the services did not start")));
        steps.iter().for_each(|step| progress.done(step));
        return steps;
    }
    let limit = Duration::from_secs(args.duration);
    let pause = Duration::from_millis(args.pause);
    let mut stage = Stage { world, requests: args.requests, pause, limit };
    let mut done = Vec::new();
    let rdma = rdma.map(|usable| (steps::RDMA, usable));
    for (name, possible) in steps::NAMES.map(|name| (name, Ok(()))).into_iter().chain(rdma) {
        progress.now(name);
        let step = match possible {
            Ok(()) => {
                let mut evidence = Evidence::default();
                let result = steps::execute(name, &mut stage, &mut evidence).await;
                Step::done(name, evidence, result)
            }
            Err(reason) => Step::skipped(name, &reason),
        };
        progress.done(&step);
        done.push(step);
    }
    for step in offload::execute(args, world.folder(), progress).await {
        progress.done(&step);
        done.push(step);
    }
    done
}

/// Says the result.
fn end(args: &Args, progress: &Progress, report: Report) -> miette::Result<Exit> {
    progress.clear();
    if args.json {
        output::json(&report)?;
    } else {
        output::line(report.summary())?;
    }
    Ok(match report.ok {
        false => Exit::Fault,
        true if args.strict && report.any_skipped() => Exit::Usage,
        true => Exit::Ok,
    })
}

/// The per-route metrics of every sidecar that answers.
async fn routes(world: &World) -> String {
    let mut sidecars = Vec::new();
    for instance in &world.instances {
        if let Ok(samples) = instance.samples().await {
            sidecars.push((instance.name.to_owned(), samples));
        }
    }
    table::routes(&sidecars)
}

fn how_to_look(world: &World) -> String {
    let mut text = String::from("How to look:\n");
    for instance in &world.instances {
        let (name, admin) = (instance.name, instance.admin);
        if name == "web" {
            text += &format!("  a page              curl http://{}/\n", instance.inbound);
        }
        text +=
            &format!("  {name:<19} curl http://{admin}/metrics    also /config_dump /clusters /intercept\n");
    }
    text += &format!("  move the traffic    {}\n", world.how_to_move());
    text
}

/// The signals that end the demo.
struct Interrupt([Signal; 3]);

impl Interrupt {
    fn new() -> std::io::Result<Self> {
        Ok(Interrupt([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one of them, and says how to end because of it: as a shell would say it.
    async fn arrives(&mut self) -> Exit {
        let [interrupt, terminate, hangup] = &mut self.0;
        let number = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = hangup.recv() => SignalKind::hangup().as_raw_value(),
        };
        Exit::Status(128 + number as u8)
    }
}
