//! Links: one session of frames between two sidecars, over one TLS connection. PROTOCOL.md beside this file is the
//! byte-level contract.

pub mod frame;
pub mod head;
pub mod session;
