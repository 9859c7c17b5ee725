//! Transparent interception: nftables rules over netlink, the sockets they lead to, original destinations, DNS, and
//! the probe that proves it all before a workload is called ready.
//!
//! A rule in the namespace's OUTPUT hook redirects every connection that the workload makes to the outbound port of
//! the sidecar, and a rule in PREROUTING every connection made to it to the inbound port. The kernel remembers the
//! destination that was meant ([`listen::original_destination`]). No `nft` or `iptables` binary is run.

pub mod dns;
pub mod listen;
pub mod netlink;
pub mod nft;
pub mod probe;

pub use nft::{Installed, Ports, RuleCounter, install, remove};

use std::io;
use std::net::SocketAddr;

/// Why interception could not be set up, read or taken away.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// The process may not change rules here.
    #[error(
        "cannot change nftables rules: CAP_NET_ADMIN is missing in this network namespace; run as root, add the \
         capability, or start the workload with `lighter run`"
    )]
    Permission,
    /// The kernel does not know what the rules are made of.
    #[error(
        "cannot set {what}: the kernel has no support for it ({source}); it needs CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT \
         and CONFIG_NFT_REDIR (modules nf_tables, nft_chain_nat, nft_redir); without them use explicit listeners or \
         the CONNECT port"
    )]
    Kernel {
        /// What was refused.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused a rule for another reason.
    #[error("the kernel refused {what}: {source}")]
    Refused {
        /// What was refused.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel could not be asked at all.
    #[error("cannot talk netlink to the kernel: {0}")]
    Netlink(#[from] io::Error),
    /// The rules stand, but a connection did not arrive where they lead.
    #[error(
        "interception does not work: a connection to {address} did not arrive at the outbound port ({detail}); another \
         rule set may come first (`nft list ruleset`), or the outbound port is held by another process"
    )]
    Probe {
        /// Where the probe connected to.
        address: SocketAddr,
        /// What happened instead.
        detail: String,
    },
}
