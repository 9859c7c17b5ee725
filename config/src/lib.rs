//! What can be said to Lighter: resources, their validation, and the snapshots a sidecar runs by. No sockets, no
//! async.

pub mod name;
pub mod sidecar;
pub mod snapshot;
