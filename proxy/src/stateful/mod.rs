//! Of a Service with state: what this instance is to it, and what becomes of its callers' requests meanwhile.

pub mod copies;
mod counts;
pub mod hooks;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;
pub mod wire;
