//! `lighter diff`: what `lighter apply` would change.

use serde_json::Value;

use super::access::{Access, Answered};
use super::apply::{Set, push};
use super::{explain, files, lines};
use crate::api::message::{Changed, Done};
use crate::exit::{self, Exit};
use crate::output;

/// Arguments of `lighter diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 no difference; 1 some; 2 it could not be found out.")]
pub struct Args {
    #[command(flatten)]
    files: files::Paths,
    #[command(flatten)]
    set: Set,
    #[command(flatten)]
    access: Access,
}

/// Runs the command. Nothing that goes wrong ends it as if there were a difference.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    compare(args).or_else(|report| {
        exit::explain(&report);
        Ok(Exit::Usage)
    })
}

fn compare(args: &Args) -> miette::Result<Exit> {
    let files = files::read(&args.files.paths)?;
    match push(&args.access, &files, &args.files.namespace, &args.set, true)? {
        Answered::Done(done) => show(&done),
        Answered::Refused(_, refused) => {
            explain(&refused, &files);
            Ok(Exit::Usage)
        }
    }
}

fn show(done: &Done) -> miette::Result<Exit> {
    let mut exit = Exit::Ok;
    for change in &done.changes {
        let lines = difference(change)?;
        if !lines.is_empty() {
            exit = Exit::Fault;
            output::line(lines.trim_end())?;
        }
    }
    Ok(exit)
}

fn difference(change: &Changed) -> miette::Result<String> {
    let (before, after) = (yaml(change.before.as_ref())?, yaml(change.after.as_ref())?);
    let lines = lines::unified(&before, &after);
    if lines.is_empty() {
        return Ok(lines);
    }
    Ok(format!("--- {key} (stored)\n+++ {key} (files)\n{lines}", key = change.key))
}

fn yaml(document: Option<&Value>) -> miette::Result<String> {
    document.map_or(Ok(String::new()), super::get::yaml)
}
