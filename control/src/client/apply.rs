//! `lighter apply`: the resources of files are to be as they are written there.

use http::Method;

use super::access::{Access, Answered};
use super::{explain, files, tell};
use crate::api::DEFAULT_SET;
use crate::api::message::{Done, Files};
use crate::exit::Exit;

/// Arguments of `lighter apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: files::Paths,
    #[command(flatten)]
    set: Set,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    access: Access,
}

/// What belongs together, and what is removed with it.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// Also remove what earlier pushes of the same set had and these files have not
    #[arg(long)]
    prune: bool,
    /// The name of the set to which these resources belong, so that --prune knows what is no longer in it
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SET, value_parser = files::name)]
    set: String,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let files = files::read(&args.files.paths)?;
    match push(&args.access, &files, &args.files.namespace, &args.set, args.dry_run)? {
        Answered::Done(done) => tell(&done, &files),
        Answered::Refused(_, refused) => {
            explain(&refused, &files);
            Ok(Exit::Fault)
        }
    }
}

/// Pushes files, or asks what that would do.
pub(super) fn push(
    access: &Access,
    files: &Files,
    namespace: &str,
    Set { prune, set }: &Set,
    dry_run: bool,
) -> miette::Result<Answered<Done>> {
    let target = format!("/v1/apply?dryRun={dry_run}&prune={prune}&set={set}&namespace={namespace}");
    access.ask(Method::POST, &target, Some(files))
}
