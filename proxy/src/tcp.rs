//! Opaque bytes: pick an endpoint, connect, pass everything on, account.

mod pipe;
mod relay;

pub(crate) use pipe::Pipe;
pub(crate) use relay::{Relayed, relay};
