//! Of a Service with state: what this instance is to it, and what becomes of its callers' requests meanwhile.

pub(crate) mod ahead;
pub mod copies;
mod count;
mod counts;
pub(crate) mod entry;
pub(crate) mod gate;
pub mod held;
pub mod hooks;
pub(crate) mod host;
mod hosted;
pub(crate) mod journal;
mod keep;
pub(crate) mod leave;
pub(crate) mod moved;
pub mod redis;
pub(crate) mod run;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod transfer;
pub mod wire;

pub use hosted::Hosted;
pub use keep::incarnation;
pub(crate) use keep::keep;
