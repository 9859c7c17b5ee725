//! HTTP through a sidecar with explicit listeners, judged by raw peers on both sides of it.
//!
//! Needs nothing but the `lighter` binary.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod authorization;
mod connections;
mod http2;
mod operation;
mod retry;
mod scale;
mod smuggling;
mod streaming;
mod truncation;

fn main() {
    let suites = [
        authorization::tests(),
        connections::tests(),
        http2::tests(),
        operation::tests(),
        retry::tests(),
        scale::tests(),
        smuggling::tests(),
        streaming::tests(),
        truncation::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
