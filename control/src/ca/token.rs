//! Join tokens: how a workload proves who it is before it has a certificate.
//!
//! ```text
//! lighter-join.NAMESPACE.NAME.HEX    HEX: id (8 bytes), secret (32 bytes), SHA-256 of each trusted root (32 bytes)
//! ```
//!
//! The names are there for people; what a token is for is on record here, with a hash of its secret. So a token can be
//! listed and taken back, and there is no key with which more could be made.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lighter_config::hex;
use lighter_config::name::ServiceName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::authority::{CaError, random};
use super::disk;
use super::root::seconds;

/// What a token begins with: secret scanners and people know it by that.
pub const PREFIX: &str = "lighter-join.";

/// Why a join token was not taken. Who joins learns none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It is no token.
    #[error("it is no join token")]
    Malformed,
    /// It was not made here, or is forgotten.
    #[error("it is not known here: foreign, taken back, or expired long ago")]
    Foreign,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Somebody joined with it before.
    #[error("it was used before, with another key: a replay")]
    Spent,
}

/// A token on record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// Its id, in hexadecimal.
    pub id: String,
    /// The namespace of the service it is for.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// Until when it can be used, in seconds since 1970.
    pub expires: u64,
    /// SHA-256 of its secret.
    secret: String,
    /// SHA-256 of the key that joined with it.
    #[serde(default)]
    pub spent_by: Option<String>,
}

impl TokenInfo {
    /// What it is for, `namespace/name`.
    pub fn service(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it can be used: `open`, `spent` or `expired`.
    pub fn state(&self, now: SystemTime) -> &'static str {
        match &self.spent_by {
            Some(_) => "spent",
            None if self.expires < seconds(now) => "expired",
            None => "open",
        }
    }
}

/// Makes a token.
pub(super) fn make(
    folder: &Path,
    service: &ServiceName,
    roots: impl Iterator<Item = [u8; 32]>,
    life: Duration,
    now: SystemTime,
) -> Result<String, CaError> {
    let (id, secret): ([u8; ID], [u8; SECRET]) = (random()?, random()?);
    let mut bytes = [&id[..], &secret[..]].concat();
    roots.for_each(|root| bytes.extend(root));
    let token = format!("{PREFIX}{}.{}.{}", service.namespace, service.name, hex::encode(&bytes));
    let info = TokenInfo {
        id: hex::encode(&id),
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        expires: seconds(now + life),
        secret: hex::encode(&Sha256::digest(secret)),
        spent_by: None,
    };
    disk::folder(&tokens(folder)).map_err(CaError::at(folder))?;
    write(folder, &info)?;
    Ok(token)
}

/// Spends a token for the key with this fingerprint, and says whom it is for. The same key may come again: then the
/// answer was lost on its way.
pub(super) fn spend(
    folder: &Path,
    (id, secret): Parsed,
    key: &[u8; 32],
    now: SystemTime,
) -> Result<Result<ServiceName, JoinError>, CaError> {
    let path = path(folder, &hex::encode(&id));
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Err(JoinError::Foreign)),
        read => read.map_err(CaError::at(&path))?,
    };
    let mut info: TokenInfo = serde_json::from_slice(&text).map_err(|_| CaError::Broken(path))?;
    // Hashes of random bytes: how far they agree teaches nothing.
    if info.secret != hex::encode(&Sha256::digest(secret)) {
        return Ok(Err(JoinError::Foreign));
    }
    let key = hex::encode(key);
    match &info.spent_by {
        Some(other) if *other != key => return Ok(Err(JoinError::Spent)),
        _ if info.expires < seconds(now) => return Ok(Err(JoinError::Expired)),
        Some(_) => {}
        None => {
            // On disk before anything is signed: after a crash it is spent, never to be used twice.
            info.spent_by = Some(key);
            write(folder, &info)?;
        }
    }
    Ok(Ok(ServiceName::new(&info.namespace, &info.name)))
}

/// Forgets a token. Returns whether there was one of this id.
pub(super) fn remove(folder: &Path, id: &str) -> Result<bool, CaError> {
    // Anything else is no name of a file here.
    if hex::decode_array::<ID>(id.as_bytes()).is_none() {
        return Ok(false);
    }
    let path = path(folder, &id.to_ascii_lowercase());
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CaError::at(&path)(error)),
    }
}

/// Every token on record, and forgets those that expired long ago.
pub(super) fn list(folder: &Path, now: SystemTime) -> Result<Vec<TokenInfo>, CaError> {
    let folder = tokens(folder);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CaError::at(&folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(CaError::at(&folder))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read(&path).map_err(CaError::at(&path))?;
        let info: TokenInfo = serde_json::from_slice(&text).map_err(|_| CaError::Broken(path.clone()))?;
        if info.expires + REMEMBERED.as_secs() < seconds(now) {
            std::fs::remove_file(&path).map_err(CaError::at(&path))?;
        } else {
            found.push(info);
        }
    }
    found.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
    Ok(found)
}

/// What of a token is looked up, and what proves it.
pub(super) type Parsed = ([u8; ID], [u8; SECRET]);

/// Reads a token. None: it is none.
pub(super) fn parse(token: &str) -> Option<Parsed> {
    let bytes = hex::decode(token.trim().strip_prefix(PREFIX)?.rsplit_once('.')?.1.as_bytes())?;
    let (id, rest) = bytes.split_first_chunk::<ID>()?;
    let (secret, roots) = rest.split_first_chunk::<SECRET>()?;
    (!roots.is_empty() && roots.len() % 32 == 0).then_some((*id, *secret))
}

fn write(folder: &Path, info: &TokenInfo) -> Result<(), CaError> {
    let path = path(folder, &info.id);
    let text = serde_json::to_vec_pretty(info).map_err(|_| CaError::Broken(path.clone()))?;
    disk::write(&path, &text).map_err(CaError::at(&path))
}

fn tokens(folder: &Path) -> PathBuf {
    folder.join("tokens")
}

fn path(folder: &Path, id: &str) -> PathBuf {
    tokens(folder).join(format!("{id}.json"))
}

const ID: usize = 8;
const SECRET: usize = 32;

/// How long after its end a token is known as expired, and its replay as one.
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);
