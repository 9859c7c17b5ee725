//! The certificate authority: roots on disk, join tokens, and X.509-SVIDs for workloads that proved who they are.
//!
//! Everything lies under `ca/` of the control plane's state folder, for the owner alone:
//!
//! | file | has |
//! |---|---|
//! | `authority.json` | the trust domain and the roots with their states |
//! | `root-N.pem`, `root-N.key` | a root and its key |
//! | `tokens/ID.json` | a join token: what it is for, until when, a hash of its secret, and who spent it |
//!
//! The control plane and `lighter ca` work on the same files; a lock keeps two from writing at once, and the control plane
//! looks for what the other changed.

mod authority;
mod csr;
mod disk;
mod root;
mod tls;
mod token;

pub mod command;

pub use authority::{Authority, CaError, Issued, Step, random};
pub use root::RootInfo;
pub use tls::Tls;
pub use token::TokenInfo;

use rustls::pki_types::CertificateDer;

/// Certificates as PEM, in order.
pub fn pem(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()))).collect()
}

#[cfg(test)]
mod tests;
