//! Where caller and endpoint speak different versions of HTTP: ports whose hint says what the endpoint speaks.
//!
//! What frames a message is translated, never passed: a body that is cut on one side is cut on the other.

mod client;
mod download;
mod heads;
pub(crate) mod to_http1;
pub(crate) mod to_http2;
