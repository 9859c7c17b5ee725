//! The Lighter sidecar: it comes alongside an unchanged service, takes its connections, finds out what they
//! speak, routes and balances each request, streams it, and counts it.
//!
//! The data path reads top to bottom in `outbound` and `inbound`.

pub mod admin;
mod authorize;
pub mod balance;
pub mod buf;
mod carry;
mod channel;
pub mod command;
pub mod connect;
pub mod detect;
pub mod device;
pub mod dial;
pub mod discover;
pub mod drain;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod guard;
pub mod handover;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod intercept;
pub mod io;
mod kept;
pub mod link;
pub mod listeners;
#[cfg(test)]
mod loopback;
pub mod mesh;
pub mod messages;
mod mirror;
mod offload;
pub mod outbound;
mod overload;
pub mod redis;
mod registry;
mod resident;
mod resources;
pub mod retry;
pub mod session;
pub mod sni;
pub mod stateful;
pub mod tcp;
pub mod telemetry;
pub mod worker;
