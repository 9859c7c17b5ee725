//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Part, Scenario};

const USAGE: &str = "\
cargo bench --bench peers -- [OPTIONS]
  --rounds N        rounds, each through every proxy (default 5)
  --seconds S       time of one measurement (default 2)
  --changes N       changes of a link's wire about which requests count (default 5)
  --idle N          idle connections for the memory per connection (default 5000)
  --parts A,B       only these: plain mtls links
  --only A,B        only these: direct lighter lighter-pair lighter-link lighter-shm
                    lighter-quic haproxy nginx envoy
  --scenarios A,B   only these: http1-small http1-64k http2-grpc tcp http1-1000rps
  --json FILE       writes every number to FILE as well
  --profile         shows where the time of each goes instead: system calls (needs strace) and functions (needs perf)
  --no-pin          does not keep load and proxies on processors of their own
Environment: LIGHTER, HAPROXY, NGINX, ENVOY name other binaries.";

/// The command line, read.
pub struct Options {
    pub rounds: usize,
    pub time: Duration,
    pub changes: u32,
    pub idle: usize,
    pub parts: Vec<Part>,
    pub only: Option<Vec<String>>,
    scenarios: Vec<Scenario>,
    pub json: Option<PathBuf>,
    pub pin: bool,
    pub profile: bool,
}

impl Options {
    /// Reads the arguments; ends the process with the usage where they make no sense.
    pub fn from_args() -> Self {
        let mut options = Options {
            rounds: 5,
            time: Duration::from_secs(2),
            changes: 5,
            idle: 5000,
            parts: Part::ALL.to_vec(),
            only: None,
            scenarios: Scenario::ALL.to_vec(),
            json: None,
            pin: true,
            profile: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| usage(&format!("{arg} needs a value")));
            match arg.as_str() {
                "--rounds" => options.rounds = number(&value()).max(1.0) as usize,
                "--seconds" => options.time = Duration::from_secs_f64(number(&value()).max(0.1)),
                "--changes" => options.changes = number(&value()) as u32,
                "--idle" => options.idle = number(&value()) as usize,
                "--parts" => options.parts = value().split(',').map(part).collect(),
                "--only" => options.only = Some(value().split(',').map(str::to_owned).collect()),
                "--scenarios" => options.scenarios = value().split(',').map(scenario).collect(),
                "--json" => options.json = Some(value().into()),
                "--profile" => options.profile = true,
                "--no-pin" => options.pin = false,
                // Cargo itself passes this to every benchmark.
                "--bench" => {}
                other => usage(&format!("unknown argument {other}")),
            }
        }
        options
    }

    /// The loads of a part.
    pub fn scenarios_of(&self, part: Part) -> impl Iterator<Item = Scenario> {
        self.scenarios.iter().copied().filter(move |scenario| scenario.is_of(part))
    }

    /// Whether a proxy of this name takes part.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|one| one == name))
    }
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| usage(&format!("{text} is not a number")))
}

fn part(name: &str) -> Part {
    let found = Part::ALL.into_iter().find(|part| part.name() == name);
    found.unwrap_or_else(|| usage(&format!("no part is called {name}")))
}

fn scenario(name: &str) -> Scenario {
    let found = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
    found.unwrap_or_else(|| usage(&format!("no scenario is called {name}")))
}

fn usage(problem: &str) -> ! {
    eprintln!("{problem}\n{USAGE}");
    std::process::exit(2)
}
