//! `lighter proxy`: the sidecar alone, in the network namespace in which it is started.

use std::path::PathBuf;
use std::sync::Arc;

use lighter_config::sidecar::SidecarConfig;
use lighter_proxy::dial::Here;
use lighter_proxy::telemetry::logging;
use lighter_proxy::worker::{self, Sockets, Start};
use miette::{IntoDiagnostic, Severity};

use crate::check::files::Shown;
use crate::exit::Exit;

/// Arguments of `lighter proxy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sidecar's own file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command until the sidecar has drained.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let config = match SidecarConfig::read(&args.config) {
        Ok(config) => config,
        Err(faults) => {
            faults.errors.iter().for_each(|fault| Shown::new(fault, Severity::Error).tell());
            return Ok(Exit::Fault);
        }
    };
    logging::install("info", false).into_diagnostic()?;
    let dial = Arc::new(Here { mark: config.intercept.as_ref().map(|intercept| intercept.mark) });
    let start = Start {
        config,
        sockets: Sockets::default(),
        outside: dial.clone(),
        inside: dial,
        ready: Box::new(|| tracing::info!("ready")),
        stop: None,
    };
    worker::run(start).into_diagnostic()?;
    Ok(Exit::Ok)
}
