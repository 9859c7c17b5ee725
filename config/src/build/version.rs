//! What a snapshot says, as a hash.
//!
//! Each Service, and what is said of each port, has a hash of its own. The sum of all of them does not depend on their
//! order, and a change adds and takes away what it concerns.

use std::fmt::{self, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::name::ServicePort;
use crate::snapshot::{Authorization, Service, Snapshot};

/// The sum of the hashes of all parts: each 64 bits by themselves, modulo 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    pub(super) fn add_service(&mut self, service: &Service) {
        self.combine(service, u64::wrapping_add);
    }

    pub(super) fn remove_service(&mut self, service: &Service) {
        self.combine(service, u64::wrapping_sub);
    }

    pub(super) fn add_authorization(&mut self, port: &ServicePort, said: &Authorization) {
        self.combine(&(port, said), u64::wrapping_add);
    }

    pub(super) fn remove_authorization(&mut self, port: &ServicePort, said: &Authorization) {
        self.combine(&(port, said), u64::wrapping_sub);
    }

    /// The version of a snapshot with these parts, and what holds for all of them: 16 hex digits.
    pub(super) fn version(&self, Snapshot { outbound_policy, mtls, links, .. }: &Snapshot) -> Arc<str> {
        let mut version = String::new();
        for byte in &hash(&(self, outbound_policy, mtls, links))[..8] {
            // Writing to a string cannot fail.
            let _ = write!(version, "{byte:02x}");
        }
        version.into()
    }

    fn combine(&mut self, part: &impl fmt::Debug, with: fn(u64, u64) -> u64) {
        let hash = hash(part);
        for (sum, bytes) in self.0.iter_mut().zip(hash.chunks_exact(8)) {
            let word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            *sum = with(*sum, word);
        }
    }
}

/// The version of a snapshot that has none yet.
pub(crate) fn version(snapshot: &Snapshot) -> Arc<str> {
    let mut sum = Sum::default();
    snapshot.services.values().for_each(|service| sum.add_service(service));
    snapshot.authorization.iter().for_each(|(port, said)| sum.add_authorization(port, said));
    sum.version(snapshot)
}

/// A SHA-256 over what something says. The text that is hashed is the `Debug` text of the snapshot's own types, since
/// that has every field, in one order, and nothing of the files' form in it.
fn hash(content: &impl fmt::Debug) -> [u8; 32] {
    struct Hasher(Sha256);

    impl Write for Hasher {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text);
            Ok(())
        }
    }

    let mut hasher = Hasher(Sha256::new());
    // Writing to a hash cannot fail.
    let _ = write!(hasher, "{content:?}");
    hasher.0.finalize().into()
}
