//! Packets that get lost on their way into a network namespace, at random, by a rule of nftables (`numgen random`).

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, Nla,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, Immediate,
    InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Register, RuleAttribute,
    RuleMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use lighter_proxy::intercept::netlink::Netlink;

/// While this lives, of the packets that come in by one interface of one namespace one in so many is lost.
pub struct Loss {
    /// Of that namespace.
    netlink: Netlink,
}

impl Loss {
    /// One in `one_in` of those that come by the interface `name` of this thread's namespace.
    ///
    /// On the way in: where it goes out, whoever sends a datagram that a rule takes is told.
    pub fn of(name: &str, one_in: u32) -> Self {
        let mut loss = Loss { netlink: Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER).unwrap() };
        let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
        let chain = ChainMessage {
            attributes: vec![
                ChainAttribute::Table(TABLE.into()),
                ChainAttribute::Name(CHAIN.into()),
                ChainAttribute::Hook(vec![
                    Hook::Number(InetHookNumber::PreRouting.into()),
                    Hook::Priority(0),
                ]),
                ChainAttribute::Policy(NF_ACCEPT),
                ChainAttribute::Type("filter".into()),
            ],
        };
        let all = [came_by(name), vec![counter()]].concat();
        let lost = [came_by(name), one_of(one_in), vec![counter(), drop_it()]].concat();
        loss.batch(vec![
            NfTablesMessage::NewTable(table),
            NfTablesMessage::NewChain(chain),
            rule(all),
            rule(lost),
        ]);
        loss
    }

    /// How many packets came, and how many of these were lost.
    pub fn counted(&mut self) -> (u64, u64) {
        let table = RuleAttribute::Table(TABLE.into());
        let mut request = message(NfTablesMessage::GetRule(RuleMessage { attributes: vec![table] }), 0);
        request.header.flags |= NLM_F_DUMP;
        let rules = self.netlink.dump(request).unwrap();
        let counted: Vec<u64> = rules.iter().filter_map(packets).collect();
        let [all, lost] = counted[..] else { panic!("two rules that count, not {counted:?}") };
        (all, lost)
    }

    fn batch(&mut self, steps: Vec<NfTablesMessage>) {
        let edge = |inner| {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
            let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
            message.header.flags = NLM_F_REQUEST;
            message
        };
        let mut whole = vec![edge(ControlMessage::BatchBegin)];
        whole.extend(steps.into_iter().map(|step| message(step, NLM_F_CREATE | NLM_F_APPEND)));
        whole.last_mut().unwrap().header.flags |= NLM_F_ACK;
        whole.push(edge(ControlMessage::BatchEnd));
        self.netlink.transact(whole).unwrap();
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
        self.batch(vec![NfTablesMessage::DeleteTable(table)]);
    }
}

fn rule(expressions: Vec<Expressions>) -> NfTablesMessage {
    let attributes = vec![
        RuleAttribute::Table(TABLE.into()),
        RuleAttribute::Chain(CHAIN.into()),
        RuleAttribute::Expressions(expressions.into_iter().map(ListAttribute::from).collect()),
    ];
    NfTablesMessage::NewRule(RuleMessage { attributes })
}

/// Only what came by the interface `name`, and not by the loopback.
fn came_by(name: &str) -> Vec<Expressions> {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    let load = vec![Meta::Key(MetaKey::Iifname), Meta::DestinationRegister(Register::Reg1)];
    vec![Expressions::Meta(load), is(&padded)]
}

/// Only one in `count`, by chance.
fn one_of(count: u32) -> Vec<Expressions> {
    let number = |kind, number: u32| DefaultNla::new(kind, number.to_be_bytes().to_vec());
    let attributes = vec![
        number(NFTA_NG_DREG, Register::Reg1.into()),
        number(NFTA_NG_MODULUS, count),
        number(NFTA_NG_TYPE, NFT_NG_RANDOM),
    ];
    vec![Expressions::Other { expression_type: "numgen".into(), attributes }, is(&[0; 4])]
}

fn is(value: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
}

fn counter() -> Expressions {
    let zero = |kind| DefaultNla::new(kind, 0u64.to_be_bytes().to_vec());
    let attributes = vec![zero(NFTA_COUNTER_BYTES), zero(NFTA_COUNTER_PACKETS)];
    Expressions::Other { expression_type: COUNTER.into(), attributes }
}

fn drop_it() -> Expressions {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))]);
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)])
}

fn message(inner: NfTablesMessage, flags: u16) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    message.header.flags = NLM_F_REQUEST | flags;
    message
}

/// What the counter of a rule says.
fn packets(message: &NetfilterMessage) -> Option<u64> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = &message.inner else { return None };
    let lists = rule.attributes.iter().filter_map(|attribute| match attribute {
        RuleAttribute::Expressions(list) => Some(list),
        _ => None,
    });
    let parts = lists.flatten().filter_map(|element| match element {
        ListAttribute::Element(parts) => Some(parts),
        _ => None,
    });
    let counters = parts.flatten().filter_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Other { expression_type, attributes })
            if expression_type == COUNTER =>
        {
            attributes.iter().find(|attribute| attribute.kind() == NFTA_COUNTER_PACKETS)
        }
        _ => None,
    });
    let mut value = [0; 8];
    counters.for_each(|attribute| attribute.emit_value(&mut value));
    Some(u64::from_be_bytes(value))
}

const TABLE: &str = "loss";
const CHAIN: &str = "in";

// From the kernel's include/uapi/linux/netfilter.h, netfilter/nf_tables.h and netfilter/nfnetlink.h.
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const COUNTER: &str = "counter";
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFTA_NG_DREG: u16 = 1;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_TYPE: u16 = 3;
const NFT_NG_RANDOM: u32 = 1;
