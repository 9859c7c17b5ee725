//! What the two sides of a link say to each other about its wires, in CONTROL frames. Checked when it is read.

use std::net::Ipv6Addr;

use lighter_config::xds::wire::lighter::link::v1 as wire;
use prost::Message as _;

use crate::link::wire::rdma::Card;

/// A number that is used once.
pub(crate) type Nonce = [u8; 16];

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The side that opened the link asks for a wire.
    Offer(Offer),
    /// The other side is ready for it.
    Accept(Accept),
    /// The other side does without.
    Decline(Decline),
}

/// A wire is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Its number.
    pub(crate) generation: u32,
    /// Which kind of wire.
    pub(crate) wire: String,
    /// Of the side that asks.
    pub(crate) nonce: Nonce,
    /// On which host that side is.
    pub(crate) host: String,
    /// How much is to lie in a ring at most, in each direction.
    pub(crate) ring_bytes: u32,
    /// This side's end, for RDMA.
    pub(crate) rdma: Option<Card>,
    /// How often it has gone through all ends that it could have, for RDMA.
    pub(crate) round: u32,
}

/// What was asked for can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    /// The number that was offered.
    pub(crate) generation: u32,
    /// Of the side that was asked.
    pub(crate) nonce: Nonce,
    /// The name of the door at which the memory is handed out.
    pub(crate) door: String,
    /// What was offered, or less.
    pub(crate) ring_bytes: u32,
    /// This side's end, for RDMA.
    pub(crate) rdma: Option<Card>,
}

/// What was asked for cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decline {
    /// The number that was offered.
    pub(crate) generation: u32,
    /// Why.
    pub(crate) cause: Refusal,
}

/// Why a wire is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The two are on different hosts.
    OtherHost,
    /// The policy there forbids the wire.
    Policy,
    /// There is no memory left for rings.
    Budget,
    /// The wire is not known there, or has no place.
    Unavailable,
    /// The wire did harm lately.
    Barred,
    /// The wire before it is not long enough ago.
    TooSoon,
    /// The offer made no sense. So does a cause that is not known.
    Malformed,
}

impl Message {
    /// Reads a CONTROL frame. None: it is of another kind, or makes no sense.
    pub(crate) fn read(kind: u16, bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MOST_BYTES {
            return None;
        }
        Some(match kind {
            OFFER => {
                let offer = wire::Offer::decode(bytes).ok()?;
                let wire::Offer { generation, wire, nonce, host, ring_bytes, rdma, round } = offer;
                let nonce = nonce.try_into().ok()?;
                let rdma = read_end(rdma)?;
                Message::Offer(Offer { generation, wire, nonce, host, ring_bytes, rdma, round })
            }
            ACCEPT => {
                let wire::Accept { generation, nonce, door, ring_bytes, rdma } =
                    wire::Accept::decode(bytes).ok()?;
                let nonce = nonce.try_into().ok()?;
                let rdma = read_end(rdma)?;
                Message::Accept(Accept { generation, nonce, door, ring_bytes, rdma })
            }
            DECLINE => {
                let decline = wire::Decline::decode(bytes).ok()?;
                let cause = Refusal::of(decline.cause());
                Message::Decline(Decline { generation: decline.generation, cause })
            }
            _ => return None,
        })
    }

    /// The kind of its CONTROL frame, and what stands in it.
    pub(crate) fn write(&self) -> (u16, Vec<u8>) {
        match self.clone() {
            Message::Offer(Offer { generation, wire, nonce, host, ring_bytes, rdma, round }) => {
                let (nonce, rdma) = (nonce.to_vec(), rdma.map(write_end));
                let offer = wire::Offer { generation, wire, nonce, host, ring_bytes, rdma, round };
                (OFFER, offer.encode_to_vec())
            }
            Message::Accept(Accept { generation, nonce, door, ring_bytes, rdma }) => {
                let (nonce, rdma) = (nonce.to_vec(), rdma.map(write_end));
                (ACCEPT, wire::Accept { generation, nonce, door, ring_bytes, rdma }.encode_to_vec())
            }
            Message::Decline(Decline { generation, cause }) => {
                (DECLINE, wire::Decline { generation, cause: cause.on_the_wire().into() }.encode_to_vec())
            }
        }
    }
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 7] = [
        Refusal::OtherHost,
        Refusal::Policy,
        Refusal::Budget,
        Refusal::Unavailable,
        Refusal::Barred,
        Refusal::TooSoon,
        Refusal::Malformed,
    ];

    /// The label, in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::OtherHost => "other_host",
            Refusal::Policy => "policy",
            Refusal::Budget => "budget",
            Refusal::Unavailable => "unavailable",
            Refusal::Barred => "barred",
            Refusal::TooSoon => "too_soon",
            Refusal::Malformed => "malformed",
        }
    }

    fn of(cause: wire::Cause) -> Self {
        match cause {
            wire::Cause::OtherHost => Refusal::OtherHost,
            wire::Cause::Policy => Refusal::Policy,
            wire::Cause::Budget => Refusal::Budget,
            wire::Cause::Unavailable => Refusal::Unavailable,
            wire::Cause::Barred => Refusal::Barred,
            wire::Cause::TooSoon => Refusal::TooSoon,
            wire::Cause::Malformed | wire::Cause::Unspecified => Refusal::Malformed,
        }
    }

    fn on_the_wire(self) -> wire::Cause {
        match self {
            Refusal::OtherHost => wire::Cause::OtherHost,
            Refusal::Policy => wire::Cause::Policy,
            Refusal::Budget => wire::Cause::Budget,
            Refusal::Unavailable => wire::Cause::Unavailable,
            Refusal::Barred => wire::Cause::Barred,
            Refusal::TooSoon => wire::Cause::TooSoon,
            Refusal::Malformed => wire::Cause::Malformed,
        }
    }
}

/// None: there is an end that cannot be.
fn read_end(end: Option<wire::RdmaEnd>) -> Option<Option<Card>> {
    let Some(wire::RdmaEnd { gid, pair, first_packet, address, key, mtu }) = end else { return Some(None) };
    let gid: [u8; 16] = gid.try_into().ok()?;
    let card = Card { gid: Ipv6Addr::from(gid), pair, first_packet, address, key, mtu };
    card.can_be().then_some(Some(card))
}

fn write_end(card: Card) -> wire::RdmaEnd {
    let Card { gid, pair, first_packet, address, key, mtu } = card;
    wire::RdmaEnd { gid: gid.octets().to_vec(), pair, first_packet, address, key, mtu }
}

/// Kinds of CONTROL frames.
const OFFER: u16 = 1;
const ACCEPT: u16 = 2;
const DECLINE: u16 = 3;

/// No message of these kinds is longer.
const MOST_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let offer = Offer {
            generation: 7,
            wire: "shm".into(),
            nonce: [3; 16],
            host: "6b0a".into(),
            ring_bytes: 1 << 18,
            rdma: None,
            round: 0,
        };
        let accept = Accept {
            generation: 7,
            nonce: [4; 16],
            door: "1-2.door".into(),
            ring_bytes: 1 << 16,
            rdma: None,
        };
        let card = Card {
            gid: Ipv6Addr::LOCALHOST,
            pair: 0xFF_FFFF,
            first_packet: 7,
            address: u64::MAX,
            key: 9,
            mtu: 5,
        };
        let by_rdma = [
            Message::Offer(Offer { wire: "rdma".into(), rdma: Some(card), round: 3, ..offer.clone() }),
            Message::Accept(Accept { door: String::new(), rdma: Some(card), ..accept.clone() }),
        ];
        let declines = Refusal::ALL.map(|cause| Message::Decline(Decline { generation: u32::MAX, cause }));
        let by_shm = [Message::Offer(offer), Message::Accept(accept)];
        for message in by_shm.into_iter().chain(by_rdma).chain(declines) {
            let (kind, bytes) = message.write();
            assert_eq!(Message::read(kind, &bytes), Some(message.clone()));
            assert_eq!(Message::read(kind + 3, &bytes), None, "another kind");
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_read() {
        let accept = |nonce: usize| {
            let accept = wire::Accept {
                generation: 1,
                nonce: vec![0; nonce],
                door: "d".into(),
                ring_bytes: 1,
                rdma: None,
            };
            Message::read(ACCEPT, &accept.encode_to_vec())
        };
        for (gid, pair, first_packet, mtu, can_be) in [
            (16, 1, 1, 5, true),
            (15, 1, 1, 5, false),
            (16, 1 << 24, 1, 5, false),
            (16, 1, 1 << 24, 5, false),
            (16, 1, 1, 6, false),
        ] {
            let rdma = wire::RdmaEnd { gid: vec![0; gid], pair, first_packet, address: 1, key: 1, mtu };
            let offer = wire::Offer { nonce: vec![0; 16], rdma: Some(rdma), ..Default::default() };
            assert_eq!(Message::read(OFFER, &offer.encode_to_vec()).is_some(), can_be);
        }
        assert!(accept(16).is_some());
        assert_eq!((accept(15), accept(17), accept(0)), (None, None, None));
        assert_eq!(Message::read(DECLINE, &[0; MOST_BYTES + 1]), None);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_too_much(kind in 0u16..5, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(message) = Message::read(kind, &bytes) {
                let (kind, bytes) = message.write();
                prop_assert_eq!(Message::read(kind, &bytes), Some(message));
            }
        }
    }
}
