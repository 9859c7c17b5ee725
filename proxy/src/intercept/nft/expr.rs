//! Rules as the kernel's small machine runs them: load a value into a register, compare, and at the end redirect or
//! leave alone. `redir` and `counter` are ours; the rest comes with `netlink-packet-netfilter`.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Meta, MetaKey,
    Operator, Payload, Register, Verdict, VerdictAttribute,
};

/// A rule in the making: conditions first, then one of [`Rule::leave`] and [`Rule::redirect`].
pub(super) struct Rule {
    name: &'static str,
    expressions: Vec<Expressions>,
}

/// A transport protocol, by its number.
#[derive(Clone, Copy)]
pub(super) enum Protocol {
    Tcp = 6,
    Udp = 17,
}

impl Rule {
    /// A rule that takes everything, called `name` in listings.
    pub(super) fn new(name: &'static str) -> Self {
        Rule { name, expressions: Vec::new() }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Only where the packet's `key` is `value`.
    pub(super) fn meta(self, key: MetaKey, value: &[u8]) -> Self {
        self.with(Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]))
            .equals(value)
    }

    /// Only packets of `protocol`.
    pub(super) fn protocol(self, protocol: Protocol) -> Self {
        self.meta(MetaKey::L4Proto, &[protocol as u8])
    }

    /// Only packets to `port`, of whatever protocol that has ports in the usual place.
    pub(super) fn destination_port(self, port: u16) -> Self {
        self.payload(TRANSPORT_HEADER, 2, 2).equals(&port.to_be_bytes())
    }

    /// Only packets to the range that begins with the first `length` bits of `address`.
    pub(super) fn destination(self, address: IpAddr, length: u8) -> Self {
        let (family, offset, octets) = match address {
            IpAddr::V4(v4) => (NFPROTO_IPV4, 16, v4.octets().to_vec()),
            IpAddr::V6(v6) => (NFPROTO_IPV6, 24, v6.octets().to_vec()),
        };
        let mask = mask(length, octets.len());
        let network: Vec<u8> = octets.iter().zip(&mask).map(|(octet, mask)| octet & mask).collect();
        self.meta(MetaKey::Nfproto, &[family])
            .payload(NETWORK_HEADER, offset, octets.len() as u32)
            .masked(mask)
            .equals(&network)
    }

    /// Takes the packet out of this chain, unchanged.
    pub(super) fn leave(self) -> Self {
        let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Return)]);
        self.immediate(Register::Verdict, verdict)
    }

    /// Counts the packet and leads its connection to `port` of this namespace.
    pub(super) fn redirect(self, port: u16) -> Self {
        let counter = Expressions::Other {
            expression_type: COUNTER.into(),
            attributes: vec![
                DefaultNla::new(NFTA_COUNTER_BYTES, 0u64.to_be_bytes().to_vec()),
                DefaultNla::new(NFTA_COUNTER_PACKETS, 0u64.to_be_bytes().to_vec()),
            ],
        };
        let redirect = Expressions::Other {
            expression_type: "redir".into(),
            attributes: vec![
                DefaultNla::new(NFTA_REDIR_REG_PROTO_MIN, u32::from(Register::Reg1).to_be_bytes().to_vec()),
                DefaultNla::new(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED.to_be_bytes().to_vec()),
            ],
        };
        self.with(counter)
            .immediate(Register::Reg1, DataAttribute::Value(port.to_be_bytes().to_vec()))
            .with(redirect)
    }

    /// The rule as the kernel takes it.
    pub(super) fn into_expressions(self) -> Vec<ListAttribute<ExpressionAttribute>> {
        self.expressions.into_iter().map(ListAttribute::from).collect()
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        self.with(Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(length),
        ]))
    }

    fn masked(self, mask: Vec<u8>) -> Self {
        self.with(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(mask.len() as u32),
            Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
            Bitwise::Mask(DataAttribute::Value(mask)),
        ]))
    }

    fn equals(self, value: &[u8]) -> Self {
        self.with(Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(value.to_vec())),
        ]))
    }

    fn immediate(self, register: Register, data: DataAttribute) -> Self {
        self.with(Expressions::Immediate(vec![
            Immediate::DestinationRegister(register),
            Immediate::Data(data),
        ]))
    }

    fn with(mut self, expression: Expressions) -> Self {
        self.expressions.push(expression);
        self
    }
}

/// A rule's user data as `nft` writes and lists it: type, length, and text with a zero at the end.
pub(super) fn comment(text: &str) -> Vec<u8> {
    // Names are our own and short.
    let mut data = vec![UDATA_COMMENT, text.len() as u8 + 1];
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}

/// The text of a rule's comment.
pub(super) fn parse_comment(data: &[u8]) -> Option<String> {
    let (&[kind, length], rest) = data.split_first_chunk::<2>()?;
    let text = rest.get(..usize::from(length))?.strip_suffix(&[0])?;
    (kind == UDATA_COMMENT).then(|| String::from_utf8_lossy(text).into_owned())
}

/// Packets and bytes, if `expression` is a counter.
pub(super) fn parse_counter(expression: &[ExpressionAttribute]) -> Option<(u64, u64)> {
    let counter = expression.iter().find_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Other { expression_type, attributes })
            if expression_type == COUNTER =>
        {
            Some(attributes)
        }
        _ => None,
    })?;
    let value = |kind| {
        let attribute = counter.iter().find(|attribute| attribute.kind() == kind)?;
        let mut value = [0; 8];
        (attribute.value_len() == value.len()).then(|| attribute.emit_value(&mut value))?;
        Some(u64::from_be_bytes(value))
    };
    Some((value(NFTA_COUNTER_PACKETS)?, value(NFTA_COUNTER_BYTES)?))
}

/// `length` ones, then zeros, in `octets` octets.
fn mask(length: u8, octets: usize) -> Vec<u8> {
    let ones = |octet: usize| usize::from(length).saturating_sub(8 * octet).min(8) as u32;
    (0..octets).map(|octet| (0xff00u16 >> ones(octet)) as u8).collect()
}

// From the kernel's include/uapi/linux/netfilter/nf_tables.h, nf_nat.h and netfilter.h, and libnftnl's udata.h.
const COUNTER: &str = "counter";
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_FLAGS: u16 = 3;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const UDATA_COMMENT: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_as_many_ones_as_said() {
        assert_eq!(mask(0, 4), [0, 0, 0, 0]);
        assert_eq!(mask(8, 4), [255, 0, 0, 0]);
        assert_eq!(mask(19, 4), [255, 255, 0b1110_0000, 0]);
        assert_eq!(mask(32, 4), [255; 4]);
        assert_eq!(mask(128, 16), [255; 16]);
    }

    #[test]
    fn a_comment_reads_back() {
        assert_eq!(parse_comment(&comment("outbound")).as_deref(), Some("outbound"));
        assert_eq!(parse_comment(&[]), None);
        assert_eq!(parse_comment(&[0, 9, b'x']), None);
    }

    #[test]
    fn a_range_is_compared_by_its_network() {
        let rule = Rule::new("range").destination("10.1.2.3".parse().unwrap(), 8);
        let compared = rule.expressions.iter().rev().find_map(|expression| match expression {
            Expressions::Cmp(parts) => Some(parts.clone()),
            _ => None,
        });
        assert!(compared.unwrap().contains(&Cmp::Data(DataAttribute::Value(vec![10, 0, 0, 0]))));
    }
}
