//! Interception and `lighter run`, in network namespaces made for each test.
//!
//! Programs that are run with a sidecar are this very binary in one of its [`roles`], so that nothing has to be
//! installed.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod dns;
mod joined;
mod place;
mod proxy;
mod roles;
mod rules;
mod run;

fn main() {
    if let Some(status) = roles::play() {
        std::process::exit(status);
    }
    let suites = [rules::tests(), dns::tests(), proxy::tests(), joined::tests(), run::tests()];
    support::run(suites.into_iter().flatten().collect())
}
