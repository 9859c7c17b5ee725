//! A `lighter run` process of the demo, or another of this binary, and all that it started: a process group with a log. It
//! ends with this process, however that ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::child::end_with_parent;
use super::{POLL, say};

/// See above.
pub struct Runner {
    name: &'static str,
    child: Child,
    pid: Pid,
    log: PathBuf,
    /// Where in the log this run begins.
    log_start: usize,
}

/// Longest time until something that was started serves.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Longest time for something to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

impl Runner {
    /// Starts `lighter run` with `options`, and with this binary and `program` as what it runs. What they say goes to
    /// the end of `log`.
    pub fn start(
        name: &'static str,
        log: &Path,
        options: &[String],
        program: &[String],
    ) -> Result<Self, String> {
        let lighter = std::env::current_exe().map_err(say("this program"))?.display().to_string();
        let between = ["--".to_owned(), lighter];
        Self::spawn(name, log, &[&["run".to_owned()], options, &between, program].concat())
    }

    /// Starts this binary with `arguments`. What it says goes to the end of `log`.
    pub fn spawn(name: &'static str, log: &Path, arguments: &[String]) -> Result<Self, String> {
        let log_start = std::fs::metadata(log).map_or(0, |log| log.len() as usize);
        let output = File::options().create(true).append(true).open(log).map_err(say("a log"))?;
        let errors = output.try_clone().map_err(say("a log"))?;
        let lighter = std::env::current_exe().map_err(say("this program"))?;
        let mut command = Command::new(&lighter);
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        if let Some(folder) = log.parent() {
            // Where sidecars meet for shared memory, which goes with the demo.
            command.env("XDG_RUNTIME_DIR", folder);
        }
        end_with_parent(command.as_std_mut());
        let child = command.spawn().map_err(say("lighter"))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| format!("{name} ended at once"))?;
        Ok(Runner { name, child, pid, log: log.to_owned(), log_start })
    }

    /// The process, which is the sidecar where it is `lighter run`.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Waits until `serves` finds nothing missing, as long as there is anything to wait for. It is told what was said so
    /// far.
    pub async fn until(&mut self, serves: impl AsyncFn(&str) -> Result<(), String>) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(missing) = serves(&self.said()).await else { return Ok(()) };
            let name = self.name;
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{name} ended with {status}; it said: {}", self.last_words()));
            }
            if Instant::now() > deadline {
                return Err(format!("{name} does not serve: {missing}; it said: {}", self.last_words()));
            }
            sleep(POLL).await;
        }
    }

    /// Asks it to end in an orderly way, without waiting for that.
    pub fn terminate(&self) {
        // It may have ended already.
        let _ = kill_process(self.pid, Signal::TERM);
    }

    /// Has it end in an orderly way; what has not ended in time is killed.
    pub async fn stop(mut self) {
        self.terminate();
        let _ = timeout(STOP_LIMIT, self.child.wait()).await;
    }

    /// Kills everything as a machine dies: at once and without a word.
    pub async fn kill(mut self) -> Result<(), String> {
        self.kill_all();
        let ended = timeout(STOP_LIMIT, self.child.wait()).await;
        ended.map_err(|_| format!("{} does not end", self.name))?.map_err(say("the end of lighter run"))?;
        Ok(())
    }

    /// What it said in this run.
    pub fn said(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// The end of that.
    fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<_> = said.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// The sidecar first: alone, it would answer for the dead application.
    fn kill_all(&self) {
        // They may have ended already.
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Not reaped yet, so the number still means this process.
        if self.child.id().is_some() {
            self.kill_all();
        }
    }
}
