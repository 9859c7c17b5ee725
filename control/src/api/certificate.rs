//! The certificate of the API's port: one of its own, apart from the mesh's, which clients pin.
//!
//! Operators are no workloads of the mesh, and its roots come and go. So the API proves who it is by a key that stays,
//! in the state folder; a copy of the certificate is all that a client needs to know it. It does not expire in any
//! lifetime that matters: whoever wants another one removes the two files.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use lighter_config::identity::provider;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;

use crate::ca::Tls;

/// The certificate, for clients to copy.
pub const FILE: &str = "api.pem";
/// Its key, for nobody else.
const KEY_FILE: &str = "api-key.pem";

/// What the port speaks. Which certificates of operators are taken changes with the roots of the mesh.
pub struct Port {
    own: Arc<SingleCertAndKey>,
    roots: Arc<Tls>,
    /// With the sequence of the roots that it goes by.
    current: ArcSwap<(u64, Arc<ServerConfig>)>,
}

impl Port {
    /// TLS 1.3 with the certificate in `folder`, which is made if there is none, for a server that listens on `address`.
    pub fn open(folder: &Path, address: IpAddr, roots: Arc<Tls>) -> io::Result<Self> {
        let (file, key_file) = (folder.join(FILE), folder.join(KEY_FILE));
        if !file.exists() || !key_file.exists() {
            make(&file, &key_file, &[], address)?;
        }
        let own = read(&file, &key_file)?;
        let current = ArcSwap::from_pointee(build(&own, &roots).map_err(io::Error::other)?);
        Ok(Port { own, roots, current })
    }

    /// For accepting a connection now.
    pub fn config(&self) -> Arc<ServerConfig> {
        let current = self.current.load();
        if current.0 == self.roots.judge().1 {
            return current.1.clone();
        }
        match build(&self.own, &self.roots) {
            Ok(built) => {
                self.current.store(Arc::new(built));
                self.current.load().1.clone()
            }
            Err(error) => {
                tracing::error!(%error, "the API goes by the roots before");
                current.1.clone()
            }
        }
    }
}

/// TLS 1.3 with the certificate in two files, for a port that asks nobody who they are.
pub fn anonymous(file: &Path, key_file: &Path) -> io::Result<ServerConfig> {
    let own = read(file, key_file)?;
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let mut config = config.map_err(io::Error::other)?.with_no_client_auth().with_cert_resolver(own);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(file: &Path, key_file: &Path) -> io::Result<Arc<SingleCertAndKey>> {
    let chain = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let chain = chain.map_err(|error| named(file, error))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| named(key_file, error))?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| named(file, error))?;
    Ok(Arc::new(SingleCertAndKey::from(key)))
}

fn build(own: &Arc<SingleCertAndKey>, roots: &Tls) -> Result<(u64, Arc<ServerConfig>), rustls::Error> {
    let (judge, sequence) = roots.judge();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(judge))
        .with_cert_resolver(own.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would skip the check of its client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((sequence, Arc::new(config)))
}

/// Makes a key and a certificate of its own, with these names and those by which this machine is likely to be called.
pub fn make(file: &Path, key_file: &Path, more: &[String], address: IpAddr) -> io::Result<()> {
    let mut names = vec!["localhost".to_string(), "127.0.0.1".into(), "::1".into()];
    names.extend(more.iter().cloned());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    names.extend(Some(host).filter(|host| !host.is_empty() && host.is_ascii() && host != "localhost"));
    names.extend(
        Some(address).filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).map(|ip| ip.to_string()),
    );
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "Lighter control plane");
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    // The key first: a certificate without it would be copied, and be worth nothing.
    write(key_file, 0o600, &key.serialize_pem())?;
    write(file, 0o644, &certificate.pem())
}

/// Replaces a file in one step. What was there before may have had other rights.
fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let next = path.with_extension("new");
    let _ = std::fs::remove_file(&next);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(next, path)
}

fn named(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
