//! The sidecar as a command: `lighter proxy` and `lighter-proxy` are the same.

use std::path::PathBuf;
use std::sync::Arc;

use lighter_config::sidecar::SidecarConfig;

use crate::device::MakeHost;
use crate::dial::Here;
use crate::handover::Taken;
use crate::telemetry::logging;
use crate::worker::{self, Sockets, Start, StartError};

/// What the command line says.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The sidecar's own file
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Take the place of the sidecar that runs, if one does: it hands its sockets over once this one is ready, and drains.
    /// Both files name the same folder as `handover`
    #[arg(long)]
    pub takeover: bool,
    /// What is logged to standard error: a level, or levels by module; LIGHTER_LOG goes before it
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Log JSON instead of text
    #[arg(long)]
    pub log_json: bool,
}

/// Runs the sidecar until it has drained. Faults are written to standard error.
///
/// Returns the exit status: 0 drained (the log says what was cut at the deadline), 1 it could not start, 2 the command
/// line is faulty, 70 a fault of this program. `functions` makes what a `device` runs; without it there can be none.
pub fn execute(args: &Args, functions: Option<MakeHost>) -> u8 {
    if let Err(error) = logging::install(&args.log, args.log_json) {
        eprintln!("lighter: --log: {error}");
        return 2;
    }
    log_panics();
    let config = match SidecarConfig::read(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return 1;
        }
    };
    let taken = match args.takeover.then_some(config.handover.as_deref()) {
        None => None,
        Some(None) => {
            eprintln!("lighter: --takeover: {} names no `handover` folder", args.config.display());
            return 2;
        }
        Some(Some(folder)) => match Taken::ask(folder) {
            Ok(taken) => taken,
            Err(error) => {
                eprintln!("lighter: {error}");
                return 1;
            }
        },
    };
    // The rules of interception leave alone what carries the mark; without rules none is needed, nor the right to set it.
    let here = Here { mark: config.intercept.as_ref().map(|intercept| intercept.mark) };
    let start = Start {
        config,
        sockets: Sockets { taken, ..Sockets::default() },
        outside: Arc::new(here),
        inside: Arc::new(here),
        ready: Box::new(|| tracing::info!("ready")),
        stop: None,
        callers_gone: None,
        successor: None,
        functions,
    };
    match worker::run(start) {
        Ok(_) => 0,
        Err(error @ StartError::Died(_)) => {
            eprintln!("lighter: {error}");
            70
        }
        Err(error) => {
            eprintln!("lighter: {error}");
            1
        }
    }
}

/// Makes every panic a line of the log, with its place and its thread, whatever catches it afterwards.
fn log_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let said = panic.payload_as_str().unwrap_or("not text");
        tracing::error!(thread = thread.name().unwrap_or("?"), place, said, "panic: a fault of Lighter");
        default(panic);
    }));
}
