//! The carrier's own records on TCP. They look like TLS records of a type that TLS does not have.

use std::hint::black_box;

use super::{Cause, Fatal};
use crate::link::session::Side;

/// What proves that a record comes from whoever is at the other end of the TLS session.
pub trait Prove {
    /// The proof of a record of `kind` that `sender` makes for `generation`.
    fn proof(&self, sender: Side, kind: Kind, generation: u32) -> [u8; PROOF_BYTES];
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// What follows of this direction comes on the wire of the generation; the offset is where that begins.
    Switch = 1,
    /// The generation is over for the sender; the offset is up to where it has the other direction.
    Resume = 2,
    /// The direction ends at the offset.
    Fin = 3,
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Why a generation is over: [`Cause`], a hint, and 0 in all other records.
    pub(super) cause: u8,
    pub(super) generation: u32,
    pub(super) offset: u64,
}

impl Record {
    pub(super) fn switch(generation: u32, offset: u64) -> Self {
        Record { kind: Kind::Switch, cause: 0, generation, offset }
    }

    pub(super) fn resume(generation: u32, cause: Cause, offset: u64) -> Self {
        Record { kind: Kind::Resume, cause: cause as u8, generation, offset }
    }

    pub(super) fn fin(generation: u32, offset: u64) -> Self {
        Record { kind: Kind::Fin, cause: 0, generation, offset }
    }

    /// As `sender` writes it.
    pub(super) fn encode(self, sender: Side, keys: &impl Prove) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..5].copy_from_slice(&HEADER);
        bytes[5] = self.kind as u8;
        bytes[6] = self.cause;
        bytes[9..13].copy_from_slice(&self.generation.to_be_bytes());
        bytes[13..21].copy_from_slice(&self.offset.to_be_bytes());
        bytes[PROOF_AT..].copy_from_slice(&keys.proof(sender, self.kind, self.generation));
        bytes
    }

    /// What `sender` has written.
    ///
    /// Fails as [`Fatal::Malformed`] or [`Fatal::Proof`].
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], sender: Side, keys: &impl Prove) -> Result<Self, Fatal> {
        let [_, _, _, _, _, kind, cause, zero @ ..] = bytes;
        let kind = match kind {
            1 => Kind::Switch,
            2 => Kind::Resume,
            3 => Kind::Fin,
            _ => return Err(Fatal::Malformed),
        };
        let [0, 0, g0, g1, g2, g3, o0, o1, o2, o3, o4, o5, o6, o7, 0, 0, 0, 0, 0, 0, 0, 0, proof @ ..] = zero
        else {
            return Err(Fatal::Malformed);
        };
        if bytes[..5] != HEADER {
            return Err(Fatal::Malformed);
        }
        let generation = u32::from_be_bytes([*g0, *g1, *g2, *g3]);
        if !is_equal(proof, &keys.proof(sender, kind, generation)) {
            return Err(Fatal::Proof);
        }
        let offset = u64::from_be_bytes([*o0, *o1, *o2, *o3, *o4, *o5, *o6, *o7]);
        Ok(Record { kind, cause: *cause, generation, offset })
    }
}

/// Whether two proofs are the same, in the same time wherever they differ.
fn is_equal(one: &[u8; PROOF_BYTES], other: &[u8; PROOF_BYTES]) -> bool {
    let differs = one.iter().zip(other).fold(0, |differs, (one, other)| black_box(differs | (one ^ other)));
    differs == 0
}

/// First byte of a record. TLS knows types 20 to 24.
pub(super) const RECORD_TYPE: u8 = 0x4C;

/// Of a whole record.
pub const RECORD_BYTES: usize = 45;

/// Of a proof.
pub const PROOF_BYTES: usize = 16;

const PROOF_AT: usize = RECORD_BYTES - PROOF_BYTES;

/// Type, TLS 1.2's version as every record of TLS 1.3 has it, and length.
const HEADER: [u8; 5] = [RECORD_TYPE, 3, 3, 0, 40];
