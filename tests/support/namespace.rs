//! Network namespaces for tests: a thread each, since the kernel keeps them by thread.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use libtest_mimic::{Completion, Trial};
use lighter_proxy::intercept::netlink::Netlink;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::{PATIENCE, wait_until};

/// A test that runs in a network namespace in which every address leads to itself.
pub fn test(name: &str, test: fn()) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Err(reason) = root() {
            return Ok(Completion::ignored_with(reason));
        }
        let thread = std::thread::spawn(move || {
            enter();
            furnish();
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Completion::Completed)
    })
}

/// Whether this process may make namespaces without more ado.
pub fn root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("needs root".into()) }
}

/// Moves this thread into a new network namespace.
pub fn enter() {
    // SAFETY: descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
}

/// A new network namespace with its loopback, which lives as long as this and what runs in it.
pub fn another() -> File {
    let made = std::thread::spawn(|| {
        enter();
        raise("lo", &[]);
        own()
    });
    made.join().unwrap()
}

/// Does `what` in `namespace`; threads and processes that it starts stay there.
pub fn within<T>(namespace: &File, what: impl FnOnce() -> T) -> T {
    let go = |to: &File| move_into_link_name_space(to.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    let from = own();
    go(namespace);
    let said = what();
    go(&from);
    said
}

/// An interface to another namespace, with an address of each family.
pub fn link_to(namespace: RawFd, own: &str, other: &str) {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![LinkAttribute::IfName(other.into()), LinkAttribute::NetNsFd(namespace)];
    let info = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)));
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(own.into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), info]),
    ];
    ask(RouteNetlinkMessage::NewLink(link));
}

/// Raises the interface `name` and gives it `addresses`, each with the range around it.
pub fn raise(name: &str, addresses: &[(IpAddr, u8)]) {
    let index = index(name);
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    ask(RouteNetlinkMessage::SetLink(link));
    for &(address, length) in addresses {
        let mut message = address_of(index, address, length);
        if address.is_ipv6() {
            // A route to the prefix of an address of the loopback interface would discard what it takes.
            let flags = if name == "lo" {
                AddressFlags::Nodad | AddressFlags::Noprefixroute
            } else {
                AddressFlags::Nodad
            };
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        ask(RouteNetlinkMessage::NewAddress(message));
    }
}

/// Takes `address`, with the range around it, from the interface `name`.
pub fn take_away(name: &str, (address, length): (IpAddr, u8)) {
    ask(RouteNetlinkMessage::DelAddress(address_of(index(name), address, length)));
}

/// From now on what goes out by the interface `name` goes in packets that its link carries as they are, not in larger ones
/// that the other end would take as one.
pub fn by_single_packets(name: &str) {
    let mut link = LinkMessage::default();
    link.header.index = index(name);
    link.attributes = vec![LinkAttribute::GsoMaxSegs(1)];
    ask(RouteNetlinkMessage::SetLink(link));
}

fn address_of(index: u32, address: IpAddr, length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = length;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// The number of the interface `name`.
pub fn index(name: &str) -> u32 {
    let any = UdpSocket::bind("0.0.0.0:0").unwrap();
    rustix::net::netdevice::name_to_index(any, name).unwrap()
}

fn furnish() {
    let own = ["198.18.0.1", "fd00:11:6874:e6::1"].map(|address| address.parse::<IpAddr>().unwrap());
    raise("lo", &[(own[0], 32), (own[1], 128)]);
    for address in own {
        let mut route = RouteMessage::default();
        route.header.address_family = family(address);
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.scope = if address.is_ipv4() { RouteScope::Host } else { RouteScope::Universe };
        route.header.kind = RouteType::Local;
        route.attributes = vec![RouteAttribute::Oif(1), RouteAttribute::PrefSource(address.into())];
        ask(RouteNetlinkMessage::NewRoute(route));
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn ask(message: RouteNetlinkMessage) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
    netlink.transact(vec![message]).unwrap();
}

/// A connection to `address`, which something is expected to take and to answer on.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits for a connection at any of `listeners`, and says at which it came.
pub fn accept(listeners: &[TcpListener]) -> (usize, TcpStream) {
    let mut accepted = None;
    for listener in listeners {
        listener.set_nonblocking(true).unwrap();
    }
    wait_until("a connection arrives", || {
        accepted = listeners.iter().enumerate().find_map(|(at, one)| Some((at, one.accept().ok()?.0)));
        accepted.is_some()
    });
    let (at, stream) = accepted.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (at, stream)
}

/// The network namespace of this thread, to be named to others.
pub fn own() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Its number for messages.
pub fn number(namespace: &File) -> RawFd {
    namespace.as_raw_fd()
}
