//! Certificates of every kind, made here, and what becomes of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::*;

const WEB: &str = "spiffe://mesh.lighter/ns/shop/sa/web";

struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Root(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(WEB)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
    }

    fn trust(&self) -> Trust {
        Trust::new(TrustDomain::parse("mesh.lighter").unwrap(), vec![self.der()]).unwrap()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// 2026, within the life of what is made here.
fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000))
}

fn check_at(trust: &Trust, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Spiffe, Refusal> {
    let algorithms = provider().signature_verification_algorithms.all;
    trust.check(chain, Usage::Server, now, algorithms)
}

fn refusal(change: impl FnOnce(&mut CertificateParams)) -> Refusal {
    let root = Root::new("root");
    check_at(&root.trust(), &[root.issue(change)], now()).unwrap_err()
}

#[test]
fn a_workload_s_certificate_proves_its_identity() {
    let root = Root::new("root");
    let leaf =
        root.issue(|params| params.subject_alt_names.push(SanType::DnsName("web".try_into().unwrap())));
    assert_eq!(check_at(&root.trust(), std::slice::from_ref(&leaf), now()).unwrap().as_str(), WEB);
    assert_eq!(id_of(&leaf).unwrap().0.as_str(), WEB);
}

#[test]
fn an_intermediate_leads_to_the_root() {
    let root = Root::new("root");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let between = Root(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root.0).unwrap());
    let leaf = between.issue(|_| {});
    assert_eq!(check_at(&root.trust(), &[leaf.clone(), between.der()], now()).unwrap().as_str(), WEB);
    assert_eq!(check_at(&root.trust(), &[leaf], now()), Err(Refusal::Foreign));
}

#[test]
fn time_is_taken_from_who_asks() {
    let root = Root::new("root");
    let leaf = root.issue(|params| {
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
    });
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let check = |seconds| check_at(&root.trust(), std::slice::from_ref(&leaf), at(seconds));
    assert_eq!(check(1_767_225_599), Err(Refusal::NotYetValid));
    assert!(check(1_767_225_600).is_ok());
    assert!(check(1_767_312_000).is_ok());
    assert_eq!(check(1_767_312_001), Err(Refusal::Expired));
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_312_000);
    assert_eq!(id_of(&leaf).unwrap().1, end);
}

#[test]
fn a_foreign_certificate_is_refused() {
    let foreign = Root::new("root").issue(|_| {});
    assert_eq!(check_at(&Root::new("root").trust(), &[foreign], now()), Err(Refusal::Foreign));
    let other = "spiffe://other.domain/ns/shop/sa/web";
    let found = refusal(|params| params.subject_alt_names = vec![uri(other)]);
    assert_eq!(found, Refusal::ForeignDomain(Spiffe::parse(other).unwrap()));
}

#[test]
fn exactly_one_uri_names_a_workload() {
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| uri(name)).collect();
        refusal(|params| params.subject_alt_names = names)
    };
    assert_eq!(names(&[]), Refusal::NoIdentity(0));
    assert_eq!(names(&[WEB, "https://web.shop/"]), Refusal::NoIdentity(2));
    assert_eq!(names(&["https://web.shop/"]), Refusal::BadIdentity(SpiffeError::Scheme));
    assert_eq!(names(&["spiffe://mesh.lighter"]), Refusal::BadIdentity(SpiffeError::NoPath));
}

#[test]
fn an_authority_is_no_workload() {
    let as_authority = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    };
    assert_eq!(refusal(as_authority), Refusal::Authority);
    // Not called one, but its key may sign certificates all the same.
    let may_sign = |params: &mut CertificateParams| params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_eq!(refusal(may_sign), Refusal::Authority);
    // A root itself shown as a leaf.
    let root = Root::new("root");
    assert!(check_at(&root.trust(), &[root.der()], now()).is_err());
}

#[test]
fn a_key_is_used_for_what_it_is_for() {
    let client_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    assert!(matches!(refusal(client_only), Refusal::Use(_)));
    let encipher =
        |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    assert!(matches!(refusal(encipher), Refusal::Use(_)));
}

#[test]
fn what_is_no_certificate_is_refused() {
    let root = Root::new("root");
    let trust = root.trust();
    assert_eq!(check_at(&trust, &[], now()), Err(Refusal::NoCertificate));
    assert_eq!(check_at(&trust, &[CertificateDer::from(vec![0x30, 0])], now()), Err(Refusal::Malformed));
    let mut broken = root.issue(|_| {}).to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(check_at(&trust, &[CertificateDer::from(broken)], now()).is_err());
    let domain = TrustDomain::parse("mesh.lighter").unwrap();
    assert_eq!(Trust::new(domain.clone(), vec![]).unwrap_err(), TrustError::Empty);
    let malformed = Trust::new(domain, vec![root.der(), CertificateDer::from(vec![1])]);
    assert_eq!(malformed.unwrap_err(), TrustError::Malformed(2));
}

#[test]
fn a_server_has_to_be_the_expected_one() {
    use rustls::client::danger::ServerCertVerifier;
    let root = Root::new("root");
    let name = rustls::pki_types::ServerName::try_from("any.name").unwrap();
    let leaf = root.issue(|_| {});
    let check = |expected: &str| {
        let expected = Spiffe::parse(expected).unwrap();
        let verifier = Verifier::server(Arc::new(root.trust()), expected, |refusal| {
            assert_eq!(refusal.label(), "wrong_identity");
        });
        verifier.verify_server_cert(&leaf, &[], &name, &[], now())
    };
    assert!(check(WEB).is_ok());
    assert!(check("spiffe://mesh.lighter/ns/shop/sa/webx").is_err());
}

const CONTROL: &str = "spiffe://mesh.lighter/lighter/control";

/// Whether a server that shows this is taken for the control plane under `root`.
fn is_taken(root: &Root, chain: &[CertificateDer<'static>]) -> bool {
    use rustls::client::danger::ServerCertVerifier;
    use sha2::{Digest, Sha256};
    let pinned = Pinned::new(&[[0; 32], Sha256::digest(root.der()).into()], |_| {});
    let name = rustls::pki_types::ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    pinned.verify_server_cert(&chain[0], &chain[1..], &name, &[], now()).is_ok()
}

#[test]
fn a_control_plane_is_known_by_the_hash_of_its_root() {
    let (root, foreign) = (Root::new("root"), Root::new("root"));
    let issue = |by: &Root, id: &str| by.issue(|params| params.subject_alt_names = vec![uri(id)]);
    assert!(is_taken(&root, &[issue(&root, CONTROL), root.der()]));
    // Among others that are shown.
    assert!(is_taken(&root, &[issue(&root, CONTROL), foreign.der(), root.der()]));
    // Somebody else of the same mesh, or of no mesh.
    assert!(!is_taken(&root, &[issue(&root, WEB), root.der()]));
    assert!(!is_taken(&root, &[root.issue(|params| params.subject_alt_names = Vec::new()), root.der()]));
    // Under another root, whichever is shown.
    assert!(!is_taken(&root, &[issue(&foreign, CONTROL), foreign.der()]));
    assert!(!is_taken(&root, &[issue(&foreign, CONTROL), root.der()]));
    assert!(!is_taken(&root, &[issue(&foreign, CONTROL), foreign.der(), root.der()]));
    // What is not shown cannot be compared.
    assert!(!is_taken(&root, &[issue(&root, CONTROL)]));
    // The life of a certificate counts here as everywhere.
    let old = root.issue(|params| {
        params.subject_alt_names = vec![uri(CONTROL)];
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    assert!(!is_taken(&root, &[old, root.der()]));
}
