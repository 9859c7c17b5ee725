//! HTTP through a sidecar with explicit listeners, judged by raw peers on both sides of it.
//!
//! Needs nothing but the `lighter` binary.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod again;
mod authorization;
mod balancing;
mod checks;
mod circuit;
mod connections;
mod ejection;
mod failures;
mod guard;
mod http2;
mod locality;
mod mirror;
mod operation;
mod overload;
mod policies;
mod reports;
mod retry;
mod scale;
mod script;
mod slow;
mod smuggling;
mod split;
mod sticky;
mod streaming;
mod tap;
mod top;
mod truncation;

fn main() {
    let suites = [
        again::tests(),
        authorization::tests(),
        balancing::tests(),
        checks::tests(),
        circuit::tests(),
        connections::tests(),
        ejection::tests(),
        failures::tests(),
        guard::tests(),
        http2::tests(),
        locality::tests(),
        mirror::tests(),
        operation::tests(),
        overload::tests(),
        policies::tests(),
        reports::tests(),
        retry::tests(),
        scale::tests(),
        slow::tests(),
        smuggling::tests(),
        split::tests(),
        sticky::tests(),
        streaming::tests(),
        tap::tests(),
        top::tests(),
        truncation::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
