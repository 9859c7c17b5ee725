//! HTTP/1.x: our own codec and relay.
//!
//! The codec does no I/O: [`head`] reads heads, [`body`] finds where bodies end, [`edit`] makes a head for the next
//! hop. Whoever carries HTTP/1 on one side only (the bridge to HTTP/2) uses the same three.

pub mod body;
pub mod edit;
pub mod head;
pub mod pool;
mod relay;
mod scan;

pub use pool::Pool;
pub use relay::serve;

#[cfg(test)]
mod tests;
