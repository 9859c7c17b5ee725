//! Which chains of certificates prove an identity (X509-SVID §4 and §5).

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{Spiffe, SpiffeError, TrustDomain};

/// The roots of one trust domain: what is trusted at one moment.
#[derive(Clone, Debug)]
pub struct Trust {
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// For which side of a connection a certificate is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// By who connects.
    Client,
    /// By who is connected to.
    Server,
}

/// Who is at the other end, and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: Spiffe,
    /// The end of its certificate's life.
    pub not_after: SystemTime,
    /// What it showed, its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why a certificate was not taken. Each has one label, in logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// None was shown.
    #[error("no certificate was shown")]
    NoCertificate,
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Malformed,
    /// Its life is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its life has not begun. Mostly a clock that is wrong.
    #[error("the certificate is not valid yet; is a clock wrong?")]
    NotYetValid,
    /// No root of the bundle vouches for it.
    #[error("the certificate is foreign: no root of the bundle vouches for it")]
    Foreign,
    /// A root of the bundle vouches for it, but not for its trust domain.
    #[error("{0} is of another trust domain")]
    ForeignDomain(Spiffe),
    /// It has no URI among its names, or more than one.
    #[error("the certificate names no identity: it has {0} URIs where one is needed")]
    NoIdentity(usize),
    /// Its URI is no SPIFFE ID of a workload.
    #[error("the certificate's URI is no SPIFFE ID of a workload: {0}")]
    BadIdentity(SpiffeError),
    /// It is somebody else's.
    #[error("{found} was found where {expected} was expected")]
    WrongIdentity {
        /// Who should have been there.
        expected: Spiffe,
        /// Who was.
        found: Spiffe,
    },
    /// It is an authority's certificate, not a workload's.
    #[error("the certificate is an authority's, not a workload's")]
    Authority,
    /// It must not be used for this.
    #[error("the certificate is not for this use: {0}")]
    Use(&'static str),
    /// A signature in the chain or in the handshake is wrong, or made in a way that is not accepted.
    #[error("a signature is wrong or of a kind that is not accepted")]
    Signature,
    /// The connection does not have the properties that its protocol needs.
    #[error("the connection may not be used so: {0}")]
    Protocol(&'static str),
}

/// Why a bundle is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// It has no certificate.
    #[error("there is no root in it")]
    Empty,
    /// A certificate of it cannot be read.
    #[error("its certificate number {0} cannot be read")]
    Malformed(usize),
}

impl Trust {
    /// Trusts these roots to vouch for `domain`.
    pub fn new(domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        if roots.is_empty() {
            return Err(TrustError::Empty);
        }
        let anchor = |(index, root): (usize, &CertificateDer<'static>)| {
            let anchor = anchor_from_trusted_cert(root).map_err(|_| TrustError::Malformed(index + 1))?;
            Ok(anchor.to_owned())
        };
        let anchors = roots.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        Ok(Trust { domain, roots, anchors })
    }

    /// The trust domain that they vouch for.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Decides whether `chain`, the workload's own certificate first, proves an identity at `now`, and which.
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<Spiffe, Refusal> {
        let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(Refusal::of)?;
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        end_entity
            .verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, None, None)
            .map_err(Refusal::of)?;
        let leaf = parse(leaf)?;
        check_key_usage(&leaf)?;
        let id = identity(&leaf)?;
        if id.trust_domain() != self.domain.as_str() {
            return Err(Refusal::ForeignDomain(id));
        }
        Ok(id)
    }
}

/// Reads who `certificate` says it is for, and the end of its life. Nothing is verified: for one's own certificate, and
/// for one that was verified in a handshake.
pub fn id_of(certificate: &CertificateDer<'_>) -> Result<(Spiffe, SystemTime), Refusal> {
    let leaf = parse(certificate)?;
    let not_after = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after));
    Ok((identity(&leaf)?, not_after.ok_or(Refusal::Malformed)?))
}

impl Peer {
    /// Who showed `chain` in a handshake that verified it.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Self, Refusal> {
        let (id, not_after) = id_of(chain.first().ok_or(Refusal::NoCertificate)?)?;
        Ok(Peer { id, not_after, chain: chain.iter().map(|one| one.clone().into_owned()).collect() })
    }
}

impl Refusal {
    /// Every label.
    pub const LABELS: [&'static str; 13] = [
        "no_certificate",
        "malformed",
        "expired",
        "not_yet_valid",
        "foreign",
        "foreign_domain",
        "no_identity",
        "bad_identity",
        "wrong_identity",
        "authority",
        "use",
        "signature",
        "protocol",
    ];

    /// The label: in logs and in metrics.
    pub fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Its label's place among [`Refusal::LABELS`].
    pub fn index(&self) -> usize {
        match self {
            Refusal::NoCertificate => 0,
            Refusal::Malformed => 1,
            Refusal::Expired => 2,
            Refusal::NotYetValid => 3,
            Refusal::Foreign => 4,
            Refusal::ForeignDomain(_) => 5,
            Refusal::NoIdentity(_) => 6,
            Refusal::BadIdentity(_) => 7,
            Refusal::WrongIdentity { .. } => 8,
            Refusal::Authority => 9,
            Refusal::Use(_) => 10,
            Refusal::Signature => 11,
            Refusal::Protocol(_) => 12,
        }
    }

    fn of(error: webpki::Error) -> Self {
        use webpki::Error::*;
        match error {
            CertExpired { .. } | InvalidCertValidity => Refusal::Expired,
            CertNotValidYet { .. } => Refusal::NotYetValid,
            // A root of the same name and another key does not vouch for it.
            UnknownIssuer
            | InvalidSignatureForPublicKey
            | PathLenConstraintViolated
            | EndEntityUsedAsCa
            | MaximumPathDepthExceeded => Refusal::Foreign,
            CaUsedAsEndEntity => Refusal::Authority,
            NameConstraintViolation => Refusal::Use("its authority may not issue for this name"),
            RequiredEkuNotFoundContext(_) => Refusal::Use("its extended key usage does not have this side"),
            UnsupportedSignatureAlgorithmContext(_)
            | UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | SignatureAlgorithmMismatch => Refusal::Signature,
            UnsupportedCriticalExtension => Refusal::Use("it has a critical extension that is not known"),
            _ => Refusal::Malformed,
        }
    }
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, Refusal> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refusal::Malformed),
    }
}

/// webpki looks at the extended key usage only.
fn check_key_usage(leaf: &X509Certificate<'_>) -> Result<(), Refusal> {
    let usage = leaf.key_usage().map_err(|_| Refusal::Malformed)?;
    // X509-SVID §4.3: a leaf's key signs handshakes, and neither certificates nor revocations.
    match usage {
        Some(usage) if usage.value.key_cert_sign() || usage.value.crl_sign() => Err(Refusal::Authority),
        Some(usage) if !usage.value.digital_signature() => Err(Refusal::Use("its key may not sign")),
        _ => Ok(()),
    }
}

/// X509-SVID §2: exactly one URI. Other kinds of names may stand beside it.
fn identity(leaf: &X509Certificate<'_>) -> Result<Spiffe, Refusal> {
    let names = leaf.subject_alternative_name().map_err(|_| Refusal::Malformed)?;
    let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        // A name that cannot be read might be a URI to somebody else.
        GeneralName::Invalid(..) => Some(""),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(only), 0) => Spiffe::parse(only).map_err(Refusal::BadIdentity),
        (first, more) => Err(Refusal::NoIdentity(usize::from(first.is_some()) + more)),
    }
}
