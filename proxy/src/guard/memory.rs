//! What this process has, and what it may have, as the system says.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Memory that cannot be had again from a file, in bytes: what it has for itself, and what it shares.
pub(super) fn used() -> u64 {
    fs::read_to_string("/proc/self/status").map_or(0, |status| used_in(&status))
}

fn used_in(status: &str) -> u64 {
    let kib = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    let counts = |line: &&str| line.starts_with("RssAnon:") || line.starts_with("RssShmem:");
    status.lines().filter(counts).filter_map(kib).sum::<u64>() * 1024
}

/// The least that this process's control group, or one above it, may have.
pub(super) fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().filter_map(limit_files).flatten().filter_map(|file| limit(&file)).min()
}

/// Where the limits are of a line of /proc/PID/cgroup (cgroups(7)), from the group up. A group that is a root of what is
/// mounted here, as in a container, is found at the root itself.
fn limit_files(line: &str) -> Option<Vec<PathBuf>> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, group) = (parts.next()?, parts.next()?);
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        of if of.split(',').any(|one| one == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return None,
    };
    let group = Path::new(group.trim_start_matches('/'));
    Some(group.ancestors().map(|group| Path::new(root).join(group).join(file)).collect())
}

fn limit(file: &Path) -> Option<u64> {
    let bytes = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    // The first version says "no limit" by a number that no machine has.
    (bytes < 1 << 60).then_some(bytes)
}

/// The lowest descriptor that is free: so many are in use below it.
pub(super) fn lowest_free_descriptor() -> Option<u64> {
    let null = fs::File::open("/dev/null").ok()?;
    Some(null.as_raw_fd() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_files_does_not_count() {
        let status =
            "Name:\tx\nVmRSS:\t  9000 kB\nRssAnon:\t  1000 kB\nRssFile:\t  7000 kB\nRssShmem:\t  24 kB\n";
        assert_eq!(used_in(status), 1024 * 1024);
        assert!(used() > 100_000);
    }

    #[test]
    fn limits_are_looked_for_up_to_the_root() {
        let files = limit_files("0::/pods/web").unwrap();
        let at = ["/sys/fs/cgroup/pods/web", "/sys/fs/cgroup/pods", "/sys/fs/cgroup/"];
        assert_eq!(files, at.map(|group| Path::new(group).join("memory.max")));
        let first = limit_files("4:cpu,memory:/").unwrap();
        assert_eq!(first, [Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes")]);
        assert_eq!(limit_files("5:cpu:/x"), None);
        assert_eq!(limit_files("nonsense"), None);
    }

    #[test]
    fn descriptors_are_counted_from_below() {
        let before = lowest_free_descriptor().unwrap();
        assert!((3..10_000).contains(&before));
    }
}
