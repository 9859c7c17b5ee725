//! What a route can do to a request, one tower Layer a file.

mod chain;
pub mod filter;
mod head;
mod path;
pub mod redirect;
pub mod request_headers;
pub mod response_headers;
pub mod rewrite;

pub use chain::Chain;
pub use head::{Fields, LocalAnswer, RequestHead, ResponseHead};
