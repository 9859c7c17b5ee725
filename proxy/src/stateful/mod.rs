//! Of a Service with state: what this instance is to it, and what becomes of its callers' requests meanwhile.

pub mod wire;
