//! The sidecar's DNS server.
