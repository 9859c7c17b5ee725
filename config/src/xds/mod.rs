//! xDS: the wire types, and what they mean in terms of resources and snapshots. No sockets.

pub mod client;
pub mod decode;
pub mod encode;
pub mod facts;
mod kind;
pub mod names;
pub mod server;
pub mod type_url;
pub mod unknown;

pub use kind::Kind;

/// Messages as compiled from `config/proto`, by package.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/xds.rs"));
}
