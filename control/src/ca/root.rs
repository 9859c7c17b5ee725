//! A root: a key that vouches, its certificate, and its place in a rotation.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lighter_config::identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::authority::{CaError, random};
use super::disk;

/// Where a root stands. A rotation leads it from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootState {
    /// Trusted, and does not sign yet: everyone is to hold it before the first certificate of it is shown.
    Next,
    /// Signs.
    Active,
    /// Trusted, and signs no more: certificates of it are still alive.
    Old,
}

/// What is known of a root beside its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootInfo {
    /// Its number, counted from 1 and never given twice.
    pub number: u32,
    /// Where it stands.
    pub state: RootState,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// A root in memory.
pub(super) struct Root {
    pub(super) info: RootInfo,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) not_after: SystemTime,
}

impl Root {
    /// Makes a root and writes it, so that it is there before anything names it.
    pub(super) fn make(
        folder: &Path,
        domain: &TrustDomain,
        info: RootInfo,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let mut params = CertificateParams::default();
        set_life(&mut params, now, now + LIFE);
        params.serial_number = Some(serial()?);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Lighter");
        params.distinguished_name.push(DnType::CommonName, format!("{domain} root {}", info.number));
        // X509-SVID §4.1: an authority may name its trust domain.
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let (certificate, key) = paths(folder, info.number);
        disk::write(&key, root.key().serialize_pem().as_bytes()).map_err(CaError::at(&key))?;
        disk::write(&certificate, root.pem().as_bytes()).map_err(CaError::at(&certificate))
    }

    /// Reads a root.
    pub(super) fn read(folder: &Path, info: RootInfo) -> Result<Self, CaError> {
        let (certificate, key) = paths(folder, info.number);
        let text = std::fs::read(&certificate).map_err(CaError::at(&certificate))?;
        let der = CertificateDer::from_pem_slice(&text).map_err(|_| CaError::Broken(certificate.clone()))?;
        let text = zeroize::Zeroizing::new(std::fs::read_to_string(&key).map_err(CaError::at(&key))?);
        let key = KeyPair::from_pem(&text).map_err(|_| CaError::Broken(key))?;
        let parsed = x509_parser::parse_x509_certificate(&der).map_err(|_| CaError::Broken(certificate))?.1;
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let not_after = UNIX_EPOCH + Duration::from_secs(not_after);
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Root { info, issuer, not_after, certificate: der })
    }

    /// SHA-256 of its certificate: what a join token carries.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }
}

/// Takes a root's files away, its key first.
pub(super) fn remove(folder: &Path, number: u32) -> Result<(), CaError> {
    let (certificate, key) = paths(folder, number);
    for path in [key, certificate] {
        std::fs::remove_file(&path).map_err(CaError::at(&path))?;
    }
    Ok(())
}

/// Lets a certificate live from `now` (and a little before) to `end`, to the second.
pub(super) fn set_life(params: &mut CertificateParams, now: SystemTime, end: SystemTime) {
    let since_1970 = |time: SystemTime| Duration::from_secs(seconds(time));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(now).saturating_sub(SKEW);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(end);
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// 16 random bytes, positive and without a leading zero (RFC 5280 §4.1.2.2).
pub(super) fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn paths(folder: &Path, number: u32) -> (std::path::PathBuf, std::path::PathBuf) {
    (folder.join(format!("root-{number}.pem")), folder.join(format!("root-{number}.key")))
}

/// Clocks differ: what is made now is good a little earlier.
const SKEW: Duration = Duration::from_secs(300);

/// A root's life: ten years.
const LIFE: Duration = Duration::from_secs(3650 * 86_400);
