//! What goes wrong, as the device tells it. The carrier above relies on each of these.

use std::process::Command;

use lighter_verbs::{Access, Domain, Error, Event, Region, Remote, Status, devices};

use super::DEVICE;
use super::check::add_device;
use super::peer::{Manner, Peer};
use super::side::{MEMORY, REQUESTS, Side, block_on, hears, memory};
use crate::support::wait_until;

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("a_write_to_a_killed_peer_is_given_up_and_the_next_is_flushed", killed_peer),
        ("a_write_with_the_wrong_key_is_refused_on_both_sides", wrong_key),
        ("a_peer_does_not_reach_what_is_not_its_own", not_its_own),
        ("a_peer_that_never_receives_is_given_up", never_ready),
        ("a_pair_that_drains_says_when_it_has", drained),
        ("a_device_that_is_removed_leaves_the_list_and_works_until_it_is_let_go", removed),
        ("a_pair_in_error_flushes_what_it_has_and_what_it_is_given", flushed),
    ]
}

fn killed_peer() {
    block_on(async {
        let mut side = Side::new();
        let mut peer = Peer::start(&mut side, Manner::Receives);
        peer.kill();
        for id in 0..2 {
            side.write(id, 0..64, peer.card.memory, 0);
        }
        let ends: Vec<_> = side.completed(2).await.iter().map(|end| (end.id, end.status)).collect();
        assert_eq!(ends, [(0, Status::RetriesExceeded), (1, Status::Flushed)]);
    });
}

fn wrong_key() {
    block_on(async {
        let mut side = Side::new();
        let mut peer = Peer::start(&mut side, Manner::Receives);
        let to = Remote { key: peer.card.memory.key ^ 0x100, ..peer.card.memory };
        side.write(1, 0..64, to, 7);
        assert_eq!(side.completed(1).await[0].status, Status::RemoteAccess);
        // The request that would have told of the write, and all others after it.
        let told = peer.completed(REQUESTS as usize);
        assert!(told[0].starts_with("RemoteAccess "), "{told:?}");
        assert!(told[1..].iter().all(|told| told.starts_with("Flushed ")), "{told:?}");
    });
}

/// Not what is for our own writes, nor what belongs to another peer, even where it knows the key.
fn not_its_own() {
    block_on(async {
        for (domain_of_another, access) in [(false, Access::Local), (true, Access::RemoteWrite)] {
            let (mut near, mut far) = (Side::new(), Side::new());
            near.connect(&far.card());
            far.connect(&near.card());
            far.pair.receive(1, 1).unwrap();
            let another = Domain::new(&far.context).unwrap();
            let domain = if domain_of_another { &another } else { &far.domain };
            let region = Region::new(domain, MEMORY, access).unwrap();
            near.region.write(0, b"not for you");
            near.write(1, 0..11, memory(&region), 7);
            assert_eq!(near.completed(1).await[0].status, Status::RemoteAccess, "{access:?}");
            assert_ne!(far.completed(1).await[0].status, Status::Success, "{access:?}");
            let mut untouched = [1; 11];
            region.read(0, &mut untouched);
            assert_eq!(untouched, [0; 11], "{access:?}");
        }
    });
}

fn never_ready() {
    block_on(async {
        let mut side = Side::new();
        let peer = Peer::start(&mut side, Manner::NeverReady);
        side.write(1, 0..64, peer.card.memory, 7);
        assert_eq!(side.completed(1).await[0].status, Status::ReceiverNotReady);
    });
}

fn drained() {
    block_on(async {
        let mut side = Side::new();
        let mut peer = Peer::start(&mut side, Manner::Receives);
        side.write(1, 0..4096, peer.card.memory, 7);
        side.pair.drain().unwrap();
        hears(&side.context, Event::Drained(side.pair.number())).await;
        assert_eq!(side.completed(1).await[0].status, Status::Success);
        assert_eq!(peer.completed(1), ["Success Some(7) 4096"]);
    });
}

/// Nothing tells of it. Who does not look at the list keeps the device from going for ever.
fn removed() {
    block_on(async {
        let mut side = Side::new();
        let mut peer = Peer::start(&mut side, Manner::Receives);
        let mut removal = Command::new("rdma").args(["link", "del", DEVICE]).spawn().unwrap();
        wait_until("the device leaves the list", || devices().unwrap().is_empty());
        side.write(1, 0..64, peer.card.memory, 7);
        assert_eq!(side.completed(1).await[0].status, Status::Success);
        assert_eq!(peer.completed(1), ["Success Some(7) 64"]);
        assert_eq!(removal.try_wait().unwrap(), None, "it waits for those who have the device open");
        assert!(matches!(side.context.gids(), Err(Error::UnknownDevice(_))));
        drop((side, peer));
        wait_until("the device is gone", || {
            removal.try_wait().unwrap().is_some_and(|status| status.success())
        });
    });
    add_device();
}

fn flushed() {
    block_on(async {
        let mut side = Side::new();
        let peer = Peer::start(&mut side, Manner::Receives);
        for id in 0..u64::from(REQUESTS) {
            side.pair.receive(id, 1).unwrap();
        }
        side.pair.fail().unwrap();
        let ends = side.completed(REQUESTS as usize).await;
        assert!(ends.iter().all(|end| end.status == Status::Flushed), "{ends:?}");
        // It takes another one as if nothing were: only the completion tells.
        side.write(99, 0..64, peer.card.memory, 0);
        let end = side.completed(1).await[0];
        assert_eq!((end.id, end.status), (99, Status::Flushed));
    });
}
