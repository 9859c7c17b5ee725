//! `lighter backup` and `lighter restore`: every resource of the store in one file, and back.

use std::io::Write;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use miette::{Context, IntoDiagnostic, miette};
use serde_json::Value;

use super::access::{Access, Answered};
use super::{explain, tell};
use crate::api::message::{Done, Files};
use crate::exit::Exit;
use crate::output;

/// Arguments of `lighter backup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to write; one that is there is replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    access: Access,
}

/// Arguments of `lighter restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// A file that `lighter backup` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    access: Access,
}

/// Runs `lighter backup`.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let backup = match args.access.ask::<Value>(Method::GET, "/v1/backup", None::<&()>)? {
        Answered::Done(backup) => backup,
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            return Ok(Exit::Fault);
        }
    };
    let text = serde_json::to_string_pretty(&backup).into_diagnostic()?;
    write(&args.file, &text)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot write {}", args.file.display()))?;
    let count = backup["resources"].as_array().map_or(0, Vec::len);
    output::line(format_args!("{count} resources of generation {}", backup["generation"]))?;
    Ok(Exit::Ok)
}

/// Runs `lighter restore`.
pub fn restore(args: &RestoreArgs) -> miette::Result<Exit> {
    let file = args.file.display();
    let bytes = std::fs::read(&args.file).map_err(|error| miette!("{file} cannot be read: {error}"))?;
    let target = format!("/v1/restore?dryRun={}", args.dry_run);
    let backup: Value =
        serde_json::from_slice(&bytes).map_err(|error| miette!("{file} is no backup: {error}"))?;
    match args.access.ask::<Done>(Method::POST, &target, Some(&backup))? {
        Answered::Done(done) => tell(&done, &Files::default()),
        Answered::Refused(status, refused) => {
            explain(&refused, &Files::default());
            Ok(if status == StatusCode::BAD_REQUEST { Exit::Usage } else { Exit::Fault })
        }
    }
}

/// Replaces the file in one step: half a backup is none.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
