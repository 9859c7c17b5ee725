//! Places between which a real application's state goes, over real sockets.

pub(crate) mod app;
mod place;
pub(crate) mod transfer;
