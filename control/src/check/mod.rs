//! `lighter check`: whether files are right, and what this machine can do.

use std::path::PathBuf;

use crate::exit::Exit;
use crate::output;

pub mod machine;

/// Arguments of `lighter check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or folders with resources, or a sidecar's own file; without any, the machine is checked
    #[arg(short = 'f', long = "file", value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Write the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    machine_check(args.json)
}

fn machine_check(json: bool) -> miette::Result<Exit> {
    let findings = machine::findings();
    let ok = findings.iter().all(|finding| finding.ok);
    if json {
        output::json(&serde_json::json!({"ok": ok, "machine": findings}))?;
    } else {
        findings.iter().try_for_each(output::line)?;
    }
    Ok(if ok { Exit::Ok } else { Exit::Fault })
}
