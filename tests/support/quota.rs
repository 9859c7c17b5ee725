//! Processes that are held to a part of a processor.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// A group of processes with a part of a processor: cgroup v2 or v1.
pub struct Quota {
    folder: PathBuf,
    is_v2: bool,
}

/// Short, so that it is a slow processor and not one that stops now and then.
const PERIOD_US: u64 = 10_000;

impl Quota {
    /// These processes, with a whole one; or why they cannot be held to that.
    pub fn of(pids: &[u32]) -> Result<Self, String> {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/cpu" };
        let folder = Path::new(root).join(format!("lighter-test-{}", pids[0]));
        let denied = |error| format!("no control group can be made in {root}: {error}");
        std::fs::create_dir(&folder).map_err(denied)?;
        let quota = Quota { folder, is_v2: v2 };
        for pid in pids {
            std::fs::write(quota.folder.join("cgroup.procs"), pid.to_string()).map_err(denied)?;
        }
        quota.set(1.0)?;
        Ok(quota)
    }

    /// What they may have they get before all others of the machine.
    pub fn put_first(&self) -> Result<(), String> {
        let (file, most) = if self.is_v2 { ("cpu.weight", "10000") } else { ("cpu.shares", "262144") };
        let file = self.folder.join(file);
        std::fs::write(&file, most).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// They have this part of a processor from now on.
    pub fn set(&self, part: f64) -> Result<(), String> {
        let quota = ((part * PERIOD_US as f64) as u64).max(1000);
        let write = |file: &str, text: String| {
            let file = self.folder.join(file);
            std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
        };
        if self.is_v2 {
            return write("cpu.max", format!("{quota} {PERIOD_US}"));
        }
        write("cpu.cfs_period_us", PERIOD_US.to_string())?;
        write("cpu.cfs_quota_us", quota.to_string())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // It may take a moment until the last process is gone from it.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A process that the kernel kills once it has more memory than this: cgroup v2 or v1.
pub struct MemoryLimit {
    folder: PathBuf,
    is_v2: bool,
}

impl MemoryLimit {
    /// This process, with so many bytes; or why it cannot be held to that.
    pub fn of(pid: u32, bytes: u64) -> Result<Self, String> {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let folder = Path::new(root).join(format!("lighter-test-memory-{pid}"));
        let denied = |error| format!("no control group can be made in {root}: {error}");
        std::fs::create_dir(&folder).map_err(denied)?;
        let limit = MemoryLimit { folder, is_v2: v2 };
        let file = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
        std::fs::write(limit.folder.join(file), bytes.to_string()).map_err(denied)?;
        std::fs::write(limit.folder.join("cgroup.procs"), pid.to_string()).map_err(denied)?;
        Ok(limit)
    }

    /// How many processes the kernel has killed.
    pub fn killed(&self) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = std::fs::read_to_string(self.folder.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).expect("a count of kills")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}
