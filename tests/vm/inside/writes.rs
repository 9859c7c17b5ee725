//! Writes that arrive.

use std::path::PathBuf;

use lighter_verbs::Status;

use super::DEVICE;
use super::peer::{Manner, Peer, hash};
use super::side::{MEMORY, Side, block_on};

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("writes_arrive_in_another_process_and_the_device_counts_them", writes_arrive),
        ("a_batch_of_writes_arrives_in_order_and_completes_once", batch),
    ]
}

/// All of a region in parts, each told by a number.
fn writes_arrive() {
    block_on(async {
        let (mut side, mut peer, bytes) = filled();
        let before = [counter("sent_pkts"), counter("rcvd_pkts")];
        for part in 0..PARTS {
            let place = part * PART..(part + 1) * PART;
            let to = peer.card.memory.at(place.start);
            side.write(part as u64, place, to, 0x0102_0300 + part as u32);
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

/// Small ones, which go along with their requests, large ones, and ones of nothing, which carry their number only.
fn batch() {
    block_on(async {
        let (mut side, mut peer, bytes) = filled();
        let parts =
            [0..100, 100..100, 100..9000, 9000..9001, 9001..9001, 9001..9256, 9256..9512, 9512..MEMORY];
        // More than one call posts.
        let parts: Vec<_> = parts.clone().into_iter().chain(parts).collect();
        let last = parts.len() - 1;
        let writes: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(at, part)| {
                let to = peer.card.memory.at(part.start);
                let (id, part, immediate) = (at as u64, part.clone(), at as u32);
                lighter_verbs::Write { id, part, region: &side.region, to, immediate, signalled: at == last }
            })
            .collect();
        side.pair.write(&writes).unwrap();
        let told = peer.completed(parts.len());
        for (at, (part, told)) in parts.iter().zip(told).enumerate() {
            assert_eq!(told, format!("Success Some({at}) {}", part.len()));
        }
        let end = side.completed(1).await[0];
        assert_eq!((end.id, end.status), (last as u64, Status::Success));
        assert_eq!(peer.hash(), hash(&bytes));
    });
}

/// A side whose memory has something in it, and a peer that is there for it.
fn filled() -> (Side, Peer, Vec<u8>) {
    let mut side = Side::new();
    let peer = Peer::start(&mut side, Manner::Receives);
    let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(MEMORY).collect();
    side.region.write(0, &bytes);
    (side, peer, bytes)
}

/// What the device counted.
fn counter(name: &str) -> u64 {
    let path: PathBuf = ["/sys/class/infiniband", DEVICE, "ports/1/hw_counters", name].iter().collect();
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

const PARTS: usize = 16;

const PART: usize = MEMORY / PARTS;
