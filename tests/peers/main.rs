//! Real programs, unchanged, that reach each other by name through `lighter run`: each in a network namespace of its own, all
//! traffic intercepted. What is missing on a machine is left out with its reason.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod databases;
mod grpc;
mod web;
mod world;

fn main() {
    let suites = [databases::tests(), grpc::tests(), web::tests()];
    support::run(suites.into_iter().flatten().collect())
}
