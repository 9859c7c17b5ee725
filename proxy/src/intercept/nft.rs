//! nftables rules over netlink: one table, set in one transaction, replaced as a whole, removed as a whole.

mod expr;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use lighter_config::sidecar::{InterceptConfig, SidecarConfig};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, InetHookNumber, ListAttribute, MetaKey, NfTablesMessage,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use serde::Serialize;

use super::InterceptError;
use super::netlink::{Netlink, Refused};
use expr::{Protocol, Rule};

/// The table, of family `inet`.
pub const TABLE: &str = "lighter";

/// The ports that rules lead to, and those that nothing may be led away from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Where outbound connections go.
    pub outbound: u16,
    /// Where inbound connections go.
    pub inbound: u16,
    /// Where DNS queries go, if they go anywhere.
    pub dns: Option<u16>,
    /// On which the sidecar itself is asked from outside: never redirected.
    pub own: Vec<u16>,
}

/// Rules that stand in a network namespace. They stay when this is dropped: a sidecar that is started again finds
/// traffic still led to it, and none slips by meanwhile.
pub struct Installed {
    netlink: Mutex<Netlink>,
}

/// A redirecting rule, and how often it did so. NAT rules see the first packet of a connection only, so `packets`
/// counts connections (for DNS: sockets that asked).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCounter {
    /// `outbound`, `inbound`, `dns-udp` or `dns-tcp`.
    pub rule: String,
    /// Connections redirected.
    pub packets: u64,
    /// Bytes of their first packets.
    pub bytes: u64,
}

/// Sets the rules in this thread's network namespace, in place of any that an earlier sidecar left.
pub fn install(config: &InterceptConfig, ports: &Ports) -> Result<Installed, InterceptError> {
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    // A table that is not there cannot be deleted, and one that is there cannot be assumed empty: so it is made,
    // deleted and made again. Other readers see only the state before or after.
    let mut steps = vec![new_table(), delete_table(), new_table()];
    for (chain, hook, rules) in chains(config, ports) {
        steps.push(new_chain(chain, hook));
        steps.extend(rules.into_iter().map(|rule| new_rule(chain, rule)));
    }
    batch(&mut netlink, steps)?;
    Ok(Installed { netlink: Mutex::new(netlink) })
}

/// Takes the rules away from this thread's network namespace. Nothing to take away is no error.
pub fn remove() -> Result<(), InterceptError> {
    delete(&mut Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?)
}

impl Ports {
    /// The ports that `config` says.
    pub fn of(config: &SidecarConfig) -> Self {
        let dns = config.dns.as_ref().map_or(DNS_PORT, |dns| dns.listen.port());
        let redirects_dns = config.intercept.as_ref().is_some_and(|intercept| intercept.dns);
        let explicit = config.inbound.iter().map(|inbound| inbound.listen.port());
        let own = [config.outbound_port, config.inbound_port, config.admin.port(), dns].into_iter();
        let others = [config.probe, config.link].into_iter().flatten().map(|address| address.port());
        Ports {
            outbound: config.outbound_port,
            inbound: config.inbound_port,
            dns: redirects_dns.then_some(dns),
            own: own.chain(others).chain(explicit).collect(),
        }
    }
}

/// Where DNS queries go if the configuration says nothing else.
pub const DNS_PORT: u16 = 15053;

impl Installed {
    /// Rules that stand in this namespace, made by another process.
    pub fn by_another() -> io::Result<Self> {
        Ok(Installed { netlink: Mutex::new(Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?) })
    }

    /// What the redirecting rules counted, in the order in which they stand.
    pub fn counters(&self) -> Result<Vec<RuleCounter>, InterceptError> {
        let table = RuleAttribute::Table(TABLE.into());
        let mut request = message(NfTablesMessage::GetRule(RuleMessage { attributes: vec![table] }));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let rules = self.lock().dump(request).map_err(explain_io)?;
        Ok(rules.iter().filter_map(counter).collect())
    }

    /// Takes the rules away.
    pub fn remove(self) -> Result<(), InterceptError> {
        delete(&mut self.netlink.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives the connection to the rules' namespace to another process. The rules stay.
    pub fn into_fd(self) -> OwnedFd {
        self.netlink.into_inner().unwrap_or_else(PoisonError::into_inner).into_fd()
    }

    /// Takes over what [`Installed::into_fd`] gave.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Ok(Installed { netlink: Mutex::new(Netlink::from_fd(fd)?) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Netlink> {
        // A reader that panicked leaves a socket whose stale answers are told apart by their numbers.
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every chain with its hook and its rules, in order.
fn chains(config: &InterceptConfig, ports: &Ports) -> Vec<(&'static str, InetHookNumber, Vec<Rule>)> {
    let mut chains = Vec::new();
    let dns = ports.dns.filter(|_| config.dns);
    if config.outbound || dns.is_some() {
        chains.push(("output", InetHookNumber::LocalOut, output(config, ports, dns)));
    }
    if config.inbound {
        chains.push(("prerouting", InetHookNumber::PreRouting, prerouting(config, ports)));
    }
    chains
}

/// Connections that are made in this namespace. The first rule that takes one decides.
fn output(config: &InterceptConfig, ports: &Ports, dns: Option<u16>) -> Vec<Rule> {
    let mut rules = Vec::new();
    // The sidecar's own, or it would meet itself for ever.
    rules.push(Rule::new("own").meta(MetaKey::Mark, &config.mark.to_ne_bytes()).leave());
    for uid in &config.exclude_uids {
        rules.push(Rule::new("excluded user").meta(MetaKey::SocketUserId, &uid.to_ne_bytes()).leave());
    }
    for port in &config.exclude_outbound_ports {
        rules.push(Rule::new("excluded port").destination_port(*port).leave());
    }
    // Before the loopback and other ranges: a resolver on 127.0.0.53 or in an excluded range is one all the same.
    if let Some(port) = dns {
        for (name, protocol) in [("dns-udp", Protocol::Udp), ("dns-tcp", Protocol::Tcp)] {
            rules.push(Rule::new(name).protocol(protocol).destination_port(53).redirect(port));
        }
    }
    let loopback = [(IpAddr::from(Ipv4Addr::new(127, 0, 0, 0)), 8), (Ipv6Addr::LOCALHOST.into(), 128)];
    for (address, length) in loopback {
        rules.push(Rule::new("loopback").destination(address, length).leave());
    }
    // A link-local address means nothing without its link, which a redirect does not tell (RFC 4007 §6).
    rules.push(Rule::new("link-local").destination(LINK_LOCAL, 10).leave());
    let multicast = [(IpAddr::from(Ipv4Addr::new(224, 0, 0, 0)), 4), (MULTICAST, 8)];
    for (address, length) in multicast {
        rules.push(Rule::new("multicast").destination(address, length).leave());
    }
    for (address, length) in &config.exclude_cidrs {
        rules.push(Rule::new("excluded range").destination(*address, *length).leave());
    }
    if config.outbound {
        rules.push(Rule::new("outbound").protocol(Protocol::Tcp).redirect(ports.outbound));
    }
    rules
}

/// Connections that are made to this namespace.
fn prerouting(config: &InterceptConfig, ports: &Ports) -> Vec<Rule> {
    let mut rules = Vec::new();
    for port in &ports.own {
        rules.push(Rule::new("own port").protocol(Protocol::Tcp).destination_port(*port).leave());
    }
    for port in &config.exclude_inbound_ports {
        rules.push(Rule::new("excluded port").protocol(Protocol::Tcp).destination_port(*port).leave());
    }
    rules.push(Rule::new("inbound").protocol(Protocol::Tcp).redirect(ports.inbound));
    rules
}

/// A message of a transaction, and what it is for, in words.
type Step = (String, NetlinkMessage<NetfilterMessage>);

fn new_table() -> Step {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
    let mut message = message(NfTablesMessage::NewTable(table));
    message.header.flags |= NLM_F_CREATE;
    (format!("table inet {TABLE}"), message)
}

fn delete_table() -> Step {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
    (format!("the removal of table inet {TABLE}"), message(NfTablesMessage::DeleteTable(table)))
}

fn new_chain(name: &str, hook: InetHookNumber) -> Step {
    let attributes = vec![
        ChainAttribute::Table(TABLE.into()),
        ChainAttribute::Name(name.into()),
        ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(DSTNAT as u32)]),
        ChainAttribute::Policy(NF_ACCEPT),
        ChainAttribute::Type("nat".into()),
    ];
    let mut message = message(NfTablesMessage::NewChain(ChainMessage { attributes }));
    message.header.flags |= NLM_F_CREATE;
    (format!("nat chain {name}"), message)
}

fn new_rule(chain: &str, rule: Rule) -> Step {
    let what = format!("rule \"{}\" in chain {chain}", rule.name());
    let attributes = vec![
        RuleAttribute::Table(TABLE.into()),
        RuleAttribute::Chain(chain.into()),
        RuleAttribute::UserData(expr::comment(rule.name())),
        RuleAttribute::Expressions(rule.into_expressions()),
    ];
    let mut message = message(NfTablesMessage::NewRule(RuleMessage { attributes }));
    message.header.flags |= NLM_F_CREATE | NLM_F_APPEND;
    (what, message)
}

fn message(inner: NfTablesMessage) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    message.header.flags = NLM_F_REQUEST;
    message
}

/// Carries out `steps` all together or not at all.
fn batch(netlink: &mut Netlink, mut steps: Vec<Step>) -> Result<(), InterceptError> {
    // Refusals are always told; one acknowledgement, of the last step, stands for all. More could overflow the
    // socket's buffer when there are many rules.
    if let Some((_, last)) = steps.last_mut() {
        last.header.flags |= NLM_F_ACK;
    }
    let edge = |inner| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
        let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
        message.header.flags = NLM_F_REQUEST;
        message
    };
    let (names, messages): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    let begin = std::iter::once(edge(ControlMessage::BatchBegin));
    let whole = begin.chain(messages).chain(std::iter::once(edge(ControlMessage::BatchEnd))).collect();
    netlink.transact(whole).map_err(|refused| explain(refused, &names))
}

fn delete(netlink: &mut Netlink) -> Result<(), InterceptError> {
    match batch(netlink, vec![delete_table()]) {
        Err(InterceptError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Says what a refusal means. The first message of a batch is its beginning; `names` are those of the ones between.
fn explain(refused: Refused, names: &[String]) -> InterceptError {
    let step = refused.index.and_then(|index| names.get(index.checked_sub(1)?));
    let what = step.cloned().unwrap_or_else(|| "nftables rules".into());
    let source = refused.source;
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => InterceptError::Permission,
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            InterceptError::Kernel { what, source }
        }
        Some(_) if refused.index.is_some() => InterceptError::Refused { what, source },
        _ => InterceptError::Netlink(source),
    }
}

fn explain_io(source: io::Error) -> InterceptError {
    explain(Refused { index: None, source }, &[])
}

/// The name and counter of a rule that has both.
fn counter(message: &NetfilterMessage) -> Option<RuleCounter> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = &message.inner else { return None };
    let mut name = None;
    let mut counted = None;
    for attribute in &rule.attributes {
        match attribute {
            // The kernel may be old enough to ignore the filter of the request.
            RuleAttribute::Table(table) if table != TABLE => return None,
            RuleAttribute::UserData(data) => name = expr::parse_comment(data),
            RuleAttribute::Expressions(list) => {
                counted = list.iter().find_map(|element| match element {
                    ListAttribute::Element(parts) => expr::parse_counter(parts),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let (packets, bytes) = counted?;
    Some(RuleCounter { rule: name?, packets, bytes })
}

/// RFC 4291 §2.5.6.
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
/// RFC 4291 §2.7.
const MULTICAST: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0));

/// Priority of destination NAT among the functions of a hook (`NF_IP_PRI_NAT_DST`).
const DSTNAT: i32 = -100;
const NF_ACCEPT: u32 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> InterceptConfig {
        InterceptConfig {
            outbound: true,
            inbound: true,
            dns: true,
            exclude_outbound_ports: vec![25],
            exclude_inbound_ports: vec![22],
            exclude_cidrs: vec![("10.0.0.0".parse().unwrap(), 8)],
            exclude_uids: vec![1337],
            mark: 0x4c69,
        }
    }

    fn names(config: &InterceptConfig, ports: &Ports) -> Vec<(&'static str, Vec<String>)> {
        let named = |rules: Vec<Rule>| rules.iter().map(|rule| rule.name().to_owned()).collect();
        chains(config, ports).into_iter().map(|(chain, _, rules)| (chain, named(rules))).collect()
    }

    #[test]
    fn what_is_left_alone_comes_before_what_is_redirected() {
        let ports = Ports { outbound: 15001, inbound: 15006, dns: Some(15053), own: vec![15000] };
        let expected: Vec<(&str, Vec<String>)> = vec![
            (
                "output",
                [
                    "own",
                    "excluded user",
                    "excluded port",
                    "dns-udp",
                    "dns-tcp",
                    "loopback",
                    "loopback",
                    "link-local",
                    "multicast",
                    "multicast",
                    "excluded range",
                    "outbound",
                ]
                .map(String::from)
                .into(),
            ),
            ("prerouting", ["own port", "excluded port", "inbound"].map(String::from).into()),
        ];
        assert_eq!(names(&config(), &ports), expected);
    }

    #[test]
    fn a_direction_that_is_switched_off_has_no_chain() {
        let config = InterceptConfig { outbound: false, dns: false, ..config() };
        let chains = names(&config, &Ports::default());
        assert_eq!(chains.iter().map(|(chain, _)| *chain).collect::<Vec<_>>(), ["prerouting"]);
    }

    #[test]
    fn a_refusal_names_its_rule_and_what_to_do() {
        let names = ["table inet lighter".to_owned(), "nat chain output".to_owned()];
        let refused =
            |index, errno| Refused { index: Some(index), source: io::Error::from_raw_os_error(errno) };
        let missing = explain(refused(2, libc::ENOENT), &names).to_string();
        assert!(missing.contains("nat chain output") && missing.contains("nft_chain_nat"), "{missing}");
        let denied = explain(refused(0, libc::EPERM), &names).to_string();
        assert!(denied.contains("CAP_NET_ADMIN"), "{denied}");
        let invalid = explain(refused(1, libc::EINVAL), &names).to_string();
        assert!(invalid.contains("table inet lighter"), "{invalid}");
    }
}
