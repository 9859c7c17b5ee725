//! A network namespace for one application: made, and furnished so that every connection meets the sidecar's rules.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lighter_proxy::intercept::netlink::Netlink;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::thread::{CapabilitySet, UnshareFlags};

/// The application's own addresses: outside of the ranges of virtual addresses, so that no Service has them.
pub const WORKLOAD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x11, 0x6874, 0xe6, 0, 0, 0, 1)),
];

/// Why there is no namespace, or none of use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// The system does not allow one.
    #[error("cannot make a network namespace: {source}; {hint}")]
    Forbidden {
        /// What to do.
        hint: String,
        /// What the system said.
        source: io::Error,
    },
    /// One could be made, but not furnished.
    #[error("cannot set up the network namespace ({step}): {source}")]
    Setup {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What was made.
pub(super) struct Namespace {
    /// Inode of the network namespace.
    pub(super) inode: u64,
    /// The user namespace that owns it was made for it.
    pub(super) user: bool,
    /// What this process was allowed outside; inside it is allowed everything until it drops to this.
    pub(super) capabilities: CapabilitySet,
    /// Which families there are.
    pub(super) ipv6: bool,
}

/// Moves this process, which has one thread, into a network namespace of its own: with the privileges it has, or else
/// with a user namespace in which it is the same user as before. `mounts`: with mounts of its own as well.
pub(super) fn enter(mounts: bool) -> Result<Namespace, NamespaceError> {
    let outside = Limits::read();
    let capabilities = rustix::thread::capabilities(None).map(|sets| sets.permitted);
    let capabilities = capabilities.unwrap_or(CapabilitySet::empty());
    let user = leave(if mounts { UnshareFlags::NEWNET | UnshareFlags::NEWNS } else { UnshareFlags::NEWNET })?;
    outside.apply();
    let ipv6 = furnish().map_err(|error| match error {
        // A security module lets anybody make a user namespace, and nobody do anything in it.
        NamespaceError::Setup { source, .. } if user && source.raw_os_error() == Some(libc::EPERM) => {
            forbidden(source)
        }
        other => other,
    })?;
    let inode = inode().map_err(|source| NamespaceError::Setup { step: "its inode", source })?;
    Ok(Namespace { inode, user, capabilities, ipv6 })
}

/// Moves this process, which has one thread, into a network namespace that has nothing in it, as [`enter`] does.
pub(crate) fn enter_empty() -> Result<(), NamespaceError> {
    leave(UnshareFlags::NEWNET).map(drop)
}

/// Moves this process into namespaces of its own. Says whether that took a user namespace.
fn leave(wanted: UnshareFlags) -> Result<bool, NamespaceError> {
    match unshare(wanted) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::PERM) => enter_user_namespace(wanted).map(|()| true),
        Err(error) => Err(forbidden(error.into())),
    }
}

/// Inode of this process's network namespace.
pub(super) fn inode() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/ns/net")?.ino())
}

/// Gives up for ever what this process was not allowed outside, however it comes by it: a program that is started
/// as user 0 of a user namespace has no more than it had. Async-signal-safe.
pub(super) fn bound(allowed: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if allowed.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Above the kernel's last number: there is nothing more to give up.
            Err(rustix::io::Errno::INVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: descriptors stay shared, so none of this process becomes invalid.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

fn enter_user_namespace(wanted: UnshareFlags) -> Result<(), NamespaceError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(wanted | UnshareFlags::NEWUSER).map_err(|error| forbidden(error.into()))?;
    let write = |file: &str, text: String| std::fs::write(format!("/proc/self/{file}"), text);
    // Without it nobody but root may map a group: a process could otherwise drop a group that denies it something.
    write("setgroups", "deny".into())
        .and_then(|()| write("uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| write("gid_map", format!("{gid} {gid} 1")))
        .map_err(forbidden)
}

/// Says what to do about it here.
fn forbidden(source: io::Error) -> NamespaceError {
    let setting = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
        Some(text.trim().to_owned())
    };
    NamespaceError::Forbidden { hint: hint(&source, setting), source }
}

/// Which switch forbids namespaces, by the system's `setting`s.
fn hint(source: &io::Error, setting: impl Fn(&str) -> Option<String>) -> String {
    // Its name, the value that forbids, and one that does not.
    let switches = [
        ("user.max_user_namespaces", "0", "15000"),
        ("user.max_net_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    if let Some((name, _, open)) =
        switches.iter().find(|(name, closed, _)| setting(name).as_deref() == Some(closed))
    {
        return format!("run as root, or `sysctl {name}={open}`");
    }
    match source.raw_os_error() {
        Some(libc::ENOSPC) => {
            "there are as many as may be: raise user.max_net_namespaces and user.max_user_namespaces".into()
        }
        _ => "run as root (CAP_SYS_ADMIN); a container's seccomp profile may forbid it too".into(),
    }
}

/// Gives the loopback interface the workload's addresses and a route for everything, so that a connection to any
/// address gets as far as the rules of the OUTPUT hook. Says whether there is IPv6.
fn furnish() -> Result<bool, NamespaceError> {
    let failed = |step| move |source| NamespaceError::Setup { step, source };
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE).map_err(failed("netlink"))?;
    let mut ask = |message| {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        netlink.transact(vec![message]).map_err(|refused| refused.source)
    };
    ask(up(LOOPBACK)).map_err(failed("raising the loopback interface"))?;
    let mut ipv6 = true;
    for address in WORKLOAD {
        match ask(assign(address)).and_then(|()| ask(route(address))) {
            // Switched off, or not in the kernel at all.
            Err(error) if address.is_ipv6() && error.raw_os_error() != Some(libc::EEXIST) => {
                tracing::info!(%error, "no IPv6 for the application");
                ipv6 = false;
            }
            done => done.map_err(failed("addresses and routes"))?,
        }
    }
    Ok(ipv6)
}

/// Raises an interface.
pub(crate) fn up(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

fn assign(address: IpAddr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    message.header.scope = AddressScope::Universe;
    message.header.index = LOOPBACK;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // Nobody else can have it. Without this it is of no use until the kernel has found that out.
        // And no route to its prefix: over the loopback interface that would be one that discards, and it would be the
        // best one until the kernel has made, some time later, the address's own.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// Every address of this family is local. What no rule redirects (UDP, mostly) is so refused at once by a port that
/// nobody listens on, instead of waiting for an answer that cannot come.
fn route(source: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(source),
        table: libc::RT_TABLE_LOCAL,
        protocol: RouteProtocol::Static,
        scope: if source.is_ipv4() { RouteScope::Host } else { RouteScope::Universe },
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes =
        vec![RouteAttribute::Oif(LOOPBACK), RouteAttribute::PrefSource(RouteAddress::from(source))];
    RouteNetlinkMessage::NewRoute(message)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Settings that a new network namespace does not take over from the host, and that a program can notice.
struct Limits(Vec<(&'static str, String)>);

impl Limits {
    /// The host's.
    fn read() -> Self {
        let value = |name: &'static str| {
            std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok().map(|value| (name, value))
        };
        Limits(SETTINGS.into_iter().filter_map(value).collect())
    }

    /// As far as they can be set: an application that needs none of them is not kept from running.
    fn apply(&self) {
        for (name, value) in &self.0 {
            if let Err(error) = std::fs::write(format!("/proc/sys/net/{name}"), value) {
                tracing::debug!(%error, name, "a setting of the host could not be taken over");
            }
        }
    }
}

const SETTINGS: [&str; 8] = [
    "core/somaxconn",
    "ipv4/ip_unprivileged_port_start",
    "ipv4/ip_local_port_range",
    "ipv4/ping_group_range",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv4/tcp_fin_timeout",
];

/// The index of the loopback interface, in every namespace.
const LOOPBACK: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_that_forbids_is_named() {
        let refused = |errno| io::Error::from_raw_os_error(errno);
        let ubuntu = |name: &str| match name {
            "user.max_user_namespaces" => Some("96365".to_owned()),
            "kernel.apparmor_restrict_unprivileged_userns" => Some("1".to_owned()),
            _ => None,
        };
        let hint_there = hint(&refused(libc::EPERM), ubuntu);
        assert!(hint_there.contains("sysctl kernel.apparmor_restrict_unprivileged_userns=0"), "{hint_there}");
        let hardened = |name: &str| (name == "user.max_user_namespaces").then(|| "0".to_owned());
        let hint_there = hint(&refused(libc::ENOSPC), hardened);
        assert!(hint_there.contains("sysctl user.max_user_namespaces="), "{hint_there}");
        assert!(hint(&refused(libc::ENOSPC), |_| None).contains("as many as may be"));
        assert!(hint(&refused(libc::EPERM), |_| None).contains("root"));
    }

    #[test]
    fn workloads_have_no_virtual_address() {
        assert!(!WORKLOAD.into_iter().any(lighter_config::snapshot::is_virtual));
    }
}
