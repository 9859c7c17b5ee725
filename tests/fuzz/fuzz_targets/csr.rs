//! Whatever is sent as a certificate request, it is taken or refused. The control plane is a program and no library: its
//! source is part of this one.

#![no_main]
#![allow(dead_code, missing_docs)]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../../control/src/ca"]
mod ca {
    pub mod csr;

    /// What refusals are in the control plane, as far as a request goes.
    pub mod authority {
        #[derive(Debug)]
        pub enum CaError {
            Request(&'static str),
        }
    }

    /// The fingerprint of the key in a request that is taken.
    pub fn take(der: &[u8]) -> Option<[u8; 32]> {
        csr::Request::parse(der).ok().map(|request| request.fingerprint)
    }
}

/// One that is taken.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    assert!(ca::take(request.der()).is_some(), "a good request is taken");
    request.der().to_vec()
});

fuzz_target!(|data: &[u8]| {
    let _ = ca::take(data);
    // Not everything has to be found: a good one with other bytes in some places.
    let mut changed = GOOD.clone();
    for change in data.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[place] = change[2];
    }
    // What the signature covers is not all of it, but the key is.
    let taken = ca::take(&changed);
    assert!(taken.is_none() || taken == ca::take(&GOOD), "nobody is given another key");
});
