//! The `lighter` command. What it can do is in `cli`; each command is a module.

// A binary exports nothing: here `pub` means to the rest of the crate.
#![allow(unreachable_pub)]

use std::process::ExitCode;

use clap::Parser;

mod api;
mod ask;
mod ca;
mod check;
mod cli;
mod client;
mod completions;
mod components;
mod demo;
mod exit;
mod explain;
mod functions;
mod index;
mod inject;
mod metrics;
mod migrate;
mod native;
mod output;
mod plan;
mod probes;
mod proxy;
#[cfg(test)]
mod readme;
mod registry;
mod run;
mod schema;
mod scrape;
mod serve;
mod simulate;
mod state;
mod store;
mod tap;
mod top;
mod version;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    exit::prepare();
    match std::panic::catch_unwind(|| cli.command.execute()) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(report)) => exit::explain(&report).into(),
        // The panic has said on standard error what it was.
        Err(_) => exit::Exit::Internal.into(),
    }
}
