//! Sidecars put into Kubernetes manifests: `lighter inject`, `lighter uninject`, and a sidecar that runs as they say.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod command;
mod manifests;
mod rights;
mod webhook;

fn main() {
    let suites = [command::tests(), manifests::tests(), rights::tests(), webhook::tests()];
    support::run(suites.into_iter().flatten().collect())
}
