//! Requests that are split between Services by weight.

use libtest_mimic::Trial;

use crate::support::example::{self, ask};
use crate::support::raw::{Peer, Upstream};
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![test("split::each_service_gets_its_share_and_who_asks_for_one_gets_it", shares)]
}

fn shares() {
    let upstreams = ["old", "new"].map(Upstream::answering);
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    let file = example::policy("split", &addresses);
    let (sidecar, at) = example::running(&file);
    let mut client = Peer::connect(at);
    let of_new = |client: &mut Peer| (0..500).filter(|_| ask(client, "") == "new").count();
    let share = of_new(&mut client);
    assert!((15..100).contains(&share), "{share} of 500");
    assert!((0..20).all(|_| ask(&mut client, "x-try-next: yes\r\n") == "new"));
    let sent = sidecar.metrics().sum(
        "lighter_endpoint_requests_total",
        &[("service", "default/shop-next"), ("endpoint", &addresses[1].to_string())],
    );
    assert_eq!(sent, share as f64 + 20.0);
    // The next version becomes the only one, on the same connection.
    sidecar.apply(&file.replace("weight: 90", "weight: 0"));
    wait_until("the old one gets nothing", || (0..20).all(|_| ask(&mut client, "") == "new"));
    assert_eq!(of_new(&mut client), 500);
}
