//! Connection IDs of this process: each says, to this process alone, which worker has the connection.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::crypto::aws_lc_rs;

/// Bytes of an ID: the worker, veiled; five that nobody can guess; and two that prove that it is one of ours.
pub(crate) const BYTES: usize = 8;

const NONCE: usize = 5;

/// What veils and proves the IDs of one process. Who does not have it learns nothing from two of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Key(RandomState);

impl Key {
    /// An ID of a connection of `worker`, made of `nonce`.
    fn seal(&self, worker: u8, nonce: [u8; NONCE]) -> [u8; BYTES] {
        let [a, b, c, d, e] = nonce;
        let (veil, [x, y]) = self.proof(worker, nonce);
        [worker ^ veil, a, b, c, d, e, x, y]
    }

    /// Whose connection `id` is of. `None`: it is none of this process's.
    pub(crate) fn open(&self, id: &[u8]) -> Option<u8> {
        let [veiled, a, b, c, d, e, x, y] = *<&[u8; BYTES]>::try_from(id).ok()?;
        let nonce = [a, b, c, d, e];
        let worker = veiled ^ self.0.hash_one(nonce) as u8;
        (self.proof(worker, nonce).1 == [x, y]).then_some(worker)
    }

    fn proof(&self, worker: u8, nonce: [u8; NONCE]) -> (u8, [u8; 2]) {
        let proof = self.0.hash_one((worker, nonce));
        (self.0.hash_one(nonce) as u8, [proof as u8, (proof >> 8) as u8])
    }
}

/// Makes the IDs of one worker's connections.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) key: Arc<Key>,
    pub(super) worker: u8,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut nonce = [0; NONCE];
        // Without randomness there was no TLS.
        let _ = aws_lc_rs::default_provider().secure_random.fill(&mut nonce);
        ConnectionId::new(&self.key.seal(self.worker, nonce))
    }

    fn cid_len(&self) -> usize {
        BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The ID that `datagram` is for, where it is one that this process made, or could have made.
pub(crate) fn destination(datagram: &[u8]) -> Option<&[u8]> {
    /// Of the first byte: the header is long (RFC 9000 §17.2).
    const LONG: u8 = 0x80;
    let (first, rest) = datagram.split_first()?;
    if first & LONG == 0 {
        return rest.get(..BYTES);
    }
    // Behind four bytes of version comes the length.
    let (length, rest) = rest.get(4..)?.split_first()?;
    (usize::from(*length) == BYTES).then(|| rest.get(..BYTES))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_says_its_worker_to_whoever_has_the_key(worker: u8, nonce: [u8; NONCE]) {
            let key = Key::default();
            let id = key.seal(worker, nonce);
            prop_assert_eq!(key.open(&id), Some(worker));
        }

        #[test]
        fn no_datagram_is_too_short_or_too_odd(datagram in proptest::collection::vec(any::<u8>(), 0..64)) {
            let key = Key::default();
            let _ = destination(&datagram).and_then(|id| key.open(id));
        }

        #[test]
        fn an_id_is_found_behind_either_header(id: [u8; BYTES], version: [u8; 4], rest: [u8; 9]) {
            let short = [&[0x40][..], &id, &rest].concat();
            prop_assert_eq!(destination(&short), Some(&id[..]));
            let long = [&[0xc0][..], &version, &[BYTES as u8], &id, &rest].concat();
            prop_assert_eq!(destination(&long), Some(&id[..]));
            let other = [&[0xc0][..], &version, &[20], &[7; 20], &rest].concat();
            prop_assert_eq!(destination(&other), None);
        }
    }

    #[test]
    fn ids_of_others_are_hardly_ever_taken_for_ours() {
        let (key, other) = (Key::default(), Key::default());
        let mut random = fastrand::Rng::with_seed(7);
        let taken = (0..100_000).filter(|_| {
            let mut nonce = [0; NONCE];
            random.fill(&mut nonce);
            key.open(&other.seal(3, nonce)).is_some()
        });
        // One in 65536.
        assert!(taken.count() < 20);
    }

    #[test]
    fn two_ids_of_a_worker_have_nothing_in_common() {
        let key = Key::default();
        let firsts: std::collections::HashSet<u8> =
            (0..200u8).map(|turn| key.seal(1, [turn, 0, 0, 0, 0])[0]).collect();
        assert!(firsts.len() > 50);
    }
}
