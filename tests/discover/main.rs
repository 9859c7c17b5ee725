//! A sidecar that a control plane feeds: an ADS server written in Python, which shares no line with Lighter. Left out, with
//! the reason, where Python has not what it needs.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod demand;
mod follow;
mod world;

fn main() {
    support::run([follow::tests(), demand::tests()].into_iter().flatten().collect())
}
