//! The API of the control plane: resources, over HTTP and TLS, for whoever has the operator's token
//! or an operator's certificate.
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
//! | `GET /v1/devices?namespace=` | lists the Devices in force, written or registered, with how they stand |
//! | `GET /v1/migrations?namespace=` | lists Migrations with their phases and how they ended |
//! | `POST /v1/migrations/NAMESPACE/NAME/abort` | has one aborted, where that is possible still |
//! | `GET /v1/sidecars` | how every client of ADS stands, what it runs by and what it has to do |
//! | `POST /v1/sidecars/ID/drain` | has a sidecar drain; its ID is `NAMESPACE/NAME/INSTANCE`; `now=true`: what still runs after a second is cut |
//! | `GET /v1/tokens`, `POST /v1/tokens` | lists join tokens, and makes one |
//! | `DELETE /v1/tokens/ID` | takes one back |
//! | `GET /v1/backup`, `POST /v1/restore?dryRun=` | every resource in one file, and back |
//!
//! Bodies are those of [`message`]. A refusal is a [`message::Refused`]: 400 not understood, 401 neither token nor certificate, 404 not there,
//! 409 changed by someone else, 413 too large, 422 faults in what was sent.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use lighter_config::identity::Peer;

use crate::state::State;

pub mod answer;
mod audit;
pub mod body;
pub mod certificate;
mod conditions;
pub mod counters;
mod devices;
pub mod message;
mod migrations;
mod query;
mod resources;
mod route;
pub mod server;
mod token;
mod tokens;

use audit::Audit;
use certificate::Port;
use counters::Counters;
pub use query::is_name;
pub use server::serve;
use token::Token;

/// Who has the operator's token.
const OPERATOR: &str = "operator";
/// The set of a push that names none.
pub const DEFAULT_SET: &str = "default";

/// The file with the operator's token, in the state folder.
const TOKEN_FILE: &str = "operator-token";

/// What the API answers from.
pub struct Api {
    state: Arc<State>,
    token: Token,
    audit: Audit,
    counters: Counters,
}

impl Api {
    /// Reads the operator's token, or makes one, and opens the audit log.
    pub fn open(state: Arc<State>) -> io::Result<Api> {
        let named = |path: PathBuf| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        let path = state.config.state.join(TOKEN_FILE);
        let token = Token::open(&path).map_err(named(path))?;
        let audit = Audit::open(state.config.audit_log.as_ref())?;
        Ok(Api { state, token, audit, counters: Counters::default() })
    }

    /// What its port speaks: TLS, with the certificate in the state folder. Clients may show one of an operator.
    pub fn tls(&self) -> io::Result<Port> {
        Port::open(&self.state.config.state, self.state.config.api.ip(), self.state.tls.clone())
    }

    /// Who asks: whoever shows the token, or has shown an operator's certificate that still holds.
    fn caller(&self, bearer: Option<&str>, shown: Option<&Peer>) -> Option<Arc<str>> {
        if bearer.is_some_and(|offered| self.token.is(offered)) {
            Counters::count(&self.counters.by_token);
            return Some(OPERATOR.into());
        }
        let shown = shown?;
        let name = format!("{OPERATOR}:{}", shown.id.operator_name()?);
        self.state.tls.verify(shown, SystemTime::now()).ok()?;
        Counters::count(&self.counters.by_certificate);
        Some(name.into())
    }
}

/// Who asks.
#[derive(Clone)]
struct Caller {
    name: Arc<str>,
    peer: SocketAddr,
}

#[cfg(test)]
mod tests;
