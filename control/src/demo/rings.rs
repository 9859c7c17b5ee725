//! Rings beneath links, broken from outside of the processes that use them.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use rustix::net::Shutdown;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// Ends the Unix sockets of all rings whose memory process `pid` has made, as if the system had. Returns how many. Whoever
/// may not trace the process may not do this either.
pub fn end_all(pid: i32) -> io::Result<usize> {
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix"))?;
    let of_rings: Vec<String> = sockets.lines().filter_map(of_ring).collect();
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut ended = 0;
    for entry in fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid()))? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|number| number.parse::<RawFd>().ok());
        let is_ring = fs::read_link(entry.path())
            .is_ok_and(|to| of_rings.iter().any(|socket| to.as_os_str() == socket.as_str()));
        let Some(number) = number.filter(|_| is_ring) else { continue };
        match rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            // What was closed meanwhile has ended by itself.
            Err(rustix::io::Errno::BADF) => {}
            socket => ended += usize::from(rustix::net::shutdown(&socket?, Shutdown::Both).is_ok()),
        }
    }
    Ok(ended)
}

/// The socket that a line of `/proc/PID/net/unix` is about, as a descriptor's link names it, if it is the end of a ring: it
/// is connected, and has the name of a door.
fn of_ring(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, _, _, _, STREAM, CONNECTED, inode, path] = *fields else { return None };
    path.contains(DOOR).then(|| format!("socket:[{inode}]"))
}

const STREAM: &str = "0001";
const CONNECTED: &str = "03";

/// In the name of every door.
const DOOR: &str = ".link";
