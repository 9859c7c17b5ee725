//! Transparent interception: nftables rules over netlink, original destinations, DNS.

pub mod dns;
pub mod nft;
