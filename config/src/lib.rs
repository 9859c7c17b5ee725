//! What can be said to Lighter: resources, their validation, and the snapshots a sidecar runs by. No sockets, no
//! async.

pub mod build;
pub mod control;
mod document;
pub mod error;
pub mod hex;
pub mod identity;
pub mod load;
pub mod manifest;
pub mod name;
pub mod probe;
pub mod resource;
pub mod scenario;
pub mod schema;
pub mod shared;
pub mod sidecar;
pub mod snapshot;
mod suggest;
mod wording;
pub mod xds;
