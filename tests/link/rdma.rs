//! Links on a machine where RDMA cannot be used. Where it can, see the tests in a virtual machine.

use libtest_mimic::Trial;

use crate::links::World;
use crate::shm::{bytes, policy};
use crate::support::raw::Upstream;
use crate::support::{test_where, wait_until};
use crate::world::bodies_come_back;

pub fn tests() -> Vec<Trial> {
    vec![test_where("a_link_that_should_use_rdma_does_without_and_says_why", does_without)]
}

fn does_without() -> Result<(), String> {
    if std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some()) {
        return Err("this machine has an RDMA device".into());
    }
    let app = Upstream::echoing();
    let world =
        World::under("http", app.address, &policy("wires: {shm: mustNot, rdma: should}, devices: [rxe0]"));
    bodies_come_back(world.listen);
    for sidecar in [&world.web, &world.reviews] {
        wait_until("a metric says why", || sidecar.metrics().sum("lighter_rdma_unusable", &[]) == 1.0);
        let metrics = sidecar.metrics();
        let causes =
            ["library", "device"].map(|cause| metrics.sum("lighter_rdma_unusable", &[("cause", cause)]));
        assert_eq!(causes[0] + causes[1], 1.0);
        assert!(!metrics.has("lighter_rdma_usable", &[]));
        let said = sidecar.program.said();
        assert_eq!(said.matches("links do without RDMA").count(), 1, "{said}");
        assert_eq!((bytes(sidecar, "rdma"), bytes(sidecar, "shm")), (0.0, 0.0));
        assert!(bytes(sidecar, "tcp") > 1e6);
    }
    assert_eq!(world.web.metrics().sum("lighter_link_offers_total", &[]), 0.0, "nobody is asked in vain");
    world.is_whole();
    Ok(())
}
