//! xDS: the wire types, and what they mean in terms of resources and snapshots. No sockets.

pub mod client;
mod kind;
pub mod server;

pub use kind::Kind;

/// Messages as compiled from `config/proto`, by package.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/xds.rs"));
}
