//! The Lighter sidecar: it comes alongside an unchanged service, takes its connections, finds out what they
//! speak, routes and balances each request, streams it, and counts it.
//!
//! The data path reads top to bottom in `outbound` and `inbound`.

pub mod buf;
pub mod error;
pub mod io;
