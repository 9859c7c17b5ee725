//! Two sidecars that prove to each other who they are, and peers that are not Lighter on either side.
//!
//! Needs the `lighter` binary, and for the foreign peers `curl`, `nginx` and Envoy.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod anchor;
mod apart;
mod checks;
mod elsewhere;
mod envoy;
mod fields;
mod foreign;
mod hostile;
mod killed;
mod lame;
mod lanes;
mod links;
mod lives;
mod lossy;
mod many;
mod moved;
mod outside;
mod over;
mod pair;
mod policy_fields;
mod quic;
mod rdma;
mod refused;
mod relay;
mod rogue;
mod shm;
mod shm_hostile;
mod sticky;
mod streams;
mod world;

fn main() {
    let suites = [
        anchor::tests(),
        checks::tests(),
        elsewhere::tests(),
        envoy::tests(),
        fields::tests(),
        foreign::tests(),
        hostile::tests(),
        killed::tests(),
        lame::tests(),
        links::tests(),
        lives::tests(),
        lossy::tests(),
        many::tests(),
        moved::tests(),
        pair::tests(),
        policy_fields::tests(),
        quic::tests(),
        rdma::tests(),
        refused::tests(),
        rogue::tests(),
        shm::tests(),
        shm_hostile::tests(),
        sticky::tests(),
        streams::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
