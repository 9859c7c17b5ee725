//! The commands of operators: `apply`, `get`, `delete`, `diff`, `drain`, `migrate`, `backup`, `restore`. Each asks the control plane's API.

use lighter_config::error::ConfigError;
use miette::Severity;

use crate::api::message::{Done, Files, Refused};
use crate::check::files::Shown;
use crate::exit::{self, Exit};
use crate::output;

pub mod access;
pub mod apply;
pub mod backup;
pub mod delete;
mod devices;
pub mod diff;
pub mod drain;
pub mod files;
pub mod get;
mod kind;
mod lines;
mod links;
pub mod migrate;
mod migrations;
mod sidecars;
pub mod table;
pub mod tokens;
mod trust;

pub use access::Access;

/// Says what was done with `files`, and warns of what is hardly meant.
fn tell(done: &Done, files: &Files) -> miette::Result<Exit> {
    show(&done.warnings, Severity::Warning, files);
    let tried = if done.dry_run { " (dry run)" } else { "" };
    for change in &done.changes {
        output::line(format_args!("{} {}{tried}", change.key, change.change))?;
    }
    Ok(Exit::Ok)
}

/// Says why nothing was done with `files`: each fault in its place.
fn explain(refused: &Refused, files: &Files) {
    show(&refused.errors, Severity::Error, files);
    exit::explain(&miette::miette!("{}", refused.message));
}

fn show(found: &[ConfigError], severity: Severity, files: &Files) {
    for found in found {
        let file = files.files.iter().find(|file| *file.name == *found.file);
        Shown::new(found, severity, file.map(|file| file.text.clone()).unwrap_or_default()).tell();
    }
}
