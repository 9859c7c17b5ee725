//! Places between which a real application's state goes, over real sockets.

pub(crate) mod app;
mod place;
mod transfer;
