//! The control plane as its clients see it: gRPC's own xDS client, unchanged, and a raw ADS client that shows every answer.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod ads;
mod grpc;
mod operation;
mod plane;
mod probe;
mod push;
mod registry;
mod rpc;

fn main() {
    let suites = [grpc::tests(), operation::tests(), probe::tests(), push::tests(), registry::tests()];
    support::run(suites.into_iter().flatten().collect())
}
