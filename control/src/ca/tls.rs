//! TLS of the control plane's own ports, kept up with time and with changes of the roots.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use lighter_config::identity::{Peer, Refusal, Spiffe, Trust, Usage, Verifier, provider};
use rcgen::SanType;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use tokio::sync::watch;

use super::{Authority, CaError};

/// What the control plane shows to those who connect, and whom it trusts.
pub struct Tls {
    authority: Arc<Authority>,
    addresses: Vec<IpAddr>,
    life: Duration,
    current: ArcSwap<Built>,
    changes: watch::Sender<u64>,
}

struct Built {
    config: Arc<ServerConfig>,
    trust: Arc<Trust>,
    /// Of the bundle that is trusted.
    sequence: u64,
    renew_at: SystemTime,
}

impl Tls {
    /// Shows certificates of `authority` that live for `life`. Clients that know no SPIFFE find `localhost` and these
    /// addresses in them.
    pub fn new(
        authority: Arc<Authority>,
        addresses: Vec<IpAddr>,
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let built = build(&authority, &addresses, life, now)?;
        let changes = watch::Sender::new(built.sequence);
        Ok(Tls { authority, addresses, life, current: ArcSwap::from_pointee(built), changes })
    }

    /// For accepting a connection. Clients may show a certificate; one that is no good is refused.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// Who judges the certificates that clients of another port may show, and the sequence of the bundle it goes by.
    pub fn judge(&self) -> (Verifier, u64) {
        let current = self.current.load();
        (Verifier::client(current.trust.clone(), judge).or_nobody(), current.sequence)
    }

    /// Whether a peer that was verified when it connected would be verified still: its certificate may have expired since,
    /// or its root may be trusted no more.
    pub fn verify(&self, peer: &Peer, now: SystemTime) -> Result<(), Refusal> {
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let algorithms = provider().signature_verification_algorithms.all;
        self.current.load().trust.check(&peer.chain, Usage::Client, now, algorithms).map(drop)
    }

    /// The sequence of the bundle in force; it changes when the roots do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Renews the certificate at half its life, and takes over what `lighter ca` changed. Runs until it is dropped.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look(SystemTime::now()) {
                tracing::error!(%error, "the authority cannot be read: what was in force stays");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    pub(super) fn look(&self, now: SystemTime) -> Result<(), CaError> {
        self.authority.refresh()?;
        let current = self.current.load_full();
        // Not whether anything was read just now: the time before, building may have failed.
        let changed = self.authority.bundle().1 != current.sequence;
        if !changed && now < current.renew_at {
            return Ok(());
        }
        let built = build(&self.authority, &self.addresses, self.life, now)?;
        let (roots, sequence) = (built.trust.roots().len(), built.sequence);
        self.current.store(Arc::new(built));
        if changed {
            tracing::info!(roots, sequence, "other roots are in force");
            self.changes.send_replace(sequence);
        }
        Ok(())
    }
}

fn build(
    authority: &Authority,
    addresses: &[IpAddr],
    life: Duration,
    now: SystemTime,
) -> Result<Built, CaError> {
    let id = Spiffe::control_plane(authority.domain());
    let mut names = vec![SanType::DnsName("localhost".try_into()?)];
    names.extend(addresses.iter().copied().map(SanType::IpAddress));
    let (issued, key) = authority.make(&id, &names, life, now)?;
    // Who joins knows a hash of the root, not the root: so it is shown.
    let mut chain = issued.chain;
    chain.push(issued.root);
    let (roots, sequence) = authority.bundle();
    let trust = Arc::new(Trust::new(authority.domain().clone(), roots)?);
    let verifier = Verifier::client(trust.clone(), judge).or_nobody();
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| CaError::Key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would skip the check of its client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let left = issued.not_after.duration_since(now).unwrap_or_default();
    Ok(Built { config: Arc::new(config), trust, sequence, renew_at: now + left / 2 })
}

fn judge(refusal: &Refusal) {
    tracing::warn!(reason = refusal.label(), "a certificate was refused: {refusal}");
}

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long it rests after it failed.
const PAUSE: Duration = Duration::from_secs(30);
