//! A control plane and sidecars that join it by token: identities, discovery and registration over TLS, as one system.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod member;
mod together;
mod world;

fn main() {
    support::run([together::tests(), member::tests()].into_iter().flatten().collect())
}
