//! Hosts with more than one device for RDMA: what fails with one of them goes over another.

use super::broken::{ENOUGH, POLICY};
use super::cable::Harm;
use super::hosts::{Far, Hosts, Near};
use super::mesh::{Mesh, Transfers};
use crate::support::wait_until;

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![("a_link_whose_device_fails_goes_over_another_one", fails)]
}

/// The two cables do not reach each other: each side has to take the right one of its devices.
fn fails() {
    let mesh = Mesh::of(Hosts::new(2), POLICY, |peer, _| peer.echo());
    let transfers = Transfers::start(mesh.listen);
    carried_by(&mesh, 0);
    falls(&mesh, "a way that is dead beyond a device that is well", || {
        mesh.cable().harm(Harm::Lost);
    });
    carried_by(&mesh, 1);
    mesh.cable().heal();
    falls(&mesh, "a device that is removed", || Near.port(1).remove_device());
    carried_by(&mesh, 0);
    transfers.go_on();
    let posts = transfers.end();
    assert_eq!(mesh.posts_received(), posts, "each request came once");
    mesh.is_whole();
}

/// Waits until transfers go over a cable, by what the devices at its ends count.
fn carried_by(mesh: &Mesh, cable: u8) {
    let sent = || [Near, Far].map(|host| host.port(cable).counter("sent_pkts"));
    let carried = || [Near, Far].map(|host| mesh.bytes(host, "rdma"));
    wait_until(&format!("they go over cable {cable}"), || {
        let (sent_before, carried_before) = (sent(), carried());
        mesh.goes_over("rdma");
        wait_until("RDMA carries", || {
            carried().iter().zip(carried_before).all(|(now, before)| *now > before + ENOUGH)
        });
        sent().iter().zip(sent_before).all(|(now, before)| *now > before + PACKETS)
    });
}

/// Waits until both ends have left the wire because of what this does.
fn falls(mesh: &Mesh, what: &str, does: impl FnOnce()) {
    let fell = [Near, Far].map(|host| mesh.fallbacks(host));
    does();
    wait_until(&format!("both ends have left RDMA because of {what}"), || {
        [Near, Far].iter().all(|&host| mesh.fallbacks(host) > fell[host as usize])
    });
}

/// More of a device than it takes to make a wire and prove it: at least a part of [`ENOUGH`], in packets of 4 KiB.
const PACKETS: u64 = 8;
