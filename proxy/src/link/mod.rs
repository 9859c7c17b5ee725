//! Connections between sidecars that prove to each other who they are: within TLS, in HTTP, or as links. A link is one
//! session of frames over one TLS connection; PROTOCOL.md beside this file is its byte-level contract.

pub mod accept;
pub(crate) mod dial;
pub mod frame;
pub mod head;
pub mod session;
