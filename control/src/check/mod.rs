//! `lighter check`: whether files are right, and what this machine can do.

use std::path::PathBuf;

use miette::Severity;

use crate::exit::Exit;
use crate::output;

pub mod files;
pub mod machine;
pub mod rdma;

use files::Findings;

/// Arguments of `lighter check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or folders with resources, or a sidecar's own file, `-` for standard input; without any, the machine is
    /// checked
    #[arg(short = 'f', long = "file", value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Write the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    match &*args.files {
        [] => machine(args.json),
        files => self::files(files, args.json),
    }
}

/// Errors and warnings go to standard error, so that standard output has the result alone.
fn files(files: &[PathBuf], json: bool) -> miette::Result<Exit> {
    let findings = Findings::of(files);
    if json {
        output::json(&findings.to_json())?;
    } else {
        for (severity, all) in [(Severity::Error, &findings.errors), (Severity::Warning, &findings.warnings)]
        {
            all.iter().for_each(|found| findings.show(found, severity).tell());
        }
        output::line(findings.summary())?;
    }
    Ok(if findings.errors.is_empty() { Exit::Ok } else { Exit::Fault })
}

fn machine(json: bool) -> miette::Result<Exit> {
    let findings = machine::findings();
    let ok = findings.iter().all(|finding| finding.ok || !finding.needed);
    if json {
        output::json(&serde_json::json!({"ok": ok, "machine": findings}))?;
    } else {
        findings.iter().try_for_each(output::line)?;
    }
    Ok(if ok { Exit::Ok } else { Exit::Fault })
}
