//! Who this sidecar is, and whom it trusts.
//!
//! An [`Identity`] lives as long as the sidecar; the certificate, key and bundle in it (an [`Svid`]) are replaced as
//! they are renewed. A handshake goes by what is there when it begins, and nothing is resumed: each connection proves
//! both identities anew.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use lighter_config::identity::{Peer, Refusal, Spiffe, Usage};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use tokio::sync::watch;

use crate::telemetry;

pub(crate) mod files;
pub(crate) mod holds;
pub(crate) mod join;
mod keep;
mod schedule;
mod svid;

pub use files::FilesError;
pub(crate) use holds::Hold;
use holds::Holds;
pub use svid::{Svid, SvidError};

/// The protocol of links: session frames inside TLS 1.3.
pub const ALPN_LINK: &[u8] = b"lighter/1";

/// Copies of a state, from one place of a Service to another: HTTP/1.1 inside TLS 1.3, at the port of links.
pub const ALPN_STATE: &[u8] = b"lighter-state/1";

/// HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// HTTP/2, spoken with peers that are not Lighter.
pub const ALPN_H2: &[u8] = b"h2";

/// Who this sidecar is now. Shared by all workers.
pub struct Identity {
    current: ArcSwap<Svid>,
    changes: watch::Sender<u64>,
    holds: Holds,
}

impl Identity {
    /// A sidecar that is who `svid` says.
    pub fn new(svid: Svid) -> Arc<Self> {
        telemetry::identity().replaced(svid.not_after());
        let current = ArcSwap::from_pointee(svid);
        Arc::new(Identity { current, changes: watch::Sender::new(0), holds: Holds::default() })
    }

    /// What it proves itself by, and whom it trusts, at this moment.
    pub fn current(&self) -> Arc<Svid> {
        self.current.load_full()
    }

    /// Puts a renewed certificate or another bundle in place. Open connections stay; whoever holds them hears of it by
    /// [`Identity::changes`].
    pub fn replace(&self, svid: Svid) {
        telemetry::identity().replaced(svid.not_after());
        self.current.store(Arc::new(svid));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Changes with each replacement. Links look then whether their peers are still trusted ([`Svid::trusts`]).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A connection other than a link whose handshake is done, by `own`: who is at the other end, and what ends the connection
    /// when that is proved no more.
    pub(crate) fn hold(
        &self,
        connection: &CommonState,
        usage: Usage,
        own: &Svid,
    ) -> Result<(Spiffe, Arc<Hold>), Refusal> {
        let peer = peer(connection)?;
        let id = peer.id.clone();
        Ok((id, self.holds.add(peer, usage, own.not_after(), now())))
    }

    /// For accepting: `lighter/1` and `h2`, from anyone of the trust domain. Who it was says [`peer`].
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().server_config()
    }

    /// For accepting at the port of links: `lighter/1`, and `lighter-state/1`.
    pub(crate) fn link_config(&self) -> Arc<ServerConfig> {
        self.current.load().accepting_links()
    }

    /// For connecting to `expected` and nobody else, with these protocols in order of preference. TLS 1.2 is possible
    /// only where neither `lighter/1` nor `lighter-state/1` is among them.
    pub fn client_config(&self, expected: &Spiffe, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        self.current.load().client_config(expected, alpn)
    }

    /// For connecting to the control plane of this sidecar's trust domain.
    pub(crate) fn control_config(&self) -> Arc<ClientConfig> {
        let current = self.current.load();
        current.client_config(&Spiffe::control_plane(current.trust().domain()), &[ALPN_H2])
    }
}

/// Who is at the other end of a connection whose handshake is done.
pub fn peer(connection: &CommonState) -> Result<Peer, Refusal> {
    peer_of(connection).inspect_err(|refusal| telemetry::identity().refused(refusal))
}

/// Who is at the other end of a connection of TLS 1.3 on which it proved itself by `chain`.
pub(crate) fn peer_by(chain: &[CertificateDer<'static>]) -> Result<Peer, Refusal> {
    Peer::of(chain).inspect_err(|refusal| telemetry::identity().refused(refusal))
}

fn peer_of(connection: &CommonState) -> Result<Peer, Refusal> {
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        match connection.alpn_protocol() {
            Some(ALPN_LINK) => return Err(Refusal::Protocol("lighter/1 needs TLS 1.3")),
            Some(ALPN_STATE) => return Err(Refusal::Protocol("lighter-state/1 needs TLS 1.3")),
            _ => {}
        }
    }
    Peer::of(connection.peer_certificates().unwrap_or_default())
}

/// The time of day, for lives of certificates.
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
pub(crate) mod tests;
