//! Processes that a test starts, and ends by their own number.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

pub use super::ports::free_port;
use super::{PATIENCE, wait_until};

/// Copies a program to where another user can run it. By a process of its own: were the copy open for writing in this
/// one, a child that another test starts at that moment would have it open too, and it could not be run (ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A process of ours. It ends when this is dropped.
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    gentle: bool,
}

impl Program {
    /// Starts `command`; all it says goes to a file in `folder`.
    pub fn start(mut command: Command, folder: &Path) -> Self {
        let name = command.get_program().to_string_lossy().rsplit('/').next().unwrap_or("program").to_owned();
        let log = folder.join(format!("{name}-{}.log", free_port()));
        let file = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // SAFETY: the closure makes one system call, which is safe after fork. A test that is killed leaves nothing behind.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Program { name, child, log, gentle: false }
    }

    /// Ends it with SIGTERM when dropped, and waits: for a program that has children of its own.
    #[must_use]
    pub fn gentle(mut self) -> Self {
        self.gentle = true;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until(&format!("{} ends", self.name), || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// Whether it has ended already.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `ready`; fails with what the program said if it ends first.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        let start = Instant::now();
        while !ready() {
            assert!(!self.has_ended(), "{} ended before {what}:\n{}", self.name, self.said());
            assert!(
                start.elapsed() < PATIENCE,
                "{}: waited in vain until {what}:\n{}",
                self.name,
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it has said this.
    pub fn wait_until_it_says(&mut self, text: &str) {
        let log = self.log.clone();
        self.wait_until(&format!("it says {text:?}"), || {
            std::fs::read_to_string(&log).unwrap_or_default().contains(text)
        });
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        resident(self.pid())
    }

    /// Memory that it holds for itself in KiB, without the pages of its code, which come as it first runs them.
    pub fn held(&self) -> u64 {
        memory(self.pid(), "RssAnon:")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.gentle {
            self.signal(Signal::TERM);
            let start = Instant::now();
            while !self.has_ended() && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.said());
        }
    }
}

/// Resident memory of a process in KiB.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most resident memory that a process ever had, in KiB.
pub fn most_resident(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(which));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).expect("a living process has memory")
}

/// Processor time that a process took so far, with all its threads.
pub fn cpu(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a living process has threads");
    let line = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("schedstat")).ok();
    let nanos = tasks.filter_map(|task| line(task.ok()?)?.split(' ').next()?.parse::<u64>().ok());
    Duration::from_nanos(nanos.sum())
}

/// Where a program of this name is, or the reason why a test cannot run.
pub fn find(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/lib/git-core"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// A Python that has these modules, or the reason why a test cannot run. `PYTHON` says which one.
pub fn python(modules: &str) -> Result<PathBuf, String> {
    let python = match std::env::var_os("PYTHON") {
        Some(python) => python.into(),
        None => find("python3")?,
    };
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).stderr(Stdio::null()).status();
    match has {
        Ok(status) if status.success() => Ok(python),
        _ => Err(format!("Python has not all of {modules}")),
    }
}

/// A free address on loopback.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Whether someone listens there. A connection that is one to itself says that nobody does.
pub fn listens(address: SocketAddr) -> bool {
    let is_to_another = |stream: TcpStream| stream.local_addr().ok() != stream.peer_addr().ok();
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok_and(is_to_another)
}

/// As many descriptors as the system lets us have; children inherit them.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
