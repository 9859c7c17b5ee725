//! A root of trust that says who is who. Also for benchmarks, by path.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

/// A root of trust, and a folder for what it issues.
pub struct Root {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Root {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let root = Root { issuer, folder: tempfile::tempdir().unwrap() };
        std::fs::write(root.bundle(), root.issuer.pem()).unwrap();
        root
    }

    /// The root itself, as a file.
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("roots.pem")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Files that prove to be `id`: certificate and key.
    pub fn issue(&self, id: &str) -> (PathBuf, PathBuf) {
        self.issue_for(id, Duration::from_secs(24 * 3600))
    }

    /// The same, of a certificate that lives so long.
    pub fn issue_for(&self, id: &str, life: Duration) -> (PathBuf, PathBuf) {
        let name = id.rsplit('/').next().unwrap();
        let mut params = CertificateParams::default();
        // Another name than the root's, or some would take it for one that has signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = (SystemTime::now() + life).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = [("pem", certificate.pem()), ("key", key.serialize_pem())].map(|(kind, pem)| {
            let path = self.folder.path().join(format!("{name}.{kind}"));
            std::fs::write(&path, pem).unwrap();
            path
        });
        files.into()
    }

    /// What a sidecar's file says of `id`.
    pub fn identity(&self, id: &str) -> String {
        self.identity_for(id, Duration::from_secs(24 * 3600))
    }

    /// The same, of a certificate that lives so long.
    pub fn identity_for(&self, id: &str, life: Duration) -> String {
        let (certificate, key) = self.issue_for(id, life);
        let [certificate, key, bundle] =
            [certificate, key, self.bundle()].map(|path| path.display().to_string());
        format!("identity: {{certificate: {certificate}, key: {key}, bundle: {bundle}}}\n")
    }
}
