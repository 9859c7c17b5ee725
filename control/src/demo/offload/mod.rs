//! The demo's last steps: data behind a thin link, and a device beside them. They have network namespaces of their own and are
//! done by a process of their own, which moves between these and says in the end what it saw.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::LocalSet;

use super::child::end_with_parent;
use super::progress::Progress;
use super::report::{Evidence, Report, Step};
use super::{Args as Demo, say};
use crate::exit::Exit;
use crate::output;

mod bed;
mod link;
mod steps;

/// The steps' names, in order.
pub const NAMES: [&str; 2] = ["offload", "offload-return"];

/// The hidden command that does them.
pub const OFFLOAD: &str = "__offload";

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Requests in the measured phase of the device
    #[arg(long)]
    requests: u64,
    /// Between two requests of a caller, in milliseconds
    #[arg(long)]
    pause: u64,
    /// Longest time for each phase, in seconds
    #[arg(long)]
    duration: u64,
    /// Where files and logs go
    #[arg(long)]
    folder: PathBuf,
}

/// Does the steps in a process of their own, which ends with this one. Files and logs go to `folder`.
pub async fn execute(demo: &Demo, folder: &Path, progress: &Progress) -> Vec<Step> {
    progress.now(NAMES.join(" and "));
    match told(demo, folder).await {
        Ok(report) => report.steps,
        Err(failure) => {
            let [first, second] = NAMES;
            let failed = Step::done(first, Evidence::default(), Err(failure));
            vec![failed, Step::skipped(second, "what it needs did not start")]
        }
    }
}

async fn told(demo: &Demo, folder: &Path) -> Result<Report, String> {
    let mut command = Command::new(std::env::current_exe().map_err(say("this program"))?);
    command
        .args([OFFLOAD, "--requests", &demo.requests.to_string(), "--pause", &demo.pause.to_string()])
        .args(["--duration", &demo.duration.to_string(), "--folder"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    end_with_parent(command.as_std_mut());
    let output = command.output().await.map_err(say("a process of its own"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("the process for it ended with {}: {}", output.status, said.trim())
    })
}

/// Runs the hidden command.
pub fn command(args: &Args) -> miette::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| miette::miette!("cannot start: {error}"))?;
    let (pause, limit) = (Duration::from_millis(args.pause), Duration::from_secs(args.duration));
    // Its children are asked to end when this very thread ends, and its namespaces are the thread's.
    let steps = LocalSet::new().block_on(&runtime, steps::execute(&args.folder, args.requests, pause, limit));
    output::json(&Report::new(steps))?;
    Ok(Exit::Ok)
}
