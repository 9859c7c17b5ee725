//! The decision of [`Trust`], inside a TLS handshake.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::{Refusal, Spiffe, Trust, Usage};

/// The one provider of cryptography. Handed to every builder: a process's default is whoever came first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// Hears of every refusal: counts it and says it in the log.
pub type Judge = fn(&Refusal);

/// Verifies who is at the other end of a handshake, by SPIFFE ID and never by host name.
pub struct Verifier {
    trust: Arc<Trust>,
    expected: Option<Spiffe>,
    nobody: bool,
    refused: Judge,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// For the side that connects: the other one has to be `expected`.
    pub fn server(trust: Arc<Trust>, expected: Spiffe, refused: Judge) -> Self {
        Self::new(trust, Some(expected), refused)
    }

    /// For the side that is connected to: anyone of the trust domain.
    pub fn client(trust: Arc<Trust>, refused: Judge) -> Self {
        Self::new(trust, None, refused)
    }

    /// The same, but a client may also show no certificate.
    #[must_use]
    pub fn or_nobody(self) -> Self {
        Verifier { nobody: true, ..self }
    }

    fn new(trust: Arc<Trust>, expected: Option<Spiffe>, refused: Judge) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Verifier { trust, expected, nobody: false, refused, algorithms }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(leaf.clone());
        chain.extend_from_slice(intermediates);
        let checked = self.trust.check(&chain, usage, now, self.algorithms.all).and_then(|found| match &self
            .expected
        {
            Some(expected) if *expected != found => {
                Err(Refusal::WrongIdentity { expected: expected.clone(), found })
            }
            _ => Ok(()),
        });
        checked.map_err(|refusal| self.refuse(refusal))
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        (self.refused)(&refusal);
        // What the other side learns is an alert; where the standard has a fitting one, that.
        let error = match refusal {
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotYetValid => CertificateError::NotValidYet,
            Refusal::Foreign => CertificateError::UnknownIssuer,
            Refusal::Malformed => CertificateError::BadEncoding,
            Refusal::Signature => CertificateError::BadSignature,
            Refusal::Use(_) | Refusal::Authority => CertificateError::InvalidPurpose,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        Error::InvalidCertificate(error)
    }

    fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
            .map_err(|_| self.refuse(Refusal::Signature))
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
            .map_err(|_| self.refuse(Refusal::Signature))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, Usage::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.nobody
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: a client that has one certificate shows it, and then a refusal says why.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}
