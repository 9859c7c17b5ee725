//! The API of the control plane: resources, over HTTP and TLS, for whoever has the operator's token.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /healthz` | 200; needs no token |
//! | `GET /metrics` | counters, for Prometheus; needs no token |
//! | `GET /v1/resources?kind=&namespace=` | lists resources with their status |
//! | `GET /v1/resources/KIND/NAMESPACE/NAME` | one of them |
//! | `PUT /v1/resources/KIND/NAMESPACE/NAME?dryRun=` | takes one document, as YAML or JSON |
//! | `DELETE /v1/resources/KIND/NAMESPACE/NAME?dryRun=&ignoreMissing=` | removes one |
//! | `POST /v1/apply?dryRun=&prune=&set=&namespace=` | takes files, all or nothing |
//! | `POST /v1/delete?dryRun=&ignoreMissing=` | removes resources, all or none |
//! | `GET /v1/backup`, `POST /v1/restore?dryRun=` | every resource in one file, and back |
//!
//! Bodies are those of [`message`]. A refusal is a [`message::Refused`]: 400 not understood, 401 no token, 404 not there,
//! 409 changed by someone else, 413 too large, 422 faults in what was sent.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::store::Store;

mod answer;
mod audit;
mod conditions;
mod counters;
pub mod message;
mod query;
mod resources;
mod route;
mod server;
mod token;

pub use audit::Audit;
pub use counters::Counters;
pub use query::is_name;
pub use server::serve;
pub use token::Token;

/// Who has the operator's token.
const OPERATOR: &str = "operator";
/// The set of a push that names none.
pub const DEFAULT_SET: &str = "default";

/// What the API answers from.
pub struct Api {
    /// The resources.
    pub store: Arc<Store>,
    /// What callers must show.
    pub token: Token,
    /// Where changes are written down.
    pub audit: Audit,
    /// What is counted.
    pub counters: Counters,
}

/// Who asks.
#[derive(Clone, Copy)]
struct Caller {
    name: &'static str,
    peer: SocketAddr,
}

#[cfg(test)]
mod tests;
