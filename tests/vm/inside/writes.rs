//! Writes that arrive.

use std::path::PathBuf;

use lighter_verbs::Status;

use super::DEVICE;
use super::peer::{Manner, Peer, hash};
use super::side::{MEMORY, Side, block_on};

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![("writes_arrive_in_another_process_and_the_device_counts_them", writes_arrive)]
}

/// All of a region in parts, each told by a number.
fn writes_arrive() {
    block_on(async {
        let mut side = Side::new();
        let mut peer = Peer::start(&mut side, Manner::Receives);
        let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(MEMORY).collect();
        side.region.write(0, &bytes);
        let before = [counter("sent_pkts"), counter("rcvd_pkts")];
        for part in 0..PARTS {
            let place = part * PART..(part + 1) * PART;
            let to = lighter_verbs::Remote {
                address: peer.card.memory.address + (part * PART) as u64,
                ..peer.card.memory
            };
            side.pair.write(part as u64, &side.region, place, to, 0x0102_0300 + part as u32).unwrap();
        }
        let told = peer.completed(PARTS);
        for (part, told) in told.iter().enumerate() {
            assert_eq!(*told, format!("Success Some({}) {PART}", 0x0102_0300 + part));
        }
        for (part, completion) in side.completed(PARTS).await.iter().enumerate() {
            assert_eq!((completion.id, completion.status), (part as u64, Status::Success));
            assert_eq!((completion.received, completion.immediate), (false, None));
            assert_eq!(completion.pair, side.pair.number());
        }
        assert_eq!(peer.hash(), hash(&bytes));
        // No packet has more than 4 KiB of them.
        let packets = (MEMORY / 4096) as u64;
        for (before, name) in before.into_iter().zip(["sent_pkts", "rcvd_pkts"]) {
            let risen = counter(name) - before;
            assert!(risen >= packets, "{name} rose by {risen}, less than {packets}");
        }
    });
}

/// What the device counted.
fn counter(name: &str) -> u64 {
    let path: PathBuf = ["/sys/class/infiniband", DEVICE, "ports/1/hw_counters", name].iter().collect();
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

const PARTS: usize = 16;

const PART: usize = MEMORY / PARTS;
