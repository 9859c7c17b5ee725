//! Certificate requests (PKCS #10, RFC 2986): a key, and proof that the asker has it. Nothing else of one is used.

use rcgen::SubjectPublicKeyInfo;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::authority::CaError;

/// A key whose owner asked.
pub(super) struct Request {
    pub(super) key: SubjectPublicKeyInfo,
    /// SHA-256 of the key.
    pub(super) fingerprint: [u8; 32],
}

impl Request {
    /// Reads a request and verifies its signature.
    pub(super) fn parse(der: &[u8]) -> Result<Self, CaError> {
        if der.len() > MOST_BYTES {
            return Err(CaError::Request("it is too long"));
        }
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
            return Err(CaError::Request("it cannot be read"));
        };
        let public = &request.certification_request_info.subject_pki;
        let key = SubjectPublicKeyInfo::from_der(public.raw)
            .map_err(|_| CaError::Request("its key is of no known kind"))?;
        if !ACCEPTED.iter().any(|accepted| *accepted == algorithm(&key)) {
            return Err(CaError::Request("its key is none of P-256, P-384 and Ed25519"));
        }
        request.verify_signature().map_err(|_| CaError::Request("its signature is not by its key"))?;
        Ok(Request { key, fingerprint: Sha256::digest(public.raw).into() })
    }
}

fn algorithm(key: &SubjectPublicKeyInfo) -> &'static rcgen::SignatureAlgorithm {
    rcgen::PublicKeyData::algorithm(key)
}

/// Kinds of keys that every TLS library takes, and that are short.
static ACCEPTED: [&rcgen::SignatureAlgorithm; 3] =
    [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];

/// A request with such a key has about 300 bytes.
const MOST_BYTES: usize = 16 << 10;
