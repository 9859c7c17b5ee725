//! A control plane and sidecars that join it by token: identities, discovery and registration over TLS, as one system.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod load;
mod member;
mod overload;
#[allow(dead_code)] // It has more than is needed here.
#[path = "../intercept/place.rs"]
mod place;
mod quiet;
mod reports;
mod roles;
mod run;
mod together;
mod under_load;
mod world;

fn main() {
    if let Some(status) = roles::play() {
        std::process::exit(status);
    }
    let suites = [
        quiet::tests(),
        under_load::tests(),
        reports::tests(),
        together::tests(),
        member::tests(),
        overload::tests(),
        run::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
