//! Connections between sidecars that prove to each other who they are: within TLS, in HTTP, or as links. A link is one
//! session of frames over one TLS connection; PROTOCOL.md beside this file is its byte-level contract.

pub mod accept;
pub mod carrier;
pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod exchange;
pub mod frame;
pub(crate) mod halves;
pub mod head;
mod life;
pub mod negotiate;
pub(crate) mod pool;
pub(crate) mod quic;
pub(crate) mod records;
pub(crate) mod send;
pub(crate) mod serve;
pub mod session;
pub(crate) mod standing;
pub(crate) mod stream;
mod upgrade;
pub mod wire;
