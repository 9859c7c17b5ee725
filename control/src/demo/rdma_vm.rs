//! The demo in a virtual machine that has an RDMA device in software, for hosts that have none. This program runs in it
//! as it is, and what it finds there is the result.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use miette::miette;

use super::progress::Progress;
use super::report::{Evidence, Report, Step};
use super::vm::{self, Ended, How, Packages, Story};
use super::{Args, Interrupt, end, steps};
use crate::exit::Exit;

/// Runs all of it, until it ends or is interrupted.
pub async fn execute(args: &Args, progress: Progress, mut interrupt: Interrupt) -> miette::Result<Exit> {
    progress.now("fetching a kernel and what it needs from Debian's archive, where they are not here yet");
    let packages = match tokio::task::spawn_blocking(|| Packages::ready(&cache())).await {
        Ok(Ok(packages)) => packages,
        Ok(Err(reason)) => {
            return end(args, &progress, Report::new(vec![Step::skipped(steps::RDMA, &reason)]));
        }
        Err(error) => return Err(miette!("cannot prepare: {error}")),
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let machine = {
        let (script, is_over) = (script(args), is_over.clone());
        let mut heard = 0;
        tokio::task::spawn_blocking(move || {
            let own = std::env::current_exe()?;
            let programs = [("lighter", own.as_path())];
            let story = Story { script: &script, programs: &programs, limit: LIMIT };
            vm::boot(&packages, &story, |said| {
                // Only whole lines. What was not said before may have been said since.
                let whole = said.rfind('\n').map_or(0, |end| end + 1);
                for line in said.get(heard..whole).unwrap_or_default().lines() {
                    eprintln!("vm: {}", line.trim_end());
                }
                heard = whole;
                !is_over.load(Ordering::Relaxed)
            })
        })
    };
    progress.now("the demo runs in a virtual machine");
    tokio::pin!(machine);
    let ended = tokio::select! {
        ended = &mut machine => ended,
        status = interrupt.arrives() => {
            is_over.store(true, Ordering::Relaxed);
            // It looks often.
            let _ = machine.await;
            return Ok(status);
        }
    };
    let ended = ended.map_err(|error| miette!("the machine's thread: {error}"))?;
    let report = report(&ended.map_err(|error| miette!("cannot start a virtual machine: {error}"))?);
    for step in &report.steps {
        progress.done(step);
    }
    end(args, &progress, report)
}

/// What the machine told of it. What it did not tell whole has failed.
fn report(ended: &Ended) -> Report {
    let told = serde_json::from_str::<Report>(&ended.told);
    match (told, &ended.how) {
        (Ok(report), How::Said(_)) => report,
        (_, how) => {
            let lines: Vec<_> = ended.said.lines().rev().take(8).collect();
            let last = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
            let failure = format!("the virtual machine ended as {how:?}; it said: {last}");
            Report::new(vec![Step::done(steps::RDMA, Evidence::default(), Err(failure))])
        }
    }
}

/// One device, over the loopback, where the demo's links are. What it says goes through a pipe: there is no terminal. It takes no
/// time to wait in there, but much to make requests.
fn script(args: &Args) -> String {
    format!(
        "/bin/rdma link add rxe0 type rxe netdev lo || end 13
         set -o pipefail
         lighter demo --json --requests {} --pause 100 --duration {} 2>&1 >/dev/ttyS1 | $BUSYBOX cat
         end $?\n",
        args.requests, args.duration
    )
}

/// Where packages are kept from run to run.
fn cache() -> PathBuf {
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    caches.or_else(home).unwrap_or_else(std::env::temp_dir).join("lighter/vm")
}

/// A processor in software is slow, but not so slow.
const LIMIT: Duration = Duration::from_secs(1800);
