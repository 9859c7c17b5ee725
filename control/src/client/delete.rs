//! `lighter delete`: removes resources, all or none.

use http::Method;
use lighter_config::manifest::Key;
use lighter_config::name::DEFAULT_NAMESPACE;
use miette::{Severity, miette};

use super::access::{Access, Answered};
use super::{explain, files, kind, show, tell};
use crate::api::message::{Done, Keys};
use crate::exit::{self, Exit};

/// Arguments of `lighter delete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to remove, as `KIND NAME…` or `KIND/NAME…`
    #[arg(value_name = "KIND NAME", required_unless_present = "files")]
    named: Vec<String>,
    /// Remove what these files name; `-` is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE", num_args = 1.., conflicts_with = "named")]
    files: Vec<std::path::PathBuf>,
    /// The namespace of resources that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = files::name)]
    namespace: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// What is not there need not be removed
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    access: Access,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let files = files::read(&args.files)?;
    let keys = if args.files.is_empty() {
        match kind::names(&args.named) {
            Ok(names) => names.iter().map(|(kind, name)| Key::new(kind, &args.namespace, name)).collect(),
            Err(message) => {
                exit::explain(&miette!("{message}"));
                return Ok(Exit::Usage);
            }
        }
    } else {
        match files::keys(&files, &args.namespace) {
            Ok(keys) => keys,
            Err(found) => {
                show(&found.errors, Severity::Error, &files);
                return Ok(Exit::Fault);
            }
        }
    };
    let target = format!("/v1/delete?dryRun={}&ignoreMissing={}", args.dry_run, args.ignore_not_found);
    match args.access.ask::<Done>(Method::POST, &target, Some(&Keys { keys }))? {
        Answered::Done(done) => tell(&done, &files),
        Answered::Refused(_, refused) => {
            explain(&refused, &files);
            Ok(Exit::Fault)
        }
    }
}
