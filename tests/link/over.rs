//! Tests of what links carry, once more where QUIC carries it.

use std::cell::Cell;

use libtest_mimic::Trial;

use crate::shm;
use crate::support::sidecar::Sidecar;
use crate::support::wait_until;

thread_local! {
    /// Links of the test of this thread go over QUIC.
    static QUIC: Cell<bool> = const { Cell::new(false) };
}

/// The same test where links go over QUIC from the beginning: what is counted is counted of those alone.
pub fn over_quic(name: &str, test: fn()) -> Trial {
    Trial::test(format!("{name}_over_quic"), move || {
        let _over = OverQuic::begin();
        test();
        Ok(())
    })
}

/// Until this is dropped, links of tests of this thread go over QUIC.
pub struct OverQuic(());

impl OverQuic {
    pub fn begin() -> Self {
        QUIC.set(true);
        OverQuic(())
    }
}

impl Drop for OverQuic {
    fn drop(&mut self) {
        QUIC.set(false);
    }
}

/// Whether they do.
pub fn is_over_quic() -> bool {
    QUIC.get()
}

/// What carries requests.
pub fn wire() -> &'static str {
    if is_over_quic() { "quic" } else { "tcp" }
}

/// The LinkPolicy that sees to that.
pub fn policy() -> String {
    if is_over_quic() { shm::policy("wires: {quic: should}") } else { String::new() }
}

/// What counts the streams of links that carry requests.
pub fn streams(sidecar: &Sidecar, side: &str) -> f64 {
    let name = if is_over_quic() { "lighter_quic_streams_total" } else { "lighter_link_streams_total" };
    sidecar.metrics().sum(name, &[("side", side)])
}

/// Where links are to go over QUIC: asks until all requests of `web`, which go to so many sidecars, do. A link begins with
/// the first request to a sidecar.
pub fn until_linked(web: &Sidecar, sidecars: u32, mut ask: impl FnMut()) {
    let switched = || {
        ask();
        web.metrics().sum("lighter_quic_switches_total", &[("to", "quic")]) >= f64::from(sidecars)
    };
    if is_over_quic() {
        wait_until("new requests go over QUIC", switched);
    }
}
