//! Endpoints near the caller take its requests.

use std::net::SocketAddr;

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{example, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("locality::near_endpoints_take_all_until_too_few_are_left", spills_over),
        test("locality::where_a_sidecar_is_says_which_are_near", seen_from_elsewhere),
    ]
}

fn ask(at: SocketAddr) -> String {
    example::ask(&mut Peer::connect(at), "")
}

/// A sidecar in this zone, and where its callers reach it.
fn in_zone(zone: &str, resources: &str) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let own = format!(
        "listeners: [{{listen: '{listen}', service: shop, port: 80}}]\nworkers: 1\n\
         locality: {{region: eu, zone: {zone}}}\n"
    );
    (Sidecar::start(resources, &own), listen)
}

fn spills_over() {
    let (near, far) = (Upstream::answering("near"), Upstream::answering("far"));
    let dead = free_address();
    let file = example::policy("locality", &[near.address, dead, far.address]);
    let (sidecar, at) = in_zone("a", &file);
    let spills = || sidecar.metrics().sum("lighter_balancer_spills_total", &[]);
    // While nobody knows that one of the two is dead, all is for them.
    assert_eq!(ask(at), "near");
    assert_eq!(spills(), 0.0);
    wait_until("the dead one is known", || {
        ask(at);
        sidecar.metrics().sum("lighter_endpoint_ejected", &[]) == 1.0
    });
    // One of two is there: by 1.4, seven tenths.
    let far = (0..200).filter(|_| ask(at) == "far").count();
    assert!((30..95).contains(&far), "{far} of 200 went farther");
    assert!(spills() >= far as f64);
    // With more trust in it, that one takes everything.
    sidecar.apply(&file.replace("overprovisioning: 140", "overprovisioning: 200"));
    wait_until("none goes farther", || (0..40).all(|_| ask(at) == "near"));
}

fn seen_from_elsewhere() {
    let upstreams = ["a", "a", "b"].map(Upstream::answering);
    let file = example::policy("locality", &upstreams.each_ref().map(|upstream| upstream.address));
    let (_sidecar, at) = in_zone("b", &file);
    assert!((0..20).all(|_| ask(at) == "b"));
    // Of a zone without endpoints, all of the region are as near.
    let (_sidecar, at) = in_zone("c", &file);
    let found: std::collections::BTreeSet<_> = (0..40).map(|_| ask(at)).collect();
    assert_eq!(found.len(), 2);
}
