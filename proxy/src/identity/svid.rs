//! One certificate with its key and the bundle that goes with it, and the TLS configurations made of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lighter_config::identity::{
    Peer, Refusal, Spiffe, SpiffeError, Trust, TrustDomain, TrustError, Usage, Verifier, id_of, provider,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use super::{ALPN_H2, ALPN_HTTP1, ALPN_LINK, ALPN_STATE};
use crate::link::records::keys;
use crate::telemetry;

/// An X.509-SVID with its key and bundle: who somebody is, proved, and whom they trust. Immutable.
pub struct Svid {
    id: Spiffe,
    not_after: SystemTime,
    trust: Arc<Trust>,
    server: Arc<ServerConfig>,
    /// The same at the port of links.
    links: Arc<ServerConfig>,
    /// The same for links over QUIC, and nothing else.
    quic: Arc<ServerConfig>,
    /// For connecting, with TLS 1.3 only. What differs between connections is put in when they are made.
    link: ClientConfig,
    /// The same with TLS 1.2.
    foreign: ClientConfig,
}

/// Why a certificate, a key and a bundle are no identity.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The certificate is none of a workload.
    #[error("{0}")]
    Certificate(Refusal),
    /// The key cannot be used, or is not the certificate's.
    #[error("the key cannot be used with the certificate: {0}")]
    Key(rustls::Error),
    /// The certificate's trust domain cannot be one.
    #[error("the certificate's trust domain: {0}")]
    Domain(SpiffeError),
    /// The bundle is none.
    #[error("the bundle: {0}")]
    Bundle(TrustError),
    /// TLS refuses them.
    #[error("cannot be used for TLS: {0}")]
    Tls(rustls::Error),
}

impl Svid {
    /// Checks that `chain` (the workload's own certificate first) is alive at `now`, that `key` is its key, and that
    /// `roots` can be trusted. Whether those roots vouch for `chain` is for others to say: while roots change, what is
    /// trusted here and what is trusted there need not be the same.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Certificate(Refusal::NoCertificate))?;
        let (id, not_after) = id_of(leaf).map_err(SvidError::Certificate)?;
        if not_after < now {
            return Err(SvidError::Certificate(Refusal::Expired));
        }
        let domain = TrustDomain::parse(id.trust_domain()).map_err(SvidError::Domain)?;
        let trust = Arc::new(Trust::new(domain, roots).map_err(SvidError::Bundle)?);
        // Fails where the key is not the certificate's.
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(SvidError::Key)?;
        let key = Arc::new(SingleCertAndKey::from(key));
        let server = server_config(provider(), &trust, &key).map_err(SvidError::Tls)?;
        let links = server_config(keys::provider(), &trust, &key).map_err(SvidError::Tls)?;
        let mut links = ServerConfig::clone(&links);
        links.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_STATE.to_vec()];
        let links = Arc::new(links);
        let mut quic = ServerConfig::clone(&server);
        quic.alpn_protocols = vec![ALPN_LINK.to_vec()];
        let quic = Arc::new(quic);
        let link = client_config(keys::provider(), &trust, &key, &id, &[&TLS13]).map_err(SvidError::Tls)?;
        let foreign =
            client_config(provider(), &trust, &key, &id, &[&TLS13, &TLS12]).map_err(SvidError::Tls)?;
        Ok(Svid { id, not_after, trust, server, links, quic, link, foreign })
    }

    /// Who.
    pub fn id(&self) -> &Spiffe {
        &self.id
    }

    /// The end of the certificate's life.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whom this sidecar trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether `peer` is still alive and vouched for at `now`. A link whose peer is not has to be replaced.
    pub fn trusts(&self, peer: &Peer, usage: Usage, now: SystemTime) -> Result<(), Refusal> {
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
        let algorithms = provider().signature_verification_algorithms.all;
        self.trust.check(&peer.chain, usage, now, algorithms).map(|_| ())
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For accepting at the port of links.
    pub(crate) fn accepting_links(&self) -> Arc<ServerConfig> {
        self.links.clone()
    }

    /// For accepting links over QUIC.
    pub(crate) fn quic_config(&self) -> Arc<ServerConfig> {
        self.quic.clone()
    }

    pub(crate) fn client_config(&self, expected: &Spiffe, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let is_ours = alpn.contains(&ALPN_LINK) || alpn.contains(&ALPN_STATE);
        let mut config = if is_ours { &self.link } else { &self.foreign }.clone();
        let verifier = Verifier::server(self.trust.clone(), expected.clone(), judge);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

fn server_config(
    provider: Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    key: &Arc<SingleCertAndKey>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let verifier = Verifier::client(trust.clone(), judge);
    // Peers that are not Lighter may have nothing newer than TLS 1.2; under `lighter/1` it is refused.
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(key.clone());
    config.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    // A resumed session would skip the check of its client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    provider: Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    key: &Arc<SingleCertAndKey>,
    expected: &Spiffe,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, rustls::Error> {
    let verifier = Verifier::server(trust.clone(), expected.clone(), judge);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(key.clone());
    config.resumption = Resumption::disabled();
    // The name of the other side is its SPIFFE ID.
    config.enable_sni = false;
    Ok(config)
}

pub(super) fn judge(refusal: &Refusal) {
    telemetry::identity().refused(refusal);
}
