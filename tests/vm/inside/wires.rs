//! Links between two hosts go over to RDMA, and nobody notices.

use std::time::Duration;

use lighter_verbs::{Remote, Status};

use super::hosts::{Far, Hosts, Near};
use super::mesh::{MARK, Mesh, bytes_come_back, calls_come_back, pattern, post_comes_back};
use super::side::{MEMORY, Side, block_on};

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("processes_of_two_hosts_write_over_the_cable_and_both_devices_count_it", devices_of_two_hosts),
        ("a_link_goes_over_by_itself_and_nobody_on_the_way_can_read_it", goes_over),
        ("bulk_both_ways_through_small_rings_with_requests_between_comes_to_its_end", narrow),
    ]
}

fn devices_of_two_hosts() {
    let hosts = Hosts::new(1);
    block_on(async {
        let mut near = Near.does(|| Side::on(&Near.port(0).device(), Near.address()));
        let mut far = Far.does(|| Side::on(&Far.port(0).device(), Far.address()));
        near.connect(&far.card());
        far.connect(&near.card());
        far.pair.receive(1, 1).unwrap();
        near.region.write(0, &pattern(MEMORY, 1));
        let to: Remote = far.card().memory;
        hosts.cables[0].listen();
        near.write(1, 0..MEMORY, to, 7);
        assert_eq!(near.completed(1).await[0].status, Status::Success);
        assert_eq!(far.completed(1).await[0].immediate, Some(7));
        let mut came = vec![0; MEMORY];
        far.region.read(0, &mut came);
        assert!(came == pattern(MEMORY, 1));
        // What is written in the clear is heard in the clear.
        let heard = hosts.cables[0].heard();
        assert!(heard.windows(MARK.len()).filter(|part| *part == MARK).count() > 50);
    });
    for port in [Near, Far].map(|host| host.port(0)) {
        assert!(port.counter("sent_pkts") > 0 && port.counter("rcvd_pkts") > 0);
    }
}

fn goes_over() {
    let mesh =
        Mesh::under("wires: {shm: mustNot}, devices: [DEVICES], hotBytesPerSecond: 1000, backOff: 200ms");
    let counted =
        || [Near, Far].map(|host| ["sent_pkts", "rcvd_pkts"].map(|name| host.port(0).counter(name)));
    let (sent, before) = (pattern(100_000, 1), counted());
    mesh.cable().listen();
    Near.does(|| post_comes_back(mesh.listen.http, &sent));
    mesh.goes_over("rdma");
    Near.does(|| {
        post_comes_back(mesh.listen.http, &sent);
        calls_come_back(mesh.listen.grpc, &sent);
        bytes_come_back(mesh.listen.tcp, &sent);
    });
    let (after, heard) = (counted(), mesh.cable().heard());
    // What was exchanged has the mark in it; no packet has.
    let has_mark = |bytes: &[u8]| bytes.windows(MARK.len()).any(|part| part == MARK);
    assert!(has_mark(mesh.http.received().as_bytes()));
    assert!(heard.len() > 1_000_000 && !has_mark(&heard));
    for host in [Near, Far] {
        let claimed = |direction| {
            mesh.sum(host, "lighter_link_bytes_total", &[("wire", "rdma"), ("direction", direction)])
        };
        for (at, direction) in ["sent", "received"].into_iter().enumerate() {
            let packets = after[host as usize][at] - before[host as usize][at];
            println!("{host:?} {direction}: {} bytes in {packets} packets", claimed(direction));
            // No packet has more than 4 KiB of them.
            assert!(claimed(direction) > 500_000.0 && packets as f64 * 4096.0 >= claimed(direction));
        }
        assert!(mesh.sum(host, "lighter_link_bytes_total", &[("wire", "tcp")]) > 1000.0, "it began on TCP");
    }
    assert_eq!(mesh.posts_received(), 2);
    mesh.is_whole();
}

/// Much in both directions, and small requests between, through rings that are far too small for it.
fn narrow() {
    let mesh = Mesh::under("wires: {shm: mustNot, rdma: should}, devices: [DEVICES], ringBytes: 65536");
    let (bulk, ping, mut pings) = (pattern(length(), 1), pattern(100, 2), 0);
    Near.does(|| {
        post_comes_back(mesh.listen.http, &ping);
        mesh.goes_over("rdma");
        std::thread::scope(|scope| {
            let bulks: Vec<_> =
                (0..2).map(|_| scope.spawn(|| bytes_come_back(mesh.listen.tcp, &bulk))).collect();
            while bulks.iter().any(|bulk| !bulk.is_finished()) {
                post_comes_back(mesh.listen.http, &ping);
                pings += 1;
                // Most of the time is for what they are beside.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    });
    for host in [Near, Far] {
        assert!(mesh.bytes(host, "rdma") > 4.0 * bulk.len() as f64);
        assert_eq!(mesh.fallbacks(host), 0.0, "{host:?}");
        let stalls = mesh.sum(host, "lighter_rdma_stalls_total", &[]);
        println!("{host:?}: {stalls} stalls beside {pings} pings");
    }
    mesh.is_whole();
}

/// How much each of the two sends: 64 MiB together.
fn length() -> usize {
    if crate::support::full() { 32 << 20 } else { 512 << 10 }
}
