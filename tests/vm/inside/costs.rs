//! What a message costs on each wire. The machine counts time by instructions, one a nanosecond, so that the processor time of
//! a process is how many it executed, in the kernel too.

use std::time::Duration;

use super::hosts::{Far, Near};
use super::mesh::Mesh;
use crate::support::process::cpu;
use crate::support::raw::Peer;

/// Prints a line for each wire: `cost WIRE SENDER RECEIVER`, instructions of each sidecar for a message of 1 KiB.
pub fn print() {
    for (wire, uses) in [
        ("tcp", "wires: {shm: mustNot, rdma: mustNot}"),
        ("shm", "wires: {shm: should, rdma: mustNot}"),
        ("rdma", "wires: {shm: mustNot, rdma: should}, devices: [DEVICES]"),
    ] {
        let mesh = Mesh::before(uses, |mut peer, _| {
            while peer.bytes(MESSAGE).len() == MESSAGE {
                peer.send([0]);
            }
        });
        let mut peer = Near.does(|| Peer::connect(mesh.listen.tcp));
        // One at a time, so that each is a message of its own on every wire.
        let mut exchange = |count| {
            for _ in 0..count {
                peer.send([7; MESSAGE]);
                assert_eq!(peer.bytes(1).len(), 1);
            }
        };
        exchange(WARM);
        mesh.goes_over(wire);
        exchange(WARM);
        let carried = || [Near, Far].map(|host| mesh.bytes(host, wire));
        let spent = || [&mesh.web, &mesh.reviews].map(|sidecar| cpu(sidecar.program.pid()));
        let (bytes_before, before) = (carried(), spent());
        exchange(MESSAGES);
        let (after, bytes_after) = (spent(), carried());
        let least = (MESSAGES as usize * MESSAGE) as f64;
        assert!(bytes_after.iter().zip(bytes_before).all(|(after, before)| after - before > least), "{wire}");
        let each = |side: usize| Duration::as_nanos(&(after[side] - before[side])) / u128::from(MESSAGES);
        println!("cost {wire} {} {}", each(0), each(1));
    }
}

const MESSAGE: usize = 1024;

const WARM: u32 = 100;

const MESSAGES: u32 = 500;
