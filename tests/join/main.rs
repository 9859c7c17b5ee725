//! A control plane and sidecars that join it by token: identities, discovery and registration over TLS, as one system.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod member;
#[allow(dead_code)] // It has more than is needed here.
#[path = "../intercept/place.rs"]
mod place;
mod roles;
mod run;
mod together;
mod world;

fn main() {
    if let Some(status) = roles::play() {
        std::process::exit(status);
    }
    support::run([together::tests(), member::tests(), run::tests()].into_iter().flatten().collect())
}
