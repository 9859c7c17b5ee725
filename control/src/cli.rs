//! The command line: what can be asked of `lighter`.

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::{
    ca, check, client, completions, demo, explain, inject, proxy, run, schema, serve, simulate, tap, top,
    version,
};

/// Lighter, a service mesh: a sidecar comes alongside an unchanged service and carries its traffic.
#[derive(Debug, Parser)]
#[command(name = "lighter", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole story on this machine
    Demo(demo::Args),
    /// Run an unchanged program with a sidecar beside it
    Run(Box<run::Args>),
    /// Run a sidecar alone, in this network namespace
    Proxy(proxy::Args),
    /// Run the control plane
    Control(serve::Args),
    /// Push resources to the control plane: they are to be as files say
    Apply(client::apply::Args),
    /// Show resources of the control plane
    Get(client::get::Args),
    /// Remove resources from the control plane
    Delete(client::delete::Args),
    /// Show what `apply` would change
    Diff(client::diff::Args),
    /// Have a sidecar finish what it carries, and end
    Drain(client::drain::Args),
    /// Move a service from one instance to another, so that no request notices
    Migrate(client::migrate::Args),
    /// Show requests of a sidecar as they end
    Tap(tap::Args),
    /// Say why a sidecar sent requests to a device or to the host
    Explain(explain::Args),
    /// Show what a sidecar does right now, route by route
    Top(top::Args),
    /// Try out on simulated devices where requests run best
    Simulate(simulate::Args),
    /// Put a sidecar into the pods of Kubernetes manifests
    Inject(inject::command::Args),
    /// Take the sidecars out again
    Uninject(inject::command::UninjectArgs),
    /// Copy every resource of the control plane into one file
    Backup(client::backup::Args),
    /// Put every resource back as `backup` found it
    Restore(client::backup::RestoreArgs),
    /// The certificate authority of a control plane on this machine
    Ca(ca::command::Args),
    /// Check files, or what this machine can do
    Check(check::Args),
    /// Write the JSON schema of a kind of resource
    Schema(schema::Args),
    /// Say what this binary is
    Version(version::Args),
    /// Write a completion script for a shell
    Completions(completions::Args),
    /// One of the demo's plain servers
    #[command(name = demo::SERVE, hide = true)]
    Serve(demo::serve::Args),
    /// The demo's steps that have a link of their own
    #[command(name = demo::offload::OFFLOAD, hide = true)]
    Offload(demo::offload::Args),
    /// What `check` tries in a process of its own
    #[command(name = check::machine::TRY_OUT, hide = true)]
    TryOut,
}

impl Command {
    /// Does what was asked.
    pub fn execute(self) -> miette::Result<Exit> {
        match self {
            Command::Demo(args) => demo::execute(&args),
            Command::Run(args) => run::execute(*args),
            Command::Proxy(args) => Ok(proxy::execute(&args)),
            Command::Control(args) => serve::execute(&args),
            Command::Apply(args) => client::apply::execute(&args),
            Command::Get(args) => client::get::execute(&args),
            Command::Delete(args) => client::delete::execute(&args),
            Command::Diff(args) => client::diff::execute(&args),
            Command::Drain(args) => client::drain::execute(&args),
            Command::Migrate(args) => client::migrate::execute(&args),
            Command::Tap(args) => tap::execute(&args),
            Command::Explain(args) => explain::execute(&args),
            Command::Top(args) => top::execute(&args),
            Command::Simulate(args) => simulate::execute(&args),
            Command::Inject(args) => inject::command::execute(&args),
            Command::Uninject(args) => inject::command::uninject(&args),
            Command::Backup(args) => client::backup::execute(&args),
            Command::Restore(args) => client::backup::restore(&args),
            Command::Ca(args) => ca::command::execute(args),
            Command::Check(args) => check::execute(&args),
            Command::Schema(args) => schema::execute(&args),
            Command::Version(args) => version::execute(&args),
            Command::Completions(args) => completions::execute(&args),
            Command::Serve(args) => demo::serve::execute(args),
            Command::Offload(args) => demo::offload::command(&args),
            Command::TryOut => check::machine::try_out(),
        }
    }
}

const EXIT_CODES: &str = "\
Exit status: 0 done, nothing wrong; 1 something is at fault or differs; 2 the command line was not
understood; 70 a fault of Lighter itself. `run` ends with the status of its program.";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
