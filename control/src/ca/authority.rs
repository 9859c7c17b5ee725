//! The authority itself: which roots there are, and what they sign.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lighter_config::identity::{Spiffe, SpiffeError, TrustDomain, TrustError, provider};
use lighter_config::name::ServiceName;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData, SanType};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::csr::Request;
use super::disk;
use super::root::{self, Root, RootInfo, RootState, seconds, serial, set_life};
use super::token::{self, JoinError, TokenInfo};

/// The certificate authority of one trust domain.
pub struct Authority {
    folder: PathBuf,
    domain: TrustDomain,
    state: Mutex<State>,
}

/// A certificate that was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// For whom.
    pub id: Spiffe,
    /// It, and what lies between it and a root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The root that vouches for it.
    pub root: CertificateDer<'static>,
    /// The end of its life.
    pub not_after: SystemTime,
}

/// What a step of a rotation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new root is trusted; it does not sign yet.
    Prepared(u32),
    /// The new root signs; the one before is still trusted.
    Activated(u32),
    /// Old roots are trusted no more.
    Retired,
}

/// What went wrong with the authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what was written there.
    #[error("{} is broken", .0.display())]
    Broken(PathBuf),
    /// There is no authority.
    #[error("there is no authority in {}; `lighter ca init` makes one", .0.display())]
    Missing(PathBuf),
    /// There is one already, for this trust domain.
    #[error("there is an authority already, for the trust domain {0}")]
    Exists(TrustDomain),
    /// The authority is for another trust domain.
    #[error("the authority is for the trust domain {found}, not for {asked}")]
    OtherDomain {
        /// What it is for.
        found: TrustDomain,
        /// What was asked for.
        asked: TrustDomain,
    },
    /// A certificate request is not taken.
    #[error("the certificate request is not taken: {0}")]
    Request(&'static str),
    /// A name cannot be an identity.
    #[error("`{0}` cannot be an identity: {1}")]
    Name(String, SpiffeError),
    /// A step of a rotation would come too early.
    #[error("too early, by {} minutes: {why}", left.as_secs().div_ceil(60))]
    TooEarly {
        /// How much too early.
        left: Duration,
        /// What is waited for.
        why: &'static str,
    },
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random,
    /// A key that was just made cannot be used.
    #[error("a new key cannot be used")]
    Key,
    /// The roots are no bundle.
    #[error("the roots: {0}")]
    Bundle(#[from] TrustError),
    /// TLS refuses what was issued.
    #[error("cannot be used for TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Cryptography failed.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
}

struct State {
    record: Record,
    roots: Vec<Root>,
}

/// `authority.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    trust_domain: String,
    /// Rises with each change.
    sequence: u64,
    roots: Vec<RootInfo>,
}

impl Authority {
    /// Makes an authority under `state`, the control plane's folder, with one root that is active at once.
    pub fn init(state: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let folder = state.join("ca");
        disk::folder(&folder).map_err(CaError::at(&folder))?;
        let lock = disk::lock(&folder).map_err(CaError::at(&folder))?;
        if record_path(&folder).exists() {
            drop(lock);
            return Err(CaError::Exists(Self::open(state)?.domain));
        }
        let first = RootInfo { number: 1, state: RootState::Active, since: seconds(now) };
        Root::make(&folder, domain, first.clone(), now)?;
        let record = Record { trust_domain: domain.to_string(), sequence: 1, roots: vec![first] };
        record.write(&folder)?;
        drop(lock);
        Self::open(state)
    }

    /// Opens the authority under `state`.
    pub fn open(state: &Path) -> Result<Self, CaError> {
        let folder = state.join("ca");
        if !record_path(&folder).exists() {
            return Err(CaError::Missing(folder));
        }
        let lock = disk::lock(&folder).map_err(CaError::at(&folder))?;
        let state = State::read(&folder)?;
        drop(lock);
        let domain = TrustDomain::parse(&state.record.trust_domain)
            .map_err(|_| CaError::Broken(record_path(&folder)))?;
        Ok(Authority { folder, domain, state: Mutex::new(state) })
    }

    /// The same, made if there is none. It has to be for `domain`.
    pub fn open_or_init(state: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let authority = match Self::open(state) {
            Err(CaError::Missing(_)) => Self::init(state, domain, now),
            opened => opened,
        }?;
        if authority.domain != *domain {
            return Err(CaError::OtherDomain { found: authority.domain, asked: domain.clone() });
        }
        Ok(authority)
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The certificates to trust, and a number that rises when they change.
    pub fn bundle(&self) -> (Vec<CertificateDer<'static>>, u64) {
        let state = self.state();
        (state.roots.iter().map(|root| root.certificate.clone()).collect(), state.record.sequence)
    }

    /// The same as PEM.
    pub fn bundle_pem(&self) -> String {
        super::pem(&self.bundle().0)
    }

    /// Every root, oldest first.
    pub fn roots(&self) -> Vec<RootInfo> {
        self.state().record.roots.clone()
    }

    /// Signs a certificate for the key of `csr`, a request in DER, whatever else that asks for.
    pub fn sign(&self, csr: &[u8], id: &Spiffe, life: Duration, now: SystemTime) -> Result<Issued, CaError> {
        let request = Request::parse(csr)?;
        self.issue(&request.key, id, &[], life, now)
    }

    /// Signs the first certificate of whoever holds `token`.
    pub fn join(
        &self,
        token: &str,
        csr: &[u8],
        life: Duration,
        now: SystemTime,
    ) -> Result<Result<Issued, JoinError>, CaError> {
        // Anyone can come here: what is no token at all does not hold the others up.
        let Some(token) = token::parse(token) else { return Ok(Err(JoinError::Malformed)) };
        let request = Request::parse(csr)?;
        let spent = {
            let _lock = disk::lock(&self.folder).map_err(CaError::at(&self.folder))?;
            token::spend(&self.folder, token, &request.fingerprint, now)?
        };
        match spent {
            Ok(service) => {
                let id = self.identity(&service)?;
                self.issue(&request.key, &id, &[], life, now).map(Ok)
            }
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Makes a key and a certificate for it, with further names for those who know no SPIFFE.
    pub fn make(
        &self,
        id: &Spiffe,
        names: &[SanType],
        life: Duration,
        now: SystemTime,
    ) -> Result<(Issued, KeyPair), CaError> {
        let key = KeyPair::generate()?;
        Ok((self.issue(&key, id, names, life, now)?, key))
    }

    /// The identity of a service's workloads.
    pub fn identity(&self, service: &ServiceName) -> Result<Spiffe, CaError> {
        Spiffe::service(&self.domain, service).map_err(|error| CaError::Name(service.to_string(), error))
    }

    /// Makes a join token for `service`, for one use within `life`.
    pub fn token(&self, service: &ServiceName, life: Duration, now: SystemTime) -> Result<String, CaError> {
        self.identity(service)?;
        let roots: Vec<_> = self.state().roots.iter().map(Root::fingerprint).collect();
        let _lock = disk::lock(&self.folder).map_err(CaError::at(&self.folder))?;
        token::make(&self.folder, service, roots.into_iter(), life, now)
    }

    /// The identity of an operator.
    pub fn operator(&self, name: &str) -> Result<Spiffe, CaError> {
        Spiffe::operator(&self.domain, name).map_err(|error| CaError::Name(name.to_owned(), error))
    }

    /// Takes a join token back. Returns whether there was one of this id.
    pub fn revoke(&self, id: &str) -> Result<bool, CaError> {
        let _lock = disk::lock(&self.folder).map_err(CaError::at(&self.folder))?;
        token::remove(&self.folder, id)
    }

    /// Every join token on record.
    pub fn tokens(&self, now: SystemTime) -> Result<Vec<TokenInfo>, CaError> {
        let _lock = disk::lock(&self.folder).map_err(CaError::at(&self.folder))?;
        token::list(&self.folder, now)
    }

    /// Takes the next step of a rotation: a new root is trusted first, then it signs, then the old one is forgotten.
    /// Each has to wait until the step before has reached everyone, unless `hurry`.
    pub fn rotate(&self, hurry: bool, svid_life: Duration, now: SystemTime) -> Result<Step, CaError> {
        let _lock = disk::lock(&self.folder).map_err(CaError::at(&self.folder))?;
        let mut state = self.state();
        *state = State::read(&self.folder)?;
        let mut record = state.record.clone();
        let wait = |since: u64, time: Duration, why| {
            let left = (since + time.as_secs()).saturating_sub(seconds(now));
            if left == 0 || hurry {
                return Ok(());
            }
            Err(CaError::TooEarly { left: Duration::from_secs(left), why })
        };
        let is = |wanted: RootState| move |root: &&mut RootInfo| root.state == wanted;
        let step = if let Some(old) = record.roots.iter_mut().find(is(RootState::Old)) {
            wait(old.since, svid_life, "certificates of the old root are alive")?;
            Step::Retired
        } else if let Some(next) = record.roots.iter_mut().find(is(RootState::Next)) {
            wait(next.since, SPREAD, "the new root may not have reached every sidecar")?;
            Step::Activated(next.number)
        } else {
            Step::Prepared(record.roots.iter().map(|root| root.number).max().unwrap_or(0) + 1)
        };
        let mut gone = Vec::new();
        match step {
            Step::Prepared(number) => {
                let info = RootInfo { number, state: RootState::Next, since: seconds(now) };
                Root::make(&self.folder, &self.domain, info.clone(), now)?;
                record.roots.push(info);
            }
            Step::Activated(_) => {
                for root in &mut record.roots {
                    root.state = match root.state {
                        RootState::Active => RootState::Old,
                        RootState::Next => RootState::Active,
                        RootState::Old => continue,
                    };
                    root.since = seconds(now);
                }
            }
            Step::Retired => {
                let (old, kept) = record.roots.into_iter().partition(|root| root.state == RootState::Old);
                gone = old;
                record.roots = kept;
            }
        }
        record.sequence += 1;
        record.write(&self.folder)?;
        for root in gone {
            root::remove(&self.folder, root.number)?;
        }
        *state = State::read(&self.folder)?;
        Ok(step)
    }

    /// Takes over what another process changed. Returns whether there was anything.
    pub fn refresh(&self) -> Result<bool, CaError> {
        let record = Record::read(&self.folder)?;
        if record.sequence == self.state().record.sequence {
            return Ok(false);
        }
        let _lock = disk::lock(&self.folder).map_err(CaError::at(&self.folder))?;
        let now = State::read(&self.folder)?;
        *self.state() = now;
        Ok(true)
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        id: &Spiffe,
        names: &[SanType],
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let state = self.state();
        let root = state.active().ok_or_else(|| CaError::Broken(record_path(&self.folder)))?;
        // Whole seconds, as a certificate has them.
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds(now + life));
        let not_after = end.min(root.not_after);
        let mut params = CertificateParams::default();
        set_life(&mut params, now, not_after);
        params.serial_number = Some(serial()?);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.subject_alt_names.extend_from_slice(names);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &root.issuer)?;
        Ok(Issued {
            id: id.clone(),
            chain: vec![certificate.der().clone()],
            root: root.certificate.clone(),
            not_after,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Replaced as a whole: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read(folder: &Path) -> Result<Self, CaError> {
        let record = Record::read(folder)?;
        let roots = record
            .roots
            .iter()
            .map(|info| Root::read(folder, info.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(State { record, roots })
    }

    fn active(&self) -> Option<&Root> {
        self.roots.iter().find(|root| root.info.state == RootState::Active)
    }
}

impl Record {
    fn read(folder: &Path) -> Result<Self, CaError> {
        let path = record_path(folder);
        let text = std::fs::read(&path).map_err(CaError::at(&path))?;
        serde_json::from_slice(&text).map_err(|_| CaError::Broken(path))
    }

    fn write(&self, folder: &Path) -> Result<(), CaError> {
        let path = record_path(folder);
        let text = serde_json::to_vec_pretty(self).map_err(|_| CaError::Broken(path.clone()))?;
        disk::write(&path, &text).map_err(CaError::at(&path))
    }
}

impl CaError {
    pub(super) fn at(path: &Path) -> impl Fn(std::io::Error) -> CaError + use<> {
        let path = path.to_owned();
        move |source| CaError::Io { path: path.clone(), source }
    }
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    provider().secure_random.fill(&mut bytes).map_err(|_| CaError::Random)?;
    Ok(bytes)
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("authority.json")
}

/// How long a bundle may take to reach every sidecar that is there.
const SPREAD: Duration = Duration::from_secs(600);
