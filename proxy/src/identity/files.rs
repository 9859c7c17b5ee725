//! An identity from PEM files: somebody else (cert-manager, spiffe-helper, an operator) writes them and renews them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lighter_config::sidecar::IdentityConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{Identity, Svid, SvidError, now};
use crate::resources::Stamp;

/// Why the files give no identity.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} has no {what} in PEM: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// Together they are no identity.
    #[error("{}: {source}", path.display())]
    Svid {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        source: SvidError,
    },
}

/// Reads an identity.
pub(crate) fn load(files: &IdentityConfig, now: SystemTime) -> Result<Svid, FilesError> {
    let chain = certificates(&files.certificate)?;
    let roots = certificates(&files.bundle)?;
    let text = Zeroizing::new(read(&files.key)?);
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|source| FilesError::Pem {
        path: files.key.clone(),
        what: "private key",
        source,
    })?;
    Svid::new(chain, key, roots, now)
        .map_err(|source| FilesError::Svid { path: files.certificate.clone(), source })
}

/// Loads again whenever the files have changed and rest, until it is dropped. `seen` is what they looked like before
/// they were first loaded. Files that are faulty leave what was in force in force.
pub(crate) async fn watch(files: IdentityConfig, identity: Arc<Identity>, mut seen: Stamp) {
    let mut before = seen.clone();
    loop {
        sleep(LOOK).await;
        let look = Stamp::of(&paths(&files));
        // Three files are written one after the other: two looks have to agree.
        let rests = look == before;
        before = look.clone();
        if look == seen || !rests {
            continue;
        }
        seen = look;
        match load(&files, now()) {
            Ok(svid) => {
                tracing::info!(identity = %svid.id(), "the identity's files changed: what they say is in force");
                identity.replace(svid);
            }
            Err(error) => tracing::error!(%error, "the identity's files are faulty: what was in force stays"),
        }
    }
}

/// What the files look like now.
pub(crate) fn stamp(files: &IdentityConfig) -> Stamp {
    Stamp::of(&paths(files))
}

fn paths(files: &IdentityConfig) -> [PathBuf; 3] {
    [files.certificate.clone(), files.key.clone(), files.bundle.clone()]
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FilesError> {
    let pem = |source| FilesError::Pem { path: path.to_owned(), what: "certificate", source };
    let text = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(pem)?;
    if found.is_empty() { Err(pem(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    std::fs::read(path).map_err(|source| FilesError::Read { path: path.to_owned(), source })
}

/// How often the files are looked at. A certificate is renewed hours before it has to be.
const LOOK: Duration = Duration::from_secs(1);
