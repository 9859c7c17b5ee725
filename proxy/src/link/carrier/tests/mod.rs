//! The carrier, driven end against end.

mod model;
mod rules;
mod schedules;
mod tls;
mod unsent;
mod verbs;
mod wire;

use super::record::{Kind, PROOF_BYTES, Prove};
use crate::link::session::Side;

/// Proofs that are no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Open;

impl Prove for Open {
    fn proof(&self, sender: Side, kind: Kind, generation: u32) -> [u8; PROOF_BYTES] {
        let mut proof = [7; PROOF_BYTES];
        proof[0] = kind as u8;
        proof[1] = u8::from(sender == Side::Opener);
        proof[2..6].copy_from_slice(&generation.to_be_bytes());
        proof
    }
}

/// Whether a long run was asked for.
fn is_full() -> bool {
    std::env::var_os("LIGHTER_FULL").is_some_and(|full| full == "1")
}
