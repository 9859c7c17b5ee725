//! Two hosts in one machine, each with a network and an RDMA device or more: a network namespace each, joined by Ethernet,
//! and a cable for each pair of devices.
//!
//! Of what one may wish, Linux 6.1 has this. A device of soft-RoCE goes when its interface moves to another namespace. One
//! that is made in another one has addresses and sends, but hears nothing: packets are taken in the first namespace alone.
//! That devices belong to one namespace (`rdma system set netns exclusive`) can be had only while there is no second one.
//! So all devices are in the first one, on interfaces that have the addresses of the two hosts once more, and processes of
//! all namespaces use them. Packets between the two leave by the one and come in by the other, for which Linux has to be
//! told that not all that it has itself is near.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::cable::Cable;
use crate::support::wait_until;

/// See above. All of it goes with this.
pub struct Hosts {
    pub cables: Vec<Cable>,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Near,
    Far,
}

pub use Host::{Far, Near};

/// The end of a cable at a host, with the device there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    host: Host,
    cable: u8,
}

impl Hosts {
    /// With so many cables between them.
    pub fn new(cables: u8) -> Self {
        let ports = || (0..cables).map(|cable| [Near, Far].map(|host| host.port(cable)));
        let cables = ports().map(|ends| Cable::between(ends.map(Port::interface))).collect();
        for host in [Near, Far] {
            ip(&["netns", "add", host.name()]);
            ip(&["-n", host.name(), "link", "set", "lo", "up"]);
        }
        ip(&["link", "add", "eth0", "netns", "near", "type", "veth", "peer", "name", "eth0", "netns", "far"]);
        for host in [Near, Far] {
            ip(&["-n", host.name(), "address", "add", &format!("{}/24", host.address()), "dev", "eth0"]);
            ip(&["-n", host.name(), "link", "set", "eth0", "up"]);
        }
        for port in ports().flatten() {
            let (interface, address) = (port.interface(), port.address());
            ip(&["link", "set", &interface, "address", &port.ethernet(), "mtu", "4400"]);
            ip(&["address", "add", &format!("{address}/32"), "dev", &interface]);
            let accept = format!("/proc/sys/net/ipv4/conf/{interface}/accept_local");
            std::fs::write(accept, "1").unwrap();
            port.raise();
        }
        ip(&["rule", "add", "pref", "1", "iif", "lo", "lookup", TABLE]);
        ip(&["rule", "add", "pref", "2", "lookup", "local"]);
        ip(&["rule", "del", "pref", "0"]);
        ports().flatten().for_each(Port::add_device);
        Hosts { cables }
    }

    /// The devices of a host, as a list in YAML has them.
    pub fn devices(&self, host: Host) -> String {
        let devices: Vec<_> = (0..self.cables.len()).map(|cable| host.port(cable as u8).device()).collect();
        devices.join(", ")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [Near, Far] {
            for cable in 0..self.cables.len() {
                let _ = Command::new("rdma").args(["link", "del", &host.port(cable as u8).device()]).output();
            }
            let _ = Command::new("ip").args(["netns", "del", host.name()]).output();
        }
        for rule in
            [["add", "pref", "0", "lookup", "local"].as_slice(), &["del", "pref", "1"], &["del", "pref", "2"]]
        {
            let _ = Command::new("ip").arg("rule").args(rule).output();
        }
    }
}

impl Host {
    pub fn name(self) -> &'static str {
        ["near", "far"][self as usize]
    }

    /// The end of a cable here.
    pub fn port(self, cable: u8) -> Port {
        Port { host: self, cable }
    }

    /// Of its network, and of its end of the first cable.
    pub fn address(self) -> Ipv4Addr {
        self.port(0).address()
    }

    /// Has this thread be on the host while `does`, and what it starts for ever: sockets, threads, processes.
    pub fn does<T>(self, does: impl FnOnce() -> T) -> T {
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        let _back = Back(home);
        go(&File::open(format!("/run/netns/{}", self.name())).unwrap());
        does()
    }
}

impl Port {
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.cable, 1 + self.host as u8)
    }

    pub fn device(self) -> String {
        format!("rxe{}{}", self.host.name(), self.cable)
    }

    /// What the device is on.
    fn interface(self) -> String {
        format!("tap{}{}", self.host.name(), self.cable)
    }

    fn ethernet(self) -> String {
        format!("02:00:00:00:0{}:0{}", self.cable, 1 + self.host as u8)
    }

    /// The other end.
    fn other(self) -> Port {
        Port { host: if self.host == Near { Far } else { Near }, ..self }
    }

    /// Adds the device, once none of its name is left.
    pub fn add_device(self) {
        let device = self.device();
        let there = format!("/sys/class/infiniband/{device}");
        wait_until("the device is gone", || !Path::new(&there).exists());
        run("rdma", &["link", "add", &device, "type", "rxe", "netdev", &self.interface()]);
    }

    /// Takes the device away. It is gone once nobody has it open any more.
    pub fn remove_device(self) {
        // Whoever waits for that is waited for by nobody: what is asked for next fails if it has not gone.
        let removal = Command::new("rdma").args(["link", "del", &self.device()]).spawn().unwrap();
        std::thread::spawn(move || removal.wait_with_output());
    }

    /// Takes down what the device is on: its port is down then.
    pub fn lower(self) {
        ip(&["link", "set", &self.interface(), "down"]);
    }

    /// Raises it, with the way to the other end and where that is, which went with it.
    pub fn raise(self) {
        let (interface, other) = (self.interface(), self.other());
        let to = other.address().to_string();
        ip(&["link", "set", &interface, "up"]);
        ip(&["neigh", "replace", &to, "lladdr", &other.ethernet(), "nud", "permanent", "dev", &interface]);
        ip(&["route", "replace", &format!("{to}/32"), "dev", &interface, "table", TABLE]);
    }

    /// What the device counted.
    pub fn counter(self, name: &str) -> u64 {
        let path = format!("/sys/class/infiniband/{}/ports/1/hw_counters/{name}", self.device());
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

/// Where this thread came from and goes to again, also out of a test that fails.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        go(&self.0);
    }
}

fn go(namespace: &File) {
    move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), Some(LinkNameSpaceType::Network)).unwrap();
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// Where ways between the two are that are asked for before Linux looks for what is its own.
const TABLE: &str = "100";
