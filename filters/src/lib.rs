//! What a route can do to a request, one tower Layer a file.

mod bucket;
mod chain;
pub mod fault;
pub mod filter;
mod head;
mod memory;
pub mod mirror;
mod path;
pub mod rate_limit;
pub mod redirect;
pub mod request_headers;
pub mod response_headers;
pub mod rewrite;
pub mod size_limits;

pub use bucket::Buckets;
pub use chain::Chain;
pub use head::{Facts, Fields, LocalAnswer, Orders, Refusal, RequestHead, ResponseHead};
pub use memory::Memory;
