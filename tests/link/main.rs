//! Two sidecars that prove to each other who they are, and peers that are not Lighter on either side.
//!
//! Needs the `lighter` binary, and for the foreign peers `curl`, `nginx` and Envoy.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod elsewhere;
mod envoy;
mod fields;
mod foreign;
mod hostile;
mod links;
mod lives;
mod outside;
mod pair;
mod refused;
mod shm;
mod shm_hostile;
mod streams;
mod world;

fn main() {
    let suites = [
        elsewhere::tests(),
        envoy::tests(),
        fields::tests(),
        foreign::tests(),
        hostile::tests(),
        links::tests(),
        lives::tests(),
        pair::tests(),
        refused::tests(),
        shm::tests(),
        shm_hostile::tests(),
        streams::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
