//! Whole exchanges over loopback sockets: a caller and endpoints made of the `h2` crate, or of bytes.

mod bridge;
mod bridge_back;
mod bridge_bodies;
mod cancel;
mod drain;
mod limits;
mod place;
mod relay;
mod retry;
mod world;
