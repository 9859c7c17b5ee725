//! Handshakes in memory, between two sidecars and with foreigners.

use std::io;
use std::path::Path;
use std::time::Duration;

use lighter_config::sidecar::IdentityConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConnection, ServerConnection};

use super::*;

const WEB: &str = "spiffe://mesh.lighter/ns/shop/sa/web";
const DB: &str = "spiffe://mesh.lighter/ns/shop/sa/db";

/// A root that issues.
pub(crate) struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Root(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, id: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn svid(&self, id: &str, trusted: &[&Root]) -> Svid {
        let (certificate, key) = self.issue(id);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let roots = trusted.iter().map(|root| root.0.der().clone()).collect();
        Svid::new(vec![certificate.der().clone()], key, roots, SystemTime::now()).unwrap()
    }

    pub(crate) fn identity(&self, id: &str) -> Arc<Identity> {
        Identity::new(self.svid(id, &[self]))
    }
}

fn id(text: &str) -> Spiffe {
    Spiffe::parse(text).unwrap()
}

/// Both ends of a connection after its handshake, or what the client, then the server, found wrong.
type Ends = (Result<ClientConnection, rustls::Error>, Result<ServerConnection, rustls::Error>);

fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ends {
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut wrong_at_client, mut wrong_at_server) = (None, None);
    // Each side's last word, an alert, still reaches the other.
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        feed(&mut bytes.as_slice(), |from| server.read_tls(from));
        wrong_at_server = wrong_at_server.or(server.process_new_packets().err());
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        feed(&mut bytes.as_slice(), |from| client.read_tls(from));
        wrong_at_client = wrong_at_client.or(client.process_new_packets().err());
    }
    (wrong_at_client.map_or(Ok(client), Err), wrong_at_server.map_or(Ok(server), Err))
}

fn feed(bytes: &mut &[u8], mut read: impl FnMut(&mut dyn io::Read) -> io::Result<usize>) {
    while !bytes.is_empty() {
        assert!(read(bytes).unwrap() > 0);
    }
}

#[test]
fn two_sidecars_prove_who_they_are() {
    let root = Root::new();
    let (web, db) = (root.identity(WEB), root.identity(DB));
    let (client, server) = handshake(web.client_config(&id(DB), &[ALPN_LINK, ALPN_H2]), db.server_config());
    let (client, server) = (client.unwrap(), server.unwrap());
    for connection in [&**client, &**server] {
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(connection.alpn_protocol(), Some(ALPN_LINK));
    }
    assert_eq!(peer(&client).unwrap().id, id(DB));
    let caller = peer(&server).unwrap();
    assert_eq!(caller.id, id(WEB));
    assert!(db.current().trusts(&caller, Usage::Client, SystemTime::now()).is_ok());
}

#[test]
fn somebody_else_s_certificate_is_refused_at_the_client() {
    let root = Root::new();
    let (web, db) = (root.identity(WEB), root.identity(DB));
    let (client, server) = handshake(web.client_config(&id(WEB), &[ALPN_LINK]), db.server_config());
    assert!(matches!(client, Err(rustls::Error::InvalidCertificate(_))), "{client:?}");
    assert!(matches!(server, Err(rustls::Error::AlertReceived(_))), "{server:?}");
}

#[test]
fn a_foreign_client_is_refused_at_the_server() {
    let (root, foreign) = (Root::new(), Root::new());
    let stranger = Identity::new(foreign.svid(WEB, &[&root]));
    let (client, server) =
        handshake(stranger.client_config(&id(DB), &[ALPN_LINK]), root.identity(DB).server_config());
    assert!(matches!(server, Err(rustls::Error::InvalidCertificate(_))), "{server:?}");
    assert!(matches!(client, Err(rustls::Error::AlertReceived(AlertDescription::UnknownCA))), "{client:?}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let root = Root::new();
    let web = root.identity(WEB);
    let mut anonymous = (*web.client_config(&id(DB), &[ALPN_H2])).clone();
    anonymous.client_auth_cert_resolver = Arc::new(Nothing);
    let (_, server) = handshake(Arc::new(anonymous), root.identity(DB).server_config());
    assert!(matches!(server, Err(rustls::Error::NoCertificatesPresented)), "{server:?}");
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn links_need_tls_1_3_and_foreigners_do_not() {
    let root = Root::new();
    let (web, db) = (root.identity(WEB), root.identity(DB));
    // A client that has nothing newer, and knows `lighter/1` all the same.
    let old = |alpn: &[&[u8]]| {
        let mut config = rustls::ClientConfig::builder_with_provider(lighter_config::identity::provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(lighter_config::identity::Verifier::server(
                Arc::new(web.current().trust().clone()),
                id(DB),
                |_| {},
            )))
            .with_client_cert_resolver(web.client_config(&id(DB), &[]).client_auth_cert_resolver.clone());
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    };
    let (_, server) = handshake(old(&[ALPN_H2]), db.server_config());
    assert_eq!(peer(&server.unwrap()).unwrap().id, id(WEB));
    for ours in [ALPN_LINK, ALPN_STATE] {
        let (_, server) = handshake(old(&[ours]), db.link_config());
        assert_eq!(peer(&server.unwrap()).unwrap_err().label(), "protocol");
    }
}

#[test]
fn links_and_copies_are_for_their_own_port_and_callers_are_not() {
    let root = Root::new();
    let (web, db) = (root.identity(WEB), root.identity(DB));
    let spoken = |alpn, server| {
        let (client, _) = handshake(web.client_config(&id(DB), &[alpn]), server);
        client.map(|client| client.alpn_protocol().map(<[u8]>::to_vec))
    };
    for ours in [ALPN_LINK, ALPN_STATE] {
        assert_eq!(spoken(ours, db.link_config()), Ok(Some(ours.to_vec())));
    }
    let refused = Err(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
    assert_eq!(spoken(ALPN_H2, db.link_config()), refused);
    assert_eq!(spoken(ALPN_STATE, db.server_config()), refused, "who knows nothing of copies");
}

#[test]
fn nothing_is_resumed() {
    let root = Root::new();
    let (web, db) = (root.identity(WEB), root.identity(DB));
    let config = web.client_config(&id(DB), &[ALPN_LINK]);
    for _ in 0..2 {
        let (client, _) = handshake(config.clone(), db.server_config());
        assert_eq!(client.unwrap().handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn a_root_that_leaves_the_bundle_takes_its_peers_along() {
    let (old, new) = (Root::new(), Root::new());
    let web = old.identity(WEB);
    let db = Identity::new(old.svid(DB, &[&old, &new]));
    let (_, server) = handshake(web.client_config(&id(DB), &[ALPN_LINK]), db.server_config());
    let caller = peer(&server.unwrap()).unwrap();
    let mut changes = db.changes();
    db.replace(new.svid(DB, &[&new]));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let now = SystemTime::now();
    assert_eq!(db.current().trusts(&caller, Usage::Client, now), Err(Refusal::Foreign));
    let (_, server) = handshake(web.client_config(&id(DB), &[ALPN_LINK]), db.server_config());
    assert!(server.is_err());
}

/// Writes an identity's files.
fn write(folder: &Path, root: &Root, name: &str) -> IdentityConfig {
    let (certificate, key) = root.issue(name);
    let at = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    IdentityConfig {
        certificate: at("web.pem", certificate.pem()),
        key: at("web.key", key.serialize_pem()),
        bundle: at("roots.pem", root.0.pem()),
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = write(folder.path(), &Root::new(), WEB);
    let fault = |files: &IdentityConfig| match files::load(files, SystemTime::now()) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    };
    assert!(files::load(&files, SystemTime::now()).is_ok());
    let later = SystemTime::now() + Duration::from_secs(3 << 40);
    assert!(matches!(files::load(&files, later), Err(FilesError::Svid { .. })));
    std::fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(fault(&files).contains("the key cannot be used"), "{}", fault(&files));
    std::fs::write(&files.bundle, "nothing").unwrap();
    assert!(fault(&files).contains("roots.pem has no certificate"), "{}", fault(&files));
    std::fs::remove_file(&files.certificate).unwrap();
    assert!(fault(&files).contains("cannot read"), "{}", fault(&files));
}

#[tokio::test(start_paused = true)]
async fn files_are_read_again_when_they_change_and_faults_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new();
    let files = write(folder.path(), &root, WEB);
    let seen = files::stamp(&files);
    let identity = Identity::new(files::load(&files, SystemTime::now()).unwrap());
    let mut changes = identity.changes();
    let watching = tokio::spawn(files::watch(files.clone(), identity.clone(), seen));
    write(folder.path(), &root, DB);
    changes.changed().await.unwrap();
    assert_eq!(*identity.current().id(), id(DB));
    std::fs::write(&files.key, "nothing").unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(*identity.current().id(), id(DB));
    write(folder.path(), &root, WEB);
    changes.changed().await.unwrap();
    assert_eq!(*identity.current().id(), id(WEB));
    watching.abort();
}

#[test]
fn what_cannot_be_trusted_is_no_svid() {
    let root = Root::new();
    let (certificate, key) = root.issue(WEB);
    let key = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let chain = || vec![certificate.der().clone()];
    let new = |chain, roots: Vec<CertificateDer<'static>>| Svid::new(chain, key(), roots, SystemTime::now());
    assert!(matches!(new(chain(), vec![]), Err(SvidError::Bundle(_))));
    assert!(matches!(new(vec![], vec![]), Err(SvidError::Certificate(Refusal::NoCertificate))));
    let root_as_leaf = vec![root.0.der().clone()];
    assert!(matches!(new(root_as_leaf, chain()), Err(SvidError::Certificate(Refusal::NoIdentity(0)))));
}
