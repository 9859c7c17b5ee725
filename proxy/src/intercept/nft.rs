//! nftables rules over netlink.
