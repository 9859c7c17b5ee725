//! All of a state in memory: as it is gathered, and as it is kept for another place to fetch.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use lighter_migrate::Digest;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// All of a state, which changes no more. Clones have the same memory.
#[derive(Clone)]
pub struct State {
    /// Each has [`BLOCK`] bytes but the last.
    blocks: Arc<[Bytes]>,
    bytes: u64,
    digest: Digest,
}

/// A state of which more is to come.
pub struct Gathering {
    blocks: Vec<Bytes>,
    /// The block that is not full yet.
    last: BytesMut,
    hash: Sha256,
    most: u64,
}

/// A state is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {0} bytes")]
pub struct TooLarge(pub u64);

/// A state from an offset to its end, as the body of a message.
#[derive(Clone, Debug)]
pub struct Reading {
    state: State,
    at: u64,
}

/// What other places' sidecars may fetch here: the last copy of the migration that is under way.
#[derive(Default)]
pub struct Copies(Mutex<Option<Kept>>);

struct Kept {
    migration: u64,
    round: u32,
    token: Vec<u8>,
    state: State,
}

/// Why somebody does not get a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// There is none of this name.
    Absent,
    /// Who asks does not show what the control plane has given to the place that is to have it.
    Token,
}

impl State {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its SHA-256.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What there is of it from `offset` on. Nothing, where it is shorter.
    pub fn read(&self, offset: u64) -> Reading {
        Reading { state: self.clone(), at: offset.min(self.bytes) }
    }
}

/// What names the state that comes of what has changed since another one: by how it came about.
pub fn followed_by(before: Digest, changes: Digest) -> Digest {
    Digest(Sha256::new().chain_update(before.0).chain_update(changes.0).finalize().into())
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Gathering {
    /// Nothing yet, and never more than `most` bytes.
    pub fn new(most: u64) -> Self {
        Gathering { blocks: Vec::new(), last: BytesMut::new(), hash: Sha256::new(), most }
    }

    /// How much has come.
    pub fn bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK + self.last.len()) as u64
    }

    /// More has come. It is copied, so that the small pieces in which it may come keep no more memory than they have bytes. Of
    /// what is too much nothing is taken.
    pub fn push(&mut self, mut more: &[u8]) -> Result<(), TooLarge> {
        if more.len() as u64 > self.most - self.bytes() {
            return Err(TooLarge(self.most));
        }
        self.hash.update(more);
        while !more.is_empty() {
            let fitting = more.len().min(BLOCK - self.last.len());
            self.last.extend_from_slice(&more[..fitting]);
            more = &more[fitting..];
            if self.last.len() == BLOCK {
                self.blocks.push(std::mem::take(&mut self.last).freeze());
            }
        }
        Ok(())
    }

    /// That was all of it.
    pub fn finish(mut self) -> State {
        let bytes = self.bytes();
        if !self.last.is_empty() {
            self.blocks.push(self.last.freeze());
        }
        State { blocks: self.blocks.into(), bytes, digest: Digest(self.hash.finalize().into()) }
    }
}

impl Reading {
    fn block(&mut self) -> Option<Bytes> {
        let block = self.state.blocks.get(usize::try_from(self.at / BLOCK as u64).ok()?)?;
        let rest = block.slice((self.at % BLOCK as u64) as usize..);
        self.at += rest.len() as u64;
        (!rest.is_empty()).then_some(rest)
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.block().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.state.bytes
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.state.bytes - self.at)
    }
}

impl Copies {
    /// From now on this copy can be fetched by whoever shows `token`, and no other. An empty token is none.
    pub fn keep(&self, migration: u64, round: u32, token: Vec<u8>, state: State) {
        *self.kept() = Some(Kept { migration, round, token, state });
    }

    /// Nothing can be fetched any more. What is on its way goes on.
    pub fn clear(&self) {
        *self.kept() = None;
    }

    /// The copy of a round, for one who shows `token`.
    pub fn find(&self, migration: u64, round: u32, token: &[u8]) -> Result<State, Withheld> {
        match &*self.kept() {
            None => Err(Withheld::Absent),
            // How long it takes says nothing of how much of it is right.
            Some(kept) if kept.token.is_empty() || !bool::from(kept.token.ct_eq(token)) => {
                Err(Withheld::Token)
            }
            Some(kept) if (kept.migration, kept.round) != (migration, round) => Err(Withheld::Absent),
            Some(kept) => Ok(kept.state.clone()),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In such pieces a state lies in memory.
const BLOCK: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(bytes: &[u8]) -> State {
        let mut gathering = Gathering::new(bytes.len() as u64);
        gathering.push(bytes).unwrap();
        gathering.finish()
    }

    fn all(mut reading: Reading) -> Vec<u8> {
        std::iter::from_fn(|| reading.block()).flatten().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// However it comes, and from wherever it is read, it is what was given.
        #[test]
        fn a_state_is_what_was_gathered(
            pieces in prop::collection::vec((any::<u8>(), 0usize..BLOCK), 0..8),
            part in 0.0f64..1.0,
        ) {
            let whole: Vec<u8> = pieces.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect();
            let mut gathering = Gathering::new(whole.len() as u64);
            for (byte, count) in pieces {
                gathering.push(&vec![byte; count]).unwrap();
            }
            prop_assert_eq!(gathering.bytes(), whole.len() as u64);
            prop_assert_eq!(gathering.push(&[0]), Err(TooLarge(whole.len() as u64)));
            let state = gathering.finish();
            prop_assert_eq!(state.digest(), Digest(Sha256::digest(&whole).into()));
            let offset = (whole.len() as f64 * part) as usize;
            let reading = state.read(offset as u64);
            prop_assert_eq!(reading.size_hint().exact(), Some((whole.len() - offset) as u64));
            prop_assert_eq!(&all(reading), &whole[offset..]);
            prop_assert!(all(state.read(u64::MAX)).is_empty());
        }
    }

    #[test]
    fn a_copy_is_for_whoever_shows_its_token_and_only_the_last_is_there() {
        let copies = Copies::default();
        let find = |migration, round, token: &[u8]| {
            copies.find(migration, round, token).map(|state| all(state.read(0)))
        };
        assert_eq!(find(1, 1, b"a token"), Err(Withheld::Absent));
        copies.keep(1, 1, b"a token".to_vec(), state(b"one"));
        assert_eq!(find(1, 1, b"a token").as_deref(), Ok(&b"one"[..]));
        for wrong in [&b"a tokem"[..], b"a toke", b"a token.", b""] {
            assert_eq!(find(1, 1, wrong), Err(Withheld::Token));
        }
        assert_eq!(find(1, 2, b"a token"), Err(Withheld::Absent));
        copies.keep(2, 1, b"another".to_vec(), state(b"two"));
        assert_eq!(find(1, 1, b"a token"), Err(Withheld::Token));
        assert_eq!(find(1, 1, b"another"), Err(Withheld::Absent));
        assert_eq!(find(2, 1, b"another").as_deref(), Ok(&b"two"[..]));
        copies.keep(3, 1, Vec::new(), state(b"three"));
        assert_eq!(find(3, 1, b""), Err(Withheld::Token), "no token is for nobody");
        copies.clear();
        assert_eq!(find(2, 1, b"another"), Err(Withheld::Absent));
    }
}
