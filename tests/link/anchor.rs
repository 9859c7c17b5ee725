//! The TCP connections of links, seen from outside of the processes that have them.

use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::links::World;
use crate::shm::policy;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::test;

pub fn tests() -> Vec<Trial> {
    vec![test("a_link_looks_after_its_tcp_connection_at_both_ends", looked_after)]
}

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

fn looked_after() {
    let app = Upstream::answering("here");
    let world = World::under("http", app.address, &policy("wires: {shm: mustNot}"));
    let request = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";
    assert_eq!(Peer::connect(world.listen).exchange(request).1, Body::Whole(b"here".into()));
    assert_eq!(world.links(), (1.0, 1.0));
    for sidecar in [&world.web, &world.reviews] {
        let [anchor] = &anchors(sidecar, world.link.port())[..] else {
            panic!("one connection is of a link")
        };
        assert!(sockopt::socket_keepalive(anchor).unwrap());
        let asks = (sockopt::tcp_keepidle(anchor).unwrap(), sockopt::tcp_keepintvl(anchor).unwrap());
        assert_eq!(asks, (Duration::from_secs(15), Duration::from_secs(5)));
        assert_eq!(sockopt::tcp_keepcnt(anchor).unwrap(), 3);
        assert_eq!(sockopt::tcp_user_timeout(anchor).unwrap(), 30_000, "in milliseconds");
    }
    world.is_whole();
}
