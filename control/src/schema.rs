//! `lighter schema`: the JSON schema of everything that can be written in a file.

use lighter_config::schema;
use miette::miette;

use crate::exit::{self, Exit};
use crate::output;

/// Arguments of `lighter schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which kind; without it, the kinds are listed
    kind: Option<String>,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let Some(asked) = &args.kind else {
        schema::kinds().try_for_each(output::line)?;
        return Ok(Exit::Ok);
    };
    let kind = schema::kinds().find(|kind| kind.eq_ignore_ascii_case(asked));
    match kind.and_then(schema::of) {
        Some(schema) => {
            output::json(&schema)?;
            Ok(Exit::Ok)
        }
        None => {
            let kinds = schema::kinds().collect::<Vec<_>>().join(", ");
            exit::explain(&miette!(help = format!("known kinds: {kinds}"), "unknown kind `{asked}`"));
            Ok(Exit::Usage)
        }
    }
}
