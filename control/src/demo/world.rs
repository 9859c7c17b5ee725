//! The demo's processes: five applications, each in a network namespace of its own with a sidecar beside it, all
//! started by `lighter run`. They end with this process, however it ends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::SERVE;
use super::client::fetch;
use super::resources::{self, APP_PORT, Split};
use super::samples::Samples;
use super::serve::LISTENS;

/// Everything that runs.
pub struct World {
    folder: TempDir,
    /// Every instance.
    pub instances: Vec<Instance>,
}

/// One application with its sidecar.
pub struct Instance {
    /// What the demo calls it.
    pub name: &'static str,
    /// The Service that it is an instance of.
    pub service: &'static str,
    /// Which server it is, and what it says of itself.
    role: &'static str,
    version: &'static str,
    instance: &'static str,
    /// Where its sidecar takes callers' connections.
    pub inbound: SocketAddr,
    /// Its sidecar's admin port.
    pub admin: SocketAddr,
    log: PathBuf,
    /// Where in the log this run of it begins.
    log_start: usize,
    runner: Option<Runner>,
}

/// A `lighter run` process, and all that it started: a process group.
struct Runner {
    child: Child,
    pid: Pid,
}

/// `(name, service, role, version, instance)`.
const INSTANCES: [(&str, &str, &str, &str, &str); 5] = [
    ("web", "web", "web", "v1", "a"),
    ("catalog", "catalog", "catalog", "v1", "a"),
    ("reviews-v1", "reviews-v1", "reviews", "v1", "a"),
    ("reviews-v2-a", "reviews-v2", "reviews", "v2", "a"),
    ("reviews-v2-b", "reviews-v2", "reviews", "v2", "b"),
];

/// Longest time until everything serves.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Longest time for everything to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

impl World {
    /// Chooses ports and makes the folder; nothing runs yet.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("lighter-demo-").tempdir()?;
        let ports = free_ports(2 * INSTANCES.len())?;
        let instance = |(&(name, service, role, version, instance), ports): (_, &[SocketAddr])| Instance {
            name,
            service,
            role,
            version,
            instance,
            inbound: ports[0],
            admin: ports[1],
            log: folder.path().join(format!("{name}.log")),
            log_start: 0,
            runner: None,
        };
        Ok(World { instances: INSTANCES.iter().zip(ports.chunks(2)).map(instance).collect(), folder })
    }

    /// Starts everything and waits until it serves.
    pub async fn start(&mut self, split: Split) -> Result<(), String> {
        self.split(split)?;
        let resources = self.resources();
        for instance in &mut self.instances {
            instance.start(&resources)?;
        }
        for instance in &mut self.instances {
            instance.serves().await?;
        }
        Ok(())
    }

    /// An instance by its name in [`INSTANCES`].
    pub fn instance(&mut self, name: &str) -> Result<&mut Instance, String> {
        self.instances.iter_mut().find(|one| one.name == name).ok_or_else(|| format!("no instance {name}"))
    }

    /// Writes the resource file anew.
    pub fn split(&self, split: Split) -> Result<(), String> {
        let endpoints: Vec<_> = self.instances.iter().map(|one| (one.service, one.inbound)).collect();
        resources::write(&self.resources(), &endpoints, split).map_err(say("the resource file"))
    }

    /// The resource file that every sidecar watches.
    pub fn resources(&self) -> PathBuf {
        self.folder.path().join("mesh.yaml")
    }

    /// The folder with the resource file and the logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends everything in an orderly way. `keep_logs`: the folder stays.
    pub async fn stop(mut self, keep_logs: bool) {
        for runner in self.instances.iter().filter_map(|one| one.runner.as_ref()) {
            // It may have ended already.
            let _ = kill_process(runner.pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_LIMIT;
        for instance in &mut self.instances {
            if let Some(runner) = &mut instance.runner {
                let _ = tokio::time::timeout_at(deadline, runner.child.wait()).await;
            }
            // Dropping it ends what has not ended by now.
            instance.runner = None;
        }
        if keep_logs {
            self.folder.disable_cleanup(true);
        }
    }
}

impl Instance {
    /// Starts it again, as on another machine: at another address, which callers know only when the resource file is
    /// written anew.
    pub fn start_elsewhere(&mut self, resources: &Path) -> Result<(), String> {
        let port = free_ports(1).map_err(say("a free port"))?;
        self.inbound = port[0];
        self.start(resources)
    }

    fn start(&mut self, resources: &Path) -> Result<(), String> {
        self.log_start = std::fs::metadata(&self.log).map_or(0, |log| log.len() as usize);
        let log = File::options().create(true).append(true).open(&self.log).map_err(say("a log"))?;
        let errors = log.try_clone().map_err(say("a log"))?;
        let lighter = std::env::current_exe().map_err(say("this program"))?;
        let mut command = Command::new(&lighter);
        command
            .args(["run", "--service", self.service, "--port", &APP_PORT.to_string()])
            .args(["--listen", &self.inbound.to_string(), "--admin", &self.admin.to_string()])
            .arg("--resources")
            .arg(resources)
            .args(["--workers", "1", "--drain-deadline", "2s", "--"])
            .arg(&lighter)
            .args([SERVE, self.role, "--port", &APP_PORT.to_string()])
            .args(["--version", self.version, "--instance", self.instance])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        end_with_parent(&mut command);
        let child = command.spawn().map_err(say("lighter run"))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| format!("{} ended at once", self.name))?;
        self.runner = Some(Runner { child, pid });
        Ok(())
    }

    /// Waits until its sidecar is ready and its application answers through it.
    pub async fn serves(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(error) = self.answers().await else { return Ok(()) };
            let name = self.name;
            let Some(runner) = &mut self.runner else { return Err(format!("{name} is not running")) };
            if let Ok(Some(status)) = runner.child.try_wait() {
                return Err(format!("{name} ended with {status}; it said: {}", self.last_words()));
            }
            if Instant::now() > deadline {
                return Err(format!("{name} does not serve: {error}; it said: {}", self.last_words()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks the application only once it says that it listens, so that no counter shows a refusal.
    async fn answers(&self) -> io::Result<()> {
        if !self.said().contains(LISTENS) {
            return Err(io::Error::other("its application does not listen"));
        }
        fetch(self.admin, "/ready").await?;
        fetch(self.inbound, "/healthz").await.map(drop)
    }

    /// The `lighter run` process.
    pub fn runner_pid(&self) -> Option<i32> {
        self.runner.as_ref().map(|runner| runner.pid.as_raw_pid())
    }

    /// Kills sidecar and application as a machine dies: at once and without a word.
    pub async fn kill(&mut self) -> Result<(), String> {
        let mut runner = self.runner.take().ok_or_else(|| format!("{} is not running", self.name))?;
        runner.kill_all();
        let ended = timeout(STOP_LIMIT, runner.child.wait()).await;
        ended.map_err(|_| format!("{} does not end", self.name))?.map_err(say("the end of lighter run"))?;
        Ok(())
    }

    /// Its sidecar's metrics of this moment.
    pub async fn samples(&self) -> Result<Samples, String> {
        let text = fetch(self.admin, "/metrics").await.map_err(say("/metrics"))?;
        Samples::parse(&text)
    }

    /// What it said in this run.
    fn said(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// The end of that.
    fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<_> = said.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Runner {
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

/// Ports of the loopback that were free a moment ago.
fn free_ports(count: usize) -> io::Result<Vec<SocketAddr>> {
    // All at once, so that no port is given out twice.
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// Has the kernel end the child when this process ends, also where it could not clean up.
fn end_with_parent(command: &mut Command) {
    let end = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?);
    // SAFETY: between fork and exec only one system call is made, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(end) };
}

fn say(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn free_ports_are_all_different() {
        let ports = free_ports(16).unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 16);
    }
}
