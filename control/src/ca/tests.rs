//! The authority on its files, judged by the verifier that sidecars use.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lighter_config::identity::{Peer, Refusal, Spiffe, Trust, TrustDomain, Usage, id_of, provider};
use lighter_config::name::ServiceName;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

use super::token::JoinError;
use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const SOON: Duration = Duration::from_secs(900);

/// 2026-09-21.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn domain() -> TrustDomain {
    TrustDomain::parse("mesh.lighter").unwrap()
}

fn authority() -> (TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(folder.path(), &domain(), start()).unwrap();
    (folder, authority)
}

fn web() -> ServiceName {
    ServiceName::new("shop", "web")
}

fn request(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn trust(authority: &Authority) -> Trust {
    Trust::new(domain(), authority.bundle().0).unwrap()
}

fn check(trust: &Trust, issued: &Issued, now: SystemTime) -> Result<Spiffe, Refusal> {
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    trust.check(&issued.chain, Usage::Client, now, provider().signature_verification_algorithms.all)
}

#[test]
fn the_attested_name_is_written_and_no_other() {
    let (_folder, authority) = authority();
    let id = authority.identity(&web()).unwrap();
    let key = KeyPair::generate().unwrap();
    let asked = request(&key, &["spiffe://mesh.lighter/ns/shop/sa/db", "https://shop.example/"]);
    let issued = authority.sign(&asked, &id, DAY, start()).unwrap();
    assert_eq!(check(&trust(&authority), &issued, start()), Ok(id.clone()));
    assert_eq!(id_of(&issued.chain[0]), Ok((id, issued.not_after)));
    assert_eq!(issued.not_after, start() + DAY);
    assert_eq!(check(&trust(&authority), &issued, start() + DAY + DAY), Err(Refusal::Expired));
}

#[test]
fn only_a_proved_key_of_an_accepted_kind_is_certified() {
    let (_folder, authority) = authority();
    let id = authority.identity(&web()).unwrap();
    let sign = |csr: &[u8]| authority.sign(csr, &id, DAY, start());
    for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(kind).unwrap();
        assert!(check(&trust(&authority), &sign(&request(&key, &[])).unwrap(), start()).is_ok());
    }
    for kind in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P521_SHA512] {
        let csr = request(&KeyPair::generate_for(kind).unwrap(), &[]);
        assert!(matches!(sign(&csr), Err(CaError::Request(why)) if why.contains("P-256")));
    }
    let mut csr = request(&KeyPair::generate().unwrap(), &[]);
    let last = csr.len() - 1;
    csr[last] ^= 1;
    assert!(matches!(sign(&csr), Err(CaError::Request(_))));
    csr.pop();
    assert!(matches!(sign(&csr), Err(CaError::Request("it cannot be read"))));
    assert!(matches!(sign(&[0; 20_000]), Err(CaError::Request("it is too long"))));
}

#[test]
fn a_token_is_good_once_for_its_service_in_its_time() {
    let (folder, authority) = authority();
    let token = authority.token(&web(), SOON, start()).unwrap();
    assert!(token.starts_with("lighter-join.shop.web."), "{token}");
    let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let join = |authority: &Authority, token: &str, key: &KeyPair, now| {
        authority.join(token, &request(key, &[]), DAY, now).unwrap().map(|issued| issued.id)
    };
    let id = authority.identity(&web()).unwrap();
    assert_eq!(join(&authority, &token, &ours, start()), Ok(id.clone()));
    // The answer was lost: the same key may ask again. Another may not, and no restart makes it forget.
    assert_eq!(join(&authority, &token, &ours, start()), Ok(id));
    assert_eq!(join(&authority, &token, &theirs, start()), Err(JoinError::Spent));
    let again = Authority::open(folder.path()).unwrap();
    assert_eq!(join(&again, &token, &theirs, start()), Err(JoinError::Spent));

    let late = authority.token(&web(), SOON, start()).unwrap();
    assert_eq!(join(&authority, &late, &ours, start() + SOON * 2), Err(JoinError::Expired));
    // What the names in it say counts for nothing.
    let renamed = late.replace(".shop.web.", ".shop.db.");
    assert_eq!(join(&authority, &renamed, &ours, start()).unwrap(), authority.identity(&web()).unwrap());
}

#[test]
fn a_foreign_or_forged_token_is_refused() {
    let (_folder, authority) = authority();
    let (_other_folder, other) = self::authority();
    let csr = request(&KeyPair::generate().unwrap(), &[]);
    let refused = |token: &str| authority.join(token, &csr, DAY, start()).unwrap().unwrap_err();
    assert_eq!(refused(&other.token(&web(), SOON, start()).unwrap()), JoinError::Foreign);
    let token = authority.token(&web(), SOON, start()).unwrap();
    // Its id is known, its secret is not.
    let at = token.len() - 64 - 1;
    let last = if token.as_bytes()[at] == b'0' { "1" } else { "0" };
    assert_eq!(refused(&format!("{}{last}{}", &token[..at], &token[at + 1..])), JoinError::Foreign);
    for malformed in [
        "",
        "x",
        "lighter-join.",
        "lighter-join.a.b.",
        "lighter-join.a.b.00",
        &token[..60],
        "lighter-join.a.b.é0",
    ] {
        assert_eq!(refused(malformed), JoinError::Malformed, "{malformed}");
    }
}

#[test]
fn tokens_are_listed_and_at_last_forgotten() {
    let (_folder, authority) = authority();
    authority.token(&web(), SOON, start()).unwrap();
    let tokens = authority.tokens(start()).unwrap();
    assert_eq!(tokens.len(), 1);
    assert_eq!((&*tokens[0].namespace, &*tokens[0].name), ("shop", "web"));
    assert!(authority.tokens(start() + DAY * 30).unwrap().is_empty());
}

#[test]
fn a_rotation_of_the_root_never_leaves_anyone_untrusted() {
    let (folder, authority) = authority();
    let id = authority.identity(&web()).unwrap();
    let running = Authority::open(folder.path()).unwrap();
    let issue = |now| authority.make(&id, &[], DAY, now).unwrap().0;
    let mut now = start();
    let before = issue(now);

    assert_eq!(authority.rotate(false, DAY, now).unwrap(), Step::Prepared(2));
    assert!(check(&trust(&authority), &before, now).is_ok());
    let prepared = trust(&authority);
    assert!(matches!(authority.rotate(false, DAY, now), Err(CaError::TooEarly { .. })));

    now += Duration::from_secs(600);
    assert_eq!(authority.rotate(false, DAY, now).unwrap(), Step::Activated(2));
    let after = issue(now);
    // Whoever has the bundle of the step before trusts what is issued now, and the other way round.
    assert!(check(&prepared, &after, now).is_ok());
    assert!(check(&trust(&authority), &before, now).is_ok());
    assert!(matches!(authority.rotate(false, DAY, now + DAY / 2), Err(CaError::TooEarly { .. })));

    now += DAY;
    assert_eq!(authority.rotate(false, DAY, now).unwrap(), Step::Retired);
    assert_eq!(check(&trust(&authority), &before, now - DAY), Err(Refusal::Foreign));
    assert!(check(&trust(&authority), &issue(now), now).is_ok());
    assert!(!folder.path().join("ca/root-1.key").exists());

    // A control plane that runs sees all of it.
    assert!(running.refresh().unwrap());
    assert!(!running.refresh().unwrap());
    assert_eq!(running.bundle(), authority.bundle());
}

#[test]
fn who_was_verified_is_judged_again_by_the_roots_of_now() {
    let (folder, authority) = authority();
    let id = authority.identity(&web()).unwrap();
    let peer = Peer::of(&authority.make(&id, &[], DAY, start()).unwrap().0.chain).unwrap();
    let running = Arc::new(Authority::open(folder.path()).unwrap());
    let tls = Tls::new(running, Vec::new(), DAY, start()).unwrap();
    let changes = tls.changes();
    assert_eq!(tls.verify(&peer, start()), Ok(()));
    assert_eq!(tls.verify(&peer, start() + 2 * DAY), Err(Refusal::Expired));
    for _ in 0..3 {
        authority.rotate(true, DAY, start()).unwrap();
    }
    tls.look(start()).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(tls.verify(&peer, start()), Err(Refusal::Foreign));
}

#[test]
fn a_certificate_does_not_outlive_its_root() {
    let (_folder, authority) = authority();
    let id = authority.identity(&web()).unwrap();
    let (issued, _) = authority.make(&id, &[], DAY * 5000, start()).unwrap();
    assert!(issued.not_after < start() + DAY * 3651);
}

#[test]
fn what_is_secret_is_for_the_owner_alone() {
    let (folder, authority) = authority();
    authority.token(&web(), SOON, start()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    let ca = folder.path().join("ca");
    assert_eq!((mode(&ca), mode(&ca.join("tokens"))), (0o700, 0o700));
    let files = [&ca, &ca.join("tokens")].map(|folder| std::fs::read_dir(folder).unwrap());
    let files: Vec<_> = files.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5);
    for file in files.iter().filter(|file| file.is_file()) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
}

#[test]
fn there_is_one_authority_for_one_domain() {
    let (folder, _authority) = authority();
    assert!(matches!(Authority::init(folder.path(), &domain(), start()), Err(CaError::Exists(_))));
    let other = TrustDomain::parse("other.domain").unwrap();
    assert!(matches!(
        Authority::open_or_init(folder.path(), &other, start()),
        Err(CaError::OtherDomain { .. })
    ));
    assert!(Authority::open_or_init(folder.path(), &domain(), start()).is_ok());
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Authority::open(empty.path()), Err(CaError::Missing(_))));
}
