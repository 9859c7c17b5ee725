//! Identities as their users see them: certificates asked for by a client that is not Lighter, judged by OpenSSL, and the
//! identity of a sidecar.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod held;
mod join;
mod sidecar;
mod world;

fn main() {
    let suites = [held::tests(), join::tests(), sidecar::tests()];
    support::run(suites.into_iter().flatten().collect())
}
