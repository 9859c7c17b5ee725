//! Processes as the kernel tells of them: who started whom, and which network namespace they are in. This is evidence
//! that does not come from a sidecar.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, as this process sees it.
    pub pid: i32,
    /// The inode of its network namespace.
    pub network_namespace: u64,
}

/// The application that the `lighter run` process `runner` started: its descendant that runs `subcommand`.
pub fn application(runner: i32, subcommand: &str) -> io::Result<Process> {
    let parents = parents()?;
    let descends =
        |pid: i32| std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).any(|p| p == runner);
    let runs = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(subcommand.as_bytes())
    };
    let pid = parents.keys().copied().find(|pid| descends(*pid) && runs(*pid));
    let pid = pid.ok_or_else(|| io::Error::other(format!("{runner} has no descendant {subcommand}")))?;
    Ok(Process { pid, network_namespace: network_namespace(&pid.to_string())? })
}

/// Processor time that a process has taken so far, with that of its children that it waited for.
pub fn processor_time(pid: i32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks =
        ticks(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// From such a line: the times of user, of system, and the same of children.
fn ticks(stat: &str) -> Option<u64> {
    let behind = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    behind.skip(11).take(4).map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The inode of a process's network namespace; `self` is this process.
pub fn network_namespace(pid: &str) -> io::Result<u64> {
    Ok(std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

/// Every process with its parent.
fn parents() -> io::Result<BTreeMap<i32, i32>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended in the meantime.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parent) = parent(&stat) {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// The parent in a line of `/proc/PID/stat`: `pid (name) state parent …`, where the name may hold anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_its_parent_and_a_network_namespace() {
        let parents = parents().unwrap();
        assert_eq!(
            parents[&std::process::id().cast_signed()],
            std::os::unix::process::parent_id().cast_signed()
        );
        assert!(network_namespace("self").unwrap() > 0);
    }

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_hide_the_parent() {
        assert_eq!(parent("7 (a) b) 9 (c) S 42 7 7"), Some(42));
    }

    #[test]
    fn processor_time_is_four_times_together() {
        let stat = "7 (a) b) S 42 7 7 0 -1 1 2 3 4 5 10 20 30 40 20 0 3";
        assert_eq!(ticks(stat), Some(100));
        assert!(processor_time(std::process::id().cast_signed()).is_ok());
    }

    #[test]
    fn a_process_without_such_a_child_is_an_error() {
        let pid = std::process::id().cast_signed();
        assert!(application(pid, "__serve").unwrap_err().to_string().contains("no descendant"));
    }
}
