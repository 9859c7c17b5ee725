//! Proofs that a record of the carrier comes from the other end of the TLS session.

use std::fmt;

use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use rustls::{ConnectionCommon, Tls13CipherSuite};
use zeroize::Zeroizing;

use super::record::{Kind, PROOF_BYTES, Prove};
use crate::link::session::Side;

/// The secret of one TLS session from which both ends make their proofs.
pub struct Keys {
    expander: Box<dyn HkdfExpander>,
}

impl Keys {
    /// The secret of `tls`, whose handshake is done. `None`: this is not TLS 1.3.
    pub fn of<Data>(tls: &ConnectionCommon<Data>) -> Option<Self> {
        let suite = tls.negotiated_cipher_suite()?.tls13()?;
        // As long as the hash of the session, as HKDF asks.
        let secret = vec![0; suite.common.hash_provider.output_len()];
        let secret = Zeroizing::new(tls.export_keying_material(secret, LABEL, None).ok()?);
        Some(Keys::new(suite, &secret))
    }

    /// A secret of `suite`.
    pub(super) fn new(suite: &Tls13CipherSuite, secret: &[u8]) -> Self {
        Keys { expander: suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret)) }
    }
}

impl Prove for Keys {
    fn proof(&self, sender: Side, kind: Kind, generation: u32) -> [u8; PROOF_BYTES] {
        let sender = match sender {
            Side::Opener => 0,
            Side::Acceptor => 1,
        };
        let block = self.expander.expand_block(&[&[sender, kind as u8], &generation.to_be_bytes()]);
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(&block.as_ref()[..PROOF_BYTES]);
        proof
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

const LABEL: &[u8] = b"EXPERIMENTAL lighter carrier 1";
