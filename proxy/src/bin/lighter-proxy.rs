//! `lighter-proxy`: the sidecar alone, for container images.

use std::process::ExitCode;

use clap::Parser;

/// The Lighter sidecar: it comes alongside an unchanged service and carries its traffic.
#[derive(Parser)]
#[command(name = "lighter-proxy", version)]
struct Cli {
    #[command(flatten)]
    args: lighter_proxy::command::Args,
}

fn main() -> ExitCode {
    ExitCode::from(lighter_proxy::command::execute(&Cli::parse().args, None))
}
