//! What a sidecar that joined keeps on disk: its key, its certificate, and whom it trusts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lighter_config::xds::wire::lighter::state::v1;
use prost::Message;
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::{Svid, SvidError};
use crate::kept;

/// Everything that an identity is made of.
pub(super) struct Credentials {
    pub(super) key: Arc<KeyPair>,
    /// Empty: the key is for a certificate that was not received yet.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// Of the bundle.
    pub(super) sequence: u64,
    /// When the certificate was received.
    pub(super) issued: SystemTime,
}

impl Credentials {
    /// A key that nobody certified yet.
    pub(super) fn new(now: SystemTime) -> Result<Self, rcgen::Error> {
        let key = Arc::new(KeyPair::generate()?);
        Ok(Credentials { key, chain: Vec::new(), roots: Vec::new(), sequence: 0, issued: now })
    }

    /// Who they prove one to be at `now`.
    pub(super) fn svid(&self, now: SystemTime) -> Result<Svid, SvidError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Svid::new(self.chain.clone(), key, self.roots.clone(), now)
    }
}

/// Where they are within the folder `state`.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join("identity")
}

/// Reads them. `None`: there are none.
pub(super) fn read(path: &Path) -> io::Result<Option<Credentials>> {
    let Some(content) = kept::read(path, HEADER)? else { return Ok(None) };
    let content = Zeroizing::new(content);
    let said = v1::Identity::decode(&content[..]).map_err(|error| kept::faulty(&error.to_string()))?;
    let bytes = Zeroizing::new(said.key);
    let key = KeyPair::try_from(&bytes[..]).map_err(|error| kept::faulty(&format!("its key: {error}")))?;
    let certificates = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect();
    let issued = Duration::from_secs(u64::try_from(said.issued).unwrap_or(0));
    let issued = UNIX_EPOCH.checked_add(issued).ok_or_else(|| kept::faulty("its time"))?;
    Ok(Some(Credentials {
        key: Arc::new(key),
        chain: certificates(said.chain),
        roots: certificates(said.roots),
        sequence: said.sequence,
        issued,
    }))
}

/// Writes them, for nobody else to read.
pub(super) fn write(path: &Path, credentials: &Credentials) -> io::Result<()> {
    let all = |certificates: &[CertificateDer<'_>]| certificates.iter().map(|one| one.to_vec()).collect();
    let since_1970 = credentials.issued.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut said = v1::Identity {
        key: credentials.key.serialize_der(),
        chain: all(&credentials.chain),
        roots: all(&credentials.roots),
        sequence: credentials.sequence,
        issued: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
    };
    let content = Zeroizing::new(said.encode_to_vec());
    said.key.zeroize();
    kept::write(path, HEADER, &content)
}

const HEADER: &[u8] = b"lighter identity 1\n";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_only_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        assert!(read(&path).unwrap().is_none());
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut credentials = Credentials::new(now).unwrap();
        credentials.roots = vec![CertificateDer::from(vec![1, 2, 3])];
        credentials.sequence = 7;
        write(&path, &credentials).unwrap();
        let again = read(&path).unwrap().unwrap();
        assert_eq!(again.key.serialize_der(), credentials.key.serialize_der());
        assert_eq!((again.chain.len(), again.roots, again.sequence), (0, credentials.roots, 7));
        assert_eq!(again.issued, now);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_is_none_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        let said = v1::Identity { key: vec![0; 9], ..v1::Identity::default() };
        kept::write(&path, HEADER, &said.encode_to_vec()).unwrap();
        assert!(read(&path).err().unwrap().to_string().starts_with("its key: "));
    }
}
