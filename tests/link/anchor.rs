//! The TCP connections of links, seen from outside of the processes that have them.

use std::fs;
use std::os::fd::{OwnedFd, RawFd};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::support::sidecar::Sidecar;

/// The connections between links' openers and the link port `port` of which `sidecar` has an end, each as one more descriptor.
pub fn anchors(sidecar: &Sidecar, port: u16) -> Vec<OwnedFd> {
    let pid = sidecar.program.pid();
    let connections = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let of_links: Vec<String> = connections.lines().filter_map(|line| of_link(line, port)).collect();
    let process =
        rustix::process::pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let anchors = open.filter(|entry| {
        // What was closed meanwhile is none.
        fs::read_link(entry.path())
            .is_ok_and(|to| of_links.iter().any(|link| to.as_os_str() == link.as_str()))
    });
    let numbers = anchors.map(|entry| entry.file_name().to_str().unwrap().parse::<RawFd>().unwrap());
    numbers
        .map(|number| {
            rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty())
                .expect("whoever has started a process may have its descriptors")
        })
        .collect()
}

/// The socket that a line of `/proc/PID/net/tcp` is about, as a descriptor's link names it, if it is one of a link that stands.
fn of_link(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, remote, ESTABLISHED, _, _, _, _, _, inode, ..] = *fields else { return None };
    let port = format!(":{port:04X}");
    (local.ends_with(&port) || remote.ends_with(&port)).then(|| format!("socket:[{inode}]"))
}

const ESTABLISHED: &str = "01";
