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
