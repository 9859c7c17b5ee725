//! A control plane that is known by the hash of its root alone: whoever joins has no root yet.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest, Sha256};

use super::{Judge, Refusal, Spiffe, Trust, TrustDomain, Verifier, id_of, provider};

/// Verifies that who is connected to is a control plane: that a root which it shows has one of the expected hashes, and
/// vouches for it as the control plane of its trust domain.
pub struct Pinned {
    roots: Vec<[u8; 32]>,
    refused: Judge,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    /// Accepts the control plane under a root with one of these SHA-256.
    pub fn new(roots: &[[u8; 32]], refused: Judge) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Pinned { roots: roots.to_vec(), refused, algorithms }
    }

    /// What to verify the server by: everything that it shows is as good as the root that is known.
    fn verifier(&self, leaf: &CertificateDer<'_>, shown: &[CertificateDer<'_>]) -> Result<Verifier, Refusal> {
        let is_known = |one: &&CertificateDer<'_>| {
            let digest: [u8; 32] = Sha256::digest(one).into();
            self.roots.contains(&digest)
        };
        let root = shown.iter().find(is_known).ok_or(Refusal::Foreign)?;
        // Whoever the root vouches for is of its trust domain: a root has one.
        let (id, _) = id_of(leaf)?;
        let domain = TrustDomain::parse(id.trust_domain()).map_err(Refusal::BadIdentity)?;
        let expected = Spiffe::control_plane(&domain);
        let trust = Trust::new(domain, vec![root.clone().into_owned()]).map_err(|_| Refusal::Malformed)?;
        Ok(Verifier::server(Arc::new(trust), expected, self.refused))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = self.verifier(end_entity, intermediates).map_err(|refusal| {
            (self.refused)(&refusal);
            Error::InvalidCertificate(CertificateError::UnknownIssuer)
        })?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}
