//! A thin link: an interface to another network namespace that carries no more than it is told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use lighter_proxy::intercept::netlink::Netlink;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::run::namespace;

/// The address at the far end.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 71, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 71, 1);

/// Two network namespaces and the link between them. This thread is at the near end, but for what is done [`Link::far`].
pub struct Link {
    near: OwnedFd,
    far: OwnedFd,
}

impl Link {
    /// Moves this process, which has one thread, to the near end of a link that carries so many bits a second towards
    /// that end.
    pub fn new(bits_per_second: u64) -> Result<Self, String> {
        namespace::enter_empty().map_err(|error| error.to_string())?;
        Self::furnish(bits_per_second).map_err(|error| format!("a link cannot be made: {error}"))
    }

    fn furnish(bits_per_second: u64) -> io::Result<Self> {
        raise("lo", None)?;
        let near = own()?;
        // SAFETY: descriptors stay shared, so none of this process becomes invalid.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        raise("lo", None)?;
        let far = own()?;
        ask(to(near.as_raw_fd()))?;
        raise("far0", Some(FAR))?;
        ask(shape(index("far0")?, bits_per_second))?;
        let link = Link { near, far };
        link.go(&link.near)?;
        raise("near0", Some(NEAR))?;
        Ok(link)
    }

    /// Does something at the far end.
    pub fn far<T>(&self, what: impl FnOnce() -> T) -> io::Result<T> {
        self.go(&self.far)?;
        let done = what();
        self.go(&self.near)?;
        Ok(done)
    }

    fn go(&self, to: &OwnedFd) -> io::Result<()> {
        Ok(move_into_link_name_space(to.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Bytes that TCP has carried over the link to the near end, as the kernel counts them: without the heads of packets.
    pub fn received(&self) -> io::Result<u64> {
        let counts = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        received(&counts, "near0").ok_or_else(|| io::Error::other("the kernel does not count near0"))
    }
}

/// From the kernel's table of interfaces.
fn received(table: &str, interface: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_ascii_whitespace();
    let (bytes, packets): (u64, u64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    // Of Ethernet, IPv4, and TCP with time stamps.
    bytes.checked_sub(packets * (14 + 20 + 32))
}

fn own() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

/// An interface `far0` here, whose other end is `near0` in `namespace`.
fn to(namespace: RawFd) -> RouteNetlinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![LinkAttribute::IfName("near0".into()), LinkAttribute::NetNsFd(namespace)];
    let info = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)));
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName("far0".into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), info]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

/// Raises an interface, and gives it an address with the 256 around it.
fn raise(name: &str, address: Option<Ipv4Addr>) -> io::Result<()> {
    let index = index(name)?;
    ask(namespace::up(index))?;
    let Some(address) = address.map(IpAddr::from) else { return Ok(()) };
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 24;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    ask(RouteNetlinkMessage::NewAddress(message))
}

fn index(name: &str) -> io::Result<u32> {
    let any = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(rustix::net::netdevice::name_to_index(any, name)?)
}

/// Token bucket filter: an interface sends no faster.
fn shape(index: u32, bits_per_second: u64) -> RouteNetlinkMessage {
    let rate = u32::try_from(bits_per_second / 8).unwrap_or(u32::MAX);
    let mut message = TcMessage::default();
    message.header.index = index.cast_signed();
    message.header.parent = TcHandle::ROOT;
    let options = vec![
        TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, parameters(rate).to_vec())),
        TcOption::Other(DefaultNla::new(TCA_TBF_BURST, BURST.to_ne_bytes().to_vec())),
    ];
    message.attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(options)];
    RouteNetlinkMessage::NewQueueDiscipline(message)
}

/// `struct tc_tbf_qopt` of linux/pkt_sched.h: two rates of twelve bytes each, of which the second, the peak, is none; then
/// what may wait, in bytes, and two sizes for which there are attributes of their own.
fn parameters(bytes_per_second: u32) -> [u8; 36] {
    let mut parameters = [0; 36];
    parameters[1] = TC_LINKLAYER_ETHERNET;
    parameters[8..12].copy_from_slice(&bytes_per_second.to_ne_bytes());
    // As much as goes out in 400 ms.
    let limit = bytes_per_second / 5 * 2 + BURST;
    parameters[24..28].copy_from_slice(&limit.to_ne_bytes());
    parameters
}

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// So many bytes go out at once after a pause. A packet that the kernel has not cut up yet is as long as this at most.
const BURST: u32 = 128 << 10;

fn ask(message: RouteNetlinkMessage) -> io::Result<()> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    netlink.transact(vec![message]).map_err(|refused| refused.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tcp_carried_is_what_came_without_heads() {
        let table = "Inter-|   Receive\n face |bytes    packets errs\n    lo: 9 9 0\n near0: 1666 10 0 0\n";
        assert_eq!(received(table, "near0"), Some(1006));
        assert_eq!(received(table, "far0"), None);
    }

    #[test]
    fn the_kernel_reads_the_rate_where_it_stands() {
        let parameters = parameters(12_500_000);
        assert_eq!(parameters[8..12], 12_500_000_u32.to_ne_bytes());
        assert_eq!(parameters[24..28], 5_131_072_u32.to_ne_bytes());
    }
}
